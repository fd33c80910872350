package meter

import (
	"fmt"
	"time"

	"pptpalg/alg/calls"
)

// How long a call may carry less than it should before it is said not to carry.
const (
	// firstPackets is for a call of which one end has never sent anything although the other
	// one has. PPP begins to talk at once, and again after three seconds.
	firstPackets = 5 * time.Second
	// oneWayFor is for how long packets come from one end only.
	oneWayFor = 7 * time.Second
	// silentFor is for a call of which neither end has ever sent anything.
	silentFor = 10 * time.Second
)

// Kind is how a call carries.
type Kind uint8

// The kinds.
const (
	Unknown Kind = iota // nothing counts its packets, it is not established, or it is too young
	Both                // packets have come from both ends, and still do where any come
	OneWay              // packets come from one end, and none from the other
	Silent              // no packet has ever come from either end
)

var kindNames = [...]string{"unknown", "both", "one_way", "silent"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("unknown(%d)", uint8(k))
}

// Carriage is how a call carries.
type Carriage struct {
	Kind Kind
	// Of OneWay: which end gets no packets, and since when none were seen to go there. That is
	// the call's beginning if there have never been any.
	ToPNS   bool // the PNS gets none; false for the PAC
	Since   time.Time
	Carried bool // of OneWay: packets have gone there before
}

// moment is a time on record: in tenths of a second since shortly before the first look.
type moment int32

const tenth = 100 * time.Millisecond

func (at moment) since(before moment) time.Duration {
	return (time.Duration(at) - time.Duration(before)) * tenth
}

// way is what travels to one end of a call. There are as many as flows, so it is small.
type way struct {
	packets, bytes uint32 // of the counts what fits; bytes in units
	moved          moment // when the count was last seen to have grown; 0 if never
}

// unit is of how many bytes a way's bytes are: no flow carries 1<<32 units between two looks.
const unit = 64

// fresh is what of a count is new.
type fresh struct{ packets, bytes uint64 }

// see takes a count, and returns what of it is new, and whether any packet is.
func (w *way) see(t calls.Traffic, at moment) (more fresh, grew bool) {
	packets, units := t.Packets, t.Bytes/unit
	if packets < uint64(w.packets) || units < uint64(w.bytes) { // counting began again
		w.packets, w.bytes = 0, 0
	}
	if grew = uint32(packets) != w.packets; grew {
		w.moved = at
	}
	more = fresh{uint64(uint32(packets) - w.packets), unit * uint64(uint32(units)-w.bytes)}
	w.packets, w.bytes = uint32(packets), uint32(units)
	return more, grew
}

// never reports whether nothing has ever come.
func (w *way) never() bool { return w.packets == 0 && w.moved == 0 }

// watched is what is known of a call, in 40 bytes.
type watched struct {
	number uint64
	ways   [2]way   // to the PNS and to the PAC
	up     moment   // since when it is established, as far as that was seen
	looks  [2]uint8 // how many looks have seen a way grow since the other way last did
	kind   Kind
	flags  uint8
}

// Flags of watched.
const (
	isUp     = 1 << iota // up is known
	doubtful             // it may turn out not to carry soon
	toPAC                // of OneWay: nothing travels to the PAC, or to the PNS without it
)

// set sets a flag or clears it.
func (w *watched) set(flag uint8, on bool) {
	if w.flags &^= flag; on {
		w.flags |= flag
	}
}

func (w *watched) is(flag uint8) bool { return w.flags&flag != 0 }

// judged takes in how the call carries.
func (w *watched) judged(k Kind, doubts bool) {
	w.kind = k
	w.set(doubtful, doubts)
}

// see takes what a call has carried, and returns what of that is new.
func (w *watched) see(toPNS, toPAC calls.Traffic, at moment) (pns, pac fresh) {
	var grew [2]bool
	pns, grew[0] = w.ways[0].see(toPNS, at)
	pac, grew[1] = w.ways[1].see(toPAC, at)
	for i := range grew {
		switch {
		case grew[1-i]:
			w.looks[i] = 0
		case grew[i]:
			w.looks[i] = min(w.looks[i], enough) + 1
		}
	}
	return pns, pac
}

// enough is more looks than are asked for.
const enough = 100

// judge says how an established call carries.
func (w *watched) judge(at moment) {
	age := at.since(w.up)
	pns, pac := &w.ways[0], &w.ways[1]
	switch {
	case pns.never() && pac.never() && age >= silentFor:
		w.judged(Silent, false)
	case w.stuck(0, age):
		w.judged(OneWay, false)
		w.set(toPAC, false)
	case w.stuck(1, age):
		w.judged(OneWay, false)
		w.set(toPAC, true)
	case pns.never() || pac.never():
		w.judged(Unknown, age < silentFor)
	default:
		w.judged(Both, pns.moved != pac.moved)
	}
}

// stuck reports whether packets go the other way, and none this way.
func (w *watched) stuck(i int, age time.Duration) bool {
	this, other := &w.ways[i], &w.ways[1-i]
	if this.never() {
		return other.packets > 1 && age >= firstPackets
	}
	return w.looks[1-i] > 1 && other.moved.since(this.moved) >= oneWayFor
}

// carriage returns how the call carries. time returns when a moment was.
func (w *watched) carriage(time func(moment) time.Time) Carriage {
	switch w.kind {
	case Silent:
		return Carriage{Kind: Silent, Since: time(w.up)}
	case OneWay:
		this := &w.ways[0]
		if w.is(toPAC) {
			this = &w.ways[1]
		}
		since := w.up
		if !this.never() {
			since = max(this.moved, w.up)
		}
		return Carriage{Kind: OneWay, ToPNS: !w.is(toPAC), Since: time(since), Carried: !this.never()}
	}
	return Carriage{Kind: w.kind}
}
