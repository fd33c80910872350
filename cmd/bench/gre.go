package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"strings"
	"time"
)

// greRun says what to measure of GRE.
type greRun struct {
	contenders []contender
	calls      []int
	sizes      []int
	rounds     int
	window     time.Duration
}

// greKey names a series of measurements.
type greKey struct {
	contender string
	kind      kind
	calls     int
}

// greResult is CPU time per packet in nanoseconds, one value for each round.
type greResult map[greKey][]float64

// gre measures all contenders with one number of calls after the other. Within a
// round each is measured once, so that a machine that grows slower does so for all.
func (g greRun) run(ctx context.Context) (greResult, error) {
	result := make(greResult)
	for _, n := range g.calls {
		for _, group := range g.groups(n) {
			if err := group.withCalls(ctx, n, result); err != nil {
				return nil, err
			}
		}
	}
	return result, nil
}

// crowded is from how many calls on contenders are measured in groups. The kernel has one
// hash table of connections for all namespaces: the more contenders have theirs in it, the
// longer are its chains, for everybody.
const crowded = 50000

// crowdedRounds is how many times as many rounds the fast path gets then: whether a packet's flow is in the
// processor's cache is chance.
const crowdedRounds = 3

func (g greRun) groups(n int) []greRun {
	if n < crowded {
		return []greRun{g}
	}
	inKernel, fast, queued := g, g, g
	inKernel.contenders, fast.contenders, queued.contenders = nil, nil, nil
	for _, c := range g.contenders {
		to := &inKernel
		switch {
		case c.queued || c.name == nameNAT:
			to = &queued
		case c.fast != "" || c.name == nameRelay:
			to = &fast
		}
		to.contenders = append(to.contenders, c)
	}
	fast.rounds *= crowdedRounds
	return []greRun{inKernel, fast, queued}
}

func (g greRun) withCalls(ctx context.Context, n int, result greResult) (err error) {
	var lanes []*lane
	defer func() {
		for _, l := range lanes {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, c := range g.contenders {
		log.Printf("GRE: setting %d calls up for %s", n, c.name)
		l, err := openLane(ctx, c, n, g.sizes)
		if err != nil {
			return err
		}
		lanes = append(lanes, l)
	}
	log.Printf("GRE: measuring with %d calls", n)
	for round := range g.rounds {
		if err := g.round(ctx, lanes, round, result); err != nil {
			return err
		}
	}
	return nil
}

// round measures every kind of packets, with one contender after the other.
func (g greRun) round(ctx context.Context, lanes []*lane, round int, result greResult) error {
	for _, d := range []direction{outward, inward} {
		for _, size := range g.sizes {
			for i := range lanes {
				l := lanes[(i+round)%len(lanes)] // so that none always follows the same one
				if err := errors.Join(ctx.Err(), g.measure(l, kind{d, size}, result)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (g greRun) measure(l *lane, k kind, result greResult) error {
	if l.generators[k] == nil {
		return nil
	}
	s, err := l.measure(k, g.window)
	if err != nil {
		return err
	}
	if s.lost > 0 {
		log.Printf("%s, %d calls, %v: %d packets lost, %d delivered", l.name, len(l.calls), k, s.lost, s.arrived)
	}
	key := greKey{l.name, k, len(l.calls)}
	result[key] = append(result[key], float64(s.perPacket))
	return nil
}

// write writes the tables and sets the targets.
func (g greRun) write(r *report, result greResult) {
	r.heading(2, "GRE: CPU time per packet")
	fmt.Fprintf(r, `Nanoseconds from the generator to the sink, both included: the threads of the
injector, ksoftirqd and, where packets visit user space, the process there. Median of
%d interleaved rounds; in brackets packets per second and core, in thousands. Calls are
visited at random, over %d clients and %d servers. With %s calls the fast path and what
it is compared with are measured after the others, in %d rounds, and then those of user space with NAT
without an editor: the kernel has one hash table of connections for all namespaces, and it
would be too full. The fast path asks the kernel every 30 seconds here; before a
measurement each call has sent packets, as it does in a busy network.
`, g.rounds, clientCount, serverCount, count(crowded), crowdedRounds*g.rounds)
	for _, size := range g.sizes {
		for _, d := range []direction{outward, inward} {
			g.table(r, result, kind{d, size})
		}
	}
	g.ratios(r, result, nameHelper)
	g.ratios(r, result, nameRelay)
	g.aims(r, result)
}

func (g greRun) table(r *report, result greResult, k kind) {
	r.heading(3, k.String())
	g.each(r, func(c contender, n int) string {
		ns := median(result[greKey{c.name, k, n}])
		if math.IsNaN(ns) {
			return "-"
		}
		return fmt.Sprintf("%s (%s)", count(ns), count(1e6/ns))
	})
}

// ratios shows what each costs in terms of another, over both directions.
func (g greRun) ratios(r *report, result greResult, of string) {
	for _, size := range g.sizes {
		r.heading(3, fmt.Sprintf("in terms of %s, %d bytes, both directions", of, size))
		g.each(r, func(c contender, n int) string {
			return times(ratio(g.both(result, c.name, size, n), g.both(result, of, size, n)))
		})
	}
}

// each writes a table of contenders and numbers of calls.
func (g greRun) each(r *report, cell func(c contender, n int) string) {
	head := []string{"calls"}
	for _, n := range g.calls {
		head = append(head, count(float64(n)))
	}
	var rows [][]string
	for _, c := range g.contenders {
		row := []string{c.name}
		for _, n := range g.calls {
			row = append(row, cell(c, n))
		}
		rows = append(rows, row)
	}
	r.table(head, rows)
}

// both returns the mean of both directions in each round.
func (g greRun) both(result greResult, name string, size, n int) []float64 {
	out, in := result[greKey{name, kind{outward, size}, n}], result[greKey{name, kind{inward, size}, n}]
	var mean []float64
	for i := range min(len(out), len(in)) {
		mean = append(mean, (out[i]+in[i])/2)
	}
	return mean
}

// aims compares with what is wanted of the data paths and of the fast path.
func (g greRun) aims(r *report, result greResult) {
	smallest := func(name string, n int) []float64 { return g.both(result, name, g.sizes[0], n) }
	for _, a := range []struct {
		name, of, says string
		calls          int
		limit          float64
	}{
		{nameKernel, nameHelper, "the kernel helper's", 1, 1.0},
		{nameKernel, nameHelper, "the kernel helper's", 1000, 0.2},
		{nameKernel, nameHelper, "the kernel helper's", 10000, 0.03},
		{nameXDP, nameHelper, "the kernel helper's", 1, 0.3},
		{nameXDP, nameHelper, "the kernel helper's", 1000, 0.05},
		{nameXDP, nameHelper, "the kernel helper's", 10000, 0.005},
		{nameXDP, nameRelay, "XDP forwarding's without NAT", 1, 1.0},
		{nameXDP, nameRelay, "XDP forwarding's without NAT", 1000, 1.0},
		{nameXDP, nameRelay, "XDP forwarding's without NAT", 10000, 1.1},
		{nameXDP, nameRelay, "XDP forwarding's without NAT", 50000, 1.25},
		{nameTC, nameHelper, "the kernel helper's", 1, 0.65},
	} {
		r.aim(target{
			what: fmt.Sprintf("%s, CPU per packet, of %s at %s calls", strings.TrimPrefix(a.name, "pptpalg, "), a.says, count(float64(a.calls))),
			is:   ratio(smallest(a.name, a.calls), smallest(a.of, a.calls)), limit: a.limit, unit: " ×",
		})
	}
	r.aim(target{
		what: "data path kernel, CPU per packet at 50,000 calls, of its own at 1 call",
		is:   ratio(smallest(nameKernel, 50000), smallest(nameKernel, 1)), limit: 1.7, unit: " ×",
	})
	for _, n := range g.calls {
		r.aim(target{
			what: fmt.Sprintf("data path queue, packets per core, of plain go-nfqueue's at %s calls", count(float64(n))),
			is:   ratio(smallest(nameGoQueue, n), smallest(nameQueue, n)), limit: 2.5, atLeast: true, unit: " ×",
		})
	}
}
