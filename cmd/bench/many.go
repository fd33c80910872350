package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"strings"
	"time"

	"pptpalg/cmd/internal/lab"
)

// callsOfLine is how many calls a connection has, so that the kernel's table has room for all.
const callsOfLine = 2

// newcomer is a gateway that finds calls of another one.
type newcomer struct {
	calls   int
	ready   time.Duration
	weight  weight
	entries float64 // of its kernel's table
	etcd    figures
}

// many measures a gateway that has many calls, and what another one does with them.
func (c clusterRun) many(ctx context.Context, r *report) (err error) {
	t, err := openTalker(ctx, nameShared, c.program, true, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	t.farm.Twice = true
	var some [2]newcomer
	held := 0
	for i, n := range []int{c.calls / 4, c.calls} {
		log.Printf("cluster: %d calls", n)
		if held, err = t.hold(held, n); err != nil {
			return err
		}
		if some[i], err = t.newcomer(n, c.watch); err != nil {
			return err
		}
		if i > 0 {
			continue // this one takes over
		}
		if err := t.other.Close(); err != nil {
			return err
		}
		t.daemons, t.other.daemon = t.daemons[:1], nil
	}
	all, waits, echoes, err := t.takeover()
	if err != nil {
		return err
	}
	c.writeMany(r, some, all, waits, echoes)
	return nil
}

// hold has the crowd set up calls until there are n.
func (t *talker) hold(held, n int) (int, error) {
	for held < n {
		lines := min(heldAtOnce, (n-held)/callsOfLine)
		if _, err := t.farm.Hold(held/callsOfLine, lines); err != nil {
			return held, fmt.Errorf("%w after %d calls; log: %s", err, held, t.owner.log)
		}
		held += lines * callsOfLine
	}
	m, err := t.owner.metrics()
	if err == nil && m["pptpalg_calls"] != float64(n) {
		err = fmt.Errorf("hold %d calls: the daemon has %v", n, m["pptpalg_calls"])
	}
	return held, errors.Join(err, t.well())
}

// newcomer starts the other gateway, and weighs it.
func (t *talker) newcomer(n int, watch time.Duration) (newcomer, error) {
	from := time.Now()
	if err := t.run(t.other); err != nil {
		return newcomer{}, err
	}
	c := newcomer{calls: n, ready: time.Since(from)}
	m, err := t.other.metrics()
	if err == nil && m["pptpalg_cluster_followed_calls"] != float64(n) {
		err = fmt.Errorf("%d calls: the newcomer follows %v", n, m["pptpalg_cluster_followed_calls"])
	}
	if err != nil {
		return c, err
	}
	if c.weight, err = t.other.weigh(watch); err != nil {
		return c, err
	}
	if c.etcd, err = t.figures(); err != nil {
		return c, err
	}
	entries, err := t.other.host.Sysctl("net.netfilter.nf_conntrack_count")
	if err != nil {
		return c, err
	}
	c.entries, err = strconv.ParseFloat(entries, 64)
	return c, err
}

// owns is what a daemon says when it has taken over calls.
const owns = "this gateway owns the public address and its calls"

// takeover has the addresses move to the other gateway. It returns how long it takes until that has
// taken over all calls, from the time when it gets the addresses, and the longest time that an
// Echo waits from when it can arrive there until a while after.
func (t *talker) takeover() (all, longest time.Duration, echoes int, err error) {
	l, err := t.farm.Dial(0, 0x7000)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := t.well(); err != nil {
		return 0, 0, 0, err
	}
	to, began := t.other, time.Now()
	left, _, err := t.swap(t.drop)
	if err != nil {
		return 0, 0, 0, err
	}
	from := began.Add(left)
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); echoes++ {
		waited, err := l.Echo()
		if err != nil {
			return 0, 0, 0, fmt.Errorf("%w; log: %s", err, to.log)
		}
		longest = max(longest, waited)
	}
	at, err := to.said(owns)
	if err != nil {
		return 0, 0, 0, err
	}
	return at.Sub(from), longest, echoes, l.Clear()
}

// said returns when the daemon has said something; it is waited for.
func (g *gateway) said(what string) (time.Time, error) {
	if err := g.log.WaitFor(what, lab.Patience); err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(g.log.String()) {
		text, ok := strings.CutPrefix(line, "time=")
		if ok && strings.Contains(line, what) {
			text, _, _ = strings.Cut(text, " ")
			return time.Parse(time.RFC3339Nano, text)
		}
	}
	return time.Time{}, fmt.Errorf("when %q was said is not in the log", what)
}

func (c clusterRun) writeMany(r *report, some [2]newcomer, all, longest time.Duration, echoes int) {
	few, many := some[0], some[1]
	n := count(float64(many.calls))
	more := float64(many.calls - few.calls)
	heap := (many.weight.heap - few.weight.heap) / more
	r.heading(3, n+" calls of another gateway")
	fmt.Fprintf(r, `Two on each control connection, for the kernel's table has no room for more connections. A newcomer
starts with nothing, and is ready when it may get addresses. What a call costs is the difference
between both columns. Then the addresses move to it, while a client asks one Echo after the other: %s
of them in two seconds, from when the neighbours know of the move.

`, count(float64(echoes)))
	row := func(what string, of func(newcomer) float64) []string {
		return []string{what, count(of(few)), count(of(many)), fmt.Sprintf("%.1f", (of(many)-of(few))/more)}
	}
	r.table([]string{"", count(float64(few.calls)) + " calls", n + " calls", "a call"}, [][]string{
		row("a newcomer is ready after, ms (a call: µs)", func(c newcomer) float64 { return float64(c.ready.Milliseconds()) }),
		row("its heap after a garbage collection, bytes", func(c newcomer) float64 { return c.weight.heap }),
		row("its resident memory, bytes", func(c newcomer) float64 { return c.weight.resident }),
		row("its kernel's connections", func(c newcomer) float64 { return c.entries }),
		row("etcd's data in use, one member, bytes", func(c newcomer) float64 { return c.etcd["etcd_mvcc_db_total_size_in_use_in_bytes"] / etcdMembers }),
		row("etcd's file, one member, bytes", func(c newcomer) float64 { return c.etcd["etcd_mvcc_db_total_size_in_bytes"] / etcdMembers }),
		row("etcd's resident memory, one member, bytes", func(c newcomer) float64 { return c.etcd["process_resident_memory_bytes"] / etcdMembers }),
	})
	fmt.Fprintf(r, "\nAll %s are the new owner's %v after its address has come. The longest Echo waits %v.\n", n, all.Round(time.Millisecond), longest.Round(10*time.Microsecond))
	r.aim(target{what: n + " calls: a newcomer is ready", is: many.ready.Seconds(), limit: 5, unit: " s"})
	r.aim(target{what: n + " calls: a warm standby takes all over", is: float64(all.Milliseconds()), limit: 100, unit: " ms"})
	r.aim(target{what: n + " calls: longest wait of a control packet meanwhile", is: longest.Seconds() * 1e3, limit: 100, unit: " ms"})
	r.aim(target{what: "heap of a followed call", is: heap, limit: 1.2 * 1024, unit: " bytes"})
}
