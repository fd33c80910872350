package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Calls that NAT does not touch, where a firewall accepts from outside only what belongs to
// an established connection. No rule accepts GRE.

// strict has a chain of the gateway accept what is established, and what else is given.
func (g *testGateway) strict(chain string, accepted ...string) {
	g.t.Helper()
	rules := fmt.Sprintf("*filter\n:%[1]s DROP\n-A %[1]s -s 127.0.0.0/8 -j ACCEPT\n-A %[1]s -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n", chain)
	for _, a := range accepted {
		rules += fmt.Sprintf("-A %s %s -j ACCEPT\n", chain, a)
	}
	must(g.t, g.Gateway.IPTablesAdd(g.t.Context(), rules+"COMMIT\n"))
}

// dmz has the gateway send everything that comes from outside to the last inside host.
func (g *testGateway) dmz() {
	g.t.Helper()
	must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-A", "PREROUTING", "-i", "wan", "-j", "DNAT", "--to-destination", g.Inside[len(g.Inside)-1].Addr.String()))
}

// exempt has the gateway translate nothing of an inside host, to which outside hosts know a way.
func (g *testGateway) exempt(h *lab.Host) {
	g.t.Helper()
	must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-I", "POSTROUTING", "-s", h.Addr.String(), "-j", "ACCEPT"))
	for _, o := range g.Outside {
		_, err := o.Run(g.t.Context(), "ip", "route", "replace", h.Addr.String(), "via", lab.GatewayPublic.String())
		must(g.t, err)
	}
}

// plainNetwork is a kind of gateway, and those of its clients that NAT does not touch.
type plainNetwork struct {
	name    string
	options lab.Options
	prepare func(*testGateway)
	server  func(*testGateway) *lab.Host
	clients func(*testGateway) []*lab.Host
}

// start starts a gateway of the kind.
func (n plainNetwork) start(t *testing.T, path datapath.Name) *testGateway {
	t.Helper()
	g := buildGateway(t, path, n.options)
	if n.prepare != nil {
		n.prepare(g)
	}
	g.start()
	return g
}

func outsideServer(g *testGateway) *lab.Host { return g.Outside[0] }
func insideHosts(g *testGateway) []*lab.Host { return g.Inside }
func firstInside(g *testGateway) []*lab.Host { return g.Inside[:1] }
func gatewayItself(g *testGateway) *lab.Host { return g.Gateway }
func ownClient(g *testGateway) []*lab.Host   { return []*lab.Host{g.Gateway} }

var plainNetworks = []plainNetwork{
	{"routed", lab.Options{Inside: 2, Outside: 1, Firewall: true}, nil, outsideServer, insideHosts},
	{"routed beside a DMZ host", lab.Options{Inside: 2, Outside: 1, Firewall: true}, (*testGateway).dmz, outsideServer, firstInside},
	{"routed beside masquerading", masquerade(2), func(g *testGateway) { g.exempt(g.Inside[0]) }, outsideServer, firstInside},
	{"own client", masquerade(1), func(g *testGateway) { g.strict("INPUT") }, outsideServer, ownClient},
	{"own client beside a DMZ host", masquerade(1), func(g *testGateway) {
		g.strict("INPUT")
		g.dmz()
	}, outsideServer, ownClient},
	{"own client, strict OUTPUT", masquerade(1), func(g *testGateway) {
		g.strict("INPUT")
		g.strict("OUTPUT", "-p tcp --dport 1723")
	}, outsideServer, ownClient},
	{"own server", lab.Options{Inside: 1, Outside: 2, Masquerade: true}, func(g *testGateway) {
		g.strict("INPUT", "-p tcp --dport 1723")
		g.strict("OUTPUT")
	}, gatewayItself, func(g *testGateway) []*lab.Host { return append(g.Outside, g.Inside...) }},
}

// TestFollows has calls that NAT does not touch carry GRE, whoever sends first, until they end.
// What translated calls of the same network do beside them does not matter.
func TestFollows(t *testing.T) { overDataPaths(t, testFollows) }

func testFollows(t *testing.T, path datapath.Name) {
	for _, n := range plainNetworks {
		t.Run(n.name, func(t *testing.T) {
			g := n.start(t, path)
			s := serverOn(t, n.server(g), lab.Behaviour{NextID: lab.Counting(0)})
			var own []*lab.Client
			var calls []*lab.Call
			for i, h := range n.clients(g) {
				c := clientOn(t, h, s.Host.Addr)
				own = append(own, c)
				calls = append(calls, callOn(t, c, 0), callOn(t, c, pptp.CallID(7+i)))
			}
			exchange(t, calls...)
			for i, c := range s.Calls() {
				if want := calls[i].Own; c.Peer != want {
					t.Errorf("the server knows call %d as %v, want %v", i, c.Peer, want)
				}
			}
			g.wantCalls(len(calls))
			g.wantEntriesOfCalls(2 * len(calls))
			g.beside(n, s)
			exchange(t, calls...)
			if n := g.metric(`pptpalg_anomalies_total{kind="unknown_call"}`); n != "0" {
				t.Errorf("%s IDs of unknown calls", n)
			}
			for _, c := range own {
				must(t, c.Control.Close())
			}
			g.wantCalls(0)
			g.wantEntriesOfCalls(0)
		})
	}
}

// beside has inside clients that are translated call the same server, and end.
func (g *testGateway) beside(n plainNetwork, s *lab.Server) {
	g.t.Helper()
	plain := n.clients(g)
	for _, h := range g.Inside {
		if !n.options.Masquerade || h == plain[0] || s.Host == g.Gateway {
			continue
		}
		c := clientOn(g.t, h, s.Host.Addr)
		before := len(g.calls())
		exchange(g.t, callOn(g.t, c, 7))
		must(g.t, c.Control.Close())
		g.wantCalls(before)
	}
}

// TestFollowsOn: a call that NAT does not touch goes on after the daemon died or stopped, and
// after somebody has flushed conntrack.
func TestFollowsOn(t *testing.T) { overDataPaths(t, testFollowsOn) }

func testFollowsOn(t *testing.T, path datapath.Name) {
	for _, n := range plainNetworks {
		t.Run(n.name, func(t *testing.T) {
			g := n.start(t, path)
			s := serverOn(t, n.server(g), lab.Behaviour{NextID: lab.Counting(900)})
			c := clientOn(t, n.clients(g)[0], s.Host.Addr)
			call := callOn(t, c, 7)
			exchange(t, call)
			g.flush()
			g.recovered(call)
			g.kill()
			g.start()
			g.recovered(call)
			g.stop()
			g.start()
			g.recovered(call, callOn(t, c, 8))
			must(t, c.Control.Close())
			g.wantCalls(0)
			g.wantEntriesOfCalls(0)
		})
	}
}

// flush empties the kernel's table.
func (g *testGateway) flush() {
	g.t.Helper()
	_, err := g.Gateway.Run(g.t.Context(), "conntrack", "-F")
	must(g.t, err)
}

// recovered waits until the control connections are tracked and the calls have their flows,
// and has them carry GRE.
func (g *testGateway) recovered(calls ...*lab.Call) {
	g.t.Helper()
	var found string
	there := func() bool {
		out, err := g.Gateway.Run(g.t.Context(), "conntrack", "-L", "-p", "tcp", "--orig-port-dst", "1723")
		found = out.Stdout
		return err == nil && strings.Contains(found, "ESTABLISHED")
	}
	if err := lab.Poll(lab.Patience, there); err != nil {
		g.t.Errorf("the control connection is not back: %v: %s", err, found)
	}
	g.wantCalls(len(calls))
	g.wantEntriesOfCalls(2 * len(calls))
	exchange(g.t, calls...)
}

// TestFollowsWithoutJournal: the entries tell a daemon that has no journal of the gateway's own
// call, whose ID nobody behind the gateway is given.
func TestFollowsWithoutJournal(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(1))
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	own := callOn(t, clientOn(t, g.Gateway, s.Host.Addr), 7)
	g.kill()
	must(t, os.RemoveAll(g.state))
	g.start()
	g.wantCalls(1)
	exchange(t, own, callOn(t, g.client(0), 7))
}

// TestLeavesAfterFollowing: a daemon that is to leave such calls gives up those that an
// earlier one followed, but not the gateway's own.
func TestLeavesAfterFollowing(t *testing.T) { overDataPaths(t, testLeavesAfterFollowing) }

func testLeavesAfterFollowing(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 1, Outside: 1})
	s := g.server(lab.Behaviour{NextID: lab.Counting(900)})
	callOn(t, g.client(0), 7)
	own := clientOn(t, g.Gateway, s.Host.Addr)
	callOn(t, own, 7)
	g.wantCalls(2)
	g.wantEntriesOfCalls(4)
	g.kill()
	g.start("--untranslated", "leave")
	g.wantCalls(1)
	g.wantEntriesOfCalls(2)
	g.stop()
	g.start()
	g.wantCalls(1)
	g.wantEntriesOfCalls(2)
}
