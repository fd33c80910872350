package gateway

import (
	"errors"
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
	"pptpalg/conntrack"
)

// What others have done, and how it is taken in.

// entriesFailed tells of entries of connections that could not be made or changed. The audit
// makes those that are missing. The caller holds order or is the reconciler.
func (g *Gateway) entriesFailed(failed map[int]error) {
	for _, err := range failed {
		switch {
		case errors.Is(err, conntrack.ErrNotFound): // there is nothing to change
		case errors.Is(err, conntrack.ErrTaken):
			g.log.Debug("cannot create the entry of a control connection of another gateway", "err", err)
		default:
			g.conntrackFailed(opCreate, err)
		}
	}
}

// follow takes in what others have done.
func (g *Gateway) follow(b cluster.Batch) {
	for rest := b.Changes; len(rest) > 0; {
		n := slices.IndexFunc(rest, func(c state.Change) bool { return c.Kind == state.Owned })
		switch {
		case n < 0:
			n = len(rest)
		case n == 0:
			n = 1
		}
		g.followSome(rest[:n])
		rest = rest[n:]
	}
	if b.Whole && !g.share.isWhole() {
		g.lockHanded()
		g.confirm()
		g.order.Unlock()
		g.handAll()
		close(g.share.whole)
	}
}

// followSome takes in who owns an address, or what has happened to calls.
func (g *Gateway) followSome(changes []state.Change) {
	g.lockHanded() // what another gateway says of a call is for one that is followed
	defer g.order.Unlock()
	if changes[0].Kind == state.Owned {
		g.owner(&changes[0])
		g.carryOut()
		return
	}
	if g.reconsider(changes) {
		g.order.Unlock()
		g.lockHanded()
	}
	g.followCalls(changes)
	g.carryOut()
}

// followCalls puts the calls of others on record. The caller holds order.
func (g *Gateway) followCalls(changes []state.Change) {
	e := entries{}
	now := time.Now()
	g.mu.Lock()
	for i := range changes {
		g.followCall(&changes[i], &e, now)
	}
	g.note(g.table.Events())
	g.mu.Unlock()
	if len(e.idle) > 0 {
		g.entriesFailed(g.kernel.SetTimeout(e.idle, ownLife))
	}
	g.enter(e.first, followedLife)
	g.enter(e.own, ownLife)
}

// enter makes the entries of connections. Where their address is here, their packets may pass already, and the
// entries that they have made stay. The caller holds order.
func (g *Gateway) enter(all []calls.Connection, life uint32) {
	pass, rest := g.passing(all)
	g.entriesFailed(g.kernel.Loosen(pass, life))
	g.entriesFailed(g.kernel.Follow(rest, life))
}

// passing returns the connections whose packets may pass here, and the rest. It takes note of those of the former
// whose calls another gateway has: their entries are loosened, and the rest is to be done later.
func (g *Gateway) passing(all []calls.Connection) (pass, rest []calls.Connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range all {
		public, _ := g.share.place(&c)
		if !g.share.contends(public) {
			rest = append(rest, c)
			continue
		}
		pass = append(pass, c)
		if g.editor.Follows(&c) {
			g.loosens(public, c)
		}
	}
	return pass, rest
}

// entries are connections of others whose entries in the kernel change.
type entries struct {
	first []calls.Connection // with their first call
	idle  []calls.Connection // without calls
	own   []calls.Connection // this gateway's by now, and not on record before
}

func (e *entries) begin(c calls.Connection) {
	e.idle = slices.DeleteFunc(e.idle, c.Same)
	e.first = append(e.first, c)
}

func (e *entries) end(c calls.Connection) {
	e.first = slices.DeleteFunc(e.first, c.Same)
	e.idle = append(e.idle, c)
}

// followCall puts a call of another gateway on record. The caller holds mu.
func (g *Gateway) followCall(c *state.Change, e *entries, now time.Time) {
	number := c.Call.Record.Number
	switch {
	case c.Offered && c.Kind == state.Kept && g.wrote(c): // some time ago
		return
	case c.Offered && g.share.mine[c.Public]:
		g.offered(c, e, now)
		return
	}
	if g.knowsBetter(c) {
		delete(g.share.awaited, number)
		return
	}
	delete(g.share.awaited, number)
	if c.Kind == state.Kept {
		g.askForZones(&c.Call.Record.Connection, now)
		first, ok := g.editor.Follow(c.Call.Record, now)
		if first {
			e.begin(c.Call.Record.Connection)
		}
		if !ok {
			g.share.metrics.refused.Inc()
		}
		return
	}
	at := c.Call.At
	if at.IsZero() {
		at = now // nobody has said when
	}
	if of, last := g.editor.Forget(number, at, now); last {
		e.end(of)
	}
	g.rest(&c.Call, at, now)
}

// offered takes in what the former owner of a public address of this gateway's tells late. Its own word that
// a call is over comes back as well. The caller holds mu.
func (g *Gateway) offered(c *state.Change, e *entries, now time.Time) {
	r := &c.Call.Record
	delete(g.share.awaited, r.Number)
	if c.Kind == state.Gone {
		g.editor.Retire(&r.Connection, r.Number, now)
		return
	}
	if g.editor.Has(&r.Connection, r.Number) {
		g.editor.Adopt(*r, now) // it may have been answered meanwhile
		return
	}
	if r.State < calls.Established && now.Sub(g.share.taken[c.Public]) >= 2*late {
		g.share.store.Decline(c) // its reply has passed, or its request came again by this gateway
		return
	}
	first, ok := g.editor.Adopt(*r, now)
	if first {
		e.own = append(e.own, r.Connection)
	}
	if !ok {
		g.share.metrics.refused.Inc()
		g.share.store.Decline(c)
	}
}

// rest lets the public IDs rest of a call that was over before this gateway knew of it. The caller
// holds mu.
func (g *Gateway) rest(c *state.Call, at, now time.Time) {
	switch {
	case c.Rests.ID != 0:
		g.table.Rest(c.Rests, now)
	case at.Add(g.cfg.Table.Rest).After(now):
		g.table.RestCall(c.Record, at, now)
	}
}

// knowsBetter reports whether the journal knows at least as much of a call as the shared
// store: it is a call of this gateway, and the journal comes first. The caller holds mu.
func (g *Gateway) knowsBetter(c *state.Change) bool {
	if c.Kind != state.Kept || c.Owner != g.share.name {
		return false
	}
	a, known := g.share.awaited[c.Call.Record.Number]
	return g.share.over[c.Call.Record.Number] || known && a.state >= c.Call.Record.State
}

// followAgain makes the entries anew of connections of other gateways.
func (g *Gateway) followAgain(all []calls.Connection) {
	for some := range slices.Chunk(all, chunk) {
		g.order.Lock()
		g.mu.Lock()
		some = slices.DeleteFunc(slices.Clone(some), func(c calls.Connection) bool { return !g.editor.Follows(&c) })
		g.mu.Unlock()
		g.entriesFailed(g.kernel.Follow(some, followedLife))
		g.order.Unlock()
		g.metrics.repairs.WithLabelValues(repairRevived).Add(float64(len(some)))
		g.sweeper.repaired = true
	}
}
