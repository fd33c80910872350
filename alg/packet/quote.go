package packet

import (
	"encoding/binary"
	"net/netip"
)

// ProtocolICMP is ICMP's number in the IPv4 header.
const ProtocolICMP = 1

// The ICMP errors that quote the packet they are about (RFC 792), and offsets, in bytes.
const (
	icmpUnreachable = 3
	icmpTooBig      = 4 // the code of icmpUnreachable that is "fragmentation needed and DF set"
	icmpTimeout     = 11
	icmpParameter   = 12

	icmpCode     = 1
	icmpChecksum = 2
	icmpMTU      = 6 // of the next hop, in icmpTooBig (RFC 1191)
	icmpQuoted   = 8 // the IP header, and at least 8 bytes behind it
)

// Quote is a view of the packet that an ICMP error quotes. Every edit adjusts the error's
// own checksum too. The zero value reads as all zeros and takes no edit.
type Quote struct {
	b  []byte // the ICMP message; nil in the zero value
	at int    // where the quoted packet's payload begins in b
}

// ParseQuote views an ICMP message, an IPv4 packet's payload, that reports that a packet
// did not reach its destination. It may quote only the packet's beginning, so the quoted
// packet's length is ignored.
//
// The error is ErrNotQuote.
func ParseQuote(b []byte) (Quote, error) {
	if len(b) < icmpQuoted+ipMinimum || !reports(b[0]) || b[icmpQuoted]>>4 != 4 {
		return Quote{}, ErrNotQuote
	}
	header := ipHeaderLen(b[icmpQuoted:])
	if header < ipMinimum || icmpQuoted+header > len(b) {
		return Quote{}, ErrNotQuote
	}
	return Quote{b: b, at: icmpQuoted + header}, nil
}

func reports(icmpType byte) bool {
	return icmpType == icmpUnreachable || icmpType == icmpTimeout || icmpType == icmpParameter
}

// TooBig returns what the error says if it is "fragmentation needed and DF set": the size of the
// packet that was too big, and the next hop's MTU, 0 from a router that does not tell. It reports
// false for other errors.
func (q Quote) TooBig() (size, mtu int, ok bool) {
	if q.b == nil || q.b[0] != icmpUnreachable || q.b[icmpCode] != icmpTooBig {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint16(q.ip()[ipTotalLen:])), int(binary.BigEndian.Uint16(q.b[icmpMTU:])), true
}

// Src returns the quoted packet's source address.
func (q Quote) Src() netip.Addr { return addr4(q.ip()[ipSrc:]) }

// Dst returns its destination address.
func (q Quote) Dst() netip.Addr { return addr4(q.ip()[ipDst:]) }

// Protocol returns its protocol.
func (q Quote) Protocol() uint8 { return q.ip()[ipProtocol] }

// Payload returns the quoted part of its payload, for reading: SetWord edits it.
func (q Quote) Payload() []byte { return q.b[q.at:] }

// SetSrc writes the quoted packet's source address, with both checksums. It reports
// false, and writes nothing, if src is not IPv4 or q is the zero value.
func (q Quote) SetSrc(src netip.Addr) bool { return q.setAddr(ipSrc, src) }

// SetDst is SetSrc for the destination address.
func (q Quote) SetDst(dst netip.Addr) bool { return q.setAddr(ipDst, dst) }

func (q Quote) setAddr(at int, addr netip.Addr) bool {
	if q.b == nil || !addr.Is4() {
		return false
	}
	ip, to := q.ip(), addr.As4()
	for i := 0; i < len(to); i += 2 {
		was, now := binary.BigEndian.Uint16(ip[at+i:]), binary.BigEndian.Uint16(to[i:])
		if was == now {
			continue
		}
		q.set(icmpQuoted+at+i, now)
		q.set(icmpQuoted+ipChecksum, adjust(binary.BigEndian.Uint16(ip[ipChecksum:]), was, now))
	}
	return true
}

// SetWord writes a 16-bit word of the payload. It reports false, and writes nothing, if
// that is not quoted, or at is not even.
func (q Quote) SetWord(at int, word uint16) bool {
	if at < 0 || at%2 != 0 || q.at+at+2 > len(q.b) {
		return false
	}
	q.set(q.at+at, word)
	return true
}

func (q Quote) set(at int, word uint16) { setWord(q.b[at:], q.b[icmpChecksum:], word) }

// ip returns the quoted IP header for reading.
func (q Quote) ip() []byte {
	if q.b == nil {
		return blank[:]
	}
	return q.b[icmpQuoted:]
}
