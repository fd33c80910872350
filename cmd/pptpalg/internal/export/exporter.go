package export

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pptpalg/cmd/pptpalg/internal/history"
)

const (
	eventBuffer = 1024                   // events that wait to become messages
	queueSize   = 8 << 20                // bytes of messages that wait for a collector: some 15,000 events
	firstPause  = 250 * time.Millisecond // between two tries to connect; it doubles
	lastPause   = 15 * time.Second
	settlePause = 50 * time.Millisecond  // between two looks at what the collector has
	lastWords   = 500 * time.Millisecond // for what is left when the daemon ends
)

// format is how a collector is told of events.
type format interface {
	// payload is a message without what depends on the connection; nil if the format has
	// none for a record. It has one for lost events.
	payload(*history.Record) []byte
	start() []byte       // what begins a connection
	frame([]byte) []byte // the message, as it is sent; empty for none
}

// Exporter sends the translation log to a collector.
type Exporter struct {
	target Target
	format format
	queue  *queue
	sub    *history.Subscription
	log    *slog.Logger

	up      atomic.Bool
	failing bool // it was logged; Run's
}

// Open begins to listen to events. It fails if TLS's files cannot be used. The caller must
// call Run or Close.
func Open(t Target, events *history.Store, log *slog.Logger) (*Exporter, error) {
	if _, err := t.tls(); err != nil {
		return nil, fmt.Errorf("export to %v: %w", t, err)
	}
	f := t.kind.format(&t)
	return &Exporter{
		target: t, format: f, queue: newQueue(f, queueSize), sub: events.Subscribe(eventBuffer, history.Logged...),
		log: log.With("collector", t.String()),
	}, nil
}

// Close ends an exporter that was not run.
func (x *Exporter) Close() { x.sub.Close() }

// Run sends until ctx is done, and then briefly what is left. It logs errors and goes on.
func (x *Exporter) Run(ctx context.Context) error {
	last := make(chan struct{}) // closed when no more events come
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error {
		defer close(last)
		x.listen(ctx)
		if _, _, waiting, _ := x.queue.state(); waiting == 0 {
			stop()
		}
		time.AfterFunc(lastWords, stop)
		return nil
	})
	group.Go(func() error {
		x.send(sending, last)
		return nil
	})
	err := group.Wait()
	if n := x.queue.abandon(); n > 0 {
		x.log.Warn("export: events were lost because the collector did not accept them in time", "events", n)
	}
	return err
}

// listen queues events until ctx is done.
func (x *Exporter) listen(ctx context.Context) {
	defer x.sub.Close()
	for {
		e, lost, err := x.sub.Next(ctx)
		if err != nil {
			return
		}
		now := time.Now()
		if lost > 0 {
			x.queue.lose(lost, now)
		}
		r := history.NewRecord(e)
		x.queue.put(&r, now)
	}
}

// send connects again and again, until ctx is done or everything was sent after the last
// event.
func (x *Exporter) send(ctx context.Context, last <-chan struct{}) {
	pause := firstPause
	for {
		c, err := connect(ctx, &x.target)
		if err == nil {
			var some, done bool
			if some, done, err = x.serve(ctx, c, last); done {
				return
			}
			if some {
				pause = firstPause
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue // a connection that is to be made anew
		}
		x.fail(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// serve sends over a connection until it breaks. some says that the collector took messages,
// done that it has taken all of them after the last event.
func (x *Exporter) serve(ctx context.Context, c *connection, last <-chan struct{}) (some, done bool, err error) {
	defer x.queue.rewind()
	defer c.Close()
	defer x.up.Store(false)
	if err := c.send(x.format.start()); err != nil {
		return false, false, err
	}
	x.up.Store(true)
	for {
		more, err := x.drain(c)
		if err != nil {
			return some, false, err
		}
		now := time.Now()
		taken, open := x.queue.settle(c.has(now), now)
		if taken > 0 {
			some = true
			x.recover()
		}
		if more {
			continue
		}
		if open == 0 && last == nil {
			return some, true, nil
		}
		var look <-chan time.Time
		if open > 0 {
			look = time.After(settlePause)
		}
		select {
		case <-x.queue.more:
		case <-look:
		case <-last:
			last = nil
		case err := <-c.broken:
			return some, false, err
		case <-c.until:
			return some, false, nil
		case <-ctx.Done():
			return some, false, ctx.Err()
		}
	}
}

// turn is how many messages are sent between two looks at what the collector has.
const turn = 256

// drain sends what waits, and reports whether there is more.
func (x *Exporter) drain(c *connection) (more bool, err error) {
	for range turn {
		payload, ok := x.queue.next()
		if !ok {
			return false, nil
		}
		if err := c.send(x.format.frame(payload)); err != nil {
			return false, err
		}
		x.queue.wrote(c.raw.written.Load(), time.Now())
	}
	return true, nil
}

// fail logs that the collector cannot be reached, once until it can.
func (x *Exporter) fail(err error) {
	if x.failing {
		return
	}
	x.failing = true
	x.log.Error("export: cannot reach the collector; events wait", "err", err)
}

func (x *Exporter) recover() {
	if !x.failing {
		return
	}
	x.failing = false
	_, lost, waiting, _ := x.queue.state()
	x.log.Info("export: the collector accepts events again", "waiting", waiting, "lost", lost)
}

// State is what an exporter has done.
type State struct {
	Collector string
	Up        bool          // connected
	Delivered uint64        // messages that the collector's machine has
	Lost      uint64        // events that found no room, or were left at the end
	Waiting   int           // messages
	Lag       time.Duration // for how long the oldest of them has waited
}

// State may be called from any goroutine.
func (x *Exporter) State(now time.Time) State {
	s := State{Collector: x.target.String(), Up: x.up.Load()}
	var oldest time.Time
	s.Delivered, s.Lost, s.Waiting, oldest = x.queue.state()
	if s.Waiting > 0 {
		s.Lag = max(now.Sub(oldest), 0)
	}
	return s
}
