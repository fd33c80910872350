package gateway

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"pptpalg/alg"
	"pptpalg/alg/packet"
)

// What goes wrong beside the packet loop is counted each time, logged now and then,
// and never stops it.

func (g *Gateway) overrun(queue string) {
	g.metrics.overruns.WithLabelValues(queue).Inc()
	g.limits.sometimes("overrun", func() {
		g.log.Warn("the kernel dropped packets: the queue's socket buffer was full (--queue-buffer)", "queue", queue)
	})
}

// countDropped counts what the kernel dropped: because too many packets waited, which it
// tells nobody, and because the socket's buffer was full, which it tells without a number. Its table is root's to read: without that right the count stays 0.
func (g *Gateway) countDropped(q *queuing) {
	s, err := q.Stats()
	if err != nil {
		return
	}
	dropped, unread := s.Full-q.counted.Full, s.Overrun-q.counted.Overrun // all wrap at 2^32
	q.counted = s
	g.metrics.unread.WithLabelValues(q.name).Add(float64(unread))
	if dropped == 0 {
		return
	}
	g.metrics.dropped.WithLabelValues(q.name).Add(float64(dropped))
	g.limits.sometimes("dropped", func() {
		g.log.Warn("the kernel dropped packets: too many waited for a verdict (--queue-length)", "queue", q.name, "packets", dropped)
	})
}

func (g *Gateway) queueFailed(err error) {
	g.metrics.queueErrors.Inc()
	g.limits.sometimes("queue", func() { g.log.Warn("queue error", "err", err) })
}

func (g *Gateway) panicked(value any, stack []byte) {
	g.metrics.panics.Inc()
	g.limits.sometimes("panic", func() {
		g.log.Error("the editor failed on a packet, which passed unedited", "panic", fmt.Sprint(value), "stack", string(stack))
	})
}

func (g *Gateway) conntrackFailed(operation string, err error) {
	g.metrics.errors.WithLabelValues(operation).Inc()
	g.limits.sometimes(operation, func() { g.log.Error("conntrack request", "operation", operation, "err", err) })
}

// tellLimits logs what kept a call request from being edited.
func (g *Gateway) tellLimits(anomalies []alg.Anomaly, seg packet.Segment) {
	for _, a := range anomalies {
		if a >= alg.NoPublicID {
			g.limits.sometimes(a.String(), func() {
				g.log.Warn("a call request passed unedited", "reason", a, "from", seg.Src(), "to", seg.Dst())
			})
		}
	}
}

// storeFailed takes the outcome of a store's operation. Without it calls go on,
// and are lost to the daemon at its next start.
func (g *Gateway) storeFailed(err error) {
	if err == nil {
		return
	}
	g.metrics.journalErrors.Inc()
	g.limits.sometimes("journal", func() { g.log.Error("journal", "err", err) })
}

// limits keeps log lines that repeat from filling the log. The zero value is ready.
type limits struct {
	mu    sync.Mutex // guards kinds
	kinds map[string]*rate.Sometimes
}

// sometimes lets the first five lines of a kind pass, then one in ten seconds.
func (l *limits) sometimes(kind string, line func()) {
	l.mu.Lock()
	s := l.kinds[kind]
	if s == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*rate.Sometimes)
		}
		s = &rate.Sometimes{First: 5, Interval: 10 * time.Second}
		l.kinds[kind] = s
	}
	l.mu.Unlock()
	s.Do(line)
}
