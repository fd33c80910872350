package gateway

import (
	"context"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// sweepInterval is how often the call table is compared with the kernel's, or, where
// that takes long, some entries are looked at as a sample: within this time, and that
// of a comparison, it is mended that somebody emptied the kernel's table.
const sweepInterval = 2 * time.Second

// The bounds of the time that comparing takes: it rests for so many times as long as it
// worked. Who had to mend something comes back sooner.
const (
	quietShare  = 100
	repairShare = 50
)

// samples is how many entries are looked at between comparisons.
const samples = 8

// sweeper is what comparisons keep from one to the next.
type sweeper struct {
	repaired bool      // the last one found something to mend
	watched  []watched // the sample

	// Memory that is used again, as far as release leaves it.
	have    datapath.Flows
	records []calls.Record
}

// sweep keeps the table in step with the kernel's until ctx is done.
func (g *Gateway) sweep(ctx context.Context) error {
	pause := time.NewTimer(sweepInterval)
	defer pause.Stop()
	var due time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
			if !time.Now().Before(due) || !g.intact() {
				due = g.sweepOnce()
			}
			pause.Reset(min(sweepInterval, time.Until(due)))
		}
	}
}

// sweepOnce compares, and returns when the next comparison is due.
func (g *Gateway) sweepOnce() (due time.Time) {
	began := time.Now()
	g.sweeper.repaired = false
	g.compare()
	for _, q := range g.queues {
		g.countDropped(q)
	}
	now := time.Now()
	return now.Add(g.sweeper.rest(now.Sub(began)))
}

// release gives up memory that is large. It would lie about for longer than comparing takes,
// and is a third of what a call costs.
func (s *sweeper) release() {
	if len(s.have) > askMost {
		s.have, s.records = make(datapath.Flows), nil
	}
}

// rest is how long to wait after a comparison that took so long.
func (s *sweeper) rest(worked time.Duration) time.Duration {
	if s.repaired {
		return max(sweepInterval, repairShare*worked)
	}
	return max(sweepInterval, quietShare*worked)
}

// watched is a call that is looked at between comparisons.
type watched struct {
	flow       calls.Flow
	connection calls.Connection
}

// sample chooses what is looked at until the next comparison: calls from all over the table.
// A flow to Call ID 0 may need no entry of its own, and a connection that waits has none.
func (s *sweeper) sample(all []calls.Record, waits func(calls.Connection) bool) {
	s.watched = s.watched[:0]
	for i := range samples {
		if i >= len(all) {
			return
		}
		call := &all[i*len(all)/min(samples, len(all))]
		for _, f := range call.Flows() {
			if f.Key != 0 && !waits(call.Connection) {
				s.watched = append(s.watched, watched{f, call.Connection})
				break
			}
		}
	}
}

// intact reports whether the entries of the sample are there that are still needed.
func (g *Gateway) intact() bool {
	if !g.outlives() && !g.present(canary) {
		return false
	}
	for _, w := range g.sweeper.watched {
		if g.needs(w.flow) && !g.stands(w) && g.needs(w.flow) {
			return false
		}
	}
	return true
}

// stands reports whether the kernel has the entries of a call, as far as it tells.
func (g *Gateway) stands(w watched) bool {
	there, err := g.lister.StandingConnections([]calls.Connection{w.connection})
	return (len(there) > 0 || err != nil) && (!g.outlives() || g.present(w.flow))
}

// present reports whether the kernel has an entry, as far as it tells.
func (g *Gateway) present(f calls.Flow) bool {
	there, err := g.kernel.Has(f)
	return there || err != nil
}

func (g *Gateway) needs(f calls.Flow) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.Has(f)
}
