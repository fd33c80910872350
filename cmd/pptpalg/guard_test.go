package main

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/rules/iptables"
)

// useIPTables has "iptables" be one of its two backends, for the lab and the daemon.
func useIPTables(t *testing.T, backend string) {
	t.Helper()
	dir := t.TempDir()
	for _, suffix := range []string{"", "-restore", "-save"} {
		program, err := exec.LookPath(backend + suffix)
		must(t, err)
		must(t, os.Symlink(program, filepath.Join(dir, "iptables"+suffix)))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestRulesComeBack: what others remove of the rules is loaded again, counted and logged, and
// new calls are edited.
func TestRulesComeBack(t *testing.T) {
	wipes := map[string]string{
		"flush":            "iptables -t mangle -F",
		"jump removed":     "iptables -t mangle -D PREROUTING -p tcp -j " + iptables.Chain,
		"restored by file": `printf '*mangle\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n' | iptables-restore`,
	}
	for _, backend := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(backend, func(t *testing.T) {
			useIPTables(t, backend)
			g := startGateway(t, datapath.Kernel, masquerade(2), "--rules", "iptables")
			g.server(lab.Behaviour{})
			n := 0
			for name, wipe := range wipes {
				n++
				_, err := g.Gateway.Run(t.Context(), "sh", "-c", wipe)
				must(t, err)
				back := func() bool {
					return g.metric("pptpalg_rules_lost_total") == string(rune('0'+n)) && g.metric("pptpalg_rules_loaded") == "1"
				}
				if err := lab.Poll(lab.Patience, back); err != nil {
					t.Fatalf("%s: the rules do not come back: %s", name, g.log)
				}
			}
			for _, want := range []string{"another program has removed", "are loaded again"} {
				if !strings.Contains(g.log.String(), want) {
					t.Errorf("the log does not say %q: %s", want, g.log)
				}
			}
			calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
			exchange(t, calls...)
			g.stop()
		})
	}
}

// TestRulesComeFirst: where the daemon translates GRE, a rule that others put before its own and
// that drops GRE does not stay there. Calls go on.
func TestRulesComeFirst(t *testing.T) {
	for _, tt := range []struct{ rules, backend string }{{"nft", "iptables-nft"}, {"iptables", "iptables-nft"}, {"iptables", "iptables-legacy"}} {
		t.Run(tt.rules+" "+tt.backend, func(t *testing.T) {
			useIPTables(t, tt.backend)
			g := startGateway(t, datapath.Queue, masquerade(1), "--rules", tt.rules)
			g.server(lab.Behaviour{})
			call := callOn(t, g.client(0), 7)
			exchange(t, call)
			for _, rule := range []string{"-p udp -j DROP", "-p gre -j DROP"} {
				must(t, g.Gateway.IPTables(t.Context(), append([]string{"-I", "FORWARD"}, strings.Fields(rule)...)...))
			}
			back := func() bool {
				return g.metric("pptpalg_rules_lost_total") == "1" && g.metric("pptpalg_rules_loaded") == "1"
			}
			if err := lab.Poll(lab.Patience, back); err != nil {
				t.Fatalf("the rules do not come first again: %s", g.log)
			}
			exchange(t, call)
			g.stop()
		})
	}
}

// TestRulesOfOthersAreMissed: a daemon that does not load its rules says when nobody else does.
func TestRulesOfOthersAreMissed(t *testing.T) {
	for _, backend := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(backend, func(t *testing.T) {
			useIPTables(t, backend)
			g := startGateway(t, datapath.Kernel, masquerade(1), "--rules", "none")
			is := func(loaded, ready string) {
				t.Helper()
				want := func() bool { return g.metric("pptpalg_rules_loaded") == loaded && g.metric("pptpalg_ready") == ready }
				if err := lab.Poll(lab.Patience, want); err != nil {
					t.Fatalf("loaded %s, ready %s, want %s and %s: %s", g.metric("pptpalg_rules_loaded"), g.metric("pptpalg_ready"), loaded, ready, g.log)
				}
			}
			is("0", "0")
			if code := g.get("/-/ready"); code != http.StatusServiceUnavailable {
				t.Errorf("/-/ready replies %d", code)
			}
			must(t, g.Gateway.Do(func() error {
				if code, _, stderr := pptpalg(t, "rules", "load", "--config", "", "--datapath", "kernel", "--rules", "iptables"); code != 0 {
					return errors.New(stderr)
				}
				return nil
			}))
			is("1", "1")
			must(t, g.Gateway.IPTables(t.Context(), "-t", "mangle", "-F"))
			is("0", "0")
			g.stop()
		})
	}
}
