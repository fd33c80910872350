// Package prometheus tests the alert rules with Prometheus's own code. It is a module of its own, so
// that pptpalg does without Prometheus.
package prometheus

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

var promQL = parser.NewParser(parser.Options{})

// rules are as Prometheus reads them; it finds fault with expressions, durations, labels and templates.
func rules(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	b, err := os.ReadFile("pptpalg.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(b, false, model.UTF8Validation, promQL, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	all := make(map[string]rulefmt.Rule)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r
		}
	}
	return all
}

// series are in promtool's notation, with a sample a minute.
type series []string

// firing has, for each alert, series by which it fires, and others by which it does not.
var firing = []struct {
	alert string
	fires series
	quiet []series // each by itself
	times int      // label sets for which it fires; 0 is for 1
}{
	{alert: "PptpalgDown", fires: series{`up{job="pptpalg"} 1 0 0 0`}, quiet: []series{{`up{job="pptpalg"} 1 0 1 1`}, {`up{job="other"} 0x9`}}},
	{
		alert: "PptpalgNotReady",
		fires: series{`pptpalg_ready 0x9`, `pptpalg_healthy 1x9`},
		quiet: []series{
			{`pptpalg_ready 0 1x9`, `pptpalg_healthy 1x9`},
			{`pptpalg_ready 0x9`, `pptpalg_healthy 0x9`},                                                             // what is stuck has an alert of its own
			{`pptpalg_ready 0x9`, `pptpalg_healthy 1x9`, `pptpalg_rules_loaded 0x9`, `pptpalg_rules_lost_total 1x9`}, // so have missing rules
		},
	},
	{
		alert: "PptpalgRulesMissing",
		fires: series{`pptpalg_rules_loaded 1 0 0 0`, `pptpalg_rules_lost_total 0 1 1 1`},
		quiet: []series{
			{`pptpalg_rules_loaded 1 0 1 1`, `pptpalg_rules_lost_total 0 1 1 1`},
			{`pptpalg_rules_loaded 0x9`, `pptpalg_rules_lost_total 0x9`}, // it is starting
		},
	},
	{alert: "PptpalgRulesRemovedOften", fires: series{`pptpalg_rules_lost_total 0 2 4 6`}, quiet: []series{{`pptpalg_rules_lost_total 5x9`}, {`pptpalg_rules_lost_total 0 1 1 1`}}},
	{
		alert: "PptpalgConfigReloadFailed",
		fires: series{`pptpalg_config_last_reload_successful 0x9`},
		quiet: []series{{`pptpalg_config_last_reload_successful 1x9`}, {`pptpalg_config_last_reload_successful 0 0 1x9`}},
	},
	{
		alert: "PptpalgExportLags",
		fires: series{`pptpalg_export_lag_seconds{collector="a"} 61x9`, `pptpalg_export_lag_seconds{collector="b"} 0x9`},
		quiet: []series{{`pptpalg_export_lag_seconds 60x9`}, {`pptpalg_export_lag_seconds 0 90 0x9`}},
	},
	{alert: "PptpalgExportLoses", fires: series{`pptpalg_export_lost_total 0 1`}, quiet: []series{{`pptpalg_export_lost_total 1x9`}}},
	{alert: "PptpalgStuck", fires: series{`pptpalg_healthy 1 0 0 0`}, quiet: []series{{`pptpalg_healthy 1x9`}, {`pptpalg_healthy 1 0 1 1`}}},
	{alert: "PptpalgPanics", fires: series{`pptpalg_panics_total 0 0 1 1`}, quiet: []series{{`pptpalg_panics_total 3x9`}}},
	{
		alert: "PptpalgQueueDrops", times: 3,
		fires: series{
			`pptpalg_queue_dropped_total{queue="a"} 0 5`, `pptpalg_queue_dropped_total{queue="d"} 0 0`,
			`pptpalg_queue_user_dropped_total{queue="b"} 0 5`, `pptpalg_queue_overruns_total{queue="c"} 0 1`,
		},
		quiet: []series{{`pptpalg_queue_dropped_total 5x9`}, {`pptpalg_queue_user_dropped_total 5x9`}, {`pptpalg_queue_overruns_total 1x9`}},
	},
	{alert: "PptpalgQueueErrors", fires: series{`pptpalg_queue_errors_total 0 1`}, quiet: []series{{`pptpalg_queue_errors_total 1x9`}}},
	{
		alert: "PptpalgSlow",
		fires: verdicts("0+90x30", "0+100x30"),
		quiet: []series{
			verdicts("0+100x30", "0+100x30"),
			verdicts("0x30", "0x30"),                         // without packets there is no time
			verdicts("0+45x30", "0+50x30"),                   // with few it says nothing
			verdicts("0 0 90x4 990x20", "0 0 100x4 1000x20"), // once
		},
	},
	{
		alert: "PptpalgConntrackErrors",
		fires: series{`pptpalg_conntrack_errors_total{operation="create"} 0+1x20`, `pptpalg_conntrack_errors_total{operation="get"} 0x20`},
		quiet: []series{{`pptpalg_conntrack_errors_total 0 1x20`}, {`pptpalg_conntrack_errors_total 1x20`}},
	},
	{alert: "PptpalgEntriesMissing", fires: series{`pptpalg_conntrack_entries_missing 2x9`}, quiet: []series{{`pptpalg_conntrack_entries_missing 0 2 0x9`}}},
	{
		alert: "PptpalgRepairs",
		fires: series{`pptpalg_reconcile_repairs_total{kind="gre_created"} 0+2x30`},
		quiet: []series{{`pptpalg_reconcile_repairs_total 0 1000x30`}, {`pptpalg_reconcile_repairs_total 9x30`}},
	},
	{
		alert: "PptpalgCallIDsNearlyFull",
		fires: series{`pptpalg_call_id_space_used_ratio 0.81x9`},
		quiet: []series{{`pptpalg_call_id_space_used_ratio 0.8x9`}, {`pptpalg_call_id_space_used_ratio 0.8 1 0.8x9`}},
	},
	{
		alert: "PptpalgLimitReached", times: 2,
		fires: series{`pptpalg_anomalies_total{kind="limit_calls"} 0 1`, `pptpalg_anomalies_total{kind="no_public_id"} 0 1`, `pptpalg_anomalies_total{kind="unknown_call"} 0 1`},
		quiet: []series{{`pptpalg_anomalies_total{kind="limit_calls"} 1x9`}, {`pptpalg_anomalies_total{kind="resynced"} 0+1x9`}},
	},
	{alert: "PptpalgConnectionsRefused", fires: series{`pptpalg_control_connections_refused_total 0 1`}, quiet: []series{{`pptpalg_control_connections_refused_total 1x9`}}},
	{
		alert: "PptpalgKernelHelper",
		fires: series{`pptpalg_packets_total{verdict="accept",reason="kernel_helper"} 0 1`},
		quiet: []series{{`pptpalg_packets_total{verdict="accept",reason="kernel_helper"} 1x9`}, {`pptpalg_packets_total{verdict="accept",reason="read"} 0+1x9`}},
	},
	{
		alert: "PptpalgUnmatchedGRE", times: 2,
		fires: series{
			`pptpalg_gre_unmatched_flows{job="kernel"} 1x30`, `pptpalg_gre_packets_total{job="kernel",reason="no_flow"} 0+10x30`,
			`pptpalg_gre_unmatched_flows{job="queue"} 0x30`, `pptpalg_gre_packets_total{job="queue",reason="no_flow"} 0+10x30`,
		},
		quiet: []series{
			{`pptpalg_gre_unmatched_flows 0 1x9 0x20`, `pptpalg_gre_packets_total{reason="no_flow"} 0 900x30`}, // the end of a call
			{`pptpalg_gre_unmatched_flows 0x30`, `pptpalg_gre_packets_total{reason="rewritten"} 0+99x30`},
		},
	},
	{alert: "PptpalgCallsOneWay", fires: series{`pptpalg_calls_one_way 2x9`}, quiet: []series{{`pptpalg_calls_one_way 0 2 2 0x9`}}},
	{alert: "PptpalgCallsSilent", fires: series{`pptpalg_calls_silent 1x9`}, quiet: []series{{`pptpalg_calls_silent 0 1 1 0x9`}}},
	{
		alert: "PptpalgFastPathMissing", times: 2,
		fires: series{
			`pptpalg_fastpath_wanted{job="none"} 1x9`, `pptpalg_fastpath_interfaces_missing{job="none"} 0x9`, `pptpalg_fastpath_interfaces{job="none",path="tc"} 0x9`, `pptpalg_fastpath_interfaces{job="none",path="xdp"} 0x9`,
			`pptpalg_fastpath_wanted{job="one"} 1x9`, `pptpalg_fastpath_interfaces_missing{job="one"} 1x9`, `pptpalg_fastpath_interfaces{job="one",path="tc"} 1x9`,
		},
		quiet: []series{
			{`pptpalg_fastpath_wanted 0x9`, `pptpalg_fastpath_interfaces_missing 0x9`, `pptpalg_fastpath_interfaces{path="tc"} 0x9`},
			{`pptpalg_fastpath_wanted 1x9`, `pptpalg_fastpath_interfaces_missing 0x9`, `pptpalg_fastpath_interfaces{path="tc"} 2x9`, `pptpalg_fastpath_interfaces{path="xdp"} 0x9`},
			{`pptpalg_fastpath_wanted 1x9`, `pptpalg_fastpath_interfaces_missing 0 1 0x9`, `pptpalg_fastpath_interfaces{path="tc"} 2x9`}, // attached again
		},
	},
	{
		alert: "PptpalgFastPathUnused",
		fires: series{`pptpalg_fastpath_wanted 1x30`, `pptpalg_calls_gre_packets_total 0+500x30`, `pptpalg_fastpath_packets_total{path="tc"} 7x30`, `pptpalg_fastpath_packets_total{path="xdp"} 0x30`},
		quiet: []series{
			{`pptpalg_fastpath_wanted 0x30`, `pptpalg_calls_gre_packets_total 0+500x30`, `pptpalg_fastpath_packets_total{path="tc"} 0x30`},
			{`pptpalg_fastpath_wanted 1x30`, `pptpalg_calls_gre_packets_total 0+500x30`, `pptpalg_fastpath_packets_total{path="tc"} 0x30`, `pptpalg_fastpath_packets_total{path="xdp"} 0+490x30`},
			{`pptpalg_fastpath_wanted 1x30`, `pptpalg_calls_gre_packets_total 0+5x30`, `pptpalg_fastpath_packets_total{path="tc"} 0x30`}, // nearly nothing is carried
		},
	},
	{alert: "PptpalgFastPathFull", fires: series{`pptpalg_fastpath_flows_without_place 2x20`}, quiet: []series{{`pptpalg_fastpath_flows_without_place 0 2 0x20`}}},
	{alert: "PptpalgClusterDegraded", fires: series{`pptpalg_cluster_degraded 1x9`}, quiet: []series{{`pptpalg_cluster_degraded 0x9`}, {`pptpalg_cluster_degraded 0 1 0x9`}}},
	{alert: "PptpalgClusterLags", fires: series{`pptpalg_cluster_lag_seconds 30x9`}, quiet: []series{{`pptpalg_cluster_lag_seconds 0x9`}, {`pptpalg_cluster_lag_seconds 0 30 0x9`}}},
	{alert: "PptpalgClusterSameName", fires: series{`pptpalg_cluster_same_name 1x9`}, quiet: []series{{`pptpalg_cluster_same_name 0x9`}, {`pptpalg_cluster_same_name 0 1 0x9`}}},
	{alert: "PptpalgClusterAstray", fires: series{`pptpalg_cluster_astray_total 0+1x40`}, quiet: []series{{`pptpalg_cluster_astray_total 5x40`}, {`pptpalg_cluster_astray_total 0 1x40`}}},
	{alert: "PptpalgClusterAlone", fires: series{`pptpalg_cluster_members 1x9`}, quiet: []series{{`pptpalg_cluster_members 2x9`}, {`pptpalg_cluster_members 2 1 2x9`}}},
	{alert: "PptpalgJournalErrors", fires: series{`pptpalg_journal_errors_total 0 1`}, quiet: []series{{`pptpalg_journal_errors_total 1x9`}}},
	{
		alert: "PptpalgConntrackTableNearlyFull",
		fires: conntrackTable("91x9", "100x9"),
		quiet: []series{
			conntrackTable("90x9", "100x9"),
			conntrackTable("90 95 90x9", "100x9"),
			conntrackTable("91x9", "0x9"), // the kernel has no limit
			conntrackTable("NaN NaN NaN NaN NaN NaN NaN", "NaN NaN NaN NaN NaN NaN NaN"),
		},
	},
}

// verdicts are so many that came within 32 ms, and in all.
func verdicts(soon, all string) series {
	const bucket = "pptpalg_verdict_seconds_bucket"
	return series{bucket + `{le="0.016"} ` + soon, bucket + `{le="0.032"} ` + soon, bucket + `{le="0.065"} ` + all, bucket + `{le="+Inf"} ` + all, "pptpalg_verdict_seconds_count " + all}
}

func conntrackTable(entries, limit string) series {
	return series{"pptpalg_conntrack_table_entries " + entries, "pptpalg_conntrack_table_limit " + limit}
}

func TestAlertsFire(t *testing.T) {
	all := rules(t)
	for _, tt := range firing {
		t.Run(tt.alert, func(t *testing.T) {
			r, ok := all[tt.alert]
			if !ok {
				t.Fatal("there is no such alert")
			}
			delete(all, tt.alert)
			if got, want := fired(t, r, tt.fires), max(1, tt.times); got != want {
				t.Errorf("it fires for %d label sets, want %d", got, want)
			}
			for _, quiet := range tt.quiet {
				if got := fired(t, r, quiet); got != 0 {
					t.Errorf("it fires for %d label sets by %q", got, quiet)
				}
			}
		})
	}
	for name := range all {
		t.Errorf("%s is not tried", name)
	}
}

// fired evaluates an alert each minute until the samples end, and returns for how many label sets it
// fires at some time.
func fired(t *testing.T, r rulefmt.Rule, from series) int {
	t.Helper()
	data, minutes := load(t, from)
	pending, firing := make(map[string]time.Duration), make(map[string]bool)
	for minute := range minutes {
		now := time.Duration(minute) * time.Minute
		still := make(map[string]time.Duration)
		for _, labels := range evaluate(t, r.Expr, data, now) {
			since, known := pending[labels]
			if !known {
				since = now
			}
			still[labels] = since
			if now-since >= time.Duration(r.For) {
				firing[labels] = true
			}
		}
		pending = still
	}
	return len(firing)
}

// evaluate returns the label sets that an expression selects.
func evaluate(t *testing.T, expr string, data storage.Queryable, now time.Duration) (all []string) {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: promQL})
	q, err := engine.NewInstantQuery(t.Context(), data, nil, expr, time.UnixMilli(now.Milliseconds()))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	vector, err := q.Exec(t.Context()).Vector()
	if err != nil {
		t.Fatal(err)
	}
	for _, sample := range vector {
		all = append(all, sample.Metric.String())
	}
	return all
}

// load returns series as stored, all of the gateway's.
func load(t *testing.T, from series) (storage.Queryable, int) {
	t.Helper()
	var all []promql.Series
	minutes := 0
	for _, text := range from {
		metric, values, err := promQL.ParseSeriesDesc(text)
		if err != nil {
			t.Fatal(err)
		}
		b := labels.NewBuilder(metric).Set("instance", "gateway:9723")
		if metric.Get("job") == "" {
			b.Set("job", "pptpalg")
		}
		s := promql.Series{Metric: b.Labels()}
		for i, v := range values {
			s.Floats = append(s.Floats, promql.FPoint{T: (time.Duration(i) * time.Minute).Milliseconds(), F: v.Value})
		}
		all, minutes = append(all, s), max(minutes, len(values))
	}
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			return &set{all: all, matchers: matchers, at: -1}
		},
	}}, minutes
}

// set is the series that matchers select.
type set struct {
	all      []promql.Series
	matchers []*labels.Matcher
	at       int
}

func (s *set) Next() bool {
	for s.at++; s.at < len(s.all); s.at++ {
		selected := true
		for _, m := range s.matchers {
			selected = selected && m.Matches(s.all[s.at].Metric.Get(m.Name))
		}
		if selected {
			return true
		}
	}
	return false
}

func (s *set) At() storage.Series                { return promql.NewStorageSeries(s.all[s.at]) }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }

// TestDashboardParses: each expression of the dashboard is PromQL.
func TestDashboardParses(t *testing.T) {
	b, err := os.ReadFile("../grafana/pptpalg.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	expressions := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expressions++
			if _, err := promQL.ParseExpr(strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")); err != nil {
				t.Errorf("%s: %v", p.Title, err)
			}
		}
	}
	if expressions == 0 {
		t.Error("there are no expressions")
	}
}
