package main

import (
	"bytes"
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/replay"
)

var capture = flag.Bool("capture", false, "make the captures in testdata anew: go test ./cmd/pptpalg -run TestCapture -capture")

// captures is where the captures lie that the tests of replay read.
const captures = "../../testdata"

// pptpOnly is what is captured.
const pptpOnly = "tcp port 1723 or proto gre"

// session is what happens on the network of a capture.
type session struct {
	name     string
	unedited bool     // the gateway does not run pptpalg
	anywhere bool     // captured on all interfaces at once, cooked
	tcpdump  []string // more arguments
	calls    int      // that must have ended when the capture ends, with their connections
	play     func(t *testing.T, g *testGateway)
}

// sessions are the captures, each from inside (-lan) and from outside (-wan).
var sessions = []session{
	{name: "hangup", calls: 2, play: realHangUp},
	{name: "killed", calls: 2, play: realKilled},
	{name: "unedited", unedited: true, calls: 2, play: sameIDUnedited},
	{name: "bytes", calls: 2, play: byteByByte},
	{name: "several", calls: 6, play: severalCalls},
	{name: "cut", tcpdump: []string{"-s", "96"}, calls: 1, play: oneCall},
	{name: "any-sll", anywhere: true, tcpdump: []string{"-y", "LINUX_SLL"}, calls: 2, play: oneCall},
	{name: "any-sll2", anywhere: true, tcpdump: []string{"-y", "LINUX_SLL2"}, calls: 2, play: oneCall},
}

// TestCapture makes the captures, if it is asked to. By default it has nothing to
// do: they are stored, and what the tests expect of replay was written down from
// these very packets.
func TestCapture(t *testing.T) {
	if !*capture {
		return
	}
	for _, s := range sessions {
		t.Run(s.name, func(t *testing.T) { s.capture(t) })
	}
}

func (s session) capture(t *testing.T) {
	g := buildGateway(t, datapath.Auto, masquerade(2))
	must(t, lab.Need("tcpdump"))
	if !s.unedited {
		g.start()
	}
	var taps []*tap
	if s.anywhere {
		taps = []*tap{s.tap(g, "any", s.name)}
	} else {
		taps = []*tap{s.tap(g, "lan", s.name+"-lan"), s.tap(g, "wan", s.name+"-wan")}
	}
	s.play(t, g)
	for _, tap := range taps {
		tap.stop(s.calls)
	}
}

// tap is a tcpdump that runs in the gateway.
type tap struct {
	t       *testing.T
	process *lab.Process
	file    string
	log     *lab.Log
}

func (s session) tap(g *testGateway, device, name string) *tap {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), name+".pcap")
	// The snap length is small, or tcpdump's ring holds a few packets only.
	args := append([]string{"-i", device, "-n", "-U", "--immediate-mode", "-Z", "root", "-s", "2048", "-w", file}, s.tcpdump...)
	cmd, err := g.Gateway.Command(context.Background(), "tcpdump", append(args, pptpOnly)...)
	must(g.t, err)
	d := &tap{t: g.t, file: file, log: new(lab.Log)}
	cmd.Stderr = d.log
	d.process, err = g.Gateway.Start(cmd)
	must(g.t, err)
	must(g.t, d.log.WaitFor("listening on", lab.Patience))
	return d
}

// stop waits until the capture has the end of so many calls, and keeps it.
func (d *tap) stop(calls int) {
	d.t.Helper()
	if err := lab.Poll(lab.Patience, func() bool { return ended(d.t, d.file) == calls }); err != nil {
		d.t.Errorf("%s: %d calls have ended, want %d", d.file, ended(d.t, d.file), calls)
	}
	must(d.t, d.process.Signal(syscall.SIGINT))
	must(d.t, d.process.Wait(lab.Patience))
	b, err := os.ReadFile(d.file)
	must(d.t, err)
	must(d.t, os.WriteFile(filepath.Join(captures, filepath.Base(d.file)), b, 0o644))
}

func ended(t *testing.T, file string) int {
	b, err := os.ReadFile(file)
	must(t, err)
	report, err := replay.Run(bytes.NewReader(b), nil, replay.Config{})
	if err != nil {
		return 0 // not yet whole
	}
	over := make(map[netip.AddrPort]bool) // who sent a FIN or RST
	for e := range report.Events.All() {
		if e.Note() == "TCP FIN" || e.Note() == "TCP RST" {
			over[e.Src()] = true
		}
	}
	n := 0
	for _, c := range report.Calls {
		if c.Ended != nil && over[c.Control.Src] {
			n++
		}
	}
	return n
}

// realClients has two pptp-linux call pptpd, both with Call ID 7, and send a frame.
func realClients(t *testing.T, g *testGateway) []*lab.PPTP {
	d, err := lab.StartPPTPD(g.Outside[0], lab.PPTPDOptions{})
	must(t, err)
	closeAfter(t, d)
	id := pptp.CallID(7)
	var clients []*lab.PPTP
	for _, h := range g.Inside {
		p, err := lab.StartPPTP(h, lab.PPTPOptions{Server: g.Outside[0].Addr, CallID: &id})
		must(t, err)
		closeAfter(t, p)
		_, err = p.RecvProof(lab.Hello, 2*lab.Patience)
		must(t, err)
		clients = append(clients, p)
	}
	for _, p := range clients {
		must(t, p.Send([]byte("a frame")))
		_, err := p.RecvProof(lab.Echo, lab.Patience)
		must(t, err)
	}
	return clients
}

func realHangUp(t *testing.T, g *testGateway) {
	for _, p := range realClients(t, g) {
		must(t, p.HangUp(2*lab.Patience))
	}
}

// realKilled ends the clients as kill -9 does: their sockets are closed for them.
func realKilled(t *testing.T, g *testGateway) {
	for _, p := range realClients(t, g) {
		must(t, p.Kill())
	}
}

// byteByByte cuts what matters in the messages into single bytes.
func byteByByte(t *testing.T, g *testGateway) {
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(1000)})
	first, c := g.client(0), g.client(1)
	callOn(t, first, 0x1234)
	cuts := make([]int, pptp.PrefixLen)
	for i := range cuts {
		cuts[i] = i + 1
	}
	must(t, c.SendCut(lab.NewOutgoingCallRequest(0x1234).Bytes(), cuts...))
	reply, err := c.Expect(lab.OutgoingCallReply, lab.Patience)
	must(t, err)
	must(t, c.SendBytes(lab.NewSetLinkInfo(reply.CallID).Bytes()))
	seen := s.Calls()[1]
	must(t, s.Sessions()[1].SendBytes(lab.NewSetLinkInfo(seen.Peer).Bytes()))
	_, err = c.Expect(lab.SetLinkInfo, lab.Patience)
	must(t, err)
	must(t, c.SendBytes(lab.NewCallClearRequest(0x1234).Bytes()))
	_, err = c.Expect(lab.CallDisconnectNotify, lab.Patience)
	must(t, err)
	must(t, first.CloseWrite())
	must(t, c.CloseWrite())
	wantEnd(t, first, c)
}

// wantEnd waits until the server has closed as well.
func wantEnd(t *testing.T, clients ...*lab.Client) {
	t.Helper()
	for _, c := range clients {
		_, err := c.ExpectEnd(lab.Patience)
		must(t, err)
	}
}

// sameIDUnedited has two clients ask for a call with one Call ID, and nobody to
// tell them apart: the server refuses the second.
func sameIDUnedited(t *testing.T, g *testGateway) {
	g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(100)})
	a, b := g.client(0), g.client(1)
	call := callOn(t, a, 7)
	must(t, call.Send([]byte("to the server")))
	if _, err := b.Call(7); err == nil {
		t.Error("the server took a Call ID twice")
	}
	for _, c := range []*lab.Client{a, b} {
		must(t, c.CloseWrite())
	}
	wantEnd(t, a, b)
}

// severalCalls has two clients with three calls each on one connection, outgoing
// and incoming ones, GRE both ways, a refusal, GRE to nobody, and different ends.
func severalCalls(t *testing.T, g *testGateway) {
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(100), Notify: lab.NotifySwapped})
	var clients []*lab.Client
	for i := range g.Inside {
		c := g.client(i)
		clients = append(clients, c)
		out, in := callOn(t, c, 7), offer(t, c, 8)
		exchange(t, out, in)
	}
	must(t, s.GRE.Send(lab.Packet{Dst: lab.GatewayPublic, CallID: 4711, Seq: new(uint32(1)), Payload: []byte("to nobody")}))
	// In one segment: a call, and an echo.
	must(t, clients[0].Send(lab.NewOutgoingCallRequest(9), lab.NewEchoRequest(1)))
	for _, want := range []lab.Type{lab.OutgoingCallReply, lab.EchoReply} {
		_, err := clients[0].Expect(want, lab.Patience)
		must(t, err)
	}
	_, err := clients[1].Call(7) // lives already, so the server refuses it
	if err == nil {
		t.Error("the server took a Call ID twice")
	}
	must(t, clients[0].Send(lab.NewCallClearRequest(7)))
	_, err = clients[0].Expect(lab.CallDisconnectNotify, lab.Patience)
	must(t, err)
	must(t, clients[0].Send(lab.NewStopRequest()))
	wantEnd(t, clients[0])
	must(t, clients[0].CloseWrite())
	must(t, clients[1].Reset())
}

func offer(t *testing.T, c *lab.Client, own pptp.CallID) *lab.Call {
	t.Helper()
	call, err := c.OfferCall(own)
	must(t, err)
	return call
}

// oneCall is a call that its client clears.
func oneCall(t *testing.T, g *testGateway) {
	g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(100)})
	c := g.client(0)
	call := callOn(t, c, 7)
	must(t, call.Exchange(bytes.Repeat([]byte("payload "), 12), lab.Patience))
	must(t, call.Clear())
	_, err := c.Expect(lab.CallDisconnectNotify, lab.Patience)
	must(t, err)
	must(t, c.CloseWrite())
	wantEnd(t, c)
}
