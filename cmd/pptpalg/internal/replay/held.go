package replay

import (
	"slices"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
)

// The editor drops a segment ahead of a gap, since TCP sends it again once the gap
// is closed. In a capture it does not come again: it was delivered, or it would
// not be acknowledged. So replay holds it, and sends it again when the capture
// shows the acknowledgement. If the bytes before it came late, it is read then. If
// they never came, whoever captured has missed them, and it is read all the same.

// mostHeld is how many segments of one direction are held.
const mostHeld = 256

// held is a segment that waits.
type held struct {
	frame
	at       Moment
	start    int
	seq, end packet.Seq // of its first byte, and behind its last
}

// hold keeps a segment, as it was captured, in the order of sequence numbers.
func (l *link) hold(from calls.Side, c captured, seg packet.Segment) {
	waiting := l.held[from]
	if len(waiting) >= mostHeld {
		return
	}
	h := held{c.keep(), c.at, c.start, seg.Seq(), seg.Seq().Add(len(seg.Payload()))}
	at := len(waiting)
	for at > 0 && h.seq.Before(waiting[at-1].seq) {
		at--
	}
	l.held[from] = slices.Insert(waiting, at, h)
}

// release sends the held segments again that a segment of the other end
// acknowledges.
func (r *run) release(l *link, by calls.Side, seg packet.Segment) error {
	from := by.Other()
	if !seg.Flags().Has(packet.ACK) {
		return nil
	}
	for len(l.held[from]) > 0 && !seg.Ack().Before(l.held[from][0].end) {
		h := l.held[from][0]
		l.held[from] = l.held[from][1:]
		if err := r.again(l, from, h); err != nil {
			return err
		}
	}
	return nil
}

// follow sends the held segments again that are no longer ahead, now that the
// stream has come to a sequence number.
func (r *run) follow(l *link, from calls.Side, next packet.Seq) error {
	for len(l.held[from]) > 0 && !l.held[from][0].seq.After(next) {
		h := l.held[from][0]
		l.held[from] = l.held[from][1:]
		if h.end.After(next) {
			next = h.end
		}
		if err := r.again(l, from, h); err != nil {
			return err
		}
	}
	return nil
}

// again sends a held segment again. If bytes before it are still missing, they will
// not come.
func (r *run) again(l *link, from calls.Side, h held) error {
	sent := r.resend(h)
	out := r.edit(l, from, sent)
	if out.Reason == alg.Gap || out.Reason == alg.Unread {
		r.note(l, from, h.at, "earlier bytes were not captured: reading continues here")
		l.cut = true
		l.gateway.editor.Missed(l.tuple(from), h.seq)
		sent = r.resend(h)
		out = r.edit(l, from, sent)
	}
	if out.Verdict == alg.Drop {
		return nil // it stays unread
	}
	r.report.Totals.Behind--
	r.tell(l, from, sent, out)
	return r.put(sent.frame)
}

// resend returns a held segment as it was captured.
func (r *run) resend(h held) captured {
	f := h.frame
	f.data = slices.Clone(f.data)
	c, _, _ := view(f, h.start, &r.resent) // it was viewed before
	c.at = h.at
	return c
}
