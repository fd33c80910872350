package alg

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// twin is a rig whose editor owns no public address, but follows a call of each of some
// connections.
func newTwin(t testing.TB, records ...calls.Record) *rig {
	r := newRig(t)
	owned := map[netip.Addr]bool{}
	r.ed.Owned(func(c calls.Connection) bool {
		public, _ := c.Public()
		return owned[public]
	})
	for _, record := range records {
		if _, ok := r.ed.Follow(record, r.now); !ok {
			t.Fatalf("the call %+v is not followed", record)
		}
	}
	r.table.Events()
	return r
}

// owns has the rig's editor own a public address, or another gateway, and visits its
// connections, and returns those with calls.
func (r *rig) owns(public netip.Addr, owned bool) (moved []calls.Connection) {
	was := r.ed.owned
	r.ed.Owned(func(c calls.Connection) bool {
		if p, _ := c.Public(); p == public {
			return owned
		}
		return was == nil || was(c)
	})
	for h, more := r.ed.Handover(behind(public)), true; more; {
		var some []calls.Connection
		some, more = h.Next(2, r.now)
		moved = append(moved, some...)
	}
	return moved
}

// moved has the wire's packets come to another rig from now on.
func (w *wire) moved(to *rig) *wire {
	w.rig = to
	return w
}

// followedCall is a call that one gateway has, and another one follows.
func followedCall(t testing.TB) (w *wire, follower *rig) {
	w = newRig(t).masqueraded(insideAddr).handshake()
	crowd(w.rig, 7)
	w.outgoing(7, 9)
	return w, newTwin(t, w.ed.Records()[0])
}

// TestUnsure: while the former owner may have something to tell, a message about an unknown call comes
// again, and is read then. What was said before it counts.
func TestUnsure(t *testing.T) {
	w, follower := followedCall(t)
	w.moved(follower)
	follower.owns(gatewayAddr, true)
	w.say(server, message(pptp.CallDisconnectNotify, 9, 0, 1)) // waits until the client acknowledges it
	follower.ed.Unsure(true)
	reply := message(pptp.OutgoingCallReply, 10, 300, byte(pptp.ResultOK))
	at := w.seq[server]
	for range 2 {
		w.segment(server, packet.ACK, at, reply)
		if w.last.Verdict != Drop || follower.table.Calls() != 1 {
			t.Fatalf("%v, %d calls", w.last.Verdict, follower.table.Calls())
		}
	}
	w.segment(client, packet.ACK, w.seq[client], nil)
	if n := follower.table.Calls(); n != 0 {
		t.Errorf("%d calls after the Notify was acknowledged", n)
	}
	follower.ed.Unsure(false)
	w.segment(server, packet.ACK, at, reply)
	if w.last.Verdict == Drop || len(w.last.Messages) != 1 {
		t.Errorf("in the end %v, %v", w.last.Verdict, w.last.Messages)
	}
}

// TestElsewhere: whatever comes of a connection that another gateway owns passes as it is, and
// changes nothing.
func TestElsewhere(t *testing.T) {
	for name, what := range map[string]struct {
		from  calls.Side
		flags packet.Flags
		b     []byte
	}{
		"a call request":        {client, packet.ACK, message(pptp.OutgoingCallRequest, 8, 0, 0)},
		"a Call-Clear-Request":  {client, packet.ACK, message(pptp.CallClearRequest, 7, 0, 0)},
		"a Notify":              {server, packet.ACK, message(pptp.CallDisconnectNotify, 9, 0, 0)},
		"noise":                 {server, packet.ACK, make([]byte, 40)},
		"a RST":                 {client, packet.RST, nil},
		"a FIN":                 {server, packet.FIN | packet.ACK, nil},
		"an acknowledgement":    {server, packet.ACK, nil},
		"a SYN+ACK":             {server, packet.SYN | packet.ACK, nil},
		"a SYN+ACK, with data":  {server, packet.SYN | packet.ACK, message(pptp.StartControlConnectionReply, 0, 0, 1)},
		"data far ahead":        {client, packet.ACK, make([]byte, 3)},
		"data of the gateway's": {client, packet.ACK, message(pptp.SetLinkInfo, 0, 9, 0)},
	} {
		w, follower := followedCall(t)
		w.moved(follower)
		before := w.ed.all[0].control.Records(nil)
		for range 3 {
			got := w.segment(what.from, what.flags, w.seq[what.from].Add(100), bytes.Clone(what.b))
			if !bytes.Equal(got, what.b) || w.last.Verdict != Accept || w.last.Reason != Elsewhere || w.last.Leave || w.last.Reset {
				t.Errorf("%s: %+v", name, w.last)
			}
			w.now = w.now.Add(2 * time.Second)
		}
		if after := w.ed.all[0].control.Records(nil); !slices.Equal(after, before) || len(w.table.Events()) != 0 {
			t.Errorf("%s changes the calls to %+v", name, after)
		}
	}
}

// TestStrayElsewhere: so does what comes of a connection that another gateway owns and that
// has no calls. It is on record, to be told without a question to the kernel, but within the
// limits, until conntrack has it no longer.
func TestStrayElsewhere(t *testing.T) {
	r := newTwin(t)
	w := r.masqueraded(insideAddr)
	w.ask(client, packet.ACK, w.seq[client], message(pptp.OutgoingCallRequest, 7, 0, 0))
	if w.last.Reason != Elsewhere || len(r.ed.all) != 1 || r.table.Calls() != 0 {
		t.Fatalf("%v, %d connections, %d calls", w.last.Reason, len(r.ed.all), r.table.Calls())
	}
	if n := r.ed.Connections(); n[Elsewhere] != 1 || n[Read] != 0 {
		t.Errorf("connections: %v", n)
	}
	r.now = r.now.Add(time.Second)
	r.ed.Sweep([]calls.Connection{w.conn}, r.now, r.now)
	if len(r.ed.all) != 1 {
		t.Error("it is off the record although conntrack has it")
	}
	r.ed.most = 1
	r.masqueraded(insideHost(12))
	if len(r.ed.all) != 1 || r.ed.Evicted() != 1 {
		t.Errorf("%d connections are on record, 1 is the limit; %d gave way", len(r.ed.all), r.ed.Evicted())
	}
	r.now = r.now.Add(time.Second)
	r.ed.Sweep(nil, r.now, r.now)
	if len(r.ed.all) != 0 {
		t.Error("it is on record although conntrack does not have it")
	}
}

// TestAuditOfFollowed: what conntrack lacks is told, and ends nothing.
func TestAuditOfFollowed(t *testing.T) {
	elsewhere := func(c calls.Connection) calls.Connection {
		c.Reply.Dst = netip.AddrPortFrom(gatewayAddr, 9)
		return c
	}
	closing := func(c calls.Connection) calls.Connection { c.Closing, c.Reset = true, true; return c }
	same := func(c calls.Connection) calls.Connection { return c }
	for _, tt := range []struct {
		name    string
		live    func(calls.Connection) calls.Connection
		missing bool
	}{
		{"as it was", same, false}, {"gone", nil, true}, {"reset", closing, false}, {"translated in another way", elsewhere, true},
	} {
		w, r := followedCall(t)
		for day := range 3 {
			r.now = r.now.Add(24 * time.Hour)
			c := r.ed.Compare(r.now)
			if tt.live != nil {
				c.Found([]calls.Connection{tt.live(w.conn)})
			}
			lost, _ := c.Missing(10, nobody, r.now)
			if len(lost) == 1 != tt.missing || tt.missing && (!lost[0].Followed || len(lost[0].Calls) != 1 || lost[0].Again != (day > 0)) {
				t.Errorf("%s, day %d: missing %+v", tt.name, day, lost)
			}
			changes, _ := c.Sweep(10, r.now)
			idle, _ := c.EndIdle(10, r.now, func(calls.Record) bool { return true }, r.now)
			if records, _ := c.Records(10, nil); len(records) != 1 || len(changes)+len(idle) != 0 {
				t.Errorf("%s, day %d: %d calls are left, %v, %v", tt.name, day, len(records), changes, idle)
			}
			if len(r.ed.Records()) != 0 {
				t.Errorf("%s: a restart finds another gateway's calls", tt.name)
			}
		}
		gone := w.conn
		gone.Closing = true
		c := r.ed.Look([]calls.Connection{gone}, r.now.Add(1))
		if lost, _ := c.Missing(10, nobody, r.now); len(lost) != 1 {
			t.Errorf("%s: of an entry that was closed when it went, missing %+v", tt.name, lost)
		}
	}
}

// TestTakenWhileCompared: a connection becomes this gateway's while all are compared with conntrack, which lacks it or
// was asked about it as another's. The packet that shows that came before conntrack was asked, and it does not end.
func TestTakenWhileCompared(t *testing.T) {
	for _, lacks := range []bool{true, false} {
		w, r := followedCall(t)
		r.now = r.now.Add(time.Minute)
		c := r.ed.Compare(r.now)
		if !lacks {
			c.Found([]calls.Connection{w.conn})
		}
		if lost, _ := c.Missing(10, nobody, r.now); len(lost) == 1 != lacks {
			t.Fatalf("missing %+v", lost)
		}
		r.now = r.now.Add(-time.Second)
		r.owns(gatewayAddr, true)
		r.table.Events()
		r.now = r.now.Add(2 * time.Second)
		if changes, _ := c.Sweep(10, r.now); len(changes) != 0 || r.table.Calls() != 1 {
			t.Errorf("lacks it: %v: %d calls, changes %v", lacks, r.table.Calls(), changes)
		}
	}
}

// TestOpenedWhileCompared: so it is with a connection that begins meanwhile.
func TestOpenedWhileCompared(t *testing.T) {
	r := newRig(t)
	c := r.ed.Compare(r.now.Add(time.Second))
	w := r.masqueraded(insideAddr).handshake()
	c.Missing(10, nobody, r.now)
	c.Sweep(10, r.now)
	if w.outgoing(7, 9); r.table.Calls() != 1 {
		t.Errorf("%d calls", r.table.Calls())
	}
}

// on reports whether a connection is among others.
func (w *wire) on(all []calls.Connection) bool { return slices.ContainsFunc(all, w.conn.Same) }

// TestMovesOn: a connection goes from gateway to gateway, and back to one that has seen the
// beginning of it; at each its calls are read, edited and ended at once.
func TestMovesOn(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	a := w.rig
	crowd(a, 7)
	w.outgoing(7, 9)
	b := newTwin(t, a.ed.Records()...)
	echo := message(pptp.EchoRequest, 0, 0, 0)
	w.segment(client, packet.ACK, w.seq[client].Add(50), echo) // a gap at the time of the death
	take := func(r *rig, from *rig) {
		t.Helper()
		r.now = r.now.Add(time.Minute)
		if got := from.owns(gatewayAddr, false); !w.on(got) || got[0].Opening {
			t.Errorf("dropped: %v", got)
		}
		if got := r.owns(gatewayAddr, true); !w.on(got) {
			t.Errorf("rejoined: %v", got)
		}
		w.moved(r)
		if len(from.ed.Records()) != 0 || len(r.ed.Records()) != r.table.Calls() || r.table.Followed() != 0 || from.table.Calls() != 0 {
			t.Errorf("%d calls, of which a restart finds %d; at the former owner %d", r.table.Calls(), len(r.ed.Records()), from.table.Calls())
		}
	}
	works := func(own, servers, want pptp.CallID) {
		t.Helper()
		w.say(client, echo)
		w.say(server, echo)
		if public := w.outgoing(own, servers); public != want {
			t.Errorf("the ID %v is public as %v, want %v", own, public, want)
		}
	}
	follow := func(r *rig, of *rig) {
		for _, record := range of.ed.Records() {
			r.ed.Follow(record, r.now)
		}
	}
	take(b, a)
	works(7, 0x2000, 255) // again
	works(8, 0x2001, 8)
	follow(a, b)
	w.seq[client] = w.seq[client].Add(1000) // passed at another gateway
	w.seq[server] = w.seq[server].Add(1000)
	take(a, b)
	works(8, 0x2002, 8)
	w.say(client, message(pptp.CallClearRequest, 8, 0, 0))
	w.say(server, message(pptp.EchoReply, 0, 0, 1))
	if a.table.Calls() != 2 {
		t.Errorf("after a call was cleared %d are left, want 2", a.table.Calls())
	}
	w.segment(client, packet.FIN|packet.ACK, w.seq[client], nil)
	w.segment(server, packet.FIN|packet.ACK, w.seq[server], nil)
	if a.table.Calls() != 1 {
		t.Errorf("%d calls are left after both FINs, want that of the other connection", a.table.Calls())
	}
}

// TestConcedes: a gateway that loses a connection carries out the endings that have passed it just now,
// whether or not they were acknowledged there; but none that has waited for long.
func TestConcedes(t *testing.T) {
	for name, tt := range map[string]struct {
		wait time.Duration
		left int
	}{"just now": {conceded / 2, 0}, "long ago": {conceded, 1}} {
		w, b := followedCall(t)
		w.moved(b)
		b.owns(gatewayAddr, true)
		b.table.Events()
		w.say(server, message(pptp.CallDisconnectNotify, 9, 0, 1))
		if n := b.table.Calls(); n != 1 {
			t.Fatalf("%s: %d calls while the Notify waits", name, n)
		}
		b.now = b.now.Add(tt.wait)
		b.owns(gatewayAddr, false)
		gone := slices.ContainsFunc(b.table.Events(), func(e calls.Event) bool { return e.Kind == calls.Gone })
		if n := b.table.Followed(); n != tt.left || gone != (tt.left == 0) {
			t.Errorf("%s: %d calls are followed, one is gone: %v", name, n, gone)
		}
	}
}

// TestAdopt: what a former owner tells late of a connection of this gateway's is taken in while the
// connection is read on.
func TestAdopt(t *testing.T) {
	w, b := followedCall(t)
	second := w.outgoing(8, 10)
	late := w.ed.Records()[1]
	w.moved(b)
	b.owns(gatewayAddr, true)
	w.say(client, message(pptp.EchoRequest, 0, 0, 0))
	w.say(server, message(pptp.EchoReply, 0, 0, 1))
	if first, ok := b.ed.Adopt(late, b.now); first || !ok || b.table.Calls() != 2 {
		t.Fatalf("adopted: %v, first: %v, %d calls", ok, first, b.table.Calls())
	}
	if _, ok := b.ed.Adopt(late, b.now); ok {
		t.Error("it is adopted twice")
	}
	if e := b.table.Events(); len(e) != 3 || e[0].Kind != calls.Install || e[1].Kind != calls.Install || e[2].Kind != calls.TakenOver {
		t.Errorf("events: %v", e)
	}
	if got := w.say(client, message(pptp.SetLinkInfo, 0, 10, 0)); w.last.Reason != Read || len(w.last.Anomalies) != 0 {
		t.Errorf("a message about it: %+v, %x", w.last, got)
	}
	b.ed.Retire(&late.Connection, late.Number, b.now)
	b.ed.Retire(&late.Connection, late.Number, b.now)
	if b.table.Calls() != 1 {
		t.Errorf("%d calls after one was over", b.table.Calls())
	}
	late.Number++
	if _, ok := b.ed.Adopt(late, b.now); !ok || b.table.Calls() != 2 {
		t.Errorf("a call whose public ID %v rests is not adopted", second)
	}
	checkRolls(t, b.ed)
}

// TestAdoptsTheFirst: a request passed by the former owner, and came again by TCP to this gateway, which gave it an ID
// of its own. The former owner's is the one that the server has. But where the server has answered, it is this one's.
func TestAdoptsTheFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		answered [2]bool // at the former owner, here
		same     bool    // both gave the same ID
		adopted  bool
	}{
		"asked":                       {[2]bool{}, false, true},
		"asked, with the same ID":     {[2]bool{}, true, true},
		"answered":                    {[2]bool{true, false}, false, true},
		"answered, with the same ID":  {[2]bool{true, false}, true, true},
		"answered here":               {[2]bool{false, true}, false, false},
		"answered both, with one ID":  {[2]bool{true, true}, true, false},
		"answered here, with one ID,": {[2]bool{false, true}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, b := followedCall(t)
			if !tt.same {
				crowd(w.rig, 8)
			}
			request := message(pptp.OutgoingCallRequest, 8, 0, 0)
			first, _ := ids(w.say(client, request))
			if tt.answered[0] {
				w.say(server, message(pptp.OutgoingCallReply, 300, first, pptp.ResultOK))
			}
			late := w.ed.Records()[1]
			late.Number += 100 // those of gateways differ
			w.moved(b)
			b.owns(gatewayAddr, true)
			second, _ := ids(w.segment(client, packet.ACK, w.seq[client].Add(-len(request)), request))
			if first == second != tt.same {
				t.Fatalf("the IDs are %v and %v", first, second)
			}
			if tt.answered[1] {
				w.say(server, message(pptp.OutgoingCallReply, 300, second, pptp.ResultOK))
			}
			own := b.table.Calls()
			if _, ok := b.ed.Adopt(late, b.now); ok != tt.adopted || b.table.Calls() != own {
				t.Fatalf("adopted: %v, %d calls, want %d", ok, b.table.Calls(), own)
			}
			if !tt.adopted {
				return
			}
			if _, client := ids(w.say(server, message(pptp.OutgoingCallReply, 300, first, pptp.ResultOK))); client != 8 {
				t.Errorf("the answer says %v", client)
			}
			all := b.ed.Records()
			if i := slices.IndexFunc(all, func(r calls.Record) bool { return r.Number == late.Number }); i < 0 || all[i].State != calls.Established {
				t.Errorf("records: %+v", all)
			}
			checkRolls(t, b.ed)
		})
	}
}

// TestAdoptsConnection: so is a call on a connection that is not on record, but none of another gateway's.
func TestAdoptsConnection(t *testing.T) {
	w, _ := followedCall(t)
	record := w.ed.Records()[0]
	b := newTwin(t)
	if _, ok := b.ed.Adopt(record, b.now); ok || len(b.ed.all) != 0 {
		t.Errorf("a call of another gateway is adopted; %d connections", len(b.ed.all))
	}
	b.owns(gatewayAddr, true)
	if first, ok := b.ed.Adopt(record, b.now); !first || !ok || b.table.Calls() != 1 {
		t.Errorf("adopted: %v, first: %v, %d calls", ok, first, b.table.Calls())
	}
	checkRolls(t, b.ed)
}

// TestSegmentBeforeHandover: a segment passes by who owns its connection now, though the
// connections were not visited yet.
func TestSegmentBeforeHandover(t *testing.T) {
	w, b := followedCall(t)
	w.now = w.now.Add(time.Minute)
	w.ed.Owned(func(calls.Connection) bool { return false })
	request := message(pptp.OutgoingCallRequest, 8, 0, 0)
	if got := w.segment(client, packet.ACK, w.seq[client], bytes.Clone(request)); !bytes.Equal(got, request) || w.last.Reason != Elsewhere {
		t.Errorf("after the loss: %+v", w.last)
	}
	if e := w.last.Events; len(e) != 1 || e[0].Kind != calls.Followed {
		t.Errorf("events of the loss: %v", e)
	}
	checkRolls(t, w.ed)
	if got := w.owns(gatewayAddr, false); len(got) != 2 || !w.on(got) {
		t.Errorf("dropped afterwards: %v", got)
	}
	w.moved(b)
	b.ed.Owned(nil)
	w.say(client, request)
	if e := w.last.Events; w.last.Reason != Read || len(e) < 2 || e[0].Kind != calls.TakenOver || b.table.Calls() != 2 {
		t.Errorf("after it was taken over: %+v", w.last)
	}
	checkRolls(t, b.ed)
	idle := newRig(t).masqueraded(insideAddr).handshake()
	idle.ed.Owned(func(calls.Connection) bool { return false })
	idle.segment(client, packet.ACK, idle.seq[client], bytes.Clone(request))
	if idle.last.Reason != Elsewhere || len(idle.ed.all) != 0 {
		t.Errorf("without calls: %v, %d connections", idle.last.Reason, len(idle.ed.all))
	}
	seg, err := packet.Parse(tcp(t, idle.conn.Original, packet.ACK, idle.seq[client], idle.seq[server], request))
	if err != nil {
		t.Fatal(err)
	}
	if c := idle.ed.Connection(seg); !c.Same(idle.conn) {
		t.Errorf("the packet was of %v", c)
	}
}

// TestDropForgets: with a public address the record of its connections goes, but for calls;
// with another one's nothing does.
func TestDropForgets(t *testing.T) {
	r := newRig(t)
	busy, idle, over := r.masqueraded(insideHost(11)).handshake(), r.masqueraded(insideHost(12)).handshake(), r.masqueraded(insideHost(13)).handshake()
	busy.outgoing(7, 9)
	over.segment(client, packet.RST, over.seq[client], nil)
	plain := r.connect(calls.Connection{
		Original: tuple(insideHost(14), 1, serverAddr, 1723), Reply: tuple(serverAddr, 1723, insideHost(14), 1),
	})
	other := r.masqueraded(insideHost(15))
	other.conn.Reply.Dst = netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), 1)
	r.ed.all[len(r.ed.all)-1].control = r.table.Open(other.conn)
	r.table.Events()
	if got := r.owns(gatewayAddr, false); len(got) != 1 || !got[0].Same(busy.conn) {
		t.Errorf("dropped with calls: %v", got)
	}
	events := r.table.Events()
	if len(events) != 1 || events[0].Kind != calls.Followed {
		t.Errorf("events: %v", events)
	}
	var left []calls.Connection
	for _, d := range r.ed.all {
		left = append(left, d.control.Connection())
	}
	slices.SortFunc(left, func(a, b calls.Connection) int { return a.Original.Src.Compare(b.Original.Src) })
	if len(left) != 3 || !left[0].Same(busy.conn) || !left[1].Same(plain.conn) || !left[2].Same(other.conn) {
		t.Errorf("left: %v; %v and %v should not be", left, idle.conn.Original, over.conn.Original)
	}
	if got := r.owns(gatewayAddr, false); len(got) != 0 {
		t.Errorf("dropped again: %v", got)
	}
	if got := r.owns(netip.MustParseAddr("198.51.100.7"), true); len(got) != 0 || r.table.Calls() != 0 {
		t.Errorf("rejoined with another address: %v, %d calls", got, r.table.Calls())
	}
	r.ed.Sweep(nil, r.now, r.now.Add(2*linger)) // the lists of those that ended have the removed ones
	checkRolls(t, r.ed)
}

// checkRolls compares the editor's lists with its connections.
func checkRolls(t *testing.T, e *Editor) {
	t.Helper()
	var standing, apart, enrolled int
	for i, d := range e.all {
		if int(d.index) != i {
			t.Errorf("connection %d is at %d", d.index, i)
		}
		if d.apart {
			apart++
		}
		if !d.apart && !d.over {
			standing++
		}
	}
	for _, l := range []*list{&e.everyone.waiting, &e.everyone.started} {
		for d := l.first; d != nil; d = d.links[everyones].behind {
			enrolled++
		}
	}
	live := 0
	for _, o := range e.origins {
		live += o.live
	}
	if standing != enrolled || live != enrolled || apart != e.apart {
		t.Errorf("%d connections count, %d and %d are in the rolls; %d are apart, %d by the count", standing, enrolled, live, apart, e.apart)
	}
}

// TestFollowedCountApart: connections of other gateways take no room from this one's.
func TestFollowedCountApart(t *testing.T) {
	source := newRig(t)
	for i := range 5 {
		source.masqueraded(insideAddr).handshake().outgoing(7, pptp.CallID(100+i))
	}
	r := newTwin(t, source.ed.Records()...)
	r.ed.Owned(nil)
	r.ed.most, r.wires = 4, 100
	for range 2 {
		r.masqueraded(insideAddr).handshake()
	}
	if len(r.ed.all) != 7 || r.ed.Evicted() != 0 {
		t.Errorf("%d connections are on record, want 7; %d gave way", len(r.ed.all), r.ed.Evicted())
	}
	checkRolls(t, r.ed)
	r.owns(gatewayAddr, true)
	checkRolls(t, r.ed)
	if r.ed.apart != 0 {
		t.Errorf("%d connections are apart", r.ed.apart)
	}
	if r.masqueraded(insideHost(12)); len(r.ed.all) != 7 || r.ed.Evicted() != 1 {
		t.Errorf("%d connections are on record, of which 4 may be", len(r.ed.all))
	}
}

// TestFollowPlaces: which of two connections with one tuple is on record.
func TestFollowPlaces(t *testing.T) {
	conn := calls.Connection{
		Original: tuple(insideAddr, 40001, serverAddr, 1723),
		Reply:    tuple(serverAddr, 1723, gatewayAddr, 40001),
	}
	other, plain := conn, conn
	other.Reply.Dst = netip.AddrPortFrom(gatewayAddr, 9)
	plain.Reply.Dst = plain.Original.Src
	record := func(c calls.Connection, n uint64) calls.Record {
		return calls.Record{Number: n, Connection: c, Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: 7}}}
	}
	for _, tt := range []struct {
		name      string
		before    func(r *rig)
		c         calls.Connection
		first, ok bool
		calls     int // on record afterwards
	}{
		{"none before", func(*rig) {}, conn, true, true, 1},
		{"the same, of another call", func(r *rig) {
			r.ed.Follow(calls.Record{Number: 1, Connection: conn, Legs: [2]calls.LegRecord{{Known: true, Own: 8, Public: 8}}}, r.now)
		}, conn, false, true, 2},
		{"one that is translated otherwise", func(r *rig) { r.ed.Follow(record(other, 1), r.now) }, conn, true, true, 1},
		{"a stray segment's", func(r *rig) { r.ed.Open(conn, r.now) }, conn, true, true, 1},
		{"this gateway's own", func(r *rig) { r.ed.Owned(nil); r.ed.Open(conn, r.now) }, conn, false, false, 0},
		{"this gateway's own, translated otherwise", func(r *rig) { r.ed.Owned(nil); r.ed.Open(other, r.now) }, conn, false, false, 0},
		{"this gateway's own, which has ended", func(r *rig) {
			r.ed.Owned(nil)
			r.ed.Open(conn, r.now)
			r.ed.end(r.ed.all[0], calls.Reset, r.now)
		}, conn, true, true, 1},
		{"not translated", func(*rig) {}, plain, false, false, 0},
		{"an ID is taken", func(r *rig) {
			r.table.Reserve(record(conn, 1).Flows()[0])
		}, conn, false, false, 0},
	} {
		r := newTwin(t)
		tt.before(r)
		first, ok := r.ed.Follow(record(tt.c, 9), r.now)
		if first != tt.first || ok != tt.ok {
			t.Errorf("%s: first %v, ok %v", tt.name, first, ok)
		}
		if records, _ := r.ed.Compare(r.now).Records(9, nil); len(records) != tt.calls {
			t.Errorf("%s: %d calls are on record, want %d", tt.name, len(records), tt.calls)
		}
		checkRolls(t, r.ed)
	}
}

// TestReusedTuple: a connection that begins here with the tuple of a followed one is this
// gateway's, if the public address is.
func TestReusedTuple(t *testing.T) {
	for _, owned := range []bool{true, false} {
		w, r := followedCall(t)
		r.ed.Owned(func(calls.Connection) bool { return owned })
		opening := w.conn
		opening.Opening = true
		r.ed.Open(opening, r.now)
		if d := r.ed.all[0]; len(r.ed.all) != 1 || d.control.Followed() == owned || d.control.Busy() == owned {
			t.Errorf("owned: %v; followed: %v, with calls: %v", owned, d.control.Followed(), d.control.Busy())
		}
		events := r.table.Events()
		if forgotten := slices.ContainsFunc(events, func(e calls.Event) bool { return e.Kind == calls.Forgotten }); forgotten != owned {
			t.Errorf("owned: %v; events %v", owned, events)
		}
		checkRolls(t, r.ed)
	}
}

// TestForgetTheLast: with its last call a followed connection is off the record.
func TestForgetTheLast(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	w.outgoing(8, 10)
	records := w.ed.Records()
	r := newTwin(t, records...)
	for i, record := range records {
		of, last := r.ed.Forget(record.Number, r.now, r.now)
		if !of.Same(w.conn) || last != (i == 1) || len(r.ed.all) != 1-i {
			t.Errorf("of %v, last %v, %d connections", of, last, len(r.ed.all))
		}
	}
	if of, last := r.ed.Forget(records[0].Number, r.now, r.now); last || of != (calls.Connection{}) {
		t.Errorf("of a call that is gone: %v, %v", of, last)
	}
	checkRolls(t, r.ed)
	if len(r.ed.senders) != 0 {
		t.Errorf("%d senders are left", len(r.ed.senders))
	}
}

// TestRestoreFollows: of what a gateway knows from before, that is followed which it does not
// own.
func TestRestoreFollows(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	r := newTwin(t)
	if refused := r.ed.Restore(w.ed.Records(), r.now); refused != 0 || r.table.Followed() != 1 || r.table.Calls() != 0 {
		t.Errorf("%d are refused, %d followed, %d are its own", refused, r.table.Followed(), r.table.Calls())
	}
	if refused := r.ed.Restore([]calls.Record{{Number: 5, Connection: w.conn, Legs: w.ed.Records()[0].Legs}}, r.now); refused != 0 {
		t.Errorf("the next call with its IDs is refused")
	}
	r.table.Reserve(calls.Flow{Src: serverAddr, Dst: gatewayAddr, Key: 50, NewSrc: serverAddr, NewDst: insideAddr, NewKey: 50})
	taken := calls.Record{Number: 6, Connection: w.conn, Legs: [2]calls.LegRecord{{Known: true, Own: 50, Public: 50}}}
	if refused := r.ed.Restore([]calls.Record{taken}, r.now); refused != 1 {
		t.Errorf("%d are refused, want 1", refused)
	}
}

// TestRejoinedKeepsIgnoring: a connection that the kernel's helper edits is not read after it
// was taken over.
func TestRejoinedKeepsIgnoring(t *testing.T) {
	r := newTwin(t)
	conn := calls.Connection{
		Original: tuple(insideAddr, 40001, serverAddr, 1723), Reply: tuple(serverAddr, 1723, gatewayAddr, 40001), Helper: "pptp",
	}
	r.ed.Open(conn, r.now)
	r.ed.Owned(nil)
	r.owns(gatewayAddr, true)
	w := &wire{rig: r, conn: conn, seq: [2]packet.Seq{1, 1}}
	if w.say(client, message(pptp.OutgoingCallRequest, 0, 0, 0)); w.last.Reason != Helped {
		t.Errorf("it is %v", w.last.Reason)
	}
	checkRolls(t, r.ed)
}

// TestDoubtedElsewhere: a FIN that was not believed at the time of the loss is no concern
// afterwards.
func TestDoubtedElsewhere(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	w.segment(client, packet.RST, w.seq[client].Add(900), nil)
	w.owns(gatewayAddr, false)
	if got := w.ed.Doubted(w.now.Add(time.Hour)); len(got) != 0 {
		t.Errorf("doubted: %v", got)
	}
}

// behind tells the connections with a public address.
func behind(public netip.Addr) func(*calls.Connection) bool {
	return func(c *calls.Connection) bool { p, shared := c.Public(); return shared && p == public }
}
