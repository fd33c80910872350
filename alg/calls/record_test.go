package calls

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pptpalg/alg/pptp"
)

// TestResumeCleared: a call that was being cleared is so after a restart, for as long as
// any, and is none that counts.
func TestResumeCleared(t *testing.T) {
	before := New(testConfig(time.Minute))
	c := before.Open(masqueraded(inside(1), 1))
	dial(t, c, 7, 100)
	c.Clear(Initiator, 7, epoch)
	kept := c.Records(nil)[0]

	cfg := testConfig(time.Minute)
	cfg.CallsPerClient = 1
	tab := New(cfg)
	c = tab.Open(masqueraded(inside(1), 1))
	if !c.Resume(kept, epoch) || tab.Calls() != 0 || len(c.Records(nil)) != 1 {
		t.Fatalf("%d calls, %d records", tab.Calls(), len(c.Records(nil)))
	}
	if c.Resume(kept, epoch) {
		t.Error("the same call was put back twice")
	}
	if got, ok := c.Translate(Responder, Notifies, 100, nil); !ok || got != 100 {
		t.Errorf("its notify becomes %v, %v", got, ok)
	}
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{{clearingTime - 1, 1}, {clearingTime, 0}} {
		if tab.Expire(epoch.Add(tt.at)); len(c.Records(nil)) != tt.want {
			t.Errorf("after %v %d calls are on record, want %d", tt.at, len(c.Records(nil)), tt.want)
		}
	}
	if _, ok := c.Translate(Initiator, Requests, 8, nil); !ok {
		t.Errorf("the client's next call is refused: %v", c.Refusal(Initiator))
	}
}

// TestIDsOfManyCalls: of a connection with many calls, an ID is known as long as its call.
func TestIDsOfManyCalls(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	for i := range pptp.CallID(3 * fewCalls) {
		dial(t, c, i+1, 100+i)
	}
	for i := range pptp.CallID(3 * fewCalls) {
		c.Disconnect(Responder, 100+i, 100+i, epoch)
		for j := range pptp.CallID(3 * fewCalls) {
			_, own := c.Translate(Initiator, Owns, j+1, nil)
			_, shown := c.Translate(Responder, Peers, j+1, nil)
			if known := j > i; own != known || shown != known {
				t.Fatalf("%d calls have ended; of call %d its own ID is known: %v, its public one: %v", i+1, j, own, shown)
			}
		}
	}
}

// TestEvents: what happens to a call is told once, in its order, with the call as it is then.
func TestEvents(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	answered := func() { dial(t, c, 7, 100) }
	for _, tt := range []struct {
		name  string
		do    func()
		kinds []EventKind
		state State
	}{
		{"nothing yet", func() {}, nil, 0},
		{"requested", func() { request(t, c, 7) }, []EventKind{Install, Opened}, Requested},
		{"asked again", func() {}, nil, 0},
		{"conntrack says that it has ended", func() { c.Dispute(true) }, []EventKind{Noted}, Requested},
		{"conntrack says so again", func() { c.Dispute(true) }, nil, 0},
		{"answered", answered, []EventKind{Remove, Closed, Gone, Install, Opened, Install, Assigned, SetUp}, Established},
		{"cleared", func() { c.Clear(Initiator, 7, epoch) }, []EventKind{Remove, Remove, Closed}, Clearing},
		{"cleared again", func() { c.Clear(Initiator, 7, epoch) }, nil, 0},
		{"gone", func() { c.Disconnect(Responder, 100, 100, epoch) }, []EventKind{Gone}, Clearing},
		{"everything has gone", func() { c.Close(Finished, epoch) }, nil, 0},
		{"incoming, asked for", func() {
			c.Translate(Responder, Requests, 9, nil)
			c.Request(Responder, Initiator, 9, epoch)
		}, []EventKind{Install, Opened}, Requested},
		{"incoming, answered", func() {
			c.Translate(Initiator, Assigns, 8, nil)
			c.Reply(Initiator, Reply{PNS: Initiator, Own: 8, Peer: 9, Granted: true, Next: Answered}, epoch)
		}, []EventKind{Install, Assigned}, Answered},
		{"incoming, connected", func() { c.Connected(Responder, c.calls[0].legs[Initiator].public) }, []EventKind{SetUp}, Established},
		{"the connection ends", func() { c.Close(Finished, epoch) }, []EventKind{Remove, Remove, Closed, Gone}, Clearing},
	} {
		tt.do()
		var kinds []EventKind
		var last Record
		for _, e := range tab.Events() {
			kinds, last = append(kinds, e.Kind), e.Call
			if e.Kind == Closed && !e.Call.Legs[0].Known {
				t.Errorf("%s: the IDs of the call that ends are not known any more", tt.name)
			}
		}
		if len(kinds) > 0 && last.State != tt.state {
			t.Errorf("%s: the call is %v", tt.name, last.State)
		}
		if !slices.Equal(kinds, tt.kinds) {
			t.Errorf("%s: %v, want %v", tt.name, kinds, tt.kinds)
		}
	}
}

// TestSame: a connection is another one if either tuple or the zone is.
func TestSame(t *testing.T) {
	conn := masqueraded(inside(1), 1)
	c := New(testConfig(time.Minute)).Open(conn)
	for name, tt := range map[string]struct {
		edit func(*Connection)
		same bool
	}{
		"nothing":          {func(*Connection) {}, true},
		"its mark":         {func(o *Connection) { o.Mark = 1 }, true},
		"its state":        {func(o *Connection) { o.Closing = true }, true},
		"its zone":         {func(o *Connection) { o.Zone = 1 }, false},
		"its client":       {func(o *Connection) { o.Original.Src = netip.AddrPortFrom(inside(2), 1) }, false},
		"its public port":  {func(o *Connection) { o.Reply.Dst = netip.AddrPortFrom(public, 2) }, false},
		"its real server":  {func(o *Connection) { o.Reply.Src = netip.AddrPortFrom(inside(3), 1723) }, false},
		"the port dialled": {func(o *Connection) { o.Original.Dst = netip.AddrPortFrom(outside, 1724) }, false},
	} {
		o := conn
		if tt.edit(&o); conn.Same(o) != tt.same || c.Same(o) != tt.same {
			t.Errorf("with %s changed it is the same: %v, %v, want %v", name, conn.Same(o), c.Same(o), tt.same)
		}
	}
}

// TestAddressesOfBothForms: an IPv4 address is the same one in the form of IPv6.
func TestAddressesOfBothForms(t *testing.T) {
	conn := masqueraded(inside(1), 1)
	mapped := conn
	for _, a := range []*netip.AddrPort{&mapped.Original.Src, &mapped.Original.Dst, &mapped.Reply.Src, &mapped.Reply.Dst} {
		*a = netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	c := New(testConfig(time.Minute)).Open(mapped)
	if !c.Same(conn) || c.Connection() != conn {
		t.Errorf("%v is another connection than %v", c.Connection(), conn)
	}
	six := masqueraded(netip.MustParseAddr("2001:db8::1"), 1)
	if got := New(testConfig(time.Minute)).Open(six).Connection().Original.Src.Addr(); got != netip.IPv4Unspecified() {
		t.Errorf("an IPv6 address is kept as %v", got)
	}
}

// TestFlowsOfARecord: what the kernel translates for a call, and what it was ever asked to.
func TestFlowsOfARecord(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	dial(t, c, 7, 100)
	flows := func(want, all int) []Flow {
		t.Helper()
		r := c.Records(nil)[0]
		if len(r.Flows()) != want || len(r.AllFlows()) != all {
			t.Errorf("%d flows, %d in all, want %d, %d", len(r.Flows()), len(r.AllFlows()), want, all)
		}
		return r.AllFlows()
	}
	f := flows(2, 2)[0]
	marked, another, nobodys := f, f, f
	marked.Mark, another.NewKey, nobodys.Key = 9, 999, 999
	for _, tt := range []struct {
		name string
		flow Flow
		has  bool
	}{{"a call's", f, true}, {"with another mark", marked, true}, {"to another ID", another, false}, {"nobody's", nobodys, false}} {
		if tab.Has(tt.flow) != tt.has {
			t.Errorf("a flow, %s: %v", tt.name, !tt.has)
		}
	}
	c.Clear(Initiator, 7, epoch)
	flows(0, 2)
	if tab.Has(f) {
		t.Error("a call that is being cleared needs its flow")
	}
}

// TestFlowTo: a record has a flow to each end that is known, translated or not.
func TestFlowTo(t *testing.T) {
	for _, conn := range []Connection{masqueraded(inside(1), 1), masqueraded(public, 1)} {
		r := Record{Connection: conn, Legs: [2]LegRecord{Initiator: {Known: true, Own: 7, Public: 7}}}
		_, toClient := r.FlowTo(Initiator)
		_, toServer := r.FlowTo(Responder)
		if !toClient || toServer {
			t.Errorf("of %v, a flow to the client: %v, to the server, who has not answered: %v", conn.Original.Src, toClient, toServer)
		}
	}
}

// TestFlowsOfAView: what is shown of a call's GRE is what the data path knows of it.
func TestFlowsOfAView(t *testing.T) {
	plain := masqueraded(public, 1) // of the gateway itself
	for _, tt := range []struct {
		name   string
		conn   Connection
		answer bool
		flows  int
	}{
		{"requested", masqueraded(inside(1), 1), false, 1},
		{"answered", masqueraded(inside(1), 1), true, 2},
		{"answered, not translated", plain, true, 2},
	} {
		c := New(testConfig(time.Minute)).Open(tt.conn)
		if tt.answer {
			dial(t, c, 7, 100)
		} else {
			request(t, c, 7)
		}
		if v := c.Calls(nil)[0]; len(v.Flows) != tt.flows {
			t.Errorf("%s: %d flows, want %d", tt.name, len(v.Flows), tt.flows)
		}
	}
}

// TestConnected: an incoming call is established when its PAC says so, as often as it does.
func TestConnected(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	id := request(t, c, 7)
	c.Assign(Responder, 100, nil)
	c.Reply(Responder, Reply{PNS: Responder, Own: 100, Peer: id, Granted: true, Next: Answered}, epoch)
	if c.Connected(Initiator, 101) || c.Calls(nil)[0].State != Answered {
		t.Errorf("another call was connected, and this one is %v", c.Calls(nil)[0].State)
	}
	for range 2 {
		if !c.Connected(Initiator, 100) || c.Calls(nil)[0].State != Established {
			t.Errorf("it was connected, and is %v", c.Calls(nil)[0].State)
		}
	}
}

// TestRefusedAtTheDoor: an ID that was assigned to a call that is beyond a limit is free.
func TestRefusedAtTheDoor(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.Calls = 0
	tab := New(cfg)
	c := tab.Open(masqueraded(inside(1), 1))
	c.Assign(Initiator, 7, nil)
	if c.Request(Initiator, Initiator, 7, epoch) {
		t.Error("the call was opened")
	}
	if taken, _ := tab.FullestSpace(); taken != 0 {
		t.Errorf("%d IDs are taken", taken)
	}
}

// TestInheritedIDDoesNotRest: a request sent again has the ID of the call that it replaces.
func TestInheritedIDDoesNotRest(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	for range 3 {
		request(t, c, 7)
	}
	if taken, _ := tab.FullestSpace(); taken != 1 || tab.RestingIDs() != 0 || tab.Calls() != 1 {
		t.Errorf("%d IDs are taken, %d rest, %d calls", taken, tab.RestingIDs(), tab.Calls())
	}
}

func TestWords(t *testing.T) {
	seen := map[string]bool{}
	known := 0
	see := func(words ...fmt.Stringer) {
		for _, w := range words {
			if text := w.String(); text != "" && !strings.HasPrefix(text, "unknown") {
				seen[fmt.Sprintf("%T %s", w, text)] = true
			}
			known++
		}
	}
	see(Initiator, Responder, Requested, Answered, Established, Clearing, Opened, Install, Remove, Closed)
	for _, c := range Causes() {
		see(c)
	}
	if len(seen) != known {
		t.Errorf("of %d values, the words are not distinct: %v", known, seen)
	}
	for _, got := range []fmt.Stringer{causes, Responder + 1, Clearing + 1, EventKind(len(eventNames))} {
		if !strings.HasPrefix(got.String(), "unknown(") {
			t.Errorf("a %T beyond all is %q", got, got)
		}
	}
}

// TestResumedPromise: the first byte of a kept call's public ID is decided as before.
func TestResumedPromise(t *testing.T) {
	before := New(testConfig(time.Minute))
	occupy(t, before, 0x0001, 0x00ff, 0)
	c := before.Open(masqueraded(inside(1), 1))
	public := dial(t, c, 0x0007, 100)
	kept := c.Records(nil)[0]
	c = New(testConfig(time.Minute)).Open(masqueraded(inside(1), 1))
	if !c.Resume(kept, epoch) {
		t.Fatal("the call was not put back")
	}
	if there, back := c.TranslateHigh(Initiator, Owns, 0), c.TranslateHigh(Responder, Peers, public.High()); there != public.High() || back != 0 {
		t.Errorf("the first byte of 0x0007, public as %#04x, becomes %#02x, and back %#02x", int(public), there, back)
	}
}

// TestResumedClearing: a call that was being cleared gets no flows back.
func TestResumedClearing(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	r := Record{Number: 7, Connection: c.Connection(), State: Clearing, Legs: [2]LegRecord{{Known: true, Own: 7, Public: 7}, {Known: true, Own: 9, Public: 9}}}
	if !c.Resume(r, epoch) {
		t.Fatal("refused")
	}
	c.Close(Finished, epoch)
	for _, e := range tab.Events() {
		if e.Kind == Install || e.Kind == Remove {
			t.Errorf("%v %v", e.Kind, e.Flow)
		}
	}
}

// TestOwner: a flow has an owner while its call needs it.
func TestOwner(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	dial(t, c, 7, 100)
	f := c.Records(nil)[0].Flows()[0]
	if owner, ok := tab.Owner(f); !ok || owner != c.Connection() {
		t.Errorf("the owner is %v, %v", owner, ok)
	}
	c.Close(Finished, epoch)
	if _, ok := tab.Owner(f); ok {
		t.Error("the flow of a call that is gone has an owner")
	}
}

// TestResumeCharges who asked for the call, whichever end is the PNS.
func TestResumeCharges(t *testing.T) {
	for _, pns := range []Side{Initiator, Responder} {
		for _, asks := range []Side{Initiator, Responder} {
			cfg := testConfig(time.Minute)
			before := New(cfg).Open(masqueraded(inside(1), 1))
			if _, ok := before.Translate(asks, Requests, 7, nil); !ok || !before.Request(asks, pns, 7, epoch) {
				t.Fatal("the request is refused")
			}
			cfg.CallsPerClient = 1
			c := New(cfg).Open(masqueraded(inside(1), 1))
			c.Resume(before.Records(nil)[0], epoch)
			for _, s := range []Side{Initiator, Responder} {
				if _, ok := c.Translate(s, Requests, 9, nil); ok == (s == asks) {
					t.Errorf("the PNS is the %v, and the %v has asked: the %v may have one more: %v", pns, asks, s, ok)
				}
				c.Abandon(s)
			}
		}
	}
}

// TestRestCall: of a call that ended while nobody watched, the IDs rest that were translated.
func TestRestCall(t *testing.T) {
	for conn, want := range map[Connection]int{masqueraded(inside(1), 1): 1, masqueraded(public, 1): 0} {
		before := New(testConfig(time.Minute))
		c := before.Open(conn)
		dial(t, c, 7, 100)
		tab := New(testConfig(time.Minute))
		if tab.RestCall(c.Records(nil)[0], epoch, epoch); tab.RestingIDs() != want {
			t.Errorf("of a call of %v, %d IDs rest, want %d", conn.Original.Src, tab.RestingIDs(), want)
		}
	}
}

// TestResumedNumbers: a call keeps its number, and later ones have higher ones.
func TestResumedNumbers(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	r := Record{Number: 77, Connection: c.Connection(), State: Established, Legs: [2]LegRecord{{Known: true, Own: 7, Public: 7}, {Known: true, Own: 9, Public: 9}}}
	if !c.Resume(r, epoch) {
		t.Fatal("refused")
	}
	request(t, c, 8)
	var numbers []uint64
	for _, v := range c.Calls(nil) {
		numbers = append(numbers, v.Number)
	}
	if !slices.Equal(numbers, []uint64{77, 78}) {
		t.Errorf("calls %v", numbers)
	}
}
