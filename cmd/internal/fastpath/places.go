package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The states of a place, as in the programs.
const (
	never = iota
	live
	gone
	shadow
)

const (
	probes = 64   // places that a flow may lie in
	rest   = 1000 // of 2^20 ns: a place is not used again before, as a processor may be reading it
	none   = math.MaxUint32
)

var errFull = errors.New("no place near")

// places is the array of flows. The programs read it, and write what they learn and count.
// All else is written here, one goroutine at a time.
type places struct {
	flows   []fastpathFlow // as many as a power of two
	secret  [2]uint64
	leaving leaving
	now     func() uint32 // of 2^20 ns, never 0

	freed   []uint32                    // when a place was freed; 0: not since it rests
	shadows map[fastpathLeaves][]uint32 // places of flows that leave as a later one does
	used    int                         // places that are live or shadows
}

// leaving finds a flow by how its packets leave.
type leaving interface {
	// add fails with ebpf.ErrKeyExist if there is a flow that leaves alike.
	add(fastpathLeaves, fastpathSent) error
	set(fastpathLeaves, fastpathSent) error
	at(fastpathLeaves) (place uint32, err error)
	remove(fastpathLeaves) error
}

// newPlaces takes up an array as it is. Whatever was freed before has had its rest: a
// processor reads a place for microseconds.
func newPlaces(flows []fastpathFlow, secret [2]uint64, l leaving, now func() uint32) *places {
	p := &places{flows: flows, secret: secret, leaving: l, now: now, freed: make([]uint32, len(flows)), shadows: make(map[fastpathLeaves][]uint32)}
	for i := range flows {
		at := uint32(i)
		switch flows[i].Way.State {
		case shadow:
			out := p.translation(at).leaves()
			p.shadows[out] = append(p.shadows[out], at)
			p.used++
		case live:
			p.used++
		}
	}
	return p
}

// home is home of the programs.
func (p *places) home(w way) uint32 {
	h := (uint64(w.src)<<32 | uint64(w.dst)) ^ p.secret[0]
	h *= 0x9e3779b97f4a7c15
	h ^= h >> 32
	h = (h ^ uint64(w.id)) + p.secret[1]
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return uint32(h >> 32)
}

func (p *places) mask() uint32 { return uint32(len(p.flows) - 1) }

// find returns the place of the flow with a way, none if there is none.
func (p *places) find(w way) uint32 {
	home := p.home(w)
	for i := range uint32(probes) {
		at := (home + i) & p.mask()
		f := &p.flows[at]
		if f.Way.State == never {
			return none
		}
		if f.Way.State != gone && f.Way.Src == w.src && f.Way.Dst == w.dst && f.Way.Id == w.id {
			return at
		}
	}
	return none
}

// found is find for a flow that is translated so and not otherwise.
func (p *places) found(x translation) uint32 {
	if at := p.find(x.in); at != none && p.translation(at) == x {
		return at
	}
	return none
}

func (p *places) translation(at uint32) translation {
	f := &p.flows[at]
	return translation{way{f.Way.Src, f.Way.Dst, f.Way.Id}, way{f.NewSrc, f.NewDst, f.NewId}}
}

// leads reports whether a flow that leaves so lies in a place.
func (p *places) leads(at uint32, out fastpathLeaves) bool {
	return at < uint32(len(p.flows)) && p.flows[at].Way.State == live && p.translation(at).leaves() == out
}

// write writes an ID and a state at once.
func (p *places) write(at uint32, id uint16, state uint8) {
	var b [4]byte
	binary.NativeEndian.PutUint16(b[:], id)
	b[2] = state
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&p.flows[at].Way.Id)), binary.NativeEndian.Uint32(b[:]))
}

func (p *places) mark(at uint32, state uint8) { p.write(at, p.flows[at].Way.Id, state) }

// room returns a place for a new flow, and makes sure that searches get there.
func (p *places) room(w way) (uint32, error) {
	if p.used >= len(p.flows)/2 {
		return none, errFull
	}
	home := p.home(w)
	for i := range uint32(probes) {
		at := (home + i) & p.mask()
		if s := p.flows[at].Way.State; s == live || s == shadow || !p.rested(at) {
			continue
		}
		for j := range i {
			if before := (home + j) & p.mask(); p.flows[before].Way.State == never {
				p.mark(before, gone)
			}
		}
		return at, nil
	}
	return none, errFull
}

func (p *places) rested(at uint32) bool {
	if p.freed[at] != 0 && p.now()-p.freed[at] <= rest {
		return false
	}
	p.freed[at] = 0
	return true
}

// carried is what a flow has carried.
type carried struct{ packets, bytes uint64 }

// put puts a flow in, as if it had carried something already. If it is there, it begins
// to count anew: its entry in the kernel is a new one, too.
func (p *places) put(x translation, c carried) error {
	if at := p.find(x.in); at != none {
		if p.translation(at) == x {
			p.count(at, c)
			return nil
		}
		if _, err := p.free(at); err != nil { // other calls have the flow's packets now
			return err
		}
	}
	at, err := p.room(x.in)
	if err != nil {
		return err
	}
	s := fastpathSent{Place: at}
	if err = p.leaving.add(x.leaves(), s); errors.Is(err, ebpf.ErrKeyExist) {
		s.Alike = p.now()
		err = p.overshadow(x, s)
	}
	if errors.Is(err, unix.E2BIG) { // of what leads to no flow, until Retain
		return errFull
	}
	if err != nil {
		return fmt.Errorf("enter a flow: %w", err)
	}
	f := &p.flows[at]
	p.write(at, x.in.id, gone) // nothing of what follows is seen before all of it
	p.freed[at] = 0
	*f = fastpathFlow{Way: f.Way, NewId: x.out.id, Sum: x.sum(), NewSrc: x.out.src, NewDst: x.out.dst, Packets: c.packets, Bytes: c.bytes}
	f.Way.Src, f.Way.Dst = x.in.src, x.in.dst
	p.write(at, x.in.id, live)
	p.used++
	return nil
}

// overshadow enters a flow that leaves as another one does. When their packets leave, nothing
// tells one from the other. So the earlier flow is the kernel's while the later one is there.
func (p *places) overshadow(x translation, s fastpathSent) error {
	out := x.leaves()
	at, err := p.leaving.at(out)
	if err != nil {
		return err
	}
	if !p.leads(at, out) {
		return p.leaving.set(out, s)
	}
	p.mark(at, shadow)
	if err := p.leaving.set(out, s); err != nil {
		p.mark(at, live)
		return err
	}
	p.shadows[out] = append(p.shadows[out], at)
	return nil
}

// count has a flow's counters go on from c, and returns what they were.
func (p *places) count(at uint32, c carried) (was carried) {
	f := &p.flows[at]
	return carried{atomic.SwapUint64(&f.Packets, c.packets), atomic.SwapUint64(&f.Bytes, c.bytes)}
}

func (p *places) carried(at uint32) carried {
	f := &p.flows[at]
	return carried{atomic.LoadUint64(&f.Packets), atomic.LoadUint64(&f.Bytes)}
}

// free takes a flow out of its place.
func (p *places) free(at uint32) (carried, error) {
	out := p.translation(at).leaves()
	state := p.flows[at].Way.State
	p.mark(at, gone)
	p.freed[at] = p.now()
	p.used--
	p.close(at)
	c := p.carried(at)
	if state == shadow {
		p.unshadow(out, at)
		return c, nil
	}
	return c, p.reveal(out)
}

// close forgets that there were flows in places behind which no search need go.
func (p *places) close(at uint32) {
	if p.flows[(at+1)&p.mask()].Way.State != never {
		return
	}
	for p.flows[at].Way.State == gone {
		p.mark(at, never)
		at = (at - 1) & p.mask()
	}
}

func (p *places) unshadow(out fastpathLeaves, at uint32) {
	left := p.shadows[out][:0]
	for _, other := range p.shadows[out] {
		if other != at {
			left = append(left, other)
		}
	}
	if p.shadows[out] = left; len(left) == 0 {
		delete(p.shadows, out)
	}
}

// reveal has the latest of the flows that were shadows of one be learnt, now that this is gone.
func (p *places) reveal(out fastpathLeaves) error {
	waiting := p.shadows[out]
	if len(waiting) == 0 {
		if err := p.leaving.remove(out); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove a flow: %w", err)
		}
		return nil
	}
	at := waiting[len(waiting)-1]
	p.flows[at].Generation = 0
	if err := p.leaving.set(out, fastpathSent{Place: at, Alike: p.now()}); err != nil {
		return fmt.Errorf("enter a flow: %w", err)
	}
	p.unshadow(out, at)
	p.mark(at, live)
	return nil
}

// sweep has what leads to no flow, as a process that was killed leaves it, lead to a flow that
// waits for that, or removes it. What it cannot remove, the next sweep finds again.
func (p *places) sweep(stale []fastpathLeaves) {
	for _, out := range stale {
		p.reveal(out)
	}
}

// all calls f for each flow that is there, until it returns false.
func (p *places) all(f func(at uint32) bool) {
	for i := range p.flows {
		if s := p.flows[i].Way.State; (s == live || s == shadow) && !f(uint32(i)) {
			return
		}
	}
}

// inForce counts the flows that are forwarded here.
func (p *places) inForce(generation, interval uint32) (n int) {
	now := p.now()
	p.all(func(at uint32) bool {
		f := &p.flows[at]
		if f.Way.State == live && f.Generation != 0 && f.Generation == uint16(generation) && f.Until-now-1 < interval {
			n++
		}
		return true
	})
	return n
}
