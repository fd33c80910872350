package cluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/memory"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// world is some gateways over one shared store, of which one step happens at a time.
type world struct {
	*rapid.T
	m       *memory.Memory
	now     time.Time
	boxes   []*box
	version uint32 // of the last thing that happened to a call
	lives   uint64
	acks    []ack // what somebody was told of, because the store had it
}

// ack is a version of a call that the store has had since a revision.
type ack struct {
	key      state.CallKey
	version  uint32
	revision int64
}

// box is a gateway. The mark of a call's connection is the version of the call.
type box struct {
	w      *world
	name   string
	slot   uint8 // its calls are numbered from it
	me     state.Owner
	link   *memory.Link
	writer *state.Writer
	mirror *state.Mirror
	table  map[state.CallKey]state.Call
	passed map[state.CallKey]bool // calls whose packets have gone on before the store knew of them, and that live
	has    map[netip.Addr]bool    // its addresses
	owns   map[netip.Addr]bool    // those whose barrier has passed
}

var publics = []netip.Addr{publicP, publicQ}

// TestInterleavings: whatever the order of commits, late and lost ones, watches, compactions,
// crashes and takeovers, a new owner knows all that was acknowledged, when it owns the
// address; nobody forgets a call that it has let pass; and in the end all know the same.
func TestInterleavings(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("20000") // a second
	}
	rapid.Check(t, interleave)
}

// FuzzInterleavings is TestInterleavings for a fuzzer.
func FuzzInterleavings(f *testing.F) { f.Fuzz(rapid.MakeFuzz(interleave)) }

func interleave(rt *rapid.T) {
	w := &world{T: rt, m: memory.New(), now: time.Unix(1_800_000_000, 0)}
	for i := range 3 {
		b := &box{w: w, name: fmt.Sprint("g", i), slot: uint8(i + 1), link: w.m.Open()}
		b.start()
		w.boxes = append(w.boxes, b)
	}
	steps := map[string]func(*box){
		"happen": (*box).happen, "write": (*box).write, "follow": (*box).follow, "claim": (*box).claim, "yield": (*box).yield, "crash": (*box).start, "load": (*box).load,
		"offer": func(b *box) { b.offer() }, "compare": func(b *box) { b.compare() },
		"compact": func(*box) { w.m.Compact() }, "arrive": func(*box) { w.m.Arrive() },
	}
	names := []string{"happen", "happen", "write", "write", "write", "follow", "follow", "follow", "claim", "claim", "yield", "crash", "load", "compact", "arrive", "offer", "compare"}
	for range rapid.IntRange(1, 150).Draw(rt, "steps") {
		b := w.boxes[rapid.IntRange(0, 2).Draw(rt, "gateway")]
		steps[rapid.SampledFrom(names).Draw(rt, "step")](b)
	}
	w.settle()
}

// start begins a new life, of which nothing of the one before is known.
func (b *box) start() {
	b.w.lives++
	b.me = state.Owner{Name: b.name, Life: b.w.lives}
	b.writer, b.mirror = state.NewWriter(b.me, time.Minute), state.NewMirror(b.me)
	b.mirror.Number(b.slot)
	b.passed = map[state.CallKey]bool{}
	b.table, b.has, b.owns = map[state.CallKey]state.Call{}, map[netip.Addr]bool{}, map[netip.Addr]bool{}
	b.load()
}

// load reads all.
func (b *box) load() {
	ctx := context.Background()
	roster, mark, err := b.link.Roster(ctx)
	if err != nil {
		b.w.Fatal(err)
	}
	changes, restored := b.mirror.Begin(mark, roster)
	if restored {
		b.w.Fatal("nothing was lost")
	}
	lost := b.apply(changes)
	if err := b.link.Load(ctx, mark, func(items []state.Item) { b.apply(b.mirror.Load(items)) }); err != nil {
		b.w.Fatal(err)
	}
	if b.apply(b.mirror.End(mark, false, b.writer.Untold())) || lost {
		b.load()
	}
}

// apply takes in changes and reports whether an address was lost.
func (b *box) apply(changes []state.Change) (lost bool) {
	for _, c := range b.writer.News(changes) {
		key := state.CallKey{Public: c.Public, Number: c.Call.Record.Number}
		_, has := b.table[key]
		switch c.Kind {
		case state.Kept:
			if !c.Offered || !has { // else it has written it itself
				b.table[key] = c.Call
			}
		case state.Gone:
			if c.Offered { // it ends here, too, which is written
				b.writer.Add(&c.Call, false, b.w.now)
			}
			if c.Call.At.IsZero() && b.passed[key] {
				b.w.Fatalf("%s forgets call %x", b.name, key.Number)
			}
			delete(b.passed, key)
			if b.table[key] = c.Call; c.Call.At.IsZero() {
				delete(b.table, key)
			}
		case state.Owned:
			lost = b.owned(c) || lost
		}
	}
	return lost
}

// owned is what a gateway does when it is told who owns an address. When that is itself, it
// must know all that was acknowledged before it took it. If another has taken it since, that
// is told later, and what this one writes until then is fenced.
func (b *box) owned(c state.Change) (lost bool) {
	holding := b.mirror.Owner(c.Public)
	b.writer.Saw(c.Public, holding.Owner, holding.Revision)
	if c.From.Is(b.me) && !c.Mine {
		b.writer.Lost(c.Public)
		lost = true
	}
	b.mirror.Doubt(b.writer.Dropped()...)
	if !c.Mine {
		b.owns[c.Public] = false
		return lost
	}
	b.writer.Begin(c.Public, c.To.Term)
	b.writer.Suspect()
	for _, a := range b.w.acks {
		call := b.table[a.key]
		has := call.Record.Connection.Mark
		if a.key.Public == c.Public && a.revision < holding.Revision && a.version > has && !call.Gone {
			b.w.Fatalf("%s owns %v since revision %d, and has version %d of call %d: version %d was acknowledged in revision %d",
				b.name, c.Public, holding.Revision, has, a.key.Number, a.version, a.revision)
		}
	}
	b.owns[c.Public] = b.has[c.Public]
	return lost
}

func (b *box) claim() {
	public := publics[rapid.IntRange(0, 1).Draw(b.w.T, "public")]
	b.has[public] = true
	b.writer.Claim(public, b.mirror.Owner(public).Revision)
}

func (b *box) yield() {
	public := publics[rapid.IntRange(0, 1).Draw(b.w.T, "public")]
	b.has[public], b.owns[public] = false, false
	b.writer.Yield(public)
}

// numbers are those of the calls.
var numbers = []uint64{1<<56 | 1, 1<<56 | 2, 2<<56 | 1, 2<<56 | 2, 3<<56 | 1, 3<<56 | 2}

// happen has something happen to a call, or a new one that has a number of the gateway's.
func (b *box) happen() {
	public := publics[rapid.IntRange(0, 1).Draw(b.w.T, "public")]
	if !b.owns[public] {
		return
	}
	number := rapid.SampledFrom(numbers).Draw(b.w.T, "call")
	c := state.Call{Record: record(public, number), At: b.w.now}
	key := state.CallKey{Public: public, Number: number}
	if had, there := b.table[key]; had.Gone || !there && uint8(number>>56) != b.slot {
		return
	}
	b.w.version++
	c.Record.Connection.Mark = b.w.version
	c.Gone = rapid.IntRange(0, 3).Draw(b.w.T, "gone") == 0
	b.table[key] = c
	if !b.writer.Claimed(public) {
		b.mirror.Doubt(key) // it was lost, and is not told yet
	}
	b.writer.Add(&c, true, b.w.now)
	delete(b.passed, key)
	if rapid.Bool().Draw(b.w.T, "waits in vain") {
		b.writer.Release()
		b.passed[key] = !c.Gone && b.writer.Claimed(public)
	}
}

// offer offers what was not written to who owns the address now.
func (b *box) offer() (did bool) {
	o, ok := b.writer.Offer(b.mirror.Owner)
	if !ok {
		return false
	}
	_, err := b.link.Commit(context.Background(), o.Transaction)
	if fenced := (*cluster.Fenced)(nil); errors.As(err, &fenced) {
		b.writer.Offered(o, fenced.Now)
		b.doubt()
	} else if err != nil {
		b.w.Fatal(err)
	}
	return true
}

// compare writes what the shared store lacks below this gateway's addresses.
func (b *box) compare() (did bool) {
	if !b.writer.Suspected() || !b.writer.Settled() {
		return false
	}
	b.writer.Restore()
	for key, c := range b.table {
		if b.owns[key.Public] && !b.mirror.Has(key, c.Encode()) {
			b.writer.Add(&c, false, b.w.now)
		}
	}
	for public, owns := range b.owns {
		for _, key := range b.mirror.Living(public) {
			if _, there := b.table[key]; owns && !there && !b.writer.Has(key) {
				b.writer.Delete(key, b.w.now)
			}
		}
		if owns {
			b.writer.Withdraw(public)
		}
	}
	return true
}

func (b *box) doubt() {
	if dropped := b.writer.Dropped(); len(dropped) > 0 {
		b.mirror.Doubt(dropped...)
		b.load()
	}
}

// fates are what becomes of a transaction.
var fates = map[string]memory.Faults{"done": {}, "lost": {Err: memory.ErrDown}, "late": {Late: true}}

// write does the next transaction: it is done, or never, or later.
func (b *box) write() {
	b.writeAs(fates[rapid.SampledFrom([]string{"done", "done", "done", "lost", "late"}).Draw(b.w.T, "fate")])
}

func (b *box) writeAs(fate memory.Faults) (did bool) {
	b.w.now = b.w.now.Add(time.Hour)
	work, ok, _ := b.writer.Next(b.w.now)
	if !ok {
		return false
	}
	b.link.Set(fate)
	mark, err := b.link.Commit(context.Background(), work.Transaction)
	b.link.Set(memory.Faults{})
	var fenced *cluster.Fenced
	outcome := state.Outcome{Mark: mark}
	switch {
	case errors.As(err, &fenced):
		outcome.Fenced = fenced.Now
	case err != nil:
		outcome.Failed = true
	}
	if r := b.writer.Done(work, outcome, b.w.now); r.Restored {
		b.w.Fatal("nothing was lost")
	}
	b.doubt()
	if err == nil {
		b.w.acknowledged(work.Transaction.Puts, mark.Revision)
	}
	return true
}

func (w *world) acknowledged(puts []state.Put, revision int64) {
	for _, p := range puts {
		if key, c, ok := call(state.Item{Key: p.Key, Value: p.Value}); ok {
			w.acks = append(w.acks, ack{key, c.Record.Connection.Mark, revision})
		}
	}
}

// call reads the item of a call.
func call(it state.Item) (key state.CallKey, c state.Call, ok bool) {
	if !strings.HasPrefix(it.Key, state.CallSection) {
		return state.CallKey{}, state.Call{}, false
	}
	for _, key.Public = range publics {
		for _, key.Number = range numbers {
			if key.String() == it.Key {
				c, err := state.DecodeCall(key, it.Value)
				return key, c, err == nil
			}
		}
	}
	return state.CallKey{}, state.Call{}, false
}

// follow takes in the next revision, if there is one.
func (b *box) follow() { b.followed() }

func (b *box) followed() (did bool) {
	mark := b.mirror.Mark()
	if b.w.m.Mark() == mark {
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lost, seen := false, false
	err := b.link.Watch(ctx, mark, func(items []state.Item) {
		if !seen {
			lost = b.apply(b.mirror.Update(items))
		}
		seen = true
		cancel()
	})
	if lost || errors.Is(err, cluster.ErrCompacted) {
		b.load()
	}
	return true
}

// version returns a call's version, and 0 if the call is over: two gateways may say so, each with its own version.
func version(c state.Call) uint32 {
	if c.Gone {
		return 0
	}
	return c.Record.Connection.Mark
}

// settle lets all that is under way come to its end. Then all gateways know the same.
func (w *world) settle() {
	w.m.Arrive()
	for again := true; again; {
		again = false
		for _, b := range w.boxes {
			for b.writeAs(memory.Faults{}) || b.followed() || b.offer() || b.compare() {
				again = true
			}
		}
	}
	want := map[state.CallKey]uint32{}
	for _, it := range w.m.Items() {
		if key, c, ok := call(it); ok {
			want[key] = version(c)
		}
	}
	for _, b := range w.boxes {
		got, untold := map[state.CallKey]uint32{}, b.writer.Untold()
		for key, c := range b.table {
			is, there := want[key]
			switch news := b.writer.News([]state.Change{{Kind: state.Kept, Public: key.Public, Call: c}}); {
			case !there && untold(key): // it waits until somebody has the address
			case c.Gone && len(news) == 0: // its end does
				got[key] = is
			default:
				got[key] = version(c)
			}
		}
		if !maps.Equal(got, want) {
			w.Fatalf("in the end %s has %v, the store %v", b.name, got, want)
		}
	}
}
