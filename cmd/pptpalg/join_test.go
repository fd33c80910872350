package main

import (
	"fmt"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// The daemon is started while control connections are up.

// TestJoinBetweenMessages: connections without a call, and one with a call that
// the daemon has not seen.
func TestJoinBetweenMessages(t *testing.T) { overDataPaths(t, testJoinBetweenMessages) }

func testJoinBetweenMessages(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(3))
	l := listen(t, g.Outside[0])
	all := pairs(t, l, at1723(g.Outside[0].Addr), g.Inside...)
	before, _ := placed(t, all[0].dialer, 9, all[0].accepted, 899)
	g.start()
	var calls [][2]*lab.Call
	for i, p := range all {
		a, b := placed(t, p.dialer, 7, p.accepted, pptp.CallID(900+i))
		calls = append(calls, [2]*lab.Call{a, b})
	}
	for i, p := range all {
		a, b := offered(t, p.accepted, pptp.CallID(910+i), p.dialer, 8)
		calls = append(calls, [2]*lab.Call{a, b})
	}
	for _, c := range calls {
		converse(t, c[0], c[1])
	}
	g.wantCalls(6)
	g.wantEntries(12)
	// The call of before passes unedited, and is counted.
	must(t, before.Client().Send(lab.NewSetLinkInfo(before.Peer), lab.NewCallClearRequest(9)))
	for _, want := range []lab.Message{lab.NewSetLinkInfo(899), lab.NewCallClearRequest(9)} {
		if m, err := all[0].accepted.Read(lab.Patience); err != nil || m != want {
			t.Errorf("the server gets %v, %v, want %v", m, err, want)
		}
	}
	if n := g.metric(`pptpalg_anomalies_total{kind="unknown_call"}`); n != "2" {
		t.Errorf("%s IDs were not known, want 2", n)
	}
	g.wantCalls(6)
}

// TestJoinWithinAMessage has messages of both ends half sent when the daemon comes:
// the rest passes, and from the next message on all is edited.
func TestJoinWithinAMessage(t *testing.T) { overDataPaths(t, testJoinWithinAMessage) }

func testJoinWithinAMessage(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(2))
	l := listen(t, g.Outside[0])
	cuts := []int{1, 5, 10, 12, 13, 14, 15, 31}
	var halves []pair
	for range cuts {
		halves = append(halves, pairs(t, l, at1723(g.Outside[0].Addr), g.Inside[0])...)
	}
	for i, cut := range cuts {
		must(t, halves[i].dialer.SendRaw(unseenRequest(i)[:cut]))
		must(t, halves[i].accepted.SendRaw(unseenReply(i)[:cut]))
		_, err := halves[i].accepted.ReadBytes(cut, lab.Patience)
		must(t, err)
		_, err = halves[i].dialer.ReadBytes(cut, lab.Patience)
		must(t, err)
	}
	g.start()
	held := pairs(t, l, at1723(g.Outside[0].Addr), g.Inside[1])[0]
	for i, cut := range cuts {
		id := pptp.CallID(7 + i)
		other, otherPeer := placed(t, held.dialer, id, held.accepted, pptp.CallID(800+i))
		t.Run(fmt.Sprintf("after %d bytes", cut), func(t *testing.T) {
			p := halves[i]
			must(t, p.dialer.SendRaw(unseenRequest(i)[cut:]))
			must(t, p.accepted.SendRaw(unseenReply(i)[cut:]))
			_, err := p.accepted.ReadBytes(len(unseenRequest(i))-cut, lab.Patience)
			must(t, err)
			_, err = p.dialer.ReadBytes(len(unseenReply(i))-cut, lab.Patience)
			must(t, err)
			a, b := placed(t, p.dialer, id, p.accepted, pptp.CallID(900+i))
			if b.Peer == id {
				t.Error("the request passed unedited")
			}
			converse(t, a, b)
			converse(t, other, otherPeer)
			must(t, a.Clear())
			m, err := p.accepted.Expect(lab.CallClearRequest, lab.Patience)
			must(t, err)
			if m.CallID != b.Peer {
				t.Errorf("call %v is cleared, want %v", m.CallID, b.Peer)
			}
		})
	}
}

// unseenRequest and unseenReply are of calls that the daemon sees at most half of.
func unseenRequest(i int) []byte {
	return lab.NewOutgoingCallRequest(pptp.CallID(5000 + i)).Bytes()
}

func unseenReply(i int) []byte {
	return lab.NewOutgoingCallReply(pptp.CallID(6000+i), pptp.CallID(5000+i), lab.ResultOK).Bytes()
}
