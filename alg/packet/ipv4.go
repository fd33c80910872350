package packet

import (
	"encoding/binary"
	"net/netip"
)

// Offsets and sizes of the IPv4 header (RFC 791 section 3.1), in bytes.
const (
	ipTotalLen = 2
	ipFragment = 6
	ipProtocol = 9
	ipChecksum = 10
	ipSrc      = 12
	ipDst      = 16
	ipMinimum  = 20
)

// ipFragmentMask covers More Fragments and the 13-bit fragment offset, and leaves
// out Don't Fragment and the reserved bit.
const ipFragmentMask = 0x3fff

// blank is what the zero views read, so that reading them does not panic. Nothing writes to
// it.
var blank [ipMinimum + tcpMinimum]byte

// IPv4 is a view of one IPv4 packet in the bytes given to ParseIPv4. Every copy
// of it is a view of the same bytes. The zero value reads as all zeros and takes
// no edit.
type IPv4 struct {
	b []byte // from the IP header to the total length; nil in the zero value
}

// ParseIPv4 views the packet at the start of b. Bytes beyond its total length (link
// padding) are not part of it. It does not verify the header checksum: the kernel does that
// before netfilter sees a packet.
//
// The error is an Error: ErrShort, ErrNotIPv4 or ErrLength.
func ParseIPv4(b []byte) (IPv4, error) {
	if len(b) < ipMinimum {
		return IPv4{}, ErrShort
	}
	return viewIPv4(b, int(binary.BigEndian.Uint16(b[ipTotalLen:])))
}

// ParseCaptured is ParseIPv4 for a packet that was captured before the network card cut it
// into several: its total length may be 0, and then it takes all of b.
func ParseCaptured(b []byte) (IPv4, error) {
	if len(b) >= ipMinimum && binary.BigEndian.Uint16(b[ipTotalLen:]) == 0 {
		return viewIPv4(b, len(b))
	}
	return ParseIPv4(b)
}

func viewIPv4(b []byte, total int) (IPv4, error) {
	if b[0]>>4 != 4 {
		return IPv4{}, ErrNotIPv4
	}
	header := ipHeaderLen(b)
	if header < ipMinimum || header > total || total > len(b) {
		return IPv4{}, ErrLength
	}
	return IPv4{b: b[:total:total]}, nil
}

// Offloaded reports whether the total length is 0: a network card was to fill it in, and the
// checksums too.
func (p IPv4) Offloaded() bool { return p.b != nil && binary.BigEndian.Uint16(p.b[ipTotalLen:]) == 0 }

// Src returns the source address.
func (p IPv4) Src() netip.Addr { return addr4(p.bytes()[ipSrc:]) }

// Dst returns the destination address.
func (p IPv4) Dst() netip.Addr { return addr4(p.bytes()[ipDst:]) }

// Protocol returns the IANA protocol number: 6 is TCP, 47 is GRE.
func (p IPv4) Protocol() uint8 { return p.bytes()[ipProtocol] }

// Fragment reports whether this is one of several fragments, the first included:
// then Payload is not all of what was sent.
func (p IPv4) Fragment() bool {
	return binary.BigEndian.Uint16(p.bytes()[ipFragment:])&ipFragmentMask != 0
}

// Len returns the packet's length in bytes, its header included: 0 for the zero
// value, else 20 to 65535, and more only for what ParseCaptured has viewed.
func (p IPv4) Len() int { return len(p.b) }

// Payload returns what follows the IP header, as a part of the packet's own bytes.
func (p IPv4) Payload() []byte {
	if p.b == nil {
		return nil
	}
	return p.b[ipHeaderLen(p.b):]
}

// SetSrc writes the source address and adjusts the header checksum. It does not adjust a
// TCP or UDP checksum, which covers the address too, so it is for protocols without a
// pseudo header, such as GRE. It reports false, and writes nothing, if src is not IPv4 or p
// is the zero value.
func (p IPv4) SetSrc(src netip.Addr) bool { return p.setAddr(ipSrc, src) }

// SetDst is SetSrc for the destination address.
func (p IPv4) SetDst(dst netip.Addr) bool { return p.setAddr(ipDst, dst) }

func (p IPv4) setAddr(at int, addr netip.Addr) bool {
	if p.b == nil || !addr.Is4() {
		return false
	}
	to := addr.As4()
	for i := 0; i < len(to); i += 2 {
		setWord(p.b[at+i:], p.b[ipChecksum:], binary.BigEndian.Uint16(to[i:]))
	}
	return true
}

// Sum computes and writes the header checksum, for a packet whose checksum a network card
// should have filled in. The zero value has none.
func (p IPv4) Sum() {
	if p.b == nil {
		return
	}
	header := p.b[:ipHeaderLen(p.b)]
	binary.BigEndian.PutUint16(header[ipChecksum:], 0)
	binary.BigEndian.PutUint16(header[ipChecksum:], ^fold(sum(header)))
}

// bytes returns the packet for reading.
func (p IPv4) bytes() []byte {
	if p.b == nil {
		return blank[:]
	}
	return p.b
}

// ipHeaderLen returns the header length field in bytes, 0 to 60.
func ipHeaderLen(b []byte) int { return int(b[0]&0x0f) * 4 }

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
