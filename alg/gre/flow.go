package gre

import (
	"net/netip"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// packed is a calls.Flow as the table keeps it, in 28 bytes instead of 112.
type packed struct {
	src, dst, newSrc, newDst [4]byte
	key, newKey              pptp.CallID
	zone                     uint16
	mark                     uint32
}

// pack reports false if an address is not IPv4.
func pack(f calls.Flow) (packed, bool) {
	if !f.Src.Is4() || !f.Dst.Is4() || !f.NewSrc.Is4() || !f.NewDst.Is4() {
		return packed{}, false
	}
	return packed{
		src: f.Src.As4(), dst: f.Dst.As4(), newSrc: f.NewSrc.As4(), newDst: f.NewDst.As4(),
		key: f.Key, newKey: f.NewKey, zone: f.Zone, mark: f.Mark,
	}, true
}

func (p packed) unpack() calls.Flow {
	return calls.Flow{
		Src: netip.AddrFrom4(p.src), Dst: netip.AddrFrom4(p.dst), Key: p.key,
		NewSrc: netip.AddrFrom4(p.newSrc), NewDst: netip.AddrFrom4(p.newDst), NewKey: p.newKey,
		Zone: p.zone, Mark: p.mark,
	}
}

// same reports whether two flows are the same except for their mark.
func (p packed) same(o packed) bool {
	p.mark = o.mark
	return p == o
}

// enters is the key of a packet of the flow when it comes, and leaves its key when it goes.
func (p packed) enters() key { return keyFrom(p.src, p.dst, p.key) }
func (p packed) leaves() key { return keyFrom(p.newSrc, p.newDst, p.newKey) }

// inside is its key between Enter and Leave.
func (s *state) inside() key { return keyFrom(s.flow.src, s.flow.newDst, s.via) }

// sourced reports whether the flow's source is translated.
func (p packed) sourced() bool { return p.newSrc != p.src }
