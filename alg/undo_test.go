package alg

import (
	"bytes"
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// undo passes what the server's end has received of an editor, cut in two, and
// returns what the server sent.
func (w *wire) undo(b []byte, cut int) []byte {
	w.t.Helper()
	var sent []byte
	for _, piece := range [][]byte{b[:cut], b[cut:]} {
		raw := tcp(w.t, w.conn.Reply, packet.ACK, w.seq[server], w.seq[client], piece)
		seg, err := packet.Parse(raw)
		if err != nil {
			w.t.Fatal(err)
		}
		w.last = w.ed.Replay(seg, Capture{Undo: true}, w.now)
		verifyChecksum(w.t, raw)
		sent = append(sent, seg.Payload()...)
		w.seq[server] = w.seq[server].Add(len(piece))
	}
	return sent
}

// TestUndo has one editor edit what the server sends, and another undo the outcome,
// whatever the cut: that gives what the server has sent.
func TestUndo(t *testing.T) {
	dialogue := []struct {
		from calls.Side
		b    func(pub pptp.CallID) []byte
	}{
		{client, func(pptp.CallID) []byte { return message(pptp.OutgoingCallRequest, 7, 0, 0) }},
		{server, func(p pptp.CallID) []byte { return message(pptp.OutgoingCallReply, 0x1234, p, 1) }},
		{client, func(pptp.CallID) []byte { return message(pptp.SetLinkInfo, 0, 0x1234, 0) }},
		{server, func(p pptp.CallID) []byte { return message(pptp.SetLinkInfo, 0, p, 0) }},
		{server, func(p pptp.CallID) []byte { return message(pptp.WANErrorNotify, 0, p, 0) }},
		{server, func(pptp.CallID) []byte { return message(pptp.IncomingCallRequest, 0x4321, 0, 0) }},
		{client, func(pptp.CallID) []byte { return message(pptp.IncomingCallReply, 8, 0x4321, 1) }},
		{client, func(pptp.CallID) []byte { return message(pptp.CallClearRequest, 7, 0, 0) }},
	}
	notifies := map[string]func(p pptp.CallID) pptp.CallID{
		"own":     func(pptp.CallID) pptp.CallID { return 0x1234 },
		"peer":    func(p pptp.CallID) pptp.CallID { return p },
		"swapped": func(p pptp.CallID) pptp.CallID { return p.Swap() },
		"unknown": func(pptp.CallID) pptp.CallID { return 0x5555 },
	}
	for name, notify := range notifies {
		for cut := 1; cut < 16; cut++ {
			out, in := newRig(t), newRig(t)
			crowd(out, 7)
			crowd(in, 7)
			a, b := out.masqueraded(insideAddr).handshake(), in.masqueraded(insideAddr).handshake()
			var pub pptp.CallID
			check := func(m []byte) {
				got := b.undo(a.say(server, bytes.Clone(m)), cut)
				if !bytes.Equal(got, m) {
					t.Fatalf("%s, cut at %d: %v is undone to\n% x, want\n% x", name, cut, pptp.Message(m).Type(), got[:16], m[:16])
				}
			}
			for _, turn := range dialogue {
				m := turn.b(pub)
				if turn.from == server {
					check(m)
					continue
				}
				got := a.say(client, bytes.Clone(m))
				if !bytes.Equal(b.say(client, m), got) {
					t.Fatal("the two editors edit differently")
				}
				if pub == 0 {
					pub, _ = ids(got)
				}
			}
			check(message(pptp.CallDisconnectNotify, notify(pub), 0, 4))
		}
	}
}

// TestUndoTellsBothForms: a message that is undone is told as it came and as it was.
func TestUndoTellsBothForms(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	pub, _ := ids(w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0)))
	w.undo(message(pptp.OutgoingCallReply, 9, 7, 1), 15)
	want := Message{Type: pptp.OutgoingCallReply, Own: Translation{9, 9}, Peer: Translation{7, pub}, Result: 1}
	if len(w.last.Messages) != 1 || w.last.Messages[0] != want {
		t.Errorf("messages %+v, want %+v", w.last.Messages, want)
	}
	if len(w.last.Events) == 0 || r.table.Calls() != 2 {
		t.Errorf("the call was not established: %+v", w.last.Events)
	}
}

// TestUndoneNotifyEndsItsCall in each form that a server may use.
func TestUndoneNotifyEndsItsCall(t *testing.T) {
	for name, seen := range map[string]pptp.CallID{"its own ID": 9, "the client's": 0x0107, "the client's, swapped": 0x0701} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			crowd(r, 0x0107)
			w := r.masqueraded(insideAddr).handshake()
			pub, _ := ids(w.say(client, message(pptp.OutgoingCallRequest, 0x0107, 0, 0)))
			w.undo(message(pptp.OutgoingCallReply, 9, 0x0107, 1), 0)
			w.undo(message(pptp.CallDisconnectNotify, seen, 0, 1), 0)
			if pub == 0x0107 || r.table.Calls() != 1 {
				t.Errorf("public ID %v, %d calls", pub, r.table.Calls())
			}
		})
	}
}

// TestReadAll has messages and calls of an untranslated connection told, and their flows,
// and no byte changed, be it that two calls have one ID.
func TestReadAll(t *testing.T) {
	r := newRig(t)
	r.ed.ReadAll()
	plain := func(port uint16) *wire {
		return r.connect(calls.Connection{Original: tuple(insideAddr, port, serverAddr, 1723), Reply: tuple(serverAddr, 1723, insideAddr, port)}).handshake()
	}
	for port := range uint16(2) {
		w := plain(port + 1)
		if pub := w.outgoing(7, 9+pptp.CallID(port)); pub != 7 {
			t.Errorf("7 became %v", pub)
		}
		if w.last.Reason != Read || len(w.last.Messages) != 1 || w.last.Verdict != Accept {
			t.Errorf("%v, %v, messages %v", w.last.Verdict, w.last.Reason, w.last.Messages)
		}
	}
	if len(r.ed.CallsOf(tuple(insideAddr, 1, serverAddr, 1723))) != 1 || len(r.ed.CallsOf(tuple(serverAddr, 1723, insideAddr, 2))) != 1 {
		t.Error("the calls are on other connections")
	}
	if views, _ := r.ed.List().Next(10, nil); len(views) != 2 || len(views[0].Flows)+len(views[1].Flows) != 4 {
		t.Errorf("calls %+v, want both, and their flows", views)
	}
}

// TestMissed has bytes that nobody saw, of which the editor is told.
func TestMissed(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	r.ed.Missed(w.conn.Original, w.seq[client].Add(-1)) // seen already
	r.ed.Missed(tuple(serverAddr, 1, insideAddr, 2), 5) // of no connection
	w.seq[client] = w.seq[client].Add(156)
	r.ed.Missed(w.conn.Original, w.seq[client])
	w.say(client, append(make([]byte, 33), message(pptp.CallClearRequest, 7, 0, 0)...))
	if w.last.Reason != Read || len(w.last.Messages) != 1 || r.table.Calls() != 0 {
		t.Errorf("%v, messages %v, %d calls", w.last.Reason, w.last.Messages, r.table.Calls())
	}
}
