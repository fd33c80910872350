package main

import (
	"bytes"
	"strings"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// What a data path does for a call beside its own packets.

func openICMP(t *testing.T, h *lab.Host) *lab.ICMP {
	t.Helper()
	c, err := lab.OpenICMP(h, h.Addr)
	must(t, err)
	closeAfter(t, c)
	return c
}

// TestFragmentationNeeded has routers on either side, and the gateway itself, say
// that a packet of a call is too big for the way ahead. Its sender must be told in
// terms that it knows: its own addresses, and the Call ID that it wrote.
func TestFragmentationNeeded(t *testing.T) { overDataPaths(t, testFragmentationNeeded) }

func testFragmentationNeeded(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, Firewall: true})
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(900)})
	exchange(t, callOn(t, g.client(0), 7))
	client := g.client(1)
	call := callOn(t, client, 7)
	exchange(t, call)
	public := s.Calls()[1].Peer
	if public == 7 {
		t.Fatal("the call's ID is not translated")
	}
	router, atServer, atClient := openICMP(t, g.Outside[1]), openICMP(t, s.Host), openICMP(t, client.Host)
	fromClient := lab.TooBig{Dst: client.Host.Addr, MTU: 1000, QuotSrc: client.Host.Addr, QuotDst: s.Host.Addr, QuotCallID: call.Peer}
	fromServer := lab.TooBig{Dst: s.Host.Addr, MTU: 1000, QuotSrc: s.Host.Addr, QuotDst: lab.GatewayPublic, QuotCallID: public}

	// These first: a host that was told once sends nothing so big again.
	for _, dev := range []string{"lan", "wan"} {
		_, err := g.Gateway.Run(t.Context(), "ip", "link", "set", dev, "mtu", "1000")
		must(t, err)
	}
	big := bytes.Repeat([]byte("big "), 300)
	t.Run("by the gateway, to the client", func(t *testing.T) {
		must(t, client.GRE.Send(lab.Packet{Dst: s.Host.Addr, CallID: call.Peer, Seq: new(uint32(10)), Payload: big, Whole: true}))
		fromClient.Src = lab.GatewayInside
		wantTooBig(t, atClient, fromClient)
	})
	t.Run("by a router outside", func(t *testing.T) {
		must(t, router.Send(lab.TooBig{Dst: lab.GatewayPublic, MTU: 1000,
			QuotSrc: lab.GatewayPublic, QuotDst: s.Host.Addr, QuotCallID: call.Peer}))
		fromClient.Src = g.Outside[1].Addr
		wantTooBig(t, atClient, fromClient)
	})
	t.Run("by the gateway, to the server", func(t *testing.T) {
		must(t, s.GRE.Send(lab.Packet{Dst: lab.GatewayPublic, CallID: public, Seq: new(uint32(10)), Payload: big, Whole: true}))
		fromServer.Src = lab.GatewayPublic
		wantTooBig(t, atServer, fromServer)
	})
	t.Run("by an inside host", func(t *testing.T) {
		must(t, atClient.Send(lab.TooBig{Dst: s.Host.Addr, MTU: 1000,
			QuotSrc: s.Host.Addr, QuotDst: client.Host.Addr, QuotCallID: 7}))
		fromServer.Src = lab.GatewayPublic
		wantTooBig(t, atServer, fromServer)
	})
	exchange(t, call)
}

func wantTooBig(t *testing.T, at *lab.ICMP, want lab.TooBig) {
	t.Helper()
	got, err := at.Recv(lab.Patience)
	must(t, err)
	if got != want {
		t.Errorf("got  %v, want\n     %v", got, want)
	}
}

// TestSilentCall has a call be silent for longer than the kernel keeps an ordinary
// GRE entry: one that was made with the call's last packet shows when that is.
func TestSilentCall(t *testing.T) { overDataPaths(t, testSilentCall) }

func testSilentCall(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, Firewall: true})
	s := g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	exchange(t, calls...)
	for _, timeout := range []string{"nf_conntrack_gre_timeout", "nf_conntrack_gre_timeout_stream"} {
		must(t, g.Gateway.SetSysctl("net.netfilter."+timeout, "1"))
	}
	ordinary, err := lab.OpenGRE(g.Inside[0], g.Inside[0].Addr)
	must(t, err)
	closeAfter(t, ordinary)
	for range 2 {
		gone := func() bool { return !strings.Contains(g.entries(), g.Outside[1].Addr.String()) }
		must(t, lab.Poll(lab.Patience, func() bool {
			must(t, ordinary.Send(lab.Packet{Dst: g.Outside[1].Addr, CallID: 4711, Seq: new(uint32(1)), Payload: []byte("of no call")}))
			return !gone()
		}))
		must(t, lab.Poll(lab.Patience, gone))
		for i, c := range s.Calls() { // the server first: nothing from inside opens its way
			must(t, s.Send(i, []byte("after the silence")))
			got, err := calls[i].Recv(lab.Patience)
			must(t, err)
			if string(got) != "after the silence" {
				t.Errorf("call %v receives %q", pptp.CallID(c.Peer), got)
			}
		}
		exchange(t, calls...)
	}
}
