package daemon

import (
	"errors"
	"maps"
	"slices"
	"time"

	"pptpalg/alg"
	"pptpalg/cmd/pptpalg/internal/journal"
	"pptpalg/conntrack"
	"pptpalg/conntrack/ctnetlink"
)

// chunk is how many entries are made or deleted while no packet is edited.
const chunk = 64

// remember takes up what an earlier daemon knew. The kernel still has the entries of
// its calls; those of calls that were over when it died are deleted.
func (d *Daemon) remember() error {
	identity, err := journal.Identity()
	if err != nil {
		return err
	}
	j, contents, err := journal.Open(d.cfg.StateDir, identity)
	if errors.Is(err, journal.ErrTaken) {
		return err
	}
	d.journalFailed(err) // it goes on without, until the directory can be used
	d.journal = j
	now := time.Now()
	refused := d.editor.Restore(contents.Calls, now)
	if p, ok := d.path.(*daemonPath); ok {
		p.heir = d.table.Calls() > 0
	}
	d.sight.know(d.editor.Records(), d.gre != nil)
	for _, r := range contents.Resting {
		d.table.Rest(r, now)
	}
	for _, g := range contents.Gone {
		d.table.RestCall(g.Record, g.At, now)
	}
	for _, f := range contents.Stale {
		d.doomed[f] = struct{}{}
	}
	if len(contents.Calls) > 0 {
		d.log.Info("took up calls of an earlier run", "calls", len(contents.Calls)-refused, "refused", refused)
	}
	return nil
}

// rewrite has the journal forget what is over. The caller holds mu, or is alone.
func (d *Daemon) rewrite() {
	d.journalFailed(d.journal.Rewrite(d.editor.Records(), d.table.Resting()))
}

// clearKernel deletes the entries of an earlier daemon that had the kernel translate,
// if this one translates by itself.
func (d *Daemon) clearKernel() {
	if d.gre == nil {
		return
	}
	have := make(flows)
	if _, err := d.lister.Traffic(have, nil); err != nil {
		d.conntrackFailed(opList, err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []conntrack.Change
	remove := func(f conntrack.Flow) { left = append(left, conntrack.Change{Kind: conntrack.Remove, Flow: f}) }
	for f := range d.doomed {
		if _, there := have.at(f); there {
			remove(f)
		}
	}
	for f := range have {
		if d.table.Has(f) {
			remove(f)
		}
	}
	d.refused(left, d.kernel.ApplyLate(left))
}

// renew has the calls that were taken up translated by entries as this release makes them. One
// of an earlier release may have translated two flows, of which the other is then missing.
func (d *Daemon) renew() {
	if d.gre != nil {
		return
	}
	n, err := d.lister.Renew(d.needs)
	if err != nil {
		d.conntrackFailed(opCreate, err)
	}
	if n > 0 {
		d.compare()
	}
}

// slice is how many connections are looked at while no packet is edited: so many take
// some hundred microseconds.
const slice = 1000

// compare makes the table and the kernel's agree: connections that the kernel no
// longer has are ended, entries that calls need are made again, and entries of calls
// that are over are deleted. Entries that were never ours are not touched.
func (d *Daemon) compare() {
	asked := time.Now()
	d.pulse.sweep.begin(asked)
	defer d.pulse.sweep.end()
	defer d.sweeper.release()
	have := d.sweeper.have
	c, err := d.find(asked, have)
	if err != nil {
		d.conntrackFailed(opList, err)
		return
	}
	d.look(asked)
	d.revive(c, have, asked)
	if err := d.path.watched(); err != nil {
		d.conntrackFailed(opCreate, err)
	}
	d.sweepAway(c)
	calls := d.records(c)
	now := time.Now()
	t := d.tallyUp(calls, have, now)
	d.show(&t)
	d.endIdle(c, &t, now)
	d.repair(t.missing)
	d.bury(have)
	d.sweeper.sample(calls, d.homes.away)
	d.shrink()
}

// askMost is how many entries are asked for one by one at most: beyond that, a list of
// all that the kernel has costs less.
const askMost = 2000

// listEvery is how many comparisons go from one that lists all to the next. They meet
// what is not on record: strays last for thirty seconds, and are seen once at least.
const listEvery = 14

// find begins a comparison with what the kernel has. It has the flows in have.
func (d *Daemon) find(asked time.Time, have flows) (*alg.Comparison, error) {
	d.mu.Lock()
	c := d.editor.Compare(asked)
	d.mu.Unlock()
	if err := d.path.watch(); err != nil {
		return nil, err
	}
	live, err := d.inKernel(c, have)
	for some := range slices.Chunk(live, slice) {
		d.mu.Lock()
		c.Found(some)
		d.mu.Unlock()
	}
	return c, err
}

// inKernel returns the control connections that the kernel has, and has the flows of the
// data path in have: all of them, or those on record.
func (d *Daemon) inKernel(c *alg.Comparison, have flows) (live []conntrack.Connection, err error) {
	d.compared++
	connections, known, few := d.onRecord(c)
	if few && d.compared%listEvery != 1 {
		live, err = d.lister.StandingConnections(connections)
		return live, errors.Join(err, d.path.standing(have, known))
	}
	live, err = d.lister.Connections(d.cfg.Ports)
	strays, flowsErr := d.path.list(have, firstStrays())
	if err := errors.Join(err, flowsErr); err != nil {
		return nil, err
	}
	d.metrics.strays.Set(float64(d.strays.take(strays, live, time.Now())))
	d.watchOrphans(live, time.Now())
	return live, nil
}

// onRecord returns the connections that live, and the flows of calls and those to be
// deleted, if they are few.
func (d *Daemon) onRecord(c *alg.Comparison) (connections []conntrack.Connection, known []conntrack.Flow, few bool) {
	var calls []conntrack.Record
	for more := true; more; {
		d.mu.Lock()
		connections, calls, more = c.Standing(slice, connections, calls)
		d.mu.Unlock()
		if len(connections)+2*len(calls) > askMost {
			return nil, nil, false
		}
	}
	for _, call := range calls {
		known = append(known, call.Flows()...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known = slices.AppendSeq(known, maps.Keys(d.doomed))
	return connections, known, len(connections)+len(known) <= askMost
}

// sliced has a step of a comparison done slice by slice. Other packets get their turn
// between two, and what a slice has changed is carried out with it.
func (d *Daemon) sliced(step func() (more bool)) {
	for more := true; more; {
		more = d.locked(step)
	}
}

func (d *Daemon) locked(step func() (more bool)) (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	more = step()
	d.carryOut(time.Now())
	return more
}

// revive makes the entries anew of control connections that conntrack has lost, and keeps
// those on record that may yet have theirs.
func (d *Daemon) revive(c *alg.Comparison, have flows, now time.Time) {
	var lost []alg.Lost
	d.sliced(func() bool {
		some, more := c.Missing(slice, alg.Witness{Moved: d.moved, Homeless: d.homes.left}, now)
		lost = append(lost, some...)
		return more
	})
	for i := range lost {
		l := &lost[i]
		switch d.fate(l, have) {
		case fateRevives:
			d.reviveOne(c, l)
		case fateWaits:
			d.settleLost(c.Keep, l)
		}
	}
}

// fate is what becomes of a lost connection.
type fate uint8

const (
	fateEnds fate = iota
	fateWaits
	fateRevives
)

// fate decides on a lost connection. One that an earlier daemon knew may have ended before
// this one came, unless somebody flushed the kernel's table. A flush takes its time, and
// what tells it from an end may go last: so such a connection waits for another comparison.
func (d *Daemon) fate(l *alg.Lost, have flows) fate {
	switch {
	case l.Unseen && !d.path.flushed(l, have):
		if l.Again {
			return fateEnds
		}
		return fateWaits
	case d.homes.left(l.Connection):
		return fateEnds
	case d.homes.away(l.Connection):
		return fateWaits
	}
	return fateRevives
}

// reviveOne makes one entry anew. Where another connection has its place, it is lost for good.
func (d *Daemon) reviveOne(c *alg.Comparison, l *alg.Lost) {
	err := d.kernel.Revive(l.Connection)
	switch {
	case errors.Is(err, ctnetlink.ErrTaken):
		d.log.Debug("a lost control connection cannot be revived", "connection", l.Connection.Original, "err", err)
	case err != nil:
		d.conntrackFailed(opCreate, err)
		d.settleLost(c.Keep, l)
	default:
		d.metrics.repairs.WithLabelValues(repairRevived).Inc()
		d.settleLost(c.Revived, l)
	}
}

func (d *Daemon) settleLost(say func(*alg.Lost), l *alg.Lost) {
	d.sweeper.repaired = true
	d.mu.Lock()
	defer d.mu.Unlock()
	say(l)
}

// moved tells when a call's GRE was last seen to flow. The caller holds mu.
func (d *Daemon) moved(r conntrack.Record) time.Time {
	if was := d.sight.calls[r.Number]; was != nil {
		return was.moved
	}
	return time.Time{}
}

// sweepAway ends what is over.
func (d *Daemon) sweepAway(c *alg.Comparison) {
	d.sliced(func() bool {
		changes, more := c.Sweep(slice, time.Now())
		d.note(changes)
		return more
	})
}

// records returns a copy of the calls that are left, until it is called again.
func (d *Daemon) records(c *alg.Comparison) []conntrack.Record {
	records := d.sweeper.records[:0]
	d.sliced(func() (more bool) {
		records, more = c.Records(slice, records)
		return more
	})
	d.sweeper.records = records
	return records
}

// shrink has the journal forget what is over, if that is most of it.
func (d *Daemon) shrink() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.journal.Overgrown() {
		d.rewrite()
	}
}

// repair creates flows unless their calls have ended meanwhile, a chunk at a time so
// that no packet waits for long. One that a packet has just created is left as it is
// by the kernel's adapter.
func (d *Daemon) repair(missing []conntrack.Flow) {
	d.setLacking(len(missing))
	d.sweeper.repaired = d.sweeper.repaired || len(missing) > 0
	d.change(conntrack.Install, d.path.Apply, missing, func(f conntrack.Flow) bool {
		needed := d.table.Has(f)
		if needed {
			d.metrics.repairs.WithLabelValues(repairCreated).Inc()
		}
		return needed
	})
}

func (d *Daemon) setLacking(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lacking = n
}

// bury deletes what the kernel still has of calls that are over.
func (d *Daemon) bury(have flows) {
	d.change(conntrack.Remove, d.path.ApplyLate, d.leftovers(have), func(f conntrack.Flow) bool { return !d.table.Has(f) })
}

// change has those of the flows installed or removed for which that is still wanted.
func (d *Daemon) change(kind conntrack.ChangeKind, apply func([]conntrack.Change) map[int]error, all []conntrack.Flow, wanted func(conntrack.Flow) bool) {
	for some := range slices.Chunk(all, chunk) {
		d.locked(func() bool {
			var changes []conntrack.Change
			for _, f := range some {
				if wanted(f) {
					changes = append(changes, conntrack.Change{Kind: kind, Flow: f})
				}
			}
			d.carryOut(time.Now()) // what was noted before comes first
			d.refused(changes, apply(changes))
			return false
		})
	}
}

// leftovers returns the doomed flows that the kernel has and no call needs, and
// forgets the others.
func (d *Daemon) leftovers(have flows) []conntrack.Flow {
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []conntrack.Flow
	for f := range d.doomed {
		if _, there := have[f.Unmarked()]; there && !d.table.Has(f) {
			left = append(left, f)
		}
	}
	clear(d.doomed)
	return left
}
