package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Segment is a TCP segment over IPv4.
type Segment struct {
	Src, Dst netip.AddrPort
	Seq, Ack uint32
	Flags    Flags
	Window   uint16
	Urgent   uint16 // urgent pointer
	Options  []byte // a multiple of 4 bytes
	Payload  []byte

	// Wrong says that the received checksum is wrong. A kernel's own TCP sends
	// such: over a veth pair it leaves the checksum to a card that never comes.
	Wrong bool
}

// Flags are TCP's control bits.
type Flags uint8

// The control bits (RFC 9293 section 3.1).
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

func (s Segment) String() string {
	return fmt.Sprintf("TCP %v > %v seq %d ack %d flags %#x window %d urgent %d options % x: % x",
		s.Src, s.Dst, s.Seq, s.Ack, uint8(s.Flags), s.Window, s.Urgent, s.Options, s.Payload)
}

const (
	protocolTCP = 6
	tcpHeader   = 20 // without options
)

// datagram encodes the segment with its IP header; of that the kernel fills in
// identification and checksum (raw(7)).
func (s Segment) datagram() []byte {
	t := s.tcp()
	binary.BigEndian.PutUint16(t[16:], checksum(pseudo(s.Src.Addr(), s.Dst.Addr(), len(t)), t))
	return append(ipv4Header(s.Src.Addr(), s.Dst.Addr(), protocolTCP, len(t)), t...)
}

// tcp encodes the segment with a checksum of 0.
func (s Segment) tcp() []byte {
	b := make([]byte, tcpHeader, tcpHeader+len(s.Options)+len(s.Payload))
	binary.BigEndian.PutUint16(b, s.Src.Port())
	binary.BigEndian.PutUint16(b[2:], s.Dst.Port())
	binary.BigEndian.PutUint32(b[4:], s.Seq)
	binary.BigEndian.PutUint32(b[8:], s.Ack)
	b[12] = byte((tcpHeader + len(s.Options)) / 4 << 4)
	b[13] = byte(s.Flags)
	binary.BigEndian.PutUint16(b[14:], s.Window)
	binary.BigEndian.PutUint16(b[18:], s.Urgent)
	b = append(b, s.Options...)
	return append(b, s.Payload...)
}

// parseSegment decodes a datagram.
func parseSegment(b []byte) (Segment, error) {
	src, dst, t, err := parseIPv4(b)
	if err != nil {
		return Segment{}, err
	}
	if len(t) < tcpHeader || int(t[12]>>4)*4 > len(t) {
		return Segment{}, fmt.Errorf("parse segment: truncated: % x", t)
	}
	header := int(t[12]>>4) * 4
	return Segment{
		Src: netip.AddrPortFrom(src, binary.BigEndian.Uint16(t)),
		Dst: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(t[2:])),
		Seq: binary.BigEndian.Uint32(t[4:]), Ack: binary.BigEndian.Uint32(t[8:]),
		Flags: Flags(t[13]), Window: binary.BigEndian.Uint16(t[14:]), Urgent: binary.BigEndian.Uint16(t[18:]),
		Options: append([]byte(nil), t[tcpHeader:header]...),
		Payload: append([]byte(nil), t[header:]...),
		Wrong:   checksum(pseudo(src, dst, len(t)), t) != 0,
	}, nil
}

// ipv4Header encodes a header without options for a packet of that many bytes.
func ipv4Header(src, dst netip.Addr, protocol byte, size int) []byte {
	b := make([]byte, ipHeader, ipHeader+size)
	b[0] = 4<<4 | ipHeader/4
	binary.BigEndian.PutUint16(b[2:], uint16(ipHeader+size))
	b[8], b[9] = ttl, protocol
	from, to := src.As4(), dst.As4()
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	return b
}

// parseIPv4 splits a datagram that a raw socket gave, or that an ICMP error
// quotes: then its payload may be cut off.
func parseIPv4(b []byte) (src, dst netip.Addr, payload []byte, err error) {
	if len(b) < ipHeader || int(b[0]&15)*4 > len(b) {
		return src, dst, nil, fmt.Errorf("parse datagram: truncated: % x", b)
	}
	src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return src, dst, b[int(b[0]&15)*4:], nil
}

// pseudo sums TCP's pseudo header.
func pseudo(src, dst netip.Addr, size int) uint32 {
	from, to := src.As4(), dst.As4()
	return sum(0, from[:]) + sum(0, to[:]) + protocolTCP + uint32(size)
}

// checksum is RFC 1071's over b, begun with what was summed before. Over bytes
// that hold a right checksum it is 0.
func checksum(before uint32, b []byte) uint16 {
	s := sum(before, b)
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func sum(s uint32, b []byte) uint32 {
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i&1))
	}
	return s
}
