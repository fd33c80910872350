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

// way is what travels to one end of a call.
type way struct {
	packets, bytes uint64
	moved          time.Time // when the count was last seen to have grown; zero if never
	looks          int       // how many looks have seen it grow since the other way last did
}

// see takes a count, and returns how many bytes are new.
func (w *way) see(t calls.Traffic, at time.Time) (bytes uint64) {
	if t.Packets < w.packets || t.Bytes < w.bytes { // counting began again
		w.packets, w.bytes = 0, 0
	}
	if t.Packets > w.packets {
		w.moved = at
		w.looks++
	}
	bytes = t.Bytes - w.bytes
	w.packets, w.bytes = t.Packets, t.Bytes
	return bytes
}

// never reports whether nothing has ever come.
func (w *way) never() bool { return w.packets == 0 && w.moved.IsZero() }

// watched is what is known of a call.
type watched struct {
	toPNS, toPAC way
	up           time.Time // since when it is established, as far as that was seen; zero if it is not
	carriage     Carriage
	doubtful     bool   // it may turn out not to carry soon
	pass         uint64 // the look that has seen it last
}

// see takes what a call has carried, and returns how many bytes of that are new.
func (w *watched) see(toPNS, toPAC calls.Traffic, at time.Time) (pns, pac uint64) {
	pns, pac = w.toPNS.see(toPNS, at), w.toPAC.see(toPAC, at)
	moved := [2]bool{w.toPNS.moved.Equal(at), w.toPAC.moved.Equal(at)}
	if moved[1] {
		w.toPNS.looks = 0
	}
	if moved[0] {
		w.toPAC.looks = 0
	}
	return pns, pac
}

// judge says how an established call carries.
func (w *watched) judge(at time.Time) {
	age := at.Sub(w.up)
	switch {
	case w.toPNS.never() && w.toPAC.never() && age >= silentFor:
		w.carriage, w.doubtful = Carriage{Kind: Silent, Since: w.up}, false
	case stuck(&w.toPNS, &w.toPAC, age):
		w.carriage, w.doubtful = Carriage{OneWay, true, later(w.toPNS.moved, w.up), !w.toPNS.never()}, false
	case stuck(&w.toPAC, &w.toPNS, age):
		w.carriage, w.doubtful = Carriage{OneWay, false, later(w.toPAC.moved, w.up), !w.toPAC.never()}, false
	case w.toPNS.never() || w.toPAC.never():
		w.carriage, w.doubtful = Carriage{}, age < silentFor
	default:
		w.carriage, w.doubtful = Carriage{Kind: Both}, !w.toPNS.moved.Equal(w.toPAC.moved)
	}
}

// stuck reports whether packets go the other way, and none this way.
func stuck(this, other *way, age time.Duration) bool {
	if this.never() {
		return other.packets > 1 && age >= firstPackets
	}
	return other.looks > 1 && other.moved.Sub(this.moved) >= oneWayFor
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
