package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/memory"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	publicP = netip.MustParseAddr("198.51.100.1")
	publicQ = netip.MustParseAddr("198.51.100.2")
)

// record is a call of a client behind a public address.
func record(public netip.Addr, number uint64) calls.Record {
	n := byte(number)
	server := netip.MustParseAddrPort("203.0.113.9:1723")
	return calls.Record{
		Number: number, State: calls.Requested, Since: time.Unix(1_800_000_000, 0),
		Connection: calls.Connection{
			Original: calls.Tuple{Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 4000), Dst: server},
			Reply:    calls.Tuple{Src: server, Dst: netip.AddrPortFrom(public, 4000)},
		},
		Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: 256 + 7}, {}},
	}
}

func event(kind calls.EventKind, r calls.Record) []calls.Event {
	switch kind {
	case calls.Assigned:
		r.State = calls.Answered
	case calls.SetUp:
		r.State = calls.Established
	case calls.Closed, calls.Gone:
		r.State = calls.Clearing
	}
	return []calls.Event{{Kind: kind, Call: r}}
}

// journal is a store of a gateway's own that remembers nothing.
type journal struct{}

func (journal) Append([]calls.Event, time.Time) error         { return nil }
func (journal) Rewrite([]calls.Record, []calls.Resting) error { return nil }
func (journal) Overgrown() bool                               { return false }
func (journal) Whole() bool                                   { return true }
func (journal) Close() error                                  { return nil }

// gateway is a store and what it has told.
type gateway struct {
	t     *testing.T
	name  string
	link  *memory.Link
	store *cluster.Store
	stop  func()

	mu    sync.Mutex
	table map[uint64]calls.State
	owns  map[netip.Addr]bool
	lost  []netip.Addr
	gone  map[uint64]state.Call
	slot  int
	whole int
	waits int                     // only the test's goroutine uses it
	own   map[uint64]calls.Record // only the test's goroutine uses it
}

var lives uint64

func start(t *testing.T, m *memory.Memory, name string) *gateway {
	t.Helper()
	lives++
	g := &gateway{t: t, name: name, link: m.Open(), table: map[uint64]calls.State{}, owns: map[netip.Addr]bool{}, gone: map[uint64]state.Call{}, own: map[uint64]calls.Record{}}
	g.store = cluster.New(journal{}, g.link, cluster.Config{
		Member: state.Member{Name: name, Life: lives}, Rest: 2 * time.Minute, Wait: 2 * time.Second,
		Apply: g.apply, Waited: func(time.Duration) { g.waits++ }, Joined: func(slot int) { g.read(func() bool { g.slot = slot; return true })() }, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- g.store.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, g.store.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(g.stop)
	g.until("is loaded and a member", func() bool { s := g.store.Status(); return s.Loaded && s.Joined })
	return g
}

func (g *gateway) apply(b cluster.Batch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b.Whole {
		g.whole++
	}
	for _, c := range b.Changes {
		switch number := c.Call.Record.Number; c.Kind {
		case state.Kept:
			g.table[number] = c.Call.Record.State
		case state.Gone:
			delete(g.table, number)
			g.gone[number] = c.Call
		case state.Owned:
			if g.owns[c.Public] && !c.Mine {
				g.lost = append(g.lost, c.Public)
			}
			g.owns[c.Public] = c.Mine
		}
	}
}

// until waits for what must come.
func (g *gateway) until(what string, ok func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: never: %s; %+v", g.name, what, g.store.Status())
		}
	}
}

func (g *gateway) read(f func() bool) func() bool {
	return func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return f()
	}
}

func (g *gateway) claim(public netip.Addr) {
	g.t.Helper()
	g.store.Claim(public)
	g.until("owns "+public.String(), g.read(func() bool { return g.owns[public] }))
	g.shrink()
}

// shrink is what a gateway does now and then.
func (g *gateway) shrink() {
	g.t.Helper()
	if r := g.store.Repair(); r != nil {
		now := time.Now()
		for some := range slices.Chunk(slices.Collect(maps.Values(g.own)), 2) {
			r.Have(some, now)
		}
		r.End(nil, func(netip.Addr) bool { return true }, now)
	}
}

func (g *gateway) append(events ...[]calls.Event) {
	g.t.Helper()
	for _, e := range events {
		if g.own[e[0].Call.Number] = e[0].Call; e[0].Kind == calls.Gone {
			delete(g.own, e[0].Call.Number)
		}
		if err := g.store.Append(e, time.Unix(1_800_000_100, 0)); err != nil {
			g.t.Error(err)
		}
	}
}

func (g *gateway) has(want map[uint64]calls.State) func() bool {
	return g.read(func() bool { return maps.Equal(g.table, want) })
}

// TestFollowed: what one gateway does is at the other, and is in the store when Append has
// returned.
func TestFollowed(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	r := record(publicP, 1)
	a.append(event(calls.Opened, r))
	key := state.CallKey{Public: publicP, Number: 1}.String()
	if _, there := m.Items()[key]; !there {
		t.Error("the packet goes before the store knows of the call")
	}
	b.until("follows", b.has(map[uint64]calls.State{1: calls.Requested}))
	a.append(event(calls.Assigned, r), event(calls.SetUp, r))
	b.until("follows", b.has(map[uint64]calls.State{1: calls.Established}))
	a.append(event(calls.Closed, r), event(calls.Gone, r))
	b.until("follows", b.has(map[uint64]calls.State{}))
	b.until("knows what rests", b.read(func() bool {
		c := b.gone[1]
		return c.Record.Legs == r.Legs && c.At.Equal(time.Unix(1_800_000_100, 0))
	}))
	c := start(t, m, "c")
	c.until("knows what rests", c.read(func() bool { return c.gone[1].Record.Legs == r.Legs }))
	if len(a.table) != 0 {
		t.Error("a gateway is told of its own calls")
	}
	if slots := []int{a.slot, b.slot, c.slot}; !slices.Equal(slots, []int{0, 1, 2}) {
		t.Errorf("slots %v", slots)
	}
}

// TestNotShared: calls that NAT does not touch, and those of others' addresses, are not
// shared.
func TestNotShared(t *testing.T) {
	m := memory.New()
	a := start(t, m, "a")
	a.claim(publicP)
	plain := record(publicP, 1)
	plain.Connection.Reply = plain.Connection.Original.Reversed()
	a.append(event(calls.Opened, plain), event(calls.Opened, record(publicQ, 2)), event(calls.Opened, record(publicP, 3)))
	for key := range m.Items() {
		if k := (state.CallKey{Public: publicP, Number: 3}).String(); key[0] == 'c' && key != k {
			t.Errorf("%s is shared", key)
		}
	}
}

// TestTakeover: the new owner has all that the former one was told is kept, before it owns the
// address; the former one is told, and writes no more.
func TestTakeover(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	want := map[uint64]calls.State{}
	for n := uint64(1); n <= 300; n++ {
		a.append(event(calls.Opened, record(publicP, n)))
		want[n] = calls.Requested
	}
	b.claim(publicP)
	if !b.has(want)() {
		t.Errorf("%d calls at the barrier", len(b.table))
	}
	if err := a.store.Append(event(calls.Opened, record(publicP, 301)), time.Now()); !errors.Is(err, store.ErrElsewhere) {
		t.Errorf("the former owner is told: %v", err)
	}
	if _, there := m.Items()[state.CallKey{Public: publicP, Number: 301}.String()]; there {
		t.Error("the former owner writes")
	}
	a.until("has lost the address", a.read(func() bool { return slices.Equal(a.lost, []netip.Addr{publicP}) }))
	b.append(event(calls.SetUp, record(publicP, 1)))
	a.until("follows", a.read(func() bool { return a.table[1] == calls.Established }))
	a.claim(publicP)
	b.until("has lost the address", b.read(func() bool { return len(b.lost) == 1 }))
}

// TestBackBeforeTold: a gateway has lost an address, has not written what a call has become, and owns the
// address again before it is told what the call was: the store gets it.
func TestBackBeforeTold(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	r := record(publicP, 1)
	a.append(event(calls.Opened, r))
	a.link.Set(memory.Faults{Deaf: true})
	b.claim(publicP)
	is := event(calls.SetUp, r)
	if err := a.store.Append(is, time.Now()); !errors.Is(err, store.ErrElsewhere) {
		t.Fatalf("the former owner is told: %v", err)
	}
	a.own[1] = is[0].Call
	a.store.Claim(publicP)
	a.link.Set(memory.Faults{})
	b.until("has what the call has become", func() bool {
		a.shrink()
		return b.has(map[uint64]calls.State{1: calls.Established})()
	})
}

// TestYield: what is pending when a gateway gives an address away is written, unless another has
// taken it.
func TestYield(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	a.append(event(calls.Opened, record(publicP, 1)), event(calls.Closed, record(publicP, 1)))
	a.store.Yield(publicP)
	b.until("follows", b.has(map[uint64]calls.State{1: calls.Clearing}))
	if err := a.store.Append(event(calls.Opened, record(publicP, 2)), time.Now()); !errors.Is(err, store.ErrElsewhere) {
		t.Errorf("what comes afterwards: %v", err)
	}
	a.claim(publicP)
	a.append(event(calls.Opened, record(publicP, 3)))
	b.until("follows", b.read(func() bool { _, has := b.table[3]; return has }))
	if len(a.lost) > 0 {
		t.Errorf("lost %v", a.lost)
	}
}

// TestDown: when the store fails, nothing waits; when it is back, it gets all.
func TestDown(t *testing.T) {
	for name, fault := range map[string]memory.Faults{"refuses": {Err: memory.ErrDown}, "hangs": {Hang: true}} {
		t.Run(name, func(t *testing.T) {
			m := memory.New()
			a, b := start(t, m, "a"), start(t, m, "b")
			a.claim(publicP)
			a.append(event(calls.Opened, record(publicP, 1)))
			a.link.Set(fault)
			a.append(event(calls.SetUp, record(publicP, 1)), event(calls.Opened, record(publicP, 2)))
			a.until("is degraded", func() bool { return a.store.Status().Broken && !a.store.Whole() })
			waits := a.waits
			for n := uint64(3); n < 100; n++ {
				a.append(event(calls.Opened, record(publicP, n)))
			}
			if a.waits != waits {
				t.Errorf("%d packets have waited", a.waits-waits)
			}
			a.store.Claim(publicQ)
			a.append(event(calls.Opened, record(publicQ, 1000)))
			a.link.Set(memory.Faults{})
			b.until("has all", b.read(func() bool { return len(b.table) == 100 && b.table[1] == calls.Established }))
			a.until("owns the other", a.read(func() bool { return a.owns[publicQ] }))
		})
	}
}

// TestLateWrite: a write that the gateway was told has failed, and that arrives behind a later
// one, changes nothing.
func TestLateWrite(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	r := record(publicP, 1)
	a.append(event(calls.Opened, r))
	a.link.Set(memory.Faults{Late: true})
	a.append(event(calls.Assigned, r))
	a.until("is degraded", func() bool { return a.store.Status().Broken })
	a.link.Set(memory.Faults{})
	a.append(event(calls.SetUp, r))
	b.until("follows", b.has(map[uint64]calls.State{1: calls.Established}))
	if done := m.Arrive(); done != 0 {
		t.Errorf("%d late writes were done", done)
	}
}

// TestCompacted: a gateway that has missed what the store has forgotten finds the difference.
func TestCompacted(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	a.append(event(calls.Opened, record(publicP, 1)), event(calls.Opened, record(publicP, 2)), event(calls.Opened, record(publicP, 3)))
	b.until("follows", b.has(map[uint64]calls.State{1: 0, 2: 0, 3: 0}))
	b.link.Set(memory.Faults{Err: memory.ErrDown})
	a.append(event(calls.SetUp, record(publicP, 1)), event(calls.Gone, record(publicP, 2)), event(calls.Opened, record(publicP, 4)))
	a.until("has written all", func() bool { return a.store.Status().Pending == 0 })
	m.Write(state.Put{Key: state.CallKey{Public: publicP, Number: 3}.String()}) // its lease is over
	m.Compact()
	b.link.Set(memory.Faults{})
	b.until("knows the difference", b.has(map[uint64]calls.State{1: calls.Established, 4: 0}))
	if !b.read(func() bool { return len(b.gone) == 2 && b.gone[2].Record.Legs[0].Known && b.gone[3].Record.Number == 3 })() {
		t.Errorf("gone: %v", b.gone)
	}
}

// TestRestored: whatever the store has lost, its owners write it again, and no call ends.
func TestRestored(t *testing.T) {
	for _, early := range []bool{true, false} {
		m := memory.New()
		backup := memory.Backup{}
		a, b := start(t, m, "a"), start(t, m, "b")
		a.claim(publicP)
		b.claim(publicQ)
		if !early {
			a.append(event(calls.Opened, record(publicP, 1)), event(calls.Opened, record(publicP, 9)))
			backup = m.Backup()
		}
		a.append(event(calls.SetUp, record(publicP, 1)), event(calls.Gone, record(publicP, 9)))
		b.append(event(calls.SetUp, record(publicQ, 2)))
		b.until("follows", b.has(map[uint64]calls.State{1: calls.Established}))
		a.until("follows", a.has(map[uint64]calls.State{2: calls.Established}))
		a.until("has written all", func() bool { return a.store.Status().Pending == 0 })
		m.Restore(backup)
		for _, g := range []*gateway{a, b} {
			g.until("is whole", func() bool { g.shrink(); return g.store.Status().Reloads > 1 && g.store.Whole() })
			g.until("is a member", func() bool { return g.store.Status().Joined })
		}
		c := start(t, m, "c")
		c.until("has all", c.has(map[uint64]calls.State{1: calls.Established, 2: calls.Established}))
		b.until("follows", b.has(map[uint64]calls.State{1: calls.Established}))
		if len(a.lost)+len(b.lost) > 0 || !a.has(map[uint64]calls.State{2: calls.Established})() {
			t.Errorf("backup %v: lost %v, %v; a has %v", !early, a.lost, b.lost, a.table)
		}
		for _, g := range []*gateway{a, b, c} {
			g.stop()
		}
	}
}

// TestLeaseLost: a gateway whose lease is gone joins again, under its slot; nothing ends, and packets go on
// waiting for the store: others may have taken everything over meanwhile.
func TestLeaseLost(t *testing.T) {
	m := memory.New()
	start(t, m, "a")
	b := start(t, m, "b")
	b.claim(publicP)
	m.Expire()
	broken := false
	b.until("reads all again", func() bool { s := b.store.Status(); broken = broken || s.Broken; return s.Reloads > 1 })
	b.until("is a member", func() bool { s := b.store.Status(); return s.Joined && !s.Degraded && len(s.Members) == 2 })
	if broken {
		t.Error("packets did not wait")
	}
	if b.slot != 1 || len(b.lost) > 0 {
		t.Errorf("slot %d, lost %v", b.slot, b.lost)
	}
}

// TestSameName: of two gateways with one name the first moves to another slot, so that no two
// calls get one number.
func TestSameName(t *testing.T) {
	m := memory.New()
	a := start(t, m, "a")
	b := start(t, m, "a")
	a.until("moves", func() bool { s := a.store.Status(); return s.SameName && s.Joined && s.Slot == 1 })
	if b.slot != 0 || len(m.Items()) != 2+2 {
		t.Errorf("slot %d, %v", b.slot, m.Items())
	}
}

// TestDied: a gateway that comes back offers what the store lacks of its addresses, and is told
// of all.
func TestDied(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	a.append(event(calls.Opened, record(publicP, 1)), event(calls.Opened, record(publicP, 2)))
	a.stop()
	again := start(t, m, "a")
	again.until("is told of its own calls", again.has(map[uint64]calls.State{1: 0, 2: 0}))
	again.own[1], again.own[3] = record(publicP, 1), record(publicP, 3) // it knows 3 of its journal, and has found the end of 2
	again.claim(publicP)
	again.until("offers", func() bool { again.shrink(); return again.store.Whole() })
	b.until("follows", b.has(map[uint64]calls.State{1: 0, 3: 0}))
	if again.slot != 0 {
		t.Errorf("slot %d", again.slot)
	}
}

// TestHostile: values that make no sense are counted and change nothing.
func TestHostile(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	good := state.Call{Record: record(publicP, 1)}
	m.Write(
		state.Put{Key: "c/c6336401/0000000000000002", Value: good.Encode()},
		state.Put{Key: "c/c6336402/0000000000000001", Value: good.Encode()},
		state.Put{Key: "c/c6336401/1", Value: good.Encode()},
		state.Put{Key: "c/C6336401/0000000000000001", Value: good.Encode()},
		state.Put{Key: "own/c6336401", Value: []byte("x")},
		state.Put{Key: "own/00000000", Value: state.Owner{Name: "x"}.Encode()},
		state.Put{Key: "gw/10", Value: []byte("{}")},
		state.Put{Key: "gw/f", Value: []byte("{}")},
		state.Put{Key: "?", Value: []byte("{}")},
	)
	b.until("has counted", func() bool { return b.store.Status().Strange == 9 })
	a.append(event(calls.Opened, record(publicP, 3)))
	b.until("follows", b.has(map[uint64]calls.State{3: 0}))
	if len(b.store.Status().Owners) != 1 {
		t.Errorf("owners %v", b.store.Status().Owners)
	}
}

// TestTakenWhileRead: a gateway yields an address and takes it anew while all is read again. The
// watch does not tell of it then; what is read does.
func TestTakenWhileRead(t *testing.T) {
	m := memory.New()
	a := start(t, m, "a")
	a.claim(publicP)
	a.append(event(calls.Opened, record(publicP, 1)))
	a.link.Set(memory.Faults{Deaf: true})
	a.read(func() bool { a.owns[publicP] = false; return true })()
	taken := func() int64 { return m.Items()[state.OwnerKey(publicP)].Revision }
	before := taken()
	a.store.Yield(publicP)
	a.store.Claim(publicP)
	a.until("has taken it anew", func() bool { return taken() > before })
	reloads := a.store.Status().Reloads
	m.Compact()
	a.link.Set(memory.Faults{})
	a.until("has read all", func() bool { return a.store.Status().Reloads > reloads })
	a.until("owns it", a.read(func() bool { return a.owns[publicP] }))
	if a.read(func() bool { return len(a.table) > 0 })() {
		t.Error("its own call is told as another's")
	}
}

// TestFlushTries: what is pending of an address that goes is written, although the shared store did
// not answer a moment ago.
func TestFlushTries(t *testing.T) {
	m := memory.New()
	a, b := start(t, m, "a"), start(t, m, "b")
	a.claim(publicP)
	a.link.Set(memory.Faults{Err: memory.ErrDown})
	a.append(event(calls.Opened, record(publicP, 1)))
	a.until("is degraded", func() bool { return a.store.Status().Broken })
	a.link.Set(memory.Faults{})
	a.store.Flush(publicP)
	a.store.Yield(publicP)
	if n := a.store.Status().Pending; n != 0 {
		t.Errorf("%d calls are pending", n)
	}
	b.claim(publicP)
	b.until("has it", b.has(map[uint64]calls.State{1: calls.Requested}))
}

// TestHearsNothing: a gateway that the store answers and that hears of nothing is degraded, or at
// least lags, also if nobody writes anything but itself.
func TestHearsNothing(t *testing.T) {
	m := memory.New()
	a := start(t, m, "a")
	a.link.Set(memory.Faults{Watch: memory.ErrDown})
	a.until("is degraded", func() bool { st := a.store.Status(); return st.Degraded && !st.Broken && st.LastFailure != nil })
	a.link.Set(memory.Faults{})
	a.until("hears again", func() bool { return !a.store.Status().Degraded })
	a.link.Set(memory.Faults{Deaf: true})
	a.until("lags", func() bool { return a.store.Status().Lag > 0 })
	a.link.Set(memory.Faults{})
	a.until("does not lag", func() bool { st := a.store.Status(); return st.Lag == 0 && !st.Degraded })
}

// TestRepairInSlices: what happens to calls while the shared store is told what it lacks is not undone by
// that; and if the address changes hands meanwhile, nothing is deleted, and all is compared again.
func TestRepairInSlices(t *testing.T) {
	for name, moves := range map[string]bool{"stays": false, "moves": true} {
		t.Run(name, func(t *testing.T) {
			m := memory.New()
			a := start(t, m, "a")
			a.claim(publicP)
			for n := range uint64(4) {
				a.append(event(calls.SetUp, record(publicP, n+1)))
			}
			backup := m.Backup()
			a.append(event(calls.Gone, record(publicP, 1)), event(calls.SetUp, record(publicP, 5)))
			a.until("has written all", func() bool { return a.store.Status().Pending == 0 })
			m.Restore(backup)
			var r *cluster.Repair
			a.until("knows that the store lacks something", func() bool { r = a.store.Repair(); return r != nil })
			now := time.Now()
			r.Have([]calls.Record{a.own[5], a.own[2]}, now)
			a.append(event(calls.Gone, record(publicP, 2)), event(calls.Gone, record(publicP, 3)), event(calls.SetUp, record(publicP, 6)))
			a.until("has written all", func() bool { return a.store.Status().Pending == 0 })
			if moves {
				a.store.Yield(publicP)
				a.store.Claim(publicP)
			}
			r.Have([]calls.Record{a.own[4]}, now)
			r.End(nil, func(netip.Addr) bool { return true }, now)
			if again := a.store.Status(); !again.Degraded && moves {
				t.Error("it is taken for compared")
			}
			a.until("is whole", func() bool { a.shrink(); return a.store.Whole() && a.store.Status().Pending == 0 })
			for n, want := range map[uint64]string{1: "", 2: "gone", 3: "gone", 4: "kept", 5: "kept", 6: "kept"} {
				key, got := state.CallKey{Public: publicP, Number: n}, ""
				if it, there := m.Items()[key.String()]; there {
					c, err := state.DecodeCall(key, it.Value)
					if got = "kept"; c.Gone {
						got = "gone"
					}
					if err != nil {
						t.Error(err)
					}
				}
				if got != want {
					t.Errorf("call %d is %q, want %q", n, got, want)
				}
			}
		})
	}
}
