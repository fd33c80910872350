package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
