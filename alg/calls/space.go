package calls

import (
	"math/bits"

	"pptpalg/alg/pptp"
)

// space is the set of public Call IDs 1…65535 that one public address has towards
// one peer. It keeps a bit per ID in use or resting, in pages of 256 that share
// the ID's first byte; a page appears when its first ID is taken.
type space struct {
	pages   map[byte]*page
	taken   int
	share   Share  // of the IDs that may be given out; others may be taken
	crowd   *crowd // of the table's spaces
	resting line
	owners  map[[4]byte]*line // of resting, by whose ID each was
}

type page struct {
	bits  [4]uint64
	taken int
}

const pageSize = 256

func newSpace(c *crowd, s Share) *space {
	return &space{pages: make(map[byte]*page, 1), crowd: c, share: s}
}

// owned returns the line of an owner's IDs.
func (s *space) owned(owner [4]byte) *line {
	l := s.owners[owner]
	if l == nil {
		if s.owners == nil {
			s.owners = make(map[[4]byte]*line, 1)
		}
		l = new(line)
		s.owners[owner] = l
	}
	return l
}

// woken takes an ID out of its lines.
func (s *space) woken(r *rest) {
	s.resting.left()
	l := s.owners[r.owner]
	if l.left(); l.items.len() == 0 {
		delete(s.owners, r.owner)
	}
}

// used returns the IDs of a page that are in use or resting. ID 0 is never given out, so it
// counts as one of them.
func (s *space) used(high byte) (bits [4]uint64) {
	if p := s.pages[high]; p != nil {
		bits = p.bits
	}
	if high == 0 {
		bits[0] |= 1
	}
	return bits
}

// room returns how many IDs of a page can be given out.
func (s *space) room(high byte) (room int) {
	mask := s.share.mask()
	for _, used := range s.used(high) {
		room += bits.OnesCount64(mask &^ used)
	}
	return room
}

// has reports whether an ID is in use or resting.
func (s *space) has(id pptp.CallID) bool {
	return s.used(id.High())[id.Low()/64]&(1<<(id.Low()%64)) != 0
}

// free reports whether an ID can be given out.
func (s *space) free(id pptp.CallID) bool { return s.share.has(id) && !s.has(id) }

func (s *space) take(id pptp.CallID) {
	if s.has(id) {
		return
	}
	p := s.pages[id.High()]
	if p == nil {
		p = new(page)
		s.pages[id.High()] = p
	}
	p.bits[id.Low()/64] |= 1 << (id.Low() % 64)
	p.taken++
	s.taken++
	s.crowd.moved(s.taken-1, s.taken)
}

func (s *space) release(id pptp.CallID) {
	if id == 0 || !s.has(id) {
		return
	}
	p := s.pages[id.High()]
	p.bits[id.Low()/64] &^= 1 << (id.Low() % 64)
	s.taken--
	s.crowd.moved(s.taken+1, s.taken)
	if p.taken--; p.taken == 0 {
		delete(s.pages, id.High())
	}
}

// highest returns the highest free ID of a page for which fit returns true. It searches
// from the top, because ends that count choose low numbers for themselves.
func (s *space) highest(high byte, fit func(pptp.CallID) bool) (pptp.CallID, bool) {
	mask, used := s.share.mask(), s.used(high)
	for word := 3; word >= 0; word-- {
		for free := mask &^ used[word]; free != 0; {
			bit := 63 - bits.LeadingZeros64(free)
			free &^= 1 << bit
			id := pptp.CallID(high)<<8 | pptp.CallID(word*64+bit)
			if fit(id) {
				return id, true
			}
		}
	}
	return 0, false
}

// draw returns a free ID of a page at random, if one of a few tries is free and fit
// holds for it.
func (s *space) draw(random func() uint32, high byte, fit func(pptp.CallID) bool) (pptp.CallID, bool) {
	for range 64 {
		id := pptp.CallID(high)<<8 | pptp.CallID(s.share.low(byte(random())))
		if s.free(id) && fit(id) {
			return id, true
		}
	}
	return 0, false
}
