package monitor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"
)

const deploy = "../../../deploy/"

var some = Metrics{
	"a_total":   {Name: "a_total", Type: "counter", Help: "As.", Series: []map[string]string{{"kind": "limit_calls"}, {"kind": "other"}}},
	"b_seconds": {Name: "b_seconds", Type: "histogram", Help: "Time.", Series: []map[string]string{{}}},
	"c":         {Name: "c", Type: "gauge", Help: "Cs.", Series: []map[string]string{{"version": "v1"}}},
}

func TestCheck(t *testing.T) {
	tests := []struct {
		expr, want string // of the error, "" for none
	}{
		{`c > 0 and c < 1e3 offset 5m`, ""},
		{`sum by (kind, job) (rate(a_total{instance=~"$instance",kind="other"}[5m])) > 0`, ""},
		{`histogram_quantile(0.99, sum(rate(b_seconds_bucket{le="1"}[$__rate_interval])) without (job))`, ""},
		{`up{job="x"} == 0 or increase(a_total{kind=~"limit_.+|gone"}[10m]) > 0`, ""},
		{`a_total{kind!="other"} / on (instance) group_left (version) c`, ""},
		{`rate(d_total[5m])`, "there is no metric d_total"},
		{`a_total_count_total`, "there is no metric a_total_count_total"},
		{`a_total{kind="limit_call"}`, "no series is selected of a_total"},
		{`a_total{kind=~"limit"}`, "no series is selected of a_total"},
		{`a_total{kinds="other"}`, "no series is selected of a_total"},
	}
	for _, tt := range tests {
		got := ""
		if err := some.Check(tt.expr); err != nil {
			got = regexp.MustCompile(`^.*": `).ReplaceAllString(err.Error(), "")
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.expr, got, tt.want)
		}
	}
}

func TestNames(t *testing.T) {
	got := Names(`rate(b{x="y"}[5m]) / on (job) rate(a[$__rate_interval]) or b unless bool`)
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWithTable(t *testing.T) {
	want := "before\n" + tableBegins + `
| metric | type | labels | |
|---|---|---|---|
| ` + "`a_total` | counter | `kind`: limit_calls, other" + ` | As. |
| ` + "`b_seconds` | histogram | " + ` | Time. |
| ` + "`c` | gauge | `version`" + ` | Cs. |

` + tableEnds + "behind\n"
	got, err := some.WithTable("before\n"+tableBegins+"old\n"+tableEnds+"behind\n", "c version")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := some.WithTable("no table"); err == nil {
		t.Error("a page without a table is taken")
	}
}

func TestReadAlertsRefuses(t *testing.T) {
	for _, text := range []string{"groups: [{rules: [{alert: A, exp: up}]}]", "groups: [{rules: [{alert: A, for: soon}]}]", "group: []"} {
		if _, err := ReadAlerts([]byte(text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
	if _, err := ReadDashboard([]byte("{")); err == nil {
		t.Error("half a dashboard is taken")
	}
}

// mustAlert is what an operator has to act on, and the severity of each.
var mustAlert = map[string]string{
	"up":                                        "critical",
	"pptpalg_ready":                             "critical",
	"pptpalg_healthy":                           "critical",
	"pptpalg_conntrack_table_entries":           "critical",
	"pptpalg_panics_total":                      "warning",
	"pptpalg_queue_dropped_total":               "warning",
	"pptpalg_queue_user_dropped_total":          "warning",
	"pptpalg_queue_overruns_total":              "warning",
	"pptpalg_queue_errors_total":                "warning",
	"pptpalg_conntrack_errors_total":            "warning",
	"pptpalg_conntrack_entries_missing":         "warning",
	"pptpalg_journal_errors_total":              "warning",
	"pptpalg_reconcile_repairs_total":           "warning",
	"pptpalg_call_id_space_used_ratio":          "warning",
	"pptpalg_anomalies_total":                   "warning",
	"pptpalg_control_connections_refused_total": "warning",
	"pptpalg_verdict_seconds_bucket":            "warning",
	"pptpalg_verdict_seconds_count":             "warning",
	"pptpalg_packets_total":                     "warning",
	"pptpalg_gre_packets_total":                 "warning",
	"pptpalg_gre_unmatched_flows":               "warning",
	"pptpalg_rules_loaded":                      "critical",
	"pptpalg_rules_lost_total":                  "warning",
	"pptpalg_fastpath_wanted":                   "warning",
	"pptpalg_fastpath_interfaces":               "warning",
	"pptpalg_fastpath_interfaces_missing":       "warning",
	"pptpalg_fastpath_flows_without_place":      "warning",
	"pptpalg_fastpath_packets_total":            "warning",
	"pptpalg_calls_gre_packets_total":           "warning",
	"pptpalg_cluster_astray_total":              "warning",
	"pptpalg_cluster_degraded":                  "critical",
	"pptpalg_cluster_lag_seconds":               "critical",
	"pptpalg_cluster_members":                   "warning",
	"pptpalg_cluster_same_name":                 "warning",
	"pptpalg_calls_one_way":                     "warning",
	"pptpalg_calls_silent":                      "warning",
	"pptpalg_config_last_reload_successful":     "warning",
	"pptpalg_export_lag_seconds":                "warning",
	"pptpalg_export_lost_total":                 "warning",
}

func TestAlerts(t *testing.T) {
	alerts, err := ReadAlerts(read(t, "prometheus/pptpalg.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	severity := make(map[string]string)
	names := make(map[string]bool)
	for _, a := range alerts {
		checkAlert(t, a)
		if names[a.Name] {
			t.Errorf("%s comes twice", a.Name)
		}
		names[a.Name] = true
		for _, name := range Names(a.Expr) {
			severity[name] = a.Labels["severity"]
		}
	}
	delete(severity, "pptpalg_conntrack_table_limit")
	if diff := cmp.Diff(mustAlert, severity); diff != "" {
		t.Errorf("what alerts look at (-want +got):\n%s", diff)
	}
}

var sentence = regexp.MustCompile(`(?s)^(pptpalg|[A-Z"{]).*[.]$`)

func checkAlert(t *testing.T, a Alert) {
	t.Helper()
	if !regexp.MustCompile(`^Pptpalg[A-Z]\w+$`).MatchString(a.Name) {
		t.Errorf("%q is no name of ours", a.Name)
	}
	for _, kind := range []string{"summary", "description", "runbook"} {
		text := a.Annotations[kind]
		if !sentence.MatchString(text) {
			t.Errorf("%s: %s is no sentence: %q", a.Name, kind, text)
		}
		// As Prometheus expands them.
		functions := template.FuncMap{"humanizePercentage": func(float64) string { return "" }, "humanizeDuration": func(float64) string { return "" }}
		if _, err := template.New("").Funcs(functions).Parse("{{$labels := .Labels}}{{$value := .Value}}" + text); err != nil {
			t.Errorf("%s: %s: %v", a.Name, kind, err)
		}
	}
	if len(a.Annotations) != 3 {
		t.Errorf("%s has annotations that are not known: %v", a.Name, a.Annotations)
	}
}

func TestDashboard(t *testing.T) {
	d, err := ReadDashboard(read(t, "grafana/pptpalg.json"))
	if err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" {
		t.Errorf("it has uid %q, title %q", d.UID, d.Title)
	}
	if !slices.ContainsFunc(d.Templating.List, func(v Variable) bool { return v.Name == "datasource" && v.Type == "datasource" }) {
		t.Error("the datasource cannot be chosen")
	}
	ids := make(map[int]bool)
	for i, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: number %d comes twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		checkPanel(t, p)
		for _, q := range d.Panels[:i] {
			if overlap(p.Place, q.Place) {
				t.Errorf("%s and %s overlap", p.Title, q.Title)
			}
		}
	}
}

func checkPanel(t *testing.T, p Panel) {
	t.Helper()
	if p.Title == "" || p.Place.W < 1 || p.Place.H < 1 || p.Place.X+p.Place.W > 24 {
		t.Errorf("panel %d, %q, is at %+v", p.ID, p.Title, p.Place)
	}
	if p.Type == "row" {
		return
	}
	if len(p.Targets) == 0 || p.Defaults.Defaults.Unit == "" {
		t.Errorf("%s: %d expressions, unit %q", p.Title, len(p.Targets), p.Defaults.Defaults.Unit)
	}
	chosen := Datasource{Type: "prometheus", UID: "${datasource}"}
	refs := make(map[string]bool)
	for _, target := range p.Targets {
		if p.Datasource != chosen || target.Datasource != chosen || refs[target.RefID] {
			t.Errorf("%s: asks %+v and %+v as %s", p.Title, p.Datasource, target.Datasource, target.RefID)
		}
		refs[target.RefID] = true
		if !strings.Contains(target.Expr, `instance=~"$instance"`) {
			t.Errorf("%s does not heed the gateway that is chosen: %s", p.Title, target.Expr)
		}
	}
}

func overlap(a, b Place) bool {
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(deploy + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
