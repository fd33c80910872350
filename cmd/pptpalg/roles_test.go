package main

import (
	"fmt"
	"net/netip"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Who asks for a call and who answers it, who opens TCP, and on which side of the
// gateway each of them is.

// tryRoles has connections carry calls of each kind, asked for by each end, at the
// same time and all under the same Call ID on the side that is translated. The
// other side's IDs differ.
func tryRoles(t *testing.T, translated func(p pair) *lab.Client, all ...pair) {
	t.Helper()
	kinds := []struct {
		name  string
		place func(t *testing.T, caller *lab.Client, callerID pptp.CallID, answerer *lab.Client, answererID pptp.CallID) (a, b *lab.Call)
	}{{"outgoing", placed}, {"incoming", offered}}
	id := pptp.CallID(100)
	for i, kind := range kinds {
		for j, by := range []string{"dialer", "other end"} {
			t.Run(kind.name+" call asked for by "+by, func(t *testing.T) {
				same := pptp.CallID(10*i + j)
				var calls [][2]*lab.Call
				for _, p := range all {
					id++
					caller, answerer := p.dialer, p.accepted
					if j == 1 {
						caller, answerer = p.accepted, p.dialer
					}
					ids := map[bool]pptp.CallID{true: same, false: id}
					a, b := kind.place(t, caller, ids[caller == translated(p)], answerer, ids[answerer == translated(p)])
					calls = append(calls, [2]*lab.Call{a, b})
				}
				for _, c := range calls {
					converse(t, c[0], c[1])
				}
				distinct(t, translated, all, calls)
			})
		}
	}
}

// distinct checks that no two calls have the same ID in the eyes of those who are not
// translated and know them by one address.
func distinct(t *testing.T, translated func(p pair) *lab.Client, all []pair, calls [][2]*lab.Call) {
	t.Helper()
	seen := map[string]bool{}
	for i, c := range calls {
		outside, call := all[i].accepted, c[1]
		if translated(all[i]) == all[i].accepted {
			outside = all[i].dialer
		}
		for _, end := range c {
			if end.Client() == outside {
				call = end
			}
		}
		key := fmt.Sprint(outside.Host.Addr, outside.Server, call.Peer)
		if seen[key] {
			t.Errorf("two calls are the same to %s", key)
		}
		seen[key] = true
	}
}

func dialer(p pair) *lab.Client   { return p.dialer }
func accepted(p pair) *lab.Client { return p.accepted }

func TestClientsInside(t *testing.T) { overDataPaths(t, testClientsInside) }

func testClientsInside(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(3))
	l := listen(t, g.Outside[0])
	tryRoles(t, dialer, pairs(t, l, at1723(g.Outside[0].Addr), g.Inside...)...)
	g.wantCalls(12)
	g.wantEntries(24)
}

// TestServersInside has two servers, each behind an address of its own of which
// nothing but the control port is forwarded.
func TestServersInside(t *testing.T) { overDataPaths(t, testServersInside) }

func testServersInside(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, DNAT: lab.DNATControl, Firewall: true})
	var all []pair
	for i, h := range g.Inside {
		all = append(all, pairs(t, listen(t, h), at1723(lab.PublicOf(i)), g.Outside...)...)
	}
	tryRoles(t, accepted, all...)
	g.wantCalls(16)
	g.wantEntries(32)
}

// TestServersBehindOneAddress has two servers behind one address, told apart by the
// port that the client dials.
func TestServersBehindOneAddress(t *testing.T) { overDataPaths(t, testServersBehindOneAddress) }

func testServersBehindOneAddress(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, DNAT: lab.DNATControl, Firewall: true}, "--ports", "1723,1724")
	var all []pair
	for _, server := range g.byPort(g.Inside...) {
		all = append(all, pairs(t, server.Listener, server.public, g.Outside...)...)
	}
	tryRoles(t, accepted, all...)
	g.wantCalls(16)
	g.wantEntries(32)
}

// TestHairpin has inside clients dial the public address of inside servers: both
// ends of a call are translated.
func TestHairpin(t *testing.T) { overDataPaths(t, testHairpin) }

func testHairpin(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 4, Outside: 1, Masquerade: true, DNAT: lab.DNATControl, Hairpin: true, Firewall: true}, "--ports", "1723,1724")
	servers := g.byPort(g.Inside[:2]...)
	// Nobody uses one ID twice: to a client both servers have the same address, as
	// both clients have to a server.
	clients := pairs(t, servers[0].Listener, servers[0].public, g.Inside[2:]...)
	oneClient := append(pairs(t, servers[1].Listener, servers[1].public, g.Inside[2]), clients[0])
	t.Run("clients with equal IDs", func(t *testing.T) { tryRoles(t, dialer, clients...) })
	t.Run("servers with equal IDs", func(t *testing.T) { tryRoles(t, accepted, oneClient...) })
	g.wantCalls(16)
	g.wantEntries(32)
}

// portServer is a server behind the gateway's own address.
type portServer struct {
	*lab.Listener
	public netip.AddrPort
}

// byPort forwards ports of the gateway from 1723 on to servers on hosts.
func (g *testGateway) byPort(hosts ...*lab.Host) []portServer {
	g.t.Helper()
	var servers []portServer
	for i, h := range hosts {
		public := netip.AddrPortFrom(lab.GatewayPublic, uint16(lab.Port+i))
		must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-A", "PREROUTING", "-d", public.Addr().String(),
			"-p", "tcp", "--dport", fmt.Sprint(public.Port()), "-j", "DNAT", "--to-destination", at1723(h.Addr).String()))
		servers = append(servers, portServer{listen(g.t, h), public})
	}
	return servers
}

func TestLeaveUntranslated(t *testing.T) { overDataPaths(t, testLeaveUntranslated) }

func testLeaveUntranslated(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 1}, "--bypass", "none", "--untranslated", "leave")
	l := listen(t, g.Outside[0])
	for i, p := range pairs(t, l, at1723(g.Outside[0].Addr), g.Inside...) {
		a, b := placed(t, p.dialer, 7, p.accepted, pptp.CallID(100+i))
		if b.Peer != 7 {
			t.Errorf("the server sees call %v, want 7", b.Peer)
		}
		converse(t, a, b)
	}
	g.wantCalls(0)
	if n := g.number(`pptpalg_packets_total{reason="untranslated",verdict="accept"}`); n < 8 { // TCP may repeat some
		t.Errorf("%v packets are counted as untranslated", n)
	}
	for series, want := range map[string]string{
		`pptpalg_packets_total{reason="read",verdict="accept"}`: "",
		`pptpalg_control_connections`:                           "0",
		`pptpalg_control_connections_untouched`:                 "2",
		`pptpalg_calls_opened_total`:                            "0",
	} {
		if got := g.metric(series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
}
