package main

import (
	"fmt"
	"slices"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// The addresses that stay with gateways a and b.
var (
	insideOf  = [2]string{"10.77.0.2", "10.77.0.3"}
	outsideOf = [2]string{"203.0.113.2", "203.0.113.3"}
)

// spread has both gateways have the public address, as behind a router that spreads packets over them.
// Each translates to its half of the ports. Host i of the inside sends by gateway i, and the server sends TCP back
// the same way. GRE, which has no ports, it sends by gateway a.
func (c *cluster) spread() {
	t, ctx := c.a.t, c.a.t.Context()
	t.Helper()
	must(t, c.b.Gateway.IPBatch(ctx, fmt.Sprintf("addr add %v/24 dev wan\n", lab.GatewayPublic)))
	for i, g := range []*testGateway{c.a, c.b} {
		ports := [2]string{":1024-32767", ":32768-65534"}[i]
		must(t, g.Gateway.IPTables(ctx, "-t", "nat", "-F", "POSTROUTING"))
		for _, rule := range [][]string{{"-p", "tcp", "-j", "SNAT", "--to-source", lab.GatewayPublic.String() + ports}, {"-j", "SNAT", "--to-source", lab.GatewayPublic.String()}} {
			must(t, g.Gateway.IPTables(ctx, append([]string{"-t", "nat", "-A", "POSTROUTING", "-s", lab.LAN.String(), "-o", "wan"}, rule...)...))
		}
		c.by(i, g.Inside[i])
	}
	must(t, c.a.Outside[0].IPBatch(ctx, fmt.Sprintf("route add %[1]v/32 via %[2]s\nroute add %[1]v/32 via %[3]s table 100\nrule add to %[1]v ipproto tcp dport 32768-65534 lookup 100\n",
		lab.GatewayPublic, outsideOf[0], outsideOf[1])))
}

// by has an inside host send by a gateway.
func (c *cluster) by(gateway int, h *lab.Host) {
	c.a.t.Helper()
	must(c.a.t, h.IPBatch(c.a.t.Context(), fmt.Sprintf("route replace default via %s\n", insideOf[gateway])))
}

// TestOneAddressOnTwoGateways: both gateways have one public address. Each sets up calls without asking the
// other one. GRE goes by one and comes back by the other. A control connection that comes to the
// wrong gateway is named. When a gateway dies, the other one goes on with its calls.
func TestOneAddressOnTwoGateways(t *testing.T) { overDataPaths(t, testOneAddressOnTwoGateways) }

func testOneAddressOnTwoGateways(t *testing.T, path datapath.Name) {
	c := buildCluster(t, path, 2)
	a, b, ctx := c.a, c.b, t.Context()
	c.spread()
	a.start(clusterFlags("a", "--cluster-share", "1/2")...)
	b.start(clusterFlags("b", "--cluster-share", "2/2")...)
	s := a.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(1000)})
	var all []*lab.Call
	for own := range 3 {
		for i := range 2 {
			all = append(all, callOn(t, a.client(i), 7+pptp.CallID(own)))
			if seen := s.Calls(); int(seen[len(seen)-1].Peer)&1 != i {
				t.Errorf("call %d of host %d has public ID %v", own, i, seen[len(seen)-1].Peer)
			}
		}
	}
	for _, g := range []*testGateway{a, b} {
		g.wantCalls(6)
		g.wantEntries(12)
	}
	for _, by := range outsideOf {
		must(t, a.Outside[0].IPBatch(ctx, fmt.Sprintf("route replace %v/32 via %s table 101\nrule add to %v ipproto gre lookup 101\n", lab.GatewayPublic, by, lab.GatewayPublic)))
		for range 30 {
			exchange(t, all...)
		}
	}
	wantEcho(t, all[0].Client(), 1)
	wantEcho(t, all[0].Client(), 2)
	wantCleared(t, all[1])

	client := all[0].Client()
	c.by(1, client.Host)
	must(t, client.Send(lab.NewEchoRequest(3)))
	named := func() bool { st := b.status(); return len(st.Astray) == 1 && st.Astray[0].Owner == "a" }
	if err := lab.Poll(lab.Patience, named); err != nil || b.metric("pptpalg_cluster_astray_total") != "1" {
		t.Errorf("%v: %+v, %q are counted", err, b.status().Astray, b.metric("pptpalg_cluster_astray_total"))
	}
	c.by(0, client.Host)
	if m, err := client.Expect(lab.EchoReply, lab.Patience); err != nil || m.Identifier != 3 {
		t.Errorf("the connection is back at its gateway: %v, %v", m, err)
	}

	a.wantWritten()
	must(t, a.Cut(ctx, a.Gateway))
	c.by(1, client.Host)
	must(t, a.Outside[0].IPBatch(ctx, fmt.Sprintf("route replace %v/32 via %s\n", lab.GatewayPublic, outsideOf[1])))
	exchange(t, all[0], all[2], all[3])
	gone := func() bool {
		return !slices.ContainsFunc(b.status().Members, func(m admin.ClusterMember) bool { return m.Name == "a" })
	}
	must(t, lab.Poll(2*lab.Patience, gone))
	wantEcho(t, client, 4)
	wantEcho(t, client, 5)
	wantCleared(t, all[0])
	callOn(t, client, 17)
	if n := len(s.Unmatched()); n > 0 {
		t.Errorf("%d packets are for no call: %v", n, s.Unmatched())
	}
}
