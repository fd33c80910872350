package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// What outlives the daemon, and what it knows when it is back.

func TestRestartKnowsItsCalls(t *testing.T) { overDataPaths(t, testRestartKnowsItsCalls) }

func testRestartKnowsItsCalls(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(3))
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(100)})
	clients := []*lab.Client{g.client(0), g.client(1)}
	calls := []*lab.Call{callOn(t, clients[0], 7), callOn(t, clients[1], 7)}
	exchange(t, calls...)
	before := g.calls()
	g.kill()
	if path == datapath.Kernel {
		exchange(t, calls...)
	}
	g.start()
	uncounted := cmpopts.IgnoreFields(admin.Call{}, "ToPNS", "ToPAC", "Carries", "NoneTo", "NoneSince") // what the daemon itself counts begins anew
	if diff := cmp.Diff(before, g.calls(), uncounted); diff != "" {
		t.Errorf("calls after the restart (-before +after):\n%s", diff)
	}
	exchange(t, calls...)

	seen := s.Calls()
	must(t, s.Sessions()[1].Send(lab.NewSetLinkInfo(seen[1].Peer)))
	if m, err := clients[1].Expect(lab.SetLinkInfo, lab.Patience); err != nil || m.PeerCallID != 7 {
		t.Errorf("Set-Link-Info after the restart: %v, %v", m, err)
	}
	second := callOn(t, clients[1], 8)
	exchange(t, second)
	third := callOn(t, g.client(2), 7)
	exchange(t, calls[0], calls[1], second, third)
	g.wantEntries(8)

	must(t, calls[1].Clear())
	if m, err := clients[1].Expect(lab.CallDisconnectNotify, lab.Patience); err != nil || m.CallID != calls[1].Peer {
		t.Errorf("Call-Disconnect-Notify after the restart: %v, %v", m, err)
	}
	g.wantCalls(3)
	must(t, clients[0].Reset())
	g.wantCalls(2)
	g.wantEntries(4)
	exchange(t, second, third)
}

// TestEndedWhileDead: what ended while nobody watched is gone when the daemon is back.
func TestEndedWhileDead(t *testing.T) { overDataPaths(t, testEndedWhileDead) }

func testEndedWhileDead(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(3))
	g.server(lab.Behaviour{Refuse: true})
	var clients []*lab.Client
	for i := range g.Inside {
		c := g.client(i)
		callOn(t, c, 7)
		clients = append(clients, c)
	}
	g.wantEntries(6)
	g.kill()
	must(t, clients[0].Control.Close())
	must(t, clients[1].Reset())
	g.start()
	g.wantCalls(1)
	g.wantEntries(2)
}

// TestKilledAtRandomInstants kills the daemon 200 times while clients come, call and
// go. A call that has once carried a packet carries all that follow, and when all
// clients have gone nothing is left of them.
//
// Calls that are set up while no daemon runs are not edited. One would carry all the same,
// for as long as an entry is there of its client's former call with the same public ID. So
// one more client holds the ID that all want, and each other call needs a public ID.
func TestKilledAtRandomInstants(t *testing.T) { overDataPaths(t, testKilledAtRandomInstants) }

func testKilledAtRandomInstants(t *testing.T, path datapath.Name) {
	kills, instants := 200, 40 // milliseconds
	if testing.Short() {
		kills, instants = 50, 400 // under the race detector all takes its time, and GRE that waits is lost with the daemon
	}
	g := startGateway(t, path, masquerade(7))
	g.server(lab.Behaviour{Refuse: true})
	last := len(g.Inside) - 1
	holder := g.client(last)
	held := callOn(t, holder, 7)
	exchange(t, held)
	// One daemon may see one FIN of a connection and another daemon the other: then the
	// connection is on record until conntrack forgets it.
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "3"))
	stop := make(chan struct{})
	var workers sync.WaitGroup
	var established atomic.Int64
	failures := make(chan error, len(g.Inside))
	carry := certain
	if path == datapath.Queue {
		carry = persistent
	}
	for _, h := range g.Inside[:last] {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := liveOneCall(h, g.Outside[0], &established, carry); err != nil {
					failures <- fmt.Errorf("%v: %w", h, err)
					return
				}
			}
		})
	}
	for range kills {
		// The instant is the point here, not the wait.
		time.Sleep(time.Duration(rand.IntN(instants)) * time.Millisecond)
		g.kill()
		if path == datapath.Kernel {
			must(t, held.Carries([]byte("held"), lab.Patience))
		}
		g.start()
	}
	close(stop)
	workers.Wait()
	must(t, held.Carries([]byte("held to the end"), lab.Patience))
	must(t, held.Clear())
	must(t, holder.Control.Close())
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	t.Logf("%d calls were established", established.Load())
	if established.Load() < int64(kills/4) {
		t.Errorf("only %d calls were established", established.Load())
	}
	g.wantCalls(0)
	g.wantEntriesOfCalls(0)
}

// certain is a call that carries every packet, and persistent one whose packets are sent
// again: those that come while no daemon translates are lost.
func certain(c *lab.Call, packet []byte) error { return c.Exchange(packet, lab.Patience) }

func persistent(c *lab.Call, packet []byte) error {
	return lab.Poll(lab.Patience, func() bool { return c.Exchange(packet, silence) == nil })
}

// liveOneCall dials, calls, exchanges packets and leaves. Setting up may fail while
// the daemon is dead; what is set up may not.
func liveOneCall(h, server *lab.Host, established *atomic.Int64, carry func(*lab.Call, []byte) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	c, err := lab.StartClient(ctx, h, server.Addr)
	if err != nil {
		return nil
	}
	defer c.Close()
	call, err := c.Call(7)
	if err != nil || call.Exchange([]byte("first"), 200*time.Millisecond) != nil {
		return nil
	}
	established.Add(1)
	for i := range 1 + rand.IntN(20) {
		if err := carry(call, fmt.Appendf(nil, "packet %d", i)); err != nil {
			return fmt.Errorf("a call that was established is lost: %w", err)
		}
	}
	switch rand.IntN(3) {
	case 0:
		return c.Reset()
	case 1:
		_ = call.Clear() // the connection ends in any case
	}
	return nil
}

// wantEntriesOfCalls counts the entries that the daemon made: those with a fixed
// timeout of days. GRE that no call claims makes short-lived ones.
func (g *testGateway) wantEntriesOfCalls(n int) {
	g.t.Helper()
	if g.path == datapath.Queue {
		g.wantFlows(n)
		return
	}
	count := func() int {
		made := 0
		for line := range strings.Lines(g.entries()) {
			if f := strings.Fields(line); len(f) > 2 && len(f[2]) >= 5 {
				made++
			}
		}
		return made
	}
	if err := lab.Poll(2*lab.Patience, func() bool { return count() == n }); err != nil {
		g.t.Errorf("conntrack has %d GRE entries of calls, want %d:\n%s", count(), n, g.entries())
	}
}

// TestDeletedEntriesHeal: conntrack -D -p gre, which ends calls of the kernel's helper
// for good.
func TestDeletedEntriesHeal(t *testing.T) { overDataPaths(t, testDeletedEntriesHeal) }

func testDeletedEntriesHeal(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	exchange(t, calls...)
	foreign := []string{"-I", "-p", "gre", "-t", "600", "-s", "10.9.9.9", "-d", "203.0.113.77", "--srckey", "0", "--dstkey", "5"}
	_, err := g.Gateway.Run(t.Context(), "conntrack", "-D", "-p", "gre")
	must(t, err)
	_, err = g.Gateway.Run(t.Context(), "conntrack", foreign...)
	must(t, err)
	repaired := "0"
	if path == datapath.Kernel {
		g.wantEntries(5)
		repaired = "4"
	}
	exchange(t, calls...)
	if n := g.metric(`pptpalg_reconcile_repairs_total{kind="gre_created"}`); n != repaired {
		t.Errorf("repairs: %q", n)
	}
	g.wantCalls(2)
	if !strings.Contains(g.entries(), "10.9.9.9") {
		t.Error("a foreign entry was touched")
	}
}

// TestFlushHeals: conntrack -F takes the control connections along.
func TestFlushHeals(t *testing.T) { overDataPaths(t, testFlushHeals) }

func testFlushHeals(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	s := g.server(lab.Behaviour{Refuse: true})
	clients := []*lab.Client{g.client(0), g.client(1)}
	calls := []*lab.Call{callOn(t, clients[0], 7), callOn(t, clients[1], 7)}
	exchange(t, calls...)
	_, err := g.Gateway.Run(t.Context(), "conntrack", "-F")
	must(t, err)
	must(t, lab.Poll(lab.Patience, func() bool {
		out, err := g.Gateway.Run(t.Context(), "conntrack", "-L", "-p", "tcp")
		return err == nil && strings.Count(out.Stdout, "dport=1723 ") == len(clients)
	}))
	g.wantEntriesOfCalls(4)
	exchange(t, calls...)
	// The server speaks first on one connection, the client on the other.
	must(t, s.Sessions()[0].Send(lab.NewEchoRequest(1)))
	_, err = clients[0].Expect(lab.EchoRequest, lab.Patience)
	must(t, err)
	must(t, calls[1].Clear())
	_, err = clients[1].Expect(lab.CallDisconnectNotify, lab.Patience)
	must(t, err)
	g.wantCalls(1)
	g.wantEntriesOfCalls(2)
}

// TestGREStopsWithTheConnection: after FIN or RST nothing of the call is delivered.
func TestGREStopsWithTheConnection(t *testing.T) { overDataPaths(t, testGREStopsWithTheConnection) }

func testGREStopsWithTheConnection(t *testing.T, path datapath.Name) {
	for name, end := range map[string]func(*lab.Client) error{
		"FIN": func(c *lab.Client) error { return c.Control.Close() },
		"RST": func(c *lab.Client) error { return c.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			g := startGateway(t, path, masquerade(1))
			s := g.server(lab.Behaviour{})
			c := g.client(0)
			call := callOn(t, c, 7)
			exchange(t, call)
			public := s.Calls()[0].Peer
			gre, err := lab.OpenGRE(g.Inside[0], g.Inside[0].Addr)
			must(t, err)
			closeAfter(t, gre)
			must(t, end(c))
			stopped := lab.Poll(lab.Patience, func() bool {
				return s.GRE.Send(lab.Packet{Dst: lab.GatewayPublic, CallID: public, Seq: new(uint32(9)), Payload: []byte("late")}) == nil &&
					errors.Is(gre.Quiet(50*time.Millisecond), nil)
			})
			must(t, stopped)
		})
	}
}

// TestSecondDaemonOnOneStateDir is told so, and disturbs nothing.
func TestSecondDaemonOnOneStateDir(t *testing.T) {
	g := startGateway(t, datapath.Auto, masquerade(1))
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	cmd, err := g.Gateway.Command(t.Context(), os.Args[0], "run", "--state-dir", g.state, "--queue", "9", "--rules", "none", "--listen", "")
	must(t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	log := new(lab.Log)
	cmd.Stderr = log
	p, err := g.Gateway.Start(cmd)
	must(t, err)
	if err := p.Wait(lab.Patience); err == nil || !strings.Contains(log.String(), "another daemon has it") {
		t.Errorf("ended with %v: %s", err, log)
	}
	g.wantCalls(1)
	exchange(t, call)
}

// TestFullTable: a request beyond a limit passes unedited, is counted and logged.
func TestFullTable(t *testing.T) { overDataPaths(t, testFullTable) }

func testFullTable(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2), "--max-calls", "1")
	s := g.server(lab.Behaviour{})
	callOn(t, g.client(0), 7)
	call := callOn(t, g.client(1), 7)
	if peer := s.Calls()[1].Peer; peer != 7 || call.Own != pptp.CallID(7) {
		t.Errorf("the server sees %v", peer)
	}
	g.wantCalls(1)
	if n := g.metric(`pptpalg_anomalies_total{kind="limit_calls"}`); n != "1" {
		t.Errorf("counted %q", n)
	}
	must(t, g.log.WaitFor("limit_calls", lab.Patience))
}

// TestIdleCallEnds: a client that is gone without a word. Its call ends when nothing
// was heard of it for the set time; one that carries GRE stays.
func TestIdleCallEnds(t *testing.T) { overDataPaths(t, testIdleCallEnds) }

func testIdleCallEnds(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(2))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start("--idle-timeout", "8s") // in which the busy call has a packet, also if a process stands still
	g.server(lab.Behaviour{Refuse: true})
	callOn(t, g.client(0), 7)
	busy := callOn(t, g.client(1), 7)
	must(t, lab.Poll(2*lab.Patience, func() bool {
		exchange(t, busy)
		return g.metric(`pptpalg_calls_closed_total{reason="idle"}`) == "1"
	}))
	if c := g.calls()[0]; c.PNS.Address != g.Inside[1].Addr.String() {
		t.Errorf("the call that is left is %+v", c)
	}
	g.wantCalls(1)
	g.wantEntriesOfCalls(2)
}

// TestQueueOverflow: packets beyond the queue's length are dropped by the kernel, sent
// again by TCP, counted and logged.
func TestQueueOverflow(t *testing.T) { overDataPathsInTurn(t, testQueueOverflow) }

func testQueueOverflow(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(6), "--queue-length", "1")
	g.server(lab.Behaviour{})
	var clients []*lab.Client
	for i := range g.Inside {
		clients = append(clients, g.client(i))
	}
	must(t, g.daemon.Signal(syscall.SIGSTOP))
	for _, c := range clients {
		must(t, c.Send(lab.NewEchoRequest(1)))
	}
	must(t, lab.Poll(lab.Patience, func() bool {
		out, err := g.Gateway.Run(t.Context(), "grep", "^ *1723 ", "/proc/net/netfilter/nfnetlink_queue")
		f := strings.Fields(out.Stdout)
		return err == nil && len(f) > 5 && f[5] != "0"
	}))
	must(t, g.daemon.Signal(syscall.SIGCONT))
	for _, c := range clients {
		_, err := c.Expect(lab.EchoReply, 2*lab.Patience)
		must(t, err)
	}
	must(t, g.log.WaitFor("the kernel dropped packets: too many waited", lab.Patience))
	if n := g.metric(`pptpalg_queue_dropped_total{queue="control"}`); n == "" || n == "0" {
		t.Errorf("counted %q", n)
	}
}
