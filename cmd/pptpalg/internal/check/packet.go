package check

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// packet is one of a call that is sent where it would arrive.
type packet struct {
	proto    string // tcp, gre
	opening  bool   // it is the first of its connection
	in       string // the interface; "" is one that is not known
	from, to netip.AddrPort
	key      uint16 // of GRE: the Call ID
	mark     uint32
}

// bytes writes the packet as IPv4, with a serial number for its identification.
func (p packet) bytes(serial uint16) []byte {
	payload, proto := p.gre(), byte(unix.IPPROTO_GRE)
	if p.proto == "tcp" {
		payload, proto = p.tcp(), unix.IPPROTO_TCP
	}
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	b = append(append(b, p.from.Addr().AsSlice()...), p.to.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	binary.BigEndian.PutUint16(b[4:], serial)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// gre is an enhanced GRE packet without payload (RFC 2637 section 4.1).
func (p packet) gre() []byte {
	return binary.BigEndian.AppendUint16([]byte{0x20, 0x01, 0x88, 0x0b, 0, 0}, p.key)
}

// tcp is a SYN with a maximum segment size, or a segment with data.
func (p packet) tcp() []byte {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, p.from.Port())
	b = binary.BigEndian.AppendUint16(b, p.to.Port())
	b = append(b, 0, 0, 0, 1)
	if p.opening {
		b = append(b, 0, 0, 0, 0, 0x60, 0x02, 0x40, 0, 0, 0, 0, 0, 2, 4, 0x05, 0xb4)
	} else {
		b = append(b, 0, 0, 0, 1, 0x50, 0x18, 0x40, 0, 0, 0, 0, 0)
		b = append(b, make([]byte, 16)...)
	}
	pseudo := append(append(p.from.Addr().AsSlice(), p.to.Addr().AsSlice()...), 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

// checksum is that of the Internet (RFC 1071), of an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
