package alg

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestNoCallBeforeTheStartExchange: a client that asks for a call before its Start
// request was answered is none (NAT slipstreaming).
func TestNoCallBeforeTheStartExchange(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr)
	w.synAck()
	w.say(client, message(pptp.StartControlConnectionRequest, 0, 0, 0))
	got := w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
	if id, _ := ids(got); id != 7 || r.table.Calls() != 1 {
		t.Errorf("a request without the Start exchange says %v, %d calls", id, r.table.Calls())
	}
	if a := w.anomalies(); !slices.Equal(a, []Anomaly{EarlyRequest}) {
		t.Errorf("anomalies: %v", a)
	}
	w.say(server, message(pptp.StartControlConnectionReply, 0, 0, 1))
	if id, _ := ids(w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))); id == 7 {
		t.Error("a request after the exchange passed unedited")
	}
}

// TestForgedSegments: what does not fit the stream never changes the table.
func TestForgedSegments(t *testing.T) {
	r := newRig(t)
	w := r.masqueraded(insideAddr).handshake()
	w.outgoing(8, 9)
	next := w.seq
	clear := message(pptp.CallClearRequest, 8, 0, 0)
	forged := []struct {
		from  calls.Side
		flags packet.Flags
		seq   packet.Seq
		b     []byte
	}{
		{client, packet.ACK, next[0].Add(50), clear},
		{client, packet.ACK, next[0].Add(50), clear},
		{client, packet.ACK, next[0].Add(50), clear},
		{client, packet.ACK, next[0].Add(50), clear},
		{client, packet.ACK, next[0].Add(50), clear},
		{client, packet.ACK, next[0].Add(-16), clear},
		{server, packet.ACK, next[1].Add(-148), message(pptp.CallDisconnectNotify, 9, 0, 1)},
		{server, packet.RST, next[1].Add(1), nil},
		{client, packet.RST, next[0].Add(-1), nil},
		{client, packet.FIN | packet.ACK, next[0].Add(9), nil},
		{server, packet.FIN | packet.ACK, next[1].Add(9), nil},
		{server, packet.SYN | packet.ACK, next[1].Add(77), nil},
	}
	for i, f := range forged {
		w.segment(f.from, f.flags, f.seq, f.b)
		if r.table.Calls() != 1 {
			t.Fatalf("forged segment %d ended the call", i)
		}
	}
	if id, _ := ids(w.say(client, message(pptp.CallClearRequest, 8, 0, 0))); id != 8 || r.table.Calls() != 0 {
		t.Errorf("the client's own Call-Clear-Request: %v, %d calls", w.last.Reason, r.table.Calls())
	}
}

// TestAClientCannotClearAnothersCall: IDs mean something on their own connection only.
func TestAClientCannotClearAnothersCall(t *testing.T) {
	r := newRig(t)
	a := r.masqueraded(netip.MustParseAddr("10.0.0.10")).handshake()
	b := r.masqueraded(netip.MustParseAddr("10.0.0.11")).handshake()
	public := a.outgoing(7, 100)
	for _, id := range []pptp.CallID{7, public, 100} {
		b.say(client, message(pptp.CallClearRequest, id, 0, 0))
		b.say(server, message(pptp.CallDisconnectNotify, id, 0, 0))
	}
	if r.table.Calls() != 1 {
		t.Error("the other client's call was ended")
	}
}

func TestLimits(t *testing.T) {
	tests := map[Anomaly]func(c *calls.Config){
		LimitCalls:  func(c *calls.Config) { c.Calls = 3 },
		LimitClient: func(c *calls.Config) { c.CallsPerClient = 3 },
		LimitSpace:  func(c *calls.Config) { c.CallsPerSpace = 3 },
		LimitRate:   func(c *calls.Config) { c.Requests = 3 },
	}
	for want, limit := range tests {
		t.Run(want.String(), func(t *testing.T) {
			cfg := calls.DefaultConfig()
			limit(&cfg)
			r := newRig(t)
			r.table = calls.New(cfg)
			r.ed = NewEditor(r.table, DefaultConnections)
			w := r.masqueraded(insideAddr).handshake()
			for i := range 3 {
				w.outgoing(pptp.CallID(i+1), pptp.CallID(100+i))
			}
			w.anomalies()
			got := w.say(client, message(pptp.OutgoingCallRequest, 4, 0, 0))
			if id, _ := ids(got); id != 4 || r.table.Calls() != 3 {
				t.Errorf("the request beyond says %v, %d calls", id, r.table.Calls())
			}
			if a := w.anomalies(); !slices.Equal(a, []Anomaly{want}) {
				t.Errorf("anomalies: %v", a)
			}
			w.say(client, message(pptp.CallClearRequest, 1, 0, 0))
			w.say(server, message(pptp.CallDisconnectNotify, 100, 0, 0))
			w.now = w.now.Add(cfg.Rest)
			w.ed.Sweep([]calls.Connection{w.conn}, epoch, w.now)
			w.say(client, message(pptp.OutgoingCallRequest, 5, 0, 0))
			if r.table.Calls() != 3 {
				t.Errorf("with room again there are %d calls", r.table.Calls())
			}
		})
	}
}

// TestConnectionLimit: where too many connections are on record, the next one takes the
// place of one that has not finished the Start exchange, else of one without calls, the
// oldest first. One with calls stays.
func TestConnectionLimit(t *testing.T) {
	r := newRig(t)
	r.ed = NewEditor(r.table, 4)
	busy, idle := r.masqueraded(insideHost(1)).handshake(), r.masqueraded(insideHost(2)).handshake()
	busy.outgoing(7, 9)
	silent, lastSilent := r.masqueraded(insideHost(3)), r.masqueraded(insideHost(4))
	silent.synAck()
	lastSilent.synAck()
	for i, gone := range []*wire{silent, lastSilent, idle} {
		w := r.masqueraded(insideHost(5 + i)).handshake()
		w.outgoing(7, pptp.CallID(10+i))
		gone.conn.Opening = false
		if _, known := r.ed.senders[keyOf(gone.conn.Original.Src, gone.conn.Original.Dst)]; known || r.ed.Evicted() != uint64(i+1) {
			t.Errorf("connection %d: its victim is on record; %d were evicted", i, r.ed.Evicted())
		}
	}
	w := r.masqueraded(insideHost(9))
	w.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
	if w.last.Reason != NoConnection || w.last.Verdict != Accept {
		t.Errorf("where all have calls: %v, %v", w.last.Verdict, w.last.Reason)
	}
	if id, _ := ids(busy.say(client, message(pptp.CallClearRequest, 7, 0, 0))); id != 7 || r.table.Calls() != 3 {
		t.Errorf("the first call is cleared as %v, %d calls are left", id, r.table.Calls())
	}
}

// TestOneClientsConnections: a client has at most half of the connections on record,
// with calls or without, and what it opens beyond takes the place of its own.
func TestOneClientsConnections(t *testing.T) {
	r := newRig(t)
	r.ed = NewEditor(r.table, 8)
	other := r.masqueraded(insideHost(2))
	other.synAck()
	for i := range 4 {
		r.masqueraded(insideAddr).handshake().outgoing(pptp.CallID(i), pptp.CallID(9+i))
	}
	if w := r.masqueraded(insideAddr); r.ed.Open(w.conn, r.now) {
		t.Error("a fifth connection is taken, although four of its client's have calls")
	}
	for i := range 20 {
		r.masqueraded(insideHost(3)).handshake()
		if n := len(r.ed.all); n > 8 {
			t.Fatalf("%d connections with the %dth", n, i)
		}
	}
	other.say(client, message(pptp.StartControlConnectionRequest, 0, 0, 0))
	if other.last.Reason != NoConnection && r.ed.origins[initiator{addr: insideHost(3)}].live > 4 {
		t.Errorf("one client has %d of 8", r.ed.origins[initiator{addr: insideHost(3)}].live)
	}
}

// TestEndedGiveWay: connections that are over are on record as long as nobody needs the
// room, and the first to end goes first.
func TestEndedGiveWay(t *testing.T) {
	r := newRig(t)
	r.ed = NewEditor(r.table, 3)
	reset := func(w *wire) { w.segment(server, packet.RST, w.seq[1], nil) }
	first, second := r.masqueraded(insideHost(1)).handshake(), r.masqueraded(insideHost(2)).handshake()
	stays := r.masqueraded(insideHost(3)).handshake()
	reset(second)
	reset(first)
	fourth := r.masqueraded(insideHost(4)).handshake()
	fourth.say(client, message(pptp.OutgoingCallRequest, 7, 0, 0))
	if fourth.last.Reason != Read {
		t.Errorf("in the place of one that is over: %v", fourth.last.Reason)
	}
	for w, want := range map[*wire]Reason{first: Over, second: NoConnection, stays: Read} {
		w.say(client, message(pptp.EchoRequest, 0, 0, 0))
		if w.last.Reason != want {
			t.Errorf("%v: %v, want %v", w.conn.Original.Src, w.last.Reason, want)
		}
	}
}

// TestFewLinger: however fast connections come and go, few of those that are over are kept.
func TestFewLinger(t *testing.T) {
	r := newRig(t)
	for range mostEnded + 100 {
		w := r.masqueraded(insideAddr).handshake()
		w.segment(server, packet.RST, w.seq[1], nil)
	}
	if n := len(r.ed.all); n != mostEnded || len(r.ed.senders) != 2*mostEnded {
		t.Errorf("%d connections and %d senders on record", n, len(r.ed.senders))
	}
	r.now = r.now.Add(linger)
	r.ed.Sweep(nil, r.now, r.now)
	if len(r.ed.all)+len(r.ed.ended)+len(r.ed.senders) != 0 {
		t.Errorf("later %d connections and %d senders on record", len(r.ed.all), len(r.ed.senders))
	}
}

// TestRestored: an editor that takes up what another one kept goes on with it.
func TestRestored(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr).handshake()
	public := w.outgoing(7, 9)
	records := r.ed.Records()
	if len(records) != 2 {
		t.Fatalf("%d records, want 2", len(records))
	}
	r.table = calls.New(calls.DefaultConfig())
	r.ed = NewEditor(r.table, DefaultConnections)
	if refused := r.ed.Restore(records, r.now); refused != 0 || r.table.Calls() != 2 {
		t.Fatalf("%d calls, %d refused", r.table.Calls(), refused)
	}
	if refused := r.ed.Restore(records, r.now); refused != 2 || r.table.Calls() != 2 {
		t.Errorf("restored twice: %d calls, %d refused", r.table.Calls(), refused)
	}
	if id, _ := ids(w.say(server, message(pptp.SetLinkInfo, 0, public, 0))); id != 7 {
		t.Errorf("Set-Link-Info after the restart says %v", id)
	}
	other := r.masqueraded(netip.MustParseAddr("10.0.0.77")).handshake()
	if p := other.outgoing(7, 10); p == public || p == 7 {
		t.Errorf("a new call is given %v, which a restored one has", p)
	}
	if id, _ := ids(w.say(client, message(pptp.CallClearRequest, 7, 0, 0))); id != public || r.table.Calls() != 3 {
		t.Errorf("Call-Clear-Request after the restart says %v, and before it is acknowledged there are %d calls", id, r.table.Calls())
	}
	if w.say(server, message(pptp.EchoRequest, 0, 0, 0)); r.table.Calls() != 2 {
		t.Errorf("after it was acknowledged there are %d calls", r.table.Calls())
	}
}

func TestRandomIDs(t *testing.T) {
	cfg := calls.DefaultConfig()
	cfg.Random = rand.New(rand.NewPCG(1, 2)).Uint32
	r := newRig(t)
	r.table = calls.New(cfg)
	r.ed = NewEditor(r.table, DefaultConnections)
	kept := 0
	for i := range 100 {
		w := r.masqueraded(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})).handshake()
		if w.outgoing(7, pptp.CallID(i)) == 7 {
			kept++
		}
	}
	if kept > 5 {
		t.Errorf("%d of 100 IDs were kept", kept)
	}
}
