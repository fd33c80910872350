package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/daemon"
	"pptpalg/cmd/pptpalg/internal/preflight"
)

// finding is what check prints of one, as JSON.
type finding struct {
	Check, Result, Found, Remedy string
}

// check runs pptpalg check on the gateway and returns its exit code and what it found.
func (g *gateway) check(args ...string) (code int, found map[string]finding) {
	g.t.Helper()
	var stdout string
	must(g.t, g.Gateway.Do(func() error {
		code, stdout, _ = pptpalg(g.t, append([]string{"check", "--json", "--state-dir", g.state}, args...)...)
		return nil
	}))
	return code, byName(g.t, stdout)
}

func byName(t *testing.T, stdout string) map[string]finding {
	t.Helper()
	var all []finding
	decode(t, stdout, &all)
	found := map[string]finding{}
	for _, f := range all {
		found[f.Check] = f
	}
	return found
}

func wantFinding(t *testing.T, f finding, result preflight.Result, text string) {
	t.Helper()
	if f.Result != result.String() || !strings.Contains(f.Found, text) {
		t.Errorf("%+v, want %v: …%s…", f, result, text)
	}
}

// TestCheck follows a gateway from before the daemon's start to its end, and breaks it.
func TestCheck(t *testing.T) {
	g := buildGateway(t, daemon.InKernel, masquerade(1))
	code, found := g.check()
	wantFinding(t, found["daemon"], preflight.Warning, "no daemon is running")
	if code != 0 {
		t.Errorf("before the start: exit code %d, %+v", code, found)
	}

	g.start()
	code, found = g.check()
	wantFinding(t, found["daemon"], preflight.OK, "the daemon runs, and its rules are loaded")
	wantFinding(t, found["queue-owner"], preflight.OK, "queue 1723 is the running daemon's")
	if code != 0 {
		t.Errorf("with the daemon: exit code %d, %+v", code, found)
	}
	code, found = g.check("--queue", "9")
	wantFinding(t, found["queue-owner"], preflight.Problem, "nobody has queue 9")
	if code != 1 {
		t.Errorf("with another queue: exit code %d", code)
	}

	must(t, g.Gateway.IPTables(t.Context(), "-t", "mangle", "-D", "PREROUTING", "-p", "tcp", "-j", "PPTPALG"))
	code, found = g.check()
	wantFinding(t, found["daemon"], preflight.Problem, "no rule sends it control connections")
	if code != 1 {
		t.Errorf("without rules: exit code %d", code)
	}

	g.kill()
	g.start() // loads them
	g.kill()
	code, found = g.check()
	wantFinding(t, found["daemon"], preflight.Warning, "control connections pass unedited")
	if code != 0 {
		t.Errorf("without the daemon: exit code %d", code)
	}
}

// TestCheckDataPathQueue: the daemon's own rules for GRE are no trouble of the firewall's.
func TestCheckDataPathQueue(t *testing.T) {
	g := startGateway(t, daemon.InDaemon, masquerade(1))
	code, found := g.check()
	for _, f := range found {
		if f.Result != preflight.OK.String() && f.Check != "accounting" {
			t.Errorf("%+v", f)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestCheckFindsWhatBreaksCalls: a call carries nothing, the check says why, and once
// mended as it says, the call carries.
func TestCheckFindsWhatBreaksCalls(t *testing.T) {
	tests := []struct{ name, check, rule string }{
		{"GRE dropped", "firewall-gre", "-t filter -I FORWARD -p gre -j DROP"},
		{"GRE dropped on one side", "firewall-gre", "-t filter -I FORWARD -i wan -p gre -j DROP"},
		{"GRE not tracked", "tracking", "-t raw -I PREROUTING -p gre -j CT --notrack"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := startGateway(t, daemon.InKernel, masquerade(1))
			s := g.server(lab.Behaviour{})
			must(t, g.Gateway.IPTables(t.Context(), strings.Fields(tt.rule)...))
			call := callOn(t, clientOn(t, g.Inside[0], s.Host.Addr), 5)
			if call.Exchange([]byte("x"), silence) == nil {
				t.Fatal("the call carries nevertheless")
			}
			_, found := g.check()
			f := found[tt.check]
			if f.Result == preflight.OK.String() {
				t.Fatalf("%+v", f)
			}
			_, err := g.Gateway.Run(t.Context(), "sh", "-c", f.Remedy)
			must(t, err)
			must(t, call.Exchange([]byte("y"), lab.Patience))
		})
	}
}

// TestCheckWithoutRights has a process without any capability check: what it cannot read it
// says so.
func TestCheckWithoutRights(t *testing.T) {
	g := buildGateway(t, daemon.InKernel, masquerade(1))
	cmd, err := g.Gateway.Command(t.Context(), "setpriv", "--bounding-set=-all", "--inh-caps=-all", os.Args[0], "check", "--json")
	must(t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stdout []byte
	must(t, g.Gateway.Do(func() error {
		stdout, err = cmd.Output()
		return nil
	}))
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v: %s", err, stdout)
	}
	found := byName(t, string(stdout))
	wantFinding(t, found["rights"], preflight.Problem, "CAP_NET_ADMIN is missing")
	wantFinding(t, found["nfqueue"], preflight.Problem, "operation not permitted")
	wantFinding(t, found["conntrack"], preflight.Problem, "operation not permitted")
	wantFinding(t, found["gre-translation"], preflight.Unchecked, "operation not permitted")
	wantFinding(t, found["firewall-gre"], preflight.Unchecked, "iptables-save")
	wantFinding(t, found["ip-forward"], preflight.OK, "")
}

// TestExitCode has each of the codes that the help tells of.
func TestExitCode(t *testing.T) {
	tests := []struct {
		results []preflight.Result
		code    int
	}{
		{[]preflight.Result{preflight.OK, preflight.Warning}, 0},
		{[]preflight.Result{preflight.Problem, preflight.Unchecked}, 1},
		{[]preflight.Result{preflight.Unchecked}, 2},
	}
	for _, tt := range tests {
		var found preflight.Findings
		for _, r := range tt.results {
			found = append(found, preflight.Finding{Result: r})
		}
		code := 0
		if err := verdict(found); err != nil {
			code = exitCode(fmt.Errorf("wrapped: %w", err))
		}
		if code != tt.code {
			t.Errorf("%v: code %d, want %d", tt.results, code, tt.code)
		}
	}
	if code := exitCode(os.ErrClosed); code != 1 {
		t.Errorf("of any error: %d", code)
	}
}

// TestCheckText is what people read.
func TestCheckText(t *testing.T) {
	g := buildGateway(t, daemon.InKernel, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.ipv4.ip_forward", "0"))
	var code int
	var stdout, stderr string
	must(t, g.Gateway.Do(func() error {
		code, stdout, stderr = pptpalg(t, "check", "--state-dir", g.state)
		return nil
	}))
	if code != 1 || !strings.Contains(stdout, "-> sysctl -w net.ipv4.ip_forward=1") || !strings.Contains(stderr, "check: problems 1, unchecked 0, warnings 2") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	t.Log(stdout)
}
