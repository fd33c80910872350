package conntrack

import (
	"fmt"
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

// TestFlowsOfAView: what is shown of a call's GRE is what is translated of it.
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
		{"answered, not translated", plain, true, 0},
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

func TestWordsOfTheUnknown(t *testing.T) {
	const beyond = 200
	for _, got := range []fmt.Stringer{Cause(beyond), Side(beyond), State(beyond), Refusal(beyond), ChangeKind(beyond)} {
		if got.String() != "unknown(200)" {
			t.Errorf("%T 200 is %q", got, got)
		}
	}
	if Initiator.String() != "initiator" || Responder.String() != "responder" {
		t.Errorf("the ends are %v and %v", Initiator, Responder)
	}
}
