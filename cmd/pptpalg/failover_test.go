package main

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// cluster is two gateways that share their calls in etcd.
type cluster struct {
	a, b *testGateway
	etcd *lab.Process
	data string // etcd's directory
}

// startCluster starts gateway a, which has the addresses that move, and b.
func startCluster(t *testing.T, path datapath.Name, inside int, args ...string) *cluster {
	t.Helper()
	c := buildCluster(t, path, inside)
	c.a.start(clusterFlags("a", args...)...)
	c.b.start(clusterFlags("b", args...)...)
	return c
}

func buildCluster(t *testing.T, path datapath.Name, inside int) *cluster {
	t.Helper()
	a := buildGateway(t, path, lab.Options{Inside: inside, Outside: 1, SNAT: lab.GatewayPublic, Firewall: true, Pair: true})
	b := a.second()
	c := &cluster{a: a, b: b, data: memoryDir(t)}
	c.startEtcd()
	return c
}

// second returns the other gateway of a pair.
func (g *testGateway) second() *testGateway {
	g.t.Helper()
	other := *g.Network
	other.Gateway = other.Standby
	b := &testGateway{Network: &other, t: g.t, path: g.path, state: filepath.Join(memoryDir(g.t), "state"), log: new(lab.Log)}
	g.t.Cleanup(func() {
		if g.t.Failed() {
			g.t.Logf("gateway b: %s", b.log)
		}
	})
	return b
}

// has reports whether an address is on an interface of the gateway.
func (g *testGateway) has(addr string) bool {
	out, err := g.Gateway.Run(g.t.Context(), "ip", "-4", "-o", "addr", "show", "to", addr)
	return err == nil && out.Stdout != ""
}

// checkItself runs pptpalg check in a process of its own, all of which is on the gateway.
func (g *testGateway) checkItself(args ...string) map[string]finding {
	g.t.Helper()
	cmd, err := g.Gateway.Command(g.t.Context(), os.Args[0], append([]string{"check", "--json", "--state-dir", g.state}, args...)...)
	must(g.t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var stdout lab.Log
	cmd.Stdout = &stdout
	p, err := g.Gateway.Start(cmd)
	must(g.t, err)
	if err := p.Wait(4 * lab.Patience); err != nil && cmd.ProcessState.ExitCode() < 0 {
		g.t.Fatal(err)
	}
	return byName(g.t, stdout.String())
}

// twoCalls sets up a call of each of two clients, with the same Call ID.
func (c *cluster) twoCalls() (s *lab.Server, one, two *lab.Call) {
	c.a.t.Helper()
	s = c.a.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(1000)})
	one, two = callOn(c.a.t, c.a.client(0), 7), callOn(c.a.t, c.a.client(1), 7)
	exchange(c.a.t, one, two)
	return s, one, two
}

func clusterFlags(name string, args ...string) []string {
	return append([]string{"--cluster", "etcd://" + etcdAddr.String(), "--cluster-insecure", "--cluster-name", name}, args...)
}

var etcdAddr = netip.AddrPortFrom(lab.SwitchAddr, 2379)

// startEtcd runs one member beside the gateways.
func (c *cluster) startEtcd() {
	t := c.a.t
	t.Helper()
	must(t, lab.Need("etcd"))
	var err error
	c.etcd, err = lab.StartEtcd(c.a.Switch, etcdAddr, c.data)
	must(t, err)
	t.Cleanup(func() { _ = c.etcd.Kill() })
}

// status asks a gateway how its cluster does.
func (g *testGateway) status() admin.Cluster {
	g.t.Helper()
	st, err := admin.Client{StateDir: g.state}.Cluster(g.t.Context())
	must(g.t, err)
	return st
}

// wantOwner waits until a gateway has so many calls, all of them edited by one.
func (g *testGateway) wantOwner(calls int, owner string, here bool) {
	g.t.Helper()
	other := func(c admin.Call) bool { return c.Owner != owner || c.OwnedHere != here }
	err := lab.Poll(lab.Patience, func() bool { all := g.calls(); return len(all) == calls && !slices.ContainsFunc(all, other) })
	if err != nil {
		g.t.Fatalf("%v: calls %+v; want %d of %s", err, g.calls(), calls, owner)
	}
}

// wantFollowedBy waits until another gateway has all that a gateway has done, also in its kernel: the addresses may
// move without a loss. What the shared store does not know in time, as on a busy machine, the next owner learns only
// later.
func (g *testGateway) wantFollowedBy(other *testGateway) {
	g.t.Helper()
	g.wantWritten()
	type call struct {
		number uint64
		state  string
	}
	all := func(of *testGateway, here bool) map[call]bool {
		is := make(map[call]bool)
		for _, c := range of.calls() {
			is[call{c.Number, c.State}] = c.OwnedHere == here
		}
		return is
	}
	same := func() bool { return maps.Equal(all(g, true), all(other, false)) }
	if err := lab.Poll(lab.Patience, same); err != nil {
		g.t.Fatalf("%v: calls %+v; followed %+v", err, g.calls(), other.calls())
	}
	other.wantEntries(2 * len(g.calls()))
}

// wantWritten waits until the shared store has all that a gateway has done.
func (g *testGateway) wantWritten() {
	g.t.Helper()
	written := func() bool { st := g.status(); return !st.Degraded && st.Pending == 0 }
	if err := lab.Poll(2*lab.Patience, written); err != nil {
		g.t.Fatalf("%v: status %+v", err, g.status())
	}
}

// wantEcho exchanges an Echo on a control connection.
func wantEcho(t *testing.T, c *lab.Client, id uint32) {
	t.Helper()
	must(t, c.Send(lab.NewEchoRequest(id)))
	if m, err := c.Expect(lab.EchoReply, lab.Patience); err != nil || m.Identifier != id {
		t.Fatalf("echo %d: %v, %v", id, m, err)
	}
}

// wantCleared clears a call and wants the server's word that it was this one.
func wantCleared(t *testing.T, call *lab.Call) {
	t.Helper()
	must(t, call.Clear())
	m, err := call.Client().Expect(lab.CallDisconnectNotify, lab.Patience)
	if err != nil || m.CallID != call.Peer {
		t.Errorf("cleared call %v, which the server has as %v: %v, %v", call.Own, call.Peer, m, err)
	}
}

// TestGatewayDies: the gateway with the addresses is cut off, and they are given to another one,
// which goes on with its calls; then they move back in order.
func TestGatewayDies(t *testing.T) { overDataPaths(t, testGatewayDies) }

func testGatewayDies(t *testing.T, path datapath.Name) {
	c := startCluster(t, path, 2)
	a, b, ctx := c.a, c.b, t.Context()
	s, one, two := c.twoCalls()
	first, second := one.Client(), two.Client()
	a.wantOwner(2, "a", true)

	a.wantFollowedBy(b)
	must(t, errors.Join(a.Cut(ctx, a.Gateway), b.Take(ctx, b.Gateway)))
	exchange(t, one, two)
	wantEcho(t, first, 1)
	wantEcho(t, second, 2)
	must(t, s.Send(0, []byte("from the server")))
	if got, err := one.Recv(lab.Patience); err != nil || string(got) != "from the server" {
		t.Errorf("from the server: %q, %v", got, err)
	}
	three := callOn(t, first, 8)
	exchange(t, one, two, three)
	b.wantOwner(3, "b", true)
	seen := s.Calls()
	if ids := map[pptp.CallID]bool{seen[0].Peer: true, seen[1].Peer: true, seen[2].Peer: true}; len(ids) != 3 {
		t.Errorf("public IDs: %+v", seen)
	}
	wantEcho(t, first, 3) // what was read is acknowledged
	wantCleared(t, one)
	b.wantOwner(2, "b", true)
	exchange(t, two, three)

	must(t, a.Join(ctx, a.Gateway))
	b.wantFollowedBy(a)
	must(t, errors.Join(b.Drop(ctx, b.Gateway), a.Take(ctx, a.Gateway)))
	exchange(t, two, three)
	wantEcho(t, first, 4)
	wantEcho(t, second, 5)
	four := callOn(t, second, 9)
	exchange(t, two, three, four)
	a.wantOwner(3, "a", true)
	wantEcho(t, first, 6)
	wantEcho(t, second, 7)
	for i, call := range []*lab.Call{two, three, four} {
		wantCleared(t, call)
		a.wantOwner(2-i, "a", true)
	}
	b.wantCalls(0)
	for _, g := range []*testGateway{a, b} {
		g.wantEntries(0)
		well := func() bool { st := g.status(); return !st.Degraded && len(st.Members) == 2 && st.NotReady == "" }
		if err := lab.Poll(lab.Patience, well); err != nil {
			t.Errorf("%v: status %+v", err, g.status())
		}
	}
	if n := len(s.Unmatched()); n > 0 {
		t.Errorf("%d packets are for no call: %v", n, s.Unmatched())
	}
}

// TestDaemonDies: the daemon alone is killed, its gateway lives. The addresses move; when the
// daemon is back, it follows, and knows what has happened meanwhile.
func TestDaemonDies(t *testing.T) { overDataPaths(t, testDaemonDies) }

func testDaemonDies(t *testing.T, path datapath.Name) {
	c := startCluster(t, path, 2)
	a, b, ctx := c.a, c.b, t.Context()
	_, one, two := c.twoCalls()
	first, second := one.Client(), two.Client()

	a.wantFollowedBy(b)
	a.kill()
	must(t, errors.Join(a.Drop(ctx, a.Gateway), b.Take(ctx, b.Gateway)))
	exchange(t, one, two)
	three := callOn(t, first, 8)
	wantEcho(t, second, 1)
	wantEcho(t, second, 2)
	wantCleared(t, two)
	b.wantOwner(2, "b", true)
	a.start(clusterFlags("a")...)
	exchange(t, one, three)

	b.wantFollowedBy(a)
	must(t, errors.Join(b.Drop(ctx, b.Gateway), a.Take(ctx, a.Gateway)))
	exchange(t, one, three)
	a.wantWritten()
	a.kill()
	a.start(clusterFlags("a")...) // at once: the address stays
	a.wantOwner(2, "a", true)
	wantEcho(t, first, 3)
	wantEcho(t, first, 4)
	wantCleared(t, one)
	wantCleared(t, three)
	a.wantCalls(0)
	b.wantCalls(0)
}

// TestEtcdDies: calls are set up and cleared without it, and it has all when it is back.
func TestEtcdDies(t *testing.T) { overDataPaths(t, testEtcdDies) }

func testEtcdDies(t *testing.T, path datapath.Name) {
	c := startCluster(t, path, 2)
	a, b, ctx := c.a, c.b, t.Context()
	a.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(1000)})
	first, second := a.client(0), a.client(1)
	one := callOn(t, first, 7)
	b.wantOwner(1, "a", false)

	must(t, c.etcd.Kill())
	two := callOn(t, second, 7)
	exchange(t, one, two)
	wantCleared(t, one)
	a.wantCalls(1)
	must(t, lab.Poll(lab.Patience, func() bool { return a.status().Degraded }))
	b.wantOwner(1, "a", false) // it does not know better
	c.startEtcd()
	must(t, lab.Poll(2*lab.Patience, func() bool { return !a.status().Degraded && !b.status().Degraded }))
	later := func() bool { all := b.calls(); return len(all) == 1 && all[0].PNS.Address == second.Host.Addr.String() }
	must(t, lab.Poll(lab.Patience, later))
	a.wantFollowedBy(b)
	must(t, errors.Join(a.Cut(ctx, a.Gateway), b.Take(ctx, b.Gateway)))
	exchange(t, two)
	wantEcho(t, second, 1)
	wantEcho(t, second, 2)
	wantCleared(t, two)
	b.wantCalls(0)
}

// TestEtcdHangs: etcd hangs while the addresses move, and answers again when the daemon of the gateway that had
// them restarts. What was set up and cleared meanwhile stays so.
func TestEtcdHangs(t *testing.T) {
	c := startCluster(t, datapath.Kernel, 2)
	a, b, ctx := c.a, c.b, t.Context()
	_, one, two := c.twoCalls()
	first, second := one.Client(), two.Client()

	a.wantFollowedBy(b)
	must(t, c.etcd.Signal(syscall.SIGSTOP))
	a.kill()
	must(t, errors.Join(a.Drop(ctx, a.Gateway), b.Take(ctx, b.Gateway)))
	exchange(t, one, two)
	three := callOn(t, first, 8)
	wantEcho(t, second, 1)
	wantEcho(t, second, 2)
	wantCleared(t, two)
	exchange(t, one, three)
	must(t, lab.Poll(lab.Patience, func() bool { return b.status().Degraded }))
	must(t, c.etcd.Signal(syscall.SIGCONT))
	a.start(clusterFlags("a")...)
	b.wantFollowedBy(a)
	b.wantOwner(2, "b", true)
	exchange(t, one, three)
	wantEcho(t, first, 3)
	wantCleared(t, one)
	wantCleared(t, three)
	a.wantCalls(0)
	b.wantCalls(0)
}

// TestCheckCluster: what check says of a gateway that shares its calls.
func TestCheckCluster(t *testing.T) {
	c := startCluster(t, datapath.Kernel, 1)
	look := c.a.checkItself
	must(t, lab.Poll(lab.Patience, func() bool { return len(c.a.status().Members) == 2 }))
	c.a.server(lab.Behaviour{})
	callOn(t, c.a.client(0), 7)
	c.b.wantOwner(1, "a", false)
	var found map[string]finding
	must(t, lab.Poll(2*lab.Patience, func() bool { // on a busy machine etcd is slow now and then, and a gateway is not heard for seconds
		found = look()
		return found["etcd-latency"].Result != check.Problem.String() && found["cluster-gateways"].Result == check.OK.String() && found["clocks"].Result == check.OK.String()
	}))
	wantFinding(t, found["etcd"], check.Warning, "etcd has only one member")
	wantFinding(t, found["etcd-rights"], check.Warning, "without TLS")
	wantFinding(t, found["cluster-gateways"], check.OK, "b: the same --ports, --rest and --random-ids as here")
	wantFinding(t, found["clocks"], check.OK, "the clocks of b are within")
	wantFinding(t, found["moving-address"], check.OK, "no control connection is masqueraded")
	wantFinding(t, found["cluster-table"], check.OK, "the 1 calls of all gateways need 3 of")
	for _, name := range []string{"etcd-latency", "conntrackd", "keepalived"} {
		if f, there := found[name]; !there || f.Result == check.Problem.String() || f.Result == check.Unchecked.String() {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if items := c.a.metric("pptpalg_cluster_strange_items_total"); items != "0" {
		t.Errorf("the check has left %s strange items", items)
	}
	must(t, c.a.Gateway.IPTables(t.Context(), "-t", "nat", "-I", "POSTROUTING", "-o", "wan", "-j", "MASQUERADE"))
	found = look("--ports", "1723,1724")
	wantFinding(t, found["cluster-gateways"], check.Problem, "--ports is 1723,1724 here, and 1723 on b")
	wantFinding(t, found["moving-address"], check.Problem, "are masqueraded by iptables nat: -A POSTROUTING -o wan -j MASQUERADE")
	c.a.mend(found["moving-address"])
	must(t, c.etcd.Kill())
	found = look()
	wantFinding(t, found["moving-address"], check.OK, "")
	wantFinding(t, found["etcd"], check.Problem, "etcd does not answer")
	wantFinding(t, found["clocks"], check.Unchecked, "etcd does not answer")
	alone := look("--cluster", "")
	if _, there := alone["etcd"]; there {
		t.Errorf("a gateway alone: %+v", alone["etcd"])
	}
}
