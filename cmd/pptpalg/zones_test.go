package main

import (
	"fmt"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestZonesOfDirections: clients behind one public address whose connections are in conntrack zones, and use
// one Call ID towards one server. Their calls survive a flush and the daemon's death.
func TestZonesOfDirections(t *testing.T) { overDataPaths(t, testZonesOfDirections) }

func testZonesOfDirections(t *testing.T, path datapath.Name) {
	for _, tt := range []struct {
		name string
		zone func(client int) string // the rule for what a client sends, "" for none
		all  string                  // the rule for what anybody sends
	}{
		{"of the original direction", func(i int) string { return fmt.Sprintf("--zone-orig %d", 11+i) }, ""},
		{"of one client's original direction", func(i int) string { return []string{"--zone-orig 11", ""}[i] }, ""},
		{"of both directions", func(int) string { return "" }, "--zone 11"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := buildGateway(t, path, masquerade(2))
			zone := func(rule string, match ...string) {
				if rule != "" {
					args := append([]string{"-t", "raw", "-A", "PREROUTING"}, match...)
					must(t, g.Gateway.IPTables(t.Context(), append(args, "-j", "CT", rule[:len(rule)-3], rule[len(rule)-2:])...))
				}
			}
			zone(tt.all)
			for i, h := range g.Inside {
				zone(tt.zone(i), "-i", "lan", "-s", h.Addr.String())
			}
			g.start()
			s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
			clients := []*lab.Client{g.client(0), g.client(1)}
			calls := []*lab.Call{callOn(t, clients[0], 7), callOn(t, clients[1], 7)}
			exchange(t, calls...)
			g.flush()
			g.recovered(calls...)
			g.kill()
			g.start()
			g.recovered(calls...)
			must(t, s.Sessions()[0].Send(lab.NewEchoRequest(1)))
			_, err := clients[0].Expect(lab.EchoRequest, lab.Patience)
			must(t, err)
			for i, c := range clients {
				must(t, c.Control.Close())
				g.wantCalls(1 - i)
				g.wantEntriesOfCalls(2 - 2*i)
			}
		})
	}
}

// tenants makes the two inside hosts tenants with one address, each behind an interface and in a
// zone of its own. Packets find their way back by the mark of their connection.
func (g *testGateway) tenants() {
	g.t.Helper()
	same := g.Inside[0].Addr
	must(g.t, g.Gateway.IPBatch(g.t.Context(), `link set port-in1 nomaster
addr add 10.77.0.1/24 dev port-in1
route add 10.77.0.0/24 dev port-in1 table 102
rule add fwmark 2 lookup 102
`))
	must(g.t, g.Inside[1].IPBatch(g.t.Context(), fmt.Sprintf(`addr flush dev eth0
addr add %v/24 dev eth0
route add default via 10.77.0.1
`, same)))
	g.Inside[1].Addr = same
	for _, dev := range []string{"all", "port-in1", "lan"} {
		must(g.t, g.Gateway.SetSysctl("net.ipv4.conf."+dev+".rp_filter", "0"))
	}
	must(g.t, g.Gateway.IPTablesAdd(g.t.Context(), `*raw
-A PREROUTING -i lan -j CT --zone-orig 11
-A PREROUTING -i port-in1 -j CT --zone-orig 12
COMMIT
*mangle
-A PREROUTING -i port-in1 -j CONNMARK --set-mark 2
-A PREROUTING -j CONNMARK --restore-mark
COMMIT
*filter
-A FORWARD -i port-in1 -o wan -j ACCEPT
COMMIT
`))
}

// TestTenants: tenants with the same address use one Call ID towards one server, from different
// ports. (From one port only kernels can tell them apart that tell the zones of packets:
// cmd/vmtest.)
func TestTenants(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(2))
	g.tenants()
	g.start()
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	var calls []*lab.Call
	for i, h := range g.Inside {
		must(t, h.SetSysctl("net.ipv4.ip_local_port_range", fmt.Sprintf("%d %d", 20000+1000*i, 20999+1000*i)))
		calls = append(calls, callOn(t, clientOn(t, h, s.Host.Addr), 7))
	}
	exchange(t, calls...)
	g.wantCalls(2)
	g.wantEntries(4)
	g.flush()
	g.recovered(calls...)
	g.kill()
	g.start()
	g.recovered(calls...)
}
