package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// finding is what check prints of one, as JSON.
type finding struct {
	Check, Result, Found, Remedy string
}

// check runs pptpalg check on the gateway and returns its exit code and what it found.
func (g *testGateway) check(args ...string) (code int, found map[string]finding) {
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
	keeps(t, "check", stdout)
	found := map[string]finding{}
	for _, f := range all {
		found[f.Check] = f
	}
	return found
}

// programs has the commands that remedies are made of: this program, and stand-ins for what
// is not here. It returns a file that has a line for each restart.
func programs(t *testing.T) (restarts string) {
	t.Helper()
	dir := t.TempDir()
	restarts = filepath.Join(dir, "restarts")
	for name, text := range map[string]string{
		"pptpalg":   asProgram + "=1 exec " + os.Args[0] + ` "$@"`,
		"systemctl": `echo "$@" >> ` + restarts,
		"sudo":      `exec "$@"`,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return restarts
}

// mend carries out a remedy on the gateway.
func (g *testGateway) mend(f finding) {
	g.t.Helper()
	if f.Result == check.OK.String() {
		g.t.Fatalf("nothing is found: %+v", f)
	}
	if _, err := g.Gateway.Run(g.t.Context(), "sh", "-ec", f.Remedy); err != nil {
		g.t.Fatalf("%+v: %v", f, err)
	}
}

func wantFinding(t *testing.T, f finding, result check.Result, text string) {
	t.Helper()
	if f.Result != result.String() || !strings.Contains(f.Found, text) {
		t.Errorf("%+v, want %v: …%s…", f, result, text)
	}
}

// TestCheck follows a gateway from before the daemon's start to its end, and breaks it.
func TestCheck(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	code, found := g.check()
	wantFinding(t, found["daemon"], check.Warning, "no daemon is running")
	if code != 0 {
		t.Errorf("before the start: exit code %d, %+v", code, found)
	}

	g.start("--rules", "none") // it would load again what is removed
	g.loadRules()
	code, found = g.check()
	wantFinding(t, found["daemon"], check.OK, "the daemon runs, and its rules are loaded")
	wantFinding(t, found["queue-owner"], check.OK, "queue 1723 is bound by the running daemon")
	if code != 0 {
		t.Errorf("with the daemon: exit code %d, %+v", code, found)
	}
	code, found = g.check("--queue", "9")
	wantFinding(t, found["queue-owner"], check.Problem, "queue 9 is not bound")
	if code != 1 {
		t.Errorf("with another queue: exit code %d", code)
	}

	must(t, g.Gateway.IPTables(t.Context(), "-t", "mangle", "-D", "PREROUTING", "-p", "tcp", "-j", "PPTPALG"))
	code, found = g.check()
	wantFinding(t, found["daemon"], check.Problem, "no rule sends it control connections")
	if code != 1 {
		t.Errorf("without rules: exit code %d", code)
	}

	g.kill()
	g.start() // loads them
	g.kill()
	code, found = g.check()
	wantFinding(t, found["daemon"], check.Warning, "control connections pass unedited")
	if code != 0 {
		t.Errorf("without the daemon: exit code %d", code)
	}
}

// TestCheckCleanGateway: the daemon's own rules are no trouble of the firewall's, whoever
// loads them, and check names who does.
func TestCheckCleanGateway(t *testing.T) {
	for _, path := range []datapath.Name{datapath.Kernel, datapath.Queue} {
		for loader, want := range map[string]string{"auto": "nftables", "nft": "nftables", "iptables": "iptables"} {
			t.Run(string(path)+" by "+loader, func(t *testing.T) {
				g := startGateway(t, path, masquerade(1), "--rules", loader)
				code, found := g.check()
				for _, f := range found {
					if f.Result != check.OK.String() && f.Check != "accounting" {
						t.Errorf("%+v", f)
					}
				}
				wantFinding(t, found["rules"], check.OK, want+" and the kernel accept the daemon's rules")
				wantFinding(t, found["daemon"], check.OK, "the daemon runs, and its rules are loaded")
				if code != 0 {
					t.Errorf("exit code %d", code)
				}
			})
		}
	}
}

// TestCheckAcceptedBefore: what iptables accepts early keeps packets from the rules that
// iptables loads, and not from those of nftables.
func TestCheckAcceptedBefore(t *testing.T) {
	programs(t)
	for loader, want := range map[string]check.Result{"auto": check.OK, "iptables": check.Problem} {
		t.Run(loader, func(t *testing.T) {
			g := startGateway(t, datapath.Kernel, masquerade(1), "--rules", loader)
			must(t, g.Gateway.IPTables(t.Context(), "-t", "mangle", "-I", "PREROUTING", "-p", "tcp", "-j", "ACCEPT"))
			_, found := g.check("--rules", loader)
			wantFinding(t, found["daemon"], want, "")
		})
	}
}

// TestCheckFindsWhatBreaksCalls: a call carries nothing, the check says why, and once
// mended as it says, the call carries.
func TestCheckFindsWhatBreaksCalls(t *testing.T) {
	tests := []struct{ name, check, rule string }{
		{"GRE dropped", "firewall-gre", "-t filter -I FORWARD -p gre -j DROP"},
		{"GRE dropped on one side", "firewall-gre", "-t filter -I FORWARD -i wan -p gre -j DROP"},
		{"GRE not tracked", "tracking", "-t raw -I PREROUTING -p gre -j CT --notrack"},
		{"GRE in another zone", "tracking", "-t raw -I PREROUTING -p gre -j CT --zone 7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := startGateway(t, datapath.Kernel, masquerade(1))
			s := g.server(lab.Behaviour{})
			must(t, g.Gateway.IPTables(t.Context(), strings.Fields(tt.rule)...))
			call := callOn(t, clientOn(t, g.Inside[0], s.Host.Addr), 5)
			if call.Exchange([]byte("x"), silence) == nil {
				t.Fatal("the call carries nevertheless")
			}
			_, found := g.check()
			g.mend(found[tt.check])
			must(t, call.Exchange([]byte("y"), lab.Patience))
		})
	}
}

// TestCheckTwoWANs: the mark of the second way is given back to TCP alone, and a provider
// drops what comes with the address of another one.
func TestCheckTwoWANs(t *testing.T) {
	w := startWANs(t, datapath.Kernel, "")
	must(t, w.Outside[0].IPTables(t.Context(), "-A", "INPUT", "-i", "eth0", "-s", secondWAN.String(), "-j", "DROP"))
	_, found := w.check()
	wantFinding(t, found["multi-wan"], check.OK, "")
	must(t, w.Gateway.IPTables(t.Context(), "-t", "mangle", "-D", "PREROUTING", "-j", "CONNMARK", "--restore-mark"))
	must(t, w.Gateway.IPTables(t.Context(), "-t", "mangle", "-I", "PREROUTING", "-p", "tcp", "-j", "CONNMARK", "--restore-mark"))
	second := w.call()[1]
	if second[0].Exchange([]byte("x"), silence) == nil {
		t.Fatal("the call carries nevertheless")
	}
	_, found = w.check()
	wantFinding(t, found["multi-wan"], check.Problem, "--restore-mark")
	w.mend(found["multi-wan"])
	// Not a packet of this one came by: those that did had the connection's mark taken
	// away, by --save-mark.
	must(t, second[1].Exchange([]byte("y"), lab.Patience))
	_, found = w.check()
	wantFinding(t, found["multi-wan"], check.OK, "")
}

// TestCheckZones has control connections in a zone, and GRE in none. The rule is there
// before the connection.
func TestCheckZones(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(1))
	must(t, g.Gateway.IPTables(t.Context(), "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "-j", "CT", "--zone", "5"))
	call := callOn(t, clientOn(t, g.Inside[0], g.server(lab.Behaviour{}).Host.Addr), 5)
	if call.Exchange([]byte("x"), silence) == nil {
		t.Fatal("the call carries nevertheless")
	}
	for range 2 { // a direction at a time
		_, found := g.check()
		wantFinding(t, found["tracking"], check.Problem, "in zone 5 and GRE")
		g.mend(found["tracking"])
	}
	must(t, call.Exchange([]byte("y"), lab.Patience))
	_, found := g.check()
	wantFinding(t, found["tracking"], check.OK, "")
}

// TestCheckReadsTheFile: what is judged is what run would do with the same file and the
// same flags.
func TestCheckReadsTheFile(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	must(t, g.Gateway.IPTables(t.Context(), "-I", "FORWARD", "-p", "tcp", "--dport", "1800", "-j", "DROP"))
	must(t, g.Gateway.IPTables(t.Context(), "-I", "FORWARD", "-p", "gre", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"))
	file := configured(t, `queue: 1900
ports: [1723, 1800]
datapath: queue
gre-mark: 0
gre-queue: 1950
gre-queues: 2
rules: none
listen: 192.0.2.77:9723
event-log: /nonexistent/events.json
`)
	_, found := g.check("--config", file)
	for name, want := range map[string]string{
		"configuration": file, "queue-owner": "queue 1900, 1950-1951 is free", "firewall-control": "drops TCP to port 1800",
		"firewall-gre": "drops GRE", "listener": "no address 192.0.2.77", "event-log": "/nonexistent",
	} {
		if f := found[name]; !strings.Contains(f.Found, want) {
			t.Errorf("%+v, want …%s…", f, want)
		}
	}
	_, found = g.check("--config", file, "--ports", "1723", "--datapath", "kernel", "--queue=7", "--listen=", "--event-log=-")
	for name, f := range found {
		if f.Result != check.OK.String() && name != "daemon" {
			t.Errorf("with flags: %+v", f)
		}
	}
	wantFinding(t, found["queue-owner"], check.OK, "queue 7 is free")
	_, found = g.check("--config", "")
	wantFinding(t, found["configuration"], check.OK, "no configuration file")
	code, _, stderr := pptpalg(t, "check", "--config", file, "--gre-queue", "1900")
	if code != 2 || !strings.Contains(stderr, "1900 is the queue of control connections") {
		t.Errorf("flags that do not go together: exit code %d, %s", code, stderr)
	}
}

// TestCheckBadFile: the daemon would not start with it. The remedy makes it a good one.
func TestCheckBadFile(t *testing.T) {
	programs(t)
	tests := []struct {
		name, text string
		want       string // behind the file's name
	}{
		{"unknown key", "queue: 9\nprots: [1723]\n", `:2: unknown key "prots"; did you mean "ports"?`},
		{"wrong value", "# mine\n\nqueue: many\n", ":3: queue: "},
		{"two faults", "queue: many\nlisten: nowhere\nrest: 1m\n", ":1: queue: "},
		{"a list over lines", "ports:\n  - 1723\n  - 99999\nrest: 1m\n", ":2: ports: "},
		{"a list over lines, in brackets", "ports: [1723,\n  99999\n]\nrest: 1m\n", ":1: ports: "},
		{"not YAML", "queue: 9\n  : {\nrest: 1m\n", ":2: not YAML"},
		{"what does not go together", "queue: 9\ngre-queue: 9\n", ":2: "},
		{"a list", "- 1\n- 2\n", ":1: not a list of keys"},
		{"too long", strings.Repeat("# nothing\n", 2000), "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := buildGateway(t, datapath.Kernel, masquerade(1))
			file := filepath.Join(t.TempDir(), "an operator's.yaml")
			reconfigure(t, file, tt.text)
			g.wantMendedFile(file, tt.want)
		})
	}
	t.Run("no file", func(t *testing.T) {
		t.Parallel()
		g := buildGateway(t, datapath.Kernel, masquerade(1))
		g.wantMendedFile(filepath.Join(t.TempDir(), "etc", "none.yaml"), "no such file")
	})
	t.Run("a directory", func(t *testing.T) {
		t.Parallel()
		g := buildGateway(t, datapath.Kernel, masquerade(1))
		g.wantMendedFile(t.TempDir(), "is a directory")
	})
}

func (g *testGateway) wantMendedFile(file, want string) {
	g.t.Helper()
	code, found := g.check("--config", file)
	wantFinding(g.t, found["configuration"], check.Problem, want)
	if strings.HasPrefix(want, ":") {
		wantFinding(g.t, found["configuration"], check.Problem, file+want)
	}
	if code != 1 {
		g.t.Errorf("exit code %d", code)
	}
	g.mend(found["configuration"])
	if code, found = g.check("--config", file); code != 0 {
		g.t.Errorf("once mended: exit code %d, %+v", code, found["configuration"])
	}
}

// TestCheckJudgesTheRest: what is right in a file that is wrong counts, and the file is to
// be mended before anything is changed in it.
func TestCheckJudgesTheRest(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	must(t, g.Gateway.IPTables(t.Context(), "-I", "FORWARD", "-p", "tcp", "--dport", "1800", "-j", "DROP"))
	file := configured(t, "ports: [1723, 1800]\nlisten: 192.0.2.77:9723\nrest: 1m\nqueu: 5\n")
	_, found := g.check("--config", file)
	wantFinding(t, found["firewall-control"], check.Problem, "TCP to port 1800")
	wantFinding(t, found["listener"], check.Problem, "192.0.2.77")
	if found["listener"].Remedy != found["configuration"].Remedy {
		t.Errorf("%+v", found["listener"])
	}
}

// TestSetCommand has values set in files of all manners.
func TestSetCommand(t *testing.T) {
	tests := []struct{ name, text, key, value, want string }{
		{"not there", "# mine\nrest: 1m\n", "ports", "1723,1724", "1723,1724"},
		{"no end of line", "rest: 1m", "queue", "9", "9"},
		{"there", "queue: 8 # eight\nrest: 1m\n", "queue", "9", "9"},
		{"quoted key", "\"queue\" : 8\nrest: 1m\n", "queue", "9", "9"},
		{"a list over lines", "ports:\n  - 1\n\n  - 2\n# then\nrest: 1m\n", "ports", "3,4", "3,4"},
		{"a list with comments", "ports:\n- 1\n# and\n- 2\n# then\nrest: 1m\n", "ports", "3,4", "3,4"},
		{"a list without indentation", "ports:\n- 1\n- 2\nrest: 1m\n", "ports", "3", "3"},
		{"a list in brackets", "ports: [1,\n2\n]\nrest: 1m\n", "ports", "3", "3"},
		{"a name that begins alike", "gre-queue: 5\nqueue-length: 7\nrest: 1m\n", "queue", "9", "9"},
		{"text", "rest: 1m\n", "listen", "", ""},
		{"an address", "rest: 1m\n", "listen", "127.0.0.1:9724", "127.0.0.1:9724"},
		{"a word", "datapath: kernel\nrest: 1m\n", "datapath", "queue", "queue"},
		{"a comment with the key", "# queue: 5\nrest: 1m\n", "queue", "9", "9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := configured(t, tt.text)
			before := &judged{settings: newSettings("")}
			before.file = file
			sh(t, before.setCommand(tt.key, tt.value))
			s := newSettings("")
			_, err := config.Read(file, s.keys())
			must(t, err)
			if got := config.Text(s.flags.Lookup(tt.key)); got != tt.want || s.table.Rest != time.Minute {
				t.Errorf("%q, want %q; rest %v", got, tt.want, s.table.Rest)
			}
		})
	}
	t.Run("no file yet", func(t *testing.T) {
		s := &judged{settings: newSettings("")}
		s.file = filepath.Join(t.TempDir(), "etc", "pptpalg.yaml")
		sh(t, s.setCommand("queue", "9"))
		_, err := config.Read(s.file, s.keys())
		must(t, err)
		if s.queue != 9 {
			t.Errorf("queue %d", s.queue)
		}
	})
	t.Run("a flag wins", func(t *testing.T) {
		s := &judged{settings: newSettings("")}
		must(t, s.flags.Parse([]string{"--queue", "5"}))
		if got, want := s.setCommand("queue", "9"), "pptpalg run --queue 9"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// TestCheckTakesTheDaemonsFlags: they are in the unit, and not in the file.
func TestCheckTakesTheDaemonsFlags(t *testing.T) {
	restarts := programs(t)
	g := buildGateway(t, datapath.Queue, masquerade(1))
	file := configured(t, "max-calls: 50\nqueue: 5\nrules: iptables\n")
	g.start("--config", file, "--rules", "none", "--queue", "1800", "--ports=1723,1724", "--gre-queues", "2", "--listen", "")
	must(t, g.Gateway.Do(func() error {
		if code, _, stderr := pptpalg(t, "rules", "load", "--config", file, "--queue", "1800", "--ports=1723,1724", "--gre-queues", "2", "--datapath", "queue"); code != 0 {
			return errors.New(stderr)
		}
		return nil
	}))
	code, found := g.check()
	for _, f := range found {
		if f.Result != check.OK.String() && f.Check != "accounting" && f.Check != "firewall-gre" { // what others load is not known to accept
			t.Errorf("%+v", f)
		}
	}
	wantFinding(t, found["configuration"], check.OK, file)
	wantFinding(t, found["queue-owner"], check.OK, "queue 1800, 1801-1802 is bound by the running daemon")
	wantFinding(t, found["firewall-control"], check.OK, "1723, 1724")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}

	// What loads its rules again takes its flags, too.
	for _, flush := range [][]string{{"-t", "raw", "-F"}, {"-t", "mangle", "-F", "POSTROUTING"}} {
		must(t, g.Gateway.IPTables(t.Context(), flush...))
		_, found = g.check()
		wantFinding(t, found["daemon"], check.Problem, "no rule sends GRE to it")
		g.mend(found["daemon"])
		_, found = g.check()
		wantFinding(t, found["daemon"], check.OK, "")
	}
	must(t, g.Gateway.IPTables(t.Context(), "-t", "mangle", "-F"))
	_, found = g.check()
	wantFinding(t, found["daemon"], check.Problem, "no rule sends it control connections")
	g.mend(found["daemon"])
	_, found = g.check()
	wantFinding(t, found["daemon"], check.OK, "")

	_, found = g.check("--queue", "7")
	wantFinding(t, found["queue-owner"], check.Problem, "queue 7, 8-9 is not bound")
	g.mend(found["queue-owner"])
	if text, err := os.ReadFile(restarts); err != nil || string(text) != "restart pptpalg\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestCheckForwardedPort: a port is forwarded to a server inside, and its calls are not
// edited until the daemon knows it.
func TestCheckForwardedPort(t *testing.T) {
	restarts := programs(t)
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	file := configured(t, "max-calls: 50\n")
	g.start("--config", file)
	must(t, g.Gateway.IPTables(t.Context(), "-t", "nat", "-A", "PREROUTING", "-i", "wan", "-p", "tcp", "--dport", "1724", "-j", "DNAT", "--to-destination", g.Inside[0].Addr.String()+":1723"))
	_, found := g.check()
	wantFinding(t, found["ports"], check.Problem, "TCP port 1724 is forwarded to 10.77.0.10:1723")
	g.mend(found["ports"])
	if _, err := os.ReadFile(restarts); err != nil {
		t.Error(err) // it runs, and has to hear of it
	}
	g.stop()
	g.start("--config", file)
	_, found = g.check()
	wantFinding(t, found["ports"], check.OK, "1723, 1724")
	wantFinding(t, found["daemon"], check.OK, "")
}

// TestCheckWithoutRights has a process without any capability check: what it cannot read it
// says so.
func TestCheckWithoutRights(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
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
	wantFinding(t, found["rights"], check.Problem, "CAP_NET_ADMIN is missing")
	wantFinding(t, found["nfqueue"], check.Unchecked, "operation not permitted")
	wantFinding(t, found["conntrack"], check.Unchecked, "operation not permitted")
	wantFinding(t, found["rules"], check.Unchecked, "")
	wantFinding(t, found["gre-translation"], check.Unchecked, "operation not permitted")
	wantFinding(t, found["firewall-gre"], check.Unchecked, "not checked")
	wantFinding(t, found["ip-forward"], check.OK, "")

	programs(t)
	out, err := g.Gateway.Run(t.Context(), "sh", "-c", found["rights"].Remedy+" --json")
	must(t, err)
	wantFinding(t, byName(t, out.Stdout)["rights"], check.OK, "")
}

// TestExitCode has each of the codes that the help tells of.
func TestExitCode(t *testing.T) {
	tests := []struct {
		results []check.Result
		code    int
	}{
		{[]check.Result{check.OK, check.Warning}, 0},
		{[]check.Result{check.Problem, check.Unchecked}, 1},
		{[]check.Result{check.Unchecked}, 2},
	}
	for _, tt := range tests {
		var found check.Findings
		for _, r := range tt.results {
			found = append(found, check.Finding{Result: r})
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
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.ipv4.ip_forward", "0"))
	var code int
	var stdout, stderr string
	must(t, g.Gateway.Do(func() error {
		code, stdout, stderr = pptpalg(t, "check", "--state-dir", g.state)
		return nil
	}))
	if code != 1 || !strings.Contains(stdout, "-> sysctl -w net.ipv4.ip_forward=1") || !strings.Contains(stderr, "check: 1 problem, 0 unchecked, 2 warnings") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	t.Log(stdout)
}
