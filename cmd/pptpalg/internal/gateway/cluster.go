package gateway

import (
	"context"
	"errors"
	"hash/fnv"
	"maps"
	"net/netip"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
	"pptpalg/conntrack"
)

// Gateways of a cluster share their calls. Each public address has one owner: the gateway that
// has the address. What the others do comes from the shared store (follow), and goes the same
// walk from remember on as what this one does.
//
//	an address appears ─► claim ─► the store has taken it ─► Rejoin: the calls are ours
//	                        │         (all that the former owner wrote came before)
//	                        └─ control packets wait for that, for Wait at the most
//	an address goes, or another gateway has taken it ─► Drop: the calls are followed

// ClusterConfig is what a gateway of a cluster is told.
type ClusterConfig struct {
	Shared cluster.Shared
	Member state.Member
	Wait   time.Duration // how long a packet waits for the shared store at most
}

// Lives of conntrack entries of control connections in seconds, until their next packet.
const (
	followedLife = 10 * 24 * 3600 // packets pass another gateway
	ownLife      = uint32(conntrack.ReviveTimeout / time.Second)
)

// share is the gateway's part in a cluster.
type share struct {
	store   *cluster.Store
	wait    time.Duration
	metrics *clusterMetrics

	// Guarded by Gateway.mu.
	here    map[netip.Addr]bool          // addresses of this gateway's interfaces
	told    map[netip.Addr]bool          // addresses that a command says are here
	others  map[netip.Addr]string        // public addresses that other gateways own, "" for one that nobody has said it owns
	taking  map[netip.Addr]chan struct{} // closed when it is known who owns the address
	awaited map[uint64]struct{}          // calls of the journal that the shared store has to confirm
}

// joinCluster returns the store of a gateway of a cluster over its own one.
func (g *Gateway) joinCluster(own store.Store) store.Store {
	cfg := g.cfg.Cluster
	if cfg == nil {
		return own
	}
	g.table.SetSlot(unjoined(cfg.Member.Name), calls.Share{})
	g.share = &share{
		wait: cfg.Wait, metrics: g.clusterMetrics,
		here: make(map[netip.Addr]bool), told: make(map[netip.Addr]bool), others: make(map[netip.Addr]string),
		taking: make(map[netip.Addr]chan struct{}), awaited: make(map[uint64]struct{}),
	}
	g.share.store = cluster.New(own, cfg.Shared, cluster.Config{
		Member: cfg.Member, Wait: cfg.Wait, Rest: g.cfg.Table.Rest, Apply: g.follow, Joined: g.joined, Waited: g.share.waited, Log: g.log,
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
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table.SetSlot(uint8(slot)+1, calls.Share{})
}

// owns reports whether a connection that NAT translates is this gateway's: no other one owns
// its public address. The caller holds mu.
func (g *Gateway) owns(c calls.Connection) bool {
	public, _ := c.Public()
	_, other := g.share.others[public]
	return !other
}

// claim has this gateway own the public address of a connection that it edits.
func (g *Gateway) claim(c *calls.Connection) {
	if g.share == nil {
		return
	}
	if public, shared := c.Public(); shared && g.owns(*c) {
		g.share.store.Claim(public)
	}
}

// awaitOwners waits until it is known who owns the public addresses that are changing hands, for a
// while at most. Where the shared store does not say, the gateway that has the address owns it.
func (g *Gateway) awaitOwners() {
	if g.share == nil {
		return
	}
	g.mu.Lock()
	all := maps.Clone(g.share.taking)
	g.mu.Unlock()
	if len(all) == 0 {
		return
	}
	late := time.NewTimer(g.share.wait)
	defer late.Stop()
	for public, known := range all {
		select {
		case <-known:
		case <-late.C:
			g.assume(public)
			late.Reset(0)
		}
	}
}

// assume has the gateway own an address that it has, though the shared store has not said so.
func (g *Gateway) assume(public netip.Addr) {
	g.order.Lock()
	defer g.order.Unlock()
	g.mu.Lock()
	_, pending := g.share.taking[public]
	g.mu.Unlock()
	if pending {
		g.log.Warn("the shared store does not say who owns the public address: this gateway has it", "public", public)
		g.own(public)
		g.carryOut()
	}
}

// acquire has this gateway own a public address as soon as all is known that its former owner
// has written. The caller holds mu.
func (g *Gateway) acquire(public netip.Addr) {
	if g.share.taking[public] == nil {
		g.share.taking[public] = make(chan struct{})
	}
	g.share.store.Claim(public)
}

// own has this gateway own a public address from now on. The caller holds order.
func (g *Gateway) own(public netip.Addr) {
	now := time.Now()
	g.mu.Lock()
	delete(g.share.others, public)
	taken := g.editor.Rejoin(public, now)
	g.note(g.table.Events())
	if known := g.share.taking[public]; known != nil {
		close(known)
		delete(g.share.taking, public)
	}
	g.mu.Unlock()
	if len(taken) > 0 {
		g.log.Info("calls are taken over", "public", public, "connections", len(taken))
		g.share.metrics.takeovers.Inc()
	}
	g.entriesFailed(g.kernel.SetTimeout(taken, ownLife))
}

// yield has another gateway own a public address from now on. The caller holds order.
func (g *Gateway) yield(public netip.Addr, owner string) {
	now := time.Now()
	g.mu.Lock()
	g.share.others[public] = owner
	dropped := g.editor.Drop(public, now)
	g.note(g.table.Events())
	if known := g.share.taking[public]; known != nil {
		close(known)
		delete(g.share.taking, public)
	}
	g.mu.Unlock()
	if len(dropped) > 0 {
		g.log.Info("calls are followed from now on", "public", public, "owner", owner, "connections", len(dropped))
		g.entriesFailed(g.kernel.Remake(dropped, followedLife))
		g.rewrite()
	}
}

// entriesFailed tells of entries of connections that could not be made; the audit tries again.
func (g *Gateway) entriesFailed(failed map[int]error) {
	for _, err := range failed {
		g.conntrackFailed(opCreate, err)
		return
	}
}

// follow takes in what others have done.
func (g *Gateway) follow(b cluster.Batch) {
	g.order.Lock()
	defer g.order.Unlock()
	connect := g.followCalls(b.Changes)
	g.entriesFailed(g.kernel.Follow(connect, followedLife))
	g.carryOut()
	for i := range b.Changes {
		if c := &b.Changes[i]; c.Kind == state.Owned {
			g.owner(c)
		}
	}
	if b.Whole {
		g.confirmed()
	}
	g.carryOut()
}

// followCalls puts the calls of others on record. It returns the connections that are new.
func (g *Gateway) followCalls(changes []state.Change) (connect []calls.Connection) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range changes {
		c := &changes[i]
		delete(g.share.awaited, c.Call.Record.Number)
		switch c.Kind {
		case state.Kept:
			first, ok := g.editor.Follow(c.Call.Record, now)
			if first {
				connect = append(connect, c.Call.Record.Connection)
			}
			if !ok {
				g.share.metrics.refused.Inc()
			}
		case state.Gone:
			g.editor.Forget(c.Call.Record.Number, c.Call.At, now)
		}
	}
	g.note(g.table.Events())
	return connect
}

// owner takes in who owns a public address. The caller holds order.
func (g *Gateway) owner(c *state.Change) {
	g.mu.Lock()
	mine := g.share.here[c.Public] || g.share.told[c.Public]
	again := !c.Mine && c.Owner == g.cfg.Cluster.Member.Name
	if again && !mine {
		g.acquire(c.Public) // it was ours before the daemon was started again
	}
	g.mu.Unlock()
	switch {
	case c.Mine:
		g.own(c.Public)
	case !again && c.Owner != "":
		g.yield(c.Public, c.Owner)
	}
}

// confirmed forgets calls of the journal that the shared store does not know.
func (g *Gateway) confirmed() {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for number := range g.share.awaited {
		g.editor.Forget(number, now, now)
	}
	clear(g.share.awaited)
	g.note(g.table.Events())
}

// watchAddresses follows the addresses of the gateway's interfaces until ctx is done.
func (g *Gateway) watchAddresses(ctx context.Context) error {
	return ports.Watch(ctx, func(c ports.Change) {
		if c.Addresses {
			g.readdress()
		}
	})
}

// readdress looks which public addresses are here.
func (g *Gateway) readdress() {
	all, err := g.homes.list()
	if err != nil {
		g.limits.sometimes("addresses", func() { g.log.Warn("addresses are not known", "err", err) })
		return
	}
	var left []netip.Addr
	g.mu.Lock()
	for _, a := range all {
		if _, other := g.share.others[a]; other && !g.share.here[a] {
			g.acquire(a)
		}
	}
	now := make(map[netip.Addr]bool, len(all))
	for _, a := range all {
		now[a] = true
	}
	for a := range g.share.here {
		if !now[a] && !g.share.told[a] {
			left = append(left, a)
		}
	}
	g.share.here = now
	g.mu.Unlock()
	for _, a := range left {
		g.leftHere(a)
	}
}

// leftHere has the calls of an address that has gone followed, until somebody has it.
func (g *Gateway) leftHere(public netip.Addr) {
	g.order.Lock()
	defer g.order.Unlock()
	g.share.store.Yield(public)
	g.yield(public, "")
	g.carryOut()
}

// Take says that a public address is on this gateway, and Leave that it is no longer: for addresses
// that are on no interface.
func (g *Gateway) Take(public netip.Addr) error {
	if g.share == nil {
		return errAlone
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.share.told[public] = true
	g.acquire(public)
	return nil
}

// Leave is the opposite of Take.
func (g *Gateway) Leave(public netip.Addr) error {
	if g.share == nil {
		return errAlone
	}
	g.mu.Lock()
	delete(g.share.told, public)
	here := g.share.here[public]
	g.mu.Unlock()
	if !here {
		g.leftHere(public)
	}
	return nil
}

var errAlone = errors.New("this gateway is in no cluster: see --cluster")

// restoreShared takes up calls of the journal. Those with public addresses that are here are
// ours. Others may be another gateway's by now: they are followed until the shared store tells.
func (g *Gateway) restoreShared(all []calls.Record, now time.Time) (refused int) {
	g.readdress()
	var mine []calls.Record
	for i := range all {
		r := &all[i]
		public, shared := r.Connection.Public()
		if !shared || g.share.here[public] {
			if shared {
				g.share.store.Claim(public)
			}
			mine = append(mine, *r)
			continue
		}
		g.share.others[public] = ""
		if _, ok := g.editor.Follow(*r, now); ok {
			g.share.awaited[r.Number] = struct{}{}
		} else {
			refused++
		}
	}
	return refused + g.editor.Restore(mine, now)
}

// followAgain makes the entries anew of connections of other gateways.
func (g *Gateway) followAgain(conns []calls.Connection) {
	if len(conns) == 0 {
		return
	}
	g.metrics.repairs.WithLabelValues(repairRevived).Add(float64(len(conns)))
	g.entriesFailed(g.kernel.Follow(conns, followedLife))
	g.sweeper.repaired = true
}
