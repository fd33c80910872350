package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
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

// crowded is from how many calls on contenders are measured in two groups. The kernel
// has one hash table of connections for all namespaces: the more contenders have theirs
// in it, the longer are its chains, for everybody.
const crowded = 50000

func (g greRun) groups(n int) []greRun {
	if n < crowded {
		return []greRun{g}
	}
	inKernel, queued := g, g
	inKernel.contenders, queued.contenders = nil, nil
	for _, c := range g.contenders {
		if c.queued || c.name == nameNAT {
			queued.contenders = append(queued.contenders, c)
		} else {
			inKernel.contenders = append(inKernel.contenders, c)
		}
	}
	return []greRun{inKernel, queued}
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
visited at random, over %d clients and %d servers. With %s calls the contenders of user
space, and NAT without an editor, are measured after the others: the kernel has one hash
table of connections for all namespaces, and it would be too full.
`, g.rounds, clientCount, serverCount, count(crowded))
	for _, size := range g.sizes {
		for _, d := range []direction{outward, inward} {
			g.table(r, result, kind{d, size})
		}
	}
	g.ratios(r, result)
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

// ratios shows what each costs in terms of the kernel helper, over both directions.
func (g greRun) ratios(r *report, result greResult) {
	r.heading(3, fmt.Sprintf("in terms of the kernel helper, %d bytes, both directions", g.sizes[0]))
	g.each(r, func(c contender, n int) string {
		return times(ratio(g.both(result, c.name, n), g.both(result, nameHelper, n)))
	})
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

// both returns the mean of both directions in each round, of the smallest packets.
func (g greRun) both(result greResult, name string, n int) []float64 {
	out, in := result[greKey{name, kind{outward, g.sizes[0]}, n}], result[greKey{name, kind{inward, g.sizes[0]}, n}]
	var mean []float64
	for i := range min(len(out), len(in)) {
		mean = append(mean, (out[i]+in[i])/2)
	}
	return mean
}

// aims compares with what is wanted of the data paths.
func (g greRun) aims(r *report, result greResult) {
	for _, a := range []struct {
		calls int
		limit float64
	}{{1, 1.0}, {1000, 0.2}, {10000, 0.03}} {
		r.aim(target{
			what: fmt.Sprintf("data path kernel, CPU per packet, of the kernel helper's at %s calls", count(float64(a.calls))),
			is:   ratio(g.both(result, nameKernel, a.calls), g.both(result, nameHelper, a.calls)), limit: a.limit, unit: " ×",
		})
	}
	r.aim(target{
		what: "data path kernel, CPU per packet at 50,000 calls, of its own at 1 call",
		is:   ratio(g.both(result, nameKernel, 50000), g.both(result, nameKernel, 1)), limit: 1.7, unit: " ×",
	})
	for _, n := range g.calls {
		r.aim(target{
			what: fmt.Sprintf("data path queue, packets per core, of plain go-nfqueue's at %s calls", count(float64(n))),
			is:   ratio(g.both(result, nameGoQueue, n), g.both(result, nameQueue, n)), limit: 2.5, atLeast: true, unit: " ×",
		})
	}
}
