package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCloseIsComplete(t *testing.T) {
	needRoot(t)
	start := time.Now()
	n, err := New(Options{Inside: 2, Outside: 2, Masquerade: true, DNAT: DNATAddress, Hairpin: true, Firewall: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("5 namespaces in %v", time.Since(start))
	must(t, n.Close())
	must(t, n.Close())
	for _, h := range n.Hosts() {
		if _, err := os.Stat(h.path()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", h.path(), err)
		}
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", n.dir, err)
	}
}

func TestReach(t *testing.T) {
	pub := PublicOf(1)
	tests := []struct {
		name    string
		options Options
		from    string
		to      netip.Addr
		seenAs  netip.Addr // the source at the listener; zero: unreachable
		at      string     // the host that listens
	}{
		{"routed out", Options{}, "in0", nth(WAN, 10), nth(LAN, 10), "out0"},
		{"routed in", Options{}, "out0", nth(LAN, 11), nth(WAN, 10), "in1"},
		{"masqueraded", Options{Masquerade: true}, "in1", nth(WAN, 10), GatewayPublic, "out0"},
		{"source NAT", Options{SNAT: nth(WAN, 200)}, "in1", nth(WAN, 10), nth(WAN, 200), "out0"},
		{"no way in", Options{Masquerade: true}, "out0", nth(LAN, 11), netip.Addr{}, "in1"},
		{"DNAT", Options{DNAT: DNATAddress}, "out0", pub, nth(WAN, 10), "in1"},
		{"DNAT behind firewall", Options{DNAT: DNATControl, Firewall: true}, "out0", pub, nth(WAN, 10), "in1"},
		{"hairpin", Options{DNAT: DNATAddress, Hairpin: true, Masquerade: true, Firewall: true}, "in0", pub, GatewayPublic, "in1"},
		{"firewall lets out", Options{Masquerade: true, Firewall: true}, "in0", nth(WAN, 10), GatewayPublic, "out0"},
		{"firewall keeps out", Options{Firewall: true}, "out0", nth(LAN, 10), netip.Addr{}, "in0"},
		{"neighbours", Options{Firewall: true}, "in0", nth(LAN, 11), nth(LAN, 10), "in1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Inside, tt.options.Outside = 2, 1
			n := build(t, tt.options)
			within := Patience
			if !tt.seenAs.IsValid() {
				within = time.Second
			}
			got := seenAs(t, host(n, tt.from), host(n, tt.at), tt.to, within)
			if got != tt.seenAs {
				t.Errorf("seen as %v, want %v", got, tt.seenAs)
			}
		})
	}
}

func host(n *Network, name string) *Host {
	for _, h := range n.Hosts() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// seenAs connects to TCP port 1723 and returns the source address at the
// listener, zero where the connection is not made.
func seenAs(t *testing.T, from, at *Host, to netip.Addr, within time.Duration) netip.Addr {
	t.Helper()
	l, err := at.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), Port))
	must(t, err)
	defer l.Close()
	soon, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	c, err := from.Dial(soon, netip.AddrPort{}, netip.AddrPortFrom(to, Port))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	conn, err := l.AcceptTCP()
	must(t, err)
	defer conn.Close()
	return remote(conn).Addr()
}

func TestConntrackIsActive(t *testing.T) {
	needPrograms(t, "conntrack")
	n := build(t, Options{Inside: 1, Outside: 1})
	seenAs(t, n.Inside[0], n.Outside[0], n.Outside[0].Addr, Patience)
	out, err := n.Gateway.Run(ctx(t), "conntrack", "-L", "-p", "tcp")
	must(t, err)
	if !strings.Contains(out.Stdout, "src=10.77.0.10 dst=203.0.113.10") {
		t.Errorf("conntrack does not know the connection: %q", out.Stdout)
	}
}

func TestSettingsStayInTheNamespace(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	const name = "net.ipv4.ip_default_ttl"
	must(t, n.Gateway.SetSysctl(name, "77"))
	got := map[string]string{}
	for _, h := range n.Hosts() {
		value, err := h.Sysctl(name)
		must(t, err)
		got[h.Name] = value
	}
	if diff := cmp.Diff(map[string]string{"gw": "77", "in0": "64", "out0": "64"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	forward, err := n.Gateway.Sysctl("net.ipv4.ip_forward")
	if err != nil || forward != "1" {
		t.Errorf("ip_forward %q, %v", forward, err)
	}
}

func TestDoComesHome(t *testing.T) {
	n := build(t, Options{Inside: 1})
	home, err := os.Readlink("/proc/thread-self/ns/net")
	must(t, err)
	var away string
	must(t, n.Inside[0].Do(func() (err error) {
		away, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	if away == home {
		t.Errorf("Do stayed in %s", home)
	}
	for range 50 { // however threads are reused
		if back, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || back != home {
			t.Fatalf("in %s, want %s: %v", back, home, err)
		}
		must(t, n.Inside[0].Do(func() error { return nil }))
	}
}

func TestRun(t *testing.T) {
	n := build(t, Options{Inside: 1})
	h := n.Inside[0]
	out, err := h.Run(ctx(t), "sh", "-c", "echo out; echo err >&2")
	must(t, err)
	if diff := cmp.Diff(Output{"out\n", "err\n"}, out); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	_, err = h.Run(ctx(t), "sh", "-c", "echo why >&2; exit 3")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "why") {
		t.Errorf("error is %v", err)
	}
	_, err = h.Run(ctx(t), "no-such-program")
	if err == nil || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("error is %v", err)
	}
}

func TestRunKillsTheWholeGroup(t *testing.T) {
	n := build(t, Options{Inside: 1})
	soon, cancel := context.WithCancel(t.Context())
	cmd, err := n.Inside[0].Command(soon, "sh", "-c", "sleep 1000 & echo started; wait")
	must(t, err)
	log := new(Log)
	cmd.Stdout = log
	p, err := n.Inside[0].Start(cmd)
	must(t, err)
	must(t, log.WaitFor("started", Patience))
	cancel()
	if err := p.Wait(Patience); err == nil {
		t.Error("ended well")
	}
	must(t, Poll(Patience, func() bool { return !groupAlive(p.PID()) }))
}

func TestCloseKillsWhatStillRuns(t *testing.T) {
	n := build(t, Options{Inside: 1})
	cmd, err := n.Inside[0].Command(context.Background(), "setsid", "--fork", "--wait", "sleep", "1000")
	must(t, err)
	p, err := n.Inside[0].Start(cmd)
	must(t, err)
	must(t, n.Close())
	if err := p.Wait(Patience); err == nil {
		t.Error("ended well")
	}
}

const abandon = "PPTPLAB_ABANDON"

// abandonLab builds a lab, says where, and waits to be killed.
func abandonLab() bool {
	if os.Getenv(abandon) == "" {
		return false
	}
	n, err := New(Options{Inside: 1})
	if err != nil {
		fmt.Println(err)
		return true
	}
	if cmd, err := n.Inside[0].Command(context.Background(), "sleep", "1000"); err == nil {
		n.Inside[0].Start(cmd)
	}
	fmt.Println(n.dir)
	time.Sleep(time.Hour)
	return true
}

func TestSweepRemovesLabsOfKilledRuns(t *testing.T) {
	alive := build(t, Options{Inside: 1})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), abandon+"=1")
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	dir, err := bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	name := filepath.Base(strings.TrimSpace(dir))
	if found := left(name); len(found) != 3 { // two namespaces and a directory
		t.Fatalf("before: %v", found)
	}
	must(t, Sweep())
	if found := left(name); len(found) != 3 {
		t.Fatalf("swept under a living owner: %v", found)
	}
	must(t, cmd.Process.Kill())
	cmd.Wait() // its error is the kill
	must(t, Sweep())
	if found := left(name); len(found) != 0 {
		t.Errorf("after: %v", found)
	}
	if _, err := os.Stat(alive.Gateway.path()); err != nil {
		t.Errorf("swept a living lab: %v", err)
	}
}

func left(name string) []string {
	a, _ := filepath.Glob(filepath.Join(namespaces, name+"*"))
	b, _ := filepath.Glob(filepath.Join(os.TempDir(), name+"*"))
	return append(a, b...)
}

func TestNeedNamesPackages(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	saved := packages
	t.Cleanup(func() { packages = saved })
	packages = map[string]string{"prog-a": "pack-a", "prog-b": "pack-b", "prog-c": "pack-a"}
	want := "find prog-a, prog-b, prog-c: not installed (apt-get install pack-a pack-b)"
	if err := Need("prog-a", "prog-b", "prog-c"); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{Inside: -1}, {Outside: MaxHosts + 1}, {SNAT: netip.MustParseAddr("192.0.2.1")}} {
		if err := o.check(); err == nil {
			t.Errorf("%+v passed", o)
		}
	}
}
