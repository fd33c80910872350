package gateway

import (
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/monitor"
)

var update = flag.Bool("update", false, "write the table of metrics anew")

// The files that speak of metrics.
const (
	deploy    = "../../../../deploy/"
	page      = deploy + "prometheus/METRICS.md"
	alerts    = deploy + "prometheus/pptpalg.rules.yml"
	dashboard = deploy + "grafana/pptpalg.json"
)

// registry is a daemon's.
func registry(t *testing.T) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	g := newGateway(Config{Table: calls.DefaultConfig(), Version: "v1", Cluster: &ClusterConfig{}}, reg, slog.New(slog.DiscardHandler))
	none := func() uint64 { return 0 }
	g.Count(Beside{LogLost: none, EventsLost: none, AdminClosed: none, OneWay: none, Silent: none, Reload: func() Reload { return Reload{Good: true} }, Exports: func(time.Time) []Export { return []Export{{Collector: "syslog+udp://192.0.2.1:514"}} }})
	return reg
}

func exported(t *testing.T, reg *prometheus.Registry) monitor.Metrics {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(monitor.Metrics)
	for _, f := range families {
		m := monitor.Metric{Name: f.GetName(), Type: strings.ToLower(f.GetType().String()), Help: f.GetHelp()}
		for _, s := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range s.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			m.Series = append(m.Series, labels)
		}
		all[m.Name] = m
	}
	return all
}

func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(registry(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestDocumented holds the page of metrics against the registry.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want, err := exported(t, registry(t)).WithTable(string(b), "pptpalg_build_info version", "pptpalg_rules_info by", "pptpalg_export_up collector", "pptpalg_export_delivered_total collector", "pptpalg_export_lost_total collector", "pptpalg_export_waiting collector", "pptpalg_export_lag_seconds collector", "pptpalg_packets_total reason", "pptpalg_packets_total verdict")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Errorf("%s is out of date, write it anew with -update (-want +got):\n%s", filepath.Base(page), diff)
	}
	for r := alg.Read; r <= alg.Failed; r++ {
		if !strings.Contains(want, "| `"+r.String()+"` |") {
			t.Errorf("reason %v is not documented", r)
		}
	}
}

// TestNamedMetricsExist: each alert and each panel selects series that there are.
func TestNamedMetricsExist(t *testing.T) {
	reg := registry(t)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := exported(t, reg)
	for where, expr := range expressions(t) {
		if err := metrics.Check(expr); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
}

// expressions returns those of alerts and dashboard, by where they stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	rules, board := monitorFiles(t)
	all := make(map[string]string)
	for _, a := range rules {
		all["alert "+a.Name] = a.Expr
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			all["panel "+p.Title+" "+target.RefID] = target.Expr
		}
	}
	return all
}

func monitorFiles(t *testing.T) ([]monitor.Alert, monitor.Dashboard) {
	t.Helper()
	a, err := os.ReadFile(alerts)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := monitor.ReadAlerts(a)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	board, err := monitor.ReadDashboard(b)
	if err != nil {
		t.Fatal(err)
	}
	return rules, board
}

// TestEverythingIsShown: a metric that no panel and no alert names is one that nobody
// looks at.
func TestEverythingIsShown(t *testing.T) {
	shown := make(map[string]bool)
	for _, expr := range expressions(t) {
		for _, name := range monitor.Names(expr) {
			shown[strings.TrimSuffix(name, "_bucket")] = true
		}
	}
	for name := range exported(t, registry(t)) {
		if !shown[name] {
			t.Errorf("%s is neither on the dashboard nor in an alert", name)
		}
	}
}
