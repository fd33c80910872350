package daemon

import (
	"context"
	"errors"
	"slices"
	"time"

	"pptpalg/cmd/pptpalg/internal/journal"
	"pptpalg/conntrack"
)

// sweepInterval is how often the call table is compared with the kernel's: within
// this time, and that of the comparison, what others did to the kernel's table
// is mended.
const sweepInterval = 2 * time.Second

// sweepShare bounds the time that comparing takes: it rests for so many times as
// long as it worked.
const sweepShare = 20

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
			d.countDropped()
			pause.Reset(max(sweepInterval, sweepShare*time.Since(began)))
		}
	}
}

// flows are the GRE entries that the kernel has, unmarked.
type flows map[conntrack.Flow]conntrack.Traffic

// compare makes the table and the kernel's agree: connections that the kernel no
// longer has are ended, entries that calls need are made again, and entries of calls
// that are over are deleted. Entries that were never ours are not touched.
func (d *Daemon) compare() {
	asked := time.Now()
	d.pulse.sweep.begin(asked)
	defer d.pulse.sweep.end()
	live, err := d.lister.Connections(d.cfg.Ports)
	traffic, flowsErr := d.lister.Traffic()
	if err := errors.Join(err, flowsErr); err != nil {
		d.conntrackFailed(opList, err)
		return
	}
	have := make(flows, len(traffic))
	for f, t := range traffic {
		have[f.Unmarked()] = t
	}
	live = append(live, d.revive(live, have, asked)...)
	d.repair(lacking(d.settle(live, have, asked), have))
	d.bury(have)
}

// revive makes the entries anew of control connections that were flushed from the
// kernel's table (conntrack -F), and returns them. A connection counts as flushed if
// its GRE entries are gone as well: they have a fixed timeout and go for no other
// reason. Where they are left, the connection has ended, or lost its address.
func (d *Daemon) revive(live []conntrack.Connection, have flows, asked time.Time) []conntrack.Connection {
	d.mu.Lock()
	lost := d.editor.Missing(live, asked)
	d.mu.Unlock()
	var revived []conntrack.Connection
	for _, l := range lost {
		if !flushed(l.Calls, have) {
			continue
		}
		if err := d.kernel.Revive(l.Connection); err != nil {
			d.conntrackFailed(opCreate, err)
			continue
		}
		d.metrics.repairs.WithLabelValues(repairRevived).Inc()
		revived = append(revived, l.Connection)
	}
	return revived
}

// flushed reports whether calls had entries and have none left.
func flushed(calls []conntrack.Record, have flows) bool {
	needed := 0
	for _, c := range calls {
		for _, f := range c.Flows() {
			if _, there := have[f.Unmarked()]; there {
				return false
			}
			needed++
		}
	}
	return needed > 0
}

// settle ends what is over and returns a copy of what is left.
func (d *Daemon) settle(live []conntrack.Connection, have flows, asked time.Time) []conntrack.Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	d.apply(d.editor.Sweep(live, asked, now), now)
	d.endIdle(have, now)
	if d.journal.Overgrown() {
		d.rewrite()
	}
	return d.editor.Records()
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
	for some := range slices.Chunk(missing, chunk) {
		d.mu.Lock()
		for _, f := range some {
			if d.table.Has(f) {
				d.install(f)
				d.metrics.repairs.WithLabelValues(repairCreated).Inc()
			}
		}
		d.mu.Unlock()
	}
}

func (d *Daemon) setLacking(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lacking = n
}

// bury deletes what the kernel still has of calls that are over.
func (d *Daemon) bury(have flows) {
	for left := range slices.Chunk(d.leftovers(have), chunk) {
		d.mu.Lock()
		for _, f := range left {
			if !d.table.Has(f) {
				d.uninstall(f)
			}
		}
		d.mu.Unlock()
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
