package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"math/bits"
	"sync/atomic"

	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// Table is the flows by which packets are rewritten. Any number of goroutines may call
// Rewrite, and read; Install and Remove are for one goroutine at a time, which may be one
// beside them. Reading takes no lock: it sees a flow from when Install has returned.
//
//	buckets ─► entry ─► entry ─► nil          an entry's next alone ever changes
//	              │        │
//	           state    state                 what the flow is, and its traffic
//
// It has no cap of its own: its flows are those of the call table, which has one. It
// does not shrink.
type Table struct {
	secret  [2]uint64                // of the hash: senders of packets do not know it
	buckets atomic.Pointer[[]bucket] // their number is a power of two
	flows   atomic.Int64
	counts  [reasons]counter
}

// bucket is a list of entries whose keys hash alike.
type bucket = atomic.Pointer[entry]

// key is what a packet tells of its flow.
type key struct {
	addresses uint64 // source in the high half
	id        pptp.CallID
}

type entry struct {
	key   key
	next  atomic.Pointer[entry]
	state *state
}

// state is a flow: less than a line of the processor's cache.
type state struct {
	packets, bytes atomic.Uint64
	flow           packed
}

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

// minBuckets is how many an empty table has.
const minBuckets = 64

// NewTable returns an empty table.
func NewTable() *Table {
	seed := maphash.MakeSeed()
	t := &Table{secret: [2]uint64{maphash.Bytes(seed, []byte{0}), maphash.Bytes(seed, []byte{1})}}
	buckets := make([]bucket, minBuckets)
	t.buckets.Store(&buckets)
	return t
}

var errNotIPv4 = errors.New("an address is not IPv4")

// Install has packets of f translated from now on, in place of a flow that enters alike.
// The same flow, but for its mark, keeps its traffic.
//
// A queued packet does not tell its conntrack zone: of flows that differ in nothing else
// the last is in force.
func (t *Table) Install(f conntrack.Flow) error {
	p, ok := pack(f)
	if !ok {
		return fmt.Errorf("install flow %v: %w", f, errNotIPv4)
	}
	k, s := p.enters(), &state{flow: p}
	at := t.place(k)
	old := at.Load()
	if old == nil {
		t.add(k, s)
		return nil
	}
	if old.state.flow.same(p) {
		return nil
	}
	e := &entry{key: k, state: s}
	e.next.Store(old.next.Load())
	at.Store(e)
	return nil
}

// Remove has packets of f translated no longer, and returns what it carried. It reports
// false, and does nothing, if f is not in force: it may have been replaced.
func (t *Table) Remove(f conntrack.Flow) (Traffic, bool) {
	p, ok := pack(f)
	if !ok {
		return Traffic{}, false
	}
	at := t.place(p.enters())
	e := at.Load()
	if e == nil || !e.state.flow.same(p) {
		return Traffic{}, false
	}
	at.Store(e.next.Load()) // who reads e goes on to the same next
	t.flows.Add(-1)
	return e.state.traffic(), true
}

// Len returns the number of flows.
func (t *Table) Len() int { return int(t.flows.Load()) }

// All returns the flows and their traffic, in no order. Those installed or removed
// meanwhile may be among them or not.
func (t *Table) All() iter.Seq2[conntrack.Flow, Traffic] {
	return func(yield func(conntrack.Flow, Traffic) bool) {
		buckets := *t.buckets.Load()
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

func keyFrom(src, dst [4]byte, id pptp.CallID) key {
	return key{addresses: uint64(binary.BigEndian.Uint32(src[:]))<<32 | uint64(binary.BigEndian.Uint32(dst[:])), id: id}
}

// find returns the flow of a packet, nil for none.
func (t *Table) find(k key) *state {
	for e := t.bucket(*t.buckets.Load(), k).Load(); e != nil; e = e.next.Load() {
		if e.key == k {
			return e.state
		}
	}
	return nil
}

// bucket returns where k belongs: the product's halves folded, with a secret in each
// factor, so that nobody can choose addresses and Call IDs that meet in one list.
func (t *Table) bucket(buckets []bucket, k key) *bucket {
	high, low := bits.Mul64(k.addresses^t.secret[0], uint64(k.id)^t.secret[1])
	return &buckets[(high^low)&uint64(len(buckets)-1)]
}

// place returns the pointer to k's entry, or where nil stands for it.
func (t *Table) place(k key) *atomic.Pointer[entry] {
	at := t.bucket(*t.buckets.Load(), k)
	for e := at.Load(); e != nil && e.key != k; e = at.Load() {
		at = &e.next
	}
	return at
}

// add adds what is not there yet, at the head of its list.
func (t *Table) add(k key, s *state) {
	buckets := *t.buckets.Load()
	if t.Len() >= len(buckets) {
		buckets = t.grown(buckets)
	}
	t.push(buckets, k, s)
	t.flows.Add(1)
	t.buckets.Store(&buckets)
}

func (t *Table) push(buckets []bucket, k key, s *state) {
	at := t.bucket(buckets, k)
	e := &entry{key: k, state: s}
	e.next.Store(at.Load())
	at.Store(e)
}

// grown returns twice the buckets, with entries of their own: readers may still walk
// the old ones.
func (t *Table) grown(buckets []bucket) []bucket {
	double := make([]bucket, 2*len(buckets))
	for i := range buckets {
		for e := buckets[i].Load(); e != nil; e = e.next.Load() {
			t.push(double, e.key, e.state)
		}
	}
	return double
}
