package alg

import (
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
)

// A control connection is lost when conntrack no longer has an entry of it although TCP has
// not ended: somebody deleted the entry, it timed out, or the address that NAT gave it
// disappeared. The caller creates the entry again if that can help. If not, the calls end
// with cause calls.Lost, and their ends do not know it yet.

// lostLinger is how long the record of such a connection outlives its calls, because its
// end may be silent for a long time before it sends again.
const lostLinger = time.Hour

// mostResets is how many of its segments are answered with a RST. An end that still sends
// does not receive these RSTs, so its connection is read again.
const mostResets = 8

// silentMost is how long a connection may be silent and still have its entry created again.
// A living end sends an Echo-Request every minute (RFC 2637 section 3.1.4), but some do not.
// If GRE is counted and is silent too, and the entry was created again before,
// countedSilentMost is enough. After one end's FIN it is HalfSilentMost, as long as
// conntrack waits for the other FIN; and, if GRE is counted, after a RST that lies behind bytes
// that were lost on their way here: conntrack has given the connection 10 seconds then.
const (
	silentMost        = 24 * time.Hour
	countedSilentMost = 10 * time.Minute
	HalfSilentMost    = 2 * time.Minute
)

// stopping is how long GRE may still flow after conntrack was first seen to have a
// connection as closed, if that is true.
const stopping = 2 * time.Second

// ResetLost sets whether Outcome.Reset may be true: for a segment whose sender's address NAT
// translates, on a connection whose calls ended with cause calls.Lost. The RST makes that
// end dial again at once, instead of waiting for answers.
func (e *Editor) ResetLost(wanted bool) { e.resets = wanted }

// resetDue reports whether segments of a sender's connection are answered with a RST.
// Conntrack, which may have created an entry for the first such segment, is not asked about
// them. A SYN/ACK, and a segment far off the stream, belong to a later connection.
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

// reset sets Outcome.Reset, if the segment's sender is one that the gateway can reach.
func (t *turn) reset() bool {
	if t.flags.Has(packet.RST) || !t.control.Connection().Endpoint(t.sender).Translated() {
		return false
	}
	t.resets--
	t.out.Reset, t.out.Reason = true, Deserted
	return true
}

// near reports whether two sequence numbers lie within an unscaled window.
func near(a, b packet.Seq) bool { return max(a.Sub(b), b.Sub(a)) < 1<<16 }

// carries reports whether a connection has not ended although conntrack had it as closed
// before it lost the entry: no FIN fits its streams, and GRE flows.
func (d *dialogue) carries(w Witness, e *Editor) bool {
	flowed, _ := d.last(w.Flowed, e)
	return flowed > d.closing+stopping && !d.halves[0].fin && !d.halves[1].fin
}

// silent reports whether a connection and its calls' GRE have been silent for so long that
// its ends count as dead.
func (d *dialogue) silent(at time.Duration, w Witness, e *Editor) bool {
	most := silentMost
	moved, counted := d.last(w.Moved, e)
	if counted && d.revived {
		most = countedSilentMost
	}
	if d.halves[0].fin || d.halves[1].fin || counted && d.shot {
		most = HalfSilentMost
	}
	return at-max(d.heard, moved) >= most
}

// last returns the latest time that when tells of any of the connection's calls, and whether it
// tells one of all of them.
func (d *dialogue) last(when func(calls.Record) time.Time, e *Editor) (last time.Duration, all bool) {
	all = true
	for _, call := range d.control.Records(nil) {
		t := when(call)
		all = all && !t.IsZero()
		if !t.IsZero() {
			last = max(last, e.since(t))
		}
	}
	return last, all
}
