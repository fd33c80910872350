package gateway

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// registerGauges has what the daemon and the kernel are in read when it is scraped.
func (g *Gateway) registerGauges(reg prometheus.Registerer) {
	reg.MustRegister(
		gauge("ready", "Whether the daemon edits: 1 once it has compared its calls with the kernel's and loaded its rules; 0 before that, and while the rules are missing.", yes(g.Ready)),
		gauge("rules_loaded", "Whether the firewall rules that send control connections to the daemon are loaded, by the daemon or the administrator: 0 before that, and while others have removed or changed them.", g.rulesLoaded),
		rulesInfo{g},
		gauge("healthy", "Whether packets get their verdicts and audits finish: 0 if one of them is stuck.", yes(g.Healthy)),
		gauge("journal_complete", "Whether the journal has all calls: 0 while the state directory is full, unusable or does not answer. Calls are edited as usual, but a daemon that is restarted then may not know all of them.", g.complete),
		gauge("conntrack_entries_unexplained", "GRE entries of an earlier daemon that are not in the journal and cannot be assigned to one control connection. Their public Call IDs are reserved while there is a control connection between their ends.", func() float64 { return float64(g.orphans.count.Load()) }),
		gauge("call_id_space_used_ratio", "Public Call IDs in use or resting in the fullest space (one public address towards one peer), as a share of the maximum: 1 means that all are taken.", g.spaceUsed),
		gauge("conntrack_table_entries", "Entries in the conntrack table of the daemon's network namespace. NaN if the kernel does not report it.", kernelNumber("nf_conntrack_count")),
		gauge("conntrack_table_limit", "Maximum number of entries in the conntrack table. NaN if the kernel does not report it.", kernelNumber("nf_conntrack_max")),
	)
	for _, name := range []string{controlQueue, greQueue} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "queue_waiting",
			Help:        "Packets that wait for a verdict. NaN where the daemon may not read /proc/net/netfilter.",
			ConstLabels: prometheus.Labels{"queue": name},
		}, func() float64 { return g.waiting(name) }))
	}
}

// Ready returns nil from when the daemon edits until it begins to stop, while it is healthy
// and the firewall rules are there; else the error says why not. It may be
// called from any goroutine and waits for nothing.
func (g *Gateway) Ready(now time.Time) error {
	if !g.ready.Load() {
		return errNotReady
	}
	if err := g.Healthy(now); err != nil {
		return err
	}
	if g.share != nil {
		if err := g.share.ready(now); err != nil {
			return err
		}
	}
	return g.rulesMissing()
}

var errNotReady = errors.New("the daemon does not edit: it is starting or stopping")

func yes(ask func(time.Time) error) func() float64 {
	return func() float64 {
		if ask(time.Now()) != nil {
			return 0
		}
		return 1
	}
}

func (g *Gateway) complete() float64 {
	if g.store == nil || !g.store.Whole() {
		return 0
	}
	return 1
}

func (g *Gateway) spaceUsed() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken, limit := g.table.FullestSpace()
	return float64(taken) / float64(limit)
}

// waiting is the depth of a queue: 0 of one that is not bound.
func (g *Gateway) waiting(name string) float64 {
	for _, q := range g.queues {
		if q.name != name {
			continue
		}
		s, err := q.Stats()
		if err != nil {
			return math.NaN()
		}
		return float64(s.Waiting)
	}
	return 0
}

// kernelNumber reads a setting of netfilter's, of the reading thread's network namespace.
func kernelNumber(name string) func() float64 {
	return func() float64 {
		b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err != nil {
			return math.NaN()
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
		if err != nil {
			return math.NaN()
		}
		return n
	}
}

// rulesInfo tells who loads the rules.
type rulesInfo struct{ *Gateway }

var rulesInfoDesc = prometheus.NewDesc(namespace+"_rules_info", "Always 1; the label says what loads the firewall rules: nft, iptables, or none for the administrator.", []string{"by"}, nil)

// Describe is of prometheus.Collector.
func (rulesInfo) Describe(all chan<- *prometheus.Desc) { all <- rulesInfoDesc }

// Collect is of prometheus.Collector.
func (r rulesInfo) Collect(all chan<- prometheus.Metric) {
	all <- prometheus.MustNewConstMetric(rulesInfoDesc, prometheus.GaugeValue, 1, r.RulesBy())
}
