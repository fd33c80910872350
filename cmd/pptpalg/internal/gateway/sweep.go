package gateway

import (
	"context"
	"errors"
	"os"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/conntrack"
)

// The reconciler listens: when an entry of a call or of its connection leaves the kernel's
// table, an event says so, and that connection is looked at. What no event tells is found by
// an audit, which compares all that is on record.
const (
	// auditInterval is the longest pause between audits while events come, unless they
	// take long. A stray, of which no event tells, lasts for 30 seconds; so what is not on
	// record is looked for by an audit that comes listInterval after the last such.
	auditInterval = 28 * time.Second
	listInterval  = 20 * time.Second
	// tick is how often the reconciler does what time alone brings about. Audits come so
	// often where there are no events, and while something is left to be mended.
	tick = 2 * time.Second
	// gather is how long events are left to come after the first one: each that is waited for
	// wakes the daemon.
	gather = 10 * time.Millisecond
	// hearMost is about how many events are collected: others wait for the next turn.
	hearMost = 8192
	// settled is how long ago a FIN or RST must have been seen for conntrack to have
	// seen it too.
	settled = 200 * time.Millisecond
	// lookMost is how many connections are looked at one by one. If they are more, there
	// is an audit instead.
	lookMost = 256
)

// The pauses between audits, as multiples of the time that one takes.
const (
	quietShare  = 1500 // while events come and all is well
	wantedShare = 200  // while somebody reads what has been counted
	deafShare   = 100  // without events
	repairShare = 50   // after something had to be mended
	stormShare  = 2    // after events were lost
)

// listener is what the reconciler needs of conntrack.Listener.
type listener interface {
	Next(until time.Time) ([]conntrack.Destroyed, error)
	Close() error
}

// sweeper is what the reconciler keeps from one turn to the next.
type sweeper struct {
	deaf     bool               // the kernel sends no events
	lost     bool               // events were lost since the last audit
	repaired bool               // the last audit, or a look since, found something to mend
	waiting  []calls.Connection // lost ones that were kept, and not revived
	ticked   time.Time          // when they were looked at last
	ended    time.Time          // when the last audit ended
	worked   time.Duration      // how long the last one took, but for an extra one
	extra    bool               // it listed all that the kernel has, although what is on record is little
	listed   time.Time          // when all that the kernel has was listed last

	// What adopt has listed, for the next audit; its flows are in have. nil for nothing.
	first *listing

	// Memory that is used again, as far as release leaves it.
	have    datapath.Flows
	records []calls.Record
}

// sweep keeps the table in step with the kernel's until ctx is done.
func (g *Gateway) sweep(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { g.deafen() })
	defer stop()
	for ctx.Err() == nil {
		gone, err := g.hear(ctx, time.Now().Add(min(tick, time.Until(g.due()))))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			g.conntrackFailed(opListen, err)
			g.sweeper.lost = true
			sleep(ctx, tick)
		}
		g.turnTo(gone)
	}
	return nil
}

// deafen ends the listening.
func (g *Gateway) deafen() error {
	if g.listener == nil {
		return nil
	}
	return g.listener.Close()
}

// sleep waits, but not beyond ctx.
func sleep(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// hear waits for events until a time, and returns what has left the kernel's table. Events
// that come together are returned together.
func (g *Gateway) hear(ctx context.Context, until time.Time) (gone []conntrack.Destroyed, err error) {
	if g.listener == nil {
		sleep(ctx, time.Until(until))
		return nil, nil
	}
	for heard := false; len(gone) < hearMost; {
		some, err := g.listener.Next(until)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return gone, nil
		case errors.Is(err, conntrack.ErrLost):
			g.sweeper.lost = true
		case err != nil:
			return gone, err
		case len(some) == 0:
			continue
		}
		if !heard {
			heard = true
			sleep(ctx, gather)
			until = time.Now()
		}
		gone = append(gone, some...)
	}
	return gone, nil
}

// turnTo is one turn of the reconciler: an audit if one is due, else a look at the
// connections of which something is gone.
func (g *Gateway) turnTo(gone []conntrack.Destroyed) {
	s := &g.sweeper
	ticks := time.Since(s.ticked) >= tick
	c := g.concerned(gone, ticks)
	if ticks {
		for _, q := range g.queues {
			g.countDropped(q)
		}
	}
	many := c.Len() > lookMost
	s.repaired = s.repaired || many
	s.lost = s.lost || many && len(gone) > lookMost // anybody can raise doubts: these are not that urgent
	switch {
	case !time.Now().Before(g.due()):
		g.audit()
	case s.lost || many: // the audit will come
	case ticks || c.Len() > 0:
		g.lookAt(c)
	}
}

// concerned begins an audit of the connections that need a look: those of which
// something is gone, and in a tick those that wait and those that the editor doubts. An
// entry that the daemon does not need, as of a call that has ended, concerns nobody.
func (g *Gateway) concerned(gone []conntrack.Destroyed, ticks bool) *alg.Audit {
	g.mu.Lock()
	defer g.mu.Unlock()
	var at []calls.Connection
	s, now := &g.sweeper, time.Now()
	if ticks {
		at = append(s.waiting, g.editor.Doubted(now.Add(-settled))...)
		s.waiting, s.ticked = nil, now
	}
	for i := range gone {
		d := &gone[i]
		switch c, needed := g.table.Owner(d.Flow); {
		case !d.IsFlow():
			at = append(at, d.Connection)
		case needed:
			at = append(at, c)
		case d.Flow == canary:
			s.lost = true // somebody has emptied the table
		}
	}
	return g.editor.Look(at, now)
}

// audit compares all that is on record.
func (g *Gateway) audit() {
	began := time.Now()
	s := &g.sweeper
	s.deaf, s.lost, s.repaired, s.waiting = g.listener == nil || !conntrack.EventsOn(), false, false, nil
	g.wanted.Store(false)
	g.compare()
	s.ended = time.Now()
	if !s.extra {
		s.worked = s.ended.Sub(began)
	}
}

// due is when the next audit is. What is lacking is tried again soon, and who reads the
// metrics or has calls end when they are idle gets fresh counts.
func (g *Gateway) due() time.Time {
	g.order.Lock()
	doomed := len(g.doomed)
	g.order.Unlock()
	s := &g.sweeper
	pressing := s.repaired || g.lacking.Load() > 0 || doomed > 0
	idle := g.idleTimeout()
	pause := s.rest(pressing, idle > 0 || g.wanted.Load())
	if idle > 0 {
		pause = min(pause, s.idleRest(idle))
	}
	return s.ended.Add(pause)
}

// idleRest is how long to wait after an audit at most where it ends calls that are idle: they
// shall not stay for much longer than they are to.
func (s *sweeper) idleRest(timeout time.Duration) time.Duration {
	return max(tick, timeout, repairShare*s.worked)
}

// rest is how long to wait after an audit.
func (s *sweeper) rest(pressing, wanted bool) time.Duration {
	switch {
	case s.lost:
		return stormShare * s.worked
	case pressing:
		return max(tick, repairShare*s.worked)
	case s.deaf:
		return max(tick, deafShare*s.worked)
	case wanted:
		return max(tick, wantedShare*s.worked)
	}
	return max(auditInterval, quietShare*s.worked)
}

// release gives up memory that is large. It would lie about for longer than comparing takes,
// and is a third of what a call costs.
func (s *sweeper) release() {
	s.first = nil
	if len(s.have) > askMost {
		s.have, s.records = make(datapath.Flows), nil
	}
}

func (g *Gateway) needs(f calls.Flow) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.Has(f)
}

// present reports whether the kernel has an entry, as far as it tells.
func (g *Gateway) present(f calls.Flow) bool {
	there, err := g.kernel.Has(f)
	return there || err != nil
}
