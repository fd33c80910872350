package alg

import (
	"encoding/binary"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// translateHigh translates the first byte of an ID in the turn's direction.
func (t *turn) translateHigh(f calls.Field, high byte) byte {
	if t.Undo {
		return t.control.UndoHigh(t.sender, f, high)
	}
	return t.control.TranslateHigh(t.sender, f, high)
}

// translate translates an ID in the turn's direction.
func (t *turn) translate(f calls.Field, id pptp.CallID, sent *byte) (pptp.CallID, bool) {
	if t.Undo {
		return t.control.Undo(t.sender, f, id, sent)
	}
	return t.control.Translate(t.sender, f, id, sent)
}

// rewrite restores in the prefix what the sender wrote, the only form that the call table
// knows.
func (r *reader) rewrite(field int, id pptp.CallID) {
	binary.BigEndian.PutUint16(r.prefix[field:], uint16(id))
}

// told returns an ID as its sender wrote it and as its receiver sees it.
func (t *turn) told(id Translation) Translation {
	if t.Undo {
		return Translation{From: id.To, To: id.From}
	}
	return id
}
