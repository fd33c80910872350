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
	switch f {
	case Peers:
		return c.publicHigh(sender.Other(), high)
	case Notifies:
		return c.undoNotifiedHigh(sender, high)
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

// undoNotifiedHigh decides by the first byte alone, in the order of undoNotified.
func (c *Control) undoNotifiedHigh(sender Side, high byte) byte {
	result, rank := high, 4
	for _, call := range c.calls {
		from, to := &call.legs[sender], &call.legs[sender.Other()]
		switch {
		case from.known && from.own.High() == high && rank > 1:
			result, rank = from.public.High(), 1
		case to.known && to.own.High() == high && rank > 2:
			result, rank = to.public.High(), 2
		case to.known && to.own.Low() == high && rank > 3:
			result, rank = to.public.Low(), 3
		}
	}
	return result
}
