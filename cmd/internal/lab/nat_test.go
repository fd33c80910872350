package lab

import (
	"errors"
	"fmt"
	"testing"

	"pptpalg/alg/pptp"
)

// The same two clients with the same Call ID, behind one public address. With an
// editor both work; without one they do not, and the lab can see it.

func TestEqualCallIDsWithKernelHelper(t *testing.T) {
	n := build(t, Options{Inside: 2, Outside: 1, Masquerade: true, Firewall: true})
	must(t, n.AttachKernelHelper(ctx(t)))
	s := server(t, n.Outside[0], Behaviour{Refuse: true})
	var calls []*Call
	for _, h := range n.Inside {
		calls = append(calls, call(t, client(t, h, s.Host.Addr), 7))
	}
	for i := range 3 {
		for j, c := range calls {
			must(t, c.Exchange(fmt.Appendf(nil, "client %d, packet %d", j, i), Patience))
		}
	}
	seen := s.Calls()
	if seen[0].Peer == seen[1].Peer || seen[0].Remote != GatewayPublic || seen[1].Remote != GatewayPublic {
		t.Errorf("server saw %v", seen)
	}
}

func TestEqualCallIDsOfRealClientsWithKernelHelper(t *testing.T) {
	n := build(t, Options{Inside: 2, Outside: 1, Masquerade: true, Firewall: true})
	must(t, n.AttachKernelHelper(ctx(t)))
	pptpd(t, n.Outside[0], PPTPDOptions{})
	id := pptp.CallID(7)
	var clients []*PPTP
	var copies []*GRE // of what the clients receive
	for _, h := range n.Inside {
		g, err := OpenGRE(h, h.Addr)
		must(t, err)
		closeAfter(t, g)
		copies = append(copies, g)
		clients = append(clients, realClient(t, h, PPTPOptions{Server: n.Outside[0].Addr, CallID: &id}))
	}
	processes := map[int]bool{}
	for i, p := range clients {
		hello, err := p.RecvProof(Hello, 2*Patience)
		must(t, err)
		processes[hello.PID] = true
		must(t, exchange(p, hello, fmt.Sprintf("client %d", i), Patience))
		if _, err := copies[i].RecvCall(id, Patience); err != nil {
			t.Errorf("client %d has not Call ID %v: %v", i, id, err)
		}
	}
	if len(processes) != 2 {
		t.Errorf("processes %v serve two clients", processes)
	}
}

func TestEqualCallIDsWithoutEditorAreRefused(t *testing.T) {
	n := build(t, Options{Inside: 2, Outside: 1, Masquerade: true})
	s := server(t, n.Outside[0], Behaviour{Refuse: true})
	call(t, client(t, n.Inside[0], s.Host.Addr), 7)
	_, err := client(t, n.Inside[1], s.Host.Addr).Call(7)
	if r := (*Refusal)(nil); !errors.As(err, &r) || r.Reply.Result != ResultBusy {
		t.Errorf("got %v", err)
	}
}

func TestEqualCallIDsWithoutEditorGoAstray(t *testing.T) {
	n := build(t, Options{Inside: 2, Outside: 1, Masquerade: true})
	s := server(t, n.Outside[0], Behaviour{})
	atGateway, err := OpenGRE(n.Gateway, GatewayPublic)
	must(t, err)
	closeAfter(t, atGateway)
	for i, h := range n.Inside {
		c := call(t, client(t, h, s.Host.Addr), 7)
		must(t, c.Send([]byte("hello?")))
		must(t, Poll(Patience, func() bool { return len(s.Calls()[i].Received) == 1 }))
		p, err := atGateway.RecvCall(7, Patience)
		if err != nil || string(p.Payload) != "hello?" {
			t.Errorf("the answer went elsewhere: %v, %v", p, err)
		}
		if got, err := c.Recv(silence); err == nil {
			t.Errorf("client %d received %q", i, got)
		}
	}
}

// With a whole address translated to it, one inside server works without any
// editor: tests of an editor want DNATControl.
func TestInsideServerByAddress(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1, DNAT: DNATAddress})
	s := server(t, n.Inside[0], Behaviour{})
	c := call(t, client(t, n.Outside[0], PublicOf(0)), 7)
	must(t, c.Send([]byte("in")))
	must(t, Poll(Patience, func() bool { return len(s.Calls()[0].Received) == 1 }))
}

func TestInsideServerByControlPortNeedsAnEditor(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1, DNAT: DNATControl})
	s := server(t, n.Inside[0], Behaviour{})
	c := call(t, client(t, n.Outside[0], PublicOf(0)), 7)
	must(t, c.Send([]byte("in")))
	must(t, s.GRE.Quiet(silence))
	if got := s.Calls()[0].Received; got != nil {
		t.Errorf("received %v", got)
	}
}
