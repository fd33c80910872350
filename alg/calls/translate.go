package calls

import "pptpalg/alg/pptp"

// Field is what a Call ID field of a message means.
type Field uint8

// The meanings of a Call ID field.
const (
	Requests Field = iota // the sender's own ID, given to a call that it asks for
	Assigns               // the sender's own ID, given to a call that it was asked for
	Owns                  // the sender's own ID of a call that it knows
	Peers                 // the receiver's ID
	Notifies              // Call-Disconnect-Notify's: see form
)

// Translate returns what the receiver must see in place of an ID in a message of the
// sender. ok is false for an ID that belongs to no known call, or that gets no public ID.
//
// sent is nil, or the first byte of the translation if that has been released already, as
// TranslateHigh returned it: then the result begins with it.
func (c *Control) Translate(sender Side, f Field, id pptp.CallID, sent *byte) (result pptp.CallID, ok bool) {
	switch f {
	case Requests, Assigns:
		if sent == nil && c.begin(sender, f) != NoneRefused {
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
		return c.noticed(&forward, sender, id, sent)
	}
	return untranslated(id, sent), false
}

// begin gives up what an earlier message of the sender has left, and reports whether a
// message that requests a call is beyond a limit.
func (c *Control) begin(sender Side, f Field) Refusal {
	c.Abandon(sender)
	if f != Requests {
		return NoneRefused
	}
	why := c.admit(sender)
	c.pending[sender] = assignment{refused: why, admitted: why == NoneRefused}
	return why
}

// TranslateHigh returns the first byte of the translation of an ID of which only
// the first byte is at hand. A segment that ends inside an ID cannot be held
// back: its sender may wait for its acknowledgement before it sends the rest.
func (c *Control) TranslateHigh(sender Side, f Field, high byte) byte {
	switch f {
	case Requests, Assigns:
		if c.begin(sender, f) != NoneRefused {
			return c.publicHigh(sender, high)
		}
		return c.assignHigh(sender, high)
	case Owns:
		return c.publicHigh(sender, high)
	case Peers:
		return c.ownHigh(sender.Other(), high)
	}
	return c.noticedHigh(&forward, sender, high)
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
