package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/cmd/pptpalg/internal/store/cluster"
)

// clusterMetrics are a gateway's metrics of its cluster.
type clusterMetrics struct {
	commit    prometheus.Histogram
	takeovers prometheus.Counter
	refused   prometheus.Counter
	astray    prometheus.Counter
	withheld  prometheus.Counter
}

// registerCluster registers them, if the gateway is in a cluster.
func (g *Gateway) registerCluster(reg prometheus.Registerer) {
	if g.cfg.Cluster == nil {
		return
	}
	m := &clusterMetrics{
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "cluster_commit_seconds",
			Help:    "Time that packets waited for the shared store, in each pass of the packet loop.",
			Buckets: prometheus.ExponentialBuckets(250e-6, 2, 12), // 0.25 ms to 0.5 s
		}),
		takeovers: counter("cluster_takeovers_total", "Times that this gateway took over the calls of a public address from another one."),
		refused:   counter("cluster_follow_refused_total", "Calls of other gateways that were not followed, because they conflict with a call of this one."),
		astray:    counter("cluster_astray_total", "Control connections that belong to other gateways but passed through this one, which does not edit them."),
	}
	m.withheld = counter("cluster_withheld_packets_total", "Control packets that were dropped because another gateway took over their calls before the changes that they make were in the shared store.")
	g.clusterMetrics = m
	reg.MustRegister(m.commit, m.takeovers, m.refused, m.astray, m.withheld)
	for _, one := range []struct {
		name, help string
		of         func(*cluster.Status) float64
	}{
		{"cluster_degraded", "1 while packets do not wait for the shared store, or it lacks calls of this gateway or does not report those of others.", func(s *cluster.Status) float64 { return truth(s.Degraded) }},
		{"cluster_dirty_calls", "Calls not yet written to the shared store.", func(s *cluster.Status) float64 { return float64(s.Pending) }},
		{"cluster_followed_calls", "Calls in the shared store, including those that have ended and whose public IDs are resting.", func(s *cluster.Status) float64 { return float64(s.Followed) }},
		{"cluster_owned_addresses", "Public addresses that this gateway owns.", func(s *cluster.Status) float64 { return float64(len(s.Claims)) }},
		{"cluster_lag_seconds", "Time since this gateway last heard from the shared store; 0 if it is up to date.", func(s *cluster.Status) float64 { return s.Lag.Seconds() }},
		{"cluster_same_name", "1 if another gateway has the same name as this one.", func(s *cluster.Status) float64 { return truth(s.SameName) }},
		{"cluster_members", "Gateways of the cluster that are up.", func(s *cluster.Status) float64 { return float64(len(s.Members)) }},
	} {
		reg.MustRegister(gauge(one.name, one.help, g.clusterStatus(one.of)))
	}
	for _, one := range []struct {
		name, help string
		of         func(*cluster.Status) uint64
	}{
		{"cluster_commits_total", "Transactions with the shared store.", func(s *cluster.Status) uint64 { return s.Commits }},
		{"cluster_commit_errors_total", "Transactions with the shared store that failed or are in doubt.", func(s *cluster.Status) uint64 { return s.Failures }},
		{"cluster_fenced_total", "Public addresses that other gateways took while this one owned them.", func(s *cluster.Status) uint64 { return s.Fenced }},
		{"cluster_reloads_total", "Times that the whole shared store was read.", func(s *cluster.Status) uint64 { return s.Reloads }},
		{"cluster_strange_items_total", "Items of the shared store that are invalid, and were ignored.", func(s *cluster.Status) uint64 { return s.Strange }},
	} {
		of := one.of
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: one.name, Help: one.help},
			g.clusterStatus(func(s *cluster.Status) float64 { return float64(of(s)) })))
	}
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// clusterStatus reads one figure of the shared store.
func (g *Gateway) clusterStatus(of func(*cluster.Status) float64) func() float64 {
	return func() float64 {
		if g.share == nil {
			return 0
		}
		s := g.share.store.Status()
		return of(&s)
	}
}

func (s *share) waited(d time.Duration) { s.metrics.commit.Observe(d.Seconds()) }
