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
// The goroutines have ended when Run or Close returns. The packets of one queue keep their
// order. The verdicts of packets that were received together are sent together, so a
// handler that waits makes others wait.
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
	return closed(c.running) // both may be closed, and then Run came first
}

func (c *course) stopped() bool { return closed(c.stopping) }

// over reports whether the drain deadline has passed.
func (c *course) over() bool { return c.stopped() && !time.Now().Before(c.drainBy) }

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Open binds the queues; after that, firewall rules may be loaded. Packets that come before
// Run wait in the kernel, up to MaxLen. If one queue cannot be bound, none is.
//
// If another socket has a queue, the error is a *TakenError. Every error's text ends with
// what to do about it; the kernel's errno is wrapped. The caller must call Run or Close.
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

// Run passes packets to the handler until ctx is done, then drains the queues as Close
// does, and returns nil. If a queue dies before, all stop, and Run returns the error. The
// handler must work until Run returns.
func (q *Queue) Run(ctx context.Context) error {
	q.running.Do(func() { close(q.course.running) })
	select {
	case <-ctx.Done():
	case <-q.course.stopping:
	}
	return q.Close()
}

// Close drains the queues, unbinds them and closes their sockets. Remove the firewall rules
// first: then the number of waiting packets is finite, and they get the handler's verdict
// (accept, if Run was never called). If packets keep coming for a second, those that wait
// then are accepted unchanged, because the kernel drops what waits in a queue that is
// unbound (instance_destroy_rcu, nfqnl_flush).
//
// Remove the rules without deleting a base chain: when any hook of the network namespace is
// deleted, even one of another program's table, the kernel drops what waits in every queue
// of the namespace (nf_queue_nf_hook_drop).
//
// Close waits for the handler to return. It may be called again, and returns the same
// error.
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

// TellZones has packets come with their conntrack zone from now on, if the kernel can attach
// conntrack entries (CONFIG_NETFILTER_NETLINK_GLUE_CT): a kernel that cannot does not say so.
// It makes each packet dearer.
func (q *Queue) TellZones() error {
	var errs []error
	for _, l := range q.lanes {
		errs = append(errs, l.tellZones())
	}
	return errors.Join(errs...)
}

// stop begins the drain, and does not wait. A lane that dies calls it too.
func (q *Queue) stop() {
	q.course.once.Do(func() {
		q.course.drainBy = time.Now().Add(drainLimit)
		close(q.course.stopping)
		for _, l := range q.lanes {
			l.wake()
		}
	})
}
