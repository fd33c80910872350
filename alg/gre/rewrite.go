package gre

import (
	"net/netip"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// Enter translates the incoming IPv4 packet in b, in place, and counts it. In a flow's
// packet the destination and Call ID change; in an error about one, the destination and
// everything translated that it quotes. Checksums change by the difference (RFC 1624), so
// they are right afterwards if they were right before. Nothing else ever changes.
//
// b must be the whole packet; anything else passes unchanged.
func (t *Table) Enter(b []byte) Outcome {
	o := t.enter(b)
	t.counts[o.Reason].Add(1)
	return o
}

func (t *Table) enter(b []byte) Outcome {
	p, err := packet.ParseIPv4(b)
	switch {
	case err != nil:
		return Outcome{Reason: Malformed}
	case p.Fragment():
		return Outcome{Reason: Fragment}
	case p.Protocol() == packet.ProtocolICMP:
		return t.enterError(p)
	case p.Protocol() != packet.ProtocolGRE:
		return Outcome{Reason: NotPPTP}
	}
	h, err := packet.ParseGRE(p.Payload())
	if err != nil {
		return Outcome{Reason: reasonOf(err)}
	}
	s := t.entering.find(keyFrom(p.Src().As4(), p.Dst().As4(), h.CallID()))
	if s == nil {
		return Outcome{Reason: NoFlow}
	}
	return s.enter(p, h)
}

// enter edits a packet of the flow, and counts it as the flow's.
func (s *state) enter(p packet.IPv4, h packet.GRE) Outcome {
	s.packets.Add(1)
	s.bytes.Add(uint64(p.Len()))
	out := Outcome{Verdict: Keep, Reason: Unchanged, Mark: s.flow.mark, Sourced: s.flow.sourced()}
	if s.flow.newDst == s.flow.dst && s.via == s.flow.key {
		return out
	}
	p.SetDst(netip.AddrFrom4(s.flow.newDst))
	h.SetCallID(s.via)
	out.Verdict, out.Reason = Edited, Rewritten
	return out
}

// enterError sends an error to the sender of the packet that it is about, and makes it
// quote what that sender sent. Errors come from beyond the gateway, about the packet after
// Leave, or from the gateway itself, about the packet before Leave.
func (t *Table) enterError(p packet.IPv4) Outcome {
	q, id, ok := quotedGRE(p)
	if !ok || q.Src() != p.Dst() {
		return Outcome{Reason: NotPPTP}
	}
	k := keyFrom(q.Src().As4(), q.Dst().As4(), id)
	s := t.left.find(k)
	if s == nil {
		s = t.inside.find(k)
	}
	if s == nil {
		return Outcome{Reason: NotPPTP}
	}
	out := Outcome{Verdict: Keep, Reason: Error}
	if k == s.flow.enters() {
		return out
	}
	src := netip.AddrFrom4(s.flow.src)
	p.SetDst(src)
	q.SetSrc(src)
	q.SetDst(netip.AddrFrom4(s.flow.dst))
	q.SetWord(packet.AtCallID, uint16(s.flow.key))
	out.Verdict = Edited
	return out
}

// Leave translates the source of a packet that has passed Enter, in place, once its route
// is known. Before that the source must stay unchanged: for routing, a packet from a
// network with one of the gateway's own addresses as its source is forged.
func (t *Table) Leave(b []byte) Verdict {
	p, err := packet.ParseIPv4(b)
	switch {
	case err != nil || p.Fragment():
		return Pass
	case p.Protocol() == packet.ProtocolICMP:
		return t.leaveError(p)
	case p.Protocol() != packet.ProtocolGRE:
		return Pass
	}
	h, err := packet.ParseGRE(p.Payload())
	if err != nil {
		return Pass
	}
	s := t.inside.find(keyFrom(p.Src().As4(), p.Dst().As4(), h.CallID()))
	if s == nil {
		return Pass
	}
	return s.leave(p, h)
}

func (s *state) leave(p packet.IPv4, h packet.GRE) Verdict {
	if !s.flow.sourced() && s.via == s.flow.newKey {
		return Keep
	}
	p.SetSrc(netip.AddrFrom4(s.flow.newSrc))
	h.SetCallID(s.flow.newKey)
	return Edited
}

// leaveError makes an error about a packet come from the address to which the packet was
// sent, if that is translated: the error's receiver knows no other.
func (t *Table) leaveError(p packet.IPv4) Verdict {
	q, id, ok := quotedGRE(p)
	if !ok {
		return Pass
	}
	s := t.entering.find(keyFrom(q.Src().As4(), q.Dst().As4(), id))
	if s == nil {
		return Pass
	}
	if s.flow.newDst == s.flow.dst || p.Src() == q.Dst() {
		return Keep
	}
	p.SetSrc(q.Dst())
	return Edited
}

// quotedGRE returns the packet that an ICMP error quotes, if that is PPTP's GRE.
func quotedGRE(p packet.IPv4) (packet.Quote, pptp.CallID, bool) {
	q, err := packet.ParseQuote(p.Payload())
	if err != nil || q.Protocol() != packet.ProtocolGRE {
		return q, 0, false
	}
	id, err := packet.QuotedCallID(q.Payload())
	return q, id, err == nil
}

// reasonOf distinguishes other kinds of GRE from malformed PPTP GRE.
func reasonOf(err error) Reason {
	switch err {
	case packet.ErrVersion, packet.ErrNotPPP, packet.ErrFlags:
		return NotPPTP
	}
	return Malformed
}
