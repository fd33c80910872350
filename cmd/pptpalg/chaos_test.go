package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// chaosTime is how long TestChaos runs, the greater part of it over data path kernel; by default it does
// not. `make chaos` gives it a minute. chaosSeed says in which order what happens, 0 for another one each time.
var (
	chaosTime = flag.Duration("chaos", 0, "how long TestChaos runs")
	chaosSeed = flag.Uint64("chaos-seed", 0, "order of the events of TestChaos; 0 for a new one")
	chaosOnly = flag.String("chaos-only", "", "expression that the events of TestChaos match")
)

// TestChaos has callers place and clear calls through two gateways that share them in three members
// of etcd, while daemons, gateways and members of etcd die, are stopped, cut off and replaced. No
// call that was established dies, nor a control connection that has one; no public Call ID is given
// to two calls; what is in etcd and in the kernels in the end is what there should be.
func TestChaos(t *testing.T) {
	if *chaosTime == 0 {
		return
	}
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-chaos-seed %d", seed)
	share := map[datapath.Name]time.Duration{datapath.Queue: *chaosTime / 3, datapath.Kernel: *chaosTime - *chaosTime/3}
	if testing.Short() {
		share[datapath.Queue] = *chaosTime
	}
	for _, path := range []datapath.Name{datapath.Queue, datapath.Kernel} {
		t.Run(string(path), func(t *testing.T) { testChaos(t, path, seed, share[path]) })
		if testing.Short() {
			break
		}
	}
}

func testChaos(t *testing.T, path datapath.Name, seed uint64, length time.Duration) {
	c := startChaos(t, path, 8, seed)
	c.calls = startCallers(t, c.net.Inside, 4, c.server, 12, 20*time.Millisecond)
	only := regexp.MustCompile(*chaosOnly)
	some := slices.DeleteFunc(slices.Clone(chaos), func(e event) bool { return !only.MatchString(e.name) })
	for began := time.Now(); time.Since(began) < length; {
		for _, i := range c.random.Perm(len(some)) {
			if time.Since(began) < length {
				c.happens(some[i])
			}
		}
	}
	c.matches()
	c.calls.stop()
	c.check()
	c.wantNothing()
	t.Logf("%d calls placed, %d cleared, %d packets there and back; %d callers began again", c.calls.placed.Load(), c.calls.cleared.Load(), c.calls.packets.Load(), c.calls.again.Load())
	for what, n := range c.count {
		t.Logf("%d × %s", n, what)
	}
}

// kills is how often TestKills kills a gateway: `make kills` has it do so fifty times.
var kills = flag.Int("kills", 0, "how often TestKills kills a gateway")

// TestKills kills the gateway that has the addresses, at any moment, while callers place and clear calls
// as fast as they can. No call that was established dies, nor a connection that has one.
func TestKills(t *testing.T) {
	if *kills == 0 {
		return
	}
	c := startChaos(t, datapath.Kernel, 8, rand.Uint64())
	c.calls = startCallers(t, c.net.Inside, 8, c.server, 12, 0)
	var rates []float64
	for range *kills {
		from, began := c.calls.placed.Load()+c.calls.cleared.Load(), time.Now()
		c.wait(time.Second + time.Duration(c.random.IntN(500))*time.Millisecond)
		rates = append(rates, float64(c.calls.placed.Load()+c.calls.cleared.Load()-from)/time.Since(began).Seconds())
		c.killGateway()
		c.well()
		c.check()
	}
	c.calls.steps.Lock()
	t.Logf("%d calls are held", c.calls.holding())
	c.calls.steps.Unlock()
	c.calls.stop()
	c.check()
	slices.Sort(rates)
	t.Logf("%d kills, under %.0f calls placed or cleared a second (%.0f to %.0f); %d calls placed, %d cleared; %d callers began again; %v",
		*kills, rates[len(rates)/2], rates[0], rates[len(rates)-1], c.calls.placed.Load(), c.calls.cleared.Load(), c.calls.again.Load(), c.count)
}

// chaosRun is two gateways, etcd, and callers.
type chaosRun struct {
	t      *testing.T
	net    *lab.Network
	etcd   *lab.Quorum
	server *lab.Server
	calls  *callers
	random *rand.Rand
	count  map[string]int

	owner, other *testGateway // who has the addresses, and who has not
	names        map[*testGateway]string
	logs         []func() string // of all daemons that there were
}

func startChaos(t *testing.T, path datapath.Name, inside int, seed uint64) *chaosRun {
	t.Helper()
	a := buildGateway(t, path, lab.Options{Inside: inside, Outside: 1, SNAT: lab.GatewayPublic, Firewall: true, Pair: true})
	second := *a.Network
	second.Gateway = second.Standby
	b := &testGateway{Network: &second, t: t, path: path, state: filepath.Join(memoryDir(t), "state"), log: new(lab.Log)}
	c := &chaosRun{
		t: t, net: a.Network, random: rand.New(rand.NewPCG(seed, 0)), count: make(map[string]int),
		owner: a, other: b, names: map[*testGateway]string{a: "a", b: "b"},
	}
	t.Cleanup(func() {
		for _, log := range c.logs {
			if t.Failed() {
				t.Log(log())
			}
		}
	})
	var err error
	c.etcd, err = lab.StartQuorum(a.Switch, lab.SwitchAddr, 3)
	must(t, err)
	closeAfter(t, c.etcd)
	c.server = a.server(lab.Behaviour{Refuse: true, Forget: true, NextID: apart()})
	for _, g := range []*testGateway{a, b} {
		c.loadRules(g)
		c.start(g)
	}
	c.well()
	return c
}

// loadRules loads the rules, but for one word: where no daemon is, packets are dropped, and sent
// again by TCP. What passes unedited meanwhile is another test's.
func (c *chaosRun) loadRules(g *testGateway) {
	c.t.Helper()
	code, rules, problem := pptpalg(c.t, "rules", "print", "--config", "", "--format", "iptables", "--datapath", string(g.path))
	if code != 0 {
		c.t.Fatal(problem)
	}
	must(c.t, g.Gateway.IPTablesAdd(context.Background(), strings.ReplaceAll(rules, " --queue-bypass", "")))
}

func (c *chaosRun) start(g *testGateway) {
	c.t.Helper()
	g.start("--cluster", c.etcd.Target(), "--cluster-insecure", "--cluster-name", c.names[g], "--rules", "none", "--rest", "5s")
	name, log := c.names[g], g.log
	c.logs = append(c.logs, func() string {
		lines := strings.SplitAfter(log.String(), "\n")
		return fmt.Sprintf("gateway %s, %d lines: %s", name, len(lines), strings.Join(lines[:min(len(lines), linesOfLog)], ""))
	})
}

// linesOfLog is how many lines of a daemon's log are shown.
const linesOfLog = 100

// event is something that happens to the gateways or to etcd.
type event struct {
	name string
	do   func(c *chaosRun)
}

var chaos = []event{
	{"the addresses move in order", func(c *chaosRun) { c.move() }},
	{"a daemon is killed and starts again", func(c *chaosRun) {
		c.owner.kill()
		c.start(c.owner)
	}},
	{"a daemon is killed and the addresses move", func(c *chaosRun) {
		c.owner.kill()
		c.move()
		c.start(c.other)
	}},
	{"a gateway is killed and returns", (*chaosRun).killGateway},
	{"the owner's daemon is stopped for 3 s", func(c *chaosRun) { c.pause(c.owner, func() {}) }},
	{"the owner's daemon is stopped for 3 s, and the addresses move", func(c *chaosRun) { c.pause(c.owner, c.move) }},
	{"the other daemon is stopped for 3 s", func(c *chaosRun) { c.pause(c.other, func() {}) }},
	{"etcd's leader is killed", (*chaosRun).killLeader},
	{"both gateways are cut off from etcd", func(c *chaosRun) {
		heal := errors.Join(c.cutOff(c.owner), c.cutOff(c.other))
		must(c.t, heal)
		c.wait(3 * time.Second)
		c.rejoin(c.owner)
		c.rejoin(c.other)
	}},
	{"the owner is cut off from etcd", func(c *chaosRun) {
		must(c.t, c.cutOff(c.owner))
		c.wait(2 * time.Second)
		c.rejoin(c.owner)
	}},
	{"etcd has forgotten what a gateway has missed", (*chaosRun).compact},
	{"both gateways have the addresses", (*chaosRun).both},
	{"rolling upgrade", func(c *chaosRun) {
		c.upgrade()
		c.well()
		c.upgrade()
	}},
}

// happens has something happen, and waits until the cluster is well again.
func (c *chaosRun) happens(e event) {
	c.t.Helper()
	c.count[e.name]++
	began := time.Now()
	c.t.Logf("%s %s: %s", began.Format(clock), c.names[c.owner], e.name)
	e.do(c)
	last := c.well()
	c.written()
	c.check()
	c.t.Logf("well after %v; %d calls placed so far; the last that was awaited: %s", time.Since(began).Round(time.Millisecond), c.calls.placed.Load(), last)
	c.wait(time.Duration(c.random.IntN(300)) * time.Millisecond)
}

// wait lets time pass, unless a caller has failed.
func (c *chaosRun) wait(d time.Duration) {
	c.t.Helper()
	_ = lab.Poll(d, func() bool { return len(c.calls.failed) > 0 })
	c.check()
}

// check fails the test if a caller has failed.
func (c *chaosRun) check() {
	c.t.Helper()
	if err := c.calls.failure(); err != nil {
		var t *twice
		if errors.As(err, &t) {
			c.holders(t.id)
		}
		c.t.Fatalf("%s: %v", time.Now().Format(clock), err)
	}
}

// holders logs which calls the gateways and etcd have with a public Call ID, and what they did alone.
func (c *chaosRun) holders(public pptp.CallID) {
	c.t.Helper()
	for _, g := range []*testGateway{c.owner, c.other} {
		for _, call := range g.calls() {
			if id := call.PNS.PublicCallID; id != nil && *id == public {
				c.t.Logf("%s has %+v", c.names[g], call)
			}
		}
		for _, series := range []string{"withheld_packets_total", "follow_refused_total", "commit_errors_total", "fenced_total", `commit_seconds_bucket{le="0.128"}`, "commit_seconds_count"} {
			c.t.Logf("%s: %s %s", c.names[g], series, g.metric("pptpalg_cluster_"+series))
		}
	}
	items, _, err := c.etcd.Range("/pptpalg/1/" + state.CallSection)
	if err != nil {
		c.t.Log(err)
	}
	for _, i := range items {
		number, _ := strconv.ParseUint(filepath.Base(string(i.Key)), 16, 64)
		if call, err := state.DecodeCall(state.CallKey{Public: lab.GatewayPublic, Number: number}, i.Value); err == nil && call.Record.Legs[0].Public == public {
			c.t.Logf("etcd has %+v", call)
		}
	}
}

// move gives the addresses to the gateway that does not have them.
func (c *chaosRun) move() {
	c.t.Helper()
	must(c.t, c.net.Drop(context.Background(), c.owner.Gateway))
	c.take()
}

func (c *chaosRun) take() {
	c.t.Helper()
	c.owner, c.other = c.other, c.owner
	must(c.t, c.net.Take(context.Background(), c.owner.Gateway))
}

// killGateway has a gateway lose its links and its daemon at once. It comes back with its journal or
// without, and with the kernel's entries or without.
func (c *chaosRun) killGateway() {
	c.t.Helper()
	c.deadly(func() { must(c.t, c.net.Cut(context.Background(), c.owner.Gateway)) })
	c.owner.kill()
	c.take()
	c.wait(time.Duration(c.random.IntN(1500)) * time.Millisecond)
	if c.random.IntN(2) == 0 {
		must(c.t, os.RemoveAll(c.other.state))
	}
	if c.random.IntN(2) == 0 {
		c.other.conntrack("-F")
	}
	must(c.t, c.net.Join(context.Background(), c.other.Gateway))
	c.start(c.other)
}

// deadly cuts a gateway off for ever. Calls that it has set up without waiting for etcd long enough,
// because etcd or the machine was slow, are lost with it, and excused.
func (c *chaosRun) deadly(cut func()) {
	c.t.Helper()
	from := time.Now()
	before := c.alone()
	c.written()
	cut()
	if alone := c.alone(); alone != before {
		c.count["a gateway was killed that had not waited for etcd"]++
		end := c.calls.excuse.begin(from)
		time.AfterFunc(time.Second, end) // what it has let go is on its way
	}
}

// written waits until etcd knows what the owner has done until now. What is written without a wait is
// written soon, but for a long time without etcd.
func (c *chaosRun) written() {
	c.t.Helper()
	const most = 64 // half a transaction
	must(c.t, lab.Poll(endurance, func() bool {
		st, err := c.ask(c.owner)
		return err == nil && st.Pending < most || len(c.calls.failed) > 0
	}))
	commits := c.figure(c.owner, "pptpalg_cluster_commits_total")
	must(c.t, lab.Poll(endurance, func() bool {
		st, err := c.ask(c.owner)
		return err == nil && st.Pending == 0 || c.figure(c.owner, "pptpalg_cluster_commits_total") >= commits+3 || len(c.calls.failed) > 0
	}))
}

// alone counts the turns in which the owner's packets may not have waited until etcd knew of
// them.
func (c *chaosRun) alone() float64 {
	c.t.Helper()
	const waits = "pptpalg_cluster_commit_seconds"
	return c.figure(c.owner, waits+"_count") - c.figure(c.owner, waits+`_bucket{le="0.128"}`) + c.figure(c.owner, "pptpalg_cluster_commit_errors_total") + c.figure(c.owner, "pptpalg_cluster_degraded")
}

func (c *chaosRun) figure(g *testGateway, series string) float64 {
	c.t.Helper()
	f, err := strconv.ParseFloat(g.metric(series), 64)
	if err != nil {
		c.t.Fatalf("%s: %v in %s", series, err, g.metrics())
	}
	return f
}

// pause stops a daemon for three seconds.
func (c *chaosRun) pause(g *testGateway, meanwhile func()) {
	c.t.Helper()
	must(c.t, g.daemon.Signal(syscall.SIGSTOP))
	meanwhile()
	time.Sleep(3 * time.Second)
	must(c.t, g.daemon.Signal(syscall.SIGCONT))
}

func (c *chaosRun) killLeader() {
	c.t.Helper()
	leader, err := c.etcd.Leader()
	if err != nil { // it is being elected: the machine is slow
		leader = c.random.IntN(3)
	}
	must(c.t, c.etcd.Kill(leader))
	c.wait(time.Second)
	must(c.t, c.etcd.Start(leader))
}

// etcdRule has a gateway reach no etcd.
var etcdRule = []string{"OUTPUT", "-p", "tcp", "--dport", "2379:2499", "-j"}

// cutOff cuts a gateway off from etcd: its packets disappear, or are refused.
func (c *chaosRun) cutOff(g *testGateway) error {
	target := [][]string{{"DROP"}, {"REJECT", "--reject-with", "tcp-reset"}}[c.random.IntN(2)]
	return g.Gateway.IPTables(context.Background(), append(append([]string{"-I"}, etcdRule...), target...)...)
}

func (c *chaosRun) rejoin(g *testGateway) {
	c.t.Helper()
	must(c.t, g.Gateway.IPTables(context.Background(), "-F", "OUTPUT"))
}

// compact has etcd forget what has happened while a gateway was cut off.
func (c *chaosRun) compact() {
	c.t.Helper()
	_, from, err := c.etcd.Range("/pptpalg/1/own/")
	must(c.t, err)
	must(c.t, c.cutOff(c.other))
	must(c.t, lab.Poll(endurance, func() bool { st, err := c.ask(c.other); return err == nil && st.Degraded || len(c.calls.failed) > 0 }))
	to := from
	must(c.t, lab.Poll(endurance, func() bool {
		_, to, err = c.etcd.Range("/pptpalg/1/own/")
		return err == nil && to > from+10
	}))
	must(c.t, c.etcd.Compact(to))
	c.rejoin(c.other)
}

// both gives the addresses to both gateways for a while. Public Call IDs may be given twice then; and the one
// that gets them may not know the latest connections yet, so that its kernel answers their packets with a RST.
func (c *chaosRun) both() {
	c.t.Helper()
	end := c.calls.excuse.begin(time.Now().Add(-time.Second))
	must(c.t, c.net.Take(context.Background(), c.other.Gateway))
	c.wait(time.Duration(200+c.random.IntN(2500)) * time.Millisecond)
	if c.random.IntN(2) == 0 {
		c.owner, c.other = c.other, c.owner
	}
	must(c.t, c.net.Drop(context.Background(), c.other.Gateway))
	must(c.t, c.net.Announce(context.Background(), c.owner.Gateway))
	c.well()
	end()
}

// upgrade replaces the daemon of the gateway that does not have the addresses, and gives them to it;
// or has the owner's daemon replaced with the addresses in place.
func (c *chaosRun) upgrade() {
	c.t.Helper()
	if c.random.IntN(2) == 0 {
		c.owner.stop()
		c.start(c.owner)
		return
	}
	c.other.stop()
	c.start(c.other)
	c.well()
	c.move()
}

func (c *chaosRun) ask(g *testGateway) (admin.Cluster, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	return admin.Client{StateDir: g.state}.Cluster(ctx)
}

// well waits until the gateways say that all is well, and who has the addresses owns them. It returns
// what it has waited for last.
func (c *chaosRun) well() (last string) {
	c.t.Helper()
	err := lab.Poll(endurance, func() bool {
		for _, g := range []*testGateway{c.owner, c.other} {
			if lacks := c.lacks(g); lacks != "" {
				last = c.names[g] + ": " + lacks
				return c.calls != nil && len(c.calls.failed) > 0
			}
		}
		return true
	})
	if err != nil {
		first, _ := c.ask(c.owner)
		second, _ := c.ask(c.other)
		c.t.Fatalf("the cluster is not well: %v: %s\n%s: %+v\n%s: %+v", err, last, c.names[c.owner], first, c.names[c.other], second)
	}
	return last
}

// lacks returns why a gateway is not well.
func (c *chaosRun) lacks(g *testGateway) string {
	st, err := c.ask(g)
	if err != nil {
		return err.Error()
	}
	mine := false
	for _, a := range st.Addresses {
		mine = mine || a.Address == lab.GatewayPublic.String() && a.Mine && a.Owner == c.names[g]
	}
	idle := c.calls == nil // nobody owns an address before its first call
	switch {
	case st.Degraded:
		return fmt.Sprintf("it is degraded: broken %v, whole %v, lag %v s, %d pending, %s", st.Broken, st.Whole, st.Lag, st.Pending, st.LastError)
	case st.NotReady != "":
		return st.NotReady
	case len(st.Members) != 2:
		return fmt.Sprintf("there are %d members", len(st.Members))
	case mine != (g == c.owner) && !idle:
		return fmt.Sprintf("who owns what is %+v", st.Addresses)
	}
	return ""
}

// matches holds the callers still, and compares what they hold with what the gateways, the kernels
// and etcd have.
func (c *chaosRun) matches() {
	c.t.Helper()
	c.calls.steps.Lock()
	defer c.calls.steps.Unlock()
	n := c.calls.holding()
	c.wantAll(n)
	c.t.Logf("%d calls are held", n)
}

// wantNothing wants nothing left when all calls have been cleared.
func (c *chaosRun) wantNothing() {
	c.t.Helper()
	c.wantAll(0)
	c.well()
}

// wantAll waits until gateways, kernels, etcd and server have so many calls.
func (c *chaosRun) wantAll(n int) {
	c.t.Helper()
	if err := lab.Poll(endurance, func() bool { return c.server.Living() == n }); err != nil {
		c.t.Errorf("the server has %d calls, want %d: %v; those that nobody has: %s", c.server.Living(), n, err, c.calls.strangers())
	}
	for _, g := range []*testGateway{c.owner, c.other} {
		have, lost, flows := 0, 0, 0
		err := lab.Poll(endurance, func() bool {
			have, lost = c.has(g)
			flows = c.flows(g)
			return have == n && 2*n <= flows && flows <= 2*(n+lost)
		})
		if err != nil {
			c.t.Errorf("%s: %v: %d calls and %d on lost connections, %d GRE flows; want %d calls; nobody's: %s", c.names[g], err, have, lost, flows, n, c.nobodys(g))
			c.lacking(g)
		}
	}
	if err := lab.Poll(endurance, func() bool { return c.kept() == n }); err != nil {
		c.t.Errorf("etcd has %d calls, want %d", c.kept(), n)
	}
}

// lacking logs which calls that clients hold a gateway does not have, and what both gateways have noted of
// them. The callers hold still.
func (c *chaosRun) lacking(g *testGateway) {
	c.t.Helper()
	has := make(map[pptp.CallID]bool) // by the server's IDs
	for _, call := range g.calls() {
		if id := call.PAC.CallID; id != nil {
			has[*id] = true
		}
	}
	for _, l := range c.calls.lines {
		for _, h := range l.calls {
			if has[h.peer] {
				continue
			}
			client := localAddr(l.control.Conn())
			c.t.Logf("%s lacks call %v of %v, which the server has as %v, asked for at %v, set up at %v", c.names[g], h.own, client, h.peer, h.asked.Format(clock), h.came.Format(clock))
			for _, g := range []*testGateway{c.owner, c.other} {
				c.noted(g, client, h.peer)
			}
		}
	}
}

// clock shows a time of a test.
const clock = "15:04:05.000000"

// noted logs what a gateway has noted of a call.
func (c *chaosRun) noted(g *testGateway, client netip.AddrPort, server pptp.CallID) {
	c.t.Helper()
	_ = admin.Client{StateDir: g.state}.Events(c.t.Context(), false, func(r history.Record) error {
		if r.CallRecord != nil && r.Client == client && r.ServerCallID != nil && *r.ServerCallID == server {
			c.t.Logf("%s noted %v: %s %+v %+v", c.names[g], r.Time, r.Event, *r.CallRecord, r.Closing)
		}
		return nil
	})
}

// nobodys returns a gateway's calls that no client has set up and not cleared.
func (c *chaosRun) nobodys(g *testGateway) string {
	var b strings.Builder
	for _, call := range g.calls() {
		if id := call.PAC.CallID; id == nil || c.calls.owner(*id) == (origin{}) {
			fmt.Fprintf(&b, "%+v; ", call)
			if public := call.PNS.PublicCallID; public != nil {
				c.holders(*public)
			}
		}
	}
	return b.String()
}

// has counts a gateway's calls, but for those on connections that clients have given up, and those.
func (c *chaosRun) has(g *testGateway) (living, lost int) {
	c.t.Helper()
	for _, call := range g.calls() {
		if c.calls.isLost(netip.MustParseAddrPort(call.Control.Src)) {
			lost++
		} else {
			living++
		}
	}
	return living, lost
}

// flows counts a gateway's GRE entries in the kernel, or its daemon's flows.
func (c *chaosRun) flows(g *testGateway) int {
	c.t.Helper()
	if g.path == datapath.Queue {
		return int(c.figure(g, "pptpalg_gre_flows"))
	}
	return strings.Count(g.entries(), "gre")
}

// kept returns how many calls etcd has that are not over, but for those on connections that clients have
// given up.
func (c *chaosRun) kept() (n int) {
	c.t.Helper()
	items, _, err := c.etcd.Range("/pptpalg/1/" + state.CallSection)
	if err != nil {
		c.t.Log(err)
		return -1
	}
	for _, i := range items {
		number, err := strconv.ParseUint(filepath.Base(string(i.Key)), 16, 64)
		must(c.t, err)
		call, err := state.DecodeCall(state.CallKey{Public: lab.GatewayPublic, Number: number}, i.Value)
		if err != nil {
			c.t.Fatalf("%s in etcd: %v: %x", i.Key, err, i.Value)
		}
		if !call.Gone && !c.calls.isLost(call.Record.Connection.Original.Src) {
			n++
		}
	}
	return n
}
