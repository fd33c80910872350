package calls

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/pptp"
)

// mostResting is the maximum number of resting IDs, in all spaces together. Beyond it,
// those whose time comes first are freed early.
const mostResting = 1 << 18

// rest is a resting ID: a freed public ID that is not given out for a time.
type rest struct {
	key   spaceKey
	owner [4]byte // whose ID it was; zero if that is not known
	id    pptp.CallID
	awake bool // it rests no longer; lines may still hold it
	place int  // in Table.resting
	until time.Time
}

// restHeap is a heap of IDs by the time at which they have rested: each has its own.
type restHeap []*rest

func (h restHeap) Len() int           { return len(h) }
func (h restHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }

func (h restHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *restHeap) Push(v any) {
	r := v.(*rest)
	r.place = len(*h)
	*h = append(*h, r)
}

func (h *restHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return r
}

// line is a list of resting IDs, the one that was freed first at its head.
type line struct {
	items queue[*rest]
	awake int // of items
}

func (l *line) push(r *rest) { l.items.push(r) }

// left records that an ID of the line has woken. Woken IDs are removed when they are the
// majority, so that each costs the same.
func (l *line) left() {
	if l.awake++; 2*l.awake > l.items.len() {
		l.items.keep(func(r *rest) bool { return !r.awake })
		l.awake = 0
	}
}

// mostTried is how many IDs of a line longest tries.
const mostTried = 1024

// longest returns the first ID of the line that fits, nil if none does.
func (l *line) longest(fit func(pptp.CallID) bool) *rest {
	for r, ok := l.items.first(); ok && r.awake; r, ok = l.items.first() {
		l.items.drop()
		l.awake--
	}
	all := l.items.all()
	for _, r := range all[:min(len(all), mostTried)] {
		if !r.awake && fit(r.id) {
			return r
		}
	}
	return nil
}

// layDown lets an ID rest that is taken in its space.
func (t *Table) layDown(r *rest) {
	s := t.space(r.key)
	s.resting.push(r)
	s.owned(r.owner).push(r)
	heap.Push(&t.resting, r)
	for len(t.resting) > mostResting {
		t.wake(t.resting[0])
	}
}

// wake frees an ID that rests.
func (t *Table) wake(r *rest) {
	heap.Remove(&t.resting, r.place)
	r.awake = true
	if s := t.spaces[r.key]; s != nil {
		s.woken(r)
		t.free(r.key, r.id)
	}
}

// recycle frees the ID of a space that has rested longest and can be the public ID for an
// end's ID that begins with own. The end's own former IDs come first: an end that uses up a
// space does so at its own cost.
func (c *Control) recycle(s Side, sp *space, own byte) bool {
	fit := func(id pptp.CallID) bool {
		if !sp.share.has(id) {
			return false
		}
		for _, p := range c.pages {
			if p.side == s && p.public == id.High() && p.own != own && p.uses > 0 {
				return false
			}
		}
		return true
	}
	for _, l := range []*line{sp.owners[c.connection.address(s)], &sp.resting} {
		if l == nil {
			continue
		}
		if r := l.longest(fit); r != nil {
			c.table.wake(r)
			return true
		}
	}
	return false
}

// rouse frees an ID if it rests, because somebody has chosen it who cannot be given another
// one: the gateway's own end, or another gateway.
func (t *Table) rouse(sp *space, id pptp.CallID) {
	if r := sp.rests(id); r != nil {
		t.wake(r)
	}
}

// rests returns an ID that rests, or nil.
func (s *space) rests(id pptp.CallID) *rest {
	if !s.has(id) {
		return nil
	}
	for _, r := range s.resting.items.all() {
		if r.id == id && !r.awake {
			return r
		}
	}
	return nil
}

// Resting is a resting ID: a public Call ID that was freed and may not be given out until a
// time.
type Resting struct {
	Public, Peer netip.Addr
	Zone         uint16
	ID           pptp.CallID
	Until        time.Time
}

// Resting returns all resting IDs, in the order in which they will be free.
func (t *Table) Resting() []Resting {
	all := make([]Resting, 0, len(t.resting))
	for _, r := range t.resting {
		all = append(all, Resting{netip.AddrFrom4(r.key.public), netip.AddrFrom4(r.key.peer), r.key.zone, r.id, r.until})
	}
	slices.SortFunc(all, func(a, b Resting) int { return a.Until.Compare(b.Until) })
	return all
}

// RestingIDs returns the number of resting IDs.
func (t *Table) RestingIDs() int { return len(t.resting) }

// Rest keeps a public ID from being given out until it has rested, which takes
// Config.Rest from now at most, whatever clock said when.
func (t *Table) Rest(r Resting, now time.Time) {
	t.restOf(r, [4]byte{}, now)
}

func (t *Table) restOf(r Resting, owner [4]byte, now time.Time) {
	key := spaceKey{as4(r.Public), as4(r.Peer), r.Zone}
	left := min(r.Until.Sub(now), t.cfg.Rest)
	if s := t.space(key); !s.has(r.ID) {
		s.take(r.ID)
		t.layDown(&rest{key: key, owner: owner, id: r.ID, until: now.Add(left)})
	}
}

// RestCall lets the public IDs of a call rest that ended at a time.
func (t *Table) RestCall(r Record, at, now time.Time) {
	t.numbered(r.Number)
	for s, l := range r.Legs {
		if end := r.Connection.Endpoint(Side(s)); l.Known && end.Translated() {
			peer := Side(s).Other()
			t.restOf(Resting{end.Public, r.Connection.Endpoint(peer).Address, r.Connection.ZoneOf(peer), l.Public, at.Add(t.cfg.Rest)}, as4(end.Address), now)
		}
	}
}
