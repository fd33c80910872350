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
// Enter and Leave, and read; only one goroutine at a time may call Install and Remove, also
// at the same time as the others.
//
// It has no limit of its own: its flows are those of the call table, which has one.
type Table struct {
	entering index // by a packet's key when it comes
	inside   index // by its key between Enter and Leave
	left     index // by its key once it has left
	fading   []faded
	counts   [reasons]counter
}

// state is a flow: a line of the processor's cache.
type state struct {
	packets, bytes atomic.Uint64
	flow           packed
	via            pptp.CallID // the Call ID between Enter and Leave

	// Owned by the goroutine that changes the table.
	over         bool   // removed
	older, newer *state // flows that leave alike; Table.left has the newest
}

// faded is a removed flow, by which packets that have entered still leave.
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

// Install translates packets of f from now on, and replaces a flow that enters alike. If
// that is the same flow with another mark, it keeps its traffic.
//
// A queued packet does not tell its conntrack zone: of flows that differ only in the zone,
// the last one is in force.
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
	t.inside.put(s.inside(), s) // what has entered can leave
	if s.older = t.left.find(p.leaves()); s.older != nil {
		s.older.newer = s
	}
	t.left.put(p.leaves(), s)
	t.entering.put(p.enters(), s)
	if old != nil {
		t.retire(old, now)
	}
	return nil
}

// transit chooses the Call ID that a packet has between Enter and Leave. It is the
// receiver's own ID if that is free. Flows from one source to one receiver may leave alike,
// if an end has several public addresses or uses an ID twice. But they enter with different
// IDs, so a search that begins there is short.
func (t *Table) transit(p packed) pptp.CallID {
	if t.free(p, p.newKey) {
		return p.newKey
	}
	id := p.key
	for n := 0; n < 1<<16 && !t.free(p, id); n++ {
		id = id*25173 + 13849 // visits every ID once, and jumps far
	}
	return id
}

// free reports whether no other flow has the Call ID between Enter and Leave, or only a
// removed flow whose packets leave as p's do.
func (t *Table) free(p packed, id pptp.CallID) bool {
	s := t.inside.find(keyFrom(p.src, p.newDst, id))
	return s == nil || s.over && s.flow.leaves() == p.leaves()
}

// Remove ends the translation of packets of f, except those that have entered, and returns
// what f carried. It reports false, and does nothing, if f is not in force: it may have
// been replaced.
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

// retire keeps a flow for packets that have entered and not left.
func (t *Table) retire(s *state, now time.Time) {
	s.over = true
	switch {
	case s.newer != nil:
		s.newer.older = s.older
	case s.older != nil:
		t.left.put(s.flow.leaves(), s.older)
	default:
		t.left.remove(s.flow.leaves(), s)
	}
	if s.older != nil {
		s.older.newer = s.newer
	}
	s.older, s.newer = nil, nil
	t.fading = append(t.fading, faded{s, now})
}

// forget drops flows that were removed long enough ago: two for each change, so that no
// change takes long.
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

// All returns the flows and their traffic, in no order. It may or may not include flows
// that are installed or removed meanwhile.
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

// Count returns how many packets had an outcome with this reason.
func (t *Table) Count(r Reason) uint64 {
	if r >= reasons {
		return 0
	}
	return t.counts[r].Load()
}
