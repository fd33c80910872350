package gateway

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/fast"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/conntrack"
	"pptpalg/rules"
	"pptpalg/rules/choice"
)

// unloadTime bounds how long stopping waits for iptables.
const unloadTime = 15 * time.Second

// Config is what the daemon is told.
type Config struct {
	Queue     uint16
	Ports     []uint16 // TCP ports to which control connections are opened
	Events    bool     // listen to conntrack's events
	Rules     string   // who loads the firewall rules, and removes them in the end: a name of package choice
	DataPath  datapath.Name
	Fast      fast.Config      // the fast path upon data path kernel
	Data      rules.Data       // the GRE queues, where packets visit the daemon
	Bypass    conntrack.Bypass // marks connections that need no queueing
	Follow    bool             // also calls that NAT does not touch have flows, which translate nothing
	ResetMark uint32           // of segments that rules answer with a RST; 0 for none
	StateDir  string           // directory of the store

	Table       calls.Config
	Connections int           // control connections on record at most
	Idle        time.Duration // a call without GRE and control messages for so long is ended; 0 for never
	QueueLen    int           // packets that wait for a verdict at most
	QueueBuffer int           // of the queue's socket, bytes
	Version     string

	Cluster *ClusterConfig // nil for a gateway alone
}

// kernelTable and lister are what the daemon needs of the kernel's conntrack;
// conntrack.Conn is both.
type kernelTable interface {
	kernel.Entries
	Connection(calls.Tuple) (calls.Connection, error)
	ConnectionIn(calls.Tuple, uint16) (calls.Connection, error)
	Has(calls.Flow) (bool, error)
	Leave(calls.Tuple, uint16, conntrack.Bypass) error
	Revive(calls.Connection) error
	Follow(conns []calls.Connection, life uint32) (failed map[int]error)
	Remake(conns []calls.Connection, life uint32) (failed map[int]error)
	Loosen(conns []calls.Connection, life uint32) (failed map[int]error)
	SetTimeout(conns []calls.Connection, life uint32) (failed map[int]error)
	Probe() error
	Close() error
}

type lister interface {
	kernel.Lister
	Connections(ports []uint16) ([]calls.Connection, error)
	StandingConnections([]calls.Connection) ([]calls.Connection, error)
	Close() error
}

// Gateway edits the control connections of one network namespace.
type Gateway struct {
	cfg      Config
	log      *slog.Logger
	limits   limits
	lock     *lock       // of the network namespace
	kernel   kernelTable // for the packet loop
	lister   lister      // for sweeps: a socket of its own, so that no packet waits for a dump
	viewer   lister      // for those who ask the daemon: no sweep waits for them
	listener listener    // for the reconciler; nil if it does not listen
	queues   []*queuing
	path     datapath.Path
	firewall rules.Backend
	loaded   atomic.Pointer[rules.Outcome] // what firewall has loaded; nil before
	metrics  *metrics
	events   *history.Store
	ledger   *history.Ledger
	pulse    pulse
	turn     turn                   // of the packet loop, which owns it
	ready    atomic.Bool            // the daemon edits
	lacking  atomic.Int64           // flows that the data path lacked at the last audit, or has refused since
	wanted   atomic.Bool            // somebody has read the metrics since the last audit
	beside   atomic.Pointer[Beside] // nil until Count
	share    *share                 // nil for a gateway alone
	witness  atomic.Pointer[func(*explain.Facts)]
	older    atomic.Pointer[older] // nil before the start
	tooBigs  tooBigs
	meter    atomic.Pointer[func(time.Time, map[calls.Flow]calls.Traffic)]

	clusterMetrics *clusterMetrics

	// Owned by the reconciler.
	sweeper sweeper
	strays  strayWatch
	orphans orphans
	homes   homes
	flushes flushes

	guard    guard
	carrying carrying

	// order guards the store and the data path, and what follows. Who holds it may take mu,
	// and not the other way round.
	order  sync.Mutex
	store  store.Store
	doomed map[calls.Flow]struct{} // flows of calls that have ended, and perhaps still in the kernel
	taken  happened                // memory for take
	// elsewhere says that something was carried out of which another gateway does not know, though it
	// has the call: see settle.
	elsewhere bool

	// mu guards what follows. The packet loop holds it for one packet; an audit
	// while it looks through the table. Nobody waits for the kernel or a disk meanwhile.
	mu       sync.Mutex
	table    *calls.Table
	editor   *alg.Editor
	happened happened
	refusals refusals
	zones    zones
}

// Open takes the network namespace's lock, checks what the daemon needs and binds the queue.
// Packets that come before Run wait. The caller must call Run.
//
// The lock comes first, so that a second daemon is refused before it touches anything. What an
// earlier daemon has left in the kernel is changed by Run only: a daemon that finds something
// else taken, such as the port of its metrics, leaves calls as they are.
func Open(cfg Config, reg prometheus.Registerer, log *slog.Logger) (*Gateway, error) {
	lock, err := takeLock(&cfg)
	if err != nil {
		return nil, err
	}
	d, err := open(cfg, reg, log)
	if err != nil {
		return nil, errors.Join(err, lock.release())
	}
	d.lock = lock
	return d, nil
}

// open is Open with the lock.
func open(cfg Config, reg prometheus.Registerer, log *slog.Logger) (*Gateway, error) {
	var conns [3]*conntrack.Conn
	for i := range conns {
		var err error
		if conns[i], err = conntrack.Dial(); err != nil {
			return nil, errors.Join(err, closeAll(conns[:i]))
		}
	}
	d := newGateway(cfg, reg, log)
	d.kernel, d.lister, d.viewer = conns[0], conns[1], conns[2]
	if cfg.Events {
		l, err := conntrack.Listen(cfg.Ports, conns[:]...)
		if err != nil {
			return nil, errors.Join(err, closeAll(conns[:]))
		}
		d.listener = l
	}
	if err := d.openControl(); err != nil {
		return nil, errors.Join(err, d.closeQueues(), d.closeKernel())
	}
	d.choosePath()
	if err := d.openGRE(); err != nil {
		return nil, errors.Join(err, d.closeQueues(), d.closeKernel())
	}
	if err := d.openStore(); err != nil {
		return nil, errors.Join(err, d.closeQueues(), d.closeKernel())
	}
	return d, nil
}

func newGateway(cfg Config, reg prometheus.Registerer, log *slog.Logger) *Gateway {
	table := calls.New(cfg.Table)
	events := history.NewStore(history.DefaultClients, history.DefaultPerClient)
	d := &Gateway{
		cfg: cfg, log: log, table: table, firewall: choice.New(cfg.Rules), editor: alg.NewEditor(table, cfg.Connections),
		events: events, ledger: history.NewLedger(events), doomed: make(map[calls.Flow]struct{}),
		sweeper: sweeper{have: make(datapath.Flows)}, homes: homes{list: interfaceAddrs},
	}
	d.editor.ResetLost(cfg.ResetMark != 0)
	if cfg.Follow {
		d.editor.ReadAll()
	}
	d.metrics = newMetrics(reg, d, cfg.Version)
	return d
}

// Close gives up a daemon that was not run.
func (g *Gateway) Close() error {
	return errors.Join(g.closeQueues(), g.closePath(), g.store.Close(), g.lock.release())
}

func (g *Gateway) closeKernel() error {
	return errors.Join(g.kernel.Close(), g.lister.Close(), g.viewer.Close(), g.deafen())
}

func closeAll(conns []*conntrack.Conn) error {
	var errs []error
	for _, c := range conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (g *Gateway) closePath() error {
	return errors.Join(g.path.Close(), g.takeCanary(), g.closeKernel())
}

// Run edits until ctx is done. The rules are loaded after the queue was bound and
// removed before it is let go, so that no segment is ever sent to a queue without
// a reader. The GRE entries of calls that live are left in place: the calls go on.
//
// ready is called once, when everything works.
func (g *Gateway) Run(ctx context.Context, ready func()) error {
	g.beginPath()
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, working := errgroup.WithContext(working)
	if g.share != nil {
		g.runCluster(working, group)
		g.awaitWhole(ctx)
	}
	g.adopt()
	g.clearKernel()
	g.audit()
	g.renew()
	g.lockHanded()
	g.rewrite() // what the audit has deleted need not be looked for again
	g.order.Unlock()
	// Rules of a daemon that was killed have sent packets already. Loading drops those that wait.
	for _, q := range g.queues {
		group.Go(func() error { return q.Run(working) })
	}
	if err := g.load(ctx); err != nil {
		stop()
		return errors.Join(err, group.Wait(), g.Close())
	}
	g.ready.Store(true)
	ready()
	group.Go(func() error { return g.sweep(working) })
	if a := g.ahead(); a != nil {
		group.Go(func() error { return a.Run(working) })
	}
	guarding, relieve := context.WithCancel(working)
	guarded := make(chan error, 1)
	go func() { guarded <- g.guardRules(guarding) }()
	group.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
		case <-working.Done():
		}
		g.ready.Store(false)
		relieve() // who guards the rules must not load again what is unloaded now
		return errors.Join(<-guarded, g.unload())
	})
	err := group.Wait()
	g.keepCarried()
	err = errors.Join(err, g.closePath())
	g.storeFailed(g.store.Close())
	return errors.Join(err, g.lock.release()) // last: the next daemon finds nothing taken
}

// ignores reports whether the calls of a connection are none of the daemon's business. Whether
// one that NAT does not touch is the gateway's own only its packets tell.
func (g *Gateway) ignores(c *calls.Connection) bool {
	return c.Helper != "" || !c.Translated() && !g.cfg.Follow
}

func (g *Gateway) load(ctx context.Context) error {
	done, err := g.firewall.Load(ctx, g.rules())
	if err != nil {
		return err
	}
	if done.Refused != nil {
		g.log.Warn("rules are loaded, except what "+done.Backend+" refused", "every_segment_is_queued", done.Config.AllSegments,
			"bypass", done.Config.Bypass, "reset_mark", done.Config.ResetMark, "fragmentation_needed", done.Config.TooBig, "err", done.Refused)
	}
	g.loaded.Store(&done)
	there := true
	if done.Backend == choice.None { // somebody else loads them, perhaps later
		there, err = g.firewall.Present(ctx, g.rules())
	}
	if now := time.Now(); there && err == nil {
		g.guard.since.Store(&now)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.editor.ResetLost(done.Config.ResetMark != 0)
	return nil
}

// rules returns the configuration of the rules: as they are loaded, or as they are to be loaded.
func (g *Gateway) rules() rules.Config {
	if done := g.loaded.Load(); done != nil {
		return done.Config
	}
	cfg := rules.Config{Queue: g.cfg.Queue, Ports: g.cfg.Ports, Bypass: g.cfg.Bypass, ResetMark: g.cfg.ResetMark, Data: g.cfg.Data}
	if g.visits() == nil {
		return cfg.ByKernel()
	}
	return cfg
}

func (g *Gateway) unload() error {
	ctx, cancel := context.WithTimeout(context.Background(), unloadTime)
	defer cancel()
	return g.firewall.Unload(ctx)
}

// RulesBy returns who has loaded the firewall rules.
func (g *Gateway) RulesBy() string {
	if done := g.loaded.Load(); done != nil {
		return done.Backend
	}
	return g.firewall.Name()
}

// Reload takes over cfg.Table, but for Random, and cfg.Idle. No call is lost for it. The
// rest of cfg needs a new daemon.
func (g *Gateway) Reload(cfg Config) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table.SetConfig(cfg.Table)
	g.cfg.Table, g.cfg.Idle = cfg.Table, cfg.Idle
	if g.share != nil {
		g.share.store.SetRest(cfg.Table.Rest)
	}
	return nil
}

// Limits returns the maximum numbers of calls and of control connections.
func (g *Gateway) Limits() (calls, connections int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.Table.Calls, g.cfg.Connections
}

// Calls returns a copy of the call table, the oldest call first. It may be called from any
// goroutine: packets wait for a slice of the table at most.
func (g *Gateway) Calls() []calls.View {
	views := g.views()
	slices.SortFunc(views, func(a, b calls.View) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Number, b.Number))
	})
	return slices.CompactFunc(views, func(a, b calls.View) bool { return a.Number == b.Number })
}

func (g *Gateway) views() []calls.View {
	views := make([]calls.View, 0, int(g.calls()))
	for some := range g.SomeCalls() {
		views = append(views, some...)
	}
	return views
}

// SomeCalls returns all calls, some at a time, in no order; one that moves meanwhile may come twice. Each slice
// is valid until the next one.
func (g *Gateway) SomeCalls() iter.Seq[[]calls.View] {
	return func(yield func([]calls.View) bool) {
		g.mu.Lock()
		list := g.editor.List()
		g.mu.Unlock()
		var some []calls.View
		for more := true; more; {
			g.mu.Lock()
			some, more = list.Next(slice, some[:0])
			g.mu.Unlock()
			if !yield(some) {
				return
			}
		}
	}
}

func (g *Gateway) calls() float64 { return g.read(func() int { return g.table.Calls() }) }

// flowsMeant is about how many flows there are.
func (g *Gateway) flowsMeant() int {
	return int(g.read(func() int { return 2 * (g.table.Calls() + g.table.Followed()) }))
}

func (g *Gateway) resting() float64 { return g.read(func() int { return g.table.RestingIDs() }) }

// missing is what every reader of the metrics asks for.
func (g *Gateway) missing() float64 {
	g.wanted.Store(true)
	return float64(g.lacking.Load())
}

func (g *Gateway) evicted() float64 {
	return g.read(func() int { return int(g.editor.Evicted()) })
}

func (g *Gateway) edited() float64 {
	return g.read(func() int { return g.editor.Connections()[alg.Read] })
}

func (g *Gateway) untouched() float64 {
	return g.read(func() int {
		n := 0
		for pass, count := range g.editor.Connections() {
			if pass != alg.Read {
				n += count
			}
		}
		return n
	})
}

func (g *Gateway) read(f func() int) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return float64(f())
}
