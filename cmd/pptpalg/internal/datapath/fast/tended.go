package fast

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
)

// Tended is data path kernel with the fast path upon it as long as that is loaded. It loads
// the fast path if it may, opens what others have loaded, and drops the kernel's decisions
// when something changes by which the kernel decides. It never fails for want of the fast
// path: the entries do the work.
type Tended struct {
	*Path
	cfg   Config
	log   *slog.Logger
	clock func() time.Time
	root  bool                           // the process may load programs
	open  atomic.Pointer[fastpath.Table] // what the data path uses; nil: the kernel alone
	ports atomic.Pointer[datapath.Ports] // as the last look found them

	// Of the goroutine that looks after the fast path, and of begin before it runs.
	tender tender
}

// Tend returns the data path. It has loaded nothing yet: see datapath.Ahead.
func Tend(k *kernel.Path, cfg Config, log *slog.Logger) *Tended {
	t := &Tended{cfg: cfg, log: log, clock: time.Now, root: root(), Path: New(k)}
	t.ports.Store(&datapath.Ports{})
	return t
}

// begin loads or opens the fast path, or asks for it.
func (t *Tended) begin() {
	if chosen, err := ports.Choose(t.cfg.Mode, t.cfg.Only); err == nil && t.root {
		t.ensure(chosen, "", nil) // also what is loaded may be of an older release
	}
	t.look()
}

func (t *Tended) Traits() datapath.Traits {
	traits := t.Path.Traits()
	traits.Ahead = &datapath.Ahead{Begin: t.begin, Run: t.run, Changed: t.changed, Figures: t.figures, Counts: t.counts}
	return traits
}

// changed has the kernel decide on all flows anew.
func (t *Tended) changed() {
	table := t.open.Load()
	if table == nil {
		return
	}
	if err := table.Changed(); err != nil {
		t.log.Debug("cannot discard the kernel's decisions; they expire by themselves", "interval", t.cfg.Interval, "err", err)
	}
}

func (t *Tended) figures() datapath.Figures {
	s := fastpath.Nothing()
	if table := t.open.Load(); table != nil {
		s = table.Stats()
	}
	f := figures(s)
	f.Wanted, f.Ports = true, *t.ports.Load()
	return f
}

func (t *Tended) counts() datapath.Counts {
	table := t.open.Load()
	c := counts(table)
	c.Unreadable = table == nil && !errors.Is(t.tender.absent, os.ErrNotExist)
	return c
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
		if c.Links || c.Addresses || c.Filters {
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
		t.listen(ctx, func() error { return ports.Watch(ctx, pacer.Changed) })
	})
	for t.wait(ctx, changes) {
		t.look()
	}
	return nil
}

// listen has watch tell of changes until ctx is done, and begins again after an error: with its
// first change, watch says that everything may have changed meanwhile.
func (t *Tended) listen(ctx context.Context, watch func() error) {
	level := slog.LevelWarn
	for ctx.Err() == nil {
		if err := watch(); err != nil && ctx.Err() == nil {
			t.log.Log(ctx, level, "cannot listen to network changes: until it can, the fast path asks the kernel again only once per interval", "interval", t.cfg.Interval, "err", err)
			level = slog.LevelDebug
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookInterval):
		}
	}
}

// wait waits for a change, and returns false when ctx is done. What a change puts out of use is
// out of use before the pause.
func (t *Tended) wait(ctx context.Context, changes <-chan struct{}) bool {
	interval := lookInterval
	if t.open.Load() == nil || t.ports.Load().Missing > 0 {
		interval = lackInterval
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-changes:
		t.settle()
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
