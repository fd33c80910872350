package alg

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// restart has another editor take up what this one has on record.
func (w *wire) restart() *wire {
	w.again(calls.DefaultConfig(), DefaultConnections)
	return w
}

// again replaces table and editor by others that take up what they have.
func (r *rig) again(cfg calls.Config, connections int) {
	r.t.Helper()
	all, resting := r.ed.Records(), r.table.Resting()
	r.table = calls.New(cfg)
	r.ed = NewEditor(r.table, connections)
	if refused := r.ed.Restore(all, r.now); refused != 0 {
		r.t.Fatalf("after a restart %d calls are refused", refused)
	}
	for _, id := range resting {
		r.table.Rest(id, r.now)
	}
}

// ask lets the editor ask conntrack about a segment that the wire is about to send, and
// sends it.
func (w *wire) ask(from calls.Side, flags packet.Flags, seq packet.Seq, b []byte) []byte {
	w.conn.Opening = false
	tu := w.conn.Original
	if from == server {
		tu = w.conn.Reply
	}
	seg, err := packet.Parse(tcp(w.t, tu, flags, seq, w.seq[from.Other()], b))
	if err != nil {
		w.t.Fatal(err)
	}
	if w.ed.Asks(seg) {
		w.ed.Open(w.conn, w.now)
	}
	return w.segment(from, flags, seq, b)
}

// TestUnjoinedBelievesNothing: after a restart, segments that lie in the window and are
// none of the connection's end no call, and do not keep it from being read on.
func TestUnjoinedBelievesNothing(t *testing.T) {
	type forged struct {
		from  calls.Side
		flags packet.Flags
		off   int
		b     []byte
	}
	clear, notify := message(pptp.CallClearRequest, 7, 0, 0), message(pptp.CallDisconnectNotify, 9, 0, 1)
	stop, noise := message(pptp.StopControlConnectionRequest, 0, 0, 0), make([]byte, 40)
	tests := map[string][]forged{
		"RST of the client":            {{client, packet.RST | packet.ACK, 500, nil}},
		"RST of the server":            {{server, packet.RST, 0, nil}},
		"RST that happens to fit":      {{client, packet.RST, 0, nil}, {server, packet.RST, 0, nil}},
		"FINs":                         {{client, packet.FIN | packet.ACK, 500, nil}, {server, packet.FIN | packet.ACK, 300, nil}},
		"FINs with data":               {{client, packet.FIN | packet.ACK, 500, noise}, {server, packet.FIN | packet.ACK, 300, noise}},
		"SYN+ACK":                      {{server, packet.SYN | packet.ACK, 1 << 30, nil}},
		"SYN+ACK with data":            {{server, packet.SYN | packet.ACK, 1 << 30, noise}},
		"data ahead":                   {{client, packet.ACK, 500, noise}, {server, packet.ACK, 500, noise}},
		"data that was sent before":    {{client, packet.ACK, -40, noise}, {server, packet.ACK, -40, noise}},
		"a Call-Clear-Request":         {{client, packet.ACK, 500, clear}},
		"a Call-Disconnect-Notify":     {{server, packet.ACK, 500, notify}},
		"Stop requests of either":      {{client, packet.ACK, 500, stop}, {server, packet.ACK, 900, stop}},
		"a Call-Clear-Request, twice":  {{client, packet.ACK, 500, clear}, {client, packet.ACK, 516, clear}},
		"RST behind data":              {{client, packet.ACK, 500, noise}, {client, packet.RST, 540, nil}},
		"FINs of both behind data":     {{client, packet.ACK, 500, noise}, {client, packet.FIN, 540, nil}, {server, packet.ACK, 90, noise}, {server, packet.FIN, 130, nil}},
		"a Call-Clear-Request, RST it": {{client, packet.ACK, 500, clear}, {client, packet.RST, 516, nil}},
	}
	for name, segments := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			crowd(r, 7)
			w := r.masqueraded(insideAddr).handshake()
			public := w.outgoing(7, 9)
			w.restart()
			for _, f := range segments {
				w.ask(f.from, f.flags, w.seq[f.from].Add(f.off), f.b)
				if w.table.Calls() != 2 {
					t.Fatalf("the call has ended")
				}
			}
			if id, _ := ids(w.say(server, message(pptp.SetLinkInfo, 0, public, 0))); id != 7 {
				t.Errorf("Set-Link-Info of the server says %v", id)
			}
			w.say(client, message(pptp.EchoRequest, 0, 0, 0))
			if id, _ := ids(w.say(client, message(pptp.CallClearRequest, 7, 0, 0))); id != public {
				t.Errorf("the client's Call-Clear-Request says %v, want %v", id, public)
			}
			if id, _ := ids(w.say(server, message(pptp.CallDisconnectNotify, public, 0, 1))); id != 7 || w.table.Calls() != 1 {
				t.Errorf("Call-Disconnect-Notify says %v, %d calls", id, w.table.Calls())
			}
			if id, _ := ids(w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))); id == 7 || w.table.Calls() != 2 {
				t.Errorf("the next request says %v, %d calls", id, w.table.Calls())
			}
		})
	}
}

// TestEndingsWait: what ends a call on a stream that was joined in its middle ends it when
// its receiver has acknowledged it, in order, and at most some of it waits.
func TestEndingsWait(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	for i := range pptp.CallID(mostLate + 2) {
		w.outgoing(10+i, 100+i)
	}
	w.restart()
	for i := range pptp.CallID(mostLate + 2) {
		w.say(client, message(pptp.CallClearRequest, 10+i, 0, 0))
	}
	if n := w.table.Calls(); n != mostLate+2 {
		t.Errorf("%d calls before anything is acknowledged", n)
	}
	if w.say(server, message(pptp.EchoRequest, 0, 0, 0)); w.table.Calls() != 2 {
		t.Errorf("%d calls after the receiver has all, want 2", w.table.Calls())
	}
	w.say(client, message(pptp.CallClearRequest, 10+mostLate, 0, 0))
	if w.table.Calls() != 1 || len(w.ed.late) != 0 {
		t.Errorf("%d calls after one more was cleared, want 1; %d connections wait", w.table.Calls(), len(w.ed.late))
	}
}

// TestEndedWaitsForNothing: what waited is forgotten with its connection.
func TestEndedWaitsForNothing(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	w.outgoing(10, 100)
	w.restart()
	w.say(client, message(pptp.CallClearRequest, 10, 0, 0))
	if len(w.ed.late) != 1 {
		t.Fatalf("%d connections wait", len(w.ed.late))
	}
	if w.ed.end(w.ed.all[0], calls.Finished, w.now); len(w.ed.late) != 0 {
		t.Errorf("%d connections wait that have ended", len(w.ed.late))
	}
}

// TestEndingsThatWait are of each kind, end what they say once they are acknowledged, and
// are forgotten where their stream was joined at the wrong place, or has ended.
func TestEndingsThatWait(t *testing.T) {
	stop := message(pptp.StopControlConnectionRequest, 0, 0, 0)
	tests := []struct {
		name string
		say  func(w *wire)
		left int
	}{
		{"a Stop request", func(w *wire) { w.say(client, stop) }, 0},
		{"a Call-Clear-Request", func(w *wire) { w.say(client, message(pptp.CallClearRequest, 7, 0, 0)) }, 1},
		{"a Call-Clear-Request, and then the next call of its ID", func(w *wire) {
			w.say(client, message(pptp.CallClearRequest, 7, 0, 0))
			w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
		}, 2},
		{"a Stop request elsewhere", func(w *wire) {
			w.segment(client, packet.ACK, w.seq[client].Add(900), stop)
			w.say(client, message(pptp.EchoRequest, 0, 0, 0))
		}, 2},
		{"half of a request before it, elsewhere", func(w *wire) {
			w.segment(client, packet.ACK, w.seq[client].Add(900), message(pptp.OutgoingCallRequest, 5, 0, 0)[:13])
			w.say(client, stop)
		}, 0},
		{"a Stop request that is not acknowledged", func(w *wire) {
			w.say(client, message(pptp.EchoRequest, 0, 0, 0))
			w.say(client, stop)
			w.seq[client] = w.seq[client].Add(-len(stop))
		}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newRig(t).masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			w.outgoing(8, 10)
			w.restart()
			if tt.say(w); w.table.Calls() != 2 {
				t.Fatalf("%d calls before it is acknowledged", w.table.Calls())
			}
			w.say(server, message(pptp.EchoRequest, 0, 0, 0))
			if w.table.Calls() != tt.left || len(w.ed.late) != 0 {
				t.Errorf("%d calls, want %d; %d connections wait", w.table.Calls(), tt.left, len(w.ed.late))
			}
			w.say(client, message(pptp.CallClearRequest, 8, 0, 0))
			if w.ed.Sweep(nil, w.now.Add(time.Second), w.now); len(w.ed.late) != 0 {
				t.Error("an ending outlives its connection")
			}
		})
	}
}

// TestLateNotify: a Call-Disconnect-Notify that waits ends the call that it meant, and not a
// later one of its ID.
func TestLateNotify(t *testing.T) {
	for _, again := range []bool{false, true} {
		w := newRig(t).masqueraded(insideAddr).handshake()
		public := w.outgoing(7, 9)
		w.restart()
		ack := w.seq[server]
		w.say(server, message(pptp.CallDisconnectNotify, public, 0, 1))
		after := w.seq[server]
		w.seq[server] = ack // the client has not received it yet
		if again {
			w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
		}
		w.seq[server] = after
		w.say(client, message(pptp.EchoRequest, 0, 0, 0))
		if left := w.table.Calls() == 1; left != again {
			t.Errorf("requested again: %v; %d calls are left", again, w.table.Calls())
		}
	}
}

// TestOldFIN: only a FIN that ends the stream is one.
func TestOldFIN(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	for _, from := range []calls.Side{client, server} {
		w.segment(from, packet.FIN|packet.ACK, w.seq[from].Add(-20), nil)
		w.segment(from, packet.FIN|packet.ACK, w.seq[from].Add(-20), make([]byte, 10))
	}
	if w.table.Calls() != 1 {
		t.Fatal("old FINs have ended the call")
	}
	for _, from := range []calls.Side{client, server, client} {
		if w.segment(from, packet.FIN|packet.ACK, w.seq[from], nil); (w.table.Calls() == 0) != (w.ed.find0(w).over) {
			t.Errorf("%d calls", w.table.Calls())
		}
	}
	if w.table.Calls() != 0 {
		t.Error("the FINs of both ends have not ended the call")
	}
}

func (e *Editor) find0(w *wire) *dialogue {
	return e.senders[keyOf(w.conn.Original.Src, w.conn.Original.Dst)].dialogue
}

// TestUnaskedReplies: a watched connection has no call that nobody asked for, whoever
// speaks first.
func TestUnaskedReplies(t *testing.T) {
	reply := message(pptp.OutgoingCallReply, 0x5001, 7, 1)
	incoming := message(pptp.IncomingCallReply, 8, 0x5001, 1)
	tests := []struct {
		name string
		say  func(w *wire)
		left int
	}{
		{"the server, after the Start exchange", func(w *wire) { w.handshake().say(server, reply) }, 0},
		{"the client, after the Start exchange", func(w *wire) { w.handshake().say(client, incoming) }, 0},
		{"the server speaks first", func(w *wire) {
			w.synAck()
			w.say(server, message(pptp.StartControlConnectionReply, 0, 0, 1))
			w.say(server, reply)
		}, 0},
		{"the server speaks first, and the client later", func(w *wire) {
			w.synAck()
			w.say(server, message(pptp.StartControlConnectionReply, 0, 0, 1))
			w.say(server, reply)
			w.say(client, message(pptp.StartControlConnectionRequest, 0, 0, 1))
			w.say(server, reply)
		}, 0},
		{"behind a gap that was acknowledged", func(w *wire) {
			w.handshake()
			w.seq[client] = w.seq[client].Add(168)
			w.ed.Missed(w.conn.Original, w.seq[client])
			w.say(client, message(pptp.EchoRequest, 0, 0, 0))
			w.say(server, reply)
		}, 0},
		{"joined in the middle", func(w *wire) {
			w.conn.Opening = false
			w.say(client, message(pptp.EchoRequest, 0, 0, 0))
			w.say(server, reply)
		}, 1},
		{"joined in the middle, long ago", func(w *wire) {
			w.say(client, message(pptp.EchoRequest, 0, 0, 0))
			w.now = w.now.Add(adoption)
			w.say(server, reply)
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.masqueraded(insideHost(9))
			r.now = r.now.Add(time.Hour) // the editor is not new
			w := r.masqueraded(insideAddr)
			tt.say(w)
			if w.table.Calls() != tt.left {
				t.Errorf("%d calls, want %d", w.table.Calls(), tt.left)
			}
			if flows := len(w.changes); tt.left == 0 && flows != 0 {
				t.Errorf("changes: %v", w.changes)
			}
		})
	}
}

// TestRestoredAdopts: a call that was requested while nobody watched is taken over soon
// after the restart, and not later.
func TestRestoredAdopts(t *testing.T) {
	for after, all := range map[time.Duration]int{adoption - 1: 2, adoption: 1} {
		w := newRig(t).masqueraded(insideAddr).handshake()
		w.outgoing(7, 9)
		w.restart()
		w.now = w.now.Add(after)
		if w.say(server, message(pptp.OutgoingCallReply, 10, 8, 1)); w.table.Calls() != all {
			t.Errorf("%v after the restart: %d calls, want %d", after, w.table.Calls(), all)
		}
	}
}

// TestRequestComesAgain: TCP may bring a request again when it has been answered. After a restart what its receiver
// has acknowledged shows that it is old, and the call stays what it is.
func TestRequestComesAgain(t *testing.T) {
	tests := map[string]struct {
		request func(w *wire) // of the client, for a call that is answered
		answers pptp.CallID   // the server, 0 for nothing
		same    bool          // the call is the one from before
	}{
		"again":              {(*wire).asksAgain, 0, true},
		"again, as answered": {(*wire).asksAgain, 9, true},
		"anew":               {(*wire).asks, 10, false},
		"anew, having cleared the call": {func(w *wire) {
			w.say(client, message(pptp.CallClearRequest, 7, 0, 0))
			w.asks()
		}, 10, false},
		"again, twice, and anew": {func(w *wire) {
			w.asksAgain()
			w.asksAgain()
			w.asks()
		}, 10, false},
		"again, together with more": {func(w *wire) {
			b := message(pptp.OutgoingCallRequest, 7, 0, 0)
			w.segment(client, packet.ACK, w.seq[client].Add(-len(b)), append(b, message(pptp.EchoRequest, 0, 0, 0)...))
		}, 0, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			crowd(r, 7)
			w := r.masqueraded(insideAddr).handshake()
			public, _ := ids(w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0)))
			w.restart()
			w.say(server, message(pptp.OutgoingCallReply, 9, public, pptp.ResultOK))
			before := w.record()
			tt.request(w)
			if tt.answers != 0 {
				w.say(server, message(pptp.OutgoingCallReply, tt.answers, public, pptp.ResultOK))
			}
			got := w.record()
			want := before
			if !tt.same {
				want.Number, want.Legs[server].Own, want.Legs[server].Public = got.Number, tt.answers, tt.answers
			}
			if got != want || got.Number == before.Number != tt.same || w.table.Calls() != 2 {
				t.Errorf("%d calls, the client's is\n%+v, want\n%+v", w.table.Calls(), got, want)
			}
			checkRolls(t, w.ed)
		})
	}
}

func (w *wire) asks() { w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0)) }

// asksAgain has TCP repeat the last 168 bytes, which were an Outgoing-Call-Request.
func (w *wire) asksAgain() {
	b := message(pptp.OutgoingCallRequest, 7, 0, 0)
	w.segment(client, packet.ACK, w.seq[client].Add(-len(b)), b)
}

// record returns that of the connection's only call.
func (w *wire) record() calls.Record {
	w.t.Helper()
	all := slices.DeleteFunc(w.ed.Records(), func(r calls.Record) bool { return !r.Connection.Same(w.conn) })
	if len(all) != 1 {
		w.t.Fatalf("%d calls", len(all))
	}
	return all[0]
}

// TestForgedAfterARestart has strangers send what lies in the window, and is not the next
// byte, between the segments of a connection that is read on after a restart. Its call
// lives until its own ends clear it, and its messages are edited as if nothing had come.
func TestForgedAfterARestart(t *testing.T) { rapid.Check(t, forgedAfterARestart) }

// FuzzForgedAfterARestart is the same for the fuzzer.
func FuzzForgedAfterARestart(f *testing.F) { f.Fuzz(rapid.MakeFuzz(forgedAfterARestart)) }

func forgedAfterARestart(rt *rapid.T) {
	r := newRig(drawn{rt: rt})
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	public := w.outgoing(7, 9)
	w.restart()
	want := map[calls.Side]pptp.CallID{client: 9, server: 7}
	for range rapid.IntRange(1, 12).Draw(rt, "steps") {
		from := calls.Side(rapid.IntRange(0, 1).Draw(rt, "side"))
		if rapid.Bool().Draw(rt, "honest") {
			peer := map[calls.Side]pptp.CallID{client: 9, server: public}[from]
			if _, id := ids(append([]byte{0, 0}, w.say(from, message(pptp.SetLinkInfo, 0, peer, 0))...)); id != want[from] {
				rt.Fatalf("Set-Link-Info of the %v says %v, want %v", from, id, want[from])
			}
			continue
		}
		w.forge(rt, from)
		if len(w.ed.CallsOf(w.conn.Original)) == 0 {
			rt.Fatal("a forged segment has ended the call")
		}
	}
	if id, _ := ids(w.say(client, message(pptp.CallClearRequest, 7, 0, 0))); id != public {
		rt.Fatalf("Call-Clear-Request says %v, want %v", id, public)
	}
	if id, _ := ids(w.say(server, message(pptp.CallDisconnectNotify, 9, 0, 1))); id != 9 {
		rt.Fatalf("Call-Disconnect-Notify says %v", id)
	}
}

// forge sends a segment in an end's name that has not its next byte.
func (w *wire) forge(rt *rapid.T, from calls.Side) {
	flags := rapid.SampledFrom([]packet.Flags{0, 0, packet.RST, packet.FIN, packet.SYN}).Draw(rt, "flags")
	b := rapid.SampledFrom([][]byte{
		nil, make([]byte, 40), message(pptp.CallClearRequest, 7, 0, 0), message(pptp.CallDisconnectNotify, 9, 0, 1),
		message(pptp.StopControlConnectionReply, 0, 0, 0),
	}).Draw(rt, "bytes")
	off := rapid.IntRange(200, 60000).Draw(rt, "off")
	if rapid.Bool().Draw(rt, "old") {
		off = -off - len(b)
	}
	w.ask(from, packet.ACK|flags, w.seq[from].Add(off), b)
}
