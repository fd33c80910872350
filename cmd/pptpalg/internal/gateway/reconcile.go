package gateway

import (
	"errors"
	"maps"
	"slices"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/journal"
	"pptpalg/conntrack"
)

// chunk is how many entries are made or deleted while no packet is edited.
const chunk = 64

// openStore takes up what an earlier daemon knew. The kernel still has the entries of
// its calls; those of calls that were over when it died are deleted.
func (g *Gateway) openStore() error {
	identity, err := journal.Identity()
	if err != nil {
		return err
	}
	s, contents, err := journal.Open(g.cfg.StateDir, identity)
	if errors.Is(err, store.ErrTaken) {
		return err
	}
	g.storeFailed(err) // it goes on without, until the directory can be used
	g.takeUp(g.joinCluster(s), contents)
	return nil
}

// takeUp takes up what a store remembers.
func (g *Gateway) takeUp(s store.Store, contents store.Contents) {
	g.store = s
	now := time.Now()
	if g.share != nil {
		g.await(&contents)
	}
	refused := g.restore(contents.Calls, true, now)
	g.flushes.heir = g.table.Calls()+g.table.Followed() > 0
	g.ledger.Know(g.editor.Records(), !g.outlives())
	for _, r := range contents.Resting {
		g.table.Rest(r, now)
	}
	for _, over := range contents.Gone {
		g.table.RestCall(over.Record, over.At, now)
	}
	for _, f := range append(contents.Stale, g.unfollowed(contents.Calls)...) {
		g.doomed[f] = struct{}{}
	}
	if len(contents.Calls) > 0 {
		g.log.Info("took over calls of an earlier run", "calls", len(contents.Calls)-refused, "refused", refused)
	}
}

// restored is how many calls are taken up at a time: the table keeps the memory for the events of
// so many.
const restored = 256

// restore is Editor.Restore. stored says that the store has the calls already. Where flows
// outlive the daemon, theirs are there, as a rule: the first audit installs those that are not.
func (g *Gateway) restore(all []calls.Record, stored bool, now time.Time) (refused int) {
	for some := range slices.Chunk(all, restored) {
		for i := range some {
			g.askForZones(&some[i].Connection, now)
		}
		refused += g.editor.Restore(some, now)
		events := g.table.Events()
		if !g.outlives() {
			g.refused(events, g.path.Apply(events))
		}
		g.note(slices.DeleteFunc(events, func(e calls.Event) bool {
			return e.Kind == calls.Install || stored && (e.Kind == calls.Noted || e.Kind == calls.Followed)
		}))
	}
	return refused
}

// unfollowed returns the flows of calls that NAT does not touch and that an earlier daemon
// followed, if this one does not.
func (g *Gateway) unfollowed(all []calls.Record) (flows []calls.Flow) {
	for i := range all {
		if r := &all[i]; g.ignores(&r.Connection) && r.Local == [2]bool{} {
			flows = append(flows, r.Flows()...)
		}
	}
	return flows
}

// rewrite has the store forget what has ended. The caller holds order.
func (g *Gateway) rewrite() {
	g.mu.Lock()
	all, resting := g.editor.Records(), g.table.Resting()
	g.mu.Unlock()
	g.storeFailed(g.store.Rewrite(all, resting))
}

// clearKernel deletes the entries of an earlier daemon that had the kernel translate,
// if this one translates by itself.
func (g *Gateway) clearKernel() {
	if g.outlives() {
		return
	}
	have := make(datapath.Flows)
	if _, err := g.lister.Traffic(have, nil); err != nil {
		g.conntrackFailed(opList, err)
		return
	}
	g.order.Lock()
	defer g.order.Unlock()
	var left []calls.Event
	remove := func(f calls.Flow) { left = append(left, calls.Event{Kind: calls.Remove, Flow: f}) }
	for f := range g.doomed {
		if _, there := have.At(f); there {
			remove(f)
		}
	}
	for f := range have {
		if g.needs(f) {
			remove(f)
		}
	}
	g.refused(left, g.kernel.ApplyLate(left))
}

// renew has the calls that were taken up translated by entries as this release makes them. One
// of an earlier release may have translated two flows, of which the other is then missing.
func (g *Gateway) renew() {
	n, err := g.path.Renew(g.needs)
	if err != nil {
		g.conntrackFailed(opCreate, err)
	}
	if n > 0 {
		g.compare()
	}
}

// slice is how many connections are looked at while no packet is edited: so many take
// some hundred microseconds.
const slice = 1000

// compare makes the table and the kernel's agree: connections that the kernel no
// longer has are ended, entries that calls need are made again, and entries of calls
// that are over are deleted. Entries that were never ours are not touched.
func (g *Gateway) compare() {
	asked := time.Now()
	g.pulse.sweep.begin(asked)
	defer g.pulse.sweep.end()
	defer g.sweeper.release()
	if g.orphans.unknown {
		g.adopt()
	}
	if l := g.sweeper.first; l != nil && l.asked.Before(asked) {
		asked = l.asked // others' calls may have come since
	}
	have := g.sweeper.have
	if n := g.flowsMeant(); n > askMost && len(have) == 0 {
		have = make(datapath.Flows, n)
		g.sweeper.have = have
	}
	c, err := g.find(asked, have)
	if err != nil {
		g.conntrackFailed(opList, err)
		return
	}
	t := g.settleUp(c, have, asked)
	if look := g.meter.Load(); look != nil {
		(*look)(asked, have)
	}
	g.metrics.counted.Set(float64(t.Counted))
	g.lacking.Store(int64(len(t.Missing)))
	g.endIdle(c, &t, asked)
	g.repair(t.Missing)
	g.bury(have)
	g.shrink()
}

// lookAt is compare for a few connections, and for what time brings about.
func (g *Gateway) lookAt(c *alg.Audit) {
	asked := time.Now()
	g.pulse.sweep.begin(asked)
	defer g.pulse.sweep.end()
	have := make(datapath.Flows)
	if c.Len() > 0 {
		connections, known, few := g.onRecord(c)
		live, err := g.askFor(connections, known, have)
		if err != nil || !few {
			g.sweeper.lost = true // an audit can do it, or tells why not
			return
		}
		g.found(c, live)
	}
	t := g.settleUp(c, have, asked)
	g.repair(t.Missing)
	g.shrink()
}

// settleUp revives or ends the connections that the kernel does not have as they were, and
// returns what it has of their flows. The flows come first: whether they have carried
// something is part of what becomes of a connection.
func (g *Gateway) settleUp(c *alg.Audit, have datapath.Flows, asked time.Time) history.Tally {
	t := g.tally(g.records(c), have, asked)
	g.metrics.show(&t)
	g.look(asked)
	if g.share != nil {
		g.readdress() // the kernel's word may have been lost
	}
	g.revive(c, have, asked)
	if err := g.watched(); err != nil {
		g.conntrackFailed(opCreate, err)
	}
	g.sweepAway(c)
	return t
}

// askMost is how many entries are asked for one by one at most: beyond that, a list of
// all that the kernel has costs less.
const askMost = 2000

// find begins an audit with what the kernel has. It has the flows in have.
func (g *Gateway) find(asked time.Time, have datapath.Flows) (*alg.Audit, error) {
	g.mu.Lock()
	c := g.editor.Compare(asked)
	g.mu.Unlock()
	if err := g.watch(); err != nil {
		return nil, err
	}
	live, err := g.inKernel(c, have)
	g.found(c, live)
	return c, err
}

func (g *Gateway) found(c *alg.Audit, live []calls.Connection) {
	for some := range slices.Chunk(live, slice) {
		g.mu.Lock()
		c.Found(some)
		g.mu.Unlock()
	}
}

// inKernel returns the control connections that the kernel has, and has the flows of the
// data path in have: those on record if they are few, but now and then all. What is not on
// record, as strays, is met then. The audit after adopt has what that has listed.
func (g *Gateway) inKernel(c *alg.Audit, have datapath.Flows) (live []calls.Connection, err error) {
	s, now := &g.sweeper, time.Now()
	connections, known, few := g.onRecord(c)
	s.extra = few && now.Sub(s.listed) >= listInterval
	if few && !s.extra && s.first == nil {
		return g.askFor(connections, known, have)
	}
	l := s.first
	if l == nil {
		if l, err = g.list(have); err != nil {
			return nil, err
		}
		s.listed = now
	}
	g.strays.know(l.live, now)
	g.metrics.strays.Set(float64(g.strays.take(g.concern(l.strays, l.live, g.strays.public))))
	g.watchOrphans(l.live, now)
	return l.live, nil
}

// listing is all that the kernel has, but for the flows.
type listing struct {
	asked  time.Time
	live   []calls.Connection
	strays []conntrack.Stray
}

// list lists all that the kernel has, and has the flows of the data path in have.
func (g *Gateway) list(have datapath.Flows) (*listing, error) {
	asked := time.Now()
	live, err := g.lister.Connections(g.cfg.Ports)
	strays, flowsErr := g.path.Snapshot(have, nil, firstStrays())
	return &listing{asked, live, strays}, errors.Join(err, flowsErr)
}

// askFor is inKernel for what is on record.
func (g *Gateway) askFor(connections []calls.Connection, known []calls.Flow, have datapath.Flows) (live []calls.Connection, err error) {
	live, err = g.lister.StandingConnections(connections)
	return live, errors.Join(err, g.snapshot(have, known))
}

// onRecord returns the connections that live, and the flows of calls and those to be
// deleted, if they are few.
func (g *Gateway) onRecord(c *alg.Audit) (connections []calls.Connection, known []calls.Flow, few bool) {
	var all []calls.Record
	for more := true; more; {
		g.mu.Lock()
		connections, all, more = c.Standing(slice, connections, all)
		g.mu.Unlock()
		if len(connections)+2*len(all) > askMost {
			return nil, nil, false
		}
	}
	for _, call := range all {
		known = append(known, call.Flows()...)
	}
	g.order.Lock()
	defer g.order.Unlock()
	known = slices.AppendSeq(known, maps.Keys(g.doomed))
	return connections, known, len(connections)+len(known) <= askMost
}

// sliced has a step of an audit done slice by slice. Other packets get their turn
// between two, and what a slice has changed is carried out with it.
func (g *Gateway) sliced(step func() (more bool)) {
	for more := true; more; {
		more = g.locked(step)
	}
}

func (g *Gateway) locked(step func() (more bool)) (more bool) {
	g.lockHanded() // no audit sees a part of it
	defer g.order.Unlock()
	g.mu.Lock()
	more = step()
	g.mu.Unlock()
	g.carryOut()
	return more
}

// snapshot has the flows that are known in have.
func (g *Gateway) snapshot(have datapath.Flows, known []calls.Flow) error {
	if known == nil {
		known = []calls.Flow{} // none, and not all
	}
	_, err := g.path.Snapshot(have, known, nil)
	return err
}

// tally looks up the flows of all calls.
func (g *Gateway) tally(all []calls.Record, have datapath.Flows, now time.Time) (t history.Tally) {
	for some := range slices.Chunk(all, slice) {
		g.ledger.Add(&t, some, have, now)
	}
	g.ledger.Close(&t)
	return t
}

// revive makes the entries anew of control connections that conntrack has lost, and keeps
// those on record that may yet have theirs.
func (g *Gateway) revive(c *alg.Audit, have datapath.Flows, now time.Time) {
	var lost []alg.Lost
	var followed []calls.Connection
	g.sliced(func() bool {
		some, more := c.Missing(slice, alg.Witness{Flowed: g.ledger.Flowed, Moved: g.ledger.Moved, Homeless: g.homes.left}, now)
		lost = append(lost, some...)
		return more
	})
	for i := range lost {
		l := &lost[i]
		if l.Followed {
			followed = append(followed, l.Connection)
			continue
		}
		switch g.fate(l, have) {
		case fateRevives:
			g.reviveOne(c, l)
		case fateWaits:
			g.keep(c, l)
		}
	}
	g.followAgain(followed)
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
// what tells it from an end may go last: so such a connection waits for another audit.
func (g *Gateway) fate(l *alg.Lost, have datapath.Flows) fate {
	switch {
	case l.Unseen && !g.flushed(l, have):
		if l.Again {
			return fateEnds
		}
		return fateWaits
	case g.homes.left(l.Connection):
		return fateEnds
	case g.homes.away(l.Connection):
		return fateWaits
	}
	return fateRevives
}

// reviveOne makes one entry anew. Where another connection has its place, it is lost for good.
func (g *Gateway) reviveOne(c *alg.Audit, l *alg.Lost) {
	err := g.kernel.Revive(l.Connection)
	switch {
	case errors.Is(err, conntrack.ErrTaken):
		g.log.Debug("a lost control connection cannot be revived", "connection", l.Connection.Original, "err", err)
	case err != nil:
		g.conntrackFailed(opCreate, err)
		g.keep(c, l)
	default:
		if l.Shot { // if it has ended, it is not to be kept for longer than the editor does
			g.entriesFailed(g.kernel.SetTimeout([]calls.Connection{l.Connection}, uint32(alg.HalfSilentMost/time.Second)))
		}
		g.metrics.repairs.WithLabelValues(repairRevived).Inc()
		g.settleLost(c.Revived, l)
	}
}

// keep has a lost connection wait.
func (g *Gateway) keep(c *alg.Audit, l *alg.Lost) {
	g.sweeper.waiting = append(g.sweeper.waiting, l.Connection)
	g.settleLost(c.Keep, l)
}

func (g *Gateway) settleLost(say func(*alg.Lost), l *alg.Lost) {
	g.sweeper.repaired = true
	g.mu.Lock()
	defer g.mu.Unlock()
	say(l)
}

// sweepAway ends the calls of connections that have ended or are lost.
func (g *Gateway) sweepAway(c *alg.Audit) {
	g.sliced(func() bool {
		changes, more := c.Sweep(slice, time.Now())
		g.note(changes)
		return more
	})
}

// records returns a copy of the calls that are left, until it is called again.
func (g *Gateway) records(c *alg.Audit) []calls.Record {
	records := g.sweeper.records[:0]
	g.sliced(func() (more bool) {
		records, more = c.Records(slice, records)
		return more
	})
	g.sweeper.records = records
	return records
}

// shrink has the store forget what has ended, if that is most of it, and has the shared one know what
// it lacks.
func (g *Gateway) shrink() {
	g.lockHanded()
	if g.store.Overgrown() {
		g.rewrite()
	}
	g.order.Unlock()
	if g.share != nil {
		g.restoreShared()
	}
}

// repair creates flows unless their calls have ended meanwhile, a chunk at a time so
// that no packet waits for long. One that a packet has just created is left as it is
// by the kernel's adapter.
func (g *Gateway) repair(missing []calls.Flow) {
	g.sweeper.repaired = g.sweeper.repaired || len(missing) > 0
	g.change(calls.Install, g.path.Apply, missing, func(f calls.Flow) bool {
		needed := g.table.Has(f)
		if needed {
			g.metrics.repairs.WithLabelValues(repairCreated).Inc()
		}
		return needed
	})
}

// bury deletes what the kernel still has of calls that are over.
func (g *Gateway) bury(have datapath.Flows) {
	g.change(calls.Remove, g.path.ApplyLate, g.leftovers(have), func(f calls.Flow) bool { return !g.table.Has(f) })
}

// change has those of the flows installed or removed for which that is still wanted.
func (g *Gateway) change(kind calls.EventKind, apply func([]calls.Event) map[int]error, all []calls.Flow, wanted func(calls.Flow) bool) {
	for some := range slices.Chunk(all, chunk) {
		g.changeSome(kind, apply, some, wanted)
	}
}

func (g *Gateway) changeSome(kind calls.EventKind, apply func([]calls.Event) map[int]error, some []calls.Flow, wanted func(calls.Flow) bool) {
	g.order.Lock()
	defer g.order.Unlock()
	var events []calls.Event
	g.mu.Lock()
	for _, f := range some {
		if wanted(f) {
			events = append(events, calls.Event{Kind: kind, Flow: f})
		}
	}
	g.mu.Unlock()
	g.carryOut() // what has happened before comes first
	g.refused(events, apply(events))
}

// leftovers returns the doomed flows that the kernel has and no call needs, and
// forgets the others.
func (g *Gateway) leftovers(have datapath.Flows) []calls.Flow {
	g.order.Lock()
	defer g.order.Unlock()
	var left []calls.Flow
	for f := range g.doomed {
		if _, there := have.At(f); there && !g.needs(f) {
			left = append(left, f)
		}
	}
	clear(g.doomed)
	return left
}
