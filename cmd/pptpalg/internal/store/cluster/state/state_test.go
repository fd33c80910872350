package state

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/record"
)

var (
	at     = time.Unix(1_800_000_000, 42)
	public = netip.MustParseAddr("198.51.100.1")
	same   = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
)

func kept(number uint64) calls.Record {
	server := netip.MustParseAddrPort("203.0.113.9:1723")
	return calls.Record{
		Number: number, State: calls.Established, Since: at,
		Connection: calls.Connection{
			Original: calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.1:4000"), Dst: server},
			Reply:    calls.Tuple{Src: server, Dst: netip.AddrPortFrom(public, 4000)},
		},
		Legs: [2]calls.LegRecord{{Known: true, Own: 0, Public: 7}, {Known: true}},
	}
}

// TestPublicOf: a call is shared below the translated end's public address, the initiator's if
// both are translated.
func TestPublicOf(t *testing.T) {
	ap := netip.MustParseAddrPort
	for name, tt := range map[string]struct {
		original, reply calls.Tuple
		want            string
	}{
		"client inside": {calls.Tuple{Src: ap("10.0.0.1:1"), Dst: ap("203.0.113.9:1723")}, calls.Tuple{Src: ap("203.0.113.9:1723"), Dst: ap("198.51.100.1:1")}, "198.51.100.1"},
		"server inside": {calls.Tuple{Src: ap("203.0.113.9:1"), Dst: ap("198.51.100.2:1723")}, calls.Tuple{Src: ap("10.0.0.1:1723"), Dst: ap("203.0.113.9:1")}, "198.51.100.2"},
		"both":          {calls.Tuple{Src: ap("10.0.0.1:1"), Dst: ap("198.51.100.2:1723")}, calls.Tuple{Src: ap("10.0.0.2:1723"), Dst: ap("198.51.100.1:1")}, "198.51.100.1"},
		"neither":       {calls.Tuple{Src: ap("10.0.0.1:1"), Dst: ap("10.0.0.2:1723")}, calls.Tuple{Src: ap("10.0.0.2:1723"), Dst: ap("10.0.0.1:1")}, "invalid IP"},
	} {
		c := calls.Connection{Original: tt.original, Reply: tt.reply}
		if got, ok := PublicOf(&c); got.String() != tt.want || ok != (name != "neither") {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
}

// TestDecodeCall: what does not belong to its key, or could not be a call that NAT translates,
// is refused.
func TestDecodeCall(t *testing.T) {
	key := CallKey{public, 1}
	for name, change := range map[string]func(*calls.Record){
		"another number":         func(r *calls.Record) { r.Number = 2 },
		"another public address": func(r *calls.Record) { r.Connection.Reply.Dst = netip.MustParseAddrPort("198.51.100.2:1") },
		"not translated":         func(r *calls.Record) { r.Connection.Reply.Dst = r.Connection.Original.Src },
		"no address":             func(r *calls.Record) { r.Connection.Original.Src = netip.MustParseAddrPort("0.0.0.0:1") },
		"multicast":              func(r *calls.Record) { r.Connection.Original.Src = netip.MustParseAddrPort("224.0.0.1:1") },
		"broadcast":              func(r *calls.Record) { r.Connection.Original.Src = netip.MustParseAddrPort("255.255.255.255:1") },
		"no port":                func(r *calls.Record) { r.Connection.Original.Src = netip.MustParseAddrPort("10.0.0.1:0") },
		"public ID 0":            func(r *calls.Record) { r.Legs[0].Public = 0 },
		"no legs":                func(r *calls.Record) { r.Legs[0].Known, r.Legs[1].Known = false, false },
		"":                       func(*calls.Record) {},
	} {
		r := kept(1)
		change(&r)
		for _, gone := range []bool{false, true} {
			c := Call{Record: r, Gone: gone}
			if gone {
				c.At = at
			}
			got, err := DecodeCall(key, c.Encode())
			good := name == "" || name == "no legs" && gone // another call may have the IDs of one that is over
			if (err == nil) != good {
				t.Errorf("%s, gone %v: %v", name, gone, err)
			}
			if diff := cmp.Diff(c, got, same); err == nil && diff != "" {
				t.Errorf("gone %v (-want +got):\n%s", gone, diff)
			}
		}
	}
	for _, side := range []calls.Side{calls.Initiator, calls.Responder} { // of the kernel's entries half a call may be taken up
		c := Call{Record: kept(1)}
		c.Record.Legs[side] = calls.LegRecord{}
		got, err := DecodeCall(key, c.Encode())
		if diff := cmp.Diff(c, got, same); err != nil || diff != "" {
			t.Errorf("half a call: %v (-want +got):\n%s", err, diff)
		}
	}
	unknown := []byte{99, 0}
	unknown = binary.BigEndian.AppendUint32(unknown, sum(unknown))
	if _, err := DecodeCall(key, unknown); err != ErrUnknown {
		t.Errorf("a kind that is unknown: %v", err)
	}
	if _, err := DecodeCall(key, record.AppendGone(nil, 1, at)); err == nil {
		t.Error("what has ended tells nothing of what it was")
	}
	for name, r := range map[string]calls.Resting{"another key's": {Public: public, Peer: public, ID: 7}, "no ID": {Public: public, Peer: public}} {
		if _, err := DecodeCall(key, record.AppendRest(nil, r)); err == nil {
			t.Errorf("%s is taken for one that rests", name)
		}
	}
}

func TestOwnerAndMember(t *testing.T) {
	o := Owner{"gw-a.example", 1 << 63, 7}
	if got, err := DecodeOwner(o.Encode()); got != o || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "x", "0000000000000001 00000001 ", "0000000000000001 00000001 a b", "000000000000000g 00000001 a", "0000000000000001 0000001 a", "0000000000000001 00000001 a\n", "0000000000000001 00000001 " + strings.Repeat("a", 254)} {
		if got, err := DecodeOwner([]byte(s)); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
	m := Member{Slot: 3, Name: "gw-a", Life: 1 << 63, Version: "v1", Formats: Formats(), Rest: 2 * time.Minute}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeMember(3, b)
	if diff := cmp.Diff(m, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, s := range []string{"", "{}", `{"name":"a b"}`, `{"name":"a"` + strings.Repeat(" ", 4096) + "}"} {
		if got, err := DecodeMember(0, []byte(s)); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

// TestSeat: a gateway gets the slot that it has, else the one it had, else a fresh one, else the
// one that was used longest ago.
func TestSeat(t *testing.T) {
	full := func() (all []Item) {
		for s := range Slots {
			all = append(all, Item{MemberKey(s), fmt.Appendf(nil, `{"name":"m%d"}`, s), 100})
		}
		return all
	}
	for name, tt := range map[string]struct {
		items []Item
		has   int
		want  int
		guard int64
		full  bool
	}{
		"nobody":            {nil, -1, 0, 0, false},
		"one is up":         {[]Item{{"gw/0", []byte(`{"name":"b"}`), 5}}, -1, 1, 0, false},
		"it is up":          {[]Item{{"gw/4", []byte(`{"name":"a"}`), 5}}, -1, 4, 5, false},
		"it was up":         {[]Item{{"slot/9", []byte("a 1800000000000000000"), 5}, {"slot/0", []byte("b"), 1}}, -1, 9, 0, false},
		"it has one":        {[]Item{{"slot/9", []byte("a"), 5}}, 3, 3, 0, false},
		"another has it":    {[]Item{{"gw/3", []byte(`{"name":"b"}`), 5}, {"slot/9", []byte("a"), 5}}, 3, 9, 0, false},
		"a fresh one first": {[]Item{{"slot/0", []byte("b"), 5}, {"slot/1", []byte("c"), 4}}, -1, 2, 0, false},
		"full":              {full(), -1, 0, 0, true},
		"the longest ago":   {append(full()[:14], Item{"slot/e", []byte("x"), 7}, Item{"slot/f", []byte("y"), 6}), -1, 15, 0, false},
	} {
		r := ReadRoster(tt.items)
		slot, guard, ok := r.Seat("a", tt.has)
		if ok == tt.full || ok && (slot != tt.want || guard != Guard{MemberKey(tt.want), tt.guard}) || r.Strange > 0 {
			t.Errorf("%s: slot %d, guard %v, %v; %d strange", name, slot, guard, ok, r.Strange)
		}
	}
}

// TestBreaker: it opens with the first failure, or the third slow wait in ten seconds.
func TestBreaker(t *testing.T) {
	second := func(s float64) time.Time { return at.Add(time.Duration(s * float64(time.Second))) }
	for name, tt := range map[string]struct {
		slow, failed []float64
		open         bool
	}{
		"nothing":              {nil, nil, false},
		"two waits":            {[]float64{0, 1}, nil, false},
		"three in ten seconds": {[]float64{0, 1, 10}, nil, true},
		"three in eleven":      {[]float64{0, 1, 11}, nil, false},
		"the last three count": {[]float64{0, 11, 12, 13}, nil, true},
		"one failure":          {nil, []float64{0}, true},
	} {
		var b Breaker
		for _, s := range tt.slow {
			b.Slow(second(s))
		}
		for _, s := range tt.failed {
			b.Failed(second(s))
		}
		if b.Open() != tt.open {
			t.Errorf("%s: open %v", name, b.Open())
		}
		if last := slices.Max(append(append(tt.slow, tt.failed...), 0)); b.Open() && !b.Until().Equal(second(last+1)) {
			t.Errorf("%s: the next probe is at %v", name, b.Until())
		}
		if b.Worked(); b.Open() || !b.Until().IsZero() {
			t.Errorf("%s: something was written, and it is open", name)
		}
	}
}

// next is what a writer does, without its values.
func next(w *Writer, now time.Time) (work Work, keys []string) {
	work, _, _ = w.Next(now)
	for _, p := range work.Transaction.Puts {
		keys = append(keys, p.Key)
	}
	return work, keys
}

// holding returns a writer that holds the public address, since revision 10.
func holding(t *testing.T) *Writer {
	t.Helper()
	w := NewWriter(Owner{Name: "a", Life: 1}, time.Minute)
	w.Claim(public, 0)
	work, keys := next(w, at)
	if !slices.Equal(keys, []string{OwnerKey(public)}) {
		t.Fatalf("a claim has %v written", keys)
	}
	w.Done(work, Outcome{Mark: Mark{1, 10}}, at)
	w.Add(&Call{Record: kept(9)}, true, at)
	if _, ok, again := w.Next(at.Add(linger)); ok || !again.IsZero() {
		t.Error("it writes although it does not know what others have written")
	}
	w.Begin(public, 1)
	work, _ = next(w, at.Add(linger))
	w.Done(work, Outcome{Mark: Mark{1, 10}}, at)
	return w
}

func keys(numbers ...uint64) (all []string) {
	for _, n := range numbers {
		all = append(all, CallKey{public, n}.String())
	}
	return all
}

// TestParts: all gateways tell alike of which part a connection is, and its key says so.
func TestParts(t *testing.T) {
	for port, want := range map[uint16]string{1024: "c/c6336401.03/0000000000000001", 16384: "c/c6336401.13/0000000000000001", 65535: "c/c6336401.33/0000000000000001"} {
		r := kept(1)
		r.Connection.Reply.Dst = netip.AddrPortFrom(public, port)
		place, _ := PlaceOf(&r.Connection, 4)
		key := CallKey{place, 1}
		if key.String() != want {
			t.Errorf("port %d: %s", port, key)
		}
		if again, ok := parseCallKey(key.String()[2:]); !ok || again != key {
			t.Errorf("%s is read as %v, %v", key, again, ok)
		}
		if c, err := DecodeCall(key, (&Call{Record: r}).Encode()); err != nil || c.Place != place {
			t.Errorf("%s: %v, %v", key, c.Place, err)
		}
		other := PartOf(public, calls.Share{Of: 4, Mine: shareOf(place).Mine ^ 1})
		if _, err := DecodeCall(CallKey{other, 1}, (&Call{Record: r}).Encode()); err == nil {
			t.Errorf("port %d is taken for one of another part", port)
		}
	}
	for s, ok := range map[string]bool{"": true, "1/2": true, "16/16": true, "0/2": false, "3/2": false, "1/1": false, "1/3": false, "1/32": false, "01/2": false, "1/2 ": false} {
		if _, got := ParseShare(s); got != ok {
			t.Errorf("%q: %v", s, got)
		}
	}
	for _, s := range []string{"c6336401.", "c6336401.0", "c6336401.00", "c6336401.21", "c6336401.02", "c6336401x01", "c6336401.0F"} {
		if a, ok := parseAddr(s); ok {
			t.Errorf("%q is read as %v", s, a)
		}
	}
}

// TestWriter: what a packet waits for goes first; what nobody waits for goes a moment later; each call
// goes once, as it is now.
func TestWriter(t *testing.T) {
	w := holding(t)
	add := func(number uint64, gone, urgent bool) {
		w.Add(&Call{Record: kept(number), Gone: gone, At: at}, urgent, at)
	}
	add(1, true, false)
	if _, ok, again := w.Next(at); ok || !again.Equal(at.Add(linger)) {
		t.Errorf("what nobody waits for goes at once: %v, %v", ok, again)
	}
	add(2, false, true)
	add(2, true, false)
	add(3, false, true)
	work, got := next(w, at)
	if diff := cmp.Diff(keys(2, 3), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if keep := work.Transaction.Puts[0].Keep; keep != time.Minute || work.Transaction.Puts[1].Keep != 0 {
		t.Errorf("what is over is kept for %v", keep)
	}
	if diff := cmp.Diff([]Guard{{OwnerKey(public), 10}}, work.Transaction.Guards); diff != "" {
		t.Errorf("guards (-want +got):\n%s", diff)
	}
	if !w.Urgent() || w.Pending() != 3 || !w.Has(CallKey{public, 1}) {
		t.Error("what is under way is forgotten")
	}
	w.SetRest(time.Hour)
	add(4, false, true)
	add(5, true, false)
	w.Done(work, Outcome{Mark: Mark{1, 11}}, at)
	if work, got = next(w, at.Add(linger)); !slices.Equal(got, keys(4, 1, 5)) || !w.Urgent() || work.Transaction.Puts[2].Keep != time.Hour {
		t.Errorf("then %v, %+v", got, work.Transaction.Puts)
	}
	w.Done(work, Outcome{Mark: Mark{1, 12}}, at)
	add(6, false, false)
	w.Hurry(at)
	if _, got = next(w, at); !slices.Equal(got, keys(6)) {
		t.Errorf("in a hurry %v", got)
	}
}

// TestWriterLingers: what is left of what a writer cannot write yet keeps it from nothing else.
func TestWriterLingers(t *testing.T) {
	w := holding(t)
	w.Add(&Call{Record: kept(1)}, false, at)
	w.Hurry(at)
	w.Add(&Call{Record: kept(1)}, true, at)
	if _, got := next(w, at); !slices.Equal(got, keys(1)) {
		t.Fatalf("%v", got)
	}
	w.Done(Work{}, Outcome{Mark: Mark{1, 11}}, at)
	w.Add(&Call{Record: kept(2)}, false, at)
	w.batch.due = append(w.batch.due, CallKey{public, 1}) // pending no more
	if _, ok, again := w.Next(at); ok || !again.Equal(at.Add(linger)) {
		t.Errorf("writes %v, and looks again at %v", ok, again)
	}
}

// TestWriterFails: what was not written comes again, behind a renewed fence, as it is now.
func TestWriterFails(t *testing.T) {
	w := holding(t)
	w.Add(&Call{Record: kept(1)}, true, at)
	w.Add(&Call{Record: kept(2)}, true, at)
	work, _ := next(w, at)
	later := kept(1)
	later.State = calls.Clearing
	w.Add(&Call{Record: later}, false, at)
	w.Done(work, Outcome{Failed: true}, at)
	if w.Urgent() || !w.Breaker.Open() || w.Add(&Call{Record: kept(3)}, true, at) {
		t.Error("packets wait")
	}
	if _, ok, again := w.Next(at); ok || !again.Equal(at.Add(time.Second)) {
		t.Errorf("the probe comes at %v", again)
	}
	now := at.Add(time.Second)
	work, got := next(w, now)
	if !slices.Equal(got, []string{OwnerKey(public)}) || work.Transaction.Guards[0].Revision != 10 {
		t.Errorf("the probe is %v, guards %v", got, work.Transaction.Guards)
	}
	w.Done(work, Outcome{Mark: Mark{1, 20}}, now)
	work, got = next(w, now.Add(linger))
	slices.Sort(got)
	if !slices.Equal(got, keys(1, 2, 3)) || work.Transaction.Guards[0].Revision != 20 {
		t.Errorf("then %v, guards %v", got, work.Transaction.Guards)
	}
	for _, p := range work.Transaction.Puts {
		if c, err := DecodeCall(CallKey{public, 1}, p.Value); err == nil && c.Record.State != calls.Clearing {
			t.Errorf("the call is written as it was: %v", c.Record.State)
		}
	}
}

// TestWriterFenced: who has lost a public address writes nothing there, and says what the store
// was not told.
func TestWriterFenced(t *testing.T) {
	other := Owner{Name: "b", Life: 2}
	for name, tt := range map[string]struct {
		now            Item
		lost, restored bool
		again          bool
	}{
		"another has taken it":  {Item{OwnerKey(public), other.Encode(), 11}, true, false, false},
		"a late write of ours":  {Item{OwnerKey(public), Owner{"a", 1, 1}.Encode(), 11}, false, false, true},
		"the store is empty":    {Item{OwnerKey(public), nil, 0}, false, true, true},
		"the store is a backup": {Item{OwnerKey(public), other.Encode(), 3}, false, true, true},
		"nobody can read it":    {Item{OwnerKey(public), []byte("?"), 11}, false, false, true},
	} {
		w := holding(t)
		w.Add(&Call{Record: kept(1)}, true, at)
		work, _ := next(w, at)
		r := w.Done(work, Outcome{Fenced: []Item{tt.now}}, at)
		if len(r.Lost) > 0 != tt.lost || r.Restored != tt.restored || w.Claimed(public) == tt.lost {
			t.Errorf("%s: %+v, claimed %v", name, r, w.Claimed(public))
		}
		if dropped := w.Dropped(); tt.lost != slices.Equal(dropped, []CallKey{{public, 1}}) {
			t.Errorf("%s: dropped %v", name, dropped)
		}
		if again := w.Pending() == 1; again != tt.again {
			t.Errorf("%s: written again %v", name, again)
		}
	}
}

// none says of no call that the store is yet to be told of it.
func none(CallKey) bool { return false }

// TestOffers: what could not be written is offered to who has the address: once, but for one that had to
// renew its fence meanwhile.
func TestOffers(t *testing.T) {
	other := Owner{Name: "b", Life: 2}
	owned := func(revision int64) Item { return Item{OwnerKey(public), other.Encode(), revision} }
	by := func(revision int64) func(netip.Addr) Holding {
		return func(netip.Addr) Holding { return Holding{other, revision} }
	}
	call := func(revision int64) Item { return Item{CallKey{public, 1}.String(), []byte("?"), revision} }
	for name, tt := range map[string]struct {
		now   []Item
		again bool
	}{
		"taken":                            {nil, false},
		"the fence was renewed":            {[]Item{owned(12), call(0)}, true},
		"the store knows the call":         {[]Item{owned(11), call(12)}, false},
		"the fence was renewed, and knows": {[]Item{owned(12), call(12)}, true},
	} {
		w := holding(t)
		w.Add(&Call{Record: kept(1)}, true, at)
		work, _ := next(w, at)
		w.Release() // it took too long
		w.Done(work, Outcome{Fenced: []Item{owned(11)}}, at)
		o, ok := w.Offer(by(11))
		if !ok || o.Transaction.Puts[0].Key != keys(1)[0] || o.Transaction.Guards[0] != (Guard{OwnerKey(public), 11}) {
			t.Fatalf("%s: offered %v, %+v", name, ok, o.Transaction)
		}
		if w.Offered(o, tt.now); tt.again {
			if _, ok := w.Offer(by(11)); ok {
				t.Errorf("%s: it is offered again before the watch has told of the fence", name)
			}
		}
		if again, ok := w.Offer(by(12)); ok != tt.again || ok && again.Transaction.Guards[0].Revision != 12 {
			t.Errorf("%s: offered again: %v, %+v", name, ok, again.Transaction)
		}
	}
}

// TestRefused: what a packet still waits for when another gateway takes the address is told to the
// gateway, which holds the packet back, and to nobody else. Nobody waits for anything after that.
func TestRefused(t *testing.T) {
	other := Owner{Name: "b", Life: 2}
	for name, lose := range map[string]func(*Writer, Work){
		"by a guard": func(w *Writer, work Work) {
			w.Done(work, Outcome{Fenced: []Item{{OwnerKey(public), other.Encode(), 11}}}, at)
		},
		"by the watch": func(w *Writer, work Work) { w.Saw(public, other, 11) },
		"a guard, and the watch late": func(w *Writer, work Work) {
			w.Done(work, Outcome{Fenced: []Item{{OwnerKey(public), Owner{"a", 1, 1}.Encode(), 11}}}, at)
			if !w.Urgent() {
				t.Error("nobody waits for what is written again")
			}
			w.Saw(public, other, 12)
		},
	} {
		w := holding(t)
		w.Add(&Call{Record: kept(1)}, true, at)
		work, _ := next(w, at)
		w.Add(&Call{Record: kept(2)}, true, at)
		lose(w, work)
		if w.Urgent() || !w.Release() || w.Release() {
			t.Errorf("%s: a packet waits: %v", name, w.Urgent())
		}
		if o, ok := w.Offer(func(netip.Addr) Holding { return Holding{other, 12} }); ok {
			t.Errorf("%s: offered: %+v", name, o.Transaction)
		}
	}
	w := holding(t)
	w.Add(&Call{Record: kept(1)}, true, at)
	if w.Release() || w.Urgent() || w.Pending() == 0 {
		t.Error("what nobody waits for any more is refused, or waited for, or gone")
	}
}

// TestSlept: a daemon that has not run for a time does not know whether its write was done, and blames
// nobody. Its packets go on waiting, until the fence is renewed, or another gateway has the address.
func TestSlept(t *testing.T) {
	other := Owner{Name: "b", Life: 2}
	for name, lost := range map[string]bool{"still its own": false, "another has it": true} {
		w := holding(t)
		w.Add(&Call{Record: kept(1)}, true, at)
		work, _ := next(w, at)
		w.Done(work, Outcome{Failed: true, Slept: true}, at)
		if w.Breaker.Open() || !w.Urgent() {
			t.Fatalf("%s: broken %v, waits %v", name, w.Breaker.Open(), w.Urgent())
		}
		renewal, renewed := next(w, at)
		if !slices.Equal(renewed, []string{OwnerKey(public)}) {
			t.Fatalf("%s: then %v", name, renewed)
		}
		if lost {
			w.Done(renewal, Outcome{Fenced: []Item{{OwnerKey(public), other.Encode(), 12}}}, at)
		} else {
			w.Done(renewal, Outcome{Mark: Mark{1, 12}}, at)
			if _, got := next(w, at); !slices.Equal(got, keys(1)) {
				t.Errorf("%s: then %v", name, got)
			}
		}
		if refused := w.Release(); refused != lost {
			t.Errorf("%s: refused %v", name, refused)
		}
	}
}

// TestOffersTogether: who takes a public address is told of what it lacks in few transactions, for each has
// it look at all its calls anew. A call that the store knows keeps the others from nothing.
func TestOffersTogether(t *testing.T) {
	other := Owner{Name: "b", Life: 2}
	by := func(netip.Addr) Holding { return Holding{other, 11} }
	w := holding(t)
	const all = 300
	for n := range uint64(all) {
		w.Add(&Call{Record: kept(n + 1), Gone: n%2 == 0, At: at}, false, at)
	}
	w.Saw(public, other, 11)
	told := make(map[string]int)
	offers := 0
	for o, ok := w.Offer(by); ok; o, ok = w.Offer(by) {
		if offers++; len(o.Transaction.Puts) > MaxPuts || len(o.Transaction.Guards) > MaxPuts {
			t.Fatalf("%d changes and %d guards at once", len(o.Transaction.Puts), len(o.Transaction.Guards))
		}
		if last := o.Transaction.Guards[len(o.Transaction.Guards)-1]; offers == 1 { // the store knows this one
			var now []Item
			for _, g := range o.Transaction.Guards {
				now = append(now, Item{Key: g.Key, Revision: g.Revision})
			}
			now[len(now)-1].Revision = 7
			told[last.Key]++
			w.Offered(o, now)
			continue
		}
		for _, p := range o.Transaction.Puts {
			told[p.Key]++
		}
	}
	for key, n := range told {
		if n != 1 {
			t.Errorf("%s is told %d times", key, n)
		}
	}
	if len(told) != all || offers > 5 {
		t.Errorf("%d calls are told in %d transactions", len(told), offers)
	}
}

// TestWriterOverflows: too much is not kept; the writer says that the store lacks it.
func TestWriterOverflows(t *testing.T) {
	w := holding(t)
	w.Breaker.Failed(at)
	for n := range uint64(mostPending + 1) {
		w.Add(&Call{Record: kept(n)}, true, at)
	}
	if w.Pending() > mostPending || !w.Lacking() {
		t.Errorf("%d pending, lacking %v", w.Pending(), w.Lacking())
	}
}

// TestTransactionSize: no transaction has more than etcd takes.
func TestTransactionSize(t *testing.T) {
	w := holding(t)
	for n := range uint64(1000) {
		w.Add(&Call{Record: kept(n)}, n%2 == 0, at)
	}
	total := 0
	for w.Pending() > 0 {
		work, got := next(w, at.Add(linger))
		if total += len(got); len(got) > MaxPuts || len(got) == 0 {
			t.Fatalf("%d puts", len(got))
		}
		w.Done(work, Outcome{Mark: Mark{1, 11}}, at)
	}
	if total != 1000 {
		t.Errorf("%d puts for 1000 calls", total)
	}
}

// TestMirrorDoubts: what the store has lost is over only when its owner has had the time to
// write it again, and has not.
func TestMirrorDoubts(t *testing.T) {
	b := Owner{Name: "b", Life: 2}
	own := func(revision int64) []Item { return []Item{{OwnerKey(public), b.Encode(), revision}} }
	items := func(numbers ...uint64) (all []Item) {
		for _, n := range numbers {
			all = append(all, Item{CallKey{public, n}.String(), (&Call{Record: kept(n)}).Encode(), 50})
		}
		return all
	}
	m := NewMirror(Owner{Name: "a", Life: 1})
	round := func(mark Mark, roster, calls []Item) (gone []uint64, restored bool) {
		_, restored = m.Begin(mark, roster)
		m.Load(calls)
		for _, c := range m.End(mark, restored, none) {
			if c.Kind == Gone {
				gone = append(gone, c.Call.Record.Number)
			}
		}
		return gone, restored
	}
	round(Mark{1, 100}, own(40), items(1, 2))
	if gone, restored := round(Mark{2, 1}, nil, nil); len(gone) > 0 || !restored || m.Doubts() != 2 {
		t.Errorf("gone %v, restored %v", gone, restored)
	}
	if gone, restored := round(Mark{2, 5}, nil, nil); len(gone) > 0 || restored || m.Doubts() != 2 {
		t.Errorf("while the owner is away: gone %v, restored %v", gone, restored)
	}
	if gone, _ := round(Mark{2, 9}, own(7), items(1)); !slices.Equal(gone, []uint64{2}) || m.Doubts() != 0 {
		t.Errorf("when the owner is back: gone %v", gone)
	}
}

// FuzzItem: whatever stands in the store, a gateway takes it in, and what it applies can be
// written and is then the same.
func FuzzItem(f *testing.F) {
	f.Add(CallKey{public, 1}.String(), (&Call{Record: kept(1)}).Encode())
	f.Add(CallKey{public, 1}.String(), (&Call{Record: kept(1), Gone: true, At: at}).Encode())
	rested := Rested(calls.Resting{Public: public, Peer: netip.MustParseAddr("203.0.113.9"), Zone: 3, ID: 7, Until: at})
	f.Add(CallKey{public, rested.Record.Number}.String(), rested.Encode())
	f.Add(OwnerKey(public), Owner{"b", 2, 3}.Encode())
	placed := kept(1)
	part, _ := PlaceOf(&placed.Connection, 4)
	f.Add(CallKey{part, 1}.String(), (&Call{Record: placed}).Encode())
	f.Add(OwnerKey(part), Owner{"b", 2, 3}.Encode())
	f.Add(MemberKey(3), []byte(`{"name":"b"}`))
	f.Add(SlotKey(3), []byte("b"))
	f.Add("c/c6336401/0000000000000001", []byte{})
	f.Add("", []byte{1})
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		m := NewMirror(Owner{Name: "a", Life: 1})
		for _, c := range m.Update([]Item{{key, value, 1}, {key, nil, 2}}) {
			if c.Kind == Owned || c.Call.Record.Legs == [2]calls.LegRecord{} && c.Call.Rests.ID == 0 {
				continue
			}
			k := CallKey{c.Public, c.Call.Record.Number}
			again, err := DecodeCall(k, c.Call.Encode())
			if diff := cmp.Diff(c.Call, again, same, cmp.Comparer(time.Time.Equal)); k.String() != key || err != nil || diff != "" {
				t.Errorf("%s at %s: %v (-read +written and read):\n%s", k, key, err, diff)
			}
		}
		r := ReadRoster([]Item{{key, value, 1}})
		if _, _, ok := r.Seat("a", -1); !ok {
			t.Error("one item fills the cluster")
		}
		if m.Followed() != 0 {
			t.Error("what was deleted is kept")
		}
	})
}

// TestOfferedMeanwhile: what a former owner has written since this gateway has the address is told, also if
// all is just read again; what it wrote before is not.
func TestOfferedMeanwhile(t *testing.T) {
	const numbers = 2 << 56
	me := Owner{Name: "a", Life: 1}
	m := NewMirror(me)
	own := Item{OwnerKey(public), me.Encode(), 5}
	item := func(number uint64, gone bool, revision int64) Item {
		c := Call{Record: kept(numbers | number), Gone: gone, At: at}
		return Item{CallKey{public, numbers | number}.String(), c.Encode(), revision}
	}
	m.Begin(Mark{1, 5}, []Item{own})
	m.Load([]Item{item(1, false, 3), item(2, false, 4)})
	m.End(Mark{1, 5}, false, none)
	m.Begin(Mark{1, 9}, []Item{own})
	told := m.Load([]Item{item(1, true, 4), item(2, true, 6), item(3, false, 4), item(4, false, 7)})
	var got []uint64
	for _, c := range told {
		if !c.Offered {
			t.Errorf("%+v is not offered", c)
		}
		got = append(got, c.Call.Record.Number&0xff)
	}
	if want := []uint64{2, 4}; !slices.Equal(got, want) {
		t.Errorf("calls %v are told, want %v", got, want)
	}
}

// TestUntold: a call that the store never heard of is not written when it is over and its IDs rest no more;
// any other is, for the store may have it.
func TestUntold(t *testing.T) {
	for name, tt := range map[string]struct {
		tried, slow bool
		written     int
	}{
		"its IDs rest":             {false, false, 1},
		"its IDs rest no more":     {false, true, 0},
		"it may have been written": {true, true, 1},
	} {
		w := holding(t)
		w.Open(&Call{Record: kept(1)}, true, at)
		now := at
		if tt.tried {
			work, _ := next(w, now)
			w.Done(work, Outcome{Failed: true}, now)
			now = now.Add(probeEvery)
			work, _ = next(w, now) // the fence is renewed
			w.Done(work, Outcome{Mark: Mark{1, 20}}, now)
		}
		w.Add(&Call{Record: kept(1), Gone: true, At: now}, false, now)
		if now = now.Add(linger); tt.slow {
			now = now.Add(time.Minute)
		}
		if work, _ := next(w, now); len(work.Transaction.Puts) != tt.written {
			t.Errorf("%s: %d writes", name, len(work.Transaction.Puts))
		}
		if w.Pending() != tt.written {
			t.Errorf("%s: %d pending", name, w.Pending())
		}
	}
}

// TestTidy: while the store does not answer, what comes and goes meanwhile takes no room for ever.
func TestTidy(t *testing.T) {
	w := holding(t)
	w.Breaker.Failed(at)
	now := at
	for n := range uint64(2 * mostPending) {
		w.Open(&Call{Record: kept(n + 1)}, false, now)
		w.Add(&Call{Record: kept(n + 1), Gone: true, At: now}, false, now)
		now = now.Add(4 * time.Minute / mostPending)
	}
	if w.Lacking() || w.Pending() > mostPending || len(w.batch.behind) > mostPending {
		t.Errorf("lacking: %v, %d pending, %d in order", w.Lacking(), w.Pending(), len(w.batch.behind))
	}
	for n := range uint64(mostPending) {
		w.Open(&Call{Record: kept(n + 1)}, false, now)
	}
	if !w.Lacking() {
		t.Error("nothing is given up although all is of use")
	}
}
