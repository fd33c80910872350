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
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == goQueueArg {
		exit(rewriteWithGoNFQueue(os.Stdin, os.Stdout))
	}
	var o options
	flag.StringVar(&o.program, "pptpalg", "bin/pptpalg", "the program to measure")
	flag.StringVar(&o.out, "o", "", "file to write the report into, between its marks, as well as to the standard output")
	flag.BoolVar(&o.quick, "quick", false, "a minute instead of ten: fewer rounds, no more than 1,000 calls")
	flag.StringVar(&o.only, "only", "", "parts to run, separated by commas, of gre, table, other, calls, memory, idle; all without it")
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
	quick        bool
	only         string
}

func run(ctx context.Context, o options) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	p := programs{pptpalg: o.program, self: self}
	r := new(report)
	if err := r.describe(); err != nil {
		return err
	}
	begun := time.Now()
	for _, part := range o.parts(p) {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), part.name) {
			continue
		}
		if err := part.run(ctx, r); err != nil {
			fmt.Print(r) // what there is has taken minutes
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	r.summary()
	log.Printf("done in %v", time.Since(begun).Round(time.Second))
	fmt.Print(r)
	if o.out == "" {
		return nil
	}
	return r.write(o.out)
}

// part is one part of the report.
type part struct {
	name string
	run  func(context.Context, *report) error
}

func (o options) parts(p programs) []part {
	all := contenders(p)
	g := greRun{contenders: all, calls: []int{1, 1000, 10000, 50000}, sizes: []int{64, 1400}, rounds: 9, window: 70 * time.Millisecond}
	t := tableRun{greRun{contenders: filled(all), calls: []int{500000}, sizes: g.sizes, rounds: g.rounds, window: g.window}}
	b := otherRun{rounds: 41, window: 40 * time.Millisecond, repeat: 1_000_000}
	c := callRun{contenders: only(all, nameNAT, nameHelper, nameKernel, nameQueue), rounds: 5, window: 3 * time.Second, trips: 1000}
	d := crowdRun{daemon: only(all, nameKernel)[0], calls: 50000, silent: 10000, watch: 10 * time.Second, idling: 2 * time.Minute, restarts: 5}
	if o.quick {
		g.calls, g.rounds, g.window = []int{1, 1000}, 5, 40*time.Millisecond
		t.calls, t.rounds, t.window = []int{50000}, g.rounds, g.window
		b.rounds, b.repeat = 11, 100_000
		c.rounds, c.window, c.trips = 2, time.Second, 300
		d.calls, d.silent, d.watch, d.idling, d.restarts = 5000, 1000, 5*time.Second, 10*time.Second, 2
	}
	return []part{
		{"gre", func(ctx context.Context, r *report) error {
			result, err := g.run(ctx)
			if err == nil {
				g.write(r, result)
			}
			return err
		}},
		{"table", t.measure},
		{"other", b.measure},
		{"calls", func(ctx context.Context, r *report) error {
			result, err := c.run(ctx)
			if err == nil {
				c.write(r, result)
			}
			return err
		}},
		{"memory", d.memory},
		{"idle", d.idle},
	}
}
