package alg

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// TestListing: whatever is opened and forgotten between the slices, each call that was there
// from the beginning to the end is listed, and none that was over before.
func TestListing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		var wires []*wire
		stays := map[calls.Tuple]bool{}
		open := func() *wire {
			w := r.masqueraded(insideHost(r.wires)).handshake()
			w.outgoing(7, pptp.CallID(r.wires))
			return w
		}
		forget := func(w *wire) {
			if s, known := r.ed.senders[keyOf(w.conn.Original.Src, w.conn.Original.Dst)]; known {
				r.ed.end(s.dialogue, calls.Reset, r.now)
				r.ed.remove(s.dialogue)
				delete(stays, w.conn.Original)
			}
		}
		for range rapid.IntRange(1, 12).Draw(rt, "calls") {
			w := open()
			wires = append(wires, w)
			stays[w.conn.Original] = true
		}
		over := open()
		forget(over)
		var views []calls.View
		list := r.ed.List()
		for more := true; more; {
			switch rapid.IntRange(0, 2).Draw(rt, "meanwhile") {
			case 0:
				open()
			case 1:
				forget(rapid.SampledFrom(wires).Draw(rt, "which"))
			}
			views, more = list.Next(rapid.IntRange(1, 3).Draw(rt, "most"), views)
		}
		for _, v := range views {
			delete(stays, v.Control)
			if v.Control == over.conn.Original {
				rt.Fatal("a call is listed that was over")
			}
		}
		if len(stays) > 0 {
			rt.Fatalf("not listed: %v", stays)
		}
	})
}

// BenchmarkListing lists 50,000 calls at once, and in slices: a packet waits for one of them.
func BenchmarkListing(b *testing.B) {
	const number = 50_000
	r := many(b, number)
	for _, most := range []int{number, 1_000} {
		b.Run(fmt.Sprintf("slice=%d", most), func(b *testing.B) {
			slices := 0
			for b.Loop() {
				views := make([]calls.View, 0, number)
				for list, more := r.ed.List(), true; more; slices++ {
					views, more = list.Next(most, views)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(slices), "ns/slice")
		})
	}
}
