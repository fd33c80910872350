package main

import (
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// wantFirst waits until explain says this first of the first client.
func (g *testGateway) wantFirst(code string) (text string) {
	g.t.Helper()
	if lab.Poll(lab.Patience, func() bool {
		_, text, _ = g.explain()
		first, _, _ := strings.Cut(text, "\n")
		return strings.HasSuffix(first, "("+code+")")
	}) != nil {
		g.t.Errorf("%s is not first:\n%s", code, text)
	}
	return text
}

// TestExplainBesideACall: what is wrong with one call, or with what the client dials now, comes before a call that works.
func TestExplainBesideACall(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, lab.Options{Inside: 1, Outside: 3, Masquerade: true})
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	g.server(lab.Behaviour{})
	serverOn(t, g.Outside[1], lab.Behaviour{})
	silent := callOn(t, g.client(0), 7)
	g.block(g.Outside[0], "-A", "OUTPUT", "-p", "gre")
	must(t, silent.Send([]byte("nobody answers")))
	exchange(t, callOn(t, clientOn(t, g.Inside[0], g.Outside[1].Addr), 8))
	text := g.wantFirst("no_gre_from_server")
	if !strings.Contains(text, "call 1 to 203.0.113.10 is up") || !strings.Contains(text, "call 2 to 203.0.113.11 is up, and GRE arrives") {
		t.Errorf("explained as:\n%s", text)
	}
	must(t, silent.Clear())
	g.wantFirst("working")
	g.block(g.Outside[2], "-A", "INPUT", "-p", "tcp", "--dport", "1723")
	inVain(t, g.Inside[0], g.Outside[2])
	g.wantFirst("server_no_answer")
	if code, all := g.explainAll(); code != 1 || !strings.Contains(all, "10.77.0.10") {
		t.Errorf("exit %d:\n%s", code, all)
	}
}

// TestExplainAfterRestart: a connection of which a new daemon has seen nothing yet is no trouble.
func TestExplainAfterRestart(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.start()
	g.server(lab.Behaviour{})
	c := g.client(0)
	g.wantFirst("no_call")
	g.stop()
	g.start()
	g.wantFirst("older_than_daemon")
	if code, all := g.explainAll(); code != 0 {
		t.Errorf("exit %d:\n%s", code, all)
	}
	must(t, c.Send(lab.NewEchoRequest(1)))
	g.wantFirst("no_call")
}

// TestExplainAllOfNobody: what concerns all clients is no client's.
func TestExplainAllOfNobody(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.start("--rules", "nft")
	for range 5 {
		if g.hasRules() {
			g.Gateway.Run(t.Context(), "nft", "delete", "table", "ip", "pptpalg")
		}
		must(t, lab.Poll(lab.Patience, g.hasRules))
	}
	if code, all := g.explainAll(); code != 0 || strings.Contains(all, "invalid") {
		t.Errorf("exit %d:\n%s", code, all)
	}
}
