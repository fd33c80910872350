package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// median returns the middle of values, NaN without any.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the value below which a part of values lies, by the nearest
// rank.
func quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(part*float64(len(sorted))), len(sorted)-1)]
}

// ratio returns the median of the ratios of two contenders in each round, NaN where
// one was not measured. Rounds are compared with themselves because the machine's
// mood changes between them.
func ratio(of, to []float64) float64 {
	var each []float64
	for i := range min(len(of), len(to)) {
		each = append(each, of[i]/to[i])
	}
	return median(each)
}

// difference returns the median of how much more one contender has than another in each
// round.
func difference(of, to []float64) float64 {
	var each []float64
	for i := range min(len(of), len(to)) {
		each = append(each, of[i]-to[i])
	}
	return median(each)
}

// slope returns how much y grows with x, by least squares.
func slope(x, y []float64) float64 {
	var n, sx, sy, sxx, sxy float64
	for i := range x {
		n++
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

// spread says how far apart the rounds lie: the highest over the lowest.
func spread(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Max(values) / slices.Min(values)
}

// count formats a number with thousands set apart, "-" if there is none.
func count(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// times formats a ratio.
func times(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v < 0.1:
		return fmt.Sprintf("%.4f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func micros(d float64) string { return count(d / float64(time.Microsecond)) }
