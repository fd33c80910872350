package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// A gateway with two ways to the world, of which each control connection keeps the
// one that it began on, by its connmark. Its calls must keep to it too.
//
//	                       ┌── wan   203.0.113.1 ── 203.0.113.10 ──┐
//	in0, in1 ── lan ── gw ─┤                                       ├─ out0 ── 192.0.2.1, .2
//	                       └── wan2 198.51.100.1 ── 198.51.100.10 ─┘
//
// Without a mark packets leave by wan. Of in1's packets nothing but TCP is marked:
// its GRE finds wan2 by the mark of its conntrack entries alone.
type wans struct {
	*testGateway
	servers []*lab.Server
}

var (
	secondWAN    = netip.MustParseAddr("198.51.100.1")
	wanServers   = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	wanAddresses = []netip.Addr{lab.GatewayPublic, secondWAN} // by inside host
)

// secondWay is run in the gateway, and farEnd in out0.
const (
	secondWay = `link add wan2 type veth peer name eth1 netns %s
link set wan2 up
addr add 198.51.100.1/24 dev wan2
route add 192.0.2.0/24 via 203.0.113.10
route add 192.0.2.0/24 via 203.0.113.10 table 101
route add 192.0.2.0/24 via 198.51.100.10 table 102
rule add fwmark 1 lookup 101
rule add fwmark 2 lookup 102
`
	farEnd = `link set eth1 up
addr add 198.51.100.10/24 dev eth1
addr add 192.0.2.1/32 dev lo
addr add 192.0.2.2/32 dev lo
`
)

const wanRules = `*mangle
-A PREROUTING -j CONNMARK --restore-mark
-A PREROUTING -i lan -s 10.77.0.10 -p tcp -m mark --mark 0 -j MARK --set-mark 1
-A PREROUTING -i lan -s 10.77.0.11 -p tcp -m mark --mark 0 -j MARK --set-mark 2
-A PREROUTING -j CONNMARK --save-mark
COMMIT
*nat
-A POSTROUTING -o wan -j MASQUERADE
-A POSTROUTING -o wan2 -j MASQUERADE
COMMIT
`

func startWANs(t *testing.T, path datapath.Name, more string) *wans {
	t.Helper()
	w := buildWANs(t, path, wanRules+more)
	w.serve()
	return w
}

func buildWANs(t *testing.T, path datapath.Name, rules string) *wans {
	t.Helper()
	w := &wans{testGateway: buildGateway(t, path, lab.Options{Inside: 2, Outside: 1})}
	must(t, w.Gateway.IPBatch(t.Context(), fmt.Sprintf(secondWay, w.Outside[0].Namespace)))
	must(t, w.Outside[0].IPBatch(t.Context(), farEnd))
	for _, dev := range []string{"all", "wan2"} {
		must(t, w.Gateway.SetSysctl("net.ipv4.conf."+dev+".rp_filter", "0"))
	}
	must(t, w.Gateway.IPTablesRestore(t.Context(), rules))
	return w
}

// serve starts the daemon, and the servers.
func (w *wans) serve() {
	w.t.Helper()
	w.start()
	for _, a := range wanServers {
		h := *w.Outside[0]
		h.Addr = a
		w.servers = append(w.servers, serverOn(w.t, &h, lab.Behaviour{Refuse: true, NextID: lab.Counting(900)}))
	}
}

// call has both clients call both servers under the same Call ID. The clients' calls
// are kept apart.
func (w *wans) call() (calls [2][]*lab.Call) {
	w.t.Helper()
	for i, h := range w.Inside {
		for _, s := range w.servers {
			calls[i] = append(calls[i], callOn(w.t, clientOn(w.t, h, s.Host.Addr), 7))
		}
	}
	for _, s := range w.servers {
		for i, c := range s.Calls() {
			if c.Remote != wanAddresses[i] {
				w.t.Fatalf("client %d reaches the server from %v, want %v", i, c.Remote, wanAddresses[i])
			}
		}
	}
	return calls
}

// TestCallsKeepTheirWAN: a server takes a call's packets only from the address that
// the call was asked for from.
func TestCallsKeepTheirWAN(t *testing.T) { overDataPaths(t, testCallsKeepTheirWAN) }

func testCallsKeepTheirWAN(t *testing.T, path datapath.Name) {
	w := startWANs(t, path, "")
	calls := w.call()
	exchange(t, append(calls[0], calls[1]...)...)
	w.wantEntries(8)
	w.wantEntriesWith(4, "mark=1 ")
	w.wantEntriesWith(4, "mark=2 ")
}

// TestZones has one client, and the way that it takes, in a conntrack zone of their
// own.
func TestZones(t *testing.T) { overDataPaths(t, testZones) }

func testZones(t *testing.T, path datapath.Name) {
	w := startWANs(t, path, `*raw
-A PREROUTING -i lan -s 10.77.0.11 -j CT --zone 5
-A PREROUTING -i wan2 -j CT --zone 5
COMMIT
`)
	calls := w.call()
	exchange(t, append(calls[0], calls[1]...)...)
	w.wantEntries(8)
	w.wantEntriesWith(4, "zone=5 ")
	for _, c := range calls[1] {
		must(t, c.Clear())
	}
	w.wantCalls(2)
	w.wantEntriesWith(0, "zone=5 ")
	exchange(t, calls[0]...)
}

func (w *wans) wantEntriesWith(n int, what string) {
	w.t.Helper()
	if w.path == datapath.Queue {
		return // its entries are the kernel's own
	}
	count := func() (got int) {
		for line := range strings.Lines(w.entries()) {
			if strings.Contains(line, what) {
				got++
			}
		}
		return got
	}
	if err := lab.Poll(lab.Patience, func() bool { return count() == n }); err != nil {
		w.t.Errorf("conntrack has %d GRE entries with %q, want %d:\n%s", count(), what, n, w.entries())
	}
}

// TestAddressGoesAway takes the second way's address, or its link, away for good: the kernel
// drops the entries of what it masqueraded, control connections among them, and not
// those that it was given for their calls. These go as well, if the address does not come
// back within a minute.
func TestAddressGoesAway(t *testing.T) { overDataPaths(t, testAddressGoesAway) }

func testAddressGoesAway(t *testing.T, path datapath.Name) {
	tests := []struct{ name, command string }{
		{"address deleted", "addr del 198.51.100.1/24 dev wan2\n"},
		{"link deleted", "link del wan2\n"},
	}
	var all []*wans // they lose their addresses at the same time, for each loss takes a minute
	var calls [][2][]*lab.Call
	for _, tt := range tests {
		w := startWANs(t, path, "")
		all, calls = append(all, w), append(calls, w.call())
		exchange(t, append(calls[len(calls)-1][0], calls[len(calls)-1][1]...)...)
		must(t, w.Gateway.IPBatch(t.Context(), tt.command))
	}
	for i, w := range all {
		exchange(t, calls[i][0]...)
		w.wantLost(2)
		w.wantCalls(2)
		w.wantEntries(4)
		w.wantEntriesWith(0, "mark=2 ")
		exchange(t, calls[i][0]...)
	}
}

// TestLinkGoesDown keeps the second way's address, and the way comes back.
func TestLinkGoesDown(t *testing.T) { overDataPaths(t, testLinkGoesDown) }

func testLinkGoesDown(t *testing.T, path datapath.Name) {
	w := startWANs(t, path, "")
	calls := w.call()
	exchange(t, append(calls[0], calls[1]...)...)
	calm()
	must(t, w.Gateway.IPBatch(t.Context(), "link set wan2 down\n"))
	w.wantRevived(4)
	exchange(t, calls[0]...)
	must(t, w.Gateway.IPBatch(t.Context(), "link set wan2 up\nroute add 192.0.2.0/24 via 198.51.100.10 table 102\n"))
	exchange(t, append(calls[0], calls[1]...)...)
	w.wantCalls(4)
}
