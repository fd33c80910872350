package gateway

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"sync"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
	"pptpalg/conntrack"
)

// Gateways of a cluster share their calls. Each public address has one owner: the gateway that
// has the address. What the others do comes from the shared store (follow), and goes the same
// walk from remember on as what this one does.
//
//	an address comes ─► acquire ─► the store has taken it ─► own: the calls are ours
//	                        │         (all that the former owner wrote came before)
//	                        └─ control packets wait for that, for ClusterConfig.Wait at the most
//	an address goes, or another gateway has taken it ─► yield: the calls are followed
//
// Calls of the journal, too, are followed until the shared store says whose they are.
//
// The locks: who holds order may take mu, and who holds mu may take the store's. The store
// calls follow and joined without its own.

// ClusterConfig is what a gateway of a cluster is told.
type ClusterConfig struct {
	Shared cluster.Shared
	Member state.Member
	Wait   time.Duration // how long a packet waits for the shared store at most
	Share  calls.Share   // of public addresses that several gateways have at the same time
}

const (
	// joinTime is how long a gateway that starts waits for what the shared store has. A store
	// that does not answer at all is not waited for.
	joinTime = 5 * time.Second
	// aloneTime is how long it is not ready without: then it may get addresses all the same.
	aloneTime = 30 * time.Second
	// contested is how long an address stays with the gateway that has taken it, although this
	// one has it too and gets its packets.
	contested = 2 * time.Second
	// late is how long after an address has gone packets arrive that were on their way here.
	late = time.Second
	// looked is how fresh the list of addresses must be, for a packet that comes to the wrong
	// gateway.
	looked = 50 * time.Millisecond
	// trusted is how fresh it must be for any packet.
	trusted = 200 * time.Millisecond
)

// Lives of conntrack entries of control connections in seconds, until their next packet.
const (
	followedLife = 10 * 24 * 3600 // packets pass another gateway
	ownLife      = conntrack.ReviveTimeout
)

// share is the gateway's part in a cluster.
type share struct {
	store   *cluster.Store
	name    string
	wait    time.Duration
	part    calls.Share
	metrics *clusterMetrics
	whole   chan struct{} // closed when all was applied that the shared store had

	looking sync.Mutex // held while the list of addresses is read
	looked  time.Time  // guarded by looking

	slots  chan int // that the gateway gets
	chores *chores
	hand   func() // Gateway.handAll

	handings []func() (more bool) // what is left to do where public addresses have new owners; guarded by Gateway.order

	// Guarded by Gateway.mu.
	here    map[netip.Addr]bool          // addresses of this gateway's interfaces
	told    map[netip.Addr]bool          // addresses that a command says are here
	fresh   map[netip.Addr]bool          // addresses that have come here since the store has said that they are this gateway's
	mine    map[netip.Addr]bool          // public addresses that this gateway owns, as far as it knows
	others  map[netip.Addr]holding       // public addresses that it does not own
	astray  map[calls.Tuple]*astray      // connections of others of which packets pass here
	assumed map[netip.Addr]bool          // public addresses that it owns, though the shared store has not said so
	taking  map[netip.Addr]chan struct{} // closed when it is known who owns the address
	left    map[netip.Addr]time.Time     // when public addresses were this gateway's last, or here
	leaving map[netip.Addr]int           // addresses that have gone, while what is pending there is written
	awaited map[uint64]awaited           // calls of the journal of which the shared store has not told, by number
	over    map[uint64]bool              // calls that are over, by the journal
	kept    []calls.Connection           // of the journal
	began   time.Time
}

// holding is who owns a public address, "" for nobody that is known, and since when this gateway
// does not; zero if only the journal knows of the address.
type holding struct {
	name  string
	since time.Time
}

// awaited is what is known of a call of the journal.
type awaited struct {
	public netip.Addr
	state  calls.State
}

// joinCluster returns the store of a gateway of a cluster over its own one.
func (g *Gateway) joinCluster(own store.Store) store.Store {
	cfg := g.cfg.Cluster
	if cfg == nil {
		return own
	}
	g.table.SetSlot(unjoined(cfg.Member.Name), cfg.Share)
	g.share = &share{
		name: cfg.Member.Name, wait: cfg.Wait, part: cfg.Share, astray: make(map[calls.Tuple]*astray), metrics: g.clusterMetrics, whole: make(chan struct{}), chores: newChores(), slots: make(chan int, 16),
		here: make(map[netip.Addr]bool), told: make(map[netip.Addr]bool), fresh: make(map[netip.Addr]bool), mine: make(map[netip.Addr]bool),
		others: make(map[netip.Addr]holding), taking: make(map[netip.Addr]chan struct{}), leaving: make(map[netip.Addr]int), left: make(map[netip.Addr]time.Time), assumed: make(map[netip.Addr]bool),
		awaited: make(map[uint64]awaited), over: make(map[uint64]bool), began: time.Now(), hand: g.handAll,
	}
	g.share.store = cluster.New(own, cfg.Shared, cluster.Config{
		Member: cfg.Member, Of: cfg.Share.Of, Seat: lastSlot(g.cfg.StateDir, cfg.Member.Name) + 1, Wait: cfg.Wait, Rest: g.cfg.Table.Rest, Apply: g.follow, Joined: g.joined, Waited: g.share.waited, Log: g.log,
	})
	g.editor.Owned(g.owns)
	return g.share.store
}

// unjoined is the slot of a gateway that the shared store has given none yet: no member has
// one so high.
func unjoined(name string) uint8 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return uint8(h.Sum32()) | 0x80
}

// joined is told the gateway's slot. Slot 0 is for calls of a time before there was a cluster.
func (g *Gateway) joined(slot int) {
	select {
	case g.share.slots <- slot:
	default: // the disk hangs
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table.SetSlot(uint8(slot)+1, g.share.part)
}

// runCluster is the gateway's part in the cluster until ctx is done.
func (g *Gateway) runCluster(ctx context.Context, group interface{ Go(func() error) }) {
	group.Go(func() error { return g.share.store.Run(ctx) })
	group.Go(func() error { return g.watchAddresses(ctx) })
	group.Go(func() error { return g.share.chores.Run(ctx) })
	group.Go(func() error { return g.keepSlots(ctx) })
}

// awaitWhole waits until all is applied that the shared store has, for a while at
// most.
func (g *Gateway) awaitWhole(ctx context.Context) {
	late := time.NewTimer(joinTime)
	defer late.Stop()
	ask := time.NewTicker(10 * time.Millisecond)
	defer ask.Stop()
	for {
		select {
		case <-g.share.whole:
			return
		case <-late.C:
			g.log.Warn("the shared store does not answer: this gateway starts with what its journal has")
			return
		case <-ctx.Done():
			return
		case <-ask.C:
			if g.share.store.Status().Broken {
				return // it was logged
			}
		}
	}
}

// isWhole reports whether all was applied once that the shared store had.
func (s *share) isWhole() bool {
	select {
	case <-s.whole:
		return true
	default:
		return false
	}
}

// ready returns nil once the gateway may get addresses.
func (s *share) ready(now time.Time) error {
	if !s.isWhole() && now.Sub(s.began) <= aloneTime {
		return errNotWhole
	}
	st := s.store.Status()
	for _, m := range st.Members {
		if err := s.unlike(&m); err != nil {
			return err
		}
	}
	return mayTake(st)
}

// mayTake returns nil if a gateway may get addresses, as far as the shared store goes. One that does
// not answer at all says nothing against any gateway, and who has addresses need not hear.
func mayTake(st cluster.Status) error {
	switch {
	case st.Broken || len(st.Claims) > 0:
		return nil
	case st.SameName:
		return errSameName
	case st.Lag >= cluster.LongLag:
		return fmt.Errorf("the shared store has told nothing for %v", st.Lag.Round(time.Second))
	}
	return nil
}

var (
	errNotWhole = errors.New("the shared store was not read yet")
	errSameName = errors.New("another gateway has the name of this one: give each gateway its own --cluster-name")
)

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

// reconsider has the gateway own public addresses no longer of which the shared store tells what
// others have done: those that it has assumed are acquired as any other; those below which
// calls are offered, which are returned, are owned again when the calls are known. It reports whether there are any.
// The caller holds order.
func (g *Gateway) reconsider(changes []state.Change) (offered []netip.Addr, again bool) {
	for i := range changes {
		c := &changes[i]
		g.mu.Lock()
		assumed, offers := g.share.assumed[c.Public], g.offers(c)
		g.mu.Unlock()
		if !assumed && !offers {
			continue
		}
		again = true
		g.yield(c.Public, "")
		if offers {
			offered = append(offered, c.Public)
			continue
		}
		g.mu.Lock()
		g.acquire(c.Public)
		g.mu.Unlock()
	}
	return offered, again
}

// offers reports whether a change is what a former owner offers. This gateway's own come back as
// well. The caller holds mu.
func (g *Gateway) offers(c *state.Change) bool {
	switch r := &c.Call.Record; {
	case !c.Offered || !g.share.mine[c.Public]:
		return false
	case c.Kind == state.Gone:
		return g.editor.Has(&r.Connection, r.Number)
	default:
		return !g.ours(r)
	}
}

// ours reports whether a call below a public address that this gateway owns is its own: it gave the
// number, or has the call of a former owner already. The caller holds mu.
func (g *Gateway) ours(r *calls.Record) bool {
	return g.table.Opens(r.Number) || g.editor.Has(&r.Connection, r.Number)
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
	delete(g.share.others, public)
	delete(g.share.assumed, public)
	g.share.mine[public] = true
	g.handOver(public, true, former)
	g.share.decided(public)
}

// yield has another gateway own a public address from now on. The caller holds order.
func (g *Gateway) yield(public netip.Addr, owner string) {
	g.mu.Lock()
	if g.share.mine[public] {
		g.share.left[public] = time.Now()
	}
	delete(g.share.mine, public)
	delete(g.share.assumed, public)
	g.share.others[public] = holding{owner, time.Now()}
	g.handOver(public, false, owner)
	if !g.share.returned(public) { // else retake decides
		g.share.decided(public)
	}
	g.mu.Unlock()
	g.carryOut()
}

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
// this kernel knows of their streams is outdated.
func (g *Gateway) renewFollowed(public netip.Addr, all []calls.Connection) {
	g.chore(public, all, false, func(some []calls.Connection) map[int]error { return g.kernel.Remake(some, followedLife) })
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

// entriesFailed tells of entries of connections that could not be made or changed. The audit
// makes those that are missing. The caller holds order or is the reconciler.
func (g *Gateway) entriesFailed(failed map[int]error) {
	for _, err := range failed {
		switch {
		case errors.Is(err, conntrack.ErrNotFound): // there is nothing to change
		case errors.Is(err, conntrack.ErrTaken):
			g.log.Debug("the entry of a control connection of another gateway cannot be made", "err", err)
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
	offered, again := g.reconsider(changes)
	if again {
		g.order.Unlock()
		g.lockHanded()
	}
	g.followCalls(changes)
	for _, public := range offered {
		g.own(public, "")
	}
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
	if len(e.first) > 0 {
		g.entriesFailed(g.kernel.Follow(e.first, followedLife))
	}
}

// entries are connections of others whose entries in the kernel change.
type entries struct {
	first []calls.Connection // with their first call
	idle  []calls.Connection // without calls
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
	if c.Offered && c.Kind == state.Kept && g.ours(&c.Call.Record) {
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
	if taking { // it is about to be taken from that one
		g.share.others[c.Public] = holding{c.Owner, time.Now()}
	}
	g.mu.Unlock()
	if !again && !taking && c.Owner != "" {
		g.yield(c.Public, c.Owner)
		g.share.store.Yield(c.Public)
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
		s.others[c.Public] = holding{former, time.Now()}
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

// restoreShared has the shared store know what it lacks of this gateway's calls, if it does.
func (g *Gateway) restoreShared() {
	g.lockHanded()
	defer g.order.Unlock()
	r := g.beginRepair()
	if r == nil {
		return
	}
	g.mu.Lock()
	walk := g.editor.Copy()
	g.mu.Unlock()
	var some []calls.Record
	for more := true; more; {
		g.mu.Lock()
		some, more = walk.Next(slice, some[:0])
		g.mu.Unlock()
		r.Have(some, time.Now())
		g.order.Unlock() // packets get their turn
		g.lockHanded()
	}
	var resting []calls.Resting
	if r.Rests() {
		g.mu.Lock()
		resting = g.table.Resting()
		g.mu.Unlock()
	}
	r.End(resting, time.Now())
}

const (
	// repairTries is how often a repair waits, for repairPause, until the gateway has taken in what others
	// have done: there is always some where many calls come and go.
	repairTries = 200
	repairPause = time.Millisecond
)

// beginRepair has the store begin to compare, if it lacks something. The caller holds order.
func (g *Gateway) beginRepair() (r *cluster.Repair) {
	for range repairTries {
		if r = g.share.store.Repair(); r != nil || !g.share.store.Occupied() {
			return r
		}
		g.order.Unlock()
		time.Sleep(repairPause)
		g.lockHanded()
	}
	return nil
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

var errAlone = errors.New("this gateway is in no cluster: see --cluster")
