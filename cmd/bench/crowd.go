package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"strconv"
	"strings"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/bench/internal/clock"
	"pptpalg/conntrack"
)

// crowdRun says how to measure a daemon that has many calls.
type crowdRun struct {
	daemon   contender
	calls    int
	silent   int           // calls of the idle daemon
	watch    time.Duration // how long to look at one that has nothing to do
	idling   time.Duration // how long to look at the one whose calls are silent
	restarts int
}

// crowd is a daemon with calls on which nothing is said any more.
type crowd struct {
	*stand
	*daemon
}

func (c crowd) Close() error { return c.stand.Close() }

func (c crowdRun) open(ctx context.Context) (crowd, error) {
	s, err := openStand(ctx, c.daemon)
	if err != nil {
		return crowd{}, err
	}
	d, ok := s.worker.(*daemon)
	if !ok {
		return crowd{}, errors.Join(fmt.Errorf("%s is no daemon", c.daemon.name), s.Close())
	}
	return crowd{s, d}, nil
}

func (c crowd) hold(n int) error {
	for held := 0; held < n; held += heldAtOnce {
		if _, err := c.farm.Hold(held, min(heldAtOnce, n-held)); err != nil {
			return fmt.Errorf("%w after %d calls; log of pptpalg: %s", err, held, c.log)
		}
	}
	m, err := c.metrics()
	if err == nil && m["pptpalg_calls"] != float64(n) {
		err = fmt.Errorf("hold %d calls: the daemon has %v", n, m["pptpalg_calls"])
	}
	return err
}

// memory measures what calls cost a daemon, comparing it with itself, and how long it takes
// to come back.
func (c crowdRun) memory(ctx context.Context, r *report) (err error) {
	log.Printf("memory: %d calls", c.calls)
	crowd, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.Close()) }()
	empty, err := crowd.weigh(c.watch)
	if err != nil {
		return err
	}
	if err := crowd.hold(c.calls); err != nil {
		return err
	}
	full, err := crowd.weigh(c.watch)
	if err != nil {
		return err
	}
	pass, err := crowd.pass(10 * c.watch)
	if err != nil {
		return err
	}
	restarts, err := crowd.restarts(c.restarts)
	if err != nil {
		return err
	}
	entries, err := c.entries(ctx)
	if err != nil {
		return err
	}
	c.writeMemory(r, empty, full, pass, restarts, entries)
	return nil
}

func (c crowdRun) writeMemory(r *report, empty, full weight, pass time.Duration, restarts []float64, entries float64) {
	n := float64(c.calls)
	r.heading(2, fmt.Sprintf("%s calls in one daemon", count(n)))
	fmt.Fprintf(r, `Each with a control connection of its own. Heap is what is left after a garbage
collection, less that of the daemon without calls.

`)
	heap := (full.heap - empty.heap) / n
	r.table([]string{"", ""}, [][]string{
		{"daemon's heap per call, bytes", count(heap)},
		{"daemon's resident memory per call, bytes", count((full.resident - empty.resident) / n)},
		{"kernel memory of a call's two GRE entries, bytes", count(entries)},
		{"CPU of one audit, ms", count(pass.Seconds() * 1e3)},
		{"from the start of a daemon that was killed until it edits, ms", count(median(restarts) * 1e3)},
		{"the slowest of " + strconv.Itoa(len(restarts)), count(quantile(restarts, 1) * 1e3)},
	})
	r.aim(target{what: "daemon's heap per call at " + count(n) + " calls", is: heap, limit: 1024, unit: " bytes"})
	r.aim(target{what: "CPU of an audit", is: pass.Seconds(), limit: 1, unit: " s"})
	r.aim(target{what: "restart to ready", is: median(restarts), limit: 2, unit: " s"})
}

// weight is a daemon's memory in bytes.
type weight struct{ heap, resident float64 }

// gcTime is the time in which Go collects garbage at least once: it forces a collection every
// two minutes. An audit makes much garbage, so a collection often comes while one is under way
// and its memory is in use; the next one then comes without.
const (
	gcTime      = 150 * time.Second
	collections = 2
)

// weigh looks at a daemon for a while, and until it has collected garbage. The least heap it
// sees is what was left after a collection.
func (d *daemon) weigh(watch time.Duration) (weight, error) {
	w := weight{heap: math.Inf(1)}
	last, seen := 0.0, -1
	for from := time.Now(); time.Since(from) < watch || seen < collections && time.Since(from) < gcTime; time.Sleep(20 * time.Millisecond) {
		m, err := d.metrics()
		if err != nil {
			return weight{}, err
		}
		w.heap = min(w.heap, m["go_memstats_heap_alloc_bytes"])
		if at := m["go_memstats_last_gc_time_seconds"]; at != last {
			last = at
			seen++
		}
	}
	resident, err := d.resident()
	w.resident = float64(resident)
	return w, err
}

const (
	passStep  = 20 * time.Millisecond
	passPause = 15 // steps without work that end a pass
	passes    = 3  // to look at
	passLeast = time.Millisecond
)

// pass returns the CPU time of one audit: that of the bursts of work in which a
// daemon without traffic spends it, their median.
func (c crowd) pass(watch time.Duration) (time.Duration, error) {
	process := clock.Process(c.process.PID())
	last, err := process.Used()
	if err != nil {
		return 0, err
	}
	var bursts []float64
	burst, quiet := time.Duration(0), 0
	for from := time.Now(); len(bursts) < passes && time.Since(from) < watch; time.Sleep(passStep) {
		used, err := process.Used()
		if err != nil {
			return 0, err
		}
		step := used - last
		last = used
		if step > passLeast {
			burst, quiet = burst+step, 0
			continue
		}
		if quiet++; quiet == passPause && burst > 0 {
			bursts = append(bursts, float64(burst))
			burst = 0
		}
	}
	if len(bursts) < 2 {
		return 0, fmt.Errorf("watch audits: %d in %v", len(bursts), watch)
	}
	return time.Duration(median(bursts[1:])), nil // the first may have begun before
}

func (c crowd) restarts(n int) ([]float64, error) {
	var took []float64
	for range n {
		t, err := c.restart()
		if err != nil {
			return nil, err
		}
		took = append(took, t.Seconds())
	}
	return took, nil
}

// entries returns the kernel's memory for the two entries of a call, in bytes: what
// its slabs grow by.
func (c crowdRun) entries(ctx context.Context) (perCall float64, err error) {
	y, err := newYard(ctx, c.daemon.options())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, y.Close()) }()
	all := contender{nat: true, queued: true}.invent(y, c.calls)
	err = y.Gateway.Do(func() error {
		before, err := slab()
		if err != nil {
			return err
		}
		if err := create(flowsOf(all)); err != nil {
			return err
		}
		after, err := slab()
		perCall = (after - before) / float64(c.calls)
		return err
	})
	return perCall, err
}

// create puts flows into the table of the calling thread's namespace.
func create(flows []calls.Flow) error {
	conn, err := conntrack.Dial()
	if err != nil {
		return err
	}
	for _, f := range flows {
		if err := conn.Create(f); err != nil {
			return errors.Join(err, conn.Close())
		}
	}
	return conn.Close()
}

// slab returns the kernel's memory in slabs that it cannot give back, in bytes.
func slab() (float64, error) {
	words := strings.Fields(field("/proc/meminfo", "SUnreclaim"))
	if len(words) != 2 {
		return 0, errors.New("read kernel memory: no SUnreclaim in /proc/meminfo")
	}
	kib, err := strconv.ParseFloat(words[0], 64)
	return kib * 1024, err
}

// idleLimit is the part of a core that an idle daemon may use.
const idleLimit = 0.002

// idle measures a daemon whose calls are silent. Its audits come once in 1,500 times of
// what one takes, and half a minute at least: so it takes minutes to see their part.
func (c crowdRun) idle(ctx context.Context, r *report) (err error) {
	log.Printf("idle: %d silent calls", c.silent)
	crowd, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.Close()) }()
	if err := crowd.hold(c.silent); err != nil {
		return err
	}
	time.Sleep(c.watch) // an audit follows the reading of metrics, which nobody does from here on
	used, err := crowd.spend(c.idling)
	if err != nil {
		return err
	}
	r.heading(2, "Idle")
	fmt.Fprintf(r, "A daemon with %s silent calls uses %.2f %% of a core, over %v.\n", count(float64(c.silent)), used*100, c.idling)
	r.aim(target{what: "an idle daemon with " + count(float64(c.silent)) + " calls, of a core", is: used * 100, limit: idleLimit * 100, unit: " %"})
	return nil
}

// spend returns the part of a core that the daemon takes over a time.
func (c crowd) spend(watch time.Duration) (float64, error) {
	process := clock.Process(c.process.PID())
	before, err := process.Used()
	if err != nil {
		return 0, err
	}
	from := time.Now()
	time.Sleep(watch)
	after, err := process.Used()
	return (after - before).Seconds() / time.Since(from).Seconds(), err
}
