package calls

import "pptpalg/alg/pptp"

// Undo reverses Translate: given the ID that the receiver sees, it returns what the sender
// wrote, if the sender's end is not translated. ok and sent are as for Translate.
func (c *Control) Undo(sender Side, f Field, id pptp.CallID, sent *byte) (result pptp.CallID, ok bool) {
	switch f {
	case Peers:
		return c.Translate(sender.Other(), Owns, id, sent)
	case Notifies:
		return c.noticed(&backward, sender, id, sent)
	}
	return c.Translate(sender, f, id, sent)
}

// UndoHigh is Undo for the first byte of an ID, if only that is known.
func (c *Control) UndoHigh(sender Side, f Field, high byte) byte {
	switch f {
	case Peers:
		return c.publicHigh(sender.Other(), high)
	case Notifies:
		return c.noticedHigh(&backward, sender, high)
	}
	return c.TranslateHigh(sender, f, high)
}
