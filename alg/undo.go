package alg

import (
	"encoding/binary"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// Undo is Edit for captures from inside the NAT: it reads a segment as its receiver gets
// it, and restores the Call IDs that its sender wrote. The segment's addresses and ports
// must be the sender's as well. NAT must not translate the sender; segments of a translated
// sender go to Edit.
//
// Undo reverses what Edit would have done, so the two may be called for the segments of one
// connection as they come.
func (e *Editor) Undo(seg packet.Segment, now time.Time) Outcome {
	e.turn = newTurn(seg, now)
	e.turn.undo = true
	e.take(false)
	return e.out
}

// translateHigh translates the first byte of an ID in the turn's direction.
func (t *turn) translateHigh(f calls.Field, high byte) byte {
	if t.undo {
		return t.control.UndoHigh(t.sender, f, high)
	}
	return t.control.TranslateHigh(t.sender, f, high)
}

// translate translates an ID in the turn's direction.
func (t *turn) translate(f calls.Field, id pptp.CallID, sent *byte) (pptp.CallID, bool) {
	if t.undo {
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
	if t.undo {
		return Translation{From: id.To, To: id.From}
	}
	return id
}
