package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Calls beside what else a gateway has: rules that are not about calls and yet meet GRE,
// and other GRE.

// surroundings are rules of the administrator's that leave the control connection alone.
var surroundings = []struct {
	name   string
	rules  string // for iptables-restore, in place before the daemon
	queued bool   // over data path queue alone: in the kernel, conntrack is what translates
}{
	{name: "a DMZ host gets all that comes", rules: "*nat\n-A PREROUTING -i wan -j DNAT --to-destination 10.77.0.79\nCOMMIT\n"},
	{name: "only TCP is masqueraded", rules: "*nat\n-F POSTROUTING\n-A POSTROUTING -o wan -p tcp -j MASQUERADE\nCOMMIT\n"},
	{name: "GRE has another source", rules: "*nat\n-I POSTROUTING -p gre -j SNAT --to-source 203.0.113.99\nCOMMIT\n"},
	{name: "GRE goes elsewhere", rules: "*nat\n-A PREROUTING -p gre -j DNAT --to-destination 10.77.0.79\nCOMMIT\n"},
	{name: "rules accept GRE before others", rules: `*raw
-A PREROUTING -p gre -j ACCEPT
COMMIT
*mangle
-A PREROUTING -p gre -j ACCEPT
-A FORWARD -p gre -j ACCEPT
-A POSTROUTING -p gre -j ACCEPT
COMMIT
*filter
-I FORWARD -p gre -j ACCEPT
COMMIT
`},
	{name: "marks of all kinds", rules: `*mangle
-A PREROUTING -j CONNMARK --restore-mark
-A PREROUTING -p gre -m mark ! --mark 0 -j ACCEPT
-A PREROUTING -i lan -j MARK --set-mark 0x1
-A PREROUTING -j CONNMARK --save-mark
-A FORWARD -j MARK --set-mark 0x2
-A POSTROUTING -j MARK --set-mark 0x3
COMMIT
`},
	{name: "INVALID is dropped", rules: `*mangle
-A PREROUTING -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
`},
	// As when the conntrack table is full, which cannot be had in one namespace alone.
	{name: "new GRE is dropped", rules: "*mangle\n-A PREROUTING -p gre -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"},
	{name: "GRE is not tracked", rules: "*raw\n-A PREROUTING -p gre -j CT --notrack\nCOMMIT\n", queued: true},
	{name: "GRE is in a zone", rules: "*raw\n-A PREROUTING -p gre -j CT --zone 5\nCOMMIT\n", queued: true},
	{name: "a zone for each side", rules: "*raw\n-A PREROUTING -i lan -p gre -j CT --zone 5\n-A PREROUTING -i wan -p gre -j CT --zone 6\nCOMMIT\n", queued: true},
}

func TestSurroundings(t *testing.T) { overDataPaths(t, testSurroundings) }

func testSurroundings(t *testing.T, path datapath.Name) {
	for _, tt := range surroundings {
		if tt.queued && path != datapath.Queue {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := buildGateway(t, path, masquerade(2))
			must(t, g.Gateway.SetSysctl("net.ipv4.conf.all.rp_filter", "1"))
			must(t, g.Gateway.IPTablesAdd(t.Context(), tt.rules))
			g.start()
			s := g.server(lab.Behaviour{Refuse: true})
			exchange(t, callOn(t, g.client(0), 7), callOn(t, g.client(1), 7))
			wantNoneUnmatched(t, s)
		})
	}
}

// wantNoneUnmatched wants that nothing has reached the server but packets of its calls,
// from where these come.
func wantNoneUnmatched(t *testing.T, s *lab.Server) {
	t.Helper()
	if all := s.Unmatched(); len(all) > 0 {
		t.Errorf("%d packets belonged to no call, the first one: %v", len(all), all[0])
	}
}

// TestZeroAtBothEnds: no Call ID tells the two directions of such a call apart.
func TestZeroAtBothEnds(t *testing.T) { overDataPaths(t, testZeroAtBothEnds) }

func testZeroAtBothEnds(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(1))
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Fixed(0)})
	call := callOn(t, g.client(0), 0)
	must(t, s.Send(0, []byte("the server first")))
	got, err := call.Recv(lab.Patience)
	must(t, err)
	if string(got) != "the server first" {
		t.Errorf("received %q", got)
	}
	exchange(t, call)
	wantNoneUnmatched(t, s)
}

// TestStrangersFirst: other GRE under the Call IDs of a call to be, from either side, does
// not keep that from its way.
func TestStrangersFirst(t *testing.T) { overDataPaths(t, testStrangersFirst) }

func testStrangersFirst(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, Firewall: true})
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	stranger, err := lab.OpenGRE(g.Inside[1], g.Inside[1].Addr)
	must(t, err)
	closeAfter(t, stranger)
	send := func(from *lab.GRE, to netip.Addr, id pptp.CallID) { // without a number: nobody answers
		must(t, from.Send(lab.Packet{Dst: to, CallID: id, Ack: new(uint32(1))}))
	}
	send(stranger, s.Host.Addr, 900)
	send(s.GRE, lab.GatewayPublic, 7)
	client := g.client(0)
	send(client.GRE, s.Host.Addr, 900)
	must(t, lab.Poll(lab.Patience, func() bool { return len(s.Unmatched()) > 0 }))
	call := callOn(t, client, 7)
	for range 3 {
		send(stranger, s.Host.Addr, 900)
		exchange(t, call)
	}
}

// TestOwnForwardedPort has the gateway itself dial a port that it forwards to a server
// inside.
func TestOwnForwardedPort(t *testing.T) { overDataPaths(t, testOwnForwardedPort) }

func testOwnForwardedPort(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(2))
	must(t, g.Gateway.IPTablesAdd(t.Context(), fmt.Sprintf(`*nat
-A PREROUTING -d %[1]v -p tcp --dport 1723 -j DNAT --to-destination %[2]v
-A OUTPUT -d %[1]v -p tcp --dport 1723 -j DNAT --to-destination %[2]v
COMMIT
*filter
-P INPUT DROP
-A INPUT -p tcp -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-P OUTPUT DROP
-A OUTPUT -p tcp -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A FORWARD -p tcp -m conntrack --ctstate DNAT -j ACCEPT
COMMIT
`, lab.GatewayPublic, g.Inside[0].Addr)))
	g.start()
	l := listen(t, g.Inside[0])
	// The gateway, and the server's neighbour, whose answers would not come back here.
	own := pairs(t, l, at1723(lab.GatewayPublic), g.Gateway)[0]
	outside := pairs(t, l, at1723(lab.GatewayPublic), g.Outside[0])[0]
	for i, p := range []pair{own, outside} {
		a, b := placed(t, p.dialer, 7, p.accepted, pptp.CallID(100+i))
		converse(t, a, b)
	}
}

// TestNothingLeavesHalfTranslated has calls end, and others begin under their IDs, while
// their GRE is under way in both directions: no packet leaves with an inside address, or
// under another's Call ID.
func TestNothingLeavesHalfTranslated(t *testing.T) {
	overDataPaths(t, testNothingLeavesHalfTranslated)
}

func testNothingLeavesHalfTranslated(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(3))
	s := g.server(lab.Behaviour{NextID: lab.Counting(900)})
	stop := make(chan struct{})
	var senders sync.WaitGroup
	payload := bytes.Repeat([]byte("x"), 600)
	for i := range 2 {
		client := g.client(i)
		senders.Go(func() {
			for n := uint32(0); ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond): // what is read with the race detector is read slowly
				}
				for id := pptp.CallID(900); id < 940; id++ {
					_ = client.GRE.Send(lab.Packet{Dst: s.Host.Addr, CallID: id, Seq: &n, Payload: payload}) // the buffer may be full
				}
			}
		})
		for range 20 {
			call := callOn(t, client, 7)
			must(t, call.Clear())
			if _, err := client.Control.Expect(lab.CallDisconnectNotify, lab.Patience); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	senders.Wait()
	call := callOn(t, g.client(2), 7)
	must(t, lab.Poll(2*lab.Patience, func() bool { // sockets may still be full
		return call.Exchange([]byte("after all"), time.Second) == nil
	}))
	for _, p := range s.Unmatched() {
		if p.Src != lab.GatewayPublic {
			t.Fatalf("%v left untranslated", p)
		}
	}
}

// TestMarksOfOneSide: marks are restored for what comes from inside alone, and the tables
// that they choose know no way inside.
func TestMarksOfOneSide(t *testing.T) { overDataPaths(t, testMarksOfOneSide) }

func testMarksOfOneSide(t *testing.T, path datapath.Name) {
	for name, rules := range map[string]string{
		"connection marks": strings.Replace(wanRules, "-A PREROUTING -j CONNMARK --restore-mark", "-A PREROUTING -i lan -j CONNMARK --restore-mark", 1),
		"marks by source": `*mangle
-A PREROUTING -i lan -s 10.77.0.10 -j MARK --set-mark 1
-A PREROUTING -i lan -s 10.77.0.11 -j MARK --set-mark 2
COMMIT
*nat
-A POSTROUTING -o wan -j MASQUERADE
-A POSTROUTING -o wan2 -j MASQUERADE
COMMIT
`,
		"masked marks": `*mangle
-A PREROUTING -i lan -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
-A PREROUTING -i lan -s 10.77.0.10 -p tcp -m mark --mark 0/0xff -j MARK --set-mark 1/0xff
-A PREROUTING -i lan -s 10.77.0.11 -p tcp -m mark --mark 0/0xff -j MARK --set-mark 2/0xff
-A PREROUTING -i lan -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff
COMMIT
*nat
-A POSTROUTING -o wan -j MASQUERADE
-A POSTROUTING -o wan2 -j MASQUERADE
COMMIT
`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := buildWANs(t, path, rules)
			must(t, w.Gateway.IPBatch(t.Context(), "route add default via 203.0.113.10 table 101\nroute add default via 198.51.100.10 table 102\n"))
			w.serve()
			calls := w.call()
			exchange(t, append(calls[0], calls[1]...)...)
		})
	}
}
