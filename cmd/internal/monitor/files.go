package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Alert is an alert rule.
type Alert struct {
	Name        string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         time.Duration     `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// ReadAlerts reads a file of alert rules. Nothing else may be in it.
func ReadAlerts(b []byte) ([]Alert, error) {
	var file struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []Alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("read alert rules: %w", err)
	}
	var alerts []Alert
	for _, g := range file.Groups {
		alerts = append(alerts, g.Rules...)
	}
	return alerts, nil
}

// Dashboard is a dashboard of Grafana's, as far as it is checked.
type Dashboard struct {
	UID        string  `json:"uid"`
	Title      string  `json:"title"`
	Panels     []Panel `json:"panels"`
	Templating struct {
		List []Variable `json:"list"`
	} `json:"templating"`
}

// Variable is what a reader of the dashboard may choose.
type Variable struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Definition string `json:"definition"`
}

// Panel is a graph, a figure or, with Type "row", a heading.
type Panel struct {
	ID          int        `json:"id"`
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Place       Place      `json:"gridPos"`
	Datasource  Datasource `json:"datasource"`
	Targets     []struct {
		Datasource Datasource `json:"datasource"`
		Expr       string     `json:"expr"`
		RefID      string     `json:"refId"`
	} `json:"targets"`
	Defaults struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
}

// Place is a panel's, on a grid that is 24 wide.
type Place struct{ X, Y, W, H int }

// Datasource is where a panel's figures come from.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// ReadDashboard reads a dashboard's JSON.
func ReadDashboard(b []byte) (Dashboard, error) {
	var d Dashboard
	if err := json.Unmarshal(b, &d); err != nil {
		return Dashboard{}, fmt.Errorf("read dashboard: %w", err)
	}
	return d, nil
}

// The lines between which the table stands in its file.
const (
	tableBegins = "<!-- The table is made by go test ./cmd/pptpalg/internal/gateway -run Documented -update -->\n"
	tableEnds   = "<!-- The table ends. -->\n"
)

// WithTable returns a Markdown page whose table of metrics is that of m. Labels whose
// values are many, or tell versions, are named in open: the table has no values for them.
func (m Metrics) WithTable(page string, open ...string) (string, error) {
	head, rest, begins := strings.Cut(page, tableBegins)
	_, tail, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return "", fmt.Errorf("find table: the lines are missing between which it stands")
	}
	var b strings.Builder
	b.WriteString(head + tableBegins + "\n| metric | type | labels | |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, m[name].Type, m[name].labels(open), m[name].Help)
	}
	b.WriteString("\n" + tableEnds + tail)
	return b.String(), nil
}

// labels tells a metric's labels and their values.
func (m Metric) labels(open []string) string {
	values := make(map[string][]string)
	for _, s := range m.Series {
		for label, value := range s {
			values[label] = append(values[label], value)
		}
	}
	var told []string
	for _, label := range slices.Sorted(maps.Keys(values)) {
		told = append(told, "`"+label+"`")
		if !slices.Contains(open, m.Name+" "+label) {
			slices.Sort(values[label])
			told[len(told)-1] += ": " + strings.Join(slices.Compact(values[label]), ", ")
		}
	}
	return strings.Join(told, "; ")
}
