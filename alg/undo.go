package alg

import (
	"encoding/binary"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// Undo is Edit for those who look on from inside the NAT: it reads a segment as
// its receiver gets it, and gives it the Call IDs that its sender wrote. The
// segment's addresses and ports are to be its sender's as well. The sender's own
// end must not be translated; a segment of one that is goes to Edit.
//
// What is undone is what Edit would have done, so that the two may be called for
// segments of one connection as they come.
func (e *Editor) Undo(seg packet.Segment, now time.Time) Outcome {
	e.turn = turn{seg: seg, now: now, undo: true}
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

// rewrite has the prefix say what the sender wrote: the call table knows no other
// form.
func (r *reader) rewrite(field int, id pptp.CallID) {
	binary.BigEndian.PutUint16(r.prefix[field:], uint16(id))
}

// told returns an ID as its sender wrote it and as its receiver is shown it.
func (t *turn) told(id Translation) Translation {
	if t.undo {
		return Translation{From: id.To, To: id.From}
	}
	return id
}
