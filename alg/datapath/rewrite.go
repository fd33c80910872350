package datapath

import (
	"net/netip"

	"pptpalg/alg/gre"
	"pptpalg/alg/packet"
)

// Rewrite translates the IPv4 packet in b, in place, and counts it: destination address,
// IP checksum and Call ID change if it belongs to a flow, and nothing else ever does. The
// checksum is moved by the difference (RFC 1624), so it is right after if it was before.
// Bytes must be the whole packet; what is not, passes.
func (t *Table) Rewrite(b []byte) Outcome {
	o := t.rewrite(b)
	t.counts[o.Reason].Add(1)
	return o
}

func (t *Table) rewrite(b []byte) Outcome {
	p, err := packet.ParseIPv4(b)
	if err != nil {
		return Outcome{Pass, Malformed, 0}
	}
	if p.Protocol() != gre.Protocol {
		return Outcome{Pass, NotPPTP, 0}
	}
	if p.Fragment() {
		return Outcome{Pass, Fragment, 0}
	}
	h, err := gre.Parse(p.Payload())
	if err != nil {
		return Outcome{Pass, reasonOf(err), 0}
	}
	s := t.find(keyFrom(p.Src().As4(), p.Dst().As4(), h.CallID()))
	if s == nil {
		return Outcome{Pass, NoFlow, 0}
	}
	return s.translate(p, h)
}

// translate edits a packet of the flow, and counts it as the flow's.
func (s *state) translate(p packet.IPv4, h gre.Header) Outcome {
	s.packets.Add(1)
	s.bytes.Add(uint64(p.Len()))
	if !s.flow.changes() {
		return Outcome{Keep, Unchanged, s.flow.mark}
	}
	p.SetDst(netip.AddrFrom4(s.flow.newDst))
	h.SetCallID(s.flow.newKey)
	return Outcome{Edited, Rewritten, s.flow.mark}
}

// reasonOf tells other kinds of GRE from PPTP's that is broken.
func reasonOf(err error) Reason {
	switch err {
	case gre.ErrVersion, gre.ErrProtocol, gre.ErrFlags:
		return NotPPTP
	}
	return Malformed
}
