package gre

import (
	"net/netip"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// Enter translates the IPv4 packet in b as it comes, in place, and counts it. Of a flow's
// packet the destination and Call ID change; of an error about one, the destination, and
// all of what it quotes that was translated. Checksums are moved by the difference (RFC
// 1624), so they are right after if they were before. Nothing else ever changes.
//
// Bytes must be the whole packet; what is not, passes.
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

// enterError has an error go to who sent the packet that it is about, in the terms of that
// one. Errors come from where the packet had left already, or, from the gateway itself,
// before it had.
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

// Leave translates a packet that Enter has let in, in place, once it is known where it
// goes: its source. Before that the source must stay as it was: to routing, one of the
// gateway's own addresses that comes from a network is forged.
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

// leaveError has an error about a packet come from where that was sent to, if this is
// translated: to its receiver nobody else is there.
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

// quotedGRE returns what an ICMP error quotes, if that is PPTP's GRE.
func quotedGRE(p packet.IPv4) (packet.Quote, pptp.CallID, bool) {
	q, err := packet.ParseQuote(p.Payload())
	if err != nil || q.Protocol() != packet.ProtocolGRE {
		return q, 0, false
	}
	id, err := packet.QuotedCallID(q.Payload())
	return q, id, err == nil
}

// reasonOf tells other kinds of GRE from PPTP's that is broken.
func reasonOf(err error) Reason {
	switch err {
	case packet.ErrVersion, packet.ErrNotPPP, packet.ErrFlags:
		return NotPPTP
	}
	return Malformed
}
