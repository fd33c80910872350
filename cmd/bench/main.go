package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"pptpalg/cmd/internal/progress"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == goQueueArg {
		exit(rewriteWithGoNFQueue(os.Stdin, os.Stdout))
	}
	var o options
	flag.StringVar(&o.program, "pptpalg", "bin/pptpalg", "the program to measure")
	flag.StringVar(&o.out, "o", "", "file to write the report into, between its marks, as well as to the standard output")
	flag.BoolVar(&o.quick, "quick", false, "a minute instead of ten: fewer rounds, no more than 1,000 calls")
	flag.StringVar(&o.only, "only", "", "parts to run, separated by commas, of gre, table, other, calls, memory, idle, cluster, growth; all without it")
	flag.StringVar(&o.before, "before", "", "an earlier pptpalg, with which the parts calls and cluster compare the program as it is without --cluster")
	flag.DurationVar(&o.outage, "outage", 0, "how long etcd is gone in the part cluster; 0 for a minute, or three seconds of a quick run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// options are the flags.
type options struct {
	program, out string
	before       string
	quick        bool
	only         string
	outage       time.Duration
}

func run(ctx context.Context, o options) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	p := programs{pptpalg: o.program, self: self}
	begun := time.Now()
	parts := slices.DeleteFunc(o.parts(p), func(p part) bool {
		return o.only != "" && !slices.Contains(strings.Split(o.only, ","), p.name)
	})
	steps := progress.Start(os.Stderr, len(parts))
	defer steps.Done()
	log.SetFlags(0)
	log.SetOutput(steps)
	var reports []*report
	for _, part := range parts {
		steps.Next("part " + part.name)
		r, err := reportFor(part.block, &reports)
		if err != nil {
			return err
		}
		if err := part.run(ctx, r); err != nil {
			fmt.Print(r) // what there is has taken minutes
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	log.Printf("done in %v", time.Since(begun).Round(time.Second))
	for _, r := range reports {
		r.summary()
		fmt.Print(r)
		if o.out == "" {
			continue
		}
		if err := r.write(o.out); err != nil {
			return err
		}
	}
	return nil
}

// reportFor returns the report for a block, a new one if there is none yet.
func reportFor(block string, all *[]*report) (*report, error) {
	for _, r := range *all {
		if r.block == block {
			return r, nil
		}
	}
	r := &report{block: block}
	*all = append(*all, r)
	return r, r.describe()
}

// part is one part of the report.
type part struct {
	name  string
	run   func(context.Context, *report) error
	block string // of the file, where it is not that of the comparison
}

func (o options) parts(p programs) []part {
	all := contenders(p)
	g := greRun{contenders: all, calls: []int{1, 1000, 10000, 50000}, sizes: []int{64, 1400}, rounds: 9, window: 70 * time.Millisecond}
	t := tableRun{greRun{contenders: filled(all), calls: []int{500000}, sizes: g.sizes, rounds: g.rounds, window: g.window}}
	b := otherRun{rounds: 41, window: 40 * time.Millisecond, repeat: 1_000_000}
	c := callRun{contenders: slices.Concat(only(all, nameNAT, nameHelper, nameKernel, nameQueue), earlier(o.before)), rounds: 5, window: 3 * time.Second, trips: 1000}
	d := crowdRun{daemon: only(all, nameKernel)[0], calls: 50000, silent: 10000, watch: 10 * time.Second, idling: 2 * time.Minute, restarts: 5}
	k := clusterRun{
		program: o.program, before: o.before, rounds: 5, window: 2 * time.Second, trips: 200, pauses: 3, moves: 10, deaths: 5, outage: time.Minute, onset: 5 * time.Second,
		calls: 100000, watch: 5 * time.Second, gateways: []int{1, 2, 3, 4},
	}
	if o.quick {
		g.calls, g.rounds, g.window = []int{1, 1000}, 5, 40*time.Millisecond
		t.calls, t.rounds, t.window = []int{50000}, g.rounds, g.window
		b.rounds, b.repeat = 11, 100_000
		c.rounds, c.window, c.trips = 2, time.Second, 300
		k.rounds, k.window, k.trips, k.pauses, k.moves, k.deaths = 2, time.Second, 100, 1, 2, 1
		k.outage, k.onset = 3*time.Second, 2*time.Second
		k.calls, k.watch, k.gateways = 4000, time.Second, []int{1, 2}
		d.calls, d.silent, d.watch, d.idling, d.restarts = 5000, 1000, 5*time.Second, 10*time.Second, 2
	}
	if o.outage > 0 {
		k.outage = o.outage
	}
	return []part{
		{name: "gre", run: func(ctx context.Context, r *report) error {
			result, err := g.run(ctx)
			if err == nil {
				g.write(r, result)
			}
			return err
		}},
		{name: "table", run: t.measure},
		{name: "other", run: b.measure},
		{name: "calls", run: func(ctx context.Context, r *report) error {
			result, err := c.run(ctx)
			if err == nil {
				c.write(r, result)
			}
			return err
		}},
		{name: "memory", run: d.memory},
		{name: "idle", run: d.idle},
		{name: "cluster", run: k.measure, block: "cluster"},
		{name: "growth", run: k.grow, block: "growth"},
	}
}
