package fastpath

import (
	"os"
	"testing"
	"time"

	"pptpalg/alg/calls"
)

// TestOtherSizeWithoutDaemon: while no daemon follows, Load itself moves the flows to maps of
// another size, with what they have carried.
func TestOtherSizeWithoutDaemon(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		r.learn(t, outward, 0, 100, 0)
		r.learn(t, inward, 1, 100, 0)
		before := []uint64{r.here(t, outward, 0), r.here(t, inward, 1)}
		r.table.Close()
		o := m.options(r)
		o.Flows *= 4
		if done := r.load(t, m, o); done.Adopted {
			t.Fatalf("loaded: %+v", done)
		}
		r.table = r.open(t)
		if s := r.table.Stats(); s.Flows != 4 || s.Places != placesFor(o.Flows) {
			t.Errorf("moved: %+v", s)
		}
		if before[0] == 0 || r.here(t, outward, 0) != before[0] || r.here(t, inward, 1) != before[1] {
			t.Errorf("carried %d and %d, were %v", r.here(t, outward, 0), r.here(t, inward, 1), before)
		}
		r.learn(t, outward, 0, 100, 0) // and counts on
		if n := r.here(t, outward, 0); n <= before[0] {
			t.Errorf("carried %d, was %d", n, before[0])
		}
	})
}

// TestFollowMoved: a daemon that follows to maps into which Load has moved the flows loses
// nothing that was counted there meanwhile, and counts nothing twice.
func TestFollowMoved(t *testing.T) {
	m := modes[0]
	r := newFastRig(t, m, time.Hour)
	r.learn(t, outward, 0, 100, 0)
	carried, o := r.here(t, outward, 0), m.options(r)
	o.Flows *= 4
	r.load(t, m, o)
	r.learn(t, outward, 0, 100, 0) // by the new maps, which the table does not know yet
	more := r.here(t, outward, 0) - carried
	if more == 0 || more > 100 {
		t.Errorf("carried %d, was %d", more+carried, carried)
	}
	if s := r.table.Stats(); s.Flows != 4 || s.Places != placesFor(o.Flows) {
		t.Errorf("moved: %+v", s)
	}
}

// TestMove: flows that are in the new places already go on counting there, and those that have
// left the old ones meanwhile go.
func TestMove(t *testing.T) {
	plain := func() *places { return newPlaces(make([]fastpathFlow, 256), [2]uint64{1, 2}, plainMap{}, millis) }
	was, now := plain(), plain()
	for i, f := range allFlows()[:3] {
		x := translated(f)
		for _, p := range []*places{was, now} {
			if p == was && i == 0 || p == now && i == 2 {
				continue
			}
			if err := p.put(x, carried{packets: uint64(10 * i), bytes: 1000}); err != nil {
				t.Fatal(err)
			}
		}
	}
	moved := translated(allFlows()[1])
	now.count(now.found(moved), carried{packets: 12, bytes: 1200})
	if left := now.move(was); len(left) != 0 {
		t.Errorf("no place for %v", left)
	}
	for i, want := range []uint64{0, 12, 20} {
		at := now.found(translated(allFlows()[i]))
		if there := at != none; there != (want != 0) {
			t.Errorf("flow %d is there: %v", i, there)
		} else if there && now.carried(at).packets != want {
			t.Errorf("flow %d has carried %+v, want %d packets", i, now.carried(at), want)
		}
	}
}

// TestCountsAfterUnload: who has the table open reads what flows have carried until the last
// program was detached.
func TestCountsAfterUnload(t *testing.T) {
	m := modes[0]
	r := newFastRig(t, m, time.Hour)
	r.learn(t, outward, 0, 100, 0)
	carried := r.here(t, outward, 0)
	if unloaded := r.table.Unloaded(); unloaded {
		t.Error("it is said to be unloaded")
	}
	do(t, r.gateway, func() error { return Unload(r.dir) })
	if unloaded := r.table.Unloaded(); !unloaded {
		t.Error("it is not said to be unloaded")
	}
	if n := r.here(t, outward, 0); n != carried || n == 0 {
		t.Errorf("carried %d, was %d", n, carried)
	}
	if _, err := os.Stat(r.table.dir); err == nil {
		t.Error("its folder is there")
	}
}

func translated(f calls.Flow) translation {
	x, _ := translationOf(f)
	return x
}
