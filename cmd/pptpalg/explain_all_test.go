package main

import (
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// explainAll runs "pptpalg explain --all" on the gateway.
func (g *testGateway) explainAll() (code int, stdout string) {
	g.t.Helper()
	must(g.t, g.Gateway.Do(func() error {
		code, stdout, _ = pptpalg(g.t, "explain", "--all", "--state-dir", g.state)
		return nil
	}))
	return code, stdout
}

// TestExplainAll: of three clients one works, one gets no GRE, and one dials a server that is
// not there.
func TestExplainAll(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, lab.Options{Inside: 3, Outside: 2, Masquerade: true})
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	if code, text := g.explainAll(); code != 0 || text != "no client has trouble\n" {
		t.Errorf("at first: exit %d: %s", code, text)
	}
	g.server(lab.Behaviour{})
	exchange(t, callOn(t, g.client(0), 7))
	call := callOn(t, g.client(1), 7)
	g.block(g.Outside[0], "-A", "OUTPUT", "-p", "gre")
	g.block(g.Outside[1], "-A", "INPUT", "-p", "tcp", "--dport", "1723")
	must(t, call.Send([]byte("nobody answers")))
	inVain(t, g.Inside[2], g.Outside[1])
	var code int
	var text string
	err := lab.Poll(lab.Patience, func() bool {
		code, text = g.explainAll()
		return code == 1 && strings.Contains(text, "(no_gre_from_server)") && strings.Contains(text, "(server_no_answer)")
	})
	lines := strings.Split(text, "\n")
	if err != nil || len(lines) < 4 || !strings.HasPrefix(lines[0], "10.77.0.11 (now): ") || !strings.HasPrefix(lines[2], "10.77.0.12 (now): ") || strings.Contains(text, "10.77.0.10") {
		t.Errorf("exit %d:\n%s", code, text)
	}
}

// TestExplainMTU: what is too large for the way out and must not be fragmented is named.
func TestExplainMTU(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	_, err := g.Gateway.Run(t.Context(), "ip", "link", "set", "wan", "mtu", "1400")
	must(t, err)
	must(t, g.client(0).GRE.Send(lab.Packet{Dst: g.Outside[0].Addr, CallID: call.Peer, Seq: new(uint32(9)), Whole: true, Payload: make([]byte, 1440)}))
	var text string
	if lab.Poll(lab.Patience, func() bool {
		_, text, _ = g.explain()
		return strings.HasPrefix(text, "1. packets are larger than the MTU") && strings.Contains(text, "over wan, whose MTU is 1400 bytes")
	}) != nil {
		t.Errorf("explained as:\n%s", text)
	}
}
