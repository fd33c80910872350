package calls

import (
	"testing"
	"time"

	"pptpalg/alg/pptp"
)

// redial opens a call and ends it, and returns its public ID.
func redial(t testing.TB, c *Control, own pptp.CallID, now time.Time) pptp.CallID {
	t.Helper()
	id, ok := c.Assign(Initiator, own, nil)
	if !ok || !c.Request(Initiator, Initiator, own, now) {
		t.Fatalf("call %v is refused: %v", own, c.Refusal(Initiator))
	}
	c.table.end(c.ownLeg(Initiator, own).call, Cleared, now)
	return id
}

// TestOwnDeadline: each ID rests for the time that was set when it was freed.
func TestOwnDeadline(t *testing.T) {
	cfg := testConfig(time.Hour)
	tab := New(cfg)
	c := tab.Open(masqueraded(inside(1), 1))
	redial(t, c, 7, epoch)
	cfg.Rest = time.Second
	tab.SetConfig(cfg)
	redial(t, c, 8, epoch.Add(time.Second))
	cfg.Rest = time.Minute
	tab.SetConfig(cfg)
	redial(t, c, 9, epoch.Add(2*time.Second))
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{{2*time.Second - 1, 3}, {2 * time.Second, 2}, {62*time.Second - 1, 2}, {62 * time.Second, 1}, {time.Hour - 1, 1}, {time.Hour, 0}} {
		if tab.Expire(epoch.Add(tt.at)); tab.RestingIDs() != tt.want {
			t.Errorf("after %v %d IDs rest, want %d", tt.at, tab.RestingIDs(), tt.want)
		}
	}
	if len(tab.spaces) != 0 {
		t.Error("the space is still known")
	}
}

// TestRestoredRest: what an earlier run has noted rests for Config.Rest at most, whatever
// the clock said then.
func TestRestoredRest(t *testing.T) {
	tab := New(testConfig(time.Minute))
	for id, until := range map[pptp.CallID]time.Duration{1: 30 * time.Second, 2: 24 * time.Hour, 3: -time.Hour, 4: time.Minute} {
		tab.Rest(Resting{Public: public, Peer: outside, ID: id, Until: epoch.Add(until)}, epoch)
	}
	if tab.Rest(Resting{Public: public, Peer: outside, ID: 1, Until: epoch.Add(time.Hour)}, epoch); tab.RestingIDs() != 4 {
		t.Errorf("%d IDs rest, want 4", tab.RestingIDs())
	}
	var order []pptp.CallID
	for _, r := range tab.Resting() {
		order = append(order, r.ID)
	}
	if order[0] != 3 || order[1] != 1 {
		t.Errorf("they will have rested in the order %v", order)
	}
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{{0, 3}, {30 * time.Second, 2}, {time.Minute - 1, 2}, {time.Minute, 0}} {
		if tab.Expire(epoch.Add(tt.at)); tab.RestingIDs() != tt.want {
			t.Errorf("after %v %d IDs rest, want %d", tt.at, tab.RestingIDs(), tt.want)
		}
	}
}

// TestRecycled: where no public ID is free, the one that has rested longest is given
// again, an end's own before others'.
func TestRecycled(t *testing.T) {
	cfg := testConfig(time.Hour)
	cfg.CallsPerSpace, cfg.CallsPerClient = 6, 3
	tab := New(cfg)
	greedy, other := tab.Open(masqueraded(inside(1), 1)), tab.Open(masqueraded(inside(2), 2))
	first := redial(t, other, 1, epoch)
	for own := range pptp.CallID(5) {
		redial(t, greedy, 10+own, epoch.Add(time.Duration(own+1)))
	}
	if taken, limit := tab.FullestSpace(); taken != 6 || limit != 6 {
		t.Fatalf("%d of %d IDs are taken", taken, limit)
	}
	resting := func() (ids []pptp.CallID) {
		for _, r := range tab.Resting() {
			ids = append(ids, r.ID)
		}
		return ids
	}
	for own := range pptp.CallID(20) {
		if redial(t, greedy, 100+own, epoch.Add(time.Minute+time.Duration(own))); resting()[0] != first {
			t.Fatalf("redial %d takes the ID of another client's call", own)
		}
	}
	second := resting()[1]
	request(t, other, 50) // its own first
	if got := resting(); got[0] != second || len(got) != 5 {
		t.Errorf("the client whose ID rests longest has taken another one: %v rest", got)
	}
	request(t, other, 51) // now the longest of all
	if got := resting(); got[0] == second || len(got) != 4 {
		t.Errorf("the ID that rests longest was not taken: %v rest", got)
	}
	for own := range pptp.CallID(3) {
		request(t, greedy, 60+own)
	}
	request(t, other, 52)
	if taken, _ := tab.FullestSpace(); taken != 6 || tab.RestingIDs() != 0 {
		t.Errorf("%d taken, %d rest", taken, tab.RestingIDs())
	}
	third := tab.Open(masqueraded(inside(3), 3))
	if id, ok := third.Translate(Initiator, Requests, 7, nil); ok || id != 7 || third.Refusal(Initiator) != TooManyOfSpace {
		t.Errorf("beyond the limit: %v, %v, %v", id, ok, third.Refusal(Initiator))
	}
}

// TestRecycledKeepsPromises: an ID is not given again under a first byte that stands for
// another one on the connection.
func TestRecycledKeepsPromises(t *testing.T) {
	for _, limit := range []int{65535, 1 << 17} { // of the space, or more than it has
		testRecycledKeepsPromises(t, limit)
	}
}

func testRecycledKeepsPromises(t *testing.T, limit int) {
	cfg := testConfig(time.Hour)
	cfg.CallsPerSpace, cfg.Calls, cfg.CallsPerClient, cfg.Requests = limit, 1<<17, 1<<17, 1<<17
	tab := New(cfg)
	crowd := tab.Open(masqueraded(inside(1), 1))
	for id := pptp.CallID(1); id != 0; id++ {
		if id.High() != 3 && id.High() != 4 {
			request(t, crowd, id)
		}
	}
	c := tab.Open(masqueraded(inside(2), 2))
	request(t, c, 0x0301) // 3 is promised for 3
	for _, high := range []pptp.CallID{3, 4} {
		for low := range pptp.CallID(256) {
			tab.Rest(Resting{Public: public, Peer: outside, ID: high<<8 | low, Until: epoch.Add(time.Hour)}, epoch)
		}
	}
	if id := request(t, c, 0x0905); id.High() != 4 {
		t.Errorf("an ID that begins with 9 has the public form %#04x", int(id))
	}
	if id := request(t, c, 0x0305); id.High() != 3 {
		t.Errorf("an ID that begins with 3 has the public form %#04x", int(id))
	}
}

// TestManyRest: in all spaces together so many IDs rest at most; those go whose time
// comes first.
func TestManyRest(t *testing.T) {
	tab := New(testConfig(time.Hour))
	for i := range mostResting + 10 {
		tab.Rest(Resting{Public: public, Peer: inside(i >> 15), ID: pptp.CallID(i&0x7fff + 1), Until: epoch.Add(time.Minute + time.Duration(i))}, epoch)
	}
	if tab.RestingIDs() != mostResting || tab.Resting()[0].ID != 11 {
		t.Errorf("%d IDs rest, the first is %v", tab.RestingIDs(), tab.Resting()[0].ID)
	}
}

// TestLocalIDs: the gateway's own end keeps its IDs. What rests is free for it, what
// another one has is not.
func TestLocalIDs(t *testing.T) {
	own := masqueraded(public, 9)
	tab := New(testConfig(time.Hour))
	c, local := tab.Open(masqueraded(inside(1), 1)), tab.Open(own)
	local.SetLocal(Initiator)
	redial(t, c, 5, epoch)
	dial(t, c, 7, 100)
	for id, want := range map[pptp.CallID]Refusal{5: NoneRefused, 7: IDTaken, 8: NoneRefused, 0: NoneRefused} {
		got, ok := local.Assign(Initiator, id, nil)
		if ok != (want == NoneRefused) || got != id || local.Refusal(Initiator) != want {
			t.Errorf("ID %v of the gateway's own: %v, %v, %v", id, got, ok, local.Refusal(Initiator))
		}
		local.Abandon(Initiator)
	}
	if id := request(t, local, 8); id != 8 {
		t.Errorf("8 became %v", id)
	}
	if id := request(t, tab.Open(masqueraded(inside(2), 2)), 8); id == 8 {
		t.Error("the gateway's own ID is given to a client")
	}
}

// TestLine: what has woken takes no place, in whatever order.
func TestLine(t *testing.T) {
	any := func(pptp.CallID) bool { return true }
	var l line
	rests := make([]*rest, 100)
	for i := range rests {
		rests[i] = &rest{id: pptp.CallID(i)}
		l.push(rests[i])
	}
	for _, i := range []int{1, 0, 50, 2} {
		rests[i].awake = true
		l.left()
	}
	if r := l.longest(any); r.id != 3 {
		t.Errorf("the first is %v, want 3", r.id)
	}
	for i := range 99 {
		if !rests[i].awake {
			rests[i].awake = true
			l.left()
		}
	}
	if l.items.len() > 2 {
		t.Errorf("one rests, and the line has %d", l.items.len())
	}
	if r := l.longest(any); r.id != 99 {
		t.Errorf("the last is %v", r.id)
	}
	if r := l.longest(func(pptp.CallID) bool { return false }); r != nil {
		t.Errorf("%v fits nowhere", r.id)
	}
}
