package calls

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pptpalg/alg/pptp"
)

// followed opens a connection that another gateway owns.
func (t *Table) openFollowed(c Connection) *Control {
	control := t.Open(c)
	control.Yield(epoch)
	return control
}

// told is a record of slot 1 as the owner of a call tells of it.
func told(n uint64, c Connection, s State, own, public pptp.CallID, answer ...pptp.CallID) Record {
	r := Record{Number: 1<<slotShift | n, Connection: c, State: s, Since: epoch}
	r.Legs[Initiator] = LegRecord{Known: true, Own: own, Public: public}
	for _, id := range answer {
		r.Legs[Responder] = LegRecord{Known: true, Own: id, Public: id}
	}
	return r
}

// flowEvents leaves of events the flows.
func flowEvents(events []Event) (left []Event) {
	for _, e := range events {
		if e.Kind <= Remove {
			left = append(left, e)
		}
	}
	return left
}

// TestFollow: what the owner tells of a call is what is known of it; its flows are told as
// they come and go; and nothing is told that a store of this gateway takes.
func TestFollow(t *testing.T) {
	a, b := masqueraded(inside(1), 1), masqueraded(inside(2), 2)
	marked := a
	marked.Mark, marked.Closing = 5, true
	flow := func(r Record, s Side) Flow {
		f, _ := r.FlowTo(s)
		return f
	}
	asked, answered, cleared := told(1, a, Requested, 7, 9), told(1, a, Established, 7, 9, 100), told(1, a, Clearing, 7, 9, 100)
	remarked := told(1, marked, Established, 7, 9, 100)
	again := told(2, a, Requested, 7, 9)
	elsewhere := told(3, b, Established, 7, 9, 100)
	other := told(1, a, Established, 7, 8, 100)
	for _, tt := range []struct {
		name    string
		before  []Record
		follow  Record
		flows   []Event
		kinds   []EventKind // of the rest
		records []Record    // in the end
		resting int
	}{
		{"a request", nil, asked, []Event{{Kind: Install, Flow: flow(asked, Initiator)}}, []EventKind{Followed}, []Record{asked}, 0},
		{"the same again", []Record{asked}, asked, nil, []EventKind{Followed}, []Record{asked}, 0},
		{"its answer", []Record{asked}, answered, []Event{{Kind: Install, Flow: flow(answered, Responder)}}, []EventKind{Followed}, []Record{answered}, 0},
		{"request and answer at once", nil, answered,
			[]Event{{Kind: Install, Flow: flow(answered, Initiator)}, {Kind: Install, Flow: flow(answered, Responder)}}, []EventKind{Followed}, []Record{answered}, 0},
		{"the call is cleared", []Record{answered}, cleared,
			[]Event{{Kind: Remove, Flow: flow(answered, Initiator)}, {Kind: Remove, Flow: flow(answered, Responder)}}, []EventKind{Followed}, []Record{cleared}, 0},
		{"a call that was cleared already", nil, cleared, nil, []EventKind{Followed}, []Record{cleared}, 0},
		{"it is cleared, and then not", []Record{cleared}, answered,
			[]Event{{Kind: Install, Flow: flow(answered, Initiator)}, {Kind: Install, Flow: flow(answered, Responder)}}, []EventKind{Followed}, []Record{answered}, 0},
		{"another mark", []Record{answered}, remarked,
			[]Event{{Kind: Remove, Flow: flow(answered, Initiator)}, {Kind: Remove, Flow: flow(answered, Responder)},
				{Kind: Install, Flow: flow(remarked, Initiator)}, {Kind: Install, Flow: flow(remarked, Responder)}},
			[]EventKind{Followed}, []Record{remarked}, 0},
		{"another public ID", []Record{answered}, other,
			[]Event{{Kind: Remove, Flow: flow(answered, Initiator)}, {Kind: Install, Flow: flow(other, Initiator)}}, []EventKind{Followed}, []Record{other}, 1},
		{"a request sent again, which inherits the ID", []Record{answered}, again,
			[]Event{{Kind: Remove, Flow: flow(answered, Responder)}}, []EventKind{Forgotten, Followed}, []Record{again}, 0},
		{"another connection is given the ID", []Record{answered}, elsewhere,
			[]Event{{Kind: Remove, Flow: flow(answered, Initiator)}, {Kind: Remove, Flow: flow(answered, Responder)},
				{Kind: Install, Flow: flow(elsewhere, Initiator)}, {Kind: Install, Flow: flow(elsewhere, Responder)}},
			[]EventKind{Forgotten, Followed}, []Record{elsewhere}, 0},
		{"another connection is given the ID of a call that is being cleared", []Record{cleared}, elsewhere,
			[]Event{{Kind: Install, Flow: flow(elsewhere, Initiator)}, {Kind: Install, Flow: flow(elsewhere, Responder)}},
			[]EventKind{Forgotten, Followed}, []Record{elsewhere}, 0},
		{"a request sent again, and then a word of the former call", []Record{asked, again}, cleared, nil, nil, []Record{again}, 0},
		{"a request sent again, and then an old word of the former call", []Record{asked, again}, asked, nil, nil, []Record{again}, 0},
		{"another connection has its ID, and it is cleared", []Record{elsewhere}, cleared, nil, nil, []Record{elsewhere}, 0},
		{"it has another ID, and the word is of the ID of a later call", []Record{other, elsewhere}, cleared,
			[]Event{{Kind: Remove, Flow: flow(other, Initiator)}, {Kind: Remove, Flow: flow(other, Responder)}}, []EventKind{Forgotten}, []Record{elsewhere}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tab := New(testConfig(time.Minute))
			on := map[Connection]*Control{a: tab.openFollowed(a), b: tab.openFollowed(b)}
			control := func(r *Record) *Control {
				c := r.Connection
				c.Mark, c.Closing = 0, false
				return on[c]
			}
			for _, r := range tt.before {
				if !control(&r).Follow(r, epoch) {
					t.Fatal("refused")
				}
			}
			tab.Events()
			if !control(&tt.follow).Follow(tt.follow, epoch) {
				t.Fatal("refused")
			}
			events := slices.Clone(tab.Events())
			opt := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})
			if diff := cmp.Diff(tt.flows, flowEvents(events), opt); diff != "" {
				t.Errorf("flows (-want +got):\n%s", diff)
			}
			var kinds []EventKind
			for _, e := range events {
				if e.Kind > Remove {
					kinds = append(kinds, e.Kind)
				}
				if e.OfCall() {
					t.Errorf("the event %v is one that a store takes", e.Kind)
				}
			}
			if !slices.Equal(kinds, tt.kinds) {
				t.Errorf("events %v, want %v", kinds, tt.kinds)
			}
			if n := len(events); n > 0 && events[n-1].Kind == Followed && events[n-1].Call != tt.follow {
				t.Errorf("the last event tells of %+v", events[n-1].Call)
			}
			var records []Record
			for _, c := range on {
				records = c.Records(records)
			}
			if diff := cmp.Diff(tt.records, records, opt); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if tab.RestingIDs() != tt.resting || tab.Calls() != 0 || tab.Followed() != living(tt.records) {
				t.Errorf("%d IDs rest, want %d; %d calls are this gateway's, %d are followed", tab.RestingIDs(), tt.resting, tab.Calls(), tab.Followed())
			}
			wantEmptied(t, tab, on)
		})
	}
}

// living counts calls that are not being cleared.
func living(records []Record) (n int) {
	for _, r := range records {
		if r.State != Clearing {
			n++
		}
	}
	return n
}

// wantEmptied forgets all calls that are followed, and expects that nothing is left of them.
func wantEmptied(t *testing.T, tab *Table, on map[Connection]*Control) {
	t.Helper()
	for _, c := range on {
		for _, r := range c.Records(nil) {
			if got := tab.Forget(r.Number, epoch, epoch); got != c {
				t.Errorf("the call %#x was on %v", r.Number, got)
			}
		}
	}
	tab.Expire(epoch.Add(time.Hour))
	if n := len(tab.entering) + len(tab.behind) + len(tab.leaving) + len(tab.followed) + len(tab.holders) + len(tab.spaces) + len(tab.resting) + tab.foreign; n != 0 {
		t.Errorf("%d things are left: %+v", n, tab)
	}
}

// TestFollowCountsApart: no limit refuses a followed call, and none of this gateway's is
// refused for it. When it is taken over, it counts.
func TestFollowCountsApart(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.Calls, cfg.CallsPerClient, cfg.CallsPerSpace, cfg.Requests = 1, 1, 1, 1
	tab := New(cfg)
	theirs := tab.openFollowed(masqueraded(inside(1), 1))
	for i := range pptp.CallID(3) {
		if !theirs.Follow(told(uint64(i), theirs.Connection(), Established, 7+i, 7+i, 100+i), epoch) {
			t.Fatal("a followed call is refused")
		}
	}
	elsewhere := masqueraded(inside(1), 2) // the same client by another of the public addresses
	elsewhere.Reply.Dst = netip.MustParseAddrPort("198.51.100.2:2")
	ours := tab.Open(elsewhere)
	request(t, ours, 7)
	if tab.Calls() != 1 || tab.Followed() != 3 {
		t.Errorf("%d calls are this gateway's, want 1, and %d followed, want 3", tab.Calls(), tab.Followed())
	}
	theirs.TakeOver(epoch)
	if tab.Calls() != 4 || tab.Followed() != 0 {
		t.Errorf("after it, %d calls, want 4, and %d followed, want 0", tab.Calls(), tab.Followed())
	}
	ours.Close(Finished, epoch)
	if _, ok := ours.Translate(Initiator, Requests, 9, nil); ok {
		t.Error("the client may have another call, though it has three")
	}
}

// TestFollowRefused: what is this gateway's own stays, whatever others say.
func TestFollowRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		own  func(tab *Table) *Control // returns the connection that is told of
	}{
		{"the connection is this gateway's", func(tab *Table) *Control { return tab.Open(masqueraded(inside(1), 1)) }},
		{"a call of this gateway's has the ID", func(tab *Table) *Control {
			request(t, tab.Open(masqueraded(inside(2), 2)), 9)
			return tab.openFollowed(masqueraded(inside(1), 1))
		}},
		{"the ID is reserved", func(tab *Table) *Control {
			c := masqueraded(inside(1), 1)
			tab.Reserve(c.flow(Initiator, 7, 9))
			return tab.openFollowed(c)
		}},
		{"the ID is assigned to a call that is being read", func(tab *Table) *Control {
			tab.Open(masqueraded(inside(2), 2)).Assign(Initiator, 9, nil)
			return tab.openFollowed(masqueraded(inside(1), 1))
		}},
	} {
		tab := New(testConfig(time.Minute))
		c := tt.own(tab)
		tab.Events()
		taken, _ := tab.FullestSpace()
		if c.Follow(told(1, c.Connection(), Established, 7, 9, 100), epoch) {
			t.Errorf("%s, and it is followed", tt.name)
		}
		if after, _ := tab.FullestSpace(); len(c.Records(nil))+len(tab.Events()) != 0 || after != taken {
			t.Errorf("%s, and something has changed", tt.name)
		}
	}
}

// TestForget: the IDs of a call that is gone at its owner rest from then on, and a call that
// has inherited its flow keeps it.
func TestForget(t *testing.T) {
	for _, tt := range []struct {
		name  string
		at    time.Duration
		state State
		until time.Duration
		flows int
	}{
		{"just now", 0, Established, time.Minute, 2},
		{"some time ago", -30 * time.Second, Established, 30 * time.Second, 2},
		{"by a clock that is ahead", time.Hour, Established, time.Minute, 2},
		{"that was cleared", 0, Clearing, time.Minute, 0},
	} {
		tab := New(testConfig(time.Minute))
		c := tab.openFollowed(masqueraded(inside(1), 1))
		c.Follow(told(1, c.Connection(), tt.state, 7, 9, 100), epoch)
		tab.Events()
		if tab.Forget(1<<slotShift|1, epoch.Add(tt.at), epoch) != c {
			t.Fatalf("%s: no such call", tt.name)
		}
		events := slices.Clone(tab.Events())
		if flows := flowEvents(events); len(flows) != tt.flows || len(events) != tt.flows+1 {
			t.Errorf("%s: %v", tt.name, events)
		}
		for _, wait := range []time.Duration{tt.until - 1, tt.until} {
			tab.Expire(epoch.Add(wait))
			if rests := tab.RestingIDs() == 1; rests != (wait < tt.until) {
				t.Errorf("%s: after %v the ID rests: %v", tt.name, wait, rests)
			}
		}
		if tab.Forget(1<<slotShift|1, epoch, epoch) != nil {
			t.Errorf("%s: it is forgotten twice", tt.name)
		}
	}
}

// TestForgottenLate: an owner writes behind that a call is gone, so that a follower may hear
// of the next call with its IDs first.
func TestForgottenLate(t *testing.T) {
	for name, second := range map[string]Connection{"on the same connection": masqueraded(inside(1), 1), "on another connection": masqueraded(inside(2), 2)} {
		tab := New(testConfig(time.Minute))
		c := tab.openFollowed(masqueraded(inside(1), 1))
		c.Follow(told(1, c.Connection(), Established, 7, 9, 100), epoch)
		if second != c.Connection() {
			c = tab.openFollowed(second)
		}
		next := told(2, second, Established, 7, 9, 101)
		c.Follow(next, epoch)
		tab.Events()
		if tab.Forget(1<<slotShift|1, epoch, epoch) != nil || len(tab.Events()) != 0 {
			t.Errorf("%s: the former call was still there", name)
		}
		for _, f := range next.Flows() {
			if !tab.Has(f) {
				t.Errorf("%s: the flow %v is gone", name, f)
			}
		}
		c.TakeOver(epoch)
		if id := request(t, tab.Open(masqueraded(inside(3), 3)), 9); id == 9 {
			t.Errorf("%s: the ID is given twice", name)
		}
	}
}

// TestFollowRestingID: the owner may give an ID that rests here: it may have none else, and
// its clock is its own.
func TestFollowRestingID(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.openFollowed(masqueraded(inside(1), 1))
	c.Follow(told(1, c.Connection(), Established, 7, 9, 100), epoch)
	tab.Forget(1<<slotShift|1, epoch, epoch)
	if !c.Follow(told(2, c.Connection(), Established, 7, 9, 100), epoch) || tab.RestingIDs() != 0 {
		t.Fatalf("refused, or %d IDs rest", tab.RestingIDs())
	}
	tab.Expire(epoch.Add(time.Hour))
	c.TakeOver(epoch)
	if id := request(t, tab.Open(masqueraded(inside(3), 3)), 9); id == 9 {
		t.Error("the ID is given twice")
	}
}

// TestOnlyItsOwnerEndsIt: no time ends a followed call, nor one that was another gateway's
// before it has had its time.
func TestOnlyItsOwnerEndsIt(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.CallsPerClient = 2
	tab := New(cfg)
	c := tab.Open(masqueraded(inside(1), 1))
	for i := range pptp.CallID(2) {
		dial(t, c, 7+i, 100+i)
		c.Clear(Initiator, 7+i, epoch)
	}
	c.Yield(epoch)
	left := func(want int, when string) {
		t.Helper()
		if n := len(c.Records(nil)); n != want {
			t.Errorf("%s %d calls are on record, want %d", when, n, want)
		}
	}
	tab.Expire(epoch.Add(time.Hour))
	left(2, "after an hour at another gateway")
	d := tab.Open(masqueraded(inside(1), 2)) // the same client has its limit
	for i := range pptp.CallID(3) {
		dial(t, d, 17+i, 100+i)
		d.Clear(Initiator, 17+i, epoch)
	}
	left(2, "after other calls of the client were cleared")
	d.Close(Finished, epoch)
	c.TakeOver(epoch.Add(time.Hour))
	tab.Expire(epoch.Add(time.Hour + clearingTime - 1))
	left(2, "within a minute after they were taken over")
	tab.Expire(epoch.Add(time.Hour + clearingTime))
	left(0, "a minute after they were taken over")
}

// TestHandedOn: a connection goes to another gateway and comes back, and each time its calls
// are told, its flows are not, and it is as it was.
func TestHandedOn(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	for i := range pptp.CallID(3 * fewCalls) {
		dial(t, c, 7+i, 100+i)
	}
	c.Clear(Initiator, 8, epoch)
	before := c.Records(nil)
	c.connection.opening = true
	c.Assign(Initiator, 400, nil) // half of a request
	taken, _ := tab.FullestSpace()
	for _, tt := range []struct {
		name       string
		do         func()
		kind       EventKind
		ours, them int
	}{
		{"yielded", func() { c.Yield(epoch) }, Followed, 0, 3*fewCalls - 1},
		{"yielded again", func() { c.Yield(epoch) }, 0, 0, 3*fewCalls - 1},
		{"taken over", func() { c.TakeOver(epoch) }, TakenOver, 3*fewCalls - 1, 0},
		{"taken over again", func() { c.TakeOver(epoch) }, 0, 3*fewCalls - 1, 0},
	} {
		tab.Events()
		tt.do()
		for _, e := range tab.Events() {
			if e.Kind != tt.kind {
				t.Errorf("%s: event %v", tt.name, e.Kind)
			}
		}
		if tab.Calls() != tt.ours || tab.Followed() != tt.them || c.Followed() != (tt.them > 0) {
			t.Errorf("%s: %d calls, want %d, and %d followed, want %d", tt.name, tab.Calls(), tt.ours, tab.Followed(), tt.them)
		}
		if after := c.Records(nil); !slices.Equal(after, before) {
			t.Errorf("%s: the calls were %v, and are %v", tt.name, before, after)
		}
		if now, _ := tab.FullestSpace(); now != taken-1 {
			t.Errorf("%s: %d IDs are taken, want %d", tt.name, now, taken-1)
		}
	}
	c.Close(Finished, epoch)
	if tab.Calls() != 0 || len(tab.followed)+len(tab.holders)+len(tab.entering) != 0 {
		t.Errorf("in the end %d calls are left", tab.Calls())
	}
}

// TestPublicOfAConnection: whose a connection is tells the address that NAT gives its end.
func TestPublicOfAConnection(t *testing.T) {
	forwarded := Connection{
		Original: Tuple{netip.MustParseAddrPort("203.0.113.9:5"), netip.MustParseAddrPort("198.51.100.1:1723")},
		Reply:    Tuple{netip.MustParseAddrPort("10.0.0.2:1723"), netip.MustParseAddrPort("203.0.113.9:5")},
	}
	hairpin := forwarded
	hairpin.Original.Src = netip.MustParseAddrPort("10.0.0.3:5")
	hairpin.Reply.Dst = netip.MustParseAddrPort("198.51.100.2:5")
	plain := masqueraded(public, 1)
	for _, tt := range []struct {
		name string
		c    Connection
		want string
	}{
		{"masqueraded", masqueraded(inside(1), 1), "198.51.100.1"}, {"forwarded", forwarded, "198.51.100.1"},
		{"of both ends, the initiator's", hairpin, "198.51.100.2"}, {"not translated", plain, ""},
	} {
		got, ok := tt.c.Public()
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%s: %v, %v, want %q", tt.name, got, ok, tt.want)
		}
	}
}

// TestSettle: a flow that is removed and installed as it was is told neither way, unless
// another one has its place in between.
func TestSettle(t *testing.T) {
	c := masqueraded(inside(1), 1)
	f, other := c.flow(Initiator, 7, 9), c.flow(Initiator, 7, 10)
	marked := f
	marked.Mark = 1
	install := func(f Flow) Event { return Event{Kind: Install, Flow: f} }
	remove := func(f Flow) Event { return Event{Kind: Remove, Flow: f} }
	for _, tt := range []struct {
		name       string
		from       int
		give, want []Event
	}{
		{"nothing", 0, nil, nil},
		{"as it was", 0, []Event{remove(f), install(f)}, nil},
		{"others in between", 0, []Event{remove(f), {Kind: Forgotten}, remove(other), install(f), install(other)}, []Event{{Kind: Forgotten}}},
		{"with another mark", 0, []Event{remove(f), install(marked)}, []Event{remove(f), install(marked)}},
		{"another one has its place", 0, []Event{remove(f), install(marked), remove(marked), install(f)}, []Event{remove(f), install(marked), remove(marked), install(f)}},
		{"installed first", 0, []Event{install(f), remove(f)}, []Event{install(f), remove(f)}},
		{"earlier events", 1, []Event{remove(f), install(f), remove(f), install(f)}, []Event{remove(f), install(f)}},
	} {
		tab := New(testConfig(time.Minute))
		tab.events = tt.give
		if tab.settle(tt.from); !slices.Equal(tab.events, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tab.events, tt.want)
		}
	}
}

// TestAdoptAnswer: the former owner of a requested call tells late of the answer. The call goes on with the IDs
// that it has, its flow as it is; and nothing that this gateway knows better is undone.
func TestAdoptAnswer(t *testing.T) {
	a := masqueraded(inside(1), 1)
	flow := func(r Record, s Side) Flow {
		f, _ := r.FlowTo(s)
		return f
	}
	asked, answered, cleared := told(1, a, Requested, 7, 9), told(1, a, Established, 7, 9, 100), told(1, a, Clearing, 7, 9, 100)
	other := told(2, a, Established, 8, 10, 100)
	for _, tt := range []struct {
		name      string
		has, told Record
		beside    *Record
		ok        bool
		flows     []Event
	}{
		{"the answer", asked, answered, nil, true, []Event{{Kind: Install, Flow: flow(answered, Responder)}}},
		{"it is being cleared already", asked, cleared, nil, true, []Event{{Kind: Remove, Flow: flow(asked, Initiator)}}},
		{"the same again", answered, answered, nil, false, nil},
		{"less than is known", answered, asked, nil, false, nil},
		{"the request to clear it, which comes again", answered, cleared, nil, false, nil},
		{"another call has the server's ID", asked, answered, &other, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tab := New(testConfig(time.Minute))
			c := tab.openFollowed(a)
			c.Follow(tt.has, epoch)
			want := []Record{tt.has}
			if tt.beside != nil {
				c.Follow(*tt.beside, epoch)
				want = append(want, *tt.beside)
			}
			c.TakeOver(epoch)
			tab.Events()
			if ok := c.Adopt(tt.told, epoch); ok != tt.ok {
				t.Errorf("adopted: %v", ok)
			}
			opt := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})
			if diff := cmp.Diff(tt.flows, flowEvents(slices.Clone(tab.Events())), opt, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("flows (-want +got):\n%s", diff)
			}
			if tt.ok {
				want[0] = tt.told
			}
			got := c.Records(nil)
			slices.SortFunc(got, func(a, b Record) int { return int(a.Number) - int(b.Number) })
			if diff := cmp.Diff(want, got, opt); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if tab.Calls() != living(want) || tab.RestingIDs() != 0 {
				t.Errorf("%d calls, want %d; %d IDs rest", tab.Calls(), living(want), tab.RestingIDs())
			}
		})
	}
}
