package replay

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/packet"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// DefaultPorts are the TCP ports of control connections.
var DefaultPorts = []uint16{1723}

// Config says how a capture is replayed.
type Config struct {
	NAT   []NAT    // what is translated; nothing without it
	Ports []uint16 // TCP ports of PPTP servers, nil for DefaultPorts
}

// run is a capture being replayed.
type run struct {
	ports  []uint16
	nat    *translator
	report *Report
	ledger *ledger
	writer *writer // nil if nothing is written

	// Two gateways, so that a capture of both sides of a NAT has no connection in
	// the way of its other half: one translates, the other just reads.
	editing, reading *gateway
	links            *connections

	kinds      map[kind]int // of what is not read
	unreadable linkType     // of the first packet that cannot be read for that

	whole, resent, original []byte // memory for a packet each: see view, resend and segment

	first time.Time // of the first packet
	now   time.Time // of the current one
	at    Moment    // the same, for the report
}

// Run replays a capture, pcap or pcapng, packed by gzip or not. If out is not nil,
// the packets of control connections and calls are written to it as pcap, as they
// are outside the NAT.
//
// The report is never nil. Along with an error, which names the packet, it tells
// what came before.
func Run(in io.Reader, out io.Writer, cfg Config) (*Report, error) {
	r := newRun(out, cfg)
	err := r.all(in)
	r.finish()
	if err == nil && r.writer != nil {
		err = r.writer.finish()
	}
	return r.report, err
}

func newRun(out io.Writer, cfg Config) *run {
	ports := cfg.Ports
	if ports == nil {
		ports = DefaultPorts
	}
	r := &run{
		ports: ports, nat: newTranslator(cfg.NAT), links: newConnections(), kinds: make(map[kind]int),
		report: &Report{Calls: []*Call{}, Strays: []Stray{}},
		ledger: newLedger(), editing: newGateway(), reading: newGateway(),
	}
	r.reading.editor.ReadAll()
	if out != nil {
		r.writer = &writer{w: out}
	}
	return r
}

func (r *run) all(in io.Reader) error {
	f, err := open(in)
	if err != nil {
		return err
	}
	for {
		p, err := f.next()
		if err == io.EOF {
			return r.readable()
		}
		if err != nil {
			return err
		}
		if err := r.packet(p); err != nil {
			return f.wrap(err)
		}
	}
}

// readable is an error for a capture of which no packet could be read because of its link
// type.
func (r *run) readable() error {
	n := 0
	for k, packets := range r.kinds {
		if k.space == links {
			n += packets
		}
	}
	if n == 0 || n < r.report.Totals.Packets {
		return nil
	}
	return fmt.Errorf("packet 1: link type %v cannot be read", r.unreadable)
}

// finish writes the report's lists.
func (r *run) finish() {
	r.ledger.finish(r.report)
	for k, n := range r.kinds {
		if r.report.Totals.Kinds == nil {
			r.report.Totals.Kinds = make(map[string]int)
		}
		r.report.Totals.Kinds[k.String()] += n
	}
}

// other counts a packet that is not read, by what it is.
func (r *run) other(k kind) {
	r.report.Totals.Other++
	if len(r.kinds) < mostKinds || r.kinds[k] > 0 {
		r.kinds[k]++
		return
	}
	r.kinds[isMore]++
}

// unread counts a packet whose headers are not whole.
func (r *run) unread(cut bool) {
	if cut {
		r.other(isCut)
		return
	}
	r.report.Totals.Malformed++
}

func (r *run) packet(p frame) error {
	r.tick(p.Timestamp)
	return r.datagram(p)
}

// put writes a packet as it leaves the gateway.
func (r *run) put(p frame) error {
	if r.writer == nil {
		return nil
	}
	r.report.Totals.Written++
	return r.writer.write(p)
}

// tick takes the time from the capture.
func (r *run) tick(now time.Time) {
	r.report.Totals.Packets++
	if r.report.Totals.Packets == 1 {
		r.first = now
	}
	r.now = now
	r.at = Moment{Time: schema.Moment(now.Sub(r.first).Seconds()), Packet: r.report.Totals.Packets}
	for _, old := range r.links.expire(now) {
		r.forget(old)
	}
	r.editing.tick(now)
	r.reading.tick(now)
}

// datagram reads a frame, edits it, and writes it.
func (r *run) datagram(p frame) error {
	t := &r.report.Totals
	at, k := find(p.data, p.link)
	switch {
	case k == isFragment:
		t.Fragments++
		return nil
	case k == isShort && p.Length > len(p.data):
		k = isCut
	case k.space == links && len(r.kinds) == 0:
		r.unreadable = p.link
	}
	if k != isIPv4 {
		r.other(k)
		return nil
	}
	c, cut, ok := view(p, at, &r.whole)
	c.at = r.at
	ip := c.ip()
	switch {
	case !ok:
		r.unread(cut)
	case ip.Protocol() != packet.ProtocolTCP && ip.Protocol() != packet.ProtocolGRE:
		r.other(kind{ip4s, uint32(ip.Protocol())})
	case ip.Fragment():
		t.Fragments++
	case ip.Protocol() == packet.ProtocolGRE:
		return r.gre(c)
	default:
		return r.tcp(c)
	}
	return nil
}

func (r *run) gre(c captured) error {
	t, ip := &r.report.Totals, c.ip()
	id, err := packet.QuotedCallID(c.payload())
	switch {
	case err == packet.ErrShortGRE:
		r.unread(c.missing > 0)
		return nil
	case err != nil:
		r.other(isGRE)
		return nil
	}
	t.GRE++
	if c.missing > 0 {
		t.Cut++
	}
	k := pipe{ip.Src().As4(), ip.Dst().As4(), id}
	if l, ok := r.ledger.legs[k]; ok {
		l.traffic.add(ip.Len())
		c.readdress(netip.AddrFrom4(l.public.src), netip.AddrFrom4(l.public.dst))
		binary.BigEndian.PutUint16(c.payload()[packet.AtCallID:], uint16(l.public.id))
		return r.put(c.frame)
	}
	r.ledger.stray(k, ip.Len(), r.at)
	c.readdress(r.nat.public(ip.Src(), ip.Dst()))
	return r.put(c.frame)
}

// control reports whether a port is that of a server.
func (r *run) control(port uint16) bool { return slices.Contains(r.ports, port) }
