package main

import (
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestTooBigIsExplained: what routers say of packets that are larger than an MTU is named as the
// call's cause, with the router, the size and the MTU, whoever translates. What somebody says of
// packets that are no call's is not.
func TestTooBigIsExplained(t *testing.T) {
	overDataPaths(t, func(t *testing.T, path datapath.Name) { testTooBigIsExplained(t, path) })
}

func TestTooBigByIPTables(t *testing.T) {
	t.Parallel()
	testTooBigIsExplained(t, datapath.Kernel, "--rules", "iptables")
}

func testTooBigIsExplained(t *testing.T, path datapath.Name, args ...string) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, Firewall: true}, args...)
	s := g.server(lab.Behaviour{})
	exchange(t, callOn(t, g.client(1), 7))
	client := g.client(0)
	call := callOn(t, client, 7)
	exchange(t, call)
	router, inside := openICMP(t, g.Outside[1]), openICMP(t, client.Host)
	beyond := lab.TooBig{Dst: lab.GatewayPublic, MTU: 1400, QuotSrc: lab.GatewayPublic, QuotDst: s.Host.Addr, QuotCallID: call.Peer + 100}
	must(t, router.Send(beyond)) // no call has the ID
	beyond.QuotCallID = call.Peer
	must(t, router.Send(beyond))
	text := g.wantFirst("mtu")
	for _, want := range []string{"packets to " + s.Host.Addr.String() + " that are larger", g.Outside[1].Addr.String() + " has sent the ICMP error", "(heard once", "1400 bytes", "PPP to 1358 or less"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, text)
		}
	}
	must(t, inside.Send(lab.TooBig{Dst: s.Host.Addr, MTU: 1300, QuotSrc: s.Host.Addr, QuotDst: client.Host.Addr, QuotCallID: 7}))
	if lab.Poll(lab.Patience, func() bool {
		_, text, _ = g.explain()
		return strings.Contains(text, "packets to "+client.Host.Addr.String()+" that are larger") && strings.Contains(text, "1300 bytes")
	}) != nil {
		t.Errorf("the client's own error is not told:\n%s", text)
	}
	if got := g.metric("pptpalg_fragmentation_needed_total"); got != "2" {
		t.Errorf("%s errors are counted, want 2", got)
	}
	exchange(t, call)
}
