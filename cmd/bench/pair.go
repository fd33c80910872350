package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"pptpalg/cmd/bench/internal/farm"
	"pptpalg/cmd/internal/lab"
)

// etcdMembers is how many etcd has; all are on one host, and write to the disk as in earnest.
const etcdMembers = 3

// pair is two gateways on the same two segments, with a crowd on either side, and etcd beside them:
//
//	clients ──┐       ┌── gateway a ──┐       ┌── servers
//	          ├─ lan ─┤               ├─ wan ─┤
//	          │       └── gateway b ──┘
//	        etcd × 3
//
// The crowd and its addresses are those of a yard.
type pair struct {
	*lab.Network
	ctx     context.Context
	program string
	etcd    *lab.Quorum // nil where the gateways do not share their calls
	farm    *farm.Farm
	daemons []*daemon

	owner, other *gateway // who has the addresses, and who has not
}

// gateway is a gateway of a pair.
type gateway struct {
	name string
	host *lab.Host
	*daemon
}

// newPair builds a pair, whose gateway a has the addresses. No daemon runs yet. More namespaces inside
// are for gateways that only follow.
func newPair(ctx context.Context, program string, shared bool, more int) (*pair, error) {
	n, err := lab.New(lab.Options{Inside: 1 + more, Outside: 1, SNAT: lab.GatewayPublic, Pair: true})
	if err != nil {
		return nil, err
	}
	p := &pair{Network: n, ctx: ctx, program: program}
	p.owner, p.other = &gateway{name: "a", host: n.Gateway}, &gateway{name: "b", host: n.Standby}
	if err := p.build(ctx, shared); err != nil {
		return nil, fmt.Errorf("build pair: %w", errors.Join(err, p.Close()))
	}
	return p, nil
}

func (p *pair) build(ctx context.Context, shared bool) (err error) {
	client, server := p.Inside[0], p.Outside[0]
	clients, servers := crowdAddresses()
	for h, all := range map[*lab.Host][]netip.Addr{client: clients, server: servers} {
		var b strings.Builder
		for _, a := range all {
			if a != h.Addr {
				fmt.Fprintf(&b, "addr add %v/24 dev %s\n", a, hostsDevice)
			}
		}
		if err := h.IPBatch(ctx, b.String()); err != nil {
			return err
		}
	}
	if err := tune(ctx, client, server, p.Gateway, p.Standby); err != nil {
		return err
	}
	if shared {
		if p.etcd, err = lab.StartQuorum(p.Switch, lab.SwitchAddr, etcdMembers); err != nil {
			return err
		}
	}
	p.farm, err = farm.Start(client, server, clients, servers)
	return err
}

// follow starts a daemon, which shares its calls if there is etcd.
func (p *pair) follow(name string, h *lab.Host) (*daemon, error) {
	args := ofDaemon("kernel")
	if p.etcd != nil {
		args = append(args, "--cluster", p.etcd.Target(), "--cluster-insecure", "--cluster-name", name)
	}
	d, err := startDaemon(h, p.program, args...)
	if err != nil {
		return nil, err
	}
	p.daemons = append(p.daemons, d)
	return d, d.ready()
}

// run starts the daemon of a gateway.
func (p *pair) run(g *gateway) (err error) {
	g.daemon, err = p.follow(g.name, g.host)
	return err
}

// ready waits until the daemon may get addresses.
func (d *daemon) ready() error {
	err := lab.Poll(readyTime, func() bool {
		r, err := d.client.Get("http://" + metricsAddr + "/-/ready")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == 200
	})
	if err != nil {
		return fmt.Errorf("wait until pptpalg is ready: %w; log: %s", err, d.log)
	}
	return nil
}

// well waits until etcd has all, and each gateway that runs hears of it.
func (p *pair) well() error {
	for _, g := range []*gateway{p.owner, p.other} {
		if g.daemon == nil {
			continue
		}
		var m map[string]float64
		err := lab.Poll(readyTime, func() (well bool) {
			m, _ = g.metrics()
			return m != nil && m["pptpalg_cluster_degraded"] == 0 && m["pptpalg_cluster_dirty_calls"] == 0
		})
		if err != nil {
			return fmt.Errorf("gateway %s does not become well: %w; log: %s", g.name, err, g.log)
		}
	}
	return nil
}

// swap moves the addresses to the other gateway. leave has them leave the one that has them. It
// returns how long that takes, and how much of it is over when the other one begins to get them.
func (p *pair) swap(leave func() error) (left, all time.Duration, err error) {
	from := time.Now()
	if err := leave(); err != nil {
		return 0, 0, err
	}
	left = time.Since(from)
	err = p.Give(p.ctx, p.other.host)
	all = time.Since(from)
	if err == nil {
		err = p.Moved(p.ctx, p.other.host)
	}
	p.owner, p.other = p.other, p.owner
	return left, all, err
}

func (p *pair) drop() error { return p.Drop(p.ctx, p.owner.host) }

// die has the gateway die that has the addresses: its daemon by SIGKILL, then its links go.
func (p *pair) die() error {
	return errors.Join(p.owner.process.Kill(), p.Cut(p.ctx, p.owner.host))
}

// figures are what the members of etcd count: sums, but for what each of them has whole.
type figures map[string]float64

func (p *pair) figures() (figures, error) {
	sum := make(figures)
	for i := range p.etcd.Members() {
		text, err := p.etcd.Metrics(i)
		if err != nil {
			return nil, err
		}
		m, err := parseMetrics(bytes.NewReader(text))
		if err != nil {
			return nil, err
		}
		for name, v := range m {
			name, _, _ = strings.Cut(name, "{")
			sum[name] += v
		}
	}
	return sum, nil
}

// Close ends the daemons, etcd and the network.
func (p *pair) Close() error {
	var errs []error
	for _, d := range p.daemons {
		errs = append(errs, d.Close())
	}
	if p.farm != nil {
		errs = append(errs, p.farm.Close())
	}
	if p.etcd != nil {
		errs = append(errs, p.etcd.Close())
	}
	return errors.Join(append(errs, p.Network.Close())...)
}
