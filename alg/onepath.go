package alg

import "pptpalg/alg/packet"

// onePath takes Multipath TCP's option out of a SYN and a SYN+ACK. Both ends then speak
// plain TCP (RFC 8684 section 3.7), and whoever wanted another way for the data of a connection
// that has begun resets it (section 3.2).
//
// The ways of a connection have sequence numbers of their own, and a message may come by any
// of them, or by several: nobody on one way can tell where it begins. And the data may have
// a checksum of its own (section 3.3), with which the receiver refuses what was edited.
func (e *Editor) onePath(seg packet.Segment) {
	if !seg.Flags().Has(packet.SYN) || !seg.BlankOption(packet.MPTCP) {
		return
	}
	if e.out.Verdict == Accept {
		e.out.Verdict = Edited
	}
	if !e.out.Leave {
		e.out.Reason = Multipath
	}
}
