package gateway

import (
	"net/netip"
	"sync/atomic"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/conntrack"
)

// mostStrays is how many strays of the kernel's table an audit takes in. Anybody can
// make them.
const mostStrays = 4096

// publicMemory is for how long an address counts as one of ours after the last control
// connection behind it.
const publicMemory = time.Hour

// strayWatch counts GRE that is no call's, where the kernel translates: there it makes
// entries of its own. Owned by sweep, but for packets.
type strayWatch struct {
	public  map[netip.Addr]time.Time   // behind which NAT hides an end, and when that was last so
	seen    map[conntrack.Stray]uint64 // packets of those that there were at the last audit; the key has no counts
	packets atomic.Uint64              // of all that were ever seen
}

// firstStrays returns what wants the first ones.
func firstStrays() (wanted func(*conntrack.Stray) bool) {
	n := 0
	return func(*conntrack.Stray) bool {
		n++
		return n <= mostStrays
	}
}

// way is one in which GRE travels.
type way struct{ src, dst netip.Addr }

// enters returns how GRE towards an end of a connection comes to the gateway.
func enters(c *calls.Connection, to calls.Side) way {
	return way{c.Endpoint(to.Other()).Address, c.Endpoint(to).Public}
}

// concern returns the strays that are our business: those that come the way of a
// control connection that is followed, and those towards a public address. Where a
// connection is ignored, its GRE is as well. What has key 0 may be no PPTP, and
// counts only between the ends of a connection.
func (g *Gateway) concern(all []conntrack.Stray, live []calls.Connection, public map[netip.Addr]time.Time) (ours []conntrack.Stray) {
	if len(all) == 0 {
		return nil
	}
	const followed, letAlone = 1, 2
	ways := make(map[way]int, len(all))
	for i := range all {
		ways[way{all[i].Src, all[i].Dst}] = 0
	}
	for i := range live {
		kind := followed
		if g.ignores(&live[i]) {
			kind = letAlone
		}
		for _, to := range []calls.Side{calls.Initiator, calls.Responder} {
			w := enters(&live[i], to)
			if before, known := ways[w]; known {
				ways[w] = max(before, kind)
			}
		}
	}
	for _, s := range all {
		_, hides := public[s.Dst]
		kind := ways[way{s.Src, s.Dst}]
		if kind == followed || kind != letAlone && hides && s.Key != 0 {
			ours = append(ours, s)
		}
	}
	return ours
}

// take counts what has come of our strays since the last audit. Where the kernel does
// not count, each is one packet.
func (w *strayWatch) take(ours []conntrack.Stray) (flows int) {
	before := w.seen
	w.seen = make(map[conntrack.Stray]uint64, len(ours))
	for _, s := range ours {
		packets := uint64(1)
		if s.Traffic.Counted {
			packets = s.Traffic.Packets
		}
		s.Traffic = calls.Traffic{}
		w.seen[s] = packets
		if before != nil { // the first audit only begins
			w.packets.Add(max(packets, before[s]) - before[s])
		}
	}
	return len(ours)
}

// know takes note of the public addresses.
func (w *strayWatch) know(live []calls.Connection, now time.Time) {
	if w.public == nil {
		w.public = make(map[netip.Addr]time.Time)
	}
	var last netip.Addr
	for i := range live {
		for _, s := range []calls.Side{calls.Initiator, calls.Responder} {
			if e := live[i].Endpoint(s); e.Translated() && e.Public != last {
				last = e.Public
				w.public[last] = now
			}
		}
	}
	for a, at := range w.public {
		if now.Sub(at) > publicMemory {
			delete(w.public, a)
		}
	}
}
