package calls

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/pptp"
)

// TestCrowdedFirstByte: where nearly all public IDs that begin like an endpoint's own
// are in use, its calls on one connection still have public forms that begin alike:
// a message cut within an ID must be translatable by its first byte.
func TestCrowdedFirstByte(t *testing.T) {
	tab := New(DefaultConfig())
	for i := range 254 { // of the 255 that begin with 0
		request(t, tab.Open(masqueraded(inside(i), uint16(i))), 0)
	}
	c := tab.Open(masqueraded(inside(1000), 1000))
	var public []pptp.CallID
	for own := range pptp.CallID(spare) {
		public = append(public, request(t, c, own))
	}
	for own, id := range public {
		high := c.TranslateHigh(Initiator, Owns, 0)
		if got, ok := c.Translate(Initiator, Owns, pptp.CallID(own), &high); !ok || got != id {
			t.Errorf("call %v, known as %v, becomes %v in two steps", own, id, got)
		}
	}
}

// TestNothingIsKeptOfAnAssignment: an ID that was chosen counts from its first byte on, and
// no longer when it has come to nothing.
func TestNothingIsKeptOfAnAssignment(t *testing.T) {
	high := func(c *Control) byte { return c.TranslateHigh(Initiator, Assigns, 0) }
	tests := []struct {
		name  string
		run   func(t *testing.T, c *Control)
		taken int
	}{
		{"its first byte is let go", func(_ *testing.T, c *Control) { high(c) }, 1},
		{"and again, in a message that comes later", func(_ *testing.T, c *Control) { high(c); high(c) }, 1},
		{"and its second", func(_ *testing.T, c *Control) { b := high(c); c.Assign(Initiator, 7, &b) }, 1},
		{"in one piece", func(_ *testing.T, c *Control) { c.Assign(Initiator, 7, nil) }, 1},
		{"another one instead", func(_ *testing.T, c *Control) { c.Assign(Initiator, 7, nil); c.Assign(Initiator, 0x0707, nil) }, 1},
		{"given up", func(_ *testing.T, c *Control) { c.Assign(Initiator, 7, nil); c.Abandon(Initiator) }, 0},
		{"given up after its first byte", func(_ *testing.T, c *Control) { high(c); c.Abandon(Initiator) }, 0},
		{"requested", func(t *testing.T, c *Control) { request(t, c, 7) }, 1},
		{"requested again", func(t *testing.T, c *Control) { request(t, c, 7); request(t, c, 7) }, 1},
		{"requested again, cut within the ID", func(t *testing.T, c *Control) {
			request(t, c, 7)
			b := high(c)
			if id, ok := c.Assign(Initiator, 7, &b); !ok || id != 7 {
				t.Errorf("the call's ID becomes %v, %v", id, ok)
			}
		}, 1},
		{"the request is of another ID", func(t *testing.T, c *Control) {
			c.Assign(Initiator, 7, nil)
			if c.Request(Initiator, Initiator, 8, epoch) {
				t.Error("a call was opened under an ID that was not assigned")
			}
		}, 0},
		{"the request comes after the first byte", func(t *testing.T, c *Control) {
			high(c)
			if c.Request(Initiator, Initiator, 0, epoch) {
				t.Error("a call was opened under an ID that was not assigned")
			}
		}, 0},
		{"the next request is beyond a limit", func(t *testing.T, c *Control) {
			c.Assign(Initiator, 7, nil)
			cfg := testConfig(time.Minute)
			cfg.Calls = 0
			c.table.SetConfig(cfg)
			if _, ok := c.Translate(Initiator, Requests, 8, nil); ok || c.Refusal(Initiator) != TooManyCalls {
				t.Errorf("it is refused for %v", c.Refusal(Initiator))
			}
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := New(testConfig(time.Minute))
			tt.run(t, tab.Open(masqueraded(inside(1), 1)))
			if taken, _ := tab.FullestSpace(); taken != tt.taken {
				t.Errorf("%d IDs are taken, want %d", taken, tt.taken)
			}
		})
	}
}

// occupy has another client take public IDs, all but one.
func occupy(t *testing.T, tab *Table, from, to, but pptp.CallID) {
	t.Helper()
	for id := int(from); id <= int(to); id++ {
		if pptp.CallID(id) != but {
			tab.space(tab.Open(masqueraded(inside(9), 9)).connection.space(Initiator)).take(pptp.CallID(id))
		}
	}
}

// TestTheLastID goes to the connection that was promised its first byte, and to the next
// one when that does not use it.
func TestTheLastID(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.CallsPerSpace = 1 << 20
	tab := New(cfg)
	occupy(t, tab, 1, 0xffff, 0x0509)
	a, b := tab.Open(masqueraded(inside(1), 1)), tab.Open(masqueraded(inside(2), 2))
	high := a.TranslateHigh(Initiator, Assigns, 0)
	if high != 5 {
		t.Fatalf("promised %d, of which none is free", high)
	}
	if id, ok := b.Assign(Initiator, 7, nil); ok || id != 7 || b.Refusal(Initiator) != SpaceFull {
		t.Errorf("another connection is given %v, refused for %v", id, b.Refusal(Initiator))
	}
	if got := b.TranslateHigh(Initiator, Assigns, 3); got != 3 || b.Refusal(Initiator) != SpaceFull {
		t.Errorf("with one byte at hand it is %d, refused for %v", got, b.Refusal(Initiator))
	}
	if id, ok := a.Assign(Initiator, 7, &high); !ok || id != 0x0509 || a.Refusal(Initiator) != NoneRefused {
		t.Errorf("the one with the promise is given %v, refused for %v", id, a.Refusal(Initiator))
	}
	a.Abandon(Initiator)
	if id, ok := b.Assign(Initiator, 7, nil); !ok || id != 0x0509 {
		t.Errorf("then the other one is given %v, refused for %v", id, b.Refusal(Initiator))
	}
	b.Abandon(Initiator)
	if id, ok := b.Assign(Initiator, 7, &high); ok || id != 0x0507 || b.Refusal(Initiator) != SpaceFull {
		t.Errorf("a second byte without a first becomes %v, refused for %v", id, b.Refusal(Initiator))
	}
}

// TestPromises has the first bytes under which a connection's IDs are public.
func TestPromises(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	request(t, c, 0x0007)
	occupy(t, tab, 0x0001, 0x00ff, 0)
	second := request(t, c, 0x0008)
	if second.High() != 1 {
		t.Errorf("with its page full, the next ID becomes %v", second)
	}
	occupy(t, tab, 0x0100, 0xffff, 0)
	if high := c.TranslateHigh(Initiator, Assigns, 0); high != 0 {
		t.Errorf("with all pages full, a first byte becomes %d: not that of a call", high)
	}
	c.Close(Finished, epoch)
	tab.Expire(epoch.Add(time.Hour)) // two IDs are free now, 0x0007 and second
	d := tab.Open(masqueraded(inside(1), 1))
	request(t, d, 0x0507)
	d.Close(Finished, epoch)
	tab.Expire(epoch.Add(time.Hour))
	occupy(t, tab, 0x0007, 0x0007, 0)
	if id := request(t, d, 0x0509); id != second {
		t.Errorf("when the first call is gone, the next ID becomes %v, want %v", id, second)
	}
	if high := d.TranslateHigh(Initiator, Owns, 5); high != second.High() {
		t.Errorf("the first byte of the call that there is becomes %d", high)
	}
}

// TestPromisesOfBothEnds: where both ends are translated, each has promises of its own.
func TestPromisesOfBothEnds(t *testing.T) {
	tab := New(testConfig(time.Minute))
	both := masqueraded(inside(1), 1)
	both.Reply.Src = masqueraded(inside(2), 1723).Original.Src // the server has another address than clients dial
	c := tab.Open(both)
	for i := range pageSize {
		tab.space(c.connection.space(Responder)).take(pptp.CallID(0x0500 + i))
		tab.space(c.connection.space(Initiator)).take(pptp.CallID(0x0500 + i))
	}
	client, _ := c.Assign(Initiator, 0x0507, nil)
	c.Request(Initiator, Initiator, 0x0507, epoch)
	server, _ := c.Assign(Responder, 0x0509, nil)
	c.Reply(Responder, Reply{PNS: Initiator, Own: 0x0509, Peer: client, Granted: true, Next: Established}, epoch)
	request(t, c, 0x0707) // a promise of the one end is made, and those of the other stay
	for _, tt := range []struct {
		side        Side
		own, public pptp.CallID
	}{{Initiator, 0x0507, client}, {Responder, 0x0509, server}} {
		if tt.public.High() != 6 {
			t.Errorf("the %v's ID becomes %v: 5 is full, and 6 comes next", tt.side, tt.public)
		}
		if high := c.TranslateHigh(tt.side, Owns, 5); high != tt.public.High() {
			t.Errorf("the first byte of the %v's ID becomes %d", tt.side, high)
		}
		if high := c.TranslateHigh(tt.side.Other(), Peers, tt.public.High()); high != 5 {
			t.Errorf("the way back to the %v gives %d", tt.side, high)
		}
	}
}

// TestPromiseSame: an ID that passed unedited promises its first byte, where nothing else
// was promised with it.
func TestPromiseSame(t *testing.T) {
	tests := []struct {
		name     string
		side     Side
		promises []pagePair
		want     int
	}{
		{"nothing was promised", Initiator, nil, 1},
		{"it was promised already", Initiator, []pagePair{{side: Initiator, own: 5, public: 5}}, 1},
		{"it stands for another byte", Initiator, []pagePair{{side: Initiator, own: 6, public: 5}}, 1},
		{"another byte stands for it", Initiator, []pagePair{{side: Initiator, own: 5, public: 6}}, 1},
		{"it stands for another byte of the other end", Initiator, []pagePair{{side: Responder, own: 6, public: 5}}, 2},
		{"the end is not translated", Responder, nil, 0},
	}
	for _, tt := range tests {
		c := New(testConfig(time.Minute)).Open(masqueraded(inside(1), 1))
		c.pages = tt.promises
		if c.promiseSame(tt.side, 5); len(c.pages) != tt.want {
			t.Errorf("%s: %v, want %d", tt.name, c.pages, tt.want)
		}
	}
}

// TestUses: a promise knows how many IDs depend on it.
func TestUses(t *testing.T) {
	c := New(testConfig(time.Minute)).Open(masqueraded(inside(1), 1))
	wantUses := func(when string, want ...pagePair) {
		t.Helper()
		if diff := cmp.Diff(want, c.pages, cmp.AllowUnexported(pagePair{})); diff != "" {
			t.Errorf("%s, promises (-want +got):\n%s", when, diff)
		}
	}
	dial(t, c, 0x0507, 0x0909)
	request(t, c, 0x0607) // its server's ID is not known yet
	request(t, c, 0x0508)
	wantUses("with three calls", pagePair{Initiator, 5, 5, 2}, pagePair{Initiator, 6, 6, 1})
	c.Clear(Initiator, 0x0507, epoch)
	wantUses("while one is being cleared", pagePair{Initiator, 5, 5, 2}, pagePair{Initiator, 6, 6, 1})
	c.Disconnect(Responder, 0x0909, 0x0909, epoch)
	wantUses("when it is gone", pagePair{Initiator, 5, 5, 1}, pagePair{Initiator, 6, 6, 1})
	c.Close(Finished, epoch)
	wantUses("in the end", pagePair{Initiator, 5, 5, 0}, pagePair{Initiator, 6, 6, 0})
}

// TestFits has the public IDs that a Call-Disconnect-Notify could confuse.
func TestFits(t *testing.T) {
	c := New(testConfig(time.Minute)).Open(masqueraded(inside(1), 1))
	dial(t, c, 0x0102, 0x0304)
	for _, tt := range []struct {
		name        string
		own, public pptp.CallID
		fits        bool
	}{
		{"an ID like any", 0x0007, 0x0506, true},
		{"an ID that is kept", 0x0007, 0x0007, true},
		{"the server's of a call", 0x0007, 0x0304, false},
		{"its byte swap", 0x0007, 0x0403, false},
		{"the byte swap of the client's of a call", 0x0007, 0x0201, false},
		{"equal to its byte swap", 0x0007, 0x0505, false},
		{"the same, but the endpoint's own", 0x0505, 0x0505, true},
	} {
		if got := c.fits(Initiator, tt.public, tt.own); got != tt.fits {
			t.Errorf("%s, %v for %v: %v, want %v", tt.name, tt.public, tt.own, got, tt.fits)
		}
	}
	request(t, c, 0x0707)
	if !c.fits(Initiator, 0x0707, 0x0707) {
		t.Error("an ID that is its own byte swap does not fit a call that has it")
	}
}

// TestChoose has the ID that is taken of a page.
func TestChoose(t *testing.T) {
	tests := []struct {
		name string
		free []pptp.CallID // of page 5; the server has calls 0x05f0…0x05ff
		own  pptp.CallID
		want pptp.CallID
	}{
		{"the endpoint's own", []pptp.CallID{0x0507, 0x0508}, 0x0507, 0x0507},
		{"another, if that is taken", []pptp.CallID{0x0508, 0x0509}, 0x0507, 0x0509},
		{"another, if that is the server's", []pptp.CallID{0x0508, 0x05f7}, 0x05f7, 0x0508},
		{"the highest that is not the server's", []pptp.CallID{0x0508, 0x0509, 0x05f8}, 0x0507, 0x0509},
		{"the server's, if there is none else", []pptp.CallID{0x05f8}, 0x0507, 0x05f8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := New(testConfig(time.Minute))
			c := tab.Open(masqueraded(inside(1), 1))
			for i := range pptp.CallID(16) {
				dial(t, c, 0x0100+i, 0x05f0+i)
			}
			occupy(t, tab, 0x0500, 0x05ff, 0)
			for _, id := range tt.free {
				tab.space(c.connection.space(Initiator)).release(id)
			}
			if id := c.choose(Initiator, 5, tt.own); id != tt.want {
				t.Errorf("for %v it is %v, want %v", tt.own, id, tt.want)
			}
		})
	}
}

// TestRandomIDs: a public ID, its first byte included, does not follow from the endpoint's
// own, and fits as any.
func TestRandomIDs(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.Random = rand.New(rand.NewPCG(1, 2)).Uint32
	tab := New(cfg)
	firsts, ids := map[byte]bool{}, map[pptp.CallID]bool{}
	for i := range 100 {
		id := request(t, tab.Open(masqueraded(inside(i), uint16(i))), 7)
		firsts[id.High()], ids[id] = true, true
	}
	if len(ids) != 100 || len(firsts) < 30 {
		t.Errorf("100 calls have %d public IDs, with %d first bytes", len(ids), len(firsts))
	}
	again := tab.Open(masqueraded(inside(1), 1000)) // a request that is cut, and sent again
	high := again.TranslateHigh(Initiator, Assigns, 0)
	for range 5 {
		if now := again.TranslateHigh(Initiator, Assigns, 0); now != high {
			t.Fatalf("a first byte becomes %#02x, and %#02x when it is sent again", high, now)
		}
	}
	c := tab.Open(masqueraded(inside(1), 2000))
	for i := range pptp.CallID(128) {
		dial(t, c, 0x0100+i, 0x0501+2*i) // the server has all odd ones of this page
	}
	for range 100 {
		if id := c.choose(Initiator, 5, 7); id.High() != 5 || id&1 != 0 {
			t.Fatalf("chose %v, which is the server's", id)
		}
	}
}

// TestGatewaysOwnIDs: the gateway itself dials out of the address behind which others are.
func TestGatewaysOwnIDs(t *testing.T) {
	tab := New(testConfig(time.Minute))
	plain := masqueraded(public, 1)
	own := tab.Open(plain)
	own.SetLocal(Initiator)
	if id := request(t, own, 7); id != 7 {
		t.Errorf("the gateway's own ID becomes %v", id)
	}
	host := tab.Open(masqueraded(inside(1), 2))
	if id := request(t, host, 7); id == 7 {
		t.Error("a host has the gateway's ID")
	}
	if id := request(t, host, 9); id != 9 {
		t.Errorf("a host's ID, which is free, becomes %v", id)
	}
	if id, ok := own.Assign(Initiator, 9, nil); ok || id != 9 || own.Refusal(Initiator) != IDTaken {
		t.Errorf("the gateway's own ID, which a host has, becomes %v, refused for %v", id, own.Refusal(Initiator))
	}
	if id := request(t, own, 11); id != 11 {
		t.Errorf("its next ID becomes %v", id)
	}
	taken, _ := tab.FullestSpace()
	own.Close(Finished, epoch)
	tab.Expire(epoch.Add(time.Hour))
	if after, _ := tab.FullestSpace(); taken != 4 || after != 2 {
		t.Errorf("%d IDs were taken, and %d when the gateway had hung up", taken, after)
	}
}

// TestRefusedForItsSpace: a request that was admitted, and for which no ID can be had, takes
// nothing of the limits.
func TestRefusedForItsSpace(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.Calls, cfg.CallsPerSpace = 2, 1
	tab := New(cfg)
	own := tab.Open(masqueraded(public, 1))
	own.SetLocal(Initiator)
	request(t, own, 7)
	host := tab.Open(masqueraded(inside(1), 2))
	for _, c := range []*Control{own, host} {
		if id, ok := c.Translate(Initiator, Requests, 9, nil); ok || id != 9 || c.Refusal(Initiator) != TooManyOfSpace {
			t.Errorf("beyond its space, a request of %v becomes %v, refused for %v", c.Connection().Original.Src, id, c.Refusal(Initiator))
		}
	}
	elsewhere := masqueraded(inside(1), 3)
	elsewhere.Original.Dst = netip.MustParseAddrPort("203.0.113.10:1723")
	elsewhere.Reply.Src = elsewhere.Original.Dst
	if _, ok := tab.Open(elsewhere).Translate(Initiator, Requests, 9, nil); !ok {
		t.Error("a call to another server is refused for those that were")
	}
}

// TestFirstByte: the first byte of a request's ID is answered by that of its public form,
// and the same is asked of both.
func TestFirstByte(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	for _, f := range []Field{Requests, Assigns} {
		for _, own := range []byte{1, 0x50, 0xff} {
			if high := c.TranslateHigh(Initiator, f, own); high != own || c.pending[Initiator].public.High() != own {
				t.Errorf("%#02x becomes %#02x, and %v is reserved", own, high, c.pending[Initiator].public)
			}
		}
	}
	c.Abandon(Initiator)
	if taken, _ := tab.FullestSpace(); taken != 0 {
		t.Errorf("%d IDs are taken", taken)
	}
}
