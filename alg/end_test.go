package alg

import (
	"errors"
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestEndCall: the only call of a connection ends with it, and both ends' next segments are
// answered with a RST where the gateway can reach them.
func TestEndCall(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.ed.ResetLost(true)
	w.outgoing(7, 9)
	number := w.ed.CallsOf(w.conn.Original)[0].Number
	if _, _, err := w.ed.EndCall(number+1, w.now); !errors.Is(err, ErrNoCall) {
		t.Errorf("another number: %v", err)
	}
	done, events, err := w.ed.EndCall(number, w.now)
	if err != nil || done.Others != 0 || w.table.Calls() != 0 {
		t.Fatalf("%+v, %v, %d calls are left", done, err, w.table.Calls())
	}
	if done.Next != w.seq || done.Placed != [2]bool{true, true} || done.Connection.Original.Src.Addr() != insideAddr {
		t.Errorf("%+v, want what comes next: %v", done, w.seq)
	}
	removed, cause := 0, calls.Cause(0)
	for _, e := range events {
		switch e.Kind {
		case calls.Remove:
			removed++
		case calls.Closed:
			cause = e.Cause
		}
	}
	if removed != 2 || cause != calls.Operator {
		t.Errorf("%d flows are removed, for %v: %+v", removed, cause, events)
	}
	echo := message(pptp.EchoRequest, 0, 0, 0)
	if w.segment(client, packet.ACK, w.seq[client], echo); !w.last.Reset {
		t.Errorf("the client's next segment: %+v", w.last)
	}
	if _, _, err := w.ed.EndCall(number, w.now); !errors.Is(err, ErrNoCall) {
		t.Errorf("once more: %v", err)
	}
}

// TestEndOneOfTwoCalls: the connection goes on with the other one.
func TestEndOneOfTwoCalls(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.ed.ResetLost(true)
	w.outgoing(7, 9)
	w.outgoing(8, 10)
	done, _, err := w.ed.EndCall(w.ed.CallsOf(w.conn.Original)[0].Number, w.now)
	if err != nil || done.Others != 1 || w.table.Calls() != 1 {
		t.Fatalf("%+v, %v, %d calls are left", done, err, w.table.Calls())
	}
	if w.segment(client, packet.ACK, w.seq[client], message(pptp.EchoRequest, 0, 0, 0)); w.last.Reset || w.last.Reason != Read {
		t.Errorf("the client's next segment: %+v", w.last)
	}
}
