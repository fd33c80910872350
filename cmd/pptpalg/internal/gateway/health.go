package gateway

import (
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// packetTime is how long a packet may be in hand. With its requests to the
	// kernel it takes milliseconds; a control connection bears minutes.
	packetTime = 5 * time.Second
	// sweepTime is how long an audit with the kernel's table may take. Listing
	// the largest of tables takes seconds.
	sweepTime = time.Minute
)

// pulse notes what the daemon's two loops have in hand, so that others see whether
// they still turn. A loop that has nothing in hand waits for its next piece of work,
// and one that has ended ends the daemon.
type pulse struct{ packet, sweep task }

// Healthy returns nil while packets get their verdicts and audits end; else
// the error says which of them is stuck, and for how long. It may be called from
// any goroutine and waits for nothing.
func (g *Gateway) Healthy(now time.Time) error {
	if age := g.pulse.packet.age(now); age > packetTime {
		return fmt.Errorf("the packet loop is stuck: a packet has waited %v for its verdict", age.Round(time.Second))
	}
	if age := g.pulse.sweep.age(now); age > sweepTime {
		return fmt.Errorf("the audit is stuck since %v", age.Round(time.Second))
	}
	return nil
}

// task is a piece of work that one goroutine does and others watch.
type task struct {
	began atomic.Int64 // nanoseconds since start; 0 while there is nothing to do
}

// start is what tasks count from, on the clock that nobody sets.
var start = time.Now()

func (t *task) begin(now time.Time) { t.began.Store(int64(now.Sub(start)) | 1) } // never 0
func (t *task) end()                { t.began.Store(0) }

// underWay reports whether it is in hand.
func (t *task) underWay() bool { return t.began.Load() != 0 }

// age is how long the task has been in hand, 0 if it is not.
func (t *task) age(now time.Time) time.Duration {
	began := t.began.Load()
	if began == 0 {
		return 0
	}
	return now.Sub(start) - time.Duration(began)
}
