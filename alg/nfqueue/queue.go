package nfqueue

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Queue is one or several bound NFQUEUEs, each with a goroutine, go-nfqueue's, that
// receives, decides and answers in batches and allocates nothing.
//
//	Open ── bound, packets wait ── Run ── the handler decides ── ctx done ── drain ── unbound
//
// The goroutines have ended when Run or Close returns. The packets of one queue keep
// their order. A verdict leaves with those of the packets that were received with it,
// so a handler that waits makes others wait.
type Queue struct {
	lanes  []*lane
	course *course

	running sync.Once
	ending  sync.Once
	err     error // written under ending
}

// course is how far a Queue has come, for all of its lanes.
type course struct {
	running  chan struct{} // closed by Run
	stopping chan struct{} // closed when draining begins
	drainBy  time.Time     // written before stopping is closed
	once     sync.Once     // of stopping
}

func newCourse() *course {
	return &course{running: make(chan struct{}), stopping: make(chan struct{})}
}

// await waits for Run and reports whether it came before the end.
func (c *course) await() bool {
	select {
	case <-c.running:
	case <-c.stopping:
	}
	return closed(c.running) // both may be, and Run came first then
}

func (c *course) stopped() bool { return closed(c.stopping) }

// over reports whether there is no time left to drain.
func (c *course) over() bool { return c.stopped() && !time.Now().Before(c.drainBy) }

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Open binds the queues, so that firewall rules may be loaded. Packets that come
// before Run wait in the kernel, up to MaxLen. Where one queue cannot be bound none
// is.
//
// A queue that another socket has is a *TakenError. Any error's text ends with
// what to do about it; the kernel's errno is wrapped. The caller must call Run or
// Close.
func Open(cfg Config, h Handler) (*Queue, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	q := &Queue{course: newCourse()}
	first := cfg.Queue
	for i := range cfg.Queues {
		cfg.Queue = first + uint16(i)
		if err := q.add(newLane(cfg, h, q.course, q.stop)); err != nil {
			return nil, errors.Join(explain(cfg.Queue, err), q.Close())
		}
	}
	return q, nil
}

func (q *Queue) add(l *lane) error {
	if err := l.bind(); err != nil {
		return err
	}
	q.lanes = append(q.lanes, l)
	return l.admit()
}

// Run lets packets come to the handler until ctx is done, then drains the queues as
// Close does. It returns nil for that, and the error if a queue died before, upon
// which all stop. The handler must be able to work until Run returns.
func (q *Queue) Run(ctx context.Context) error {
	q.running.Do(func() { close(q.course.running) })
	select {
	case <-ctx.Done():
	case <-q.course.stopping:
	}
	return q.Close()
}

// Close drains the queues, has them unbound and closes their sockets. Take the
// firewall rules away first: then what waits is finite, and gets the handler's verdict
// (without Run before: accept). If packets keep coming for a second, those that
// wait then are accepted as they came, for the kernel drops what waits in a queue
// that is unbound (instance_destroy_rcu, nfqnl_flush).
//
// Take the rules away without deleting a base chain: when any hook of the network
// namespace goes, the kernel drops what waits in every queue of it
// (nf_queue_nf_hook_drop), and that of another program's table is enough.
//
// Close waits for the handler to return. It may be called again, and returns the
// same.
func (q *Queue) Close() error {
	q.stop()
	q.ending.Do(func() {
		var errs []error
		for _, l := range q.lanes {
			errs = append(errs, l.close())
		}
		q.err = errors.Join(errs...)
	})
	return q.err
}

// stop begins the drain, and waits for nothing. A lane that dies calls it too.
func (q *Queue) stop() {
	q.course.once.Do(func() {
		q.course.drainBy = time.Now().Add(drainLimit)
		close(q.course.stopping)
		for _, l := range q.lanes {
			l.wake()
		}
	})
}
