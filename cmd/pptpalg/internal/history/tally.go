package history

import (
	"time"

	"pptpalg/alg/calls"
)

// Tally is the result of reading the flows of all calls once.
type Tally struct {
	Missing []calls.Flow // that calls need and the data path lacks
	Grown   Volume       // what calls have carried since the last tally
	Counted int          // calls whose packets are counted
	Other   int          // calls whose packets are not, or not all

	glances []glance
}

// glance is what the data path has of a call's two flows, by calls.Side.
type glance struct {
	traffic        [2]calls.Traffic
	there, lacking [2]bool
}

// Add looks up the flows of some calls in what the data path has, each once.
func (l *Ledger) Add(t *Tally, some []calls.Record, have map[calls.Flow]calls.Traffic, now time.Time) {
	t.glances = t.glances[:0]
	for i := range some {
		t.glances = append(t.glances, t.look(&some[i], have))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.since(now)
	for i := range some {
		if a := l.calls[some[i].Number]; a != nil && !a.over { // its end may have been told meanwhile, with later counts
			t.enter(a, &t.glances[i], at)
		}
	}
}

// Close ends a tally.
func (l *Ledger) Close(t *Tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Grown.add(l.late)
	l.late = Volume{}
	t.glances = nil
}

// look finds a call's flows. A call that is being cleared needs none.
func (t *Tally) look(r *calls.Record, have map[calls.Flow]calls.Traffic) (g glance) {
	if r.State == calls.Clearing {
		return g
	}
	for side := range g.there {
		f, needed := r.FlowTo(calls.Side(side))
		if !needed {
			continue
		}
		g.traffic[side], g.there[side] = have[f.Unmarked()]
		if !g.there[side] {
			g.lacking[side] = true
			t.Missing = append(t.Missing, f)
		}
	}
	return g
}

// enter records what was found of a call. For a call of an earlier daemon the first count
// is only the start, because that daemon has counted before.
func (t *Tally) enter(a *account, g *glance, at time.Duration) {
	var grown Volume
	counted, some := false, false
	for side := range a.ways {
		way := &a.ways[side]
		if g.lacking[side] {
			way.lose()
			way.broken = way.broken || !a.begun
		}
		grown.add(way.read(g.traffic[side]))
		some = some || g.traffic[side].Counted
		counted = counted || g.traffic[side].Counted && !g.traffic[side].AtLeast
	}
	if a.begun && grown != (Volume{}) {
		a.flowed = at
		t.Grown.add(grown)
	}
	a.begun = a.begun || some
	if !counted {
		a.moved = 0
		t.Other++
		return
	}
	t.Counted++
	if a.moved == 0 || grown != (Volume{}) {
		a.moved = at
	}
}
