package alg

import "pptpalg/alg/packet"

// onePath removes Multipath TCP's option from a SYN and a SYN+ACK. Both ends then speak
// plain TCP (RFC 8684 section 3.7), and an end that wanted to join another subflow to a
// connection that has begun resets that subflow (section 3.2).
//
// Each subflow has sequence numbers of its own, and a message may come on any of them, or on
// several: on one subflow nothing tells where it begins. And the data may have a checksum
// of its own (section 3.3), with which the receiver refuses edited data.
func (e *Editor) onePath(seg packet.Segment) {
	if !e.turn.flags.Has(packet.SYN) || e.out.Reason == Elsewhere || !seg.BlankOption(packet.MPTCP) {
		return
	}
	if e.out.Verdict == Accept {
		e.out.Verdict = Edited
	}
	if !e.out.Leave {
		e.out.Reason = Multipath
	}
}
