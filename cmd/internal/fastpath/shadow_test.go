package fastpath

import (
	"testing"
	"time"

	"pptpalg/alg/calls"
)

// TestShadow has two flows that leave alike, as of two clients to which a server gave one
// Call ID. Only the later one is forwarded here, and it is not learnt from the earlier one's
// packets.
func TestShadow(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		r.learn(t, outward, 0, 100, 0)
		later := flow(outward, 1)
		later.Key, later.NewKey = flow(outward, 0).Key, flow(outward, 0).NewKey
		if err := r.entries.Create(later); err != nil {
			t.Fatal(err)
		}
		if err := r.table.Install(later); err != nil {
			t.Fatal(err)
		}
		carried := func() uint64 { got, _ := r.table.Traffic(later); return got.Packets }
		ofLater := r.packet(outward, 1)
		ofLater.key = later.Key
		both := func() (first, second bool) {
			before := carried()
			frames, first := r.pass(t, outward, 0, r.packet(outward, 0))
			more, _ := r.pass(t, outward, 0, ofLater)
			if len(frames) != 1 || len(more) != 1 {
				t.Fatalf("%d and %d arrived", len(frames), len(more))
			}
			return first, carried() != before
		}
		// While both send, both are the kernel's.
		for from := millis(); millis()-from < 300; {
			if first, second := both(); first || second {
				t.Fatalf("forwarded here: the earlier %v, the later %v", first, second)
			}
		}
		// The earlier one is silent: the later one is learnt.
		for end := time.Now().Add(patient); carried() == 0; {
			if time.Now().After(end) {
				t.Fatalf("not learnt: %+v", r.table.Stats())
			}
			if frames, _ := r.pass(t, outward, 0, ofLater); len(frames) != 1 {
				t.Fatalf("%d arrived", len(frames))
			}
		}
		if first, second := both(); first || !second {
			t.Errorf("forwarded here: the earlier %v, the later %v", first, second)
		}
		if s := r.table.Stats(); s.Passed["alike"] == 0 {
			t.Errorf("not counted: %+v", s)
		}
		// The later one is removed: the earlier one is learnt again.
		if got := r.table.Remove(later); got.Packets == 0 {
			t.Errorf("removed: %+v", got)
		}
		if err := r.entries.Delete(later); err != nil {
			t.Fatal(err)
		}
		r.learn(t, outward, 0, 100, 0)
		r.table.Retain(func(f calls.Flow) bool { return f != later })
	})
}
