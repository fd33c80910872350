package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"pptpalg/cmd/internal/lab"
)

// pair is two clients behind two gateways, of which one dies.
var pair = plan{
	network: lab.Options{Inside: 2, Outside: 1, SNAT: lab.GatewayPublic, Firewall: true, Pair: true},
	needs:   []string{"pptp", "pptpd", "etcd", "iptables", "ip", "conntrack"},
	steps: []step{
		{"start etcd, server and both daemons", (*demo).startPair},
		{"two clients call with one Call ID", (*demo).dial},
		{"exchange packets", (*demo).exchange},
		{"gateway b follows the calls", (*demo).followed},
		{"gateway a dies", (*demo).die},
		{"gateway b takes over", (*demo).takenOver},
		{"exchange packets", (*demo).exchange},
		{"Echo on both control connections", (*demo).echo},
		{"hang up", (*demo).endPair},
	},
}

// every is how often each end of a call sends a packet while a gateway dies.
const every = 5 * time.Millisecond

// etcdAddr is where etcd answers both gateways.
var etcdAddr = netip.AddrPortFrom(lab.SwitchAddr, 2379)

// startPair starts etcd, the server and both daemons.
func (d *demo) startPair() error {
	fmt.Printf(`The network, each box a network namespace of its own:

  pptp-linux %v ──┐    ┌── gateway a ──┐
                          ├────┤               ├── pptpd %v
  pptp-linux %v ──┘    └── gateway b ──┘
                          etcd %v

Gateway a has the addresses %v and %v. Both run pptpalg with --cluster.

`, d.Inside[0].Addr, d.Outside[0].Addr, d.Inside[1].Addr, lab.SwitchAddr, lab.GatewayInside, lab.GatewayPublic)
	if err := d.startEtcd(); err != nil {
		return err
	}
	if err := d.serve(lab.PPTPDOptions{Every: every}); err != nil {
		return err
	}
	for i, host := range []*lab.Host{d.Gateway, d.Standby} {
		name := string(rune('a' + i))
		if _, err := d.run("gateway "+name, host, "--cluster", "etcd://"+etcdAddr.String(), "--cluster-insecure", "--cluster-name", name); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) startEtcd() error {
	data, err := lab.MemoryDir()
	if err != nil {
		return err
	}
	d.closeLater(closer(func() error { return os.RemoveAll(data) }))
	etcd, err := lab.StartEtcd(d.Switch, etcdAddr, data)
	if err == nil {
		d.closeLater(closer(etcd.Kill))
	}
	return err
}

type closer func() error

func (c closer) Close() error { return c() }

// first is the gateway that has the addresses first, and second the one that gets them.
func (d *demo) first() *gateway  { return d.gateways[0] }
func (d *demo) second() *gateway { return d.gateways[1] }

// followed shows that the second gateway knows the calls of the first.
func (d *demo) followed() error {
	if err := d.owned(owner{"a", false}); err != nil {
		return err
	}
	return d.print(d.second(), "calls")
}

// owner is what "pptpalg calls --json" says of the owner of a call.
type owner struct {
	Name string `json:"owner"`
	Here bool   `json:"owned_here"`
}

// owned waits until the second gateway has both calls of an owner.
func (d *demo) owned(by owner) error {
	var out string
	err := lab.Poll(lab.Patience, func() bool {
		var calls []owner
		var err error
		if out, err = d.pptpalg(d.second(), "calls", "--json"); err != nil || json.Unmarshal([]byte(out), &calls) != nil {
			return false
		}
		return len(calls) == len(d.clients) && !slices.ContainsFunc(calls, func(o owner) bool { return o != by })
	})
	if err != nil {
		return fmt.Errorf("wait until gateway b has the calls of %s: %w: %s", by.Name, err, out)
	}
	return nil
}

// print shows a command and what it prints.
func (d *demo) print(g *gateway, args ...string) error {
	out, err := d.pptpalg(g, args...)
	if err == nil {
		fmt.Printf("\nb$ pptpalg %s\n%s", strings.Join(args, " "), out)
	}
	return err
}

// die kills the first gateway while packets pass, and gives its addresses to the second one.
func (d *demo) die() error {
	flows, err := d.flows()
	if err != nil {
		return err
	}
	stop := d.stream()
	defer stop()
	if err := flows.pass(); err != nil {
		return err
	}
	began := time.Now()
	if err := errors.Join(d.first().daemon.Kill(), d.Cut(d.ctx, d.first().host)); err != nil {
		return err
	}
	dead := time.Since(began)
	if err := d.Take(d.ctx, d.second().host); err != nil {
		return err
	}
	moved := time.Since(began)
	if err := flows.pass(); err != nil {
		return err
	}
	stop()
	fmt.Printf(`
Each end of each call sends a packet every %v. Gateway a is killed: its daemon by SIGKILL, then its
cables are pulled, which takes %v. %v after the kill the addresses are at gateway b: the
demonstration moves them, as VRRP would.

`, every, dead.Round(time.Millisecond), moved.Round(time.Millisecond))
	return flows.print()
}

// takenOver shows that the second gateway has the calls, and its kernel their translation.
func (d *demo) takenOver() error {
	if err := d.owned(owner{"b", true}); err != nil {
		return err
	}
	for _, args := range [][]string{{"calls"}, {"cluster", "status"}} {
		if err := d.print(d.second(), args...); err != nil {
			return err
		}
	}
	fmt.Println()
	return nil
}

// echo waits for an answer of the server to an Echo-Request that each client sends by itself.
func (d *demo) echo() error {
	for i, c := range d.clients {
		for len(c.tcp.Waiting()) > 0 {
			if _, err := c.tcp.Recv(0); err != nil {
				return err
			}
		}
		_, err := c.tcp.Take(lab.Patience, func(s lab.Segment) bool {
			m, err := lab.ParseMessage(s.Payload)
			return err == nil && m.Type == lab.EchoReply && s.Src.Addr() == d.Outside[0].Addr
		})
		if err != nil {
			return fmt.Errorf("client %d: wait for an Echo-Reply: %w", i+1, err)
		}
		fmt.Printf("client %d: its Echo-Request is answered\n", i+1)
	}
	return nil
}

func (d *demo) endPair() error {
	b := d.second()
	if err := d.hangUp(b); err != nil {
		return err
	}
	cleared, err := d.metrics(b, `pptpalg_control_messages_total{type="Call-Clear-Request"}`)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("} %d\n", len(d.clients)); !strings.HasSuffix(cleared, want) {
		return fmt.Errorf("gateway b counts %q, want %d", cleared, len(d.clients))
	}
	entries, err := b.host.Run(d.ctx, "conntrack", "-L", "-p", "gre")
	if err != nil {
		return err
	}
	if strings.Contains(entries.Stdout, d.Inside[0].Addr.String()) || strings.Contains(entries.Stdout, d.Inside[1].Addr.String()) {
		return fmt.Errorf("gateway b still translates: %s", entries.Stdout)
	}
	fmt.Printf(`both hang up: gateway b edits each Call-Clear-Request, and has neither calls nor translations left

Proven: two PPTP clients with the same Call ID, %v, had a call each when their gateway died. The other
gateway went on with both, and with their control connections: frames, Echo and Call-Clear pass there.
No client dialled again.
`, callID)
	return nil
}
