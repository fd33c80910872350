package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"pptpalg/cmd/bench/internal/clock"
)

// growthTalkers place and clear calls, few enough for the processors to have time left.
const growthTalkers = 8

// cost is what calls have cost with so many gateways, each.
type cost struct {
	gateways                                      int
	calls                                         float64 // a second
	puts, transactions, written, wal, sent, peers float64
	owner, follower, etcd                         float64 // CPU time in nanoseconds
}

// growth measures what a call costs by how many gateways share it.
func (c clusterRun) growth(ctx context.Context, r *report) (err error) {
	p, err := newPair(ctx, c.program, true, c.gateways[len(c.gateways)-1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := p.run(p.owner); err != nil {
		return err
	}
	var all []cost
	for _, n := range c.gateways {
		log.Printf("cluster: %d gateways", n)
		for len(p.daemons) < n {
			i := len(p.daemons)
			if _, err := p.follow(fmt.Sprintf("follower-%d", i), p.Inside[i]); err != nil {
				return err
			}
		}
		l, err := p.load(ctx, 2*c.window)
		if err != nil {
			return err
		}
		all = append(all, l)
	}
	writeGrowth(r, all)
	return nil
}

// load places and clears calls, and counts.
func (p *pair) load(ctx context.Context, window time.Duration) (cost, error) {
	if err := p.well(); err != nil {
		return cost{}, err
	}
	was, err := p.now()
	if err != nil {
		return cost{}, err
	}
	from := time.Now()
	waits, err := p.farm.Talk(ctx, growthTalkers, window)
	if err != nil {
		return cost{}, fmt.Errorf("%w; log: %s", err, p.owner.log)
	}
	took := time.Since(from)
	if err := p.well(); err != nil { // what is written behind belongs to it
		return cost{}, err
	}
	is, err := p.now()
	if err != nil {
		return cost{}, err
	}
	n := float64(len(waits))
	each := func(name string) float64 { return (is.etcd[name] - was.etcd[name]) / n }
	l := cost{
		gateways: len(p.daemons), calls: n / took.Seconds(),
		puts: each("etcd_mvcc_put_total") / etcdMembers, transactions: each("etcd_server_proposals_committed_total") / etcdMembers,
		written: each("etcd_disk_wal_fsync_duration_seconds_count") / etcdMembers, wal: each("etcd_disk_wal_write_bytes_total") / etcdMembers,
		sent: each("etcd_network_client_grpc_sent_bytes_total"), peers: each("etcd_network_peer_sent_bytes_total"),
		etcd: each("process_cpu_seconds_total") * 1e9, owner: float64(is.owner-was.owner) / n,
	}
	if followers := len(p.daemons) - 1; followers > 0 {
		l.follower = float64(is.followers-was.followers) / n / float64(followers)
	}
	return l, nil
}

// counts are what etcd counts, and the CPU time that daemons have used.
type counts struct {
	etcd             figures
	owner, followers time.Duration
}

func (p *pair) now() (c counts, err error) {
	if c.etcd, err = p.figures(); err != nil {
		return c, err
	}
	for i, d := range p.daemons {
		used, err := clock.Sum(d.clocks())
		if err != nil {
			return c, err
		}
		if i == 0 {
			c.owner = used
		} else {
			c.followers += used
		}
	}
	return c, nil
}

func writeGrowth(r *report, all []cost) {
	r.heading(3, "what a call costs the cluster")
	fmt.Fprintf(r, `From its request to its clearing, by how many gateways share the calls; all calls go through one of them.
%d connections place and clear calls. The slope is what each further gateway adds, by least squares.
Writes, transactions and fsyncs are those of one member of etcd.

`, growthTalkers)
	head := []string{""}
	for _, l := range all {
		head = append(head, fmt.Sprintf("%d", l.gateways))
	}
	var rows [][]string
	for _, each := range []struct {
		what  string
		of    func(cost) float64
		slope bool
	}{
		{"calls placed and cleared a second", func(l cost) float64 { return l.calls }, false},
		{"writes of keys", func(l cost) float64 { return l.puts }, true},
		{"transactions", func(l cost) float64 { return l.transactions }, true},
		{"fsyncs", func(l cost) float64 { return l.written }, true},
		{"etcd's log, bytes, one member", func(l cost) float64 { return l.wal }, true},
		{"etcd to gateways, bytes: watch and answers", func(l cost) float64 { return l.sent }, true},
		{"etcd's members to each other, bytes", func(l cost) float64 { return l.peers }, true},
		{"CPU of etcd, all members, µs", func(l cost) float64 { return l.etcd / 1e3 }, true},
		{"CPU of the owner's daemon, µs", func(l cost) float64 { return l.owner / 1e3 }, true},
		{"CPU of a follower's daemon, µs", func(l cost) float64 { return l.follower / 1e3 }, false},
	} {
		row := []string{each.what}
		var x, y []float64
		for _, l := range all {
			row = append(row, figure(each.of(l)))
			x, y = append(x, float64(l.gateways)), append(y, each.of(l))
		}
		add := "-"
		if each.slope {
			add = figure(slope(x, y))
		}
		rows = append(rows, append(row, add))
	}
	r.table(append(head, "slope"), rows)
}

// figure formats a number that may be small.
func figure(v float64) string {
	if v < 100 && v > -100 {
		return fmt.Sprintf("%.2f", v)
	}
	return count(v)
}
