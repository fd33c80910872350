package gateway

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"
	"time"

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
	// late is how long after an address has gone packets arrive that were on their way here, and how long
	// after it has come the former owner may have something to tell.
	late = time.Second
	// looked is how fresh the list of addresses must be, for a packet that comes to the wrong
	// gateway. One that comes later than the list comes again.
	looked = 5 * time.Millisecond
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
	here      map[netip.Addr]bool               // addresses of this gateway's interfaces
	told      map[netip.Addr]bool               // addresses that a command says are here
	gone      map[netip.Addr]bool               // addresses that were here, by an interface or a command, and are no longer
	fresh     map[netip.Addr]bool               // addresses that have come here since the store has said that they are this gateway's
	mine      map[netip.Addr]bool               // public addresses that this gateway owns, as far as it knows
	others    map[netip.Addr]holding            // public addresses that it does not own
	astray    map[calls.Tuple]*astray           // connections of others of which packets pass here
	loosened  map[netip.Addr][]calls.Connection // whose entries were loosened, not made anew: their public address is here beside its owner
	assumed   map[netip.Addr]bool               // public addresses that it owns, though the shared store has not said so
	taking    map[netip.Addr]chan struct{}      // closed when it is known who owns the address
	taken     map[netip.Addr]time.Time          // when this gateway got public addresses from others
	latest    time.Time                         // the latest of taken
	handovers uint64                            // how often public addresses have changed hands
	left      map[netip.Addr]time.Time          // when public addresses were this gateway's last, or here
	leaving   map[netip.Addr]int                // addresses that have gone, while what is pending there is written
	awaited   map[uint64]awaited                // calls of the journal of which the shared store has not told, by number
	over      map[uint64]bool                   // calls that the journal says are over
	kept      []calls.Connection                // of the journal
	began     time.Time
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
		here: make(map[netip.Addr]bool), told: make(map[netip.Addr]bool), gone: make(map[netip.Addr]bool), fresh: make(map[netip.Addr]bool), mine: make(map[netip.Addr]bool),
		others: make(map[netip.Addr]holding), taking: make(map[netip.Addr]chan struct{}), leaving: make(map[netip.Addr]int), taken: make(map[netip.Addr]time.Time), left: make(map[netip.Addr]time.Time), assumed: make(map[netip.Addr]bool), loosened: make(map[netip.Addr][]calls.Connection),
		awaited: make(map[uint64]awaited), over: make(map[uint64]bool), began: time.Now(), hand: g.handAll,
	}
	g.share.store = cluster.New(own, cfg.Shared, cluster.Config{
		Member: cfg.Member, Of: cfg.Share.Of, Seat: lastSlot(g.cfg.StateDir, cfg.Member.Name) + 1, Wait: cfg.Wait, Rest: g.cfg.Table.Rest, Apply: g.follow, Joined: g.joined, Keeps: g.keeps, Waits: g.pulse.packet.underWay, Waited: g.share.waited, Log: g.log,
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
			g.log.Warn("the shared store does not answer: this gateway starts with its journal")
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
		return fmt.Errorf("nothing heard from the shared store for %v", st.Lag.Round(time.Second))
	}
	return nil
}

var (
	errNotWhole = errors.New("the shared store has not been read yet")
	errSameName = errors.New("another gateway has the same name as this one: give each gateway its own --cluster-name")
)

var errAlone = errors.New("this gateway is not part of a cluster: see --cluster")
