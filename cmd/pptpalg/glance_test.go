package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/schema"
	"pptpalg/cmd/pptpalg/internal/status"
)

// glance runs "pptpalg status" on the gateway.
func (g *testGateway) glance(args ...string) (code int, stdout string) {
	g.t.Helper()
	must(g.t, g.Gateway.Do(func() error {
		code, stdout, _ = pptpalg(g.t, append([]string{"status", "--state-dir", g.state, "--config", ""}, args...)...)
		return nil
	}))
	return code, stdout
}

// TestStatus breaks a gateway, and has the first line name what is broken.
func TestStatus(t *testing.T) {
	tests := []struct {
		name  string
		args  []string
		code  int
		first string // in the first line
		other string // in the others
		do    func(g *testGateway)
	}{
		{name: "all is well", first: "OK: all is well", other: "calls       1: 1 established\n", do: func(g *testGateway) {
			g.server(lab.Behaviour{})
			exchange(g.t, callOn(g.t, g.client(0), 7))
		}},
		{name: "stopped", code: 3, first: "STOPPED: no daemon is running", other: "-> systemctl start pptpalg", do: func(g *testGateway) { g.stop() }},
		{name: "rules missing", args: []string{"--rules", "none"}, code: 1, first: "PROBLEM: no firewall rule sends control connections to the daemon's queue", other: "-> pptpalg rules load", do: func(*testGateway) {}},
		{name: "no NAT", code: 1, first: "PROBLEM: no rule translates addresses: clients behind this gateway have no public address", other: "-> iptables -t nat -A POSTROUTING", do: func(g *testGateway) {
			must(g.t, g.Gateway.IPTables(g.t.Context(), "-t", "nat", "-F"))
			must(g.t, g.Gateway.IPTables(g.t.Context(), "-P", "FORWARD", "ACCEPT"))
		}},
		{name: "GRE blocked here", code: 1, first: "PROBLEM: ", other: "FORWARD", do: func(g *testGateway) { g.block(g.Gateway, "-I", "FORWARD", "-p", "gre") }},
		{name: "GRE blocked beyond", code: 1, first: `PROBLEM: 1 call carries traffic one way only: no GRE arrives from 203.0.113.10 for 10.77.0.10; "pptpalg explain 10.77.0.10" says why`, other: "calls       1: 1 one-way\n", do: func(g *testGateway) {
			g.server(lab.Behaviour{})
			call := callOn(g.t, g.client(0), 7)
			g.block(g.Outside[0], "-A", "OUTPUT", "-p", "gre")
			for range 3 {
				must(g.t, call.Send([]byte("nobody answers")))
			}
			g.wantCarries("one_way", "one-way")
		}},
		{name: "helper", code: 1, first: "helper", do: func(g *testGateway) { must(g.t, g.AttachKernelHelper(g.t.Context())) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := buildGateway(t, datapath.Kernel, masquerade(1))
			must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
			g.start(tt.args...)
			if len(tt.args) > 0 {
				must(t, lab.Poll(lab.Patience, func() bool { return g.metric("pptpalg_ready") == "0" }))
			}
			tt.do(g)
			code, text := g.glance()
			first, rest, _ := strings.Cut(text, "\n")
			if code != tt.code || !strings.Contains(first, tt.first) || !strings.Contains(text, tt.other) {
				t.Errorf("exit %d:\n%s", code, text)
			}
			if tt.code != 3 && !strings.Contains(rest, "\nrules       ") {
				t.Errorf("nothing of the rules:\n%s", text)
			}
			_, printed := g.glance("--json", "--check=false")
			keeps(t, "status", printed)
			var r statusReport
			if err := json.Unmarshal([]byte(printed), &r); err != nil || r.Checked || (r.Daemon == nil) != (tt.code == 3) {
				t.Errorf("as JSON: %v: %s", err, printed)
			}
		})
	}
}

// TestStatusOfContestedRules: loading the rules does not help while another program keeps
// removing them, and a check at another moment proves nothing.
func TestStatusOfContestedRules(t *testing.T) {
	const missing = "the firewall rules are missing: another program keeps removing them"
	lost := check.Finding{Check: "daemon", Result: check.Problem, Found: "the daemon runs, but no rule sends it control connections", Remedy: "pptpalg rules load"}
	nat := check.Finding{Check: "nat", Result: check.Problem, Found: "no NAT", Remedy: "iptables"}
	good := check.Finding{Check: "daemon", Result: check.OK}
	gone, there := status.Rules{Contested: true}, status.Rules{Contested: true, Loaded: true}
	for _, tt := range []struct {
		name     string
		rules    status.Rules
		problems []string
		found    check.Findings
		want     string // the first lines
		checked  string
	}{
		{"gone", gone, []string{missing}, check.Findings{lost}, "PROBLEM: " + missing + "\n  -> " + findRemover + "\n\n", "1 problem: see above"},
		{"gone, but not when it was checked", gone, []string{missing}, check.Findings{good}, "PROBLEM: " + missing + "\n  -> " + findRemover + "\n\n", "no other problem found"},
		{"gone, not checked", gone, []string{missing}, nil, "PROBLEM: " + missing + "\n  -> " + findRemover + "\n\n", "not run"},
		{"there", there, []string{status.Contested}, check.Findings{good}, "PROBLEM: " + status.Contested + "\n  -> " + findRemover + "\n\n", "no other problem found"},
		{"there, but not when it was checked", there, []string{status.Contested}, check.Findings{nat, lost}, "PROBLEM: " + status.Contested + "\n  -> " + findRemover + "\nalso: no NAT\n  -> iptables\n\n", "2 problems: see above"},
		{"there, and something else keeps it from its work", there, []string{"no cluster", status.Contested}, check.Findings{good}, "PROBLEM: no cluster\nalso: " + status.Contested + "\n  -> " + findRemover + "\n\n", "no other problem found"},
		{"gone, and something else keeps it from its work", gone, []string{"no cluster", status.Contested}, check.Findings{lost}, "PROBLEM: no cluster\nalso: " + status.Contested + "\n  -> " + findRemover + "\n\n", "1 problem: see above"},
		{"missing for once", status.Rules{}, []string{"missing"}, check.Findings{lost}, "PROBLEM: missing\n  -> pptpalg rules load\n\n", "1 problem: see above"},
		{"well", status.Rules{Loaded: true}, nil, check.Findings{good}, "OK: all is well\n\n", "no problem found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := statusReport{State: stateOK, Daemon: &status.Status{Healthy: true, Ready: len(tt.problems) == 0 || tt.problems[0] == status.Contested, Rules: tt.rules, Problems: tt.problems}}
			r.take(*r.Daemon, tt.found)
			var b strings.Builder
			must(t, r.print(&b, terminal{}, noon))
			if _, checked, _ := strings.Cut(b.String(), "\ncheck      "); !strings.HasPrefix(b.String(), tt.want) || !strings.HasPrefix(strings.TrimSpace(checked), tt.checked) {
				t.Errorf("got\n%s\nwant\n%s%s", &b, tt.want, tt.checked)
			}
		})
	}
}

// TestStatusLines: each line in each of its forms.
func TestStatusLines(t *testing.T) {
	since := schema.At(noon.Add(-3 * time.Hour))
	st := status.Status{
		Version: "v1", DataPath: "kernel", Rules: status.Rules{By: "iptables", Loaded: true, Since: since},
		FastPath: status.FastPath{Mode: "auto", XDP: 1, TC: 2, Missing: 1}, Cluster: &status.Cluster{Name: "a", State: "ok", Gateways: 2},
		LastError: &status.LogLine{Time: schema.At(noon.Add(-time.Minute)), Text: "journal err=full"},
		Sums: &status.Sums{
			Started: schema.At(noon.Add(-26 * time.Hour)), Calls: status.Count{All: 9, Requested: 1, Established: 8, OneWay: 2, Silent: 1, Counted: 8},
			Rate: &admin.Traffic{Packets: 1000, Bytes: 1_200_000}, CallIDSpace: 0.5, TableUsed: 0.001, CallsUsed: 0.9, Unedited: 3,
		},
	}
	var got strings.Builder
	for _, l := range statusLines(&st, noon) {
		got.WriteString(l[0] + ": " + l[1] + "\n")
	}
	want := `version: v1, running for 1d2h
rules: loaded by the daemon, with iptables, for 3h
data path: kernel; fast path on 1 interface by XDP and 2 by tc, missing on 1
cluster: a: 2 gateways, ok
calls: 9: 2 one-way, 1 silent, 5 established, 1 requested
traffic: 1000p/s 1.2MB/s, both ways
limits: in use: calls 90 %, control connections 0 %, Call IDs 50 %, conntrack table <1 %; 3 requests beyond a limit passed unedited
last error: 1m ago: journal err=full
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", &got, want)
	}
}
