package alg

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

const (
	client = calls.Initiator
	server = calls.Responder
)

// crowd lets another client take an ID first, so that ours is translated.
func crowd(r *rig, own pptp.CallID) {
	w := r.masqueraded(netip.MustParseAddr("10.0.0.99")).handshake()
	w.outgoing(own, 0x7a7a)
}

func TestTwoClientsWithOneCallID(t *testing.T) {
	r := newRig(t)
	a := r.masqueraded(netip.MustParseAddr("10.0.0.10")).handshake()
	b := r.masqueraded(netip.MustParseAddr("10.0.0.11")).handshake()
	pubA, pubB := a.outgoing(7, 100), b.outgoing(7, 101)
	if pubA != 7 || pubB == 7 || pubB == 0 {
		t.Fatalf("the server sees %v and %v, want 7 kept and another drawn", pubA, pubB)
	}
	want := []calls.Event{
		{Kind: calls.Install, Flow: calls.Flow{
			Src: serverAddr, Dst: gatewayAddr, Key: pubB,
			NewSrc: serverAddr, NewDst: netip.MustParseAddr("10.0.0.11"), NewKey: 7,
		}},
		{Kind: calls.Opened, Call: calls.Record{Number: 2}},
		{Kind: calls.Install, Flow: calls.Flow{
			Src: netip.MustParseAddr("10.0.0.11"), Dst: serverAddr, Key: 101,
			NewSrc: gatewayAddr, NewDst: serverAddr, NewKey: 101,
		}},
	}
	if diff := cmp.Diff(want, b.changes, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	// A client's Set-Link-Info carries the server's ID and stays; the server's
	// carries the client's.
	if id, _ := ids(b.say(client, message(pptp.SetLinkInfo, 0, 101, 0))); id != 101 {
		t.Errorf("the server gets Set-Link-Info for %v, want its own 101", id)
	}
	if id, _ := ids(b.say(server, message(pptp.SetLinkInfo, 0, pubB, 0))); id != 7 {
		t.Errorf("the client gets Set-Link-Info for %v, want its own 7", id)
	}
}

// TestEveryMessage has a row for each field of each type: with the sender's and
// the receiver's forms both translated, what comes out.
func TestEveryMessage(t *testing.T) {
	tests := []struct {
		typ  pptp.Type
		from calls.Side
		in   [2]pptp.CallID // own, peer as sent
		want [2]pptp.CallID
	}{
		// The client's own ID is 7, the server's 9; the public form of both is 255.
		{pptp.CallClearRequest, client, [2]pptp.CallID{7, 0}, [2]pptp.CallID{255, 0}},
		{pptp.CallClearRequest, server, [2]pptp.CallID{9, 0}, [2]pptp.CallID{255, 0}},
		{pptp.CallDisconnectNotify, server, [2]pptp.CallID{9, 0}, [2]pptp.CallID{255, 0}},
		{pptp.CallDisconnectNotify, server, [2]pptp.CallID{255, 0}, [2]pptp.CallID{7, 0}},
		{pptp.CallDisconnectNotify, server, [2]pptp.CallID{0xff00, 0}, [2]pptp.CallID{0x0700, 0}},
		{pptp.WANErrorNotify, server, [2]pptp.CallID{0, 255}, [2]pptp.CallID{0, 7}},
		{pptp.SetLinkInfo, client, [2]pptp.CallID{0, 255}, [2]pptp.CallID{0, 9}},
		{pptp.SetLinkInfo, server, [2]pptp.CallID{0, 255}, [2]pptp.CallID{0, 7}},
		{pptp.IncomingCallConnected, server, [2]pptp.CallID{0, 255}, [2]pptp.CallID{0, 7}},
		{pptp.OutgoingCallReply, server, [2]pptp.CallID{9, 255}, [2]pptp.CallID{255, 7}},
		{pptp.IncomingCallReply, server, [2]pptp.CallID{9, 255}, [2]pptp.CallID{255, 7}},
		{pptp.OutgoingCallRequest, client, [2]pptp.CallID{7, 0}, [2]pptp.CallID{255, 0}},
		{pptp.IncomingCallRequest, server, [2]pptp.CallID{9, 0}, [2]pptp.CallID{255, 0}},
		{pptp.EchoRequest, client, [2]pptp.CallID{}, [2]pptp.CallID{}},
		{pptp.EchoReply, server, [2]pptp.CallID{}, [2]pptp.CallID{}},
		{pptp.StopControlConnectionRequest, client, [2]pptp.CallID{}, [2]pptp.CallID{}},
		{pptp.StopControlConnectionReply, server, [2]pptp.CallID{}, [2]pptp.CallID{}},
		{pptp.StartControlConnectionRequest, client, [2]pptp.CallID{}, [2]pptp.CallID{}},
		{pptp.StartControlConnectionReply, server, [2]pptp.CallID{}, [2]pptp.CallID{}},
	}
	for _, tt := range tests {
		t.Run(tt.typ.String()+"/"+tt.from.String(), func(t *testing.T) {
			r := newRig(t)
			w := hairpin(r)
			in := message(tt.typ, tt.in[0], tt.in[1], pptp.ResultOK)
			want := message(tt.typ, tt.want[0], tt.want[1], pptp.ResultOK)
			if got := w.say(tt.from, in); !bytes.Equal(got, want) {
				t.Errorf("got\n% x, want\n% x", got[:min(20, len(got))], want[:min(20, len(want))])
			}
			if a := w.anomalies(); len(a) != 0 {
				t.Errorf("anomalies: %v", a)
			}
			if diff := cmp.Diff([]Message{told(tt.typ, tt.in, tt.want)}, w.last.Messages); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

// told is what the outcome says of a message that message() built: only the fields
// that its type has.
func told(typ pptp.Type, in, out [2]pptp.CallID) Message {
	l, _ := typ.Layout()
	m := Message{Type: typ}
	if l.Own != 0 {
		m.Own = Translation{From: in[0], To: out[0]}
	}
	if l.Peer != 0 {
		m.Peer = Translation{From: in[1], To: out[1]}
	}
	if l.Result != 0 {
		m.Result = pptp.ResultOK
	}
	return m
}

// hairpin has a call between two inside hosts that know each other by addresses of
// the gateway: both IDs are translated, as other calls have theirs already.
func hairpin(r *rig) *wire {
	public := netip.MustParseAddr("198.51.100.2")
	conn := func(client, server netip.Addr) calls.Connection {
		r.wires++
		return calls.Connection{
			Original: tuple(client, uint16(r.wires), public, 1723),
			Reply:    tuple(server, 1723, gatewayAddr, uint16(r.wires)),
		}
	}
	srv, cl := netip.MustParseAddr("10.0.0.20"), netip.MustParseAddr("10.0.0.10")
	// Its spaces are (gateway, srv) and (public, cl): two calls take 7 and 9 there.
	r.connect(conn(netip.MustParseAddr("10.0.0.11"), srv)).handshake().outgoing(7, 1000)
	r.connect(conn(cl, netip.MustParseAddr("10.0.0.21"))).handshake().outgoing(1000, 9)
	w := r.connect(conn(cl, srv)).handshake()
	public7, _ := ids(w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0)))
	public9, own7 := ids(w.say(server, message(pptp.OutgoingCallReply, 9, public7, 1)))
	if public7 != 255 || public9 != 255 || own7 != 7 {
		r.t.Fatalf("hairpin call: public IDs %v and %v, client's %v", public7, public9, own7)
	}
	return w
}

func TestCutAnywhere(t *testing.T) {
	dialogue := []struct {
		from calls.Side
		b    func(pub pptp.CallID) []byte
	}{
		{client, func(pptp.CallID) []byte { return message(pptp.OutgoingCallRequest, 7, 0, 0) }},
		{server, func(p pptp.CallID) []byte { return message(pptp.OutgoingCallReply, 0x1234, p, 1) }},
		{client, func(pptp.CallID) []byte { return message(pptp.SetLinkInfo, 0, 0x1234, 0) }},
		{server, func(p pptp.CallID) []byte { return message(pptp.SetLinkInfo, 0, p, 0) }},
		{server, func(p pptp.CallID) []byte { return message(pptp.WANErrorNotify, 0, p, 0) }},
		{client, func(pptp.CallID) []byte { return message(pptp.CallClearRequest, 7, 0, 0) }},
		{server, func(p pptp.CallID) []byte { return message(pptp.CallDisconnectNotify, p.Swap(), 0, 1) }},
	}
	run := func(t *testing.T, cut func(n int) []int) [2][]byte {
		r := newRig(t)
		crowd(r, 7)
		w := r.masqueraded(insideAddr).handshake()
		var public pptp.CallID
		for _, m := range dialogue {
			b, at := m.b(public), 0
			for _, c := range append(cut(len(b)), len(b)) {
				if c > at && c <= len(b) {
					w.say(m.from, b[at:c])
					at = c
				}
			}
			if public == 0 {
				public, _ = ids(w.received[server])
			}
		}
		if a := w.anomalies(); len(a) != 0 {
			t.Errorf("anomalies: %v", a)
		}
		if r.table.Calls() != 1 {
			t.Errorf("%d calls are left, want the other client's", r.table.Calls())
		}
		return w.received
	}
	want := run(t, func(int) []int { return nil })
	for at := 1; at < 34; at++ {
		if got := run(t, func(int) []int { return []int{at} }); !equal(got, want) {
			t.Errorf("cut at %d changes what arrives", at)
		}
	}
	everyByte := func(n int) (cuts []int) {
		for i := 1; i < n; i++ {
			cuts = append(cuts, i)
		}
		return cuts
	}
	if got := run(t, everyByte); !equal(got, want) {
		t.Error("one byte per segment changes what arrives")
	}
}

func equal(a, b [2][]byte) bool { return bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1]) }

func TestManyMessagesInASegment(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	public := w.outgoing(7, 9)
	both := append(message(pptp.CallClearRequest, 7, 0, 0), message(pptp.StopControlConnectionRequest, 0, 0, 0)...)
	got := w.say(client, both)
	if id, _ := ids(got); id != public {
		t.Errorf("Call-Clear-Request says %v, want %v", id, public)
	}
	if !bytes.Equal(got[16:], both[16:]) {
		t.Error("the second message changed")
	}
	if r.table.Calls() != 1 {
		t.Errorf("%d calls, want the other client's", r.table.Calls())
	}
}

func TestRetransmissionsGetTheirBytes(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	start := w.seq[client]
	request := message(pptp.OutgoingCallRequest, 7, 0, 0)
	first := bytes.Clone(w.say(client, request))
	w.say(client, message(pptp.CallClearRequest, 7, 0, 0))
	w.say(server, message(pptp.CallDisconnectNotify, 9, 0, 0))
	// The call is over, its ID rests; the request comes again, cut elsewhere.
	for cut := 1; cut < len(request); cut++ {
		var again []byte
		again = append(again, w.segment(client, packet.ACK, start, request[:cut])...)
		again = append(again, w.segment(client, packet.ACK, start.Add(cut), request[cut:])...)
		if !bytes.Equal(again, first) {
			t.Fatalf("cut at %d: the retransmission differs", cut)
		}
	}
	if w.last.Reason != Again || w.last.Verdict != Accept {
		t.Errorf("the last cut is %v, %v", w.last.Verdict, w.last.Reason)
	}
	// A keep-alive probe lies one byte below the window.
	w.segment(client, packet.ACK, w.seq[client].Add(-1), []byte{0})
	if w.last.Verdict == Drop {
		t.Error("a keep-alive probe was dropped")
	}
}

func TestGapIsDroppedUntilItIsClosed(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	lost := message(pptp.EchoRequest, 0, 0, 0)
	next := message(pptp.OutgoingCallRequest, 7, 0, 0)
	at := w.seq[client]
	w.segment(client, packet.ACK, at.Add(len(lost)), next)
	if w.last.Verdict != Drop || w.last.Reason != Gap {
		t.Fatalf("a segment behind a gap is %v, %v", w.last.Verdict, w.last.Reason)
	}
	w.segment(client, packet.ACK, at, lost)
	got := w.segment(client, packet.ACK, at.Add(len(lost)), next)
	if id, _ := ids(got); id == 7 {
		t.Error("the request passed unedited after the gap was filled")
	}
}

// TestEndBehindAGap: a FIN that is dropped has ended nothing.
func TestEndBehindAGap(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	w.outgoing(8, 9)
	w.segment(server, packet.ACK|packet.FIN, w.seq[server], nil)
	w.segment(client, packet.ACK|packet.FIN, w.seq[client].Add(100), message(pptp.EchoRequest, 0, 0, 0))
	if w.last.Verdict != Drop || r.table.Calls() != 1 {
		t.Errorf("%v, %d calls", w.last.Verdict, r.table.Calls())
	}
	w.segment(client, packet.ACK|packet.FIN, w.seq[client], nil)
	if r.table.Calls() != 0 {
		t.Errorf("%d calls after both ends", r.table.Calls())
	}
}

func TestGapThatIsNone(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	w.outgoing(8, 9)
	w.seq[client] = w.seq[client].Add(1000) // passed while the rules were not loaded
	clear := message(pptp.CallClearRequest, 8, 0, 0)
	drops := 0
	for w.segment(client, packet.ACK, w.seq[client], clear); w.last.Verdict == Drop && drops < 10; drops++ {
		w.now = w.now.Add(time.Second)
		w.segment(client, packet.ACK, w.seq[client], clear)
	}
	if drops < 2 {
		t.Fatalf("the gap was respected %d times", drops)
	}
	w.say(client, clear)
	if w.last.Reason != Unread || r.table.Calls() != 2 {
		t.Errorf("then it is %v, and %d calls are left: anybody could have sent it", w.last.Reason, r.table.Calls())
	}
	// The server's next message acknowledges it: it was the client's.
	w.say(server, message(pptp.EchoRequest, 0, 0, 0))
	w.say(client, message(pptp.CallClearRequest, 8, 0, 0))
	if w.last.Reason != Read || r.table.Calls() != 1 {
		t.Errorf("after the acknowledgement: %v, %d calls", w.last.Reason, r.table.Calls())
	}
}

func TestJoiningInTheMiddle(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr)
	half := message(pptp.CallDisconnectNotify, 5, 0, 0)[60:]
	w.say(client, append(half, message(pptp.OutgoingCallRequest, 7, 0, 0)...))
	if id, _ := ids(w.received[server][len(half):]); id == 7 {
		t.Error("a request behind the rest of another message passed unedited")
	}
	if a := w.anomalies(); len(a) != 0 {
		t.Errorf("anomalies: %v", a)
	}
	w.say(client, message(pptp.CallClearRequest, 99, 0, 0))
	if a := w.anomalies(); !slices.Equal(a, []Anomaly{UnknownCall}) {
		t.Errorf("Call-Clear-Request for a call that was not seen: %v", a)
	}
	if id, _ := ids(w.received[server][len(w.received[server])-16:]); id != 99 {
		t.Errorf("it says %v, want 99 unchanged", id)
	}
}

func TestReplyToARequestThatWasNotSeen(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr)
	w.say(server, message(pptp.OutgoingCallReply, 9, 7, 1))
	if r.table.Calls() != 1 {
		t.Fatal("the call was not taken over")
	}
	if len(w.changes) != 3 {
		t.Errorf("changes: %v", w.changes)
	}
}

func TestNotPPTP(t *testing.T) {
	for name, first := range map[string][]byte{
		"HTTP":           []byte("POST / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"random":         {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		"not Start":      message(pptp.OutgoingCallRequest, 7, 0, 0),
		"hostile length": {0xff, 0xff, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			crowd(r, 7)
			w := r.masqueraded(insideAddr)
			w.synAck()
			body := append(bytes.Clone(first), message(pptp.OutgoingCallRequest, 7, 0, 0)...)
			if got := w.say(client, bytes.Clone(body)); !bytes.Equal(got, body) {
				t.Error("what is not PPTP was edited")
			}
			w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
			if id, _ := ids(w.received[server][len(body):]); id != 7 || w.last.Reason != NotPPTP {
				t.Errorf("the connection is %v, its request says %v", w.last.Reason, id)
			}
			if r.table.Calls() != 1 {
				t.Error("a call was opened")
			}
		})
	}
}

func TestMalformedMessages(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	long := append(message(pptp.OutgoingCallRequest, 7, 0, 0), 0, 0)
	long[1] += 2
	if got := w.say(client, bytes.Clone(long)); !bytes.Equal(got, long) {
		t.Error("a message of a wrong size was edited")
	}
	junk := bytes.Repeat([]byte{0, 16, 0, 1, 0x1a, 0x2b}, 50)
	if got := w.say(client, bytes.Clone(junk)); !bytes.Equal(got, junk) {
		t.Error("junk was edited")
	}
	if a := w.anomalies(); !slices.Equal(a, []Anomaly{BadMessage, Resynced}) {
		t.Errorf("anomalies: %v", a)
	}
	got := w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
	if id, _ := ids(got); id == 7 {
		t.Error("the request behind the junk passed unedited")
	}
}

func TestEndOfTCP(t *testing.T) {
	r := newRig(t)
	tests := []struct {
		name  string
		end   func(w *wire)
		left  int
		cause calls.Cause
	}{
		{"FIN one way", func(w *wire) { w.segment(client, packet.FIN|packet.ACK, w.seq[0], nil) }, 1, 0},
		{"FIN both ways", func(w *wire) {
			w.segment(server, packet.FIN|packet.ACK, w.seq[1], nil)
			w.segment(client, packet.FIN|packet.ACK, w.seq[0], nil)
		}, 0, calls.Finished},
		{"RST", func(w *wire) { w.segment(server, packet.RST, w.seq[1], nil) }, 0, calls.Reset},
		{"RST where its receiver has acknowledged", func(w *wire) {
			w.segment(client, packet.ACK, w.seq[0], nil)
			w.segment(server, packet.ACK, w.seq[1], message(pptp.EchoRequest, 0, 0, 0))
			w.segment(server, packet.RST, w.seq[1], nil)
		}, 0, calls.Reset},
		{"RST between that and the end", func(w *wire) {
			w.segment(client, packet.ACK, w.seq[0], nil)
			w.segment(server, packet.ACK, w.seq[1], message(pptp.EchoRequest, 0, 0, 0))
			w.segment(server, packet.RST, w.seq[1].Add(5), nil)
		}, 1, 0},
		{"RST that does not fit", func(w *wire) { w.segment(server, packet.RST, w.seq[1].Add(5), nil) }, 1, 0},
		{"conntrack lost it", func(w *wire) {
			w.now = w.now.Add(1)
			w.changes = append(w.changes, brief(w.ed.Sweep(nil, w.now, w.now))...)
		}, 0, calls.Lost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r = newRig(t)
			w := r.masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			w.changes = nil
			tt.end(w)
			if r.table.Calls() != tt.left {
				t.Fatalf("%d calls, want %d", r.table.Calls(), tt.left)
			}
			if tt.left == 1 {
				return
			}
			if len(w.changes) != 3 || w.changes[2] != (calls.Event{Kind: calls.Closed, Call: calls.Record{Number: 1}, Cause: tt.cause}) {
				t.Errorf("changes: %v", w.changes)
			}
		})
	}
}

// TestPublicPortOfTwo: NAT gives the public port of a connection that has ended to another
// client. That connection is still read when the record of the first one goes.
func TestPublicPortOfTwo(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	first := r.masqueraded(insideAddr).handshake()
	first.segment(server, packet.RST, first.seq[server], nil)
	conn := first.conn
	conn.Original.Src = netip.AddrPortFrom(insideHost(2), 5000)
	second := r.connect(conn).handshake()
	public := second.outgoing(7, 9)
	records := len(r.ed.all)
	r.now = r.now.Add(linger)
	r.ed.Sweep([]calls.Connection{conn}, r.now, r.now)
	if n := len(r.ed.all); n != records-1 {
		t.Fatalf("%d connections are on record, want %d", n, records-1)
	}
	if own, _ := ids(second.say(server, message(pptp.WANErrorNotify, 0, public, 0))); own != 7 {
		t.Errorf("the server's %v became %v for the client, want 7 (%v)", public, own, second.last.Reason)
	}
}

func TestConnectionsLetAlone(t *testing.T) {
	r := newRig(t)
	plain := calls.Connection{Original: tuple(insideAddr, 1, serverAddr, 1723), Reply: tuple(serverAddr, 1723, insideAddr, 1)}
	helped := newRig(t).masqueraded(netip.MustParseAddr("10.0.0.50")).conn
	helped.Helper = "pptp"
	for want, c := range map[Reason]calls.Connection{Untranslated: plain, Helped: helped} {
		w := r.connect(c)
		w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
		if w.last.Reason != want || w.last.Verdict != Accept || r.table.Calls() != 0 {
			t.Errorf("%v: %v, %v, %d calls", want, w.last.Verdict, w.last.Reason, r.table.Calls())
		}
	}
}

// TestLetAloneIsNeverDropped: of a connection that is let alone nothing is dropped,
// in whatever order it comes.
func TestLetAloneIsNeverDropped(t *testing.T) {
	r := newRig(t)
	w := r.connect(calls.Connection{Original: tuple(insideAddr, 1, serverAddr, 1723), Reply: tuple(serverAddr, 1723, insideAddr, 1)})
	w.synAck()
	for _, ahead := range []int{5000, 0, 100, 90, -4} {
		if w.segment(client, packet.ACK, w.seq[client].Add(ahead), []byte("data")); w.last.Verdict != Accept || w.last.Reason != Untranslated {
			t.Errorf("a segment %d ahead is %v, %v", ahead, w.last.Verdict, w.last.Reason)
		}
	}
}

// TestAfterFIN: a FIN takes a sequence number, so what follows it lies one ahead.
func TestAfterFIN(t *testing.T) {
	for name, flags := range map[string]packet.Flags{"ACK": packet.ACK, "FIN again": packet.ACK | packet.FIN, "RST": packet.RST} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			w := r.masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			w.segment(client, packet.ACK|packet.FIN, w.seq[client], nil)
			at := w.seq[client].Add(1)
			if name == "FIN again" {
				at = w.seq[client]
			}
			w.segment(client, flags, at, nil)
			if w.last.Verdict != Accept {
				t.Errorf("it is %v, %v", w.last.Verdict, w.last.Reason)
			}
			if want := map[bool]int{true: 0, false: 1}[name == "RST"]; r.table.Calls() != want {
				t.Errorf("%d calls, want %d", r.table.Calls(), want)
			}
		})
	}
}

func TestOwnClientsIDIsNotGivenAway(t *testing.T) {
	r := newRig(t)
	own := r.connect(calls.Connection{
		Original: tuple(gatewayAddr, 5, serverAddr, 1723), Reply: tuple(serverAddr, 1723, gatewayAddr, 5),
	})
	raw := tcp(t, own.conn.Original, packet.ACK, 1, 1, message(pptp.OutgoingCallRequest, 7, 0, 0))
	seg, _ := packet.Parse(raw)
	if out := r.ed.Edit(seg, true, r.now); out.Verdict != Accept || len(out.Events) != 2 {
		t.Fatalf("the gateway's own request: %+v", out)
	}
	if public := r.masqueraded(insideAddr).handshake().outgoing(7, 9); public == 7 {
		t.Error("an inside client was given the ID that the gateway's own client uses")
	}
}

// TestOwnAfterARestart: a call of the gateway's own keeps its ID from others after a restart. A
// call that is merely not translated does not, and is restored only where such calls are read.
func TestOwnAfterARestart(t *testing.T) {
	for _, tt := range []struct {
		name         string
		own, readAll bool
		restored     int
		kept         bool
	}{
		{"the gateway's own", true, false, 1, true},
		{"the gateway's own, all read", true, true, 1, true},
		{"another's", false, false, 0, false},
		{"another's, all read", false, true, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.ed.ReadAll()
			w := r.connect(calls.Connection{
				Original: tuple(gatewayAddr, 5, serverAddr, 1723), Reply: tuple(serverAddr, 1723, gatewayAddr, 5),
			})
			if tt.own {
				seg, _ := packet.Parse(tcp(t, w.conn.Original, packet.ACK, 1, 1, nil))
				r.ed.Edit(seg, true, r.now)
			}
			w.handshake().outgoing(7, 9)
			records := r.ed.Records()
			r.table = calls.New(calls.DefaultConfig())
			r.ed = NewEditor(r.table, DefaultConnections)
			if tt.readAll {
				r.ed.ReadAll()
			}
			r.ed.Restore(records, r.now)
			if n := r.table.Calls(); n != tt.restored {
				t.Errorf("%d calls are restored, want %d", n, tt.restored)
			}
			public := r.masqueraded(insideAddr).handshake().outgoing(7, 10)
			if (public != 7) != tt.kept {
				t.Errorf("an inside client's 7 became %v", public)
			}
		})
	}
}

// TestZones: connections with the same addresses and ports in two zones are two connections
// once zones are told, and their calls two calls. What was on record before stays.
func TestZones(t *testing.T) {
	ways := map[string]calls.Way{"both ways": calls.BothWays, "the original direction's": calls.FromInitiator}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			in := func(zone uint16) calls.Connection {
				c := r.masqueraded(insideAddr).conn
				c.Original.Src = netip.AddrPortFrom(insideAddr, 5000)
				c.Zone, c.Way = zone, way
				return c
			}
			before := r.masqueraded(netip.MustParseAddr("10.0.0.11")).handshake()
			first := r.connect(in(11)).handshake()
			if public := first.outgoing(7, 9); public != 7 {
				t.Errorf("the first call's 7 became %v", public)
			}
			r.ed.TellZones()
			second := r.connect(in(12))
			second.synAck()
			if second.last.Reason != NoData || first.conn.Original != second.conn.Original {
				t.Fatalf("%v", second.last.Reason)
			}
			second.handshakeAfterSYN()
			public := second.outgoing(7, 10)
			if shared := way != calls.BothWays; (public != 7) != shared {
				t.Errorf("the second call's 7 became %v", public)
			}
			if public := first.outgoing(8, 11); public != 8 {
				t.Errorf("the first connection's 8 became %v", public)
			}
			before.outgoing(9, 12)
			if n := r.table.Calls(); n != 4 {
				t.Errorf("%d calls", n)
			}
			second.segment(server, packet.RST, second.seq[server], nil)
			first.say(client, message(pptp.CallClearRequest, 7, 0, 0))
			if n := r.table.Calls(); n != 2 {
				t.Errorf("%d calls are left", n)
			}
		})
	}
}

func TestMoreClientsThanAPageHolds(t *testing.T) {
	r := newRig(t)
	seen := make(map[pptp.CallID]bool)
	for i := range 600 {
		w := r.masqueraded(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})).handshake()
		public := w.outgoing(0, pptp.CallID(i))
		if seen[public] || public == 0 {
			t.Fatalf("client %d is given %v, which another has", i, public)
		}
		seen[public] = true
	}
}

func TestReasonNames(t *testing.T) {
	for r, want := range map[Reason]string{Read: "read", Failed: "error", 255: "unknown(255)"} {
		if r.String() != want {
			t.Errorf("reason %d is %q, want %q", uint8(r), r, want)
		}
	}
}

// TestNoData: segments without data are counted as such, whatever is known of their stream.
func TestNoData(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr)
	if w.synAck(); w.last.Reason != NoData {
		t.Errorf("SYN+ACK: %v", w.last.Reason)
	}
	w = newRig(t).masqueraded(insideAddr) // its beginning was not seen
	if w.segment(client, packet.ACK, w.seq[client], nil); w.last.Reason != NoData {
		t.Errorf("ACK of a stream that is not joined: %v", w.last.Reason)
	}
	w = newRig(t).masqueraded(insideAddr).handshake()
	w.say(client, bytes.Repeat([]byte("GET / "), 30))
	if w.segment(client, packet.ACK|packet.FIN, w.seq[client], nil); w.last.Reason != NoData {
		t.Errorf("FIN of what is not PPTP: %v", w.last.Reason)
	}
}
