package fast

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
	"pptpalg/conntrack"
)

// Tended is data path kernel with the fast path upon it as long as that is loaded. It loads
// the fast path if it may, opens what others have loaded, and drops the kernel's decisions
// when something changes by which the kernel decides. It never fails for want of the fast
// path: the entries do the work.
type Tended struct {
	cfg    Config
	log    *slog.Logger
	clock  func() time.Time
	root   bool // the process may load programs
	kernel *kernel.Path
	now    atomic.Pointer[loaded]         // nil: the kernel alone
	ahead  atomic.Pointer[datapath.Ports] // as the last look found them

	// Of the goroutine that looks after the fast path, and of Tend before it runs.
	tender tender
}

// loaded is a fast path that is in use.
type loaded struct {
	*Path
	table *fastpath.Table
}

// Tend returns the data path. It has loaded or opened the fast path, or logged why not.
func Tend(k *kernel.Path, cfg Config, log *slog.Logger) *Tended {
	t := &Tended{cfg: cfg, log: log, clock: time.Now, root: root(), kernel: k}
	t.ahead.Store(&datapath.Ports{})
	if chosen, err := ports.Choose(cfg.Mode, cfg.Only); err == nil && t.root {
		t.ensure(chosen, "", nil) // also what is loaded may be of an older release
	}
	t.look()
	return t
}

// path returns the data path as it is now.
func (t *Tended) path() datapath.Path {
	if p := t.now.Load(); p != nil {
		return p.Path
	}
	return t.kernel
}

func (t *Tended) Name() datapath.Name { return t.kernel.Name() }

func (t *Tended) Traits() datapath.Traits {
	traits := t.kernel.Traits()
	traits.Ahead = &datapath.Ahead{Run: t.run, Changed: t.changed, Figures: t.figures}
	return traits
}

func (t *Tended) Apply(events []calls.Event) (failed map[int]error) { return t.path().Apply(events) }

func (t *Tended) ApplyLate(events []calls.Event) (failed map[int]error) {
	return t.path().ApplyLate(events)
}

func (t *Tended) Carried() datapath.Flows { return t.path().Carried() }

func (t *Tended) Renew(mine func(calls.Flow) bool) (renewed int, err error) {
	return t.path().Renew(mine)
}

func (t *Tended) Snapshot(have datapath.Flows, known []calls.Flow, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	return t.path().Snapshot(have, known, wanted)
}

func (t *Tended) View(have datapath.Flows, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	return t.path().View(have, wanted)
}

// Close leaves the fast path, so that calls go on.
func (t *Tended) Close() error {
	if p := t.now.Swap(nil); p != nil {
		return p.Close()
	}
	return t.kernel.Close()
}

// changed has the kernel decide on all flows anew.
func (t *Tended) changed() {
	p := t.now.Load()
	if p == nil {
		return
	}
	if err := p.table.Changed(); err != nil {
		t.log.Debug("cannot drop the kernel's decisions; they end by themselves", "interval", t.cfg.Interval, "err", err)
	}
}

func (t *Tended) figures() datapath.Figures {
	s := fastpath.Nothing()
	if p := t.now.Load(); p != nil {
		s = p.table.Stats()
	}
	f := figures(s)
	f.Wanted, f.Ports = true, *t.ahead.Load()
	return f
}

func figures(s fastpath.Stats) datapath.Figures {
	return datapath.Figures{
		Flows: s.Flows, InForce: s.InForce, Without: s.Without,
		Packets: s.Packets, Passed: s.Passed, Learnt: s.Learnt, Refused: s.Refused,
	}
}

// None are the figures where there is no fast path.
func None() datapath.Figures { return figures(fastpath.Nothing()) }

const (
	// lookInterval is how often the fast path is looked at although nobody told of a change,
	// and lackInterval while something is missing, which somebody may have loaded.
	lookInterval = 30 * time.Second
	lackInterval = 2 * time.Second
	// lookPause lets a program that changes interfaces finish.
	lookPause = 100 * time.Millisecond
)

// run looks after the fast path until ctx is done.
func (t *Tended) run(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	pacer := ports.NewPacer(func(c ports.Change) {
		t.changed()
		if c.Links || c.Addresses {
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	})
	defer pacer.Stop()
	var group sync.WaitGroup
	defer group.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() {
		if err := ports.Watch(ctx, pacer.Changed); err != nil {
			t.log.Warn("cannot hear of changes of the network: the fast path asks the kernel again at every interval only", "interval", t.cfg.Interval, "err", err)
		}
	})
	for t.wait(ctx, changes) {
		t.look()
	}
	return nil
}

// wait waits for a change, and returns false when ctx is done.
func (t *Tended) wait(ctx context.Context, changes <-chan struct{}) bool {
	interval := lookInterval
	if t.now.Load() == nil || t.ahead.Load().Missing > 0 {
		interval = lackInterval
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-changes:
		pause := time.NewTimer(lookPause)
		defer pause.Stop()
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
	return ctx.Err() == nil
}

// notThere returns why the fast path cannot be opened.
func notThere(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return errors.New(`it is not loaded: "pptpalg fastpath load", as root, loads it`)
	}
	return err
}
