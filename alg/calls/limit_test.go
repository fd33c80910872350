package calls

import (
	"testing"
	"time"

	"pptpalg/alg/pptp"
)

// answer has the server grant the call whose public ID it was shown.
func answer(c *Control, sid, shown pptp.CallID, adopt bool) bool {
	c.Translate(Responder, Assigns, sid, nil)
	return c.Reply(Responder, Reply{PNS: Initiator, Own: sid, Peer: shown, Granted: true, Next: Established, Adopt: adopt}, epoch)
}

// TestOneDoor: the limits are asked whatever message brings a call.
func TestOneDoor(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.CallsPerClient = 2
	for name, adopt := range map[string]bool{"the connection was watched": false, "it was joined in its middle": true} {
		t.Run(name, func(t *testing.T) {
			tab := New(cfg)
			c := tab.Open(masqueraded(inside(1), 1))
			for own := range pptp.CallID(6) {
				id, ok := c.Translate(Initiator, Requests, own+1, nil)
				if ok != (own < 2) || ok != c.Request(Initiator, Initiator, own+1, epoch) {
					t.Errorf("request %d: translated %v", own, ok)
				}
				if got := answer(c, 100+own, id, adopt); got != ok {
					t.Errorf("the answer to request %d opens a call: %v", own, got)
				}
			}
			if tab.Calls() != 2 {
				t.Errorf("%d calls, 2 are the limit", tab.Calls())
			}
		})
	}
}

// TestAdoptedIsCharged to who says that the other has asked, before and after a restart.
func TestAdoptedIsCharged(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.CallsPerClient = 3
	tab := New(cfg)
	c := tab.Open(masqueraded(inside(1), 1))
	adopted := func(c *Control) (n int) {
		for id := range pptp.CallID(6) {
			if answer(c, 100+id, id, true) {
				n++
			}
		}
		return n
	}
	if n := adopted(c); n != 3 {
		t.Errorf("%d calls are adopted, 3 are the server's limit", n)
	}
	if n := adopted(tab.Open(masqueraded(inside(2), 2))); n != 0 {
		t.Errorf("%d calls are adopted beyond the server's limit", n)
	}
	again := New(cfg)
	d := again.Open(c.Connection())
	for _, r := range c.Records(nil) {
		d.Resume(r, epoch)
	}
	if n := adopted(again.Open(masqueraded(inside(2), 2))); n != 0 {
		t.Errorf("after a restart %d calls are adopted beyond the server's limit", n)
	}
	for id := range pptp.CallID(3) {
		if _, ok := d.Translate(Initiator, Requests, 50+id, nil); !ok || !d.Request(Initiator, Initiator, 50+id, epoch) {
			t.Errorf("the client's own call %d is refused", id)
		}
	}
	if answer(d, 300, 40, true) {
		t.Error("a client at its limit gets a call by the server's word")
	}
}

// TestHalfReadRequestsCount: requests that are admitted and not yet whole count, and no
// longer once they are given up.
func TestHalfReadRequestsCount(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.Calls = 2
	tab := New(cfg)
	c := make([]*Control, 3)
	var high [3]byte
	for i := range c {
		c[i] = tab.Open(masqueraded(inside(i), uint16(i)))
		high[i] = c[i].TranslateHigh(Initiator, Requests, 0)
	}
	if tab.Calls() != 0 {
		t.Errorf("%d calls before a request is whole", tab.Calls())
	}
	for i := range c {
		_, ok := c[i].Translate(Initiator, Requests, 7, &high[i])
		if opened := c[i].Request(Initiator, Initiator, 7, epoch); opened != (i < 2) || opened != ok {
			t.Errorf("request %d: %v, opened %v", i, ok, opened)
		}
	}
	c[0].Close(Finished, epoch)
	c[2].TranslateHigh(Initiator, Requests, 0)
	c[2].Close(Finished, epoch)
	d := tab.Open(masqueraded(inside(4), 4))
	if request(t, d, 7); tab.Calls() != 2 {
		t.Errorf("%d calls, want 2", tab.Calls())
	}
}

// TestUnaskedReply: an answer to what nobody has asked opens a call only where the request
// may have passed unseen, and never with an ID that another connection has.
func TestUnaskedReply(t *testing.T) {
	tests := []struct {
		name  string
		adopt bool
		conn  Connection
		reply func(c *Control) bool
		want  bool
	}{
		{"watched", false, masqueraded(inside(2), 2), func(c *Control) bool { return answer(c, 200, 9, false) }, false},
		{"joined", true, masqueraded(inside(2), 2), func(c *Control) bool { return answer(c, 200, 9, true) }, true},
		{"joined, another client's public ID", true, masqueraded(inside(2), 2), func(c *Control) bool { return answer(c, 200, 7, true) }, false},
		{"joined, the client's ID on another connection", true, masqueraded(inside(1), 3), func(c *Control) bool { return answer(c, 200, 7, true) }, false},
		{"joined, the server's ID of another client's call, told by a client", true, masqueraded(inside(2), 2), func(c *Control) bool {
			c.Translate(Initiator, Assigns, 9, nil)
			return c.Reply(Initiator, Reply{PNS: Initiator, Own: 9, Peer: 100, Granted: true, Next: Answered, Adopt: true}, epoch)
		}, false},
		{"joined, an ID of the server's that is nobody's, told by a client", true, masqueraded(inside(2), 2), func(c *Control) bool {
			c.Translate(Initiator, Assigns, 9, nil)
			return c.Reply(Initiator, Reply{PNS: Initiator, Own: 9, Peer: 101, Granted: true, Next: Answered, Adopt: true}, epoch)
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := New(testConfig(time.Minute))
			first := tab.Open(masqueraded(inside(1), 1))
			dial(t, first, 7, 100)
			before := first.Calls(nil)[0]
			taken, _ := tab.FullestSpace()
			if got := tt.reply(tab.Open(tt.conn)); got != tt.want {
				t.Errorf("opened: %v, want %v", got, tt.want)
			}
			if after := first.Calls(nil)[0]; after.State != before.State || after.PNS != before.PNS || after.PAC != before.PAC {
				t.Errorf("the other call is now %+v", after)
			}
			if now, _ := tab.FullestSpace(); !tt.want && now != taken {
				t.Errorf("%d public IDs are taken, want %d", now, taken)
			}
		})
	}
}

// TestRepliesThatAnswerNothing: a call that was requested is granted once, by the other
// end.
func TestRepliesThatAnswerNothing(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	public := dial(t, c, 7, 100)
	want := c.Calls(nil)[0]
	tests := map[string]func() bool{
		"granted again under another ID": func() bool { return answer(c, 101, public, true) },
		"granted by the client that asked": func() bool {
			c.Translate(Initiator, Assigns, 8, nil)
			return c.Reply(Initiator, Reply{PNS: Initiator, Own: 8, Peer: 100, Granted: true, Next: Established, Adopt: true}, epoch)
		},
		"refused after it was granted": func() bool { return c.Reply(Responder, Reply{Peer: public}, epoch) },
		"refused by the client that asked": func() bool {
			return c.Reply(Initiator, Reply{Peer: 100}, epoch)
		},
	}
	for name, reply := range tests {
		if reply() {
			t.Errorf("%s: that found a call", name)
		}
		if got := c.Calls(nil); len(got) != 1 || got[0].PNS != want.PNS || got[0].PAC != want.PAC || got[0].State != want.State {
			t.Errorf("%s: the call is now %+v", name, got)
		}
	}
	if tab.Events(); !answer(c, 100, public, false) || len(tab.Events()) != 0 {
		t.Error("the same answer again is not understood, or changes something")
	}
}

// TestRate: an address may request so many calls at once, and as many in each second.
func TestRate(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.Requests = 4
	tab := New(cfg)
	c := tab.Open(masqueraded(inside(1), 1))
	ask := func(n int) (admitted int) {
		for range n {
			if _, ok := c.Translate(Initiator, Requests, 7, nil); ok {
				admitted++
			}
			c.Abandon(Initiator)
		}
		return admitted
	}
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{0, 4}, {0, 0}, {250 * time.Millisecond, 1}, {500 * time.Millisecond, 2}, {time.Hour, 4}} {
		tab.Tick(tab.now.Add(tt.after))
		if got := ask(10); got != tt.want {
			t.Errorf("after %v %d are admitted, want %d", tt.after, got, tt.want)
		}
	}
	tenant := masqueraded(inside(1), 3)
	tenant.Zone, tenant.Way = 12, FromInitiator
	for _, conn := range []Connection{masqueraded(inside(2), 2), tenant} {
		if _, ok := tab.Open(conn).Translate(Initiator, Requests, 7, nil); !ok {
			t.Error("another client must wait for the first")
		}
	}
}

// TestClientsAreForgotten, but not what they are held to.
func TestClientsAreForgotten(t *testing.T) {
	tab := New(testConfig(time.Second))
	tab.Tick(epoch)
	c := tab.Open(masqueraded(inside(1), 1))
	dial(t, c, 7, 100)
	for _, tt := range []struct {
		at    time.Duration
		calls int
		want  int
	}{{2 * clearingTime, 1, 1}, {2*clearingTime + 1, 0, 0}} {
		if tt.calls == 0 {
			c.Close(Finished, epoch)
		}
		tab.Expire(epoch.Add(tt.at))
		if len(tab.clients) != tt.want {
			t.Errorf("with %d calls %d clients are known, want %d", tt.calls, len(tab.clients), tt.want)
		}
	}
	tab.Tick(epoch)
	request(t, tab.Open(masqueraded(inside(2), 2)), 7)
	tab.clients[clientKey{address: as4(inside(2))}].calls--
	if tab.Expire(epoch.Add(clearingTime)); len(tab.clients) != 1 {
		t.Error("a client is forgotten while its calls may be being cleared")
	}
}

// TestClearingIsBounded: a client that asks and clears in a loop, and whose server never
// answers, clears as many calls at a time as it may have.
func TestClearingIsBounded(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.CallsPerClient = 3
	tab := New(cfg)
	c := tab.Open(masqueraded(inside(1), 1))
	for own := range pptp.CallID(20) {
		request(t, c, own)
		c.Clear(Initiator, own, epoch)
		if n := min(int(own)+1, 3); len(c.calls) != n {
			t.Fatalf("%d calls are being cleared, want %d", len(c.calls), n)
		}
	}
	for own := range pptp.CallID(20) {
		if l := c.ownLeg(Initiator, own); (l != nil) != (own >= 17) {
			t.Errorf("call %d is being cleared: %v", own, l != nil)
		}
	}
	if tab.RestingIDs() != 17 {
		t.Errorf("%d IDs rest, want 17", tab.RestingIDs())
	}
	if tab.Expire(epoch.Add(clearingTime)); len(c.calls) != 0 || tab.RestingIDs() != 3 {
		t.Errorf("a minute later %d are being cleared, %d IDs rest", len(c.calls), tab.RestingIDs())
	}
}

// TestStop ends what lives, and costs nothing where nothing does.
func TestStop(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	for own := range pptp.CallID(20) {
		dial(t, c, own, 100+own)
	}
	c.Clear(Initiator, 5, epoch)
	tab.Events()
	c.Stop(epoch)
	if n := len(tab.Events()); n != 19*3 || tab.Calls() != 0 || len(c.calls) != 20 {
		t.Errorf("%d changes, %d calls live, %d are being cleared", n, tab.Calls(), len(c.calls))
	}
	if c.Stop(epoch); len(tab.Events()) != 0 {
		t.Error("a second one changes something")
	}
	for own := range pptp.CallID(20) {
		if id, ok := c.Translate(Responder, Notifies, 100+own, nil); !ok || id != 100+own {
			t.Errorf("the notify of call %d is not understood: %v", own, id)
		}
	}
	c.Close(Finished, epoch)
	if len(c.calls) != 0 || c.index != nil {
		t.Errorf("%d calls are left", len(c.calls))
	}
}

// BenchmarkStop: what a Stop-Control-Connection-Request costs on a connection whose calls
// are being cleared.
func BenchmarkStop(b *testing.B) {
	cfg := testConfig(time.Minute)
	cfg.Requests = 1 << 20
	tab := New(cfg)
	c := tab.Open(masqueraded(inside(1), 1))
	for own := range pptp.CallID(16000) {
		request(b, c, own)
	}
	for b.Loop() {
		c.Stop(epoch)
	}
}
