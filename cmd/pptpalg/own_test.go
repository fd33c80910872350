package main

import (
	"fmt"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// PPTP of the gateway itself, beside that of the hosts behind it: nothing of it is
// translated, but it shares the gateway's public address.

// TestOwnClient has the gateway's own client take IDs that inside clients then want
// too, towards the same server.
func TestOwnClient(t *testing.T) { overDataPaths(t, testOwnClient) }

func testOwnClient(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	own := clientOn(t, g.Gateway, s.Host.Addr)
	ids := []pptp.CallID{7, 0, 0x0700, 255}
	var calls []*lab.Call
	for _, id := range ids {
		calls = append(calls, callOn(t, own, id))
	}
	g.wantEntries(2 * len(ids)) // they translate nothing
	for i := range g.Inside {
		c := g.client(i)
		for _, id := range ids {
			calls = append(calls, callOn(t, c, id))
		}
	}
	exchange(t, calls...)
	seen := map[pptp.CallID]bool{}
	for i, c := range s.Calls() {
		if seen[c.Peer] || i < len(ids) && c.Peer != ids[i] {
			t.Errorf("the server knows call %d as %v", i, c.Peer)
		}
		seen[c.Peer] = true
	}
	if n := len(s.Unmatched()); n != 0 {
		t.Errorf("%d packets belonged to no call", n)
	}
	must(t, own.GRE.Quiet(silence))
	g.wantCalls(len(calls))
	// Its end frees its IDs, and touches nobody else's.
	must(t, own.Control.Close())
	g.wantCalls(len(calls) - len(ids))
	exchange(t, calls[len(ids):]...)
}

// TestOwnClientComesSecond: the ID of the gateway's own call is in use by a client
// behind it. It cannot be translated and passes; the client's call goes on.
func TestOwnClientComesSecond(t *testing.T) { overDataPaths(t, testOwnClientComesSecond) }

func testOwnClientComesSecond(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(1))
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	inside := callOn(t, g.client(0), 7)
	own := clientOn(t, g.Gateway, s.Host.Addr)
	if _, err := own.Call(7); err == nil {
		t.Error("a server that refuses an ID in use granted it twice")
	}
	exchange(t, inside, callOn(t, own, 8))
	g.wantCounted(`pptpalg_anomalies_total{kind="id_taken"}`)
}

// TestOwnServer has the gateway itself be the server of inside and outside clients.
func TestOwnServer(t *testing.T) { overDataPaths(t, testOwnServer) }

func testOwnServer(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true})
	s := serverOn(t, g.Gateway, lab.Behaviour{NextID: lab.Counting(900)})
	var calls []*lab.Call
	for _, h := range append(g.Inside, g.Outside...) {
		calls = append(calls, callOn(t, clientOn(t, h, s.Host.Addr), 7))
	}
	exchange(t, calls...)
	for _, c := range s.Calls() {
		if c.Peer != 7 {
			t.Errorf("a client that nobody translates is known as call %v, want 7", c.Peer)
		}
	}
}

// TestOwnRealClient is TestOwnClient with the programs that people run.
func TestOwnRealClient(t *testing.T) { overDataPaths(t, testOwnRealClient) }

func testOwnRealClient(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	d, err := lab.StartPPTPD(g.Outside[0], lab.PPTPDOptions{})
	must(t, err)
	closeAfter(t, d)
	id := pptp.CallID(7)
	start := func(h *lab.Host) *lab.PPTP {
		p, err := lab.StartPPTP(h, lab.PPTPOptions{Server: g.Outside[0].Addr, CallID: &id})
		must(t, err)
		closeAfter(t, p)
		return p
	}
	processes := map[int]*lab.PPTP{}
	greet := func(p *lab.PPTP) {
		hello, err := p.RecvProof(lab.Hello, 2*lab.Patience)
		must(t, err)
		processes[hello.PID] = p
	}
	greet(start(g.Gateway))
	for _, p := range []*lab.PPTP{start(g.Inside[0]), start(g.Inside[1])} {
		greet(p)
	}
	if len(processes) != 3 {
		t.Fatalf("%d processes serve three clients", len(processes))
	}
	for pid, p := range processes {
		must(t, p.Send(fmt.Appendf(nil, "to process %d", pid)))
		echo, err := p.RecvProof(lab.Echo, lab.Patience)
		must(t, err)
		if want := fmt.Sprintf("to process %d", pid); echo.PID != pid || string(echo.Payload) != want {
			t.Errorf("%v answers %q", echo, want)
		}
	}
	g.wantCalls(3)
}
