package gateway

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Beside is what runs beside the daemon, and counts what it could not do. Its functions must
// be safe to call from any goroutine.
type Beside struct {
	LogLost     func() uint64 // lines of the daemon's log
	EventsLost  func() uint64 // lines of the event log
	AdminClosed func() uint64 // connections of viewers
}

// Count has the metrics tell of what runs beside the daemon. Until then they tell 0.
func (g *Gateway) Count(b Beside) { g.beside.Store(&b) }

func (g *Gateway) registerBeside(reg prometheus.Registerer) {
	const lost = "Lines that could not be written to standard error (daemon) or to the event log (events), because nobody read them or the disk was full."
	reg.MustRegister(
		g.besideCounter("log_lines_lost_total", lost, prometheus.Labels{"log": "daemon"}, func(b *Beside) uint64 { return b.LogLost() }),
		g.besideCounter("log_lines_lost_total", lost, prometheus.Labels{"log": "events"}, func(b *Beside) uint64 { return b.EventsLost() }),
		g.besideCounter("admin_connections_closed_total", "Connections to --listen or to the daemon's socket that were closed for a new one because there were too many: those that had been silent for longest.", nil, func(b *Beside) uint64 { return b.AdminClosed() }),
	)
}

func (g *Gateway) besideCounter(name, help string, labels prometheus.Labels, read func(*Beside) uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}, func() float64 {
		b := g.beside.Load()
		if b == nil {
			return 0
		}
		return float64(read(b))
	})
}
