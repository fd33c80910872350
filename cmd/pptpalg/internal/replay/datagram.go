package replay

import (
	"encoding/binary"
	"net/netip"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// Offsets and sizes of the IPv4 and TCP headers (RFC 791, RFC 9293), in bytes.
const (
	ipTotalLen = 2
	ipFragment = 6
	ipProtocol = 9
	ipChecksum = 10
	ipSrc      = 12
	ipDst      = 16
	ipMinimum  = 20

	tcpSrcPort  = 0
	tcpDstPort  = 2
	tcpChecksum = 16
	tcpMinimum  = 20
)

// fragmentMask covers More Fragments and the fragment offset.
const fragmentMask = 0x3fff

const (
	protocolTCP = 6
	protocolGRE = packet.ProtocolGRE
)

// datagram is a view of an IPv4 packet of which the end may not have been captured.
type datagram struct {
	b    []byte // from the IP header to the packet's end, or to where it was cut
	head int    // length of the IP header
	cut  int    // bytes of the packet that are missing
}

// parseDatagram views the packet at the start of b. ok is false for what is not
// IPv4 with a whole header.
func parseDatagram(b []byte) (d datagram, ok bool) {
	if len(b) < ipMinimum || b[0]>>4 != 4 {
		return datagram{}, false
	}
	head, total := int(b[0]&0x0f)*4, int(binary.BigEndian.Uint16(b[ipTotalLen:]))
	if head < ipMinimum || head > len(b) || total < head {
		return datagram{}, false
	}
	end := min(total, len(b))
	return datagram{b: b[:end:end], head: head, cut: total - end}, true
}

func (d datagram) protocol() byte { return d.b[ipProtocol] }

func (d datagram) fragment() bool {
	return binary.BigEndian.Uint16(d.b[ipFragment:])&fragmentMask != 0
}

// size is the packet's length in bytes, as it was on the wire.
func (d datagram) size() int { return len(d.b) + d.cut }

func (d datagram) src() netip.Addr { return netip.AddrFrom4([4]byte(d.b[ipSrc:])) }
func (d datagram) dst() netip.Addr { return netip.AddrFrom4([4]byte(d.b[ipDst:])) }

func (d datagram) payload() []byte { return d.b[d.head:] }

// whole returns the packet in its full length. What was not captured reads as
// zeros, in which no control message begins.
func (d datagram) whole() []byte {
	if d.cut == 0 {
		return d.b
	}
	return append(d.b[:len(d.b):len(d.b)], make([]byte, d.cut)...)
}

// setSrc and setDst write an address and a TCP port. setAddr* write an address
// alone, for GRE.

func (d datagram) setSrc(a netip.AddrPort) {
	d.setTCP(ipSrc, a.Addr().AsSlice())
	d.setTCP(d.head+tcpSrcPort, binary.BigEndian.AppendUint16(nil, a.Port()))
}

func (d datagram) setDst(a netip.AddrPort) {
	d.setTCP(ipDst, a.Addr().AsSlice())
	d.setTCP(d.head+tcpDstPort, binary.BigEndian.AppendUint16(nil, a.Port()))
}

func (d datagram) setAddrs(src, dst netip.Addr) {
	copy(d.b[ipSrc:], src.AsSlice())
	copy(d.b[ipDst:], dst.AsSlice())
	d.sumHeader()
}

// setTCP writes a field that TCP's checksum covers, and moves the checksum by the
// difference.
func (d datagram) setTCP(at int, field []byte) {
	old := d.b[at : at+len(field)]
	checksum := d.b[d.head+tcpChecksum:]
	// RFC 1624 equation 3: HC' = ~(~HC + ~m + m').
	s := uint32(^binary.BigEndian.Uint16(checksum)) + sum(field)
	for i := 0; i < len(old); i += 2 {
		s += uint32(^binary.BigEndian.Uint16(old[i:]))
	}
	binary.BigEndian.PutUint16(checksum, ^fold(s))
	copy(old, field)
}

// sumUp writes both checksums anew, since those of a capture may be the ones that a
// network card was to fill in. TCP's needs the whole packet: without it, it stays
// as it was moved by each edit.
func (d datagram) sumUp() {
	d.sumHeader()
	if d.cut > 0 {
		return
	}
	t := d.payload()
	binary.BigEndian.PutUint16(t[tcpChecksum:], 0)
	s := sum(d.b[ipSrc:ipMinimum]) + protocolTCP + uint32(len(t)) + sum(t)
	binary.BigEndian.PutUint16(t[tcpChecksum:], ^fold(s))
}

func (d datagram) sumHeader() {
	binary.BigEndian.PutUint16(d.b[ipChecksum:], 0)
	binary.BigEndian.PutUint16(d.b[ipChecksum:], ^fold(sum(d.b[:d.head])))
}

// sum adds up 16-bit words; the packets here are too short for it to overflow.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// greFixed is enhanced GRE's header as far as the Call ID, in bytes; greFull with
// both numbers.
const (
	greLength = 4
	greCallID = 6
	greFull   = 16
)

// callID returns the Call ID of a PPTP packet, be its end captured or not. ok is
// false for other GRE.
func (d datagram) callID() (id pptp.CallID, ok bool) {
	var header [greFull]byte
	n := copy(header[:], d.payload())
	if n <= greCallID+1 {
		return 0, false
	}
	// The payload's length is set to none, so that the header is judged alone.
	header[greLength], header[greLength+1] = 0, 0
	h, err := packet.ParseGRE(header[:])
	return h.CallID(), err == nil
}

// setCallID writes the Call ID of a packet that has one.
func (d datagram) setCallID(id pptp.CallID) {
	binary.BigEndian.PutUint16(d.payload()[greCallID:], uint16(id))
}
