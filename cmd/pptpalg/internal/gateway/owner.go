package gateway

import (
	"net/netip"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// Who owns a public address, and what that changes.

// holding is who owns a public address, "" for nobody that is known, and since when this gateway
// does not; zero if only the journal knows of the address.
type holding struct {
	name   string
	since  time.Time
	unused bool // nobody has owned it, as far as this gateway knows
}

// awaited is what is known of a call of the journal.
type awaited struct {
	public netip.Addr
	state  calls.State
}

// owns reports whether a connection that NAT translates is this gateway's: no other one owns
// its public address. The caller holds mu.
func (g *Gateway) owns(c calls.Connection) bool {
	public, _ := g.share.place(&c)
	_, other := g.share.others[public]
	return !other
}

// acquires has this gateway acquire the public address of a connection that is not on record, if it
// does not own it, and nobody that it knows of: another gateway may have owned it, and what that has
// done may not be known yet. It reports whether that is to be awaited. The caller holds mu.
func (g *Gateway) acquires(c *calls.Connection) bool {
	if g.share == nil {
		return false
	}
	public, shared := g.share.place(c)
	if !shared || !g.owns(*c) || g.share.mine[public] {
		return false
	}
	g.acquire(public)
	return true
}

// awaitOwners waits until it is known who owns the public addresses that are changing hands, for a
// while at most. Where the shared store does not say, the gateway that has the address owns it.
func (g *Gateway) awaitOwners() {
	var late *time.Timer
	for {
		g.mu.Lock()
		public, known := g.share.undecided()
		g.mu.Unlock()
		if known == nil {
			return
		}
		if late == nil {
			late = time.NewTimer(g.share.wait)
			defer late.Stop()
		}
		select {
		case <-known:
		case <-late.C:
			g.assume(public)
			late.Reset(0)
		}
	}
}

// undecided returns an address that is changing hands.
func (s *share) undecided() (netip.Addr, <-chan struct{}) {
	for public, known := range s.taking {
		return public, known
	}
	return netip.Addr{}, nil
}

// assume has the gateway own an address that it has, though the shared store has not said so.
func (g *Gateway) assume(public netip.Addr) {
	g.order.Lock()
	defer g.order.Unlock()
	g.mu.Lock()
	pending := g.share.taking[public] != nil
	g.mu.Unlock()
	if pending {
		g.log.Warn("the shared store does not say who owns the public address: this gateway goes on with its calls", "public", state.NameOf(public))
		g.own(public, "")
		g.mu.Lock()
		g.share.assumed[public] = true
		g.mu.Unlock()
		g.carryOut()
	}
}

// reconsider has the gateway give up the public addresses that it has assumed, and acquire them as any other,
// where the shared store tells what others have done. It reports whether there are any. The caller holds
// order.
func (g *Gateway) reconsider(changes []state.Change) (again bool) {
	for i := range changes {
		public := changes[i].Public
		g.mu.Lock()
		assumed := g.share.assumed[public]
		g.mu.Unlock()
		if assumed {
			again = true
			g.yield(public, "")
			g.mu.Lock()
			g.acquire(public)
			g.mu.Unlock()
		}
	}
	return again
}

// wrote reports whether an offered call is this gateway's own: it gave the number, or has the call of a former
// owner already and has lost the address since. The caller holds mu.
func (g *Gateway) wrote(c *state.Change) bool {
	r := &c.Call.Record
	return g.table.Opens(r.Number) || !g.share.mine[c.Public] && g.editor.Has(&r.Connection, r.Number)
}

// acquire has this gateway own a public address as soon as all is known that its former owner
// has written. The caller holds mu.
func (g *Gateway) acquire(public netip.Addr) {
	if g.share.taking[public] == nil {
		g.share.taking[public] = make(chan struct{})
	}
	if g.share.leaving[public] == 0 { // else left does it
		g.share.store.Claim(public)
	}
}

// decided tells those who wait that it is known who owns an address. The caller holds mu.
func (s *share) decided(public netip.Addr) {
	if known := s.taking[public]; known != nil {
		close(known)
		delete(s.taking, public)
	}
}

// own has this gateway own a public address from now on. Calls of the journal of which a former
// owner that is known has not told are over. The caller holds order.
func (g *Gateway) own(public netip.Addr, former string) {
	s := g.share
	var stale []uint64
	g.mu.Lock()
	defer g.mu.Unlock()
	for number, a := range s.awaited {
		if a.public == public {
			delete(s.awaited, number)
			stale = append(stale, number)
		}
	}
	if former == "" || former == s.name {
		stale = nil
	}
	if len(stale) == 0 {
		g.begin(public, former)
		return
	}
	g.forgetAll(stale)
	s.later(func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		if s.mine[public] || s.taking[public] != nil { // else it has gone meanwhile
			g.begin(public, former)
		}
		return false
	})
}

// forgetAll has calls forgotten that are over at other gateways. The caller holds order.
func (g *Gateway) forgetAll(numbers []uint64) {
	if len(numbers) == 0 {
		return
	}
	g.share.later(func() bool {
		some := numbers[:min(slice, len(numbers))]
		numbers = numbers[len(some):]
		now := time.Now()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, number := range some {
			g.editor.Forget(number, now, now)
		}
		g.note(g.table.Events())
		return len(numbers) > 0
	})
}

// begin has this gateway own a public address at once. The caller holds order and mu.
func (g *Gateway) begin(public netip.Addr, former string) {
	if _, other := g.share.others[public]; other {
		g.share.latest = time.Now()
		g.share.taken[public] = g.share.latest
	}
	delete(g.share.others, public)
	delete(g.share.assumed, public)
	delete(g.share.loosened, public)
	g.share.mine[public] = true
	g.handOver(public, true, former)
	g.share.decided(public)
}

// yield has another gateway own a public address from now on. The caller holds order.
func (g *Gateway) yield(public netip.Addr, owner string) {
	g.mu.Lock()
	if g.share.mine[public] {
		g.share.left[public] = time.Now()
	} else if owner == "" { // the address has gone after another gateway has taken it
		owner = g.share.others[public].name
	}
	delete(g.share.mine, public)
	delete(g.share.assumed, public)
	g.share.others[public] = holding{name: owner, since: time.Now()}
	g.handOver(public, false, owner)
	if !g.share.returned(public) { // else retake decides
		g.share.decided(public)
	}
	g.mu.Unlock()
	g.carryOut()
}

// owner takes in who owns a public address. The caller holds order.
func (g *Gateway) owner(c *state.Change) {
	if c.Mine {
		g.owned(c)
		return
	}
	g.mu.Lock()
	mine, taking := g.share.mine[c.Public], g.share.taking[c.Public] != nil
	again := c.Owner == g.share.name // an earlier daemon of this gateway has it
	if again && !mine && !taking {
		g.acquire(c.Public)
	}
	if taking && !again && c.Owner != "" && !g.share.isHere(c.Public) {
		taking = false // it was for calls of the journal; the other gateway has their address by now
	}
	if taking { // it is about to be taken from that one
		g.share.others[c.Public] = holding{name: c.Owner, since: time.Now()}
	}
	g.mu.Unlock()
	if !again && !taking && c.Owner != "" {
		g.yield(c.Public, c.Owner)
		g.retake(c.Public)
	}
}

// owned takes in that this gateway owns a public address. That it did once does not count: others
// may have had it since. The caller holds order.
func (g *Gateway) owned(c *state.Change) {
	s := g.share
	current := s.store.Serves(c)
	g.mu.Lock()
	former, taking := s.others[c.Public].name, s.taking[c.Public] != nil
	if c.From.Name != "" && c.From.Name != s.name {
		former = c.From.Name
	}
	if current {
		delete(s.fresh, c.Public)
	} else if taking {
		s.others[c.Public] = holding{name: former, since: time.Now()}
	}
	current = current && (taking || s.mine[c.Public]) // else it has gone meanwhile
	g.mu.Unlock()
	if current {
		g.own(c.Public, former)
	}
}

// confirm decides, when all was read that the shared store has, about calls of the journal of
// which it has not told: they are over if another gateway owns them. What is here is taken from
// others. The caller holds order.
func (g *Gateway) confirm() {
	s := g.share
	var stale []uint64
	g.mu.Lock()
	defer g.mu.Unlock()
	for number, a := range s.awaited {
		switch o, other := s.others[a.public]; {
		case s.taking[a.public] != nil: // own decides
		case other && o.name != "":
			stale = append(stale, number)
			delete(s.awaited, number)
		default:
			g.acquire(a.public)
		}
	}
	g.forgetAll(stale)
	for _, c := range s.kept {
		public, _ := s.place(&c)
		if o := s.others[public]; o.name != "" && s.taking[public] == nil && g.editor.Follows(&c) {
			g.renewFollowed(public, []calls.Connection{c})
		}
	}
	s.kept = nil
	clear(s.over)
}

// await prepares for what the journal has to be taken up. Calls that are shared may be another
// gateway's by now: they are followed until the shared store tells.
func (g *Gateway) await(contents *store.Contents) {
	g.readdress()
	s := g.share
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range contents.Calls {
		r := &contents.Calls[i]
		public, shared := s.place(&r.Connection)
		if !shared {
			continue
		}
		if _, known := s.others[public]; !known {
			s.others[public] = holding{}
			if s.isHere(public) && s.takes(public) {
				g.acquire(public)
			}
		}
		s.awaited[r.Number] = awaited{public, r.State}
		if n := len(s.kept); n == 0 || !s.kept[n-1].Same(r.Connection) {
			s.kept = append(s.kept, r.Connection)
		}
	}
	for _, over := range contents.Gone {
		s.over[over.Record.Number] = true
	}
}
