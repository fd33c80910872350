package main

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplice(t *testing.T) {
	beginMark, endMark := marks("")
	begin, end := marks("cluster")
	for _, tt := range []struct{ name, old, want string }{
		{"no file", "", beginMark + "\n\nNEW\n" + endMark + "\n"},
		{"no marks", "# By hand\n", "# By hand\n\n" + beginMark + "\n\nNEW\n" + endMark + "\n"},
		{"marks", "above\n" + beginMark + "\nOLD\n" + endMark + "\nbelow\n", "above\n" + beginMark + "\n\nNEW\n" + endMark + "\nbelow\n"},
		{"one mark", "above\n" + beginMark + "\nhand\n", "above\n" + beginMark + "\nhand\n\n" + beginMark + "\n\nNEW\n" + endMark + "\n"},
		{"another block", begin + "\nOTHER\n" + end + "\n", begin + "\nOTHER\n" + end + "\n\n" + beginMark + "\n\nNEW\n" + endMark + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, splice(tt.old, "", "NEW")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestTable(t *testing.T) {
	var r report
	r.table([]string{"", "µs"}, [][]string{{"one", "1,000"}, {"fifteen", "-"}})
	want := `|         |    µs |
|---------|------:|
| one     | 1,000 |
| fifteen |     - |
`
	if diff := cmp.Diff(want, r.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSummary(t *testing.T) {
	var r report
	r.aim(target{what: "low", is: 1.003, limit: 1, unit: " ×"})
	r.aim(target{what: "high", is: 2.5, limit: 2.5, atLeast: true, unit: " ×"})
	r.aim(target{what: "unknown", is: math.NaN()})
	r.summary()
	want := `
## Targets

|      |  wanted |      is |         |
|------|--------:|--------:|--------:|
| low  |   ≤ 1 × | 1.003 × | not met |
| high | ≥ 2.5 × |   2.5 × |     met |
`
	if diff := cmp.Diff(want, r.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCount(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", math.Inf(1): "-"} {
		if got := count(v); got != want {
			t.Errorf("count(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for part, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := quantile(values, part); got != want {
			t.Errorf("quantile(%v) = %v, want %v", part, got, want)
		}
	}
	if got := ratio([]float64{1, 4, 9}, []float64{1, 2, 3}); got != 2 {
		t.Errorf("ratio is %v, want the median of 1, 2, 3", got)
	}
	if !math.IsNaN(median(nil)) {
		t.Error("nothing has a median")
	}
}

func TestHistogram(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(`# TYPE v histogram
v_bucket{le="0.1"} 50
v_bucket{le="0.2"} 90
v_bucket{le="+Inf"} 100
v_sum 9
`))
	if err != nil {
		t.Fatal(err)
	}
	h := newHistogram(m, "v")
	for part, want := range map[float64]float64{0.25: 0.05, 0.5: 0.1, 0.7: 0.15, 0.99: 0.2} {
		if got := h.quantile(part); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile(%v) = %v, want %v", part, got, want)
		}
	}
	if !math.IsNaN(histogram(nil).quantile(0.5)) {
		t.Error("an empty histogram has a median")
	}
}
