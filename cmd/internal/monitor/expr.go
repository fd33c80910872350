package monitor

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Metric is one that is exported.
type Metric struct {
	Name, Type, Help string
	Series           []map[string]string // the labels of each series
}

// Metrics are all that are exported, by name.
type Metrics map[string]Metric

// others are the metrics and labels that Prometheus makes by itself.
var (
	otherMetrics = []string{"up"}
	otherLabels  = []string{"job", "instance", "le"}
)

// Check returns an error if a PromQL expression names a metric that there is not, or
// selects no series of one. It reads expressions as simple as ours, by regular
// expressions: no label name in a selector's place, no brace or bracket in a string.
func (m Metrics) Check(expr string) error {
	for _, s := range selectors(expr) {
		if slices.Contains(otherMetrics, s.name) {
			continue
		}
		metric, ok := m[s.name]
		if !ok {
			metric, ok = m[histogram.ReplaceAllString(s.name, "")]
		}
		if !ok {
			return fmt.Errorf("check %q: there is no metric %s", expr, s.name)
		}
		if !slices.ContainsFunc(metric.Series, s.matches) {
			return fmt.Errorf("check %q: no series is selected of %s", expr, s.name)
		}
	}
	return nil
}

// Names returns the metrics that an expression names, in order, each once.
func Names(expr string) []string {
	var names []string
	for _, s := range selectors(expr) {
		names = append(names, s.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	histogram = regexp.MustCompile(`_(bucket|sum|count)$`)
	noise     = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\[[^\]]*\]`)
	named     = regexp.MustCompile(`\b([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\(|\{[^}]*\})?`)
	matcher   = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	keywords  = []string{"and", "or", "unless", "bool", "offset", "group_left", "group_right"}
)

type selector struct {
	name     string
	matchers [][]string // whole, label, operator, value
}

func selectors(expr string) []selector {
	var all []selector
	for _, found := range named.FindAllStringSubmatch(noise.ReplaceAllString(expr, " "), -1) {
		if name, rest := found[1], found[2]; rest != "(" && !slices.Contains(keywords, name) {
			all = append(all, selector{name, matcher.FindAllStringSubmatch(rest, -1)})
		}
	}
	return all
}

// matches reports whether a series is selected. A dashboard's variable selects any.
func (s selector) matches(series map[string]string) bool {
	for _, m := range s.matchers {
		label, operator, value := m[1], m[2], m[3]
		if slices.Contains(otherLabels, label) || strings.Contains(value, "$") {
			continue
		}
		got, has := series[label]
		same := got == value
		if strings.HasSuffix(operator, "~") {
			same = regexp.MustCompile("^(?:" + value + ")$").MatchString(got)
		}
		if !has || same != strings.HasPrefix(operator, "=") {
			return false
		}
	}
	return true
}
