package gateway

import (
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
)

// Two networks may use the same addresses, ports and Call IDs in two conntrack zones. Only the
// kernel knows in which zone a packet is. It says so if it is asked, which makes each packet
// dearer; so it is asked when the first connection in a zone is seen.
type zones struct {
	asked time.Time // zero if not
	told  bool      // packets have come with their zones
	now   uint16    // of the packet at hand, once told
}

// zonePatience is how long packets may come without a zone after the kernel was asked, because
// they were queued before.
const zonePatience = 2 * time.Second

// askForZones asks if a connection is in a zone. The caller holds mu, or is alone.
func (g *Gateway) askForZones(c *calls.Connection, now time.Time) {
	if c.Zone == 0 || !g.zones.asked.IsZero() {
		return
	}
	g.zones.asked = now
	for _, q := range g.queues {
		if q.name != controlQueue {
			continue
		}
		if err := q.TellZones(); err != nil {
			g.queueFailed(err)
		}
	}
}

// inZone tells the editor in which zone a packet is. A packet that came before the kernel was
// asked is in the zone of its connection. The caller holds mu.
func (g *Gateway) inZone(seg packet.Segment, p *nfqueue.Packet) {
	z := &g.zones
	switch {
	case z.asked.IsZero():
		return
	case p.Zoned:
		z.told = true
		g.editor.TellZones()
		z.now = p.Zone
	case z.told:
		z.now = g.zoneOf(seg)
	case g.turn.began.Sub(z.asked) > zonePatience:
		g.limits.sometimes("zones", func() {
			g.log.Warn("connections are in conntrack zones, and the kernel does not report the zones of packets (CONFIG_NETFILTER_NETLINK_GLUE_CT): clients with the same address and port in two zones are taken for one")
		})
	}
	g.editor.InZone(z.now)
}

// zoneOf asks conntrack for the zone of a packet's connection.
func (g *Gateway) zoneOf(seg packet.Segment) uint16 {
	from := calls.Tuple{Src: seg.Src(), Dst: seg.Dst()}
	c, err := g.kernel.Connection(from)
	switch {
	case err != nil:
		return 0
	case from == c.Original:
		return c.ZoneOf(calls.Initiator)
	}
	return c.ZoneOf(calls.Responder)
}

// connection asks conntrack for the connection of the packet at hand.
func (g *Gateway) connection(seg packet.Segment) (calls.Connection, error) {
	t := calls.Tuple{Src: seg.Src(), Dst: seg.Dst()}
	if g.zones.told {
		return g.kernel.ConnectionIn(t, g.zones.now)
	}
	return g.kernel.Connection(t)
}
