package conntrack

import (
	"math/rand/v2"
	"slices"

	"pptpalg/alg/pptp"
)

// Assign chooses the public form of an ID that the sender gives to a call. It is
// kept for the Request or Reply of the same message; Abandon gives it up. sent is
// as for Translate.
//
// Within a connection the same ID keeps the same public form, so that a request
// sent again for a call that lives looks to its receiver as it would without NAT.
func (c *Control) Assign(s Side, own pptp.CallID, sent *byte) (public pptp.CallID, ok bool) {
	if sent == nil {
		c.assignHigh(s, own.High())
	}
	a := &c.pending[s]
	if l := c.ownLeg(s, own); l != nil && begins(l.public, sent) {
		c.Abandon(s)
		*a = assignment{own: own, public: l.public, ready: true}
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

// refuses reports whether a request is beyond a limit.
func (c *Control) refuses(s Side) bool {
	c.Abandon(s)
	c.pending[s].refused = c.admit(s)
	return c.pending[s].refused != NoneRefused
}

// Refusal returns why the ID that the end assigned last has no public form.
func (c *Control) Refusal(s Side) Refusal { return c.pending[s].refused }

// Abandon gives up what was assigned to the end and belongs to no call.
func (c *Control) Abandon(s Side) {
	c.release(s, c.pending[s])
	c.pending[s] = assignment{}
}

// assigned hands over what Assign has kept for the ID.
func (c *Control) assigned(s Side, own pptp.CallID) (assignment, bool) {
	a := c.pending[s]
	c.pending[s] = assignment{}
	if !a.ready || a.own != own {
		c.release(s, a)
		return assignment{}, false
	}
	return a, true
}

func (c *Control) release(s Side, a assignment) {
	if a.reserved {
		c.table.free(c.connection.space(s), a.public)
	}
}

// spaced reports whether the end's IDs lie in a space that others share.
func (c *Control) spaced(s Side) bool {
	return c.local[s] || c.connection.hides(s)
}

// assignHigh promises a first byte for the public form of an ID that begins with
// the byte own. It reserves an ID that begins with it, so that the promise can be
// kept whatever byte follows.
func (c *Control) assignHigh(s Side, own byte) byte {
	c.Abandon(s)
	if !c.connection.hides(s) {
		return own
	}
	sp := c.table.space(c.connection.space(s))
	high, ok := c.promise(s, sp, own)
	if !ok {
		c.pending[s].refused = SpaceFull
		return c.publicHigh(s, own)
	}
	id, _ := sp.highest(high, func(pptp.CallID) bool { return true })
	sp.take(id)
	c.pending[s] = assignment{public: id, reserved: true}
	return high
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
		a.public = own
		if l := c.table.entering[c.connection.entering(s, own)]; l != nil {
			a.refused = IDTaken // by a host behind the gateway
			return false
		}
	default:
		a.public = own
		return true
	}
	c.table.space(c.connection.space(s)).take(a.public)
	a.reserved = true
	return true
}

// choose returns an ID of a page in which there is room: the endpoint's own ID if
// it can be had, else one that no Call-Disconnect-Notify can confuse, else any.
func (c *Control) choose(s Side, high byte, own pptp.CallID) pptp.CallID {
	sp := c.table.space(c.connection.space(s))
	if c.table.cfg.Random {
		if id, ok := sp.draw(high, func(id pptp.CallID) bool { return c.fits(s, id, own) }); ok {
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
// Call-Disconnect-Notify apart (see notified): neither it nor its byte swap may be
// a live ID of the other end on this connection, and its byte swap must not be the
// public form of anything but itself.
func (c *Control) fits(s Side, public, own pptp.CallID) bool {
	swapped := public.Swap()
	if swapped == public && public != own {
		return false
	}
	return c.ownLeg(s.Other(), public) == nil && c.ownLeg(s.Other(), swapped) == nil &&
		(swapped == public || c.leg(s, swapped) == nil)
}

// spare is how many IDs that begin with a byte must be free for it to be promised,
// as long as others have so many: a few for each call that the endpoint may open on
// the connection later, lest a second promise be needed.
const spare = 32

// promise returns the first byte that public forms have on this connection for IDs
// that begin with own. The same byte is preferred; another is taken where few IDs
// that begin with it are free. A public first byte stands for one own byte only,
// so that the way back is decided by one byte. The way there is too, until an
// endpoint has more calls on one connection than IDs of one first byte are free.
func (c *Control) promise(s Side, sp *space, own byte) (public byte, ok bool) {
	for _, p := range c.pages {
		if p.side == s && p.own == own && sp.room(p.public) > 0 {
			return p.public, true
		}
	}
	c.pages = slices.DeleteFunc(c.pages, func(p pagePair) bool { return p.side == s && !c.keeps(p) })
	first := own
	if c.table.cfg.Random {
		first = byte(rand.Uint32())
	}
	for _, least := range []int{spare, 1} {
		for i := range pageSize {
			public = first + byte(i)
			if sp.room(public) >= least && !c.promised(s, public) {
				c.pages = append(c.pages, pagePair{s, own, public})
				return public, true
			}
		}
	}
	return 0, false
}

// promiseSame promises a first byte for itself, if nothing else is promised for it: an
// ID that passed unedited has become public as it was.
func (c *Control) promiseSame(s Side, high byte) {
	if c.connection.hides(s) && !c.promised(s, high) && c.publicHigh(s, high) == high {
		c.pages = append(c.pages, pagePair{s, high, high})
	}
}

func (c *Control) promised(s Side, public byte) bool {
	return slices.ContainsFunc(c.pages, func(p pagePair) bool { return p.side == s && p.public == public })
}

// keeps reports whether an ID in use depends on a promise.
func (c *Control) keeps(p pagePair) bool {
	for _, call := range c.calls {
		if l := &call.legs[p.side]; l.known && l.own.High() == p.own && l.public.High() == p.public {
			return true
		}
	}
	return false
}
