package gre

import (
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"sync/atomic"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// Table is the flows by which packets are rewritten. Any number of goroutines may call
// Enter and Leave, and read; Install and Remove are for one goroutine at a time, which may
// be one beside them.
//
// It has no cap of its own: its flows are those of the call table, which has one.
type Table struct {
	entering index // by what a packet says that comes
	inside   index // by what it says between Enter and Leave
	left     index // by what it says once it has left
	fading   []faded
	counts   [reasons]counter
}

// state is a flow: less than a line of the processor's cache.
type state struct {
	packets, bytes atomic.Uint64
	flow           packed
	via            pptp.CallID // the Call ID between Enter and Leave
	over           bool        // removed; owned by who changes the table
}

// faded is a flow that was removed, and still takes the packets out that it has let in.
type faded struct {
	*state
	at time.Time
}

// lingering is how long a packet may take from Enter to Leave: the time for which the
// kernel and the queues hold it.
const lingering = 2 * time.Second

// counter keeps to a line of the processor's cache.
type counter struct {
	atomic.Uint64
	_ [56]byte
}

// Traffic is what a flow has carried since it was installed. A flow is one direction of
// a call.
type Traffic struct {
	Packets uint64
	Bytes   uint64 // with IP headers
}

func (s *state) traffic() Traffic {
	return Traffic{Packets: s.packets.Load(), Bytes: s.bytes.Load()}
}

// NewTable returns an empty table.
func NewTable() *Table {
	seed := maphash.MakeSeed()
	secret := [2]uint64{maphash.Bytes(seed, []byte{0}), maphash.Bytes(seed, []byte{1})}
	t := new(Table)
	for _, x := range []*index{&t.entering, &t.inside, &t.left} {
		x.init(secret)
	}
	return t
}

var errNotIPv4 = errors.New("an address is not IPv4")

// Install has packets of f translated from now on, in place of a flow that enters alike.
// The same flow, but for its mark, keeps its traffic.
//
// A queued packet does not tell its conntrack zone: of flows that differ in nothing else
// the last is in force.
func (t *Table) Install(f calls.Flow, now time.Time) error {
	t.forget(now)
	p, ok := pack(f)
	if !ok {
		return fmt.Errorf("install flow %v: %w", f, errNotIPv4)
	}
	old := t.entering.find(p.enters())
	if old != nil && old.flow.same(p) {
		return nil
	}
	s := &state{flow: p, via: t.transit(p)}
	t.inside.put(s.inside(), s) // what Enter lets in finds its way out
	t.left.put(p.leaves(), s)
	t.entering.put(p.enters(), s)
	if old != nil {
		t.retire(old, now)
	}
	return nil
}

// transit chooses the Call ID that a packet has between Enter and Leave. It is the
// receiver's own where that is free. Flows from one source to one receiver may end
// alike, where either end has several public addresses or uses an ID twice; but they come
// with different IDs, so a search that begins there is short.
func (t *Table) transit(p packed) pptp.CallID {
	if t.free(p, p.newKey) {
		return p.newKey
	}
	id := p.key
	for n := 0; n < 1<<16 && !t.free(p, id); n++ {
		id = id*25173 + 13849 // visits every ID once, far from its neighbours
	}
	return id
}

// free reports whether no other flow has the Call ID there, or only a removed one whose
// packets left as p's do.
func (t *Table) free(p packed, id pptp.CallID) bool {
	s := t.inside.find(keyFrom(p.src, p.newDst, id))
	return s == nil || s.over && s.flow.leaves() == p.leaves()
}

// Remove has packets of f translated no longer, but for those that have been let in, and
// returns what it carried. It reports false, and does nothing, if f is not in force: it may
// have been replaced.
func (t *Table) Remove(f calls.Flow, now time.Time) (Traffic, bool) {
	t.forget(now)
	p, ok := pack(f)
	if !ok {
		return Traffic{}, false
	}
	s := t.entering.find(p.enters())
	if s == nil || !s.flow.same(p) {
		return Traffic{}, false
	}
	t.entering.remove(p.enters(), s)
	t.retire(s, now)
	return s.traffic(), true
}

// retire keeps a flow for what is on its way out.
func (t *Table) retire(s *state, now time.Time) {
	s.over = true
	t.left.remove(s.flow.leaves(), s)
	t.fading = append(t.fading, faded{s, now})
}

// forget gives up flows that were removed long enough ago: two for each change, so that
// nobody waits for many.
func (t *Table) forget(now time.Time) {
	for range 2 {
		if len(t.fading) == 0 || now.Sub(t.fading[0].at) < lingering {
			return
		}
		s := t.fading[0].state
		t.inside.remove(s.inside(), s)
		t.fading[0] = faded{}
		t.fading = t.fading[1:]
	}
}

// Len returns the number of flows.
func (t *Table) Len() int { return int(t.entering.n.Load()) }

// All returns the flows and their traffic, in no order. Those installed or removed
// meanwhile may be among them or not.
func (t *Table) All() iter.Seq2[calls.Flow, Traffic] {
	return func(yield func(calls.Flow, Traffic) bool) {
		buckets := *t.entering.buckets.Load()
		for i := range buckets {
			for e := buckets[i].Load(); e != nil; e = e.next.Load() {
				if !yield(e.state.flow.unpack(), e.state.traffic()) {
					return
				}
			}
		}
	}
}

// Count returns how many packets had an outcome for this reason.
func (t *Table) Count(r Reason) uint64 {
	if r >= reasons {
		return 0
	}
	return t.counts[r].Load()
}
