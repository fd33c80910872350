package main

import (
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/explain"
)

// weighed are set-ups that the daemon alone cannot tell, and a look at the gateway can. The
// daemon is as the systemd unit has it, which loads no rules and knows of none.
var weighed = []setup{
	{name: "GRE dropped behind conntrack", want: "firewall-gre", text: "FORWARD -p gre", breaks: func(g *testGateway) {
		g.loadRules()
		s := g.server(lab.Behaviour{})
		call := callOn(g.t, g.client(0), 7)
		g.block(g.Gateway, "-I", "FORWARD", "-p", "gre")
		must(g.t, call.Send([]byte("dropped")))
		must(g.t, s.Send(0, []byte("dropped")))
	}},
	{name: "TCP 1723 blocked, after a call", want: "firewall-control", text: "--dport 1723", breaks: func(g *testGateway) {
		g.onceWell()
		g.block(g.Gateway, "-I", "FORWARD", "-p", "tcp", "--dport", "1723")
		g.tryDial()
	}},
	{name: "proxy on the gateway, after a call", want: "proxy", text: "REDIRECT", breaks: func(g *testGateway) {
		g.onceWell()
		must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "1723", "-j", "REDIRECT", "--to-ports", "8080"))
		g.tryDial()
	}},
	{name: "rules flushed", want: "rules_missing", text: "pptpalg rules load", breaks: func(g *testGateway) {
		g.server(lab.Behaviour{})
		callOn(g.t, g.client(0), 7)
	}},
	{name: "rules flushed, after a call", want: "rules_missing", text: "pptpalg rules load", breaks: func(g *testGateway) {
		g.onceWell()
		must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "mangle", "-F"))
		callOn(g.t, g.client(0), 7)
	}},
	{name: "all is well", want: "working", breaks: func(g *testGateway) {
		g.loadRules()
		g.server(lab.Behaviour{})
		exchange(g.t, callOn(g.t, g.client(0), 7))
	}},
}

// TestExplainLooksAtTheGateway has root ask, on the gateway.
func TestExplainLooksAtTheGateway(t *testing.T) {
	for _, s := range weighed {
		s.args = []string{"--rules", "none"}
		t.Run(s.name, func(t *testing.T) { s.test(t, datapath.Kernel) })
	}
}

// TestExplainElsewhere: the network of another place tells nothing of the gateway's. The daemon
// knows of its rules.
func TestExplainElsewhere(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.start("--rules", "none")
	code, stdout, stderr := pptpalg(t, "explain", "10.77.0.10", "--json", "--state-dir", g.state)
	var report explain.Report
	decode(t, stdout, &report)
	if code != 0 || report.Rules != "missing" || len(report.Causes) != 2 || report.Causes[1].Code != "never_seen" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

// onceWell has the client make a call that carries, and end it.
func (g *testGateway) onceWell() {
	g.t.Helper()
	g.loadRules()
	g.server(lab.Behaviour{})
	c := g.client(0)
	exchange(g.t, callOn(g.t, c, 7))
	must(g.t, c.Close())
}

func (g *testGateway) loadRules() {
	g.t.Helper()
	must(g.t, g.Gateway.Do(func() error {
		if code, _, stderr := pptpalg(g.t, "rules", "load", "--config", "", "--rules", "iptables", "--datapath", string(g.path)); code != 0 {
			g.t.Errorf("load rules: %s", stderr)
		}
		return nil
	}))
}
