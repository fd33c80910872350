package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"pptpalg/alg"
	"pptpalg/cmd/pptpalg/internal/journal"
	"pptpalg/conntrack"
)

// sweepInterval is how often the call table is compared with the kernel's: within
// this time, and that of the comparison, what others did to the kernel's table
// is mended.
const sweepInterval = 2 * time.Second

// sweepShare bounds the time that comparing takes: it rests for so many times as
// long as it worked.
const sweepShare = 50

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
	if err != nil {
		return err
	}
	d.journal = j
	now := time.Now()
	refused := d.editor.Restore(contents.Calls, now)
	d.sight.know(d.editor.Records())
	for _, r := range contents.Resting {
		d.table.Rest(r)
	}
	for _, g := range contents.Gone {
		d.table.RestCall(g.Record, g.At)
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

// sweep keeps the table in step with the kernel's until ctx is done.
func (d *Daemon) sweep(ctx context.Context) error {
	pause := time.NewTimer(sweepInterval)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
			began := time.Now()
			d.compare()
			for _, q := range d.queues {
				d.countDropped(q)
			}
			pause.Reset(max(sweepInterval, sweepShare*time.Since(began)))
		}
	}
}

// clearKernel deletes the entries of an earlier daemon that had the kernel translate,
// if this one translates by itself.
func (d *Daemon) clearKernel() {
	if d.gre == nil {
		return
	}
	kernel := kernelPath{d.kernel, d.lister}
	have, err := kernel.list()
	if err != nil {
		d.conntrackFailed(opList, err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []conntrack.Change
	for f := range have {
		if _, doomed := d.doomed[f]; doomed || d.table.Has(f) {
			left = append(left, conntrack.Change{Kind: conntrack.Remove, Flow: f})
		}
	}
	d.refused(left, kernel.ApplyLate(left))
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
	c, have, err := d.find(asked)
	if err != nil {
		d.conntrackFailed(opList, err)
		return
	}
	d.revive(c, have)
	d.sweepAway(c)
	calls := d.records(c)
	d.measure(calls, have)
	d.countTraffic(calls, have)
	d.endIdle(c, calls, have, time.Now())
	d.repair(lacking(calls, have))
	d.bury(have)
	d.shrink()
}

// askMost is how many entries are asked for one by one at most: beyond that, a list of
// all that the kernel has costs less.
const askMost = 2000

// listEvery is how many comparisons go from one that lists all to the next. They meet
// what is not on record.
const listEvery = 15

// find begins a comparison with what the kernel has.
func (d *Daemon) find(asked time.Time) (*alg.Comparison, flows, error) {
	d.mu.Lock()
	c := d.editor.Compare(asked)
	d.mu.Unlock()
	if err := d.path.watch(); err != nil {
		return nil, nil, err
	}
	live, have, err := d.inKernel(c)
	for some := range slices.Chunk(live, slice) {
		d.mu.Lock()
		c.Found(some)
		d.mu.Unlock()
	}
	return c, have, err
}

// inKernel returns the control connections that the kernel has, and the flows that the
// data path has: all of them, or those on record.
func (d *Daemon) inKernel(c *alg.Comparison) (live []conntrack.Connection, have flows, err error) {
	d.compared++
	connections, known, few := d.onRecord(c)
	if !few || d.compared%listEvery == 1 {
		live, err = d.lister.Connections(d.cfg.Ports)
		have, flowsErr := d.path.list()
		return live, have, errors.Join(err, flowsErr)
	}
	live, err = d.lister.StandingConnections(connections)
	have, flowsErr := d.path.standing(known)
	return live, have, errors.Join(err, flowsErr)
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

// revive makes the entries anew of control connections that were flushed from the
// kernel's table (conntrack -F). While a flush is under way it may have taken a
// connection, and not yet what tells a flush from an end: so one that is missing
// for the first time is given another comparison.
func (d *Daemon) revive(c *alg.Comparison, have flows) {
	var lost []alg.Lost
	d.sliced(func() bool {
		some, more := c.Missing(slice)
		lost = append(lost, some...)
		return more
	})
	before := d.absent
	d.absent = make(map[conntrack.Tuple]struct{})
	for _, l := range lost {
		_, again := before[l.Connection.Original]
		switch {
		case d.path.flushed(l, have):
			if err := d.kernel.Revive(l.Connection); err != nil {
				d.conntrackFailed(opCreate, err)
				continue
			}
			d.metrics.repairs.WithLabelValues(repairRevived).Inc()
		case again:
			continue
		default:
			d.absent[l.Connection.Original] = struct{}{}
		}
		d.mu.Lock()
		c.Found([]conntrack.Connection{l.Connection})
		d.mu.Unlock()
	}
}

// sweepAway ends what is over.
func (d *Daemon) sweepAway(c *alg.Comparison) {
	d.sliced(func() bool {
		changes, more := c.Sweep(slice, time.Now())
		d.note(changes)
		return more
	})
}

// records returns a copy of the calls that are left.
func (d *Daemon) records(c *alg.Comparison) (records []conntrack.Record) {
	d.sliced(func() (more bool) {
		records, more = c.Records(slice, records)
		return more
	})
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

// lacking returns the flows that calls need and the kernel does not have. Where both
// Call IDs of a call are 0, one entry carries both flows.
func lacking(calls []conntrack.Record, have flows) []conntrack.Flow {
	var missing []conntrack.Flow
	for _, c := range calls {
		needed := c.Flows()
		for _, f := range needed {
			if _, there := have[f.Unmarked()]; !there && !carried(f, needed, have) {
				missing = append(missing, f)
			}
		}
	}
	return missing
}

func carried(f conntrack.Flow, by []conntrack.Flow, have flows) bool {
	return slices.ContainsFunc(by, func(g conntrack.Flow) bool {
		_, there := have[g.Unmarked()]
		return there && g.Carries(f)
	})
}

// repair creates flows unless their calls have ended meanwhile, a chunk at a time so
// that no packet waits for long. One that a packet has just created is left as it is
// by the kernel's adapter.
func (d *Daemon) repair(missing []conntrack.Flow) {
	d.setLacking(len(missing))
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
