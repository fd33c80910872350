package conntrack

import "pptpalg/alg/pptp"

// Undo is the way back from Translate: it returns what a sender whose end is
// not translated wrote, given the ID that its receiver sees. ok and sent are as
// for Translate.
func (c *Control) Undo(sender Side, f Field, id pptp.CallID, sent *byte) (result pptp.CallID, ok bool) {
	switch f {
	case Peers:
		return c.Translate(sender.Other(), Owns, id, sent)
	case Notifies:
		return c.undoNotified(sender, id, sent)
	}
	return c.Translate(sender, f, id, sent)
}

// UndoHigh is Undo for the first byte of an ID of which only that is at hand.
func (c *Control) UndoHigh(sender Side, f Field, high byte) byte {
	if f == Peers || f == Notifies && !c.ownsHigh(sender, high) {
		return c.publicHigh(sender.Other(), high)
	}
	return c.TranslateHigh(sender, f, high)
}

// undoNotified takes the three meanings of a Call-Disconnect-Notify in the order
// of notified.
func (c *Control) undoNotified(sender Side, id pptp.CallID, sent *byte) (pptp.CallID, bool) {
	if l := c.ownLeg(sender, id); l != nil && begins(l.public, sent) {
		return l.public, true
	}
	if l := c.ownLeg(sender.Other(), id); l != nil && begins(l.public, sent) {
		return l.public, true
	}
	if l := c.ownLeg(sender.Other(), id.Swap()); l != nil && begins(l.public.Swap(), sent) {
		return l.public.Swap(), true
	}
	return untranslated(id, sent), false
}

// ownsHigh reports whether an ID that the end gave to a call begins with the byte.
func (c *Control) ownsHigh(s Side, high byte) bool {
	for _, call := range c.calls {
		if l := &call.legs[s]; l.known && l.own.High() == high {
			return true
		}
	}
	return false
}
