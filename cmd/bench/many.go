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
	over, err := t.takeover()
	if err != nil {
		return err
	}
	c.writeMany(r, some, over)
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

// taken is how a gateway takes over calls.
type taken struct {
	first   time.Duration // from when it gets the addresses until it has edited an Echo
	all     time.Duration // until it has visited all connections
	longest time.Duration // that an Echo waits meanwhile, and a while after
	echoes  int
}

// takeover has the addresses move to the other gateway, and asks Echoes from when they can arrive
// there.
func (t *talker) takeover() (o taken, err error) {
	l, err := t.farm.Dial(0, 0x7000)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := t.well(); err != nil {
		return o, err
	}
	to, began := t.other, time.Now()
	left, _, err := t.swap(t.drop)
	if err != nil {
		return o, err
	}
	from := began.Add(left)
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); o.echoes++ {
		waited, err := l.Echo()
		if err != nil {
			return o, fmt.Errorf("%w; log: %s", err, to.log)
		}
		if o.echoes == 0 {
			o.first = time.Since(from)
		}
		o.longest = max(o.longest, waited)
	}
	at, err := to.said(owns)
	if err != nil {
		return o, err
	}
	o.all = at.Sub(from)
	return o, l.Clear()
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

func (c clusterRun) writeMany(r *report, some [2]newcomer, over taken) {
	few, many := some[0], some[1]
	n := count(float64(many.calls))
	more := float64(many.calls - few.calls)
	heap := (many.weight.heap - few.weight.heap) / more
	r.heading(3, n+" calls of another gateway")
	fmt.Fprintf(r, `%d on each control connection: the kernel's table has no room for one more connection of each call. A newcomer
starts with nothing, and is ready when it may get addresses. What a call costs is the difference
between both columns.

`, callsOfLine)
	row := func(what string, unit float64, of func(newcomer) float64) []string {
		return []string{what, count(of(few)), count(of(many)), fmt.Sprintf("%.1f", (of(many)-of(few))*unit/more)}
	}
	etcd := func(name string) func(newcomer) float64 {
		return func(c newcomer) float64 { return c.etcd[name] / etcdMembers }
	}
	r.table([]string{"", count(float64(few.calls)) + " calls", n + " calls", "a call"}, [][]string{
		row("a newcomer is ready after, ms (a call: µs)", 1e3, func(c newcomer) float64 { return c.ready.Seconds() * 1e3 }),
		row("its heap after a garbage collection, bytes", 1, func(c newcomer) float64 { return c.weight.heap }),
		row("its resident memory, bytes", 1, func(c newcomer) float64 { return c.weight.resident }),
		row("entries of its kernel's table", 1, func(c newcomer) float64 { return c.entries }),
		row("data in etcd, one member, bytes", 1, etcd("etcd_mvcc_db_total_size_in_use_in_bytes")),
		row("resident memory of etcd, one member, bytes", 1, etcd("process_resident_memory_bytes")),
	})
	r.heading(3, "the newcomer takes them all over")
	fmt.Fprintf(r, `The addresses move to it while there is no other traffic. Once the neighbours know of the move, a client sends
one Echo after the other for two seconds, %s in all. Milliseconds from when it has the addresses.

`, count(float64(over.echoes)))
	r.table([]string{"", ""}, [][]string{
		{"until it has edited the first Echo, neighbour discovery included", millis(float64(over.first))},
		{"until it has visited all connections, between packets", millis(float64(over.all))},
		{"longest wait of an Echo", millis(float64(over.longest))},
	})
	r.aim(target{what: n + " calls: a newcomer is ready", is: many.ready.Seconds(), limit: 5, unit: " s"})
	r.aim(target{what: n + " calls: a warm standby edits", is: over.first.Seconds() * 1e3, limit: 100, unit: " ms"})
	r.aim(target{what: n + " calls: longest wait of a packet meanwhile", is: over.longest.Seconds() * 1e3, limit: 100, unit: " ms"})
	r.aim(target{what: "heap of a followed call", is: heap, limit: 1.2 * 1024, unit: " bytes"})
}
