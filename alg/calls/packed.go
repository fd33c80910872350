package calls

import "net/netip"

// packed is a Connection as the table keeps it, in 32 bytes instead of 160. The table is
// for IPv4; for any other address it keeps 0.0.0.0. It does not keep the helper's name,
// because a connection with a helper has no calls here, nor Answered and Reset, which are not
// disputed.
type packed struct {
	original, reply packedTuple
	zone            uint16
	way             Way
	opening         bool
	closing         bool
	mark            uint32
}

type packedTuple struct{ src, dst packedPort }

type packedPort struct {
	addr [4]byte
	port uint16
}

func pack(c Connection) packed {
	return packed{
		original: packTuple(c.Original), reply: packTuple(c.Reply),
		zone: c.Zone, way: c.Way, mark: c.Mark, opening: c.Opening, closing: c.Closing,
	}
}

func packTuple(t Tuple) packedTuple { return packedTuple{packPort(t.Src), packPort(t.Dst)} }

func packPort(a netip.AddrPort) packedPort { return packedPort{as4(a.Addr()), a.Port()} }

func (p *packed) unpack() Connection {
	return Connection{
		Original: p.original.unpack(), Reply: p.reply.unpack(),
		Zone: p.zone, Way: p.way, Mark: p.mark, Opening: p.opening, Closing: p.closing,
	}
}

func (t packedTuple) unpack() Tuple { return Tuple{t.src.unpack(), t.dst.unpack()} }

func (p packedPort) unpack() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(p.addr), p.port)
}

// address is an end's own, as Connection.Endpoint has it.
func (p *packed) address(s Side) [4]byte {
	if s == Initiator {
		return p.original.src.addr
	}
	return p.reply.src.addr
}

// public is the address under which the other end knows this one.
func (p *packed) public(s Side) [4]byte {
	if s == Initiator {
		return p.reply.dst.addr
	}
	return p.original.dst.addr
}

// zoneOf is as Connection.ZoneOf has it.
func (p *packed) zoneOf(sender Side) uint16 {
	if !p.way.holds(sender) {
		return 0
	}
	return p.zone
}

// hides reports whether NAT translates an end's address.
func (p *packed) hides(s Side) bool { return p.address(s) != p.public(s) }

// as4 is total: the zero address stands for what is not IPv4.
func as4(a netip.Addr) [4]byte {
	if a = a.Unmap(); !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}
