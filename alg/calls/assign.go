package calls

import (
	"slices"

	"pptpalg/alg/pptp"
)

// Assign chooses the public ID for an ID that the sender gives to a call. The Request or
// Reply of the same message uses it; Abandon gives it up. sent is as for Translate.
//
// Within a connection the same ID keeps the same public ID, so that a repeated request
// for a living call looks to its receiver as it would without NAT.
func (c *Control) Assign(s Side, own pptp.CallID, sent *byte) (public pptp.CallID, ok bool) {
	if sent == nil {
		c.assignHigh(s, own.High())
	}
	a := &c.pending[s]
	if l := c.ownLeg(s, own); l != nil && begins(l.public, sent) {
		c.release(s, *a)
		*a = assignment{own: own, public: l.public, ready: true, admitted: a.admitted}
		return l.public, true
	}
	if a.refused != NoneRefused || !c.settle(s, own) {
		why := a.refused
		c.Abandon(s)
		a.refused = why
		return untranslated(own, sent), false
	}
	return a.public, true
}

// Refusal returns why the ID that the end assigned last has no public ID.
func (c *Control) Refusal(s Side) Refusal { return c.pending[s].refused }

// Abandon gives up what was assigned to the end, or admitted, and belongs to no call.
func (c *Control) Abandon(s Side) {
	c.giveUp(s, c.take(s))
}

// take hands over what is assigned to the end.
func (c *Control) take(s Side) assignment {
	a := c.pending[s]
	c.pending[s] = assignment{}
	return a
}

func (c *Control) giveUp(s Side, a assignment) {
	c.release(s, a)
	if a.admitted {
		c.dismiss(s)
	}
}

// assigned hands over what Assign has kept for the ID.
func (c *Control) assigned(s Side, own pptp.CallID) (assignment, bool) {
	a := c.take(s)
	if !a.ready || a.own != own {
		c.giveUp(s, a)
		return assignment{}, false
	}
	return a, true
}

// release frees the ID that is reserved. The caller drops the assignment, or reserves another
// ID for it.
func (c *Control) release(s Side, a assignment) {
	if a.reserved {
		c.table.free(c.connection.space(s), a.public)
	}
}

// spaced reports whether the end's IDs lie in a space that others share.
func (c *Control) spaced(s Side) bool {
	return c.local[s] || c.connection.hides(s)
}

// assignHigh promises a first byte for the public ID for an ID that begins with the byte
// own. It reserves an ID that begins with the promised byte, so that the promise can be
// kept whatever byte follows.
func (c *Control) assignHigh(s Side, own byte) byte {
	a := &c.pending[s]
	c.release(s, *a)
	*a = assignment{admitted: a.admitted}
	if !c.connection.hides(s) {
		return own
	}
	sp := c.table.space(c.connection.space(s))
	high, ok := c.makeRoom(s, sp, own)
	if !ok {
		return c.publicHigh(s, own)
	}
	id, _ := sp.highest(high, func(pptp.CallID) bool { return true })
	sp.take(id)
	a.public, a.reserved = id, true
	return high
}

// makeRoom returns the first byte of a free public ID. If none is free, it frees the ID
// that has rested longest.
func (c *Control) makeRoom(s Side, sp *space, own byte) (high byte, ok bool) {
	if sp.taken >= c.table.cfg.CallsPerSpace && !c.recycle(s, sp, own) {
		c.pending[s].refused = TooManyOfSpace
		return 0, false
	}
	if high, ok = c.promise(s, sp, own); ok {
		return high, true
	}
	if c.recycle(s, sp, own) {
		high, ok = c.promise(s, sp, own)
	}
	if !ok {
		c.pending[s].refused = SpaceFull
	}
	return high, ok
}

// settle chooses the second byte.
func (c *Control) settle(s Side, own pptp.CallID) bool {
	a := &c.pending[s]
	a.own, a.ready = own, true
	switch {
	case c.connection.hides(s):
		if !a.reserved {
			a.refused = SpaceFull
			return false
		}
		high := a.public.High()
		c.release(s, *a)
		a.public = c.choose(s, high, own)
	case c.local[s]:
		return c.settleLocal(s, own)
	default:
		a.public = own
		return true
	}
	c.table.space(c.connection.space(s)).take(a.public)
	return true
}

// settleLocal takes an ID that the gateway's own end has chosen.
func (c *Control) settleLocal(s Side, own pptp.CallID) bool {
	a := &c.pending[s]
	a.public = own
	sp := c.table.space(c.connection.space(s))
	c.table.rouse(sp, own)
	switch {
	case own == 0: // never given out
		return true
	case sp.has(own):
		a.refused = IDTaken // by a host behind the gateway, or another call of its own
	case sp.taken >= c.table.cfg.CallsPerSpace:
		a.refused = TooManyOfSpace
	default:
		sp.take(own)
		a.reserved = true
		return true
	}
	return false
}

// choose returns a free ID of a page that has one: the end's own ID if that is free, else
// one that no Call-Disconnect-Notify can confuse, else any.
func (c *Control) choose(s Side, high byte, own pptp.CallID) pptp.CallID {
	sp := c.table.space(c.connection.space(s))
	if random := c.table.cfg.Random; random != nil {
		if id, ok := sp.draw(random, high, func(id pptp.CallID) bool { return c.fits(s, id, own) }); ok {
			return id
		}
	}
	if own.High() == high && sp.free(own) && c.fits(s, own, own) {
		return own
	}
	id, ok := sp.highest(high, func(id pptp.CallID) bool { return c.fits(s, id, own) })
	if !ok {
		id, _ = sp.highest(high, func(pptp.CallID) bool { return true })
	}
	return id
}

// fits reports whether a public ID keeps the three meanings of a
// Call-Disconnect-Notify apart (see form): neither it nor its byte swap may be
// a live ID of the other end on this connection, and its byte swap must not be the
// public ID of anything but itself.
func (c *Control) fits(s Side, public, own pptp.CallID) bool {
	swapped := public.Swap()
	if swapped == public && public != own {
		return false
	}
	return c.ownLeg(s.Other(), public) == nil && c.ownLeg(s.Other(), swapped) == nil &&
		(swapped == public || c.leg(s, swapped) == nil)
}

// spare is how many IDs that begin with a byte must be free for that byte to be promised,
// as long as some byte has so many; in a share of the IDs it is as much less. It leaves a few for each call that the end may open on
// the connection later, so that no second promise is needed.
const spare = 32

// promise returns the first byte that public IDs have on this connection for IDs that
// begin with own. It prefers the same byte, and takes another one if few IDs that begin
// with it are free. A public first byte stands for one own byte only, so one byte decides
// the way back. One byte decides the way there too, until an end has more calls on one
// connection than there are free IDs with one first byte.
func (c *Control) promise(s Side, sp *space, own byte) (public byte, ok bool) {
	for _, p := range c.pages {
		if p.side == s && p.own == own && sp.room(p.public) > 0 {
			return p.public, true
		}
	}
	c.pages = slices.DeleteFunc(c.pages, func(p pagePair) bool { return p.side == s && p.uses == 0 })
	taken := c.promises(s)
	first := own
	if random := c.table.cfg.Random; random != nil {
		first = byte(random())
	}
	for _, least := range []int{spare / int(sp.share.of()), 1} {
		for i := range pageSize {
			public = first + byte(i)
			if sp.room(public) >= least && !taken.has(public) {
				c.pages = append(c.pages, pagePair{side: s, own: own, public: public})
				return public, true
			}
		}
	}
	return 0, false
}

// promiseSame promises a first byte for itself, if nothing else is promised for it, because
// an ID that passed unedited has become public unchanged.
func (c *Control) promiseSame(s Side, high byte) {
	taken := c.promises(s)
	if c.connection.hides(s) && !taken.has(high) && c.publicHigh(s, high) == high {
		c.pages = append(c.pages, pagePair{side: s, own: high, public: high})
	}
}

// byteSet is a set of first bytes.
type byteSet [4]uint64

func (b *byteSet) add(v byte)      { b[v/64] |= 1 << (v % 64) }
func (b *byteSet) has(v byte) bool { return b[v/64]&(1<<(v%64)) != 0 }

// promises returns the public first bytes that are promised for an end.
func (c *Control) promises(s Side) (taken byteSet) {
	for _, p := range c.pages {
		if p.side == s {
			taken.add(p.public)
		}
	}
	return taken
}

// uses counts a leg whose IDs depend on a promise, or, with -1, uncounts it.
func (c *Control) uses(l *leg, more int32) {
	if !c.connection.hides(l.side) {
		return
	}
	for i := range c.pages {
		if p := &c.pages[i]; p.side == l.side && p.own == l.own.High() && p.public == l.public.High() {
			p.uses += more
			return
		}
	}
	if more > 0 {
		c.pages = append(c.pages, pagePair{side: l.side, own: l.own.High(), public: l.public.High(), uses: more})
	}
}
