package gateway

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// What is done a slice at a time where a public address has a new owner, while packets get their turn.

// handing is a walk through the connections with a public address that has a new owner.
type handing struct {
	public netip.Addr
	mine   bool   // this gateway owns it from now on
	other  string // who owned it before, or does from now on
	walk   *alg.Handover
	moved  []calls.Connection // those with calls, so far
}

// handOver has all connections with a public address visited by and by: this gateway owns them from
// now on, or another one does. No audit, and nothing that others say of their calls, may come
// between. The caller holds order and mu.
func (g *Gateway) handOver(public netip.Addr, mine bool, other string) {
	g.share.handovers++
	h := &handing{public: public, mine: mine, other: other, walk: g.editor.Handover(func(c *calls.Connection) bool {
		p, shared := g.share.place(c)
		return shared && p == public
	})}
	g.share.later(func() bool { return g.handSome(h) })
}

// handSlice is how many connections change hands while no packet is edited: so many take a few
// milliseconds.
const handSlice = 250

// handSome visits some connections, and reports whether there are more. The caller holds order.
func (g *Gateway) handSome(h *handing) (more bool) {
	g.mu.Lock()
	some, more := h.walk.Next(handSlice, time.Now())
	g.note(g.table.Events())
	g.mu.Unlock()
	h.moved = append(h.moved, some...)
	if !more {
		g.carryOut()
		g.renewEntries(h.public, h.moved, h.mine)
		g.handed(h)
	}
	return more
}

// later has something done a slice at a time. The caller holds order, as does who does it.
func (s *share) later(do func() (more bool)) {
	s.handings = append(s.handings, do)
	s.chores.add(s.hand)
}

// lockHanded takes order when nothing is left to do where addresses have new owners.
func (g *Gateway) lockHanded() {
	g.order.Lock()
	for g.handOne() {
		g.order.Unlock() // packets get their turn
		g.order.Lock()
	}
}

// handAll does all that is left to do.
func (g *Gateway) handAll() {
	g.lockHanded()
	g.order.Unlock()
}

// handOne does a slice of what is left, and reports whether there was any. The caller holds order.
func (g *Gateway) handOne() bool {
	s := g.share
	if s == nil || len(s.handings) == 0 {
		return false
	}
	do := s.handings[0]
	if !do() {
		s.handings = s.handings[1:]
	}
	g.carryOut()
	return true
}

// handed tells that all connections with an address have their new owner. The caller holds order.
func (g *Gateway) handed(h *handing) {
	switch {
	case len(h.moved) == 0:
	case h.mine:
		g.log.Info("this gateway owns the public address and its calls from now on", "public", state.NameOf(h.public), "connections", len(h.moved))
		if h.other != g.share.name {
			g.share.metrics.takeovers.Inc()
		}
	default:
		g.log.Info("this gateway follows the calls of the public address from now on", "public", state.NameOf(h.public), "owner", h.other, "connections", len(h.moved))
		g.rewrite() // the journal has this gateway's calls alone
	}
}

// renewEntries has the entries of connections with a new owner changed. If their packets pass
// another gateway, what this kernel knows of their streams is outdated.
func (g *Gateway) renewEntries(public netip.Addr, all []calls.Connection, mine bool) {
	if mine {
		g.chore(public, all, true, func(some []calls.Connection) map[int]error { return g.kernel.SetTimeout(some, ownLife) })
		return
	}
	g.renewFollowed(public, all)
}

// renewFollowed makes the entries anew of connections whose packets pass another gateway: what
// this kernel knows of their streams is outdated. As long as this gateway has their address, too, some
// packets come here: then it is done when the address has gone.
func (g *Gateway) renewFollowed(public netip.Addr, all []calls.Connection) {
	g.chore(public, all, false, func(some []calls.Connection) map[int]error {
		pass, rest := g.passing(some)
		g.entriesFailed(g.kernel.Loosen(pass, followedLife))
		return g.kernel.Remake(rest, followedLife)
	})
}

// contends reports whether packets of a public address may pass here, whoever owns it: it is here. The caller
// holds mu.
func (s *share) contends(public netip.Addr) bool { return s.isHere(public) && s.takes(public) }

// loosens takes note of a connection whose entry is loosened. The caller holds mu.
func (g *Gateway) loosens(public netip.Addr, c calls.Connection) {
	before := g.share.loosened[public]
	all := append(before, c)
	if cap(all) != cap(before) { // an address may be here beside its owner for long
		all = slices.DeleteFunc(all, g.over)
		all = slices.Grow(slices.Clip(all), len(all)+16)
	}
	g.share.loosened[public] = all
}

// over reports whether a connection is not on record any more with calls of another gateway.
func (g *Gateway) over(c calls.Connection) bool { return !g.editor.Follows(&c) }

// renewLoosened does what is left to do for a public address that was here beside its owner, and has gone. The
// caller holds mu.
func (g *Gateway) renewLoosened(public netip.Addr) {
	all := slices.DeleteFunc(g.share.loosened[public], g.over)
	delete(g.share.loosened, public)
	g.renewFollowed(public, all)
}

// chore has the entries of connections with a public address changed by and by, as long as
// the address is this gateway's, or is not.
func (g *Gateway) chore(public netip.Addr, all []calls.Connection, mine bool, do func([]calls.Connection) map[int]error) {
	for some := range slices.Chunk(all, chunk) {
		g.share.chores.add(func() {
			g.order.Lock()
			defer g.order.Unlock()
			g.mu.Lock()
			_, other := g.share.others[public]
			g.mu.Unlock()
			if mine == !other {
				g.entriesFailed(do(some))
			}
		})
	}
}

// chores are pieces of work that are done one after the other, and that nobody waits for.
type chores struct {
	more chan struct{} // has an item when there may be some

	mu  sync.Mutex // guards all
	all []func()
}

func newChores() *chores { return &chores{more: make(chan struct{}, 1)} }

func (c *chores) add(do func()) {
	c.mu.Lock()
	c.all = append(c.all, do)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default: // one is on its way
	}
}

// Run does what is added until ctx is done.
func (c *chores) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.more:
		}
		for do := c.next(); do != nil && ctx.Err() == nil; do = c.next() {
			do()
		}
	}
}

func (c *chores) next() (do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) > 0 {
		do, c.all = c.all[0], c.all[1:]
	}
	return do
}
