package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestSecondDaemon: a network namespace has one daemon. Another one is refused whatever its
// queue, state directory and rules are, learns whose the namespace is, and changes nothing.
func TestSecondDaemon(t *testing.T) {
	overDataPaths(t, func(t *testing.T, path datapath.Name) {
		g := startGateway(t, path, masquerade(2))
		g.server(lab.Behaviour{})
		call := callOn(t, g.client(0), 7)
		rules := g.rules()
		for _, args := range [][]string{
			{"--queue", "1900"},
			{"--queue", "1900", "--datapath", string(datapath.Kernel)},
			{"--queue", "1900", "--datapath", string(datapath.Queue)},
			{"--queue", "1900", "--rules", "none"},
			{"--queue", "1900", "--ports", "1724"},
		} {
			want := fmt.Sprintf("another daemon has it: pid %d (%s), queue 1723, state directory %q", g.daemon.PID(), command(t, g.daemon.PID()), g.state)
			g.wantRefused(want, args...)
		}
		if now := g.rules(); now != rules {
			t.Errorf("rules were\n%s\nand are\n%s", rules, now)
		}
		exchange(t, call)
		exchange(t, callOn(t, g.client(1), 7))
		g.wantCalls(2)
	})
}

// TestSecondDaemonChangesNothing: whatever a second daemon is told, it is refused before it touches
// anything: the first one's rules, fast path, files, socket and calls stay as they are, and the second
// one leaves no file of its own.
func TestSecondDaemonChangesNothing(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.startFast("tc")
	g.server(lab.Behaviour{Refuse: true})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	g.wantCalls(1)
	other := filepath.Join(t.TempDir(), "other")
	second := func(name string) string { return filepath.Join(other, name) }
	before := g.standing()
	for _, args := range [][]string{
		{"--fastpath-dir", g.bpfDir()},
		{"--fastpath-dir", g.bpfDir(), "--queue", "1900"},
		{"--fastpath-dir", g.bpfDir(), "--datapath", "queue", "--queue", "1900"},
		{"--fastpath-dir", g.bpfDir(), "--fastpath", "tc", "--fastpath-interfaces", "lan", "--fastpath-flows", "200", "--fastpath-interval", "1m"},
		{"--fastpath-dir", second("bpf"), "--fastpath", "auto"},
		{"--fastpath-dir", g.bpfDir(), "--state-dir", g.state, "--queue", "1900"},
		{"--fastpath-dir", g.bpfDir(), "--listen", "127.0.0.1:9723"},
		{"--fastpath-dir", g.bpfDir(), "--cluster", "etcd://127.0.0.1:2379", "--cluster-insecure"},
		{"--fastpath-dir", g.bpfDir(), "--rules", "none", "--event-log", second("events"), "--queue", "1900"},
	} {
		g.wantRefused("another daemon has it: pid", append([]string{"--state-dir", second("state")}, args...)...)
		if now := g.standing(); now != before {
			t.Fatalf("after %q it is\n%s\nand was\n%s", args, now, before)
		}
		if left, err := os.ReadDir(other); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q left %v, %v", args, left, err)
		}
	}
	exchange(t, call)
	g.wantCalls(1)
	if n := g.fastStatus("tc").Flows; n != 2 {
		t.Errorf("the fast path has %d flows, want 2", n)
	}
}

// standing lists what a gateway stands on while nothing happens: rules, entries, settings of the
// kernel, the fast path, and the daemon's files.
func (g *testGateway) standing() string {
	g.t.Helper()
	all := []string{g.rules(), fmt.Sprint(g.programs(), " programs")}
	must(g.t, g.Gateway.Do(func() error {
		table, err := fastpath.Open(g.bpfDir())
		if err != nil {
			return err
		}
		defer table.Close()
		attached, err := table.Attached()
		s := table.Stats()
		all = append(all, fmt.Sprint(s.Loaded, s.Places, s.Flows, s.Interval, attached))
		return err
	}))
	must(g.t, lab.Need("sysctl"))
	out, err := g.Gateway.Run(g.t.Context(), "sysctl", "-a", "--pattern", "^net.netfilter|ip_forward$")
	must(g.t, err)
	all = append(all, withoutCount(out.Stdout))
	for _, dir := range []string{g.state, g.bpfDir()} {
		must(g.t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			all = append(all, fmt.Sprint(path, info.Mode(), info.Size(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino))
			return nil
		}))
	}
	return strings.Join(all, "\n")
}

// withoutCount leaves out the number of entries, which come and go by themselves.
func withoutCount(text string) (kept string) {
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "nf_conntrack_count") {
			kept += line
		}
	}
	return kept
}

// TestSquattersKeepNoDaemonOut: without rights nobody keeps a daemon from starting.
func TestSquattersKeepNoDaemonOut(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	for _, name := range []string{"@pptpalg", "@pptpalg/1/1723//run/pptpalg"} {
		fd := -1
		must(t, g.Gateway.Do(func() (err error) {
			if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrUnix{Name: name})
		}))
		defer unix.Close(fd)
	}
	g.start()
	g.wantRefused(fmt.Sprintf("pid %d", g.daemon.PID()), "--queue", "1900")
	g.kill() // the lock goes with whoever has it
	g.start("--queue", "1900")
	g.stop()
	g.start()
}

// rules lists what the gateway has in the tables of iptables and of nftables.
func (g *testGateway) rules() string {
	g.t.Helper()
	var all string
	for _, command := range []string{"iptables -t raw -S", "iptables -t mangle -S", "iptables -t filter -S", "nft -s list ruleset"} {
		words := strings.Fields(command)
		out, err := g.Gateway.Run(g.t.Context(), words[0], words[1:]...)
		must(g.t, err)
		all += out.Stdout
	}
	return all
}

// hasRules reports whether any rules of the daemon's are there.
func (g *testGateway) hasRules() bool {
	g.t.Helper()
	return strings.Contains(strings.ToLower(g.rules()), "pptpalg")
}

// wantRefused starts a second daemon with another state directory.
func (g *testGateway) wantRefused(want string, args ...string) {
	g.t.Helper()
	args = append([]string{"run", "--listen", "", "--state-dir", filepath.Join(g.t.TempDir(), "second")}, args...)
	cmd, err := g.Gateway.Command(g.t.Context(), os.Args[0], args...)
	must(g.t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	log := new(lab.Log)
	cmd.Stderr = log
	p, err := g.Gateway.Start(cmd)
	must(g.t, err)
	if err := p.Wait(lab.Patience); err == nil || !strings.Contains(log.String(), want) {
		g.t.Errorf("with %q it ended with %v:\n%swant %s", args, err, log, want)
	}
}

func command(t *testing.T, pid int) string {
	t.Helper()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	must(t, err)
	return strings.TrimSpace(string(comm))
}
