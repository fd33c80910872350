package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/bench/internal/clock"
	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/internal/lab"
)

// forLong is an interval that no measurement meets the end of.
const forLong = 10 * time.Minute

// loaded is the fast path on a gateway without a daemon.
type loaded struct {
	host  *lab.Host
	dir   string // where it is pinned
	table *fastpath.Table
}

func (l *loaded) clocks() []clock.Process { return nil }

// load loads the fast path into the gateway of a yard.
func load(y *yard, mode ports.Mode, flows int) (*loaded, error) {
	dir, err := os.MkdirTemp("", "pptpalg-bench-bpf-")
	if err != nil {
		return nil, fmt.Errorf("make directory for the fast path: %w", err)
	}
	l := &loaded{host: y.Gateway, dir: dir}
	err = l.host.Do(func() error {
		all, err := ports.Choose(mode, []string{gatewayLAN, gatewayWAN})
		if err != nil {
			return err
		}
		done, err := fastpath.Load(all, fastpath.Options{Dir: dir, Interval: forLong, Flows: uint32(flows), Group: -1})
		if err != nil {
			return err
		}
		for _, p := range done.Ports {
			if (mode == ports.XDP) != p.XDP {
				return fmt.Errorf("load the fast path by %v: %s: %s", mode, p.Name, p.Why)
			}
		}
		l.table, err = fastpath.Open(dir)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *loaded) forwarded(path string) (uint64, error) { return l.table.Stats().Packets[path], nil }

// Close unloads it.
func (l *loaded) Close() error {
	var errs []error
	if l.table != nil {
		errs = append(errs, l.table.Close())
	}
	errs = append(errs, l.host.Do(func() error { return fastpath.Unload(l.dir) }))
	_ = unix.Unmount(l.dir, unix.MNT_DETACH) // it may be no mount any more
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// mapping translates addresses one to one, without conntrack: what a fast path without
// conntrack's entries learns from. Call IDs stay.
var mapping = fmt.Sprintf(`table ip mapping {
	chain in {
		type filter hook prerouting priority raw
		iifname %s ip protocol gre ip daddr set ip daddr & 0.0.0.255 | %v
	}
	chain out {
		type filter hook postrouting priority filter
		oifname %s ip protocol gre ip saddr set ip saddr & 0.0.0.255 | %v
	}
}
`, gatewayWAN, lab.LAN.Masked().Addr(), gatewayWAN, lab.WAN.Masked().Addr())

// mapped is the address to which mapping translates a client's.
func mapped(client netip.Addr) netip.Addr { return address(lab.WAN, int(client.As4()[3])) }

// fill starts a fast path with calls that no daemon and no conntrack knows: more than these
// have room for.
func fill(ctx context.Context, y *yard, all []farm.Call) (worker, error) {
	if _, err := noConntrack(ctx, y, nil); err != nil {
		return nil, err
	}
	cmd, err := y.Gateway.Command(ctx, "nft", "-f", "-")
	if err != nil {
		return nil, err
	}
	log := new(lab.Log)
	cmd.Stdin, cmd.Stderr = strings.NewReader(mapping), log
	p, err := y.Gateway.Start(cmd)
	if err == nil {
		err = p.Wait(readyTime)
	}
	if err != nil {
		return nil, fmt.Errorf("load rules for the mapping: %w: %s", err, log)
	}
	l, err := load(y, ports.XDP, 2*len(all))
	if err != nil {
		return nil, err
	}
	for _, f := range flowsOf(all) {
		if err := l.table.Install(f); err != nil {
			return nil, errors.Join(fmt.Errorf("fill the fast path: %w", err), l.Close())
		}
	}
	return l, nil
}

// filled lists what is measured with more calls than the others can have.
func filled(all []contender) []contender {
	return append(only(all, nameFloor, nameRelay), contender{name: nameXDP, mapped: true, inbound: true, fast: "xdp", start: fill})
}

// tableRun measures the fast path with more calls than conntrack has room for.
type tableRun struct{ greRun }

// measure measures and writes the table.
func (t tableRun) measure(ctx context.Context, r *report) error {
	result := make(greResult)
	n := t.calls[0]
	if err := t.withCalls(ctx, n, result); err != nil {
		return err
	}
	r.heading(2, fmt.Sprintf("%s calls in the table of the fast path", count(float64(n))))
	fmt.Fprintf(r, `As above, without daemon and conntrack: the calls are made up, and a rule of nftables
translates the packets from which the fast path learns. %d rounds; the ratio is that of
both directions.

`, t.rounds)
	head := []string{""}
	for _, size := range t.sizes {
		for _, d := range []direction{outward, inward} {
			head = append(head, kind{d, size}.String())
		}
		head = append(head, "of "+nameRelay)
	}
	var rows [][]string
	for _, c := range t.contenders {
		row := []string{c.name}
		for _, size := range t.sizes {
			for _, d := range []direction{outward, inward} {
				row = append(row, count(median(result[greKey{c.name, kind{d, size}, n}])))
			}
			row = append(row, times(ratio(t.both(result, c.name, size, n), t.both(result, nameRelay, size, n))))
		}
		rows = append(rows, row)
	}
	r.table(head, rows)
	return nil
}
