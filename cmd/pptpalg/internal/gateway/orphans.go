package gateway

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// orphanPatience is how long the GRE entries of an unknown call stay that have no control
// connection between their ends. A connection whose own entry was deleted has another one from
// its next echo request on, which comes within a minute (RFC 2637 section 3.1.4).
const orphanPatience = 2 * time.Minute

// orphans are GRE entries that an earlier daemon made and that the journal does not explain:
// it was lost, or the disk had no room for it. Where it is plain whose they are, their calls
// are taken up. The IDs of the others are reserved, for their calls may live: they go on
// being translated. When there has been no control connection between the ends of
// an entry for a while, its call has ended, and the entry is deleted.
//
// Nobody else makes such entries: they have a source key of 0, a fixed timeout and a status
// that the kernel gives to none of its own.
type orphans struct {
	all     map[calls.Flow]*orphan // owned by sweep
	count   atomic.Int64
	unknown bool // they were not looked for yet; owned by sweep
}

type orphan struct {
	reserved bool
	alive    time.Time // when there was a control connection last
}

// adopt looks for orphans. It comes before the first packet; but what others' calls explain is
// theirs, so a gateway of a cluster first knows all calls of the others.
func (g *Gateway) adopt() {
	if g.orphans.unknown = g.share != nil && !g.share.isWhole(); g.orphans.unknown {
		return
	}
	entries, live, err := g.entries()
	if err != nil {
		g.conntrackFailed(opList, err)
	}
	if !g.ready.Load() {
		g.older.Store(newOlder(live))
	}
	g.order.Lock() // nothing comes to the kernel meanwhile, or leaves it
	defer g.order.Unlock()
	g.mu.Lock()
	unknown := g.unknown(entries)
	stale := g.stale(unknown)
	g.mu.Unlock()
	g.refused(stale, g.kernel.ApplyLate(stale))
	if g.ready.Load() {
		maps.DeleteFunc(unknown, func(f calls.Flow, _ calls.Traffic) bool { return !g.present(f) })
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if unknown = g.unknown(unknown); len(unknown) == 0 {
		return
	}
	now := time.Now()
	g.look(now)
	last := g.table.LastNumber()
	claimed := claims(unknown, live, last, now)
	g.homes.own(claimed)
	g.restore(claimed, false, now)
	taken := slices.DeleteFunc(g.editor.Records(), func(r calls.Record) bool { return r.Number <= last || r.Number > last+uint64(len(claimed)) })
	g.ledger.Know(taken, !g.outlives())
	unknown = g.unknown(unknown)
	g.orphans.add(unknown, g.table, now)
	g.log.Warn("the kernel translates calls that are not in the journal: those that fit one control connection are taken over, the public Call IDs of the others are reserved",
		"taken_up", len(taken), "reserved_entries", len(unknown))
}

// stale takes out of the flows that nobody knows those of public addresses that other gateways own, and
// returns that they are to be removed: the shared store has all calls of these, and those of the flows
// have ended while no daemon was here. The caller holds mu.
func (g *Gateway) stale(unknown datapath.Flows) (left []calls.Event) {
	if g.share == nil {
		return nil
	}
	foreign := func(public netip.Addr) bool {
		return g.share.others[public].name != "" && g.share.taking[public] == nil
	}
	for f := range unknown {
		if foreign(f.Dst) || foreign(f.NewSrc) {
			delete(unknown, f)
			left = append(left, calls.Event{Kind: calls.Remove, Flow: f})
		}
	}
	return left
}

// entries lists the flows that the kernel has entries for, and the control connections. A list
// that fails has nothing. Where the entries are the data path's, the next audit takes the list.
func (g *Gateway) entries() (datapath.Flows, []calls.Connection, error) {
	s := &g.sweeper
	if !g.outlives() {
		have := make(datapath.Flows)
		_, err := g.lister.Traffic(have, nil)
		live, liveErr := g.lister.Connections(g.cfg.Ports)
		return have, live, errors.Join(err, liveErr)
	}
	g.mu.Lock()
	s.have = make(datapath.Flows, 2*(g.table.Calls()+g.table.Followed()))
	g.mu.Unlock()
	l, err := g.list(s.have)
	if err == nil {
		s.first = l
	}
	return s.have, l.live, err
}

// unknown returns the flows that nobody knows: not those of calls, those to be deleted and the
// canary's; nor those that have no entry of a daemon's, but share somebody's tunnel. The caller
// holds order and mu.
func (g *Gateway) unknown(have datapath.Flows) datapath.Flows {
	doomed := make(map[calls.Flow]struct{}, len(g.doomed))
	for f := range g.doomed {
		doomed[f.Unmarked()] = struct{}{}
	}
	for i := range g.happened.events {
		if e := &g.happened.events[i]; e.Kind == calls.Remove {
			doomed[e.Flow.Unmarked()] = struct{}{}
		}
	}
	left := make(datapath.Flows)
	for f, t := range have {
		if _, over := doomed[f]; !over && !t.Lent && f != canary && !g.table.Has(f) {
			left[f] = t
		}
	}
	return left
}

// claim is a control connection with what an orphan needs to be a leg of a call on it.
type claim struct {
	connection *calls.Connection
	side       calls.Side // to which the orphan's packets go
}

// claimants returns the control connections by whose ends an orphan may be theirs.
func claimants(live []calls.Connection) map[calls.Flow][]claim {
	all := make(map[calls.Flow][]claim)
	for i := range live {
		c := &live[i]
		if c.Helper != "" || c.Closing {
			continue
		}
		for _, side := range []calls.Side{calls.Initiator, calls.Responder} {
			way := flowOf(c, side, calls.LegRecord{Known: true})
			all[ends(way)] = append(all[ends(way)], claim{c, side})
		}
	}
	return all
}

func flowOf(c *calls.Connection, to calls.Side, l calls.LegRecord) calls.Flow {
	r := calls.Record{Connection: *c}
	r.Legs[to] = l
	f, _ := r.FlowTo(to)
	return f
}

// ends is a flow without its Call IDs: what the flows between two ends have in common.
func ends(f calls.Flow) calls.Flow {
	f.Key, f.NewKey, f.Mark = 0, 0, 0
	return f
}

// claims returns calls that explain orphans, numbered on from last. An orphan between whose
// ends there are several control connections is nobody's. Where one connection has
// several, it is not known which two are one call: then each is a call with one leg, which
// translates as it should and ends with its connection.
func claims(have datapath.Flows, live []calls.Connection, last uint64, now time.Time) (all []calls.Record) {
	type legs [2][]calls.LegRecord
	by := claimants(live)
	found := make(map[*calls.Connection]*legs)
	for f := range have {
		if candidates := by[ends(f)]; len(candidates) == 1 {
			c := candidates[0]
			if found[c.connection] == nil {
				found[c.connection] = new(legs)
			}
			found[c.connection][c.side] = append(found[c.connection][c.side], calls.LegRecord{Known: true, Own: f.NewKey, Public: f.Key})
		}
	}
	add := func(c *calls.Connection, of [2]calls.LegRecord) {
		last++
		all = append(all, calls.Record{Number: last, Connection: *c, PNS: calls.Initiator, State: calls.Established, Since: now, Legs: of})
	}
	for i := range live {
		c := &live[i]
		switch l := found[c]; {
		case l == nil:
		case len(l[0]) == 1 && len(l[1]) == 1:
			add(c, [2]calls.LegRecord{l[0][0], l[1][0]})
		default:
			for _, leg := range l[calls.Initiator] {
				add(c, [2]calls.LegRecord{calls.Initiator: leg})
			}
			for _, leg := range l[calls.Responder] {
				add(c, [2]calls.LegRecord{calls.Responder: leg})
			}
		}
	}
	return all
}

// add reserves the IDs of flows that nobody claims.
func (o *orphans) add(have datapath.Flows, t *calls.Table, now time.Time) {
	o.all = make(map[calls.Flow]*orphan, len(have))
	for f := range have {
		o.all[f] = &orphan{reserved: t.Reserve(f), alive: now}
	}
	o.count.Store(int64(len(o.all)))
}

// watchOrphans looks after the orphans, with all control connections that the kernel has. The
// entries are asked for one by one: where packets visit the daemon nobody lists them.
func (g *Gateway) watchOrphans(live []calls.Connection, now time.Time) {
	if len(g.orphans.all) == 0 {
		return
	}
	by := claimants(live)
	var over []calls.Flow
	for f, o := range g.orphans.all {
		if !g.present(f) {
			g.bequeath(f, o, now)
			continue
		}
		if len(by[ends(f)]) > 0 {
			o.alive = now
		}
		if now.Sub(o.alive) >= orphanPatience {
			over = append(over, f)
		}
	}
	g.change(calls.Remove, g.kernel.ApplyLate, over, func(f calls.Flow) bool { return !g.table.Has(f) })
	g.orphans.count.Store(int64(len(g.orphans.all)))
}

// bequeath forgets an orphan whose entry is gone, and has its ID rest. An ID that rested or was
// in use when it was to be reserved is none of the orphan's.
func (g *Gateway) bequeath(f calls.Flow, o *orphan, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if o.reserved {
		g.table.Unreserve(f, now)
	}
	delete(g.orphans.all, f)
}
