package calls

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"pptpalg/alg/pptp"
)

var (
	epoch   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	public  = netip.MustParseAddr("198.51.100.1")
	outside = netip.MustParseAddr("203.0.113.9")
)

func testConfig(rest time.Duration) Config {
	cfg := DefaultConfig()
	cfg.Rest = rest
	return cfg
}

func inside(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// masqueraded is a connection of an inside client to the outside server.
func masqueraded(client netip.Addr, port uint16) Connection {
	return Connection{
		Original: Tuple{netip.AddrPortFrom(client, port), netip.AddrPortFrom(outside, 1723)},
		Reply:    Tuple{netip.AddrPortFrom(outside, 1723), netip.AddrPortFrom(public, port)},
	}
}

// dial opens a control connection with an established outgoing call, and returns
// the public form of the client's ID.
func dial(t testing.TB, c *Control, own, sid pptp.CallID) pptp.CallID {
	t.Helper()
	id := request(t, c, own)
	if _, ok := c.Assign(Responder, sid, nil); !ok {
		t.Fatalf("assign %v to the server's end: refused", sid)
	}
	if !c.Reply(Responder, Reply{PNS: Initiator, Own: sid, Peer: id, Granted: true, Next: Established}, epoch) {
		t.Fatalf("reply to %v: no such call", id)
	}
	return id
}

func request(t testing.TB, c *Control, own pptp.CallID) pptp.CallID {
	t.Helper()
	id, ok := c.Assign(Initiator, own, nil)
	if !ok || !c.Request(Initiator, Initiator, own, epoch) {
		t.Fatalf("request call %v: refused", own)
	}
	return id
}

func TestPublicIDs(t *testing.T) {
	tab := New(testConfig(time.Minute))
	a, b, other := tab.Open(masqueraded(inside(1), 1)), tab.Open(masqueraded(inside(2), 2)), masqueraded(inside(3), 3)
	other.Original.Dst = netip.MustParseAddrPort("203.0.113.10:1723")
	other.Reply.Src = other.Original.Dst
	tests := []struct {
		name string
		c    *Control
		own  pptp.CallID
		keep bool
	}{
		{"the first keeps its ID", a, 7, true},
		{"the second cannot", b, 7, false},
		{"towards another server it can", tab.Open(other), 7, true},
		{"0 is never public", a, 0, false},
		{"nor for another client", b, 0, false},
		{"65535 is as good as any", b, 65535, true},
	}
	seen := map[string]bool{}
	for _, tt := range tests {
		id := request(t, tt.c, tt.own)
		if (id == tt.own) != tt.keep {
			t.Errorf("%s: ID %v became %v", tt.name, tt.own, id)
		}
		key := fmt.Sprint(tt.c.Connection().Original.Dst, id)
		if seen[key] || id == 0 {
			t.Errorf("%s: public ID %v is given twice, or 0", tt.name, id)
		}
		seen[key] = true
	}
}

func TestFreedIDsRest(t *testing.T) {
	tab := New(testConfig(2 * time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	dial(t, c, 7, 100)
	c.Clear(Initiator, 7, epoch)
	c.Disconnect(Responder, 100, 100, epoch)
	if tab.RestingIDs() != 1 {
		t.Errorf("%d IDs rest: the server's is its own", tab.RestingIDs())
	}
	for _, tt := range []struct {
		after time.Duration
		keep  bool
	}{{0, false}, {2*time.Minute - 1, false}, {2 * time.Minute, true}} {
		tab.Expire(epoch.Add(tt.after))
		d := tab.Open(masqueraded(inside(2), 2))
		if id := request(t, d, 7); (id == 7) != tt.keep {
			t.Errorf("after %v, 7 becomes %v", tt.after, id)
		}
		d.Close(Reset, epoch)
	}
}

func TestFlowsOfACall(t *testing.T) {
	tab := New(testConfig(time.Minute))
	conn := masqueraded(inside(1), 1)
	conn.Zone, conn.Mark = 3, 0x10
	c := tab.Open(conn)
	dial(t, c, 7, 100)
	in := Flow{Src: outside, Dst: public, Key: 7, NewSrc: outside, NewDst: inside(1), NewKey: 7, Zone: 3, Mark: 0x10}
	out := Flow{Src: inside(1), Dst: outside, Key: 100, NewSrc: public, NewDst: outside, NewKey: 100, Zone: 3, Mark: 0x10}
	c.Close(Finished, epoch)
	checkChanges(t, tab, []Event{
		{Kind: Install, Flow: in}, {Kind: Opened, Call: Record{Number: 1}}, {Kind: Install, Flow: out},
		{Kind: Remove, Flow: in}, {Kind: Remove, Flow: out}, {Kind: Closed, Call: Record{Number: 1}, Cause: Finished},
	})
	if len(tab.entering)+len(tab.leaving)+tab.Calls() != 0 {
		t.Error("the table is not empty after the end")
	}
}

// brief leaves of events the flows, which calls began and ended, and their numbers.
func brief(events []Event) (left []Event) {
	for _, e := range events {
		if e.Kind <= Opened || e.Kind == Closed {
			e.Call = Record{Number: e.Call.Number}
			left = append(left, e)
		}
	}
	return left
}

func checkChanges(t *testing.T, tab *Table, want []Event) {
	t.Helper()
	if diff := cmp.Diff(want, brief(tab.Events()), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestEnds(t *testing.T) {
	tests := []struct {
		name  string
		end   func(c *Control) bool
		cause Cause
	}{
		{"clear", func(c *Control) bool { return c.Clear(Initiator, 7, epoch) }, Cleared},
		{"notify with the PAC's ID", func(c *Control) bool { return c.Disconnect(Responder, 100, 100, epoch) }, Disconnected},
		{"notify with the PNS's ID", func(c *Control) bool { return c.Disconnect(Responder, 7, 7, epoch) }, Disconnected},
		{"notify with the PNS's ID swapped", func(c *Control) bool { return c.Disconnect(Responder, 0x0700, 0x0700, epoch) }, Disconnected},
		{"stop", func(c *Control) bool { c.Stop(epoch); return true }, Stopped},
		{"reset", func(c *Control) bool { c.Close(Reset, epoch); return true }, Reset},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := New(testConfig(time.Minute))
			c := tab.Open(masqueraded(inside(1), 1))
			dial(t, c, 7, 100)
			tab.Events()
			if !tt.end(c) {
				t.Fatal("the call was not found")
			}
			changes := brief(tab.Events())
			if len(changes) != 3 || changes[0].Kind != Remove || changes[1].Kind != Remove || changes[2] != (Event{Kind: Closed, Call: Record{Number: 1}, Cause: tt.cause}) {
				t.Errorf("changes: %v", changes)
			}
			if tab.Calls() != 0 {
				t.Errorf("%d calls are left", tab.Calls())
			}
			c.Close(Finished, epoch)
			if more := brief(tab.Events()); len(more) != 0 {
				t.Errorf("the connection's end changes more: %v", more)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	id := request(t, c, 7)
	c.Assign(Responder, 0, nil)
	if !c.Reply(Responder, Reply{PNS: Initiator, Own: 0, Peer: id}, epoch) {
		t.Fatal("the refused call was not found")
	}
	changes := brief(tab.Events())
	if tab.Calls() != 0 || changes[len(changes)-1] != (Event{Kind: Closed, Call: Record{Number: 1}, Cause: Refused}) {
		t.Errorf("%d calls, changes %v", tab.Calls(), changes)
	}
}

// TestReplaced: an endpoint reuses an ID on a connection while we hold it for a call
// there. What it says last is what is true.
func TestReplaced(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	if a, b := dial(t, c, 7, 100), dial(t, c, 7, 101); a != b {
		t.Errorf("the same ID has public forms %v and %v", a, b)
	}
	changes := brief(tab.Events())
	if tab.Calls() != 1 || !slices.Contains(changes, Event{Kind: Closed, Call: Record{Number: 1}, Cause: Replaced}) {
		t.Errorf("%d calls, changes %v", tab.Calls(), changes)
	}
	checkKernel(t, changes, 2)
}

// TestOtherConnectionsStay: whatever IDs the ends of one connection give, the calls of
// another one stay as they are, and each ends by itself.
func TestOtherConnectionsStay(t *testing.T) {
	multihomed := masqueraded(inside(1), 2)
	multihomed.Reply.Dst = netip.MustParseAddrPort("198.51.100.2:2")
	tests := []struct {
		name          string
		first, second Connection
		own           [2]pptp.CallID // of the clients
		sid           [2]pptp.CallID // of the server
		flows         int            // that differ
	}{
		{"the client dials again", masqueraded(inside(1), 1), masqueraded(inside(1), 2), [2]pptp.CallID{7, 7}, [2]pptp.CallID{100, 101}, 4},
		{"the server gives its ID to another client", masqueraded(inside(1), 1), masqueraded(inside(2), 2), [2]pptp.CallID{7, 8}, [2]pptp.CallID{100, 100}, 4},
		{"and to another connection of the same client", masqueraded(inside(1), 1), masqueraded(inside(1), 2), [2]pptp.CallID{7, 8}, [2]pptp.CallID{100, 100}, 3},
		{"which has another public address", masqueraded(inside(1), 1), multihomed, [2]pptp.CallID{7, 8}, [2]pptp.CallID{100, 100}, 3},
		{"and the client its own as well", masqueraded(inside(1), 1), masqueraded(inside(1), 2), [2]pptp.CallID{7, 7}, [2]pptp.CallID{100, 100}, 3},
	}
	for _, tt := range tests {
		for _, last := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/%d ends last", tt.name, last), func(t *testing.T) {
				tab := New(testConfig(time.Minute))
				c := []*Control{tab.Open(tt.first), tab.Open(tt.second)}
				for i := range c {
					dial(t, c[i], tt.own[i], tt.sid[i])
				}
				before := c[last].Calls(nil)
				changes := slices.Clone(tab.Events())
				checkKernel(t, changes, tt.flows)
				if tab.Calls() != 2 {
					t.Fatalf("%d calls, want both", tab.Calls())
				}
				c[1-last].Close(Finished, epoch)
				changes = append(changes, tab.Events()...)
				checkKernel(t, changes, 2)
				if diff := cmp.Diff(before, c[last].Calls(nil), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
					t.Errorf("the other call has changed (-was +is):\n%s", diff)
				}
				for _, f := range before[0].Flows {
					if !tab.Has(f) {
						t.Errorf("flow %v is not needed any more", f)
					}
				}
				c[last].Close(Finished, epoch)
				checkKernel(t, append(changes, tab.Events()...), 0)
				if len(tab.entering)+len(tab.leaving)+tab.Calls() != 0 {
					t.Error("the table is not empty after the end")
				}
			})
		}
	}
}

// checkKernel plays changes to a model of the kernel's table, in which no flow enters as
// another one does, and checks how many flows are left.
func checkKernel(t testing.TB, changes []Event, want int) {
	t.Helper()
	in := map[Flow]Flow{}
	for _, c := range changes {
		enters := Flow{Src: c.Flow.Src, Dst: c.Flow.Dst, Key: c.Flow.Key, Zone: c.Flow.Zone}
		switch c.Kind {
		case Install:
			if old, taken := in[enters]; taken {
				t.Fatalf("install %v: %v enters the same way", c.Flow, old)
			}
			in[enters] = c.Flow
		case Remove:
			if in[enters] != c.Flow {
				t.Fatalf("remove %v, which is not there", c.Flow)
			}
			delete(in, enters)
		}
	}
	if len(in) != want {
		t.Errorf("the kernel has %d flows, want %d", len(in), want)
	}
}

func TestManyCallsOnOneConnection(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	for i := range 300 {
		dial(t, c, pptp.CallID(i), pptp.CallID(1000+i))
	}
	for i := range 150 {
		if !c.Clear(Initiator, pptp.CallID(i*2), epoch) || !c.Disconnect(Responder, pptp.CallID(1000+i*2), pptp.CallID(1000+i*2), epoch) {
			t.Fatalf("call %d is lost", i*2)
		}
	}
	if tab.Calls() != 150 || len(c.Calls(nil)) != 150 {
		t.Errorf("%d calls, %d on the connection, want 150", tab.Calls(), len(c.Calls(nil)))
	}
	checkKernel(t, tab.Events(), 300)
}

func TestFullSpace(t *testing.T) {
	tab := New(testConfig(time.Minute))
	for i := range 65535 {
		c := tab.Open(masqueraded(inside(i), uint16(i)))
		if id, ok := c.Assign(Initiator, pptp.CallID(i%50), nil); !ok || id == 0 {
			t.Fatalf("client %d of 65535 gets no ID", i)
		}
		c.Request(Initiator, Initiator, pptp.CallID(i%50), epoch)
	}
	c := tab.Open(masqueraded(netip.MustParseAddr("10.9.9.9"), 1))
	if id, ok := c.Assign(Initiator, 7, nil); ok || id != 7 {
		t.Errorf("client 65536 is given %v, want its own ID unedited and false", id)
	}
	if c.Request(Initiator, Initiator, 7, epoch) {
		t.Error("a call without a public ID was opened")
	}
	if id := c.TranslateHigh(Initiator, Assigns, 0); id != 0 {
		t.Errorf("with one byte at hand it is %d, want 0", id)
	}
	if id, ok := c.Translate(Initiator, Assigns, 7, new(byte)); ok || id != 7 {
		t.Errorf("with the second byte it is %v, %v", id, ok)
	}
}

// TestNotifyIsDecidable draws calls on one connection and checks that the ID in a
// Call-Disconnect-Notify, in each of its forms, names the call it is meant for.
func TestNotifyIsDecidable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tab := New(testConfig(time.Minute))
		crowd := tab.Open(masqueraded(inside(1), 1))
		c := tab.Open(masqueraded(inside(2), 2))
		type pair struct{ own, pub, sid pptp.CallID }
		var calls []pair
		small := rapid.SampledFrom([]pptp.CallID{0, 1, 7, 0x0100, 0x0700, 0x0107, 0x0701, 0xff00, 0x00ff, 0xfe00, 0x0707})
		for i := range rapid.IntRange(1, 5).Draw(rt, "calls") {
			own := small.Draw(rt, "own")
			if slices.ContainsFunc(calls, func(p pair) bool { return p.own == own }) {
				continue
			}
			if rapid.Bool().Draw(rt, "crowded") {
				request(t, crowd, own)
			}
			pub := request(t, c, own)
			// The server chooses an ID that is none of the forms of a client's.
			sid := pptp.CallID(0x5050 + i)
			c.Assign(Responder, sid, nil)
			c.Reply(Responder, Reply{PNS: Initiator, Own: sid, Peer: pub, Granted: true, Next: Established}, epoch)
			calls = append(calls, pair{own, pub, sid})
		}
		for _, p := range calls {
			for form, want := range map[pptp.CallID]pptp.CallID{p.sid: p.sid, p.pub: p.own, p.pub.Swap(): p.own.Swap()} {
				if form == p.pub && p.pub == p.pub.Swap() {
					continue // the ID was kept: both forms stay as they are
				}
				if got, ok := c.Translate(Responder, Notifies, form, nil); !ok || got != want {
					rt.Fatalf("notify %#04x for %v becomes %#04x, want %#04x", int(form), p, int(got), int(want))
				}
			}
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	for _, full := range []float64{1, 50, 99.9} { // % of 65,535 IDs
		b.Run(fmt.Sprintf("full=%v%%", full), func(b *testing.B) {
			tab := New(testConfig(time.Minute))
			for i := range int(full / 100 * 65535) {
				c := tab.Open(masqueraded(inside(i), uint16(i)))
				c.Assign(Initiator, 7, nil)
				c.Request(Initiator, Initiator, 7, epoch)
			}
			c := tab.Open(masqueraded(netip.MustParseAddr("10.9.9.9"), 1))
			b.ReportAllocs()
			for b.Loop() {
				c.Assign(Initiator, 7, nil)
				c.Abandon(Initiator)
			}
		})
	}
}

// TestAdoptInACrowdedPage: a request that was not seen is taken over under the ID that
// it passed with, even where a new call would be given another first byte.
func TestAdoptInACrowdedPage(t *testing.T) {
	tab := New(testConfig(time.Minute))
	crowd := tab.Open(masqueraded(inside(1), 1))
	for i := range 250 {
		request(t, crowd, pptp.CallID(i))
	}
	c := tab.Open(masqueraded(inside(2), 2))
	c.Assign(Responder, 9, nil)
	if !c.Reply(Responder, Reply{PNS: Initiator, Own: 9, Peer: 252, Granted: true, Next: Established, Adopt: true}, epoch) {
		t.Fatal("the call was not taken over")
	}
	if v := c.Calls(nil); v[0].PNS.Own != 252 || v[0].PNS.Public != 252 {
		t.Errorf("it is %+v", v[0].PNS)
	}
}

// TestSetConfig: a lower limit is for new calls; those that there are live on.
func TestSetConfig(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1024))
	dial(t, c, 7, 100)
	cfg := testConfig(time.Minute)
	cfg.Calls, cfg.Random = 1, rand.Uint32
	tab.SetConfig(cfg)
	if tab.cfg.Random != nil {
		t.Error("IDs are drawn at random from now on")
	}
	if _, ok := c.Translate(Initiator, Requests, 8, nil); ok || tab.Calls() != 1 {
		t.Errorf("the second call is taken: %v; %d calls", ok, tab.Calls())
	}
}

// TestThreeAlike: of three calls whose GRE enters alike, the next one has it when one ends,
// whichever that is.
func TestThreeAlike(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 1, 0}, {1, 2, 0}} {
		tab := New(testConfig(time.Minute))
		var c []*Control
		for i := range 3 {
			c = append(c, tab.Open(masqueraded(inside(1), uint16(i))))
			dial(t, c[i], pptp.CallID(7+i), 100)
		}
		changes := slices.Clone(tab.Events())
		for left, i := range order {
			c[i].Close(Finished, epoch)
			changes = append(changes, tab.Events()...)
			checkKernel(t, changes, []int{3, 2, 0}[left]) // one to the server, one to each client
		}
		if len(tab.entering)+len(tab.behind)+len(tab.leaving) != 0 {
			t.Errorf("in the order %v: the table is not empty after the end", order)
		}
	}
}

// TestServersIDZero: 0 is an ID like any other.
func TestServersIDZero(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	dial(t, c, 0, 0)
	if v := c.Calls(nil); !v[0].PAC.Known || len(v[0].Flows) != 2 {
		t.Errorf("the call is %+v", v[0])
	}
	checkKernel(t, tab.Events(), 2)
}

// TestReuse: memory that a burst has made large is given up.
func TestReuse(t *testing.T) {
	for size, kept := range map[int]bool{few: true, few + 1: false} {
		if s := reuse(make([]int, 5, size)); len(s) != 0 || (cap(s) > 0) != kept {
			t.Errorf("of room for %d, %d is kept", size, cap(s))
		}
	}
}
