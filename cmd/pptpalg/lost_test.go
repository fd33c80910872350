package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// What becomes of a call when conntrack loses its control connection, though TCP has not
// ended.

// calm lets the last acknowledgements pass: what comes while its entry is gone is not for
// anybody, and the gateway answers it with a RST.
func calm() { pass(500 * time.Millisecond) }

// wantRevived waits until conntrack has so many control connections again.
func (g *testGateway) wantRevived(n int) {
	g.t.Helper()
	must(g.t, lab.Poll(2*lab.Patience, func() bool {
		out, err := g.Gateway.Run(g.t.Context(), "conntrack", "-L", "-p", "tcp")
		return err == nil && strings.Count(out.Stdout, "ESTABLISHED") == n
	}))
}

// deleteTCP deletes the entries of control connections, and no others.
func (g *testGateway) deleteTCP() {
	g.t.Helper()
	_, err := g.Gateway.Run(g.t.Context(), "conntrack", "-D", "-p", "tcp")
	must(g.t, err)
}

// TestLostEntryIsMadeAgain: the call goes on, in its control messages too.
func TestLostEntryIsMadeAgain(t *testing.T) { overDataPaths(t, testLostEntryIsMadeAgain) }

func testLostEntryIsMadeAgain(t *testing.T, path datapath.Name) {
	tests := []struct {
		name string
		step func(g *testGateway, calls []*lab.Call)
	}{
		{"deleted, again and again", func(g *testGateway, _ []*lab.Call) {
			for range 3 {
				g.deleteTCP()
				g.wantRevived(2)
			}
		}},
		{"link down and up", func(g *testGateway, _ []*lab.Call) {
			for range 2 {
				must(g.t, g.Gateway.IPBatch(g.t.Context(), "link set wan down\n"))
				pass(time.Second)
				must(g.t, g.Gateway.IPBatch(g.t.Context(), "link set wan up\n"))
				g.wantRevived(2)
			}
		}},
		{"down for longer than an audit", func(g *testGateway, _ []*lab.Call) {
			must(g.t, g.Gateway.IPBatch(g.t.Context(), "link set wan down\n"))
			pass(5 * time.Second)
			must(g.t, g.Gateway.IPBatch(g.t.Context(), "link set wan up\n"))
			g.wantRevived(2)
		}},
		{"address gone for 20 seconds", func(g *testGateway, _ []*lab.Call) {
			must(g.t, g.Gateway.IPBatch(g.t.Context(), "addr del 203.0.113.1/24 dev wan\n"))
			pass(20 * time.Second)
			must(g.t, g.Gateway.IPBatch(g.t.Context(), "addr add 203.0.113.1/24 dev wan\n"))
			g.wantRevived(2)
		}},
		{"short time-out, GRE alone", func(g *testGateway, calls []*lab.Call) {
			must(g.t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "3"))
			for _, c := range calls { // the entries get it with their next packet
				must(g.t, c.Client().Send(lab.NewEchoRequest(1)))
				_, err := c.Client().Expect(lab.EchoReply, lab.Patience)
				must(g.t, err)
			}
			for range 20 {
				pass(400 * time.Millisecond)
				exchange(g.t, calls...)
			}
			g.wantRevived(2)
		}},
		{"restarted, and deleted", func(g *testGateway, _ []*lab.Call) {
			g.kill()
			g.start()
			g.deleteTCP()
			g.wantRevived(2)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, path, masquerade(2))
			g.server(lab.Behaviour{Refuse: true})
			calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
			exchange(t, calls...)
			calm()
			tt.step(g, calls)
			g.wantGoesOn(calls)
		})
	}
}

// TestCrashBehindALoss: a client crashes when a segment of its was lost, and what the server answers to its RST is lost
// as well. Conntrack has the connection as established, but no longer than one that is closed. It is kept for as long
// as the daemon waits for a word of it.
func TestCrashBehindALoss(t *testing.T) { overDataPaths(t, testCrashBehindALoss) }

func testCrashBehindALoss(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1"))
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	calm()
	for _, lost := range [][]string{{"--dport", "1723", "--tcp-flags", "PSH", "PSH"}, {"--sport", "1723"}} {
		g.block(g.Gateway, append([]string{"-t", "raw", "-I", "PREROUTING", "-p", "tcp"}, lost...)...)
	}
	must(t, call.Client().Send(lab.NewEchoRequest(1)))
	must(t, call.Client().Reset())
	const least, most = 60, int(alg.HalfSilentMost / time.Second)
	life := 0
	if err := lab.Poll(2*lab.Patience, func() bool {
		out, err := g.Gateway.Run(t.Context(), "conntrack", "-L", "-p", "tcp")
		_, err2 := fmt.Sscanf(out.Stdout, "tcp 6 %d ESTABLISHED", &life)
		return err == nil && err2 == nil && least < life && life <= most
	}); err != nil {
		t.Errorf("the entry lasts for %d s, want %d at most, and no less than %d", life, most, least)
	}
	g.wantCalls(1)
}

// wantGoesOn has calls carry packets, and their control connections messages.
func (g *testGateway) wantGoesOn(calls []*lab.Call) {
	g.t.Helper()
	exchange(g.t, calls...)
	for _, c := range calls {
		must(g.t, c.Client().Send(lab.NewEchoRequest(9)))
		_, err := c.Client().Expect(lab.EchoReply, lab.Patience)
		must(g.t, err)
	}
	must(g.t, calls[1].Clear())
	m, err := calls[1].Client().Expect(lab.CallDisconnectNotify, lab.Patience)
	must(g.t, err)
	if m.CallID != calls[1].Peer {
		g.t.Errorf("the notify is about call %v, want %v", m.CallID, calls[1].Peer)
	}
	g.wantCalls(len(calls) - 1)
}

// TestLostBehindARoutedAddress: NAT gives an address that no interface has. That it is not
// there says nothing.
func TestLostBehindARoutedAddress(t *testing.T) { overDataPaths(t, testLostBehindARoutedAddress) }

func testLostBehindARoutedAddress(t *testing.T, path datapath.Name) {
	const pool = "203.0.113.150"
	g := buildGateway(t, path, lab.Options{Inside: 2, Outside: 1, SNAT: netip.MustParseAddr(pool), Firewall: true})
	must(t, g.Gateway.IPBatch(t.Context(), "addr del "+pool+"/24 dev wan\n"))
	must(t, g.Outside[0].IPBatch(t.Context(), "route add "+pool+"/32 via 203.0.113.1\n"))
	g.start()
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	for range 2 {
		calm()
		g.deleteTCP()
		g.wantRevived(2)
	}
	g.wantGoesOn(calls)
}

// TestLostServerInside has the server speak first when the entry is gone: the kernel takes
// its segment for the first of a connection of its own.
func TestLostServerInside(t *testing.T) { overDataPaths(t, testLostServerInside) }

func testLostServerInside(t *testing.T, path datapath.Name) {
	for _, first := range []string{"client", "server", "nobody"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, path, lab.Options{Inside: 1, Outside: 1, DNAT: lab.DNATControl, Firewall: true})
			for _, proto := range []string{"tcp", "gre"} {
				must(t, g.Gateway.IPTables(t.Context(), "-t", "nat", "-I", "POSTROUTING", "-p", proto, "-o", "wan",
					"-s", g.Inside[0].Addr.String(), "-j", "SNAT", "--to-source", lab.PublicOf(0).String()))
			}
			p := pairs(t, listen(t, g.Inside[0]), at1723(lab.PublicOf(0)), g.Outside[0])[0]
			a, b := placed(t, p.dialer, 7, p.accepted, 9)
			converse(t, a, b)
			from, to := p.dialer, p.accepted
			if first == "server" {
				from, to = to, from
			}
			for range 2 {
				calm()
				g.deleteTCP()
				if first == "nobody" {
					g.wantRevived(1)
				}
				must(t, from.Send(lab.NewEchoRequest(1)))
				_, err := to.Expect(lab.EchoRequest, lab.Patience)
				must(t, err)
				g.wantOpenedBy(g.Outside[0])
			}
			converse(t, a, b)
			must(t, p.dialer.Send(lab.NewCallClearRequest(7)))
			_, err := p.accepted.Expect(lab.CallClearRequest, lab.Patience)
			must(t, err)
			must(t, p.accepted.Send(lab.NewCallDisconnectNotify(9, 1)))
			_, err = p.dialer.Expect(lab.CallDisconnectNotify, lab.Patience)
			must(t, err)
			g.wantCalls(0)
		})
	}
}

// wantOpenedBy waits until conntrack has a connection that a host opened.
func (g *testGateway) wantOpenedBy(h *lab.Host) {
	g.t.Helper()
	must(g.t, lab.Poll(2*lab.Patience, func() bool {
		out, err := g.Gateway.Run(g.t.Context(), "conntrack", "-L", "-p", "tcp", "--orig-src", h.Addr.String())
		return err == nil && strings.Count(out.Stdout, "ESTABLISHED") == 1
	}))
}

// wantReset has a client speak, and wants it to be told that its connection is gone.
func wantReset(t *testing.T, c *lab.Client) {
	t.Helper()
	must(t, c.Send(lab.NewEchoRequest(5)))
	if _, err := c.Read(2 * lab.Patience); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client reads %v, want a RST", err)
	}
}

// goneFor is for how long a lost call is kept when its address is gone, and patience for an
// audit more.
const goneFor = time.Minute + 2*lab.Patience

func (g *testGateway) wantLost(n int) {
	g.t.Helper()
	must(g.t, lab.Poll(goneFor, func() bool { return g.metric(`pptpalg_calls_closed_total{reason="lost"}`) == fmt.Sprint(n) }))
}

// TestAddressGoneForGood: the calls end, the client is told with the next that it says, and
// when it dials again its call works. The gateways lose their addresses at the same time, for
// each loss takes a minute.
func TestAddressGoneForGood(t *testing.T) { overDataPaths(t, testAddressGoneForGood) }

func testAddressGoneForGood(t *testing.T, path datapath.Name) {
	const replaced = "addr del 203.0.113.1/24 dev wan\naddr add 203.0.113.2/24 dev wan\n"
	tests := []struct {
		name   string
		before func(g *testGateway)
		gone   string // what takes the address away
		after  string // what comes when the calls are lost
	}{
		{"another one in its place", func(*testGateway) {}, replaced, ""},
		{"another one in its place, and the entry was made again before", func(g *testGateway) {
			g.deleteTCP()
			g.wantRevived(1)
		}, replaced, ""},
		{"back after more than a minute, with the link", func(*testGateway) {},
			"addr del 203.0.113.1/24 dev wan\nlink set wan down\n", "link set wan up\naddr add 203.0.113.1/24 dev wan\n"},
	}
	gateways, servers, clients := make([]*testGateway, len(tests)), make([]*lab.Server, len(tests)), make([]*lab.Client, len(tests))
	for i, tt := range tests {
		g := startGateway(t, path, masquerade(1))
		// A firewall before the server is silent about what it does not know, as keep-alive
		// probes from another address.
		must(t, g.Outside[0].IPTables(t.Context(), "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"))
		gateways[i], servers[i], clients[i] = g, g.server(lab.Behaviour{}), g.client(0)
		exchange(t, callOn(t, clients[i], 7))
		calm()
		tt.before(g)
		must(t, g.Gateway.IPBatch(t.Context(), tt.gone))
	}
	for i, tt := range tests {
		g, s, c := gateways[i], servers[i], clients[i]
		g.wantLost(1)
		g.wantCalls(0)
		if tt.after != "" {
			must(t, g.Gateway.IPBatch(t.Context(), tt.after))
		}
		wantReset(t, c)
		if n := g.number(`pptpalg_packets_total{reason="lost",verdict="accept"}`); n < 1 { // TCP may repeat it
			t.Errorf("%s: %v segments are counted as answered", tt.name, n)
		}
		exchange(t, callOn(t, g.client(0), 7))
		if got := s.Calls()[len(s.Calls())-1].Remote; tt.after == "" && got.String() != "203.0.113.2" {
			t.Errorf("%s: the new call comes from %v", tt.name, got)
		}
	}
}

// TestLostWhileNobodyWatched: whether TCP has ended is not known. If it has not, the client
// is told.
func TestLostWhileNobodyWatched(t *testing.T) { overDataPaths(t, testLostWhileNobodyWatched) }

func testLostWhileNobodyWatched(t *testing.T, path datapath.Name) {
	for _, filter := range []string{"0", "1", "2"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			t.Parallel()
			g := buildGateway(t, path, masquerade(2))
			for _, dev := range []string{"all", "lan", "wan"} {
				must(t, g.Gateway.SetSysctl("net.ipv4.conf."+dev+".rp_filter", filter))
			}
			g.start()
			g.server(lab.Behaviour{Refuse: true})
			clients := []*lab.Client{g.client(0), g.client(1)}
			callOn(t, clients[0], 7)
			callOn(t, clients[1], 7)
			calm()
			g.kill()
			g.deleteTCP()
			g.start()
			g.wantCalls(0)
			for i, c := range clients {
				wantReset(t, c)
				exchange(t, callOn(t, g.client(i), 7))
			}
			g.wantCalls(2)
		})
	}
}

// TestLostIsNotReset where that is not wanted: the connection goes on without its call.
func TestLostIsNotReset(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(1), "--reset-lost=false")
	g.server(lab.Behaviour{})
	c := g.client(0)
	callOn(t, c, 7)
	calm()
	g.kill()
	g.deleteTCP()
	g.start("--reset-lost=false")
	g.wantCalls(0)
	must(t, c.Send(lab.NewEchoRequest(1)))
	_, err := c.Expect(lab.EchoReply, lab.Patience)
	must(t, err)
	if rules := strings.ToLower(g.rules()); strings.Contains(rules, "pptpalg-reset") || strings.Contains(rules, "reject with tcp reset") {
		t.Errorf("rules: %s", rules)
	}
}

// TestResetRuleRefused: a filter table that iptables cannot read costs the RST, and nothing else.
func TestResetRuleRefused(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, lab.Options{Inside: 1, Outside: 1, Masquerade: true})
	_, err := g.Gateway.Run(t.Context(), "nft", "add rule ip filter FORWARD ct state vmap { established : accept }")
	must(t, err)
	g.start("--rules", "iptables")
	must(t, g.log.WaitFor("reset_mark=0", lab.Patience))
	g.server(lab.Behaviour{})
	exchange(t, callOn(t, g.client(0), 7))
	must(t, g.daemon.Signal(syscall.SIGTERM))
	must(t, g.daemon.Wait(lab.Patience))
}

// TestHalfClosed: the client has said that it is done, and its FIN comes twice, which conntrack
// takes for one of each end. What the server still says of its call is edited.
func TestHalfClosed(t *testing.T) { overDataPaths(t, testHalfClosed) }

func testHalfClosed(t *testing.T, path datapath.Name) {
	n := startSegments(t, path)
	w := n.connect(t, n.tcp(n.Inside[0]), n.Inside[0], nil)
	w.deliver(clientEnd, lab.NewOutgoingCallRequest(7).Bytes())
	public := n.calls()[1].PNS.PublicCallID
	w.deliver(serverEnd, lab.NewOutgoingCallReply(9, *public, 1).Bytes())
	w.deliver(clientEnd, lab.NewCallClearRequest(7).Bytes())
	for range 2 {
		w.pass(clientEnd, w.segment(clientEnd, lab.FIN|lab.ACK, nil))
	}
	w.next[clientEnd]++
	pass(5 * time.Second)
	got := w.pass(serverEnd, w.segment(serverEnd, lab.ACK|lab.PSH, lab.NewCallDisconnectNotify(*public, 1).Bytes()))
	if m, err := lab.ParseMessage(got.Payload); err != nil || m.CallID != 7 {
		t.Errorf("the notify is %v, %v, want it to be about call 7", m, err)
	}
}
