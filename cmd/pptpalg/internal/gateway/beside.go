package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Beside is what runs beside the daemon, and counts what it could not do. Its functions must
// be safe to call from any goroutine.
type Beside struct {
	LogLost     func() uint64 // lines of the daemon's log
	EventsLost  func() uint64 // lines of the event log
	AdminClosed func() uint64 // connections of viewers
	Exports     func(now time.Time) []Export
	OneWay      func() uint64 // calls whose GRE comes from one end only
	Silent      func() uint64 // calls that have never had any GRE
	Reload      func() Reload
}

// Reload is how the last reload of the configuration went.
type Reload struct {
	Good    bool      // it was valid; also of the configuration with which the daemon was started
	At      time.Time // of the last good one
	Pending int       // keys that have changed since, and need a restart
}

// Export is what is on its way to a collector of events.
type Export struct {
	Collector string // no two have the same name
	Up        bool   // connected
	Delivered uint64 // messages that the collector has
	Lost      uint64 // events that found no room
	Waiting   int    // messages that the collector does not have yet
	Lag       time.Duration
}

// Count has the metrics tell of what runs beside the daemon. Until then they tell 0.
func (g *Gateway) Count(b Beside) { g.beside.Store(&b) }

func (g *Gateway) registerBeside(reg prometheus.Registerer) {
	const lost = "Lines that could not be written to standard error (daemon) or to the event log (events), because they were not read in time or the disk was full."
	reg.MustRegister(
		g.besideCounter("log_lines_lost_total", lost, prometheus.Labels{"log": "daemon"}, func(b *Beside) uint64 { return b.LogLost() }),
		g.besideCounter("log_lines_lost_total", lost, prometheus.Labels{"log": "events"}, func(b *Beside) uint64 { return b.EventsLost() }),
		g.besideCounter("admin_connections_closed_total", "Connections to --listen or to the daemon's socket that were closed to make room for a new one, because there were too many: the one that had been silent longest each time.", nil, func(b *Beside) uint64 { return b.AdminClosed() }),
		exporters{g},
		g.reloadGauge("config_last_reload_successful", "1 if the configuration file was valid when it was last read, at the start or at a reload; 0 after a reload that changed nothing because of errors.", func(r Reload) float64 { return truth(r.Good) }),
		g.reloadGauge("config_last_reload_success_timestamp_seconds", "When a valid configuration was last read, in seconds since 1970.", func(r Reload) float64 { return float64(r.At.UnixMilli()) / 1000 }),
		g.reloadGauge("config_restart_keys", "Configuration keys that have changed and take effect only after a restart of the daemon.", func(r Reload) float64 { return float64(r.Pending) }),
		g.besideGauge("calls_one_way", "Established calls whose GRE has come from one end only for about ten seconds: a firewall or something else on the way blocks GRE from the other end. Only calls of pptpalg_calls_counted are included.", func(b *Beside) uint64 { return b.OneWay() }),
		g.besideGauge("calls_silent", "Calls established for at least ten seconds without any GRE from either end. Only calls of pptpalg_calls_counted are included.", func(b *Beside) uint64 { return b.Silent() }),
	)
}

func (g *Gateway) besideGauge(name, help string, read func(*Beside) uint64) prometheus.Collector {
	return gauge(name, help, func() float64 { return g.besides(read) })
}

func (g *Gateway) reloadGauge(name, help string, of func(Reload) float64) prometheus.Collector {
	return gauge(name, help, func() float64 {
		if b := g.beside.Load(); b != nil {
			return of(b.Reload())
		}
		return of(Reload{Good: true})
	})
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

// exporters tells of each collector of events.
type exporters struct{ *Gateway }

// collectorMetrics are those of a collector.
var collectorMetrics = []struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*Export) float64
}{
	{exportDesc("export_up", "1 while the daemon is connected to the collector of events (--export); with UDP, while no error is reported."), prometheus.GaugeValue, func(e *Export) float64 { return truth(e.Up) }},
	{exportDesc("export_delivered_total", "Events that the collector's machine has acknowledged; with UDP, for which no error was reported."), prometheus.CounterValue, func(e *Export) float64 { return float64(e.Delivered) }},
	{exportDesc("export_lost_total", "Events that the collector will not get, because too many waited for it."), prometheus.CounterValue, func(e *Export) float64 { return float64(e.Lost) }},
	{exportDesc("export_waiting", "Events that are waiting for the collector."), prometheus.GaugeValue, func(e *Export) float64 { return float64(e.Waiting) }},
	{exportDesc("export_lag_seconds", "How long the oldest event has waited for the collector; 0 if none waits."), prometheus.GaugeValue, func(e *Export) float64 { return e.Lag.Seconds() }},
}

func exportDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, []string{"collector"}, nil)
}

// Describe is of prometheus.Collector.
func (exporters) Describe(all chan<- *prometheus.Desc) {
	for i := range collectorMetrics {
		all <- collectorMetrics[i].desc
	}
}

// Collect is of prometheus.Collector.
func (m exporters) Collect(all chan<- prometheus.Metric) {
	b := m.beside.Load()
	if b == nil {
		return
	}
	exports := b.Exports(time.Now())
	for i := range collectorMetrics {
		for j := range exports {
			all <- prometheus.MustNewConstMetric(collectorMetrics[i].desc, collectorMetrics[i].kind, collectorMetrics[i].of(&exports[j]), exports[j].Collector)
		}
	}
}
