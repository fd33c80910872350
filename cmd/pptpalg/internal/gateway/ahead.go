package gateway

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/fast"
)

// ahead returns what there is where packets are forwarded ahead of the entries, nil where they
// are not.
func (g *Gateway) ahead() *datapath.Ahead {
	if g.path == nil {
		return nil // the metrics are read before it is chosen
	}
	return g.path.Traits().Ahead
}

// rulesChanged tells the data path that firewall rules were loaded.
func (g *Gateway) rulesChanged() {
	if a := g.ahead(); a != nil {
		a.Changed()
	}
}

// figures returns what is counted of packets that are forwarded ahead of the entries.
func (g *Gateway) figures() datapath.Figures {
	f := fast.None()
	if a := g.ahead(); a != nil {
		f = a.Figures()
	}
	f.Wanted = g.cfg.Fast.Wanted()
	return f
}

// figureCollector has the figures read once for all metrics of a scrape.
type figureCollector struct {
	read func() datapath.Figures
	all  []figure
}

// figure is a metric. Its values are by the values of its label, or by "" if it has none.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*datapath.Figures) map[string]uint64
}

func (g *Gateway) registerFigures(reg prometheus.Registerer) {
	c := &figureCollector{read: g.figures}
	c.one("fastpath_wanted", "Whether the fast path is enabled (--fastpath).", func(f *datapath.Figures) int {
		if f.Wanted {
			return 1
		}
		return 0
	})
	c.add(prometheus.GaugeValue, "fastpath_interfaces", "Interfaces on the fast path, by path. An interface that uses both XDP and tc counts as xdp.", "path", func(f *datapath.Figures) map[string]uint64 {
		return map[string]uint64{"xdp": uint64(f.Ports.XDP), "tc": uint64(f.Ports.TC)}
	})
	c.one("fastpath_interfaces_missing", "Interfaces to which the fast path is not attached as it should be: they are new or came back, or XDP no longer works there, and \"pptpalg fastpath load\" has not been run yet.", func(f *datapath.Figures) int { return f.Ports.Missing })
	c.one("fastpath_flows", "GRE flows, two for an established call, that the fast path knows.", func(f *datapath.Figures) int { return f.Flows })
	c.one("fastpath_flows_in_force", "GRE flows that the fast path forwards at the moment, by a recent decision of the kernel. A flow without packets is not in force.", func(f *datapath.Figures) int { return f.InForce })
	c.one("fastpath_flows_without_place", "GRE flows that do not fit into the fast path's table (--fastpath-flows): the kernel forwards them.", func(f *datapath.Figures) int { return f.Without })
	c.add(prometheus.CounterValue, "fastpath_packets_total", "GRE packets that the fast path has forwarded.", "path", func(f *datapath.Figures) map[string]uint64 { return f.Packets })
	c.add(prometheus.CounterValue, "fastpath_passed_total", "GRE packets of calls that the fast path has left to the kernel.", "reason", func(f *datapath.Figures) map[string]uint64 { return f.Passed })
	c.add(prometheus.CounterValue, "fastpath_decisions_total", "Decisions of the kernel that the fast path has learned.", "", func(f *datapath.Figures) map[string]uint64 { return map[string]uint64{"": f.Learnt} })
	c.add(prometheus.CounterValue, "fastpath_decisions_refused_total", "Decisions of the kernel that the fast path could not learn, so the kernel forwards these flows.", "reason", func(f *datapath.Figures) map[string]uint64 { return f.Refused })
	reg.MustRegister(c)
}

func (c *figureCollector) one(name, help string, of func(*datapath.Figures) int) {
	c.add(prometheus.GaugeValue, name, help, "", func(f *datapath.Figures) map[string]uint64 { return map[string]uint64{"": uint64(of(f))} })
}

func (c *figureCollector) add(kind prometheus.ValueType, name, help, label string, of func(*datapath.Figures) map[string]uint64) {
	var labels []string
	if label != "" {
		labels = []string{label}
	}
	c.all = append(c.all, figure{prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil), kind, of})
}

func (c *figureCollector) Describe(to chan<- *prometheus.Desc) {
	for _, f := range c.all {
		to <- f.desc
	}
}

func (c *figureCollector) Collect(to chan<- prometheus.Metric) {
	now := c.read()
	for _, f := range c.all {
		values := f.of(&now)
		for _, label := range slices.Sorted(maps.Keys(values)) {
			var labels []string
			if label != "" {
				labels = []string{label}
			}
			to <- prometheus.MustNewConstMetric(f.desc, f.kind, float64(values[label]), labels...)
		}
	}
}
