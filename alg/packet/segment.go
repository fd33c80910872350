package packet

import (
	"encoding/binary"
	"net/netip"
)

// Offsets and sizes of the TCP header (RFC 9293 section 3.1), in bytes.
const (
	tcpSrcPort  = 0
	tcpDstPort  = 2
	tcpSeq      = 4
	tcpAck      = 8
	tcpOffset   = 12
	tcpFlags    = 13
	tcpChecksum = 16
	tcpMinimum  = MinimumTCP
)

// MinimumTCP is the length of a TCP header without options, in bytes.
const MinimumTCP = 20

// ProtocolTCP is TCP's IANA protocol number.
const ProtocolTCP = 6

// Segment is a view of one TCP segment over IPv4 in the bytes given to Parse.
// Every copy of it is a view of the same bytes. The zero value reads as all zeros
// with no payload, and takes no edit.
type Segment struct {
	ip   IPv4
	tcp  int // where the TCP header starts in ip, bytes
	data int // where the payload starts in ip, bytes
}

// Parse views the TCP segment in the IPv4 packet at the start of b. Bytes beyond the
// packet's total length are not part of it. It verifies neither checksum: edits keep a
// right one right and a wrong one wrong.
//
// The error is an Error; the segment is then the zero value.
func Parse(b []byte) (Segment, error) {
	ip, err := ParseIPv4(b)
	if err != nil {
		return Segment{}, err
	}
	return ip.Segment()
}

// Segment views the TCP segment in the packet, as Parse does.
func (p IPv4) Segment() (Segment, error) {
	if p.Protocol() != ProtocolTCP {
		return Segment{}, ErrNotTCP
	}
	if p.Fragment() {
		return Segment{}, ErrFragment
	}
	t := p.Payload()
	if len(t) < tcpMinimum {
		return Segment{}, ErrLength
	}
	header := int(t[tcpOffset]>>4) * 4
	if header < tcpMinimum || header > len(t) {
		return Segment{}, ErrLength
	}
	start := p.Len() - len(t)
	return Segment{ip: p, tcp: start, data: start + header}, nil
}

// Src returns the source address and port.
func (s Segment) Src() netip.AddrPort { return netip.AddrPortFrom(s.ip.Src(), s.word(tcpSrcPort)) }

// Dst returns the destination address and port.
func (s Segment) Dst() netip.AddrPort { return netip.AddrPortFrom(s.ip.Dst(), s.word(tcpDstPort)) }

// Seq returns the sequence number field: of SYN if that is set, else of the first
// byte of Payload.
func (s Segment) Seq() Seq { return Seq(binary.BigEndian.Uint32(s.header()[tcpSeq:])) }

// Ack returns the acknowledgement number field, which means something only with
// the ACK flag.
func (s Segment) Ack() Seq { return Seq(binary.BigEndian.Uint32(s.header()[tcpAck:])) }

// Ends returns both addresses and both ports as they are in the headers, the source in the
// high half: a key to look up the segment's connection.
func (s Segment) Ends() (addresses uint64, ports uint32) {
	return binary.BigEndian.Uint64(s.ip.bytes()[ipSrc:]), binary.BigEndian.Uint32(s.header()[tcpSrcPort:])
}

// Flags returns the control bits.
func (s Segment) Flags() Flags { return Flags(s.header()[tcpFlags]) }

// Payload returns the TCP payload as a part of the packet's own bytes. Write to it
// with SetByte only, or the checksum goes wrong.
func (s Segment) Payload() []byte { return s.ip.b[s.data:] }

// SetByte writes one byte of the payload, at counted from its start, and moves
// the TCP checksum by the difference. Writing the old byte back restores the
// packet (a checksum that arrived as 0xffff returns as its equal, 0). It reports
// false, and writes nothing, if at is not within the payload.
func (s Segment) SetByte(at int, b byte) bool {
	payload := s.Payload()
	if at < 0 || at >= len(payload) {
		return false
	}
	s.set(s.data-s.tcp+at, b)
	return true
}

// SetSrc writes the source address and port, and adjusts both checksums. It reports false,
// and writes nothing, if src is not IPv4 or s is the zero value.
func (s Segment) SetSrc(src netip.AddrPort) bool { return s.setEnd(ipSrc, tcpSrcPort, src) }

// SetDst is SetSrc for the destination.
func (s Segment) SetDst(dst netip.AddrPort) bool { return s.setEnd(ipDst, tcpDstPort, dst) }

func (s Segment) setEnd(atAddr, atPort int, to netip.AddrPort) bool {
	if s.ip.b == nil || !to.Addr().Is4() {
		return false
	}
	was, is, sum := s.ip.b[atAddr:], to.Addr().As4(), s.header()[tcpChecksum:]
	for i := 0; i < len(is); i += 2 { // TCP's pseudo header has the address
		adjustField(sum, binary.BigEndian.Uint16(was[i:]), binary.BigEndian.Uint16(is[i:]))
	}
	setWord(s.header()[atPort:], sum, to.Port())
	return s.ip.setAddr(atAddr, to.Addr())
}

// Sum computes and writes TCP's checksum, for a packet whose checksum a network card should
// have filled in. The zero value has none.
func (s Segment) Sum() {
	if s.ip.b == nil {
		return
	}
	t := s.header()
	binary.BigEndian.PutUint16(t[tcpChecksum:], 0)
	pseudo := sum(s.ip.b[ipSrc:ipMinimum]) + ProtocolTCP + uint32(len(t))
	binary.BigEndian.PutUint16(t[tcpChecksum:], ^fold(pseudo+sum(t)))
}

// set writes one byte, at counted from the TCP header's start, and moves the checksum by the
// difference.
func (s Segment) set(at int, b byte) {
	tcp := s.header()
	old := tcp[at]
	if b == old {
		return
	}
	tcp[at] = b
	// The byte is the high half of its 16-bit word where at is even. The other half cancels
	// out of the difference.
	shift := 8 * (1 - at&1)
	adjustField(tcp[tcpChecksum:], uint16(old)<<shift, uint16(b)<<shift)
}

// header returns the packet from its TCP header on.
func (s Segment) header() []byte { return s.ip.bytes()[s.tcp:] }

// word returns the 16-bit field at an offset within the TCP header.
func (s Segment) word(at int) uint16 { return binary.BigEndian.Uint16(s.header()[at:]) }
