package fastpath

import (
	"time"

	"pptpalg/alg/calls"
)

// countPins are the pins of the maps that tell what flows have carried.
var countPins = map[string]string{fastpathMapFlows: mapPins[fastpathMapFlows], dataMap: mapPins[dataMap]}

// carryOver moves the flows of the maps in a place to the new ones, with what they have carried:
// no daemon may be there that could. It comes when all programs use the new maps, and before
// these are in their place, where a daemon would find them. What cannot be moved, as from maps
// of another release, is missing there, and a daemon takes its counts for lost.
func (l *loader) carryOver(place string) {
	old, err := openPinned(place, countPins)
	if err != nil {
		return
	}
	defer old.close()
	now := newPlaces(l.maps.flows, l.maps.control.Secret, leavingMap{l.maps.maps[fastpathMapLeaving]}, millis)
	was := &places{flows: old.flows} // to be read from first to last
	was.all(func(at uint32) bool {
		now.put(was.translation(at), was.carried(at))
		return true
	})
}

// move takes over the flows of other places, with what they have carried, and returns those that
// find no place. Load may have moved them already: then the counts go on, and flows
// that were removed from the other places meanwhile go.
func (p *places) move(was *places) (left []translation) {
	p.all(func(at uint32) bool {
		if was.found(p.translation(at)) == none {
			p.free(at) // what may be left of it has no place, and Retain removes it
		}
		return true
	})
	was.all(func(at uint32) bool {
		x := was.translation(at)
		if p.found(x) == none && p.put(x, was.carried(at)) != nil {
			left = append(left, x)
		}
		return true
	})
	return left
}

// Unloaded reports whether the table's programs are detached, and nothing was loaded instead:
// what flows have carried here does not grow any more.
func (t *Table) Unloaded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.maps != nil {
		t.asked = time.Time{} // what has just been replaced is not unloaded
	}
	return t.open() && t.maps.retired()
}

// All returns what all flows have carried here.
func (t *Table) All() map[calls.Flow]calls.Traffic {
	all := make(map[calls.Flow]calls.Traffic)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return all
	}
	t.places.all(func(at uint32) bool {
		all[t.places.translation(at).flow()] = t.places.carried(at).traffic()
		return true
	})
	return all
}

// Carries reports whether the fast path may carry a flow, and counts it then.
func Carries(f calls.Flow) bool {
	_, carries := translationOf(f)
	return carries
}
