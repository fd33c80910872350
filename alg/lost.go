package alg

import (
	"time"

	"pptpalg/alg/packet"
)

// A control connection is lost when conntrack has no entry of it any more although TCP has
// not ended: somebody deleted the entry, it timed out, or the address that NAT gave it went
// away. Its caller makes the entry again where that can help. Where it cannot, the calls end
// with cause conntrack.Lost, and the ends do not know yet.

// lostLinger is how long the record of such a connection outlives its calls: its end may
// be silent for long before it speaks again.
const lostLinger = time.Hour

// mostResets is how many of its segments are answered with a RST. An end that still goes on
// does not get them, and may as well be read again.
const mostResets = 8

// silentMost is how long a connection may be silent whose entry is made again: an end that
// lives sends an Echo-Request every minute (RFC 2637 section 3.1.4), but some do not. Where
// GRE is counted, and as silent, and the entry was made again before, countedSilentMost is
// enough. Once one end has sent its FIN, halfSilentMost is as long as conntrack waits for the other's.
const (
	silentMost        = 24 * time.Hour
	countedSilentMost = 10 * time.Minute
	halfSilentMost    = 2 * time.Minute
)

// flowing is how long ago GRE of a call may have been seen last that is held to flow.
const flowing = 30 * time.Second

// ResetLost says whether the outcome of a segment is to tell that its sender should get a
// RST: if NAT translates the sender's address, and the segment belongs to a connection whose
// calls ended with cause conntrack.Lost. So it dials again at once, instead of waiting
// for answers.
func (e *Editor) ResetLost(wanted bool) { e.resets = wanted }

// resetDue reports whether segments of a sender's connection are to be answered with a RST.
// Conntrack, which may have made an entry of the first one, is not asked about these. A
// SYN/ACK, and a segment that lies far off its stream, are of a later connection.
func (e *Editor) resetDue(s sender, seg packet.Segment) bool {
	d := s.dialogue
	if !e.resets || d.resets == 0 {
		return false
	}
	at := &d.halves[s.side].stream
	if seg.Flags().Has(packet.SYN) || at.Placed() && !near(seg.Seq(), at.Next()) {
		d.resets = 0
	}
	return d.resets > 0
}

// reset has the outcome tell that the segment's sender is to get a RST, if it is one whom
// the gateway can tell.
func (t *turn) reset() bool {
	if t.seg.Flags().Has(packet.RST) || !t.control.Connection().Endpoint(t.sender).Translated() {
		return false
	}
	t.resets--
	t.out.Reset, t.out.Reason = true, Deserted
	return true
}

// near reports whether two sequence numbers lie within a window that is not scaled.
func near(a, b packet.Seq) bool { return max(a.Sub(b), b.Sub(a)) < 1<<16 }

// carries reports whether a connection that conntrack had as closed before it lost the entry
// has not ended: neither FIN fits its streams, and GRE flows.
func (d *dialogue) carries(at time.Duration, w Witness, e *Editor) bool {
	moved, counted := d.moved(w, e)
	return counted && at-moved < flowing && !d.halves[0].fin && !d.halves[1].fin
}

// silent reports whether both a connection and its calls' GRE have been silent for so
// long that its ends are taken to be gone.
func (d *dialogue) silent(at time.Duration, w Witness, e *Editor) bool {
	most := silentMost
	moved, counted := d.moved(w, e)
	if counted && d.revived {
		most = countedSilentMost
	}
	if d.halves[0].fin || d.halves[1].fin {
		most = halfSilentMost
	}
	return at-max(d.heard, moved) >= most
}

// moved returns when GRE of one of the connection's calls was last seen to flow, and whether
// that of all of them is counted.
func (d *dialogue) moved(w Witness, e *Editor) (last time.Duration, counted bool) {
	counted = true
	for _, call := range d.control.Records(nil) {
		moved := w.Moved(call)
		counted = counted && !moved.IsZero()
		if !moved.IsZero() {
			last = max(last, e.since(moved))
		}
	}
	return last, counted
}
