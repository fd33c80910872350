package conntrack

import "pptpalg/alg/pptp"

// Field is what a Call ID field of a message means.
type Field uint8

// The meanings of a Call ID field.
const (
	Requests Field = iota // the sender's own ID, given to a call that it asks for
	Assigns               // the sender's own ID, given to a call that it was asked for
	Owns                  // the sender's own ID of a call that it knows
	Peers                 // the receiver's ID
	Notifies              // Call-Disconnect-Notify's: see notified
)

// Translate returns what the receiver is to see in place of an ID in a message of
// the sender. ok is false for an ID that belongs to no known call, or for which no
// public form can be had.
//
// sent is nil, or the first byte of the translation where that has been let go
// already, as TranslateHigh gave it: then the result begins with it.
func (c *Control) Translate(sender Side, f Field, id pptp.CallID, sent *byte) (result pptp.CallID, ok bool) {
	switch f {
	case Requests, Assigns:
		if f == Requests && sent == nil && c.refuses(sender) {
			return id, false
		}
		return c.Assign(sender, id, sent)
	case Owns:
		if l := c.ownLeg(sender, id); l != nil && begins(l.public, sent) {
			return l.public, true
		}
	case Peers:
		if l := c.leg(sender.Other(), id); l != nil && begins(l.own, sent) {
			return l.own, true
		}
	case Notifies:
		if l, own := c.notified(sender, id, sent); l != nil {
			return own, true
		}
	}
	return untranslated(id, sent), false
}

// TranslateHigh returns the first byte of the translation of an ID of which only
// the first byte is at hand. A segment that ends inside an ID cannot be held
// back: its sender may wait for its acknowledgement before it sends the rest.
func (c *Control) TranslateHigh(sender Side, f Field, high byte) byte {
	switch f {
	case Requests, Assigns:
		if f == Requests && c.refuses(sender) {
			return c.publicHigh(sender, high)
		}
		return c.assignHigh(sender, high)
	case Owns:
		return c.publicHigh(sender, high)
	case Peers:
		return c.ownHigh(sender.Other(), high)
	}
	return c.notifiedHigh(sender, high)
}

func begins(id pptp.CallID, sent *byte) bool { return sent == nil || id.High() == *sent }

func untranslated(id pptp.CallID, sent *byte) pptp.CallID {
	if sent == nil {
		return id
	}
	return pptp.CallID(*sent)<<8 | pptp.CallID(id.Low())
}

func (c *Control) publicHigh(s Side, own byte) byte {
	for _, p := range c.pages {
		if p.side == s && p.own == own {
			return p.public
		}
	}
	return own
}

func (c *Control) ownHigh(s Side, public byte) byte {
	for _, p := range c.pages {
		if p.side == s && p.public == public {
			return p.own
		}
	}
	return public
}

// notified finds the call of a Call-Disconnect-Notify. By the RFC, and from
// poptop and mpd, the ID is the sender's own; from accel-ppp it is the receiver's;
// from accel-ppp up to 1.14 it is the receiver's with its bytes exchanged.
// Public IDs are chosen so that the value tells which (see fits).
func (c *Control) notified(sender Side, id pptp.CallID, sent *byte) (*leg, pptp.CallID) {
	if l := c.ownLeg(sender, id); l != nil && begins(l.public, sent) {
		return l, l.public
	}
	if l := c.leg(sender.Other(), id); l != nil && begins(l.own, sent) {
		return l, l.own
	}
	if l := c.leg(sender.Other(), id.Swap()); l != nil && begins(l.own.Swap(), sent) {
		return l, l.own.Swap()
	}
	return nil, 0
}

// notifiedHigh decides by the first byte alone, in the order of notified. It can
// be wrong only where an endpoint chose an ID that begins like another's form.
func (c *Control) notifiedHigh(sender Side, high byte) byte {
	to := sender.Other()
	result, rank := high, 4
	for _, call := range c.calls {
		from, own := &call.legs[sender], &call.legs[to]
		switch {
		case from.known && from.own.High() == high && rank > 1:
			result, rank = from.public.High(), 1
		case own.known && own.public.High() == high && rank > 2:
			result, rank = own.own.High(), 2
		case own.known && own.public.Low() == high && rank > 3:
			result, rank = own.own.Low(), 3
		}
	}
	return result
}
