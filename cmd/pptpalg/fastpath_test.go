package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// fastSubtest is the name of the subtests that run over data path kernel with the fast path.
const fastSubtest = "fast"

// fastFlags are the flags for the fast path in such a subtest.
func (g *testGateway) fastFlags() []string {
	g.t.Helper()
	if !slices.Contains(strings.Split(g.t.Name(), "/"), fastSubtest) {
		return nil
	}
	return []string{"--fastpath", "auto", "--fastpath-dir", g.bpfDir()}
}

// bpfDir returns a directory for the fast path's file system, which ends with the test.
func (g *testGateway) bpfDir() string {
	g.t.Helper()
	if g.bpf != "" {
		return g.bpf
	}
	g.bpf = filepath.Join(g.t.TempDir(), "bpf")
	g.t.Cleanup(func() {
		g.fastpath("unload")
		if err := unix.Unmount(g.bpf, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			g.t.Error(err)
		}
	})
	return g.bpf
}

// fastpath runs "pptpalg fastpath" on the gateway.
func (g *testGateway) fastpath(args ...string) string {
	g.t.Helper()
	args = append([]string{"fastpath"}, args...)
	args = append(args, "--config", "", "--fastpath-dir", g.bpfDir())
	cmd, err := g.Gateway.Command(context.Background(), os.Args[0], args...)
	must(g.t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	stdout, stderr := new(lab.Log), new(lab.Log)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	p, err := g.Gateway.Start(cmd)
	must(g.t, err)
	if err := p.Wait(lab.Patience); err != nil {
		g.t.Errorf("%q: %v: %s", args, err, stderr)
	}
	return stdout.String()
}

// fastStatus asks for the status of the fast path as a daemon has it.
func (g *testGateway) fastStatus(mode string) (st fastStatus) {
	g.t.Helper()
	out := g.fastpath("status", "--json", "--fastpath", mode)
	must(g.t, json.Unmarshal([]byte(out), &st))
	keeps(g.t, "fastpath-status", out)
	return st
}

// startFast starts a daemon with a fast path.
func (g *testGateway) startFast(mode string, args ...string) {
	g.t.Helper()
	g.start(append([]string{"--fastpath", mode, "--fastpath-dir", g.bpfDir()}, args...)...)
}

// unbridged is a network whose gateway has a card for each of two clients and one for the
// server, where XDP can be had: bridges have none, and a veth sends in XDP if its peer has
// GRO.
func unbridged(t *testing.T) *testGateway {
	t.Helper()
	g := buildGateway(t, datapath.Kernel, masquerade(2))
	for _, h := range append(g.Inside, g.Outside...) {
		must(t, h.SwitchGRO("eth0"))
	}
	lines := "link del lan\nlink del wan\n"
	lan := func(i int) string {
		if i == 0 {
			return "lan"
		}
		return fmt.Sprintf("lan%d", i)
	}
	for i, h := range g.Inside {
		lines += fmt.Sprintf("link set port-%s down\nlink set port-%s name %s\nlink set %s up\naddr add %v/32 dev %s\nroute add %v/32 dev %s\n", h.Name, h.Name, lan(i), lan(i), lab.GatewayInside, lan(i), h.Addr, lan(i))
	}
	h := g.Outside[0]
	lines += fmt.Sprintf("link set port-%s down\nlink set port-%s name wan\nlink set wan up\naddr add %v/24 dev wan\n", h.Name, h.Name, lab.GatewayPublic)
	must(t, g.Gateway.IPBatch(t.Context(), lines))
	must(t, g.Gateway.IPTables(t.Context(), "-I", "FORWARD", "-i", "lan1", "-o", "wan", "-j", "ACCEPT"))
	return g
}

// wantFast has calls carry packets until the fast path has forwarded so many.
func (g *testGateway) wantFast(path string, n uint64, calls ...*lab.Call) {
	g.t.Helper()
	had := g.fastStatus("auto").Packets[path]
	err := lab.Poll(lab.Patience, func() bool {
		for range 20 { // to ask takes longer than the kernel's decision is repeated
			exchange(g.t, calls...)
		}
		return g.fastStatus("auto").Packets[path] >= had+n
	})
	if err != nil {
		g.t.Fatalf("by %s: %v: %+v", path, err, g.fastStatus("auto"))
	}
}

// eachFastPath runs a test where the fast path takes packets by XDP, and where by tc.
func eachFastPath(t *testing.T, test func(*testing.T, *testGateway, string)) {
	t.Parallel()
	t.Run("xdp", func(t *testing.T) {
		t.Parallel()
		test(t, unbridged(t), "xdp")
	})
	t.Run("tc", func(t *testing.T) {
		t.Parallel()
		test(t, buildGateway(t, datapath.Kernel, masquerade(2)), "tc")
	})
}

// TestFastPath has two calls carry their packets, and tells of all of them.
func TestFastPath(t *testing.T) { eachFastPath(t, testFastPath) }

func testFastPath(t *testing.T, g *testGateway, path string) {
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.startFast("auto", "--fastpath-interval", "1m") // all are in force when it tells
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	rounds := 0
	round := func() { exchange(t, calls...); rounds++ }
	for range 50 {
		round()
	}
	st := g.fastStatus("auto")
	// Shortly after its start, once it listens to changes, the daemon discards all decisions. XDP
	// waits for the clock's next tick after each.
	inForce := func() bool {
		round()
		st = g.fastStatus("auto")
		return st.InForce == 4 && st.Packets[path] > 0
	}
	if err := lab.Poll(lab.Patience, inForce); err != nil || st.Flows != 4 || !st.Loaded {
		t.Errorf("status %+v", st)
	}
	each := uint64(3 * rounds)
	for _, c := range g.wantCalls(2) {
		if c.ToPNS == nil || c.ToPAC == nil || c.ToPNS.Packets != each || c.ToPAC.Packets != each {
			t.Errorf("calls tell %+v and %+v, want %d packets each", c.ToPNS, c.ToPAC, each)
		}
	}
	err := lab.Poll(lab.Patience, func() bool { return g.metric("pptpalg_calls_gre_packets_total") == strconv.FormatUint(4*each, 10) })
	if err != nil {
		t.Errorf("the metrics tell %s packets, want %d", g.metric("pptpalg_calls_gre_packets_total"), 4*each)
	}
	for series, want := range map[string]string{
		"pptpalg_fastpath_wanted": "1", "pptpalg_fastpath_interfaces_missing": "0", "pptpalg_fastpath_flows": "4", "pptpalg_fastpath_flows_without_place": "0",
	} {
		if got := g.metric(series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
}

// TestFastPathIdle: a call whose packets the kernel does not see any more is not idle.
func TestFastPathIdle(t *testing.T) { eachFastPath(t, testFastPathIdle) }

func testFastPathIdle(t *testing.T, g *testGateway, path string) {
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.startFast("auto", "--fastpath-interval", "1m", "--idle-timeout", "8s")
	g.server(lab.Behaviour{Refuse: true})
	busy := callOn(t, g.client(1), 7)
	g.wantFast(path, 10, busy) // from here on its entry counts nothing
	callOn(t, g.client(0), 7)
	must(t, lab.Poll(2*lab.Patience, func() bool {
		exchange(t, busy)
		return g.metric(`pptpalg_calls_closed_total{reason="idle"}`) == "1"
	}))
	if all := g.wantCalls(1); all[0].PNS.Address != g.Inside[1].Addr.String() {
		t.Errorf("the call that is left is %+v", all[0])
	}
}

// TestFastPathBlocked: a rule in FORWARD stops a call at once if nftables tells of it, long
// before the fast path asks again by itself.
func TestFastPathBlocked(t *testing.T) { eachFastPath(t, testFastPathBlocked) }

func testFastPathBlocked(t *testing.T, g *testGateway, path string) {
	must(t, lab.Need("iptables-nft"))
	g.startFast("auto", "--fastpath-interval", "1m")
	g.server(lab.Behaviour{Refuse: true})
	blocked, other := callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)
	g.wantFast(path, 10, blocked, other)
	rule := []string{"FORWARD", "-s", g.Inside[0].Addr.String(), "-p", "gre", "-j", "DROP"}
	table := func(verb string) {
		_, err := g.Gateway.Run(t.Context(), "iptables-nft", append([]string{verb}, rule...)...)
		must(t, err)
	}
	table("-I")
	must(t, lab.Poll(lab.Patience, func() bool { return blocked.Carries([]byte("blocked"), silence) != nil }))
	exchange(t, other)
	if err := blocked.Carries([]byte("still blocked"), silence); err == nil {
		t.Error("the blocked call carries a packet")
	}
	table("-D")
	must(t, blocked.Carries([]byte("not blocked any more"), lab.Patience)) // what was late has come before
	g.wantFast(path, 10, blocked, other)
}

// TestFastPathKilled kills the daemon while calls carry packets on the fast path. None is
// lost, and the next daemon takes over what is there.
func TestFastPathKilled(t *testing.T) { eachFastPath(t, testFastPathKilled) }

func testFastPathKilled(t *testing.T, g *testGateway, path string) {
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.startFast("auto", "--fastpath-interval", "200ms")
	g.server(lab.Behaviour{Refuse: true})
	ending := g.client(0)
	calls := []*lab.Call{callOn(t, ending, 7), callOn(t, g.client(1), 7)}
	g.wantFast(path, 10, calls...)
	before := g.wantCalls(2)
	stop, carried := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				carried <- nil
				return
			default:
			}
			if err := calls[1].Exchange(fmt.Appendf(nil, "packet %d", i), lab.Patience); err != nil {
				carried <- err
				return
			}
		}
	}()
	for range 5 {
		g.kill()
		g.startFast("auto", "--fastpath-interval", "200ms")
	}
	g.kill()
	must(t, ending.Reset()) // nobody is there to see it
	g.startFast("auto", "--fastpath-interval", "200ms")
	close(stop)
	must(t, <-carried)
	after := g.wantCalls(1)
	if after[0].ToPNS.Packets <= before[1].ToPNS.Packets {
		t.Errorf("the call had %d packets, and now %d", before[1].ToPNS.Packets, after[0].ToPNS.Packets)
	}
	g.wantFast(path, 10, calls[1])
	if err := lab.Poll(lab.Patience, func() bool { return g.fastStatus("auto").Flows == 2 }); err != nil {
		t.Errorf("the fast path has %d flows, want 2", g.fastStatus("auto").Flows)
	}
}

// TestFastPathFlushed: what flushes the ruleset takes the daemon's rules along, and the calls'
// entries may go too. Calls go on.
func TestFastPathFlushed(t *testing.T) { eachFastPath(t, testFastPathFlushed) }

func testFastPathFlushed(t *testing.T, g *testGateway, path string) {
	must(t, lab.Need("nft"))
	g.startFast("auto")
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	g.wantFast(path, 10, calls...)
	_, err := g.Gateway.Run(t.Context(), "nft", "delete", "table", "ip", "pptpalg")
	must(t, err)
	must(t, g.log.WaitFor("firewall rules are loaded again", lab.Patience))
	_, err = g.Gateway.Run(t.Context(), "conntrack", "-D", "-p", "gre")
	must(t, err)
	must(t, lab.Poll(lab.Patience, func() bool { return strings.Count(g.entries(), "gre") >= 4 }))
	g.wantFast(path, 10, calls...)
	g.wantCalls(2)
}

// programs counts the programs on all interfaces of the gateway.
func (g *testGateway) programs() (n int) {
	g.t.Helper()
	must(g.t, g.Gateway.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			for _, at := range []ebpf.AttachType{ebpf.AttachXDP, ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				have, queryErr := link.QueryPrograms(link.QueryOptions{Target: i.Index, Attach: at})
				if queryErr == nil {
					n += len(have.Programs)
				}
			}
		}
		return err
	}))
	out, err := g.Gateway.Run(g.t.Context(), "ip", "link", "show")
	must(g.t, err)
	return n + strings.Count(out.Stdout, "prog/xdp")
}

// TestFastPathUnload: nothing stays attached, calls go on, and the daemon does not load it
// again until somebody else does.
func TestFastPathUnload(t *testing.T) { eachFastPath(t, testFastPathUnload) }

func testFastPathUnload(t *testing.T, g *testGateway, path string) {
	g.startFast("auto")
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	g.wantFast(path, 10, calls...)
	if g.programs() == 0 {
		t.Fatal("no program is attached")
	}
	g.fastpath("unload")
	if n := g.programs(); n != 0 {
		t.Errorf("%d programs are attached", n)
	}
	exchange(t, calls...)
	must(t, g.Gateway.IPBatch(t.Context(), "link add other type bridge\nlink set other up\n")) // it looks
	must(t, g.log.WaitFor("the fast path was unloaded", lab.Patience))
	if n := g.programs(); n != 0 {
		t.Errorf("%d programs are attached again", n)
	}
	g.fastpath("load", "--fastpath", "auto")
	g.wantFast(path, 10, calls...)

	g.stop()
	exchange(t, calls...)
	if g.programs() == 0 {
		t.Error("the daemon's end has detached the fast path")
	}
	g.start("--fastpath", "off", "--fastpath-dir", g.bpfDir())
	if n := g.programs(); n != 0 {
		t.Errorf("%d programs are attached although it is off", n)
	}
	exchange(t, calls...)
	g.wantCalls(2)

	// As the removal of the package does.
	g.stop()
	g.startFast("auto")
	g.wantFast(path, 10, calls...)
	g.stop()
	g.fastpath("unload")
	if n := g.programs(); n != 0 {
		t.Errorf("%d programs are attached", n)
	}
	exchange(t, calls...)
}

// TestFastPathStatus: without flags it compares with what the running daemon wants, and else
// with the settings. What is loaded is shown in either case.
func TestFastPathStatus(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	status := func(wantMode ports.Mode, wantBy wantedBy, wantLan fastPort, wantText string, args ...string) {
		t.Helper()
		var st fastStatus
		args = append([]string{"status", "--state-dir", g.state}, args...)
		must(t, json.Unmarshal([]byte(g.fastpath(append(args, "--json")...)), &st))
		if st.Mode != wantMode || st.WantedBy != wantBy {
			t.Errorf("%q: mode %q, wanted by %q, want %q by %q", args, st.Mode, st.WantedBy, wantMode, wantBy)
		}
		i := slices.IndexFunc(st.Interfaces, func(p fastPort) bool { return p.Name == wantLan.Name })
		if wantLan.Attached == "none" && i < 0 {
			i, st.Interfaces = 0, []fastPort{wantLan}
		}
		if i < 0 || st.Interfaces[i].Wanted != wantLan.Wanted || st.Interfaces[i].Attached != wantLan.Attached {
			t.Errorf("%q: interfaces %+v, want %+v", args, st.Interfaces, wantLan)
		}
		if text := strings.Join(strings.Fields(g.fastpath(args...)), " "); !strings.HasPrefix(text, wantText) {
			t.Errorf("%q: it says %q, want %q", args, text, wantText)
		}
	}
	lan := func(wanted, attached string) fastPort {
		return fastPort{Name: "lan", Wanted: wanted, Attached: attached}
	}
	status("off", bySettings, lan("none", "none"), "fast path off, not loaded set by the configuration; no daemon is running")
	g.startFast("tc", "--fastpath-interfaces", "lan,wan")
	status("tc", byDaemon, lan("tc", "tc"), "fast path tc, loaded set by the running daemon INTERFACE ATTACHED EXPECTED WHY lan tc tc")
	status("tc", byFlags, lan("none", "tc"), "fast path tc, loaded set by the flags given", "--fastpath", "tc", "--fastpath-interfaces", "wan")
	g.stop()
	status("off", bySettings, lan("none", "tc"), "fast path off, but still loaded set by the configuration; no daemon is running INTERFACE ATTACHED EXPECTED WHY lan tc none")
	g.start("--fastpath-dir", g.bpfDir(), "--fastpath", "auto", "--fastpath-interfaces", "wan")
	status("auto", byDaemon, lan("none", "none"), "fast path auto, loaded set by the running daemon")
	g.stop()
	g.start("--fastpath-dir", g.bpfDir(), "--fastpath", "auto", "--datapath", "queue")
	status("off", byDaemon, lan("none", "none"), "fast path off, not loaded set by the running daemon")
}

// TestFastPathOff: where nobody asks for it, nothing is mounted or attached.
func TestFastPathOff(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.start("--fastpath-dir", g.bpfDir())
	g.server(lab.Behaviour{Refuse: true})
	exchange(t, callOn(t, g.client(0), 7))
	if n := g.programs(); n != 0 {
		t.Errorf("%d programs are attached", n)
	}
	if _, err := os.Stat(g.bpfDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", g.bpfDir(), err)
	}
	if got := g.metric("pptpalg_fastpath_wanted"); got != "0" {
		t.Errorf("it is wanted: %q", got)
	}
}

// TestFastPathNotToBeHad: the daemon starts, says why, and calls go on by their entries.
func TestFastPathNotToBeHad(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	g.start("--fastpath", "auto", "--fastpath-dir", filepath.Join(file, "bpf"))
	must(t, g.log.WaitFor("cannot load the fast path: the kernel forwards all packets", lab.Patience))
	g.server(lab.Behaviour{Refuse: true})
	exchange(t, callOn(t, g.client(0), 7))
	if got := g.metric("pptpalg_fastpath_interfaces_missing"); got != "2" {
		t.Errorf("%s interfaces are missing, want 2", got)
	}
}

// TestFastPathInterfaceReturns: one that comes back is attached again by a daemon that may.
func TestFastPathInterfaceReturns(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.startFast("auto")
	g.server(lab.Behaviour{Refuse: true})
	call := callOn(t, g.client(0), 7)
	g.wantFast("tc", 10, call)
	g.replaceBridge("lan", lab.GatewayInside)
	g.wantFast("tc", 10, call)
}

// replaceBridge removes a bridge of the gateway's and makes it anew.
func (g *testGateway) replaceBridge(name string, addr netip.Addr) {
	g.t.Helper()
	must(g.t, g.Gateway.IPBatch(g.t.Context(), fmt.Sprintf(
		"link del %[1]s\nlink add %[1]s type bridge\nlink set port-%[2]s master %[1]s\nlink set %[1]s up\naddr add %[3]v/24 dev %[1]s\n", name, g.Inside[0].Name, addr)))
}

const fastUnitFile = "../../deploy/fastpath/pptpalg-fastpath.service"

// TestFastPathUnits: the program and the units of the fast path agree, and without the drop-in
// the daemon's unit has no right for it.
func TestFastPathUnits(t *testing.T) {
	daemon, dropIn := readUnit(t), readUnitFile(t, "../../deploy/fastpath/fastpath.conf")
	words := strings.Fields(readUnitFile(t, fastUnitFile).one(t, "ExecStart"))
	want := []string{daemon.one(t, "ExecPaths"), "fastpath", "load", "$RULES", "$OPTIONS"}
	if !slices.Equal(words, want) {
		t.Errorf("ExecStart is %q, want %q", words, want)
	}
	set := []string{"--datapath=kernel", "--fastpath", "auto", "--log-level", "debug"}
	if cmd := parsed(t, append(words[1:3:3], set...)); cmd.CommandPath() != "pptpalg fastpath load" || !cmd.Runnable() {
		t.Errorf("it is %s", cmd.CommandPath())
	}
	request := "/run/" + daemon.one(t, "RuntimeDirectory") + "/" + requestFile
	if asked := readUnitFile(t, "../../deploy/fastpath/pptpalg-fastpath.path").one(t, "PathExists"); asked != request {
		t.Errorf("%s is watched, want %s", asked, request)
	}
	if first, want := readUnitFile(t, fastUnitFile).one(t, "ExecStartPre"), "+/bin/rm -rf "+request; first != want {
		t.Errorf("before it loads, the unit runs %q, want %q", first, want)
	}
	if filter := dropIn.one(t, "SystemCallFilter"); filter != "bpf" || slices.Contains(daemon["SystemCallFilter"], "bpf") {
		t.Errorf("system calls: %q, with the drop-in %q", daemon["SystemCallFilter"], filter)
	}
}

// TestFastPathWithoutRights: root loads, the daemon with the rights of the unit uses it, and
// asks for what it may not do itself.
func TestFastPathWithoutRights(t *testing.T) {
	m := manageGateway(t, datapath.Kernel, masquerade(1))
	flags := []string{"--fastpath", "auto", "--fastpath-dir", m.bpfDir()}
	start := func() {
		ready := m.manager.count("READY=1")
		m.run(m.prepare(rights(daemonID, daemonID, "CAP_NET_ADMIN"), append([]string{"run", "--state-dir", m.state}, flags...)))
		must(t, lab.Poll(lab.Patience, func() bool { return m.manager.count("READY=1") > ready }))
	}
	capabilities := readUnitFile(t, fastUnitFile).one(t, "CapabilityBoundingSet")
	load := func() {
		args := append([]string{"fastpath", "load", "--group", daemonID}, flags...)
		m.mustRun("fastpath load", m.prepare(rights("0", "0", capabilities), args))
	}
	load()
	start()
	m.wantRights()
	m.server(lab.Behaviour{Refuse: true})
	call := callOn(t, m.client(0), 7)
	m.wantFast("tc", 10, call)

	m.replaceBridge("lan", lab.GatewayInside)
	request := filepath.Join(m.state, requestFile)
	must(t, lab.Poll(lab.Patience, func() bool { b, err := os.ReadFile(request); return err == nil && string(b) == "lan\n" }))
	must(t, lab.Poll(lab.Patience, func() bool { return m.metric("pptpalg_fastpath_interfaces_missing") == "1" }))
	exchange(t, call)
	load()
	m.wantFast("tc", 10, call)
	must(t, lab.Poll(3*lab.Patience, func() bool { return m.metric("pptpalg_fastpath_interfaces_missing") == "0" }))
	must(t, m.log.WaitFor("the fast path is attached to all its interfaces", lab.Patience))

	// Nobody has loaded it, and it is loaded later.
	m.testGateway.stop()
	m.fastpath("unload")
	start()
	must(t, m.log.WaitFor("no fast path: the kernel forwards all packets", 4*lab.Patience)) // nobody loads it for some seconds
	exchange(t, call)
	load()
	must(t, lab.Poll(4*lab.Patience, func() bool { return m.metric("pptpalg_fastpath_flows") == "2" }))
	m.wantFast("tc", 10, call)

	// Off, and it may not be removed.
	m.testGateway.stop()
	flags[1] = "off"
	start()
	must(t, m.log.WaitFor("removing it needs root", lab.Patience))
	exchange(t, call)
}
