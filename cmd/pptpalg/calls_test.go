package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(b)
}

// The main job: clients with one Call ID behind one public address.

// TestServerGivesItsIDAgain: a Call ID of the server that one client's call has had serves
// another client's next.
func TestServerGivesItsIDAgain(t *testing.T) { overDataPaths(t, testServerGivesItsIDAgain) }

func testServerGivesItsIDAgain(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	g.server(lab.Behaviour{NextID: lab.Fixed(901)})
	for i := range 4 {
		call := callOn(t, g.client(i%2), 7)
		exchange(t, call)
		must(t, call.Clear())
		g.wantCalls(0)
	}
}

func TestTwoClientsWithOneCallID(t *testing.T) { overDataPaths(t, testTwoClientsWithOneCallID) }

func testTwoClientsWithOneCallID(t *testing.T, path datapath.Name) {
	for _, id := range []pptp.CallID{7, 0, 65535} {
		t.Run(id.String(), func(t *testing.T) {
			g := startGateway(t, path, masquerade(2))
			s := g.server(lab.Behaviour{Refuse: true})
			a, b := g.client(0), g.client(1)
			calls := []*lab.Call{callOn(t, a, id), callOn(t, b, id)}
			exchange(t, calls...)
			seen := s.Calls()
			if seen[0].Peer == seen[1].Peer || seen[0].Remote != lab.GatewayPublic || seen[1].Remote != lab.GatewayPublic {
				t.Errorf("the server sees %+v", seen)
			}
			g.wantEntries(4)
			for i, c := range []*lab.Client{a, b} {
				must(t, s.Sessions()[i].Send(lab.NewSetLinkInfo(seen[i].Peer)))
				m, err := c.Expect(lab.SetLinkInfo, lab.Patience)
				must(t, err)
				if m.PeerCallID != id {
					t.Errorf("client %d gets Set-Link-Info for %v, want its own %v", i, m.PeerCallID, id)
				}
				must(t, c.Send(lab.NewSetLinkInfo(seen[i].Own)))
			}
			for i := range seen {
				must(t, lab.Poll(lab.Patience, func() bool { return len(s.Received(i)) == 3 }))
				if m := s.Received(i)[2]; m.Type != lab.SetLinkInfo || m.PeerCallID != seen[i].Own {
					t.Errorf("the server gets %v, want Set-Link-Info for its own %v", m, seen[i].Own)
				}
			}
			for _, c := range []*lab.Client{a, b} {
				must(t, c.GRE.Quiet(silence))
			}
		})
	}
}

func TestSequenceAcknowledgementAndBoth(t *testing.T) {
	overDataPaths(t, testSequenceAcknowledgementAndBoth)
}

func testSequenceAcknowledgementAndBoth(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	s := g.server(lab.Behaviour{Refuse: true, Answer: func(lab.CallRecord, []byte) []byte { return nil }})
	clients := []*lab.Client{g.client(0), g.client(1)}
	for _, c := range clients {
		callOn(t, c, 7)
	}
	seen := s.Calls()
	shapes := []lab.Packet{
		{Seq: new(uint32(1)), Payload: []byte("sequence")},
		{Seq: new(uint32(2)), Ack: new(uint32(1)), Payload: []byte("both")},
		{Ack: new(uint32(2))},
	}
	for i, c := range clients {
		for _, shape := range shapes {
			out := shape
			out.Dst, out.CallID = g.Outside[0].Addr, seen[i].Own
			must(t, c.GRE.Send(out))
			back := shape
			back.Dst, back.CallID = lab.GatewayPublic, seen[i].Peer
			must(t, s.GRE.Send(back))
			p, err := c.GRE.Recv(lab.Patience)
			must(t, err)
			if p.CallID != 7 || p.Src != g.Outside[0].Addr || !bytes.Equal(p.Payload, shape.Payload) ||
				(p.Seq == nil) != (shape.Seq == nil) || (p.Ack == nil) != (shape.Ack == nil) {
				t.Errorf("client %d receives %v of %v", i, p, shape)
			}
		}
		must(t, lab.Poll(lab.Patience, func() bool { return len(s.Calls()[i].Received) == len(shapes) }))
		must(t, c.GRE.Quiet(silence))
	}
}

func TestForeignGREReachesNobodyInside(t *testing.T) {
	overDataPaths(t, testForeignGREReachesNobodyInside)
}

func testForeignGREReachesNobodyInside(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, Firewall: true})
	s := g.server(lab.Behaviour{})
	clients := []*lab.Client{g.client(0), g.client(1)}
	for _, c := range clients {
		exchange(t, callOn(t, c, 7))
	}
	stranger, err := lab.OpenGRE(g.Outside[1], g.Outside[1].Addr)
	must(t, err)
	closeAfter(t, stranger)
	for _, call := range s.Calls() {
		must(t, stranger.Send(lab.Packet{Dst: lab.GatewayPublic, CallID: call.Peer, Seq: new(uint32(9)), Payload: []byte("from a stranger")}))
	}
	for range 200 {
		id := pptp.CallID(1000 + rand.IntN(60000))
		must(t, s.GRE.Send(lab.Packet{Dst: lab.GatewayPublic, CallID: id, Seq: new(uint32(9)), Payload: []byte("to nobody")}))
	}
	for _, c := range clients {
		must(t, c.GRE.Quiet(silence))
	}
}

// TestNoRace has the server send GRE in the instant before its reply, a hundred
// times over: the translation is there before the request is let go.
func TestNoRace(t *testing.T) { overDataPaths(t, testNoRace) }

func testNoRace(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	g.server(lab.Behaviour{Refuse: true, Early: [][]byte{[]byte("early")}})
	other := g.client(1)
	callOn(t, other, 7)
	c := g.client(0)
	for i := range 100 {
		call := callOn(t, c, pptp.CallID(i))
		if got, err := call.Recv(lab.Patience); err != nil || string(got) != "early" {
			t.Fatalf("call %d: the packet before the reply: %q, %v", i, got, err)
		}
		must(t, call.Clear())
		_, err := c.Expect(lab.CallDisconnectNotify, lab.Patience)
		must(t, err)
	}
}

func TestRealClientsAndServer(t *testing.T) { overDataPaths(t, testRealClientsAndServer) }

func testRealClientsAndServer(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	d, err := lab.StartPPTPD(g.Outside[0], lab.PPTPDOptions{})
	must(t, err)
	closeAfter(t, d)
	id := pptp.CallID(7)
	processes := map[int]bool{}
	var clients []*lab.PPTP
	for i, h := range g.Inside {
		p, err := lab.StartPPTP(h, lab.PPTPOptions{Server: g.Outside[0].Addr, CallID: &id})
		must(t, err)
		closeAfter(t, p)
		hello, err := p.RecvProof(lab.Hello, 2*lab.Patience)
		must(t, err)
		must(t, p.Send(fmt.Appendf(nil, "frame of client %d", i)))
		echo, err := p.RecvProof(lab.Echo, lab.Patience)
		must(t, err)
		if echo.PID != hello.PID || string(echo.Payload) != fmt.Sprintf("frame of client %d", i) {
			t.Errorf("client %d: %v answers a frame, %v said hello", i, echo, hello)
		}
		processes[hello.PID] = true
		clients = append(clients, p)
	}
	if len(processes) != 2 {
		t.Errorf("processes %v serve two clients", processes)
	}
	calls := g.wantCalls(2)
	for _, c := range calls {
		if c.PNS.CallID == nil || *c.PNS.CallID != 7 || c.State != "established" {
			t.Errorf("call %+v", c)
		}
	}
	// pptp-linux clears its call; poptop answers by closing TCP, without a notify.
	must(t, clients[0].HangUp(lab.Patience))
	g.wantCalls(1)
	g.wantEntries(2)
}

func TestCallList(t *testing.T) { overDataPaths(t, testCallList) }

func testCallList(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(100)})
	callOn(t, g.client(0), 7)
	callOn(t, g.client(1), 7)
	code, stdout, stderr := pptpalg(t, "calls", "--json", "--state-dir", g.state)
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	var calls []struct {
		PNS, PAC struct {
			Address       string
			PublicAddress string `json:"public_address"`
			CallID        int    `json:"call_id"`
			PublicCallID  int    `json:"public_call_id"`
		}
		State, Since string
		Control      struct{ Src, Dst string }
	}
	decode(t, stdout, &calls)
	keeps(t, "calls", stdout)
	if len(calls) != 2 {
		t.Fatalf("%d calls in %s", len(calls), stdout)
	}
	first, second := calls[0], calls[1]
	if first.PNS.Address != "10.77.0.10" || first.PNS.PublicAddress != "203.0.113.1" || first.PNS.CallID != 7 || first.PNS.PublicCallID != 7 {
		t.Errorf("PNS of the first call: %+v", first.PNS)
	}
	if second.PNS.CallID != 7 || second.PNS.PublicCallID == 7 {
		t.Errorf("PNS of the second call: %+v", second.PNS)
	}
	if first.PAC.Address != "203.0.113.10" || first.PAC.CallID != 100 || first.PAC.PublicCallID != 100 {
		t.Errorf("PAC of the first call: %+v", first.PAC)
	}
	if first.State != "established" || !strings.HasPrefix(first.Control.Src, "10.77.0.10:") || first.Control.Dst != "203.0.113.10:1723" {
		t.Errorf("the first call: %+v", first)
	}
	_, text, _ := pptpalg(t, "calls", "--state-dir", g.state)
	if lines := strings.Split(strings.TrimSpace(text), "\n"); len(lines) != 3 || !strings.Contains(lines[1], " 10.77.0.10/7 ") {
		t.Errorf("the table:\n%s", text)
	}
}

func TestEndsOfCalls(t *testing.T) { overDataPaths(t, testEndsOfCalls) }

func testEndsOfCalls(t *testing.T, path datapath.Name) {
	ends := map[string]func(t *testing.T, s *lab.Server, c *lab.Client, call *lab.Call){
		"cleared": func(t *testing.T, _ *lab.Server, c *lab.Client, call *lab.Call) {
			must(t, call.Clear())
		},
		"disconnected": func(t *testing.T, s *lab.Server, _ *lab.Client, call *lab.Call) {
			must(t, s.Sessions()[1].Send(lab.NewCallDisconnectNotify(call.Peer, 1)))
		},
		"stopped": func(t *testing.T, _ *lab.Server, c *lab.Client, _ *lab.Call) {
			must(t, c.Send(lab.NewStopRequest()))
		},
		"finished": func(t *testing.T, s *lab.Server, c *lab.Client, _ *lab.Call) {
			must(t, c.Control.Close())
		},
		"reset": func(t *testing.T, s *lab.Server, c *lab.Client, _ *lab.Call) {
			must(t, c.Reset())
		},
	}
	for cause, end := range ends {
		t.Run(cause, func(t *testing.T) {
			g := startGateway(t, path, masquerade(2))
			s := g.server(lab.Behaviour{Refuse: true})
			other := callOn(t, g.client(1), 7)
			c := g.client(0)
			call := callOn(t, c, 7)
			exchange(t, other, call)
			g.wantEntries(4)
			end(t, s, c, call)
			g.wantCalls(1)
			g.wantEntries(2)
			exchange(t, other)
			closed := func() bool { return g.metric(`pptpalg_calls_closed_total{reason="`+cause+`"}`) == "1" }
			if lab.Poll(lab.Patience, closed) != nil {
				t.Errorf("none is closed for %s:\n%s", cause, g.metrics())
			}
		})
	}
}

func TestRefusedCall(t *testing.T) { overDataPaths(t, testRefusedCall) }

func testRefusedCall(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(1))
	g.server(lab.Behaviour{Message: func(s *lab.Session, m lab.Message) bool {
		return m.Type == lab.OutgoingCallRequest && s.Send(lab.NewOutgoingCallReply(0, m.CallID, lab.ResultBusy)) == nil
	}})
	_, err := g.client(0).Call(7)
	if r := (*lab.Refusal)(nil); !errors.As(err, &r) {
		t.Fatalf("the client gets %v", err)
	}
	g.wantCalls(0)
	g.wantEntries(0)
}

// TestStaleEntry has GRE of an earlier time stand in the way of a call's entries.
func TestStaleEntry(t *testing.T) { overDataPaths(t, testStaleEntry) }

func testStaleEntry(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	s := g.server(lab.Behaviour{NextID: lab.Fixed(100)})
	early, err := lab.OpenGRE(g.Inside[0], g.Inside[0].Addr)
	must(t, err)
	closeAfter(t, early)
	must(t, early.Send(lab.Packet{Dst: g.Outside[0].Addr, CallID: 100, Seq: new(uint32(1)), Payload: []byte("too early")}))
	must(t, s.GRE.Send(lab.Packet{Dst: lab.GatewayPublic, CallID: 7, Seq: new(uint32(1)), Payload: []byte("too early")}))
	stale := func() bool { return strings.Count(g.entries(), "src=203.0.113.10 ") == 2 }
	must(t, lab.Poll(lab.Patience, stale))
	exchange(t, callOn(t, g.client(0), 7))
}

// What is not PPTP goes through as it is.
func TestNotPPTP(t *testing.T) { overDataPaths(t, testNotPPTP) }

func testNotPPTP(t *testing.T, path datapath.Name) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 3<<20)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	hostile := []byte{0xff, 0xff, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, 7, 0, 0}
	tests := map[string][]byte{
		"megabytes":       random,
		"hostile lengths": bytes.Repeat(hostile, 1000),
		"zero lengths":    bytes.Repeat([]byte{0, 0, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, 7, 0, 0}, 1000),
		"a call request":  lab.NewOutgoingCallRequest(7).Bytes(),
		"junk, then PPTP": append([]byte("junk"), lab.NewStartRequest().Bytes()...),
		"Start, then junk": append(append(lab.NewStartRequest().Bytes(), hostile...),
			bytes.Repeat([]byte{0x1a, 0x2b, 0x3c, 0x4d}, 1000)...),
	}
	g := startGateway(t, path, masquerade(2))
	l, err := g.Outside[0].Listen(netip.AddrPortFrom(g.Outside[0].Addr, lab.Port))
	must(t, err)
	closeAfter(t, l)
	for name, sent := range tests {
		t.Run(name, func(t *testing.T) {
			got := make(chan []byte, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					got <- nil
					return
				}
				defer conn.Close()
				b, _ := io.ReadAll(conn)
				got <- b
			}()
			conn, err := g.Inside[0].Dial(context.Background(), netip.AddrPort{}, netip.AddrPortFrom(g.Outside[0].Addr, lab.Port))
			must(t, err)
			_, err = conn.Write(sent)
			must(t, err)
			must(t, conn.Close())
			if b := <-got; !bytes.Equal(b, sent) {
				t.Errorf("%d bytes arrived of %d, or they differ", len(b), len(sent))
			}
		})
	}
	g.wantCalls(0)
}

// TestKilled: calls outlive the daemon, if the kernel translates them without it, and
// control connections go on unedited.
func TestKilled(t *testing.T) { overDataPaths(t, testKilled) }

func testKilled(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	s := g.server(lab.Behaviour{Refuse: true})
	a, b := g.client(0), g.client(1)
	calls := []*lab.Call{callOn(t, a, 7), callOn(t, b, 7)}
	exchange(t, calls...)
	g.kill()
	if path == datapath.Kernel {
		exchange(t, calls...)
	}
	for i, c := range []*lab.Client{a, b} {
		must(t, c.Send(lab.NewEchoRequest(uint32(i))))
		_, err := c.Expect(lab.EchoReply, lab.Patience)
		must(t, err)
	}
	must(t, a.Send(lab.NewSetLinkInfo(s.Calls()[0].Own)))
	code, _, stderr := pptpalg(t, "calls", "--state-dir", g.state)
	if code != 1 || !strings.Contains(stderr, "no daemon is running") {
		t.Errorf("calls without a daemon: exit %d, %q", code, stderr)
	}
	// It starts again over what it left behind.
	g.start()
	exchange(t, calls...)
	exchange(t, callOn(t, g.client(0), 9))
}

// TestTerminated: SIGTERM removes the rules and leaves the calls.
func TestTerminated(t *testing.T) { overDataPaths(t, testTerminated) }

func testTerminated(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(1))
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	if !g.hasRules() {
		t.Errorf("rules while it runs:\n%s", g.rules())
	}
	g.stop()
	if g.hasRules() {
		t.Errorf("rules after its end:\n%s", g.rules())
	}
	if path == datapath.Kernel {
		exchange(t, call)
		g.wantEntries(2)
	}
}

func TestKernelHelperIsLeftAlone(t *testing.T) { overDataPaths(t, testKernelHelperIsLeftAlone) }

func testKernelHelperIsLeftAlone(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(2))
	must(t, g.AttachKernelHelper(t.Context()))
	g.start()
	g.server(lab.Behaviour{Refuse: true})
	exchange(t, callOn(t, g.client(0), 7), callOn(t, g.client(1), 7))
	g.wantCalls(0)
	must(t, g.log.WaitFor("the kernel's own helper edits this connection", lab.Patience))
	if n := g.metric("pptpalg_control_connections_untouched"); n != "2" {
		t.Errorf("connections left to the helper: %q", n)
	}
}

// TestLeftAlone: of a connection that is let alone nothing is queued any more, in the
// ways in which the kernel can be told.
func TestLeftAlone(t *testing.T) {
	const each, first = 12, 2 // TCP may repeat some of the others
	for _, tt := range []struct {
		bypass string
		left   bool
	}{{"none", false}, {"label:118", true}, {"mark:0x2000", true}} {
		t.Run(tt.bypass, func(t *testing.T) {
			g := startGateway(t, datapath.Auto, lab.Options{Inside: 1, Outside: 1}, "--bypass", tt.bypass, "--untranslated", "leave")
			g.server(lab.Behaviour{})
			c := g.client(0)
			for i := range 6 {
				must(t, c.Send(lab.NewEchoRequest(uint32(i))))
				_, err := c.Expect(lab.EchoReply, lab.Patience)
				must(t, err)
			}
			if n := g.number(`pptpalg_packets_total{reason="untranslated",verdict="accept"}`); n < first || (n < each) != tt.left {
				t.Errorf("%v packets were queued", n)
			}
			must(t, c.Close())
			forgotten := func() bool { return g.metric("pptpalg_control_connections_untouched") == "0" }
			must(t, lab.Poll(lab.Patience, forgotten))
		})
	}
}

// TestCannotStart: a daemon that finds something taken says what, and leaves the fast path of an
// earlier daemon loaded, and its calls as they are.
func TestCannotStart(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.startFast("tc")
	g.server(lab.Behaviour{Refuse: true})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	g.stop()
	g.squat()
	var metrics net.Listener
	must(t, g.Gateway.Do(func() (err error) {
		metrics, err = net.Listen("tcp", "127.0.0.1:9723")
		return err
	}))
	defer metrics.Close()
	before := g.programs()
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"queue taken", []string{"--listen", ""}, "queue 1723 is bound by pid"},
		{"port taken", []string{"--queue", "5", "--rules", "none", "--listen", "127.0.0.1:9723"}, "choose another address with --listen"},
		{"event log not to be had", []string{"--queue", "5", "--listen", "", "--event-log", filepath.Join(g.state, "no/log")}, "choose another file with --event-log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.wantRefused(tt.want, append(tt.args, "--state-dir", g.state, "--fastpath-dir", g.bpfDir())...)
		})
	}
	if n := g.programs(); n != before || n == 0 {
		t.Errorf("%d programs are attached, and were %d", n, before)
	}
	exchange(t, call)
}

func TestMetrics(t *testing.T) {
	g := startGateway(t, datapath.Auto, masquerade(1))
	g.server(lab.Behaviour{})
	callOn(t, g.client(0), 7)
	for series, want := range map[string]string{
		"pptpalg_calls":               "1",
		"pptpalg_calls_opened_total":  "1",
		"pptpalg_control_connections": "1",
		`pptpalg_control_messages_total{type="Outgoing-Call-Request"}`:  "1",
		`pptpalg_control_messages_total{type="Call-Disconnect-Notify"}`: "0",
		`pptpalg_calls_closed_total{reason="finished"}`:                 "0",
		`pptpalg_conntrack_errors_total{operation="create"}`:            "0",
		`pptpalg_packets_total{reason="read",verdict="accept"}`:         "4",
		`pptpalg_build_info{version="` + buildVersion() + `"}`:          "1",
		`pptpalg_anomalies_total{kind="unknown_call"}`:                  "0",
	} {
		if got := g.metric(series); got != want {
			t.Errorf("%s is %q, want %s", series, got, want)
		}
	}
	if n := g.metric("pptpalg_verdict_seconds_count"); n == "" || n == "0" {
		t.Errorf("verdicts timed: %q", n)
	}
}
