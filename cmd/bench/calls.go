package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"pptpalg/cmd/bench/internal/clock"
)

// callRun says how to measure the setting up of calls.
type callRun struct {
	contenders []contender
	rounds     int
	window     time.Duration
	trips      int // round trips to measure in each round
}

// callResult is one value for each round, by contender.
type callResult struct {
	rate     map[string][]float64       // calls set up and cleared per second
	cpu      map[string][]float64       // CPU time per call in nanoseconds
	trips    map[string][]time.Duration // of all rounds
	verdicts map[string]histogram       // what a daemon has counted itself
}

// stand is a contender with its yard, ready for dialogues.
type stand struct {
	contender
	*yard
	worker worker
	clocks []clock.Process // what takes part: this process, ksoftirqd, the worker
}

func openStand(ctx context.Context, c contender) (*stand, error) {
	y, err := newYard(ctx, c.options())
	if err != nil {
		return nil, err
	}
	w, err := c.start(ctx, y, nil)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, errors.Join(err, y.Close()))
	}
	s := &stand{contender: c, yard: y, worker: w}
	if s.clocks, err = clock.SoftIRQ(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.clocks = slices.Concat(s.clocks, w.clocks(), []clock.Process{clock.Process(os.Getpid())})
	return s, nil
}

func (s *stand) Close() error { return errors.Join(s.worker.Close(), s.yard.Close()) }

func (c callRun) run(ctx context.Context) (result callResult, err error) {
	result = callResult{
		rate: make(map[string][]float64), cpu: make(map[string][]float64),
		trips: make(map[string][]time.Duration), verdicts: make(map[string]histogram),
	}
	var stands []*stand
	defer func() {
		for _, s := range stands {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, each := range c.contenders {
		s, err := openStand(ctx, each)
		if err != nil {
			return result, err
		}
		stands = append(stands, s)
	}
	for round := range c.rounds {
		log.Printf("calls: round %d of %d", round+1, c.rounds)
		for i := range stands {
			if err := c.round(ctx, stands[(i+round)%len(stands)], result); err != nil {
				return result, err
			}
		}
	}
	return result, verdicts(stands, result)
}

func (c callRun) round(ctx context.Context, s *stand, result callResult) error {
	before, err := clock.Sum(s.clocks)
	if err != nil {
		return err
	}
	from := time.Now()
	n, err := s.farm.Cycle(ctx, c.window)
	took := time.Since(from)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if n == 0 {
		return fmt.Errorf("%s: no call was set up: %w", s.name, context.Cause(ctx))
	}
	after, err := clock.Sum(s.clocks)
	if err != nil {
		return err
	}
	result.rate[s.name] = append(result.rate[s.name], float64(n)/took.Seconds())
	result.cpu[s.name] = append(result.cpu[s.name], float64(after-before)/float64(n))
	trips, err := s.farm.RoundTrips(c.trips)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	result.trips[s.name] = append(result.trips[s.name], trips...)
	return nil
}

// verdicts asks the daemons how long their verdicts have taken.
func verdicts(stands []*stand, result callResult) error {
	for _, s := range stands {
		d, ok := s.worker.(*daemon)
		if !ok {
			continue
		}
		m, err := d.metrics()
		if err != nil {
			return err
		}
		if n := m["pptpalg_control_connections_refused_total"]; n > 0 {
			return fmt.Errorf("%s: %v connections were not edited, for there were too many", s.name, n)
		}
		result.verdicts[s.name] = newHistogram(m, "pptpalg_verdict_seconds")
	}
	return nil
}

func (c callRun) write(r *report, result callResult) {
	r.heading(2, "Calls set up and cleared")
	fmt.Fprintf(r, `The whole dialogue: TCP connect, Start-Control-Connection, Outgoing-Call, Call-Clear,
Call-Disconnect-Notify, close. CPU time is the sum of the clients, the server, ksoftirqd
and the daemon. Median of %d interleaved rounds of %v; ratios are medians of the rounds'.

`, c.rounds, c.window)
	var rows [][]string
	for _, each := range c.contenders {
		rate, cpu := result.rate[each.name], result.cpu[each.name]
		rows = append(rows, []string{
			each.name, count(median(rate)), micros(median(cpu)),
			times(ratio(rate, result.rate[nameHelper])), times(ratio(cpu, result.cpu[nameHelper])), times(spread(rate)),
		})
	}
	r.table([]string{"", "calls/s", "CPU µs per call", "rate, of the helper's", "CPU, of the helper's", "fastest round over slowest"}, rows)
	c.trip(r, result)
	for _, name := range []string{nameKernel, nameQueue} {
		r.aim(target{what: "calls set up, rate, of the kernel helper's, " + name, is: ratio(result.rate[name], result.rate[nameHelper]), limit: 0.9, atLeast: true, unit: " ×"})
		r.aim(target{what: "calls set up, CPU per call, of the kernel helper's, " + name, is: ratio(result.cpu[name], result.cpu[nameHelper]), limit: 1.4, unit: " ×"})
		if before := result.cpu[name+beforeSuffix]; before != nil {
			r.aim(target{what: "calls set up, CPU per call, of before, " + name, is: ratio(result.cpu[name], before), limit: 1.02, unit: " ×"})
		}
	}
}

// trip writes how long an exchange takes, and the daemon its verdicts.
func (c callRun) trip(r *report, result callResult) {
	r.heading(3, "latency")
	fmt.Fprintf(r, `From an Outgoing-Call-Request to its reply as a client sees it, one at a time,
%d in each round, and from a packet's receipt to its verdict as the daemon measures it under
the load above; microseconds.

`, c.trips)
	parts := []float64{0.5, 0.99, 0.999}
	var rows [][]string
	for _, each := range c.contenders {
		row := []string{each.name}
		var values []float64
		for _, t := range result.trips[each.name] {
			values = append(values, float64(t))
		}
		for _, p := range parts {
			row = append(row, micros(quantile(values, p)))
		}
		for _, p := range parts {
			row = append(row, micros(result.verdicts[each.name].quantile(p)*float64(time.Second)))
		}
		rows = append(rows, row)
	}
	r.table([]string{"", "exchange p50", "p99", "p99.9", "verdict p50", "p99", "p99.9"}, rows)
}

// histogram is a Prometheus histogram: how many values lay up to each bound.
type histogram []bucket

type bucket struct{ bound, count float64 }

func newHistogram(metrics map[string]float64, name string) histogram {
	var h histogram
	for series, n := range metrics {
		label, ok := strings.CutPrefix(series, name+`_bucket{le="`)
		if !ok {
			continue
		}
		bound, err := strconv.ParseFloat(strings.TrimSuffix(label, `"}`), 64)
		if err == nil { // "+Inf" is a number too
			h = append(h, bucket{bound, n})
		}
	}
	slices.SortFunc(h, func(a, b bucket) int {
		if a.bound < b.bound {
			return -1
		}
		return 1
	})
	return h
}

// quantile estimates as Prometheus's histogram_quantile does: values are spread
// evenly within a bucket. The last bound is all that is known of what lies beyond.
func (h histogram) quantile(part float64) float64 {
	if len(h) == 0 || h[len(h)-1].count == 0 {
		return median(nil)
	}
	rank := part * h[len(h)-1].count
	var last bucket
	for i, b := range h {
		if b.count >= rank {
			if i == len(h)-1 {
				return last.bound
			}
			return last.bound + (b.bound-last.bound)*(rank-last.count)/(b.count-last.count)
		}
		last = b
	}
	return last.bound
}
