package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"pptpalg/alg"
	"pptpalg/alg/datapath"
	"pptpalg/cmd/pptpalg/internal/journal"
	"pptpalg/conntrack"
	"pptpalg/conntrack/ctnetlink"
	"pptpalg/rules"
)

// unloadTime bounds how long stopping waits for iptables.
const unloadTime = 15 * time.Second

// Config is what the daemon is told.
type Config struct {
	Queue     uint16
	Ports     []uint16 // TCP ports to which control connections are opened
	LoadRules bool     // load the firewall rules, and remove them in the end
	DataPath  DataPath
	Data      rules.Data   // the GRE queues, for InDaemon
	Bypass    rules.Bypass // how the kernel is told of connections that are let alone
	ResetMark uint32       // of segments that rules answer with a RST; 0 for none
	StateDir  string       // directory of the journal

	Table       conntrack.Config
	Connections int           // control connections on record at most
	Idle        time.Duration // a call without GRE and control messages for so long is ended; 0 for never
	QueueLen    int           // packets that wait for a verdict at most
	QueueBuffer int           // of the queue's socket, bytes
	Version     string
}

// kernel and lister are what the daemon needs of the kernel's conntrack;
// ctnetlink.Conn is both.
type kernel interface {
	Connection(conntrack.Tuple) (conntrack.Connection, error)
	Apply(changes []conntrack.Change) (failed map[int]error)
	ApplyCounting(changes []conntrack.Change, counted func(conntrack.Flow, conntrack.Traffic)) (failed map[int]error)
	ApplyLate(changes []conntrack.Change) (failed map[int]error)
	Has(conntrack.Flow) (bool, error)
	Leave(conntrack.Tuple, uint16, ctnetlink.Bypass) error
	Revive(conntrack.Connection) error
	Probe() error
	Close() error
}

type lister interface {
	Traffic(into map[conntrack.Flow]conntrack.Traffic, wanted func(*ctnetlink.Stray) bool) ([]ctnetlink.Stray, error)
	Connections(ports []uint16) ([]conntrack.Connection, error)
	StandingTraffic(into map[conntrack.Flow]conntrack.Traffic, known []conntrack.Flow) error
	StandingConnections([]conntrack.Connection) ([]conntrack.Connection, error)
	Renew(mine func(conntrack.Flow) bool) (renewed int, err error)
	Close() error
}

// Daemon edits the control connections of one network namespace.
type Daemon struct {
	cfg      Config
	log      *slog.Logger
	limits   limits
	kernel   kernel // for the packet loop
	lister   lister // for sweeps: a socket of its own, so that no packet waits for a dump
	viewer   lister // for those who ask the daemon: no sweep waits for them
	queues   []*queue
	path     path
	gre      *datapath.Table // the flows of InDaemon; nil without
	firewall rules.Firewall
	metrics  *metrics
	pulse    pulse
	sweeper  sweeper    // owned by sweep
	strays   strayWatch // owned by sweep
	orphans  orphans
	compared int                    // how often; owned by sweep
	homes    homes                  // owned by sweep
	turn     turn                   // of the packet loop, which owns it
	ready    atomic.Bool            // the daemon edits
	beside   atomic.Pointer[Beside] // nil until Count

	// mu guards what follows. The packet loop holds it for one packet; a comparison
	// while it looks through the table, and for each chunk of entries that it makes
	// or deletes.
	mu      sync.Mutex
	pending []conntrack.Change // of the data path, to be carried out before their packets are let go
	table   *conntrack.Table
	editor  *alg.Editor
	journal *journal.Journal
	sight   sight
	lacking int                         // flows that the kernel lacked when it was last looked
	doomed  map[conntrack.Flow]struct{} // of calls that are over, and perhaps still in the kernel
}

// Open checks what the daemon needs and binds the queue. Packets that come before
// Run wait. The caller must call Run.
func Open(cfg Config, reg prometheus.Registerer, log *slog.Logger) (*Daemon, error) {
	var conns [3]*ctnetlink.Conn
	for i := range conns {
		var err error
		if conns[i], err = ctnetlink.Dial(); err != nil {
			return nil, errors.Join(err, closeAll(conns[:i]))
		}
	}
	d := newDaemon(cfg, reg, log)
	d.kernel, d.lister, d.viewer = conns[0], conns[1], conns[2]
	d.choosePath()
	if err := errors.Join(d.openControl(), d.openGRE()); err != nil {
		return nil, errors.Join(err, d.closeQueues(), d.closeKernel())
	}
	if err := d.remember(); err != nil {
		return nil, errors.Join(err, d.closeQueues(), d.closeKernel())
	}
	return d, nil
}

func newDaemon(cfg Config, reg prometheus.Registerer, log *slog.Logger) *Daemon {
	table := conntrack.New(cfg.Table)
	d := &Daemon{
		cfg: cfg, log: log, table: table, editor: alg.NewEditor(table, cfg.Connections),
		doomed: make(map[conntrack.Flow]struct{}), sight: newSight(), sweeper: sweeper{have: make(flows)}, homes: homes{list: interfaceAddrs},
	}
	d.editor.ResetLost(cfg.ResetMark != 0)
	d.metrics = newMetrics(reg, d, cfg.Version)
	return d
}

// Close gives up a daemon that was not run.
func (d *Daemon) Close() error {
	return errors.Join(d.closeQueues(), d.closePath(), d.journal.Close())
}

func (d *Daemon) closeKernel() error {
	return errors.Join(d.kernel.Close(), d.lister.Close(), d.viewer.Close())
}

func closeAll(conns []*ctnetlink.Conn) error {
	var errs []error
	for _, c := range conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (d *Daemon) closePath() error { return errors.Join(d.path.close(), d.closeKernel()) }

// Run edits until ctx is done. The rules are loaded after the queue was bound and
// removed before it is let go, so that no segment is ever sent to a queue without
// a reader. The GRE entries of calls that live are left in place: the calls go on.
//
// ready is called once, when everything works.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	lock, err := takeLock(&d.cfg)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	d.adopt()
	d.clearKernel()
	d.compare()
	d.renew()
	d.rewrite() // what the comparison has deleted need not be looked for again
	if err := d.load(ctx); err != nil {
		return errors.Join(err, d.Close(), lock.release())
	}
	d.ready.Store(true)
	ready()
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, working := errgroup.WithContext(working)
	for _, q := range d.queues {
		group.Go(func() error { return q.Run(working) })
	}
	group.Go(func() error { return d.sweep(working) })
	group.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
		case <-working.Done():
		}
		d.ready.Store(false)
		return d.unload()
	})
	err = errors.Join(group.Wait(), d.closePath(), lock.release())
	d.journalFailed(d.journal.Close())
	return err
}

func (d *Daemon) load(ctx context.Context) error {
	if !d.cfg.LoadRules {
		return nil
	}
	cfg := rules.Config{Queue: d.cfg.Queue, Ports: d.cfg.Ports, Bypass: d.cfg.Bypass, ResetMark: d.cfg.ResetMark}
	if d.gre != nil {
		cfg.Data = d.cfg.Data
	}
	done, err := d.firewall.Load(ctx, cfg)
	if err != nil {
		return err
	}
	if done.Refused != nil {
		d.log.Warn("rules are loaded without what iptables refused", "every_segment_is_queued", done.Config.AllSegments,
			"bypass", done.Config.Bypass, "reset_mark", done.Config.ResetMark, "err", done.Refused)
	}
	d.cfg.Bypass, d.cfg.ResetMark = done.Config.Bypass, done.Config.ResetMark
	d.editor.ResetLost(d.cfg.ResetMark != 0)
	return nil
}

func (d *Daemon) unload() error {
	if !d.cfg.LoadRules {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), unloadTime)
	defer cancel()
	return d.firewall.Unload(ctx)
}

// Reload takes over cfg.Table, but for Random, and cfg.Idle. No call is lost for it. The
// rest of cfg needs a new daemon.
func (d *Daemon) Reload(cfg Config) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.table.SetConfig(cfg.Table)
	d.cfg.Table, d.cfg.Idle = cfg.Table, cfg.Idle
	return nil
}

// Calls returns a copy of the call table, the oldest call first. It may be called from any
// goroutine: packets wait for a slice of the table at most.
func (d *Daemon) Calls() []conntrack.View {
	views := d.views()
	slices.SortFunc(views, func(a, b conntrack.View) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Number, b.Number))
	})
	return slices.CompactFunc(views, func(a, b conntrack.View) bool { return a.Number == b.Number })
}

func (d *Daemon) views() []conntrack.View {
	d.mu.Lock()
	list := d.editor.List()
	views := make([]conntrack.View, 0, d.table.Calls())
	d.mu.Unlock()
	for more := true; more; {
		d.mu.Lock()
		views, more = list.Next(slice, views)
		d.mu.Unlock()
	}
	return views
}

func (d *Daemon) calls() float64   { return d.read(func() int { return d.table.Calls() }) }
func (d *Daemon) resting() float64 { return d.read(func() int { return d.table.RestingIDs() }) }
func (d *Daemon) missing() float64 { return d.read(func() int { return d.lacking }) }

func (d *Daemon) evicted() float64 {
	return d.read(func() int { return int(d.editor.Evicted()) })
}

func (d *Daemon) edited() float64 {
	return d.read(func() int { return d.editor.Connections()[alg.Read] })
}

func (d *Daemon) untouched() float64 {
	return d.read(func() int {
		n := 0
		for pass, count := range d.editor.Connections() {
			if pass != alg.Read {
				n += count
			}
		}
		return n
	})
}

func (d *Daemon) read(f func() int) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return float64(f())
}
