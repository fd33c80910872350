package main

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Every message about a call other than those that open one, as real peers send it.

// TestNotifies has a call end by each kind of Call-Disconnect-Notify, and by none,
// while another client's call has the same ID.
func TestNotifies(t *testing.T) { overDataPaths(t, testNotifies) }

func testNotifies(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 5, Masquerade: true, Firewall: true})
	tests := []struct {
		notify lab.Notify
		want   func(call *lab.Call) pptp.CallID // nil: no notify
	}{
		{lab.NotifyOwn, func(call *lab.Call) pptp.CallID { return call.Peer }},
		{lab.NotifyPeer, func(call *lab.Call) pptp.CallID { return call.Own }},
		{lab.NotifySwapped, func(call *lab.Call) pptp.CallID { return call.Own.Swap() }},
		{lab.NotifyNever, nil},
		{lab.NotifyHangUp, nil},
	}
	for i, tt := range tests {
		t.Run(tt.notify.String(), func(t *testing.T) {
			s := serverOn(t, g.Outside[i], lab.Behaviour{Refuse: true, Notify: tt.notify, NextID: lab.Counting(900)})
			other := callOn(t, clientOn(t, g.Inside[0], s.Host.Addr), 7)
			c := clientOn(t, g.Inside[1], s.Host.Addr)
			call := callOn(t, c, 7)
			exchange(t, other, call)
			must(t, call.Clear())
			switch {
			case tt.want != nil:
				m, err := c.Expect(lab.CallDisconnectNotify, lab.Patience)
				must(t, err)
				if want := tt.want(call); m.CallID != want {
					t.Errorf("the client is notified of %v, want %v", m.CallID, want)
				}
			case tt.notify == lab.NotifyHangUp:
				if before, err := c.ExpectEnd(lab.Patience); err != nil || len(before) != 0 {
					t.Errorf("%v, then %v", before, err)
				}
			}
			g.wantCalls(1)
			g.wantEntries(2)
			exchange(t, other)
		})
	}
	if n := g.metric(`pptpalg_anomalies_total{kind="unknown_call"}`); n != "0" {
		t.Errorf("%s IDs were not known", n)
	}
}

// TestNotifiesOfAnyPAC has the PAC inside and outside, and on either end of TCP: in each
// form of the notify, the PNS finds the ID that it knows.
func TestNotifiesOfAnyPAC(t *testing.T) { overDataPaths(t, testNotifiesOfAnyPAC) }

func testNotifiesOfAnyPAC(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, DNAT: lab.DNATControl, Firewall: true}, "--ports", "1723,1724")
	outward := pairs(t, listen(t, g.Outside[0]), at1723(g.Outside[0].Addr), g.Inside...)
	servers := g.byPort(g.Inside...)
	inward := append(pairs(t, servers[0].Listener, servers[0].public, g.Outside[1]),
		pairs(t, servers[1].Listener, servers[1].public, g.Outside[1])...)
	same, other := pptp.CallID(10), pptp.CallID(900)
	for _, two := range [][]pair{outward, inward} {
		for _, ends := range [][2]func(pair) *lab.Client{{dialer, accepted}, {accepted, dialer}} {
			same++
			place := func(p pair) (atPNS, atPAC *lab.Call) {
				other++
				pns, pac := ends[0](p), ends[1](p)
				if lab.LAN.Contains(pns.Host.Addr) {
					return placed(t, pns, same, pac, other)
				}
				return placed(t, pns, other, pac, same)
			}
			heldA, heldB := place(two[0]) // takes the ID that the second is refused
			for form := range 3 {
				a, b := place(two[1])
				converse(t, a, b)
				sent := []pptp.CallID{b.Own, b.Peer, b.Peer.Swap()}[form]
				must(t, b.Client().Send(lab.NewCallDisconnectNotify(sent, 1)))
				m, err := a.Client().Expect(lab.CallDisconnectNotify, lab.Patience)
				must(t, err)
				if want := []pptp.CallID{a.Peer, a.Own, a.Own.Swap()}[form]; m.CallID != want {
					t.Errorf("form %d arrives as %v, want %v", form, m.CallID, want)
				}
			}
			converse(t, heldA, heldB)
		}
	}
	g.wantCalls(4)
	g.wantEntries(8)
}

// TestMessagesOfACall sends, in both directions, whatever else speaks of a call, or
// of none, and leaves it untouched.
func TestMessagesOfACall(t *testing.T) { overDataPaths(t, testMessagesOfACall) }

func testMessagesOfACall(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	var all [][2]*lab.Call
	for i, p := range pairs(t, listen(t, g.Outside[0]), at1723(g.Outside[0].Addr), g.Inside...) {
		a, b := placed(t, p.dialer, 7, p.accepted, pptp.CallID(900+i))
		all = append(all, [2]*lab.Call{a, b})
	}
	for _, call := range all {
		for _, way := range [][2]*lab.Call{{call[0], call[1]}, {call[1], call[0]}} {
			from, to := way[0], way[1]
			messages := []struct{ sent, want lab.Message }{
				{lab.NewSetLinkInfo(from.Peer), lab.NewSetLinkInfo(to.Own)},
				{lab.NewWANErrorNotify(from.Peer), lab.NewWANErrorNotify(to.Own)},
				{lab.NewEchoRequest(0x00070007), lab.NewEchoRequest(0x00070007)},
				{lab.NewEchoReply(0x00070007, lab.ResultOK), lab.NewEchoReply(0x00070007, lab.ResultOK)},
				{lab.NewCallClearRequest(4711), lab.NewCallClearRequest(4711)},
				{lab.NewCallDisconnectNotify(4712, 1), lab.NewCallDisconnectNotify(4712, 1)},
				{lab.NewSetLinkInfo(4713), lab.NewSetLinkInfo(4713)},
			}
			for _, m := range messages {
				must(t, from.Client().Send(m.sent))
				if got, err := to.Client().Read(lab.Patience); err != nil || got != m.want {
					t.Errorf("%v arrives as %v, %v, want %v", m.sent, got, err, m.want)
				}
			}
		}
	}
	for _, c := range all {
		converse(t, c[0], c[1])
	}
	g.wantCalls(2)
	// Three messages each way on each connection speak of a call that is unknown.
	if n := g.metric(`pptpalg_anomalies_total{kind="unknown_call"}`); n != "12" {
		t.Errorf("%s IDs were not known, want 12", n)
	}
	// A Stop ends the calls, and its reply comes back.
	must(t, all[0][0].Client().Send(lab.NewStopRequest()))
	_, err := all[0][1].Client().Expect(lab.StopRequest, lab.Patience)
	must(t, err)
	g.wantEntries(2)
	must(t, all[0][1].Client().Send(lab.NewStopReply(lab.ResultOK)))
	_, err = all[0][0].Client().Expect(lab.StopReply, lab.Patience)
	must(t, err)
	converse(t, all[1][0], all[1][1])
}

// TestRefusals has calls of both kinds refused, by servers outside and inside, with
// Call ID 0 in the reply as most servers write it, and with others.
func TestRefusals(t *testing.T) { overDataPaths(t, testRefusals) }

func testRefusals(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, lab.Options{Inside: 2, Outside: 2, Masquerade: true, DNAT: lab.DNATControl, Firewall: true})
	outward := pairs(t, listen(t, g.Outside[0]), at1723(g.Outside[0].Addr), g.Inside...)
	inward := pairs(t, listen(t, g.Inside[0]), at1723(lab.PublicOf(0)), g.Outside...)
	for _, p := range append(outward, inward...) {
		for _, sid := range []pptp.CallID{0, 7, 900} {
			refuse(t, p, lab.NewOutgoingCallRequest(7), lab.NewOutgoingCallReply(sid, 0, lab.ResultBusy))
			refuse(t, p, lab.NewIncomingCallRequest(7), lab.NewIncomingCallReply(sid, 0, 3))
		}
	}
	g.wantCalls(0)
	g.wantEntries(0)
	const refused = `pptpalg_calls_closed_total{reason="refused"}`
	if lab.Poll(lab.Patience, func() bool { return g.metric(refused) == "24" }) != nil {
		t.Errorf("%s calls were refused, want 24", g.metric(refused))
	}
}

// refuse has the dialer ask for a call and the other end refuse it.
func refuse(t *testing.T, p pair, request, reply lab.Message) {
	t.Helper()
	must(t, p.dialer.Send(request))
	m, err := p.accepted.Expect(request.Type, lab.Patience)
	must(t, err)
	reply.PeerCallID = m.CallID
	must(t, p.accepted.Send(reply))
	got, err := p.dialer.Read(lab.Patience)
	must(t, err)
	reply.PeerCallID = request.CallID
	if lab.LAN.Contains(p.accepted.Host.Addr) {
		// An inside end's ID is translated before the result is read: that it
		// is no call's is not known yet.
		reply.CallID = got.CallID
	}
	if got != reply {
		t.Errorf("the refusal arrives as %v, want %v", got, reply)
	}
}

// TestSecondRequest asks for a second call under an ID in use on the connection: it
// takes the place of the first, and keeps its public form.
func TestSecondRequest(t *testing.T) { overDataPaths(t, testSecondRequest) }

func testSecondRequest(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	s := g.server(lab.Behaviour{NextID: lab.Counting(900)})
	other := callOn(t, g.client(0), 7)
	c := g.client(1)
	first := callOn(t, c, 7)
	exchange(t, first)
	second := callOn(t, c, 7)
	seen := s.Calls()
	if seen[1].Peer != seen[2].Peer || first.Peer == second.Peer {
		t.Errorf("the server sees %v, then %v", seen[1], seen[2])
	}
	g.wantCalls(2)
	g.wantEntries(4)
	if n := g.metric(`pptpalg_calls_closed_total{reason="replaced"}`); n != "1" {
		t.Errorf("%s calls were replaced", n)
	}
	must(t, second.Send([]byte("to the second")))
	must(t, lab.Poll(lab.Patience, func() bool { return len(s.Calls()[2].Received) == 1 }))
	exchange(t, other)
}

// many is how many calls one connection carries at once in the tests below.
const many = 300

// TestManyCalls opens many calls on one connection, all at once, each under an ID
// that another client has, and clears them one by one.
func TestManyCalls(t *testing.T) { overDataPaths(t, testManyCalls) }

func testManyCalls(t *testing.T, path datapath.Name) {
	g := startGateway(t, path, masquerade(2))
	g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(5000)})
	for i := range 2 {
		c := g.client(i)
		var requests []lab.Message
		for id := range pptp.CallID(many) {
			requests = append(requests, lab.NewOutgoingCallRequest(id))
		}
		must(t, c.Send(requests...))
		calls := map[pptp.CallID]*lab.Call{}
		for range many {
			m, err := c.Expect(lab.OutgoingCallReply, lab.Patience)
			must(t, err)
			calls[m.PeerCallID] = c.Placed(m)
		}
		if len(calls) != many {
			t.Fatalf("%d calls are up, want %d", len(calls), many)
		}
		if i == 0 {
			continue // this one only holds the IDs
		}
		g.clearOneByOne(c, calls)
	}
	g.wantCalls(many)
	g.wantEntries(2 * many)
}

// clearOneByOne clears calls of a client in some order. After each, the next ones
// still carry GRE.
func (g *testGateway) clearOneByOne(c *lab.Client, calls map[pptp.CallID]*lab.Call) {
	g.t.Helper()
	for _, call := range calls {
		must(g.t, call.Exchange(fmt.Appendf(nil, "call %v", call.Own), lab.Patience))
	}
	left := slices.Collect(maps.Values(calls))
	for i, call := range left {
		must(g.t, call.Clear())
		_, err := c.Expect(lab.CallDisconnectNotify, lab.Patience)
		must(g.t, err)
		for _, other := range left[i+1 : min(i+4, len(left))] {
			must(g.t, other.Exchange(fmt.Appendf(nil, "call %v after %d others", other.Own, i+1), lab.Patience))
		}
	}
}
