package gre

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"pptpalg/alg/pptp"
)

// index finds flows by a packet's key. Any number of goroutines may call find while one
// goroutine changes the index. find takes no lock, and sees what was put once put has
// returned.
//
//	buckets ─► entry ─► entry ─► nil          an entry's next alone ever changes
//	              │        │
//	           state    state                 what the flow is, and its traffic
//
// It does not shrink.
type index struct {
	secret  [2]uint64                // of the hash: senders of packets do not know it
	buckets atomic.Pointer[[]bucket] // their number is a power of two
	n       atomic.Int64             // entries
}

// bucket is a list of entries whose keys hash alike.
type bucket = atomic.Pointer[entry]

// key is the part of a packet that identifies its flow.
type key struct {
	addresses uint64 // source in the high half
	id        pptp.CallID
}

func keyFrom(src, dst [4]byte, id pptp.CallID) key {
	return key{addresses: uint64(binary.BigEndian.Uint32(src[:]))<<32 | uint64(binary.BigEndian.Uint32(dst[:])), id: id}
}

type entry struct {
	key   key
	next  atomic.Pointer[entry]
	state *state
}

// minBuckets is how many an empty index has.
const minBuckets = 64

func (x *index) init(secret [2]uint64) {
	x.secret = secret
	buckets := make([]bucket, minBuckets)
	x.buckets.Store(&buckets)
}

// find returns the flow of a key, nil for none.
func (x *index) find(k key) *state {
	for e := x.bucket(*x.buckets.Load(), k).Load(); e != nil; e = e.next.Load() {
		if e.key == k {
			return e.state
		}
	}
	return nil
}

// put maps k to s, replacing what it was mapped to.
func (x *index) put(k key, s *state) {
	at := x.place(k)
	old := at.Load()
	if old == nil {
		x.add(k, s)
		return
	}
	e := &entry{key: k, state: s}
	e.next.Store(old.next.Load())
	at.Store(e)
}

// remove removes k if it is mapped to s.
func (x *index) remove(k key, s *state) {
	at := x.place(k)
	e := at.Load()
	if e == nil || e.state != s {
		return
	}
	at.Store(e.next.Load()) // a reader of e goes on to the same next
	x.n.Add(-1)
}

// bucket returns where k belongs: the product's halves folded, with a secret in each
// factor, so that nobody can choose addresses and Call IDs that fall into one list.
func (x *index) bucket(buckets []bucket, k key) *bucket {
	high, low := bits.Mul64(k.addresses^x.secret[0], uint64(k.id)^x.secret[1])
	return &buckets[(high^low)&uint64(len(buckets)-1)]
}

// place returns the pointer to k's entry, or where nil stands for it.
func (x *index) place(k key) *atomic.Pointer[entry] {
	at := x.bucket(*x.buckets.Load(), k)
	for e := at.Load(); e != nil && e.key != k; e = at.Load() {
		at = &e.next
	}
	return at
}

// add adds what is not there yet, at the head of its list.
func (x *index) add(k key, s *state) {
	buckets := *x.buckets.Load()
	if int(x.n.Load()) >= len(buckets) {
		buckets = x.grown(buckets)
	}
	x.push(buckets, k, s)
	x.n.Add(1)
	x.buckets.Store(&buckets)
}

func (x *index) push(buckets []bucket, k key, s *state) {
	at := x.bucket(buckets, k)
	e := &entry{key: k, state: s}
	e.next.Store(at.Load())
	at.Store(e)
}

// grown returns twice the buckets, with entries of their own: readers may still walk
// the old ones.
func (x *index) grown(buckets []bucket) []bucket {
	double := make([]bucket, 2*len(buckets))
	for i := range buckets {
		for e := buckets[i].Load(); e != nil; e = e.next.Load() {
			x.push(double, e.key, e.state)
		}
	}
	return double
}
