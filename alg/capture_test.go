package alg

import (
	"bytes"
	"fmt"
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// cut passes a segment of which only the first bytes of the payload were captured; the
// others read as filler. It returns what was captured, after the edit.
func (w *wire) cut(from calls.Side, b []byte, captured int, filler byte) []byte {
	w.t.Helper()
	captured = min(captured, len(b))
	b = append(bytes.Clone(b[:captured]), bytes.Repeat([]byte{filler}, len(b)-captured)...)
	tu := w.conn.Original
	if from == calls.Responder {
		tu = w.conn.Reply
	}
	seg, err := packet.Parse(tcp(w.t, tu, packet.ACK, w.seq[from], w.seq[from.Other()], b))
	if err != nil {
		w.t.Fatal(err)
	}
	w.last = w.ed.Replay(seg, Capture{Missing: len(b) - captured}, w.now)
	w.noted = append(w.noted, w.last.Anomalies...)
	w.seq[from] = w.seq[from].Add(len(b))
	return seg.Payload()[:captured]
}

// talk is a call, each message in a segment that is cut, and what is told of it.
func (w *wire) talk(captured int, filler byte) (told []string) {
	w.t.Helper()
	public := pptp.CallID(255) // the server sees it in place of 7
	for _, s := range []struct {
		from calls.Side
		b    []byte
	}{
		{client, message(pptp.StartControlConnectionRequest, 0, 0, 0)},
		{server, message(pptp.StartControlConnectionReply, 0, 0, 1)},
		{client, append(message(pptp.OutgoingCallRequest, 7, 0, 0), message(pptp.EchoRequest, 0, 0, 0)...)},
		{server, message(pptp.OutgoingCallReply, 9, public, 1)},
		{client, message(pptp.SetLinkInfo, 0, 9, 0)},
		{server, message(pptp.SetLinkInfo, 0, public, 0)},
		{client, message(pptp.CallClearRequest, 7, 0, 0)},
		{server, message(pptp.CallDisconnectNotify, 9, 0, 4)},
	} {
		sent := w.cut(s.from, s.b, captured, filler)
		told = append(told, fmt.Sprintf("%v %v %x %v %d %v", w.last.Verdict, w.last.Reason, sent, w.last.Messages, w.last.Missing, brief(w.last.Events)))
	}
	return append(told, fmt.Sprint(w.noted, w.table.Calls()))
}

// TestMissingIsNotRead: whatever stands in place of bytes that were not captured.
func TestMissingIsNotRead(t *testing.T) {
	for captured := range 190 {
		talk := func(filler byte) string {
			r := newRig(t)
			crowd(r, 7)
			w := r.masqueraded(insideAddr)
			w.synAck()
			return fmt.Sprint(w.talk(captured, filler))
		}
		if zeros, ones := talk(0), talk(0xff); zeros != ones {
			t.Errorf("with %d bytes captured\n%s\nor\n%s", captured, zeros, ones)
		}
	}
}

// TestCutMessages tells a message as far as it was captured, and what comes of its call.
func TestCutMessages(t *testing.T) {
	reply := message(pptp.OutgoingCallReply, 9, 254, 1)
	tests := []struct {
		name     string
		captured int
		want     Message
		state    string // of the call, if the reply is of it
		missing  int
	}{
		{"nothing", 0, Message{}, "requested", 32},
		{"not the type", 9, Message{}, "requested", 23},
		{"the type", 10, Message{Type: pptp.OutgoingCallReply, Missing: 7}, "requested", 0},
		{"half an ID", 13, Message{Type: pptp.OutgoingCallReply, Missing: 4}, "requested", 0},
		{"its ID", 14, Message{Type: pptp.OutgoingCallReply, Own: Translation{9, 9}, Missing: 3}, "answered", 0},
		{"half the peer's ID", 15, Message{Type: pptp.OutgoingCallReply, Own: Translation{9, 9}, Missing: 2}, "answered", 0},
		{"both IDs", 16, Message{Type: pptp.OutgoingCallReply, Own: Translation{9, 9}, Peer: Translation{254, 7}, Missing: 1}, "answered", 0},
		{"the result", 17, Message{Type: pptp.OutgoingCallReply, Own: Translation{9, 9}, Peer: Translation{254, 7}, Result: 1}, "established", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			crowd(r, 7)
			w := r.masqueraded(insideAddr).handshake()
			if pub, _ := ids(w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))); pub != 255 && pub != 254 {
				t.Fatalf("public ID %v", pub)
			} else {
				reply[15] = byte(pub)
				if tt.want.Peer.From != 0 {
					tt.want.Peer.From = pub
				}
			}
			w.cut(server, reply, tt.captured, 0)
			if all := w.last.Messages; tt.want.Type == 0 && len(all) > 0 || tt.want.Type != 0 && (len(all) != 1 || all[0] != tt.want) {
				t.Errorf("messages %+v, want %+v", all, tt.want)
			}
			if got := r.ed.CallsOf(w.conn.Original); len(got) != 1 || got[0].State.String() != tt.state {
				t.Errorf("calls %+v, want one %s", got, tt.state)
			}
			if w.last.Missing != tt.missing || len(w.anomalies()) > 0 {
				t.Errorf("%d bytes are missing, want %d; anomalies %v", w.last.Missing, tt.missing, w.last.Anomalies)
			}
		})
	}
}

// TestCutReplyToOneOfTwo: nobody knows which request an answer is to whose Peer's Call ID
// was not captured.
func TestCutReplyToOneOfTwo(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
	w.say(client, message(pptp.OutgoingCallRequest, 8, 0, 0))
	w.cut(server, message(pptp.OutgoingCallReply, 9, 7, 1), 14, 0)
	for _, c := range r.ed.CallsOf(w.conn.Original) {
		if c.State != calls.Requested {
			t.Errorf("call %+v", c)
		}
	}
}

// TestCutReplyToTheOpenOne: calls that are answered already are not meant.
func TestCutReplyToTheOpenOne(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	w.say(client, message(pptp.OutgoingCallRequest, 8, 0, 0))
	w.cut(server, message(pptp.OutgoingCallReply, 10, 7, 1), 14, 0)
	all := r.ed.CallsOf(w.conn.Original)
	if len(all) != 2 || all[0].State == calls.Requested || all[1].State == calls.Requested {
		t.Errorf("calls %+v", all)
	}
}

// TestCutRequestIsAdopted: the answer to a request that was not captured opens its call.
func TestCutRequestIsAdopted(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	w.cut(client, message(pptp.OutgoingCallRequest, 7, 0, 0), 8, 0)
	w.cut(server, message(pptp.OutgoingCallReply, 9, 7, 1), 32, 0)
	if r.table.Calls() != 1 || len(w.anomalies()) > 0 {
		t.Errorf("%d calls, %v", r.table.Calls(), w.last.Anomalies)
	}
}
