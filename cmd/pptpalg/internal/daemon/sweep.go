package daemon

import (
	"context"
	"time"

	"pptpalg/conntrack"
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
	have    flows
	records []conntrack.Record
	glances []glance
}

// sweep keeps the table in step with the kernel's until ctx is done.
func (d *Daemon) sweep(ctx context.Context) error {
	pause := time.NewTimer(sweepInterval)
	defer pause.Stop()
	var due time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
			if !time.Now().Before(due) || !d.intact() {
				due = d.sweepOnce()
			}
			pause.Reset(min(sweepInterval, time.Until(due)))
		}
	}
}

// sweepOnce compares, and returns when the next comparison is due.
func (d *Daemon) sweepOnce() (due time.Time) {
	began := time.Now()
	d.sweeper.repaired = false
	d.compare()
	for _, q := range d.queues {
		d.countDropped(q)
	}
	now := time.Now()
	return now.Add(d.sweeper.rest(now.Sub(began)))
}

// release gives up memory that is large. It would lie about for longer than comparing takes,
// and is a third of what a call costs.
func (s *sweeper) release() {
	if len(s.have) > askMost {
		s.have, s.records = make(flows), nil
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
	flow       conntrack.Flow
	connection conntrack.Connection
}

// sample chooses what is looked at until the next comparison: calls from all over the table.
// A flow to Call ID 0 may need no entry of its own, and a connection that waits has none.
func (s *sweeper) sample(calls []conntrack.Record, waits func(conntrack.Connection) bool) {
	s.watched = s.watched[:0]
	for i := range samples {
		if i >= len(calls) {
			return
		}
		call := &calls[i*len(calls)/min(samples, len(calls))]
		for _, f := range call.Flows() {
			if f.Key != 0 && !waits(call.Connection) {
				s.watched = append(s.watched, watched{f, call.Connection})
				break
			}
		}
	}
}

// intact reports whether the entries of the sample are there that are still needed.
func (d *Daemon) intact() bool {
	if d.gre != nil && !d.present(canary) {
		return false
	}
	for _, w := range d.sweeper.watched {
		if d.needs(w.flow) && !d.stands(w) && d.needs(w.flow) {
			return false
		}
	}
	return true
}

// stands reports whether the kernel has the entries of a call, as far as it tells.
func (d *Daemon) stands(w watched) bool {
	there, err := d.lister.StandingConnections([]conntrack.Connection{w.connection})
	return (len(there) > 0 || err != nil) && (d.gre != nil || d.present(w.flow))
}

// present reports whether the kernel has an entry, as far as it tells.
func (d *Daemon) present(f conntrack.Flow) bool {
	there, err := d.kernel.Has(f)
	return there || err != nil
}

func (d *Daemon) needs(f conntrack.Flow) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table.Has(f)
}
