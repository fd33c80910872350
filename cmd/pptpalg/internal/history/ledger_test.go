package history

import (
	"net/netip"
	"testing"
	"time"

	"pptpalg/alg/calls"
)

// TestFlowed: that counting begins is not GRE that flows. A daemon that starts finds the
// calls of an earlier one, perhaps without their flows at first, and with counts.
func TestFlowed(t *testing.T) {
	r := calls.Record{Number: 1, State: calls.Established, Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: 7}, {Known: true, Own: 9, Public: 9}}}
	r.Connection.Original = calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.10:4000"), Dst: netip.MustParseAddrPort("203.0.113.9:1723")}
	r.Connection.Reply = calls.Tuple{Src: r.Connection.Original.Dst, Dst: netip.MustParseAddrPort("198.51.100.1:4000")}
	flow, ok := r.FlowTo(calls.Initiator)
	if !ok {
		t.Fatal("no flow")
	}
	began := time.Unix(1000, 0)
	counted := func(packets uint64) map[calls.Flow]calls.Traffic {
		return map[calls.Flow]calls.Traffic{flow.Unmarked(): {Counted: true, Packets: packets, Bytes: 100 * packets}}
	}
	some := func(packets uint64) map[calls.Flow]calls.Traffic {
		return map[calls.Flow]calls.Traffic{flow.Unmarked(): {Counted: true, AtLeast: true, Packets: packets, Bytes: 100 * packets}}
	}
	for name, afresh := range map[string]bool{"the entries have counted on": false, "the daemon counts": true} {
		l := NewLedger(NewStore(1, 1))
		l.Know([]calls.Record{r}, afresh)
		for i, step := range []struct {
			have          map[calls.Flow]calls.Traffic
			moved, flowed int // the step at which, -1 for never
		}{
			{nil, -1, -1},
			{counted(5), 1, -1},
			{counted(5), 1, -1},
			{counted(6), 3, 3},
			{counted(6), 3, 3},
			{nil, -1, 3}, // somebody has deleted the entry
			{counted(0), 6, 3},
			{some(4), -1, 7}, // others may flow uncounted: it is not known when none did
			{some(4), -1, 7},
		} {
			now := began.Add(time.Duration(i) * time.Second)
			var tally Tally
			l.Add(&tally, []calls.Record{r}, step.have, now)
			l.Close(&tally)
			for what, got := range map[string]struct {
				at   time.Time
				want int
			}{"moved": {l.Moved(r), step.moved}, "flowed": {l.Flowed(r), step.flowed}} {
				want := began.Add(time.Duration(got.want) * time.Second)
				if got.want < 0 {
					want = time.Time{}
				}
				if !got.at.Equal(want) {
					t.Errorf("%s: step %d: %s at %v, want %v", name, i, what, got.at, want)
				}
			}
		}
	}
}
