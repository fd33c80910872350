package nfqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// DefaultBatch is how many packets one receive takes at most. A batch of 1 makes a
// packet cost 40 % more than one of 16; larger ones save nothing.
const DefaultBatch = 32

// FastConfig is the configuration of a Fast. Queue is the first of the queues, MaxLen
// and ReadBuffer are each queue's. The functions, as the handler, are called by
// several goroutines, one for each queue.
type FastConfig struct {
	Config
	Queues int // how many queues, numbered on from Queue; 0 is 1
	// Mark are bits to set in the mark of packets that the handler modified or
	// marked; 0 is none.
	Mark  uint32
	Batch int // packets that one receive takes at most; 0 is DefaultBatch
}

func (c FastConfig) withDefaults() FastConfig {
	c.Config = c.Config.withDefaults()
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Batch == 0 {
		c.Batch = DefaultBatch
	}
	return c
}

func (c FastConfig) validate() error {
	if last := int(c.Queue) + c.Queues - 1; c.Queues < 1 || last > 0xffff {
		return fmt.Errorf("bind queues: %d from number %d: give 1 or more, numbered up to 65535", c.Queues, c.Queue)
	}
	if c.Batch < 1 || c.Batch > maxBatch {
		return fmt.Errorf("bind queues: batch of %d packets: give 1 to %d", c.Batch, maxBatch)
	}
	return nil
}

// maxBatch is the kernel's limit for one receive and one send (UIO_MAXIOV).
const maxBatch = 1024

// Fast is a Queue for many packets: several NFQUEUEs, each with a goroutine that
// receives, decides and answers in batches and allocates nothing. It keeps Queue's
// promises, and for the packets of one queue its order.
//
// A verdict leaves with those of the packets that were received with it, so a handler
// that waits makes others wait.
type Fast struct {
	cfg   FastConfig
	lanes []*lane
	halt  *halt
	once  sync.Once
	err   error // of the one time that once did
}

// halt is the order to stop, for all lanes.
type halt struct {
	once  sync.Once
	begun chan struct{}
	by    time.Time // end of draining; written before begun is closed
}

func (h *halt) called() bool {
	select {
	case <-h.begun:
		return true
	default:
		return false
	}
}

// OpenFast binds the queues, as Open does one. Where one cannot be bound none is; the
// errors are Open's.
func OpenFast(cfg FastConfig, h Handler) (*Fast, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f := &Fast{cfg: cfg, halt: &halt{begun: make(chan struct{})}}
	for i := range cfg.Queues {
		queue := cfg.Queue + uint16(i)
		l := newLane(cfg, queue, h, f.halt)
		if err := l.open(); err != nil {
			return nil, errors.Join(explain(queue, err), f.close())
		}
		f.lanes = append(f.lanes, l)
	}
	return f, nil
}

// Run lets packets come to the handler until ctx is done, then drains the queues as
// Close does. It returns nil for that, and the error if a queue died before, upon
// which all stop. The handler must be able to work until Run returns.
func (f *Fast) Run(ctx context.Context) error {
	f.once.Do(func() { f.err = f.run(ctx) })
	return f.err
}

func (f *Fast) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, f.stop)
	defer stop()
	for _, l := range f.lanes {
		group.Go(l.run)
	}
	return group.Wait()
}

// Close drains the queues and gives them back, as Queue's does. It waits for Run to
// return. It may be called again, and returns the same.
func (f *Fast) Close() error {
	f.stop()
	f.once.Do(func() { f.err = f.close() })
	return f.err
}

func (f *Fast) stop() {
	f.halt.once.Do(func() {
		f.halt.by = time.Now().Add(drainLimit)
		close(f.halt.begun)
		for _, l := range f.lanes {
			l.stop()
		}
	})
}

// close gives up queues that were not run.
func (f *Fast) close() error {
	var errs []error
	for _, l := range f.lanes {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

// Stats is the kernel's count, of all queues together. It needs root, and fails once
// the queues are closed.
func (f *Fast) Stats() (Stats, error) {
	var sum Stats
	for _, l := range f.lanes {
		row, err := readRow(l.cfg.Queue)
		if err != nil {
			return Stats{}, fmt.Errorf("read count of queue %d: %w", l.cfg.Queue, err)
		}
		sum.Waiting += row.stats.Waiting
		sum.Full += row.stats.Full
		sum.Overrun += row.stats.Overrun
		sum.Queued += row.stats.Queued
	}
	return sum, nil
}
