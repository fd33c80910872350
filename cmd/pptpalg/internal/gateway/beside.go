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
	OneWay      func() uint64 // calls whose GRE comes from one end only
	Silent      func() uint64 // calls that have never had any GRE
}

// Count has the metrics tell of what runs beside the daemon. Until then they tell 0.
func (g *Gateway) Count(b Beside) { g.beside.Store(&b) }

func (g *Gateway) registerBeside(reg prometheus.Registerer) {
	const lost = "Lines that could not be written to standard error (daemon) or to the event log (events), because nobody read them or the disk was full."
	reg.MustRegister(
		g.besideCounter("log_lines_lost_total", lost, prometheus.Labels{"log": "daemon"}, func(b *Beside) uint64 { return b.LogLost() }),
		g.besideCounter("log_lines_lost_total", lost, prometheus.Labels{"log": "events"}, func(b *Beside) uint64 { return b.EventsLost() }),
		g.besideCounter("admin_connections_closed_total", "Connections to --listen or to the daemon's socket that were closed for a new one because there were too many: those that had been silent for longest.", nil, func(b *Beside) uint64 { return b.AdminClosed() }),
		g.besideGauge("calls_one_way", "Established calls whose GRE comes from one end only, for some ten seconds: something on the way, or a firewall, stops the other end's. Of pptpalg_calls_counted.", func(b *Beside) uint64 { return b.OneWay() }),
		g.besideGauge("calls_silent", "Calls established for ten seconds of which neither end has sent any GRE. Of pptpalg_calls_counted.", func(b *Beside) uint64 { return b.Silent() }),
	)
}

func (g *Gateway) besideGauge(name, help string, read func(*Beside) uint64) prometheus.Collector {
	return gauge(name, help, func() float64 { return g.besides(read) })
}

func (g *Gateway) besideCounter(name, help string, labels prometheus.Labels, read func(*Beside) uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}, func() float64 { return g.besides(read) })
}

// besides is a figure of what runs beside the daemon, 0 as long as nothing does.
func (g *Gateway) besides(read func(*Beside) uint64) float64 {
	b := g.beside.Load()
	if b == nil {
		return 0
	}
	return float64(read(b))
}
