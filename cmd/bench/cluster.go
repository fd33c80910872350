package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os/exec"
	"slices"
	"strings"
	"time"

	"pptpalg/cmd/bench/internal/clock"
)

// clusterRun says how to measure gateways that share their calls.
type clusterRun struct {
	program  string
	before   string // an earlier program, "" for none
	rounds   int
	window   time.Duration
	trips    int           // round trips to measure in each round
	pauses   int           // how often etcd's leader is killed
	moves    int           // of the addresses, in order
	deaths   int           // of the gateway that has the addresses
	outage   time.Duration // of all members of etcd
	onset    time.Duration // how long after etcd has gone a wait belongs to its going
	calls    int           // of the gateway whose calls another one takes over
	watch    time.Duration
	gateways []int // how many share the calls
}

// talkers is how many connections place and clear calls at a time.
const talkers = 64

// measure measures and writes what a cluster does.
func (c clusterRun) measure(ctx context.Context, r *report) error {
	r.heading(2, "Gateways that share their calls")
	return c.steps(ctx, r, c.rate, c.earlier, c.leader, c.gone, c.move)
}

// grow measures and writes what grows with calls and gateways.
func (c clusterRun) grow(ctx context.Context, r *report) error {
	r.heading(2, "What grows with calls and gateways")
	return c.steps(ctx, r, c.growth, c.many) // in this order: what many calls leave in the kernel takes it long to delete
}

func (c clusterRun) steps(ctx context.Context, r *report, all ...func(context.Context, *report) error) error {
	fmt.Fprintf(r, `The gateways, %d members of etcd (%s) that write to the disk, the clients and their servers
are all on this machine's processors.
`, etcdMembers, etcdVersion(ctx))
	for _, step := range all {
		if err := step(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func etcdVersion(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "etcd", "--version").Output()
	if err != nil {
		return "of an unknown version"
	}
	_, version, _ := strings.Cut(string(out), ": ")
	version, _, _ = strings.Cut(version, "\n")
	return version
}

// Names of the contenders.
const (
	nameAlone  = "without --cluster"
	nameShared = "with --cluster"
	nameWarm   = "with --cluster, and a second gateway that follows"
	nameBefore = "the earlier program"
)

// talker is a gateway through which calls are placed and cleared.
type talker struct {
	*pair
	name   string
	clocks []clock.Process // of its daemon

	rate, cpu, whole []float64 // by round
	trips            []float64
}

// openTalker starts a gateway, and another one beside it where that is to follow.
func openTalker(ctx context.Context, name, program string, shared, warm bool) (*talker, error) {
	p, err := newPair(ctx, program, shared, 0)
	if err != nil {
		return nil, err
	}
	if err = p.run(p.owner); err == nil && warm {
		err = p.run(p.other)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &talker{pair: p, name: name, clocks: p.owner.clocks()}, nil
}

// talk places and clears calls for a while. Rates count each of both.
func (t *talker) talk(ctx context.Context, window time.Duration) error {
	before, err := clock.Sum(t.clocks)
	if err != nil {
		return err
	}
	from := time.Now()
	waits, err := t.farm.Talk(ctx, talkers, window)
	if err != nil {
		return fmt.Errorf("%s: %w; log: %s", t.name, err, t.owner.log)
	}
	done := float64(2 * len(waits))
	t.rate = append(t.rate, done/time.Since(from).Seconds())
	after, err := clock.Sum(t.clocks)
	t.cpu = append(t.cpu, float64(after-before)/done)
	return err
}

// cycle does whole dialogues for a while.
func (t *talker) cycle(ctx context.Context, window time.Duration) error {
	from := time.Now()
	n, err := t.farm.Cycle(ctx, window)
	if err != nil {
		return fmt.Errorf("%s: %w; log: %s", t.name, err, t.owner.log)
	}
	t.whole = append(t.whole, float64(n)/time.Since(from).Seconds())
	return nil
}

func (t *talker) trip(n int) error {
	trips, err := t.farm.RoundTrips(n)
	if err != nil {
		return fmt.Errorf("%s: %w; log: %s", t.name, err, t.owner.log)
	}
	for _, d := range trips {
		t.trips = append(t.trips, float64(d))
	}
	return nil
}

// rate measures how many calls go through one gateway, and how long one waits where there is no other.
func (c clusterRun) rate(ctx context.Context, r *report) (err error) {
	var all []*talker
	defer func() {
		for _, t := range all {
			err = errors.Join(err, t.Close())
		}
	}()
	for _, each := range []struct {
		name         string
		shared, warm bool
	}{{nameAlone, false, false}, {nameShared, true, false}, {nameWarm, true, true}} {
		t, err := openTalker(ctx, each.name, c.program, each.shared, each.warm)
		if err != nil {
			return fmt.Errorf("%s: %w", each.name, err)
		}
		all = append(all, t)
	}
	for round := range c.rounds {
		log.Printf("cluster: rate, round %d of %d", round+1, c.rounds)
		for i := range all {
			t := all[(i+round)%len(all)]
			if err := errors.Join(t.talk(ctx, c.window), t.cycle(ctx, c.window), t.settled(), t.trip(c.trips)); err != nil {
				return err
			}
		}
	}
	c.writeRate(r, all)
	return nil
}

// settled waits until nothing is left to be written of what was.
func (t *talker) settled() error {
	if t.etcd == nil {
		return nil
	}
	return t.well()
}

func (c clusterRun) writeRate(r *report, all []*talker) {
	r.heading(3, "calls placed and cleared")
	fmt.Fprintf(r, `Through one gateway: %d connections place a call and clear it, over and over; each placing and each
clearing counts. CPU time is that of the gateway's daemon. Whole dialogues are those of the table
of calls above, with TCP's connect and close. Median of %d interleaved rounds of %v; ratios are
medians of the rounds'.

`, talkers, c.rounds, c.window)
	alone := all[0]
	var rows, waits [][]string
	for _, t := range all {
		rows = append(rows, []string{
			t.name, count(median(t.rate)), times(ratio(t.rate, alone.rate)), micros(median(t.cpu)), times(ratio(t.cpu, alone.cpu)),
			count(median(t.whole)), times(ratio(t.whole, alone.whole)), times(spread(t.rate)),
		})
		waits = append(waits, []string{t.name, micros(quantile(t.trips, 0.5)), micros(quantile(t.trips, 0.99)), micros(quantile(t.trips, 1))})
	}
	r.table([]string{"", "placed or cleared/s", "ratio", "daemon's CPU µs each", "ratio", "whole dialogues/s", "ratio", "fastest round over slowest"}, rows)
	r.heading(3, "from a request to its reply, unloaded")
	fmt.Fprintf(r, `An Outgoing-Call-Request, as a client sees it, one at a time; %d in each round; microseconds. The request
and the reply each wait for etcd.

`, c.trips)
	r.table([]string{"", "p50", "p99", "longest"}, waits)
	shared, warm := all[1], all[2]
	r.aim(target{what: "calls placed or cleared a second, " + shared.name, is: median(shared.rate), limit: 3500, atLeast: true})
	r.aim(target{what: "calls placed or cleared a second, " + warm.name, is: median(warm.rate), limit: 3500, atLeast: true})
	r.aim(target{what: "request to reply, unloaded, p50", is: quantile(shared.trips, 0.5) / 1e6, limit: 5, unit: " ms"})
	r.aim(target{what: "request to reply, unloaded, p99", is: quantile(shared.trips, 0.99) / 1e6, limit: 15, unit: " ms"})
}

// finer is how many rounds a difference of a hundredth takes, for each of c.rounds.
const finer = 5

// earlier compares the program as it is without --cluster with an earlier one, if there is one.
func (c clusterRun) earlier(ctx context.Context, r *report) (err error) {
	if c.before == "" {
		return nil
	}
	var all []*talker
	defer func() {
		for _, t := range all {
			err = errors.Join(err, t.Close())
		}
	}()
	for name, program := range map[string]string{nameBefore: c.before, nameAlone: c.program} {
		t, err := openTalker(ctx, name, program, false, false)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *talker) int { return strings.Compare(a.name, b.name) })
	for round := range finer * c.rounds {
		log.Printf("cluster: without it, round %d of %d", round+1, finer*c.rounds)
		for i := range all {
			if err := all[(i+round)%len(all)].talk(ctx, c.window/2); err != nil {
				return err
			}
		}
	}
	before, after := all[0], all[1]
	r.heading(3, "a gateway alone, before and after")
	fmt.Fprintf(r, "As above, for this program without --cluster and for an earlier one that had no clusters. %d interleaved rounds of %v.\n\n", finer*c.rounds, c.window/2)
	var rows [][]string
	for _, t := range all {
		rows = append(rows, []string{t.name, count(median(t.rate)), finely(ratio(t.rate, before.rate)), micros(median(t.cpu)), finely(ratio(t.cpu, before.cpu))})
	}
	r.table([]string{"", "placed or cleared/s", "ratio", "daemon's CPU µs each", "ratio"}, rows)
	r.aim(target{what: "calls placed or cleared a second without --cluster, of before", is: ratio(after.rate, before.rate), limit: 0.99, atLeast: true, unit: " ×"})
	r.aim(target{what: "daemon's CPU of a call without --cluster, of before", is: ratio(after.cpu, before.cpu), limit: 1.01, unit: " ×"})
	return nil
}

func finely(v float64) string { return fmt.Sprintf("%.3f", v) }

// Times around the death of etcd's leader.
const (
	leaderTalkers = 8
	beforeDeath   = time.Second
	afterDeath    = 3 * time.Second
)

// leader measures how long calls wait while etcd's leader is killed.
func (c clusterRun) leader(ctx context.Context, r *report) (err error) {
	t, err := openTalker(ctx, nameWarm, c.program, true, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	var longest, calm []float64
	calls := 0
	for i := range c.pauses {
		log.Printf("cluster: death %d of etcd's leader", i+1)
		usual, err := t.farm.Talk(ctx, leaderTalkers, beforeDeath)
		if err != nil {
			return fmt.Errorf("%w; log: %s", err, t.owner.log)
		}
		killed := make(chan error, 1)
		var dead int
		time.AfterFunc(beforeDeath, func() {
			var err error
			if dead, err = t.etcd.Leader(); err == nil {
				err = t.etcd.Kill(dead)
			}
			killed <- err
		})
		waits, err := t.farm.Talk(ctx, leaderTalkers, beforeDeath+afterDeath)
		if err := errors.Join(err, <-killed); err != nil {
			return fmt.Errorf("etcd's leader dies: %w; log: %s", err, t.owner.log)
		}
		calls += len(waits)
		longest = append(longest, float64(slices.Max(waits)))
		calm = append(calm, float64(slices.Max(usual)))
		if err := errors.Join(t.etcd.Start(dead), t.well()); err != nil {
			return err
		}
	}
	r.heading(3, "etcd's leader is killed")
	fmt.Fprintf(r, `While %d connections place and clear calls, %d times. No call was refused: %s were placed and cleared.

`, leaderTalkers, c.pauses, count(float64(calls)))
	r.table([]string{"longest wait from a request to its reply, ms", "median", "longest"}, [][]string{
		{"in a second without a death", millis(median(calm)), millis(quantile(calm, 1))},
		{"around the death", millis(median(longest)), millis(quantile(longest, 1))},
	})
	r.aim(target{what: "longest set-up when etcd's leader is killed", is: quantile(longest, 1) / 1e9, limit: 0.6, unit: " s"})
	return nil
}

// gone measures how long calls wait while no member of etcd runs, and until etcd has everything
// afterwards.
func (c clusterRun) gone(ctx context.Context, r *report) (err error) {
	t, err := openTalker(ctx, nameWarm, c.program, true, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	log.Printf("cluster: etcd is gone for %v", c.outage)
	var longest [4]float64 // before, at the onset, later, after
	calls := 0
	talk := func(phase int, length time.Duration) error {
		waits, err := t.farm.Talk(ctx, leaderTalkers, length)
		if err != nil {
			return fmt.Errorf("etcd is gone: %w; log: %s", err, t.owner.log)
		}
		calls += len(waits)
		if len(waits) > 0 { // on a slow machine there may be none yet
			longest[phase] = float64(slices.Max(waits))
		}
		return nil
	}
	if err := errors.Join(talk(0, c.onset), t.etcd.KillAll(), talk(1, c.onset), talk(2, c.outage)); err != nil {
		return err
	}
	var back time.Duration
	written := make(chan error, 1)
	go func() {
		written <- func() error {
			if err := t.etcd.StartAll(); err != nil {
				return err
			}
			from := time.Now()
			err := t.well()
			back = time.Since(from)
			return err
		}()
	}()
	if err := errors.Join(talk(3, c.onset), <-written); err != nil {
		return err
	}
	r.heading(3, "etcd is gone")
	fmt.Fprintf(r, `No member of etcd runs for %v, while %d connections place and clear calls. No call was refused: %s were
placed and cleared. A gateway has written everything when it is not degraded and has nothing left to write.

`, c.onset+c.outage, leaderTalkers, count(float64(calls)))
	r.table([]string{"longest wait from a request to its reply, ms", ""}, [][]string{
		{fmt.Sprintf("in %v before", c.onset), millis(longest[0])}, {fmt.Sprintf("in the first %v without etcd", c.onset), millis(longest[1])},
		{"later", millis(longest[2])}, {fmt.Sprintf("in %v after its return", c.onset), millis(longest[3])},
	})
	r.aim(target{what: "longest wait when etcd goes, more than before", is: (longest[1] - longest[0]) / 1e9, limit: 0.3, unit: " s"})
	r.aim(target{what: "etcd is back: all is written", is: back.Seconds(), limit: 5, unit: " s"})
	return nil
}

func millis(d float64) string { return fmt.Sprintf("%.1f", d/float64(time.Millisecond)) }
