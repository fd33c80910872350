package trial

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// TCP flags, RFC 9293 section 3.1.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// Wanted is what predicate has to answer, in the words of its comment.
func Wanted(flags byte, payload int) bool {
	return payload > 0 || flags&flagFIN != 0 || flags&flagRST != 0 || flags&flagSYN != 0 && flags&flagACK != 0
}

// Segment describes an IPv4 TCP packet to craft.
type Segment struct {
	IP, TCP int // header lengths in bytes, 20 to 60
	Flags   byte
	Payload int // bytes
}

// EachSegment yields every combination of header lengths, some payload lengths,
// and every step-th combination of flags.
func EachSegment(step int, yield func(Segment)) {
	for ip := 20; ip <= 60; ip += 4 {
		for tcp := 20; tcp <= 60; tcp += 4 {
			for _, payload := range []int{0, 1, 2, 3, 1000} {
				for flags := 0; flags < 256; flags += step {
					yield(Segment{ip, tcp, byte(flags), payload})
				}
			}
		}
	}
}

// Packet returns the segment's bytes, with a valid IP header. Options are
// no-operations, payload bytes 0xff.
func (s Segment) Packet(src, dst [4]byte) []byte {
	p := make([]byte, s.IP+s.TCP+s.Payload)
	p[0] = 4<<4 | byte(s.IP/4)                        // version, header length
	binary.BigEndian.PutUint16(p[2:], uint16(len(p))) // total length
	p[8], p[9] = 64, 6                                // TTL, protocol
	copy(p[12:], src[:])                              // source
	copy(p[16:], dst[:])                              // destination
	fill(p[20:s.IP], 1)                               // IP options
	binary.BigEndian.PutUint16(p[10:], Checksum(p[:s.IP]))
	t := p[s.IP:]
	binary.BigEndian.PutUint16(t[0:], 40000) // source port
	binary.BigEndian.PutUint16(t[2:], 1723)  // destination port
	t[12], t[13] = byte(s.TCP/4)<<4, s.Flags // data offset, flags
	fill(t[20:s.TCP], 1)                     // TCP options
	fill(t[s.TCP:], 0xff)                    // payload
	return p
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

// Checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func Checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Malformed are packets that conntrack calls INVALID for their lengths.
func Malformed() map[string][]byte {
	full := Segment{IP: 24, TCP: 32, Flags: flagACK}.Packet([4]byte{}, [4]byte{})
	rows := map[string][]byte{"TCP header beyond the end": full[:len(full)-4]}
	for n := 0; n < 14; n++ {
		rows[fmt.Sprintf("%d bytes of TCP", n)] = full[:24+n]
	}
	return rows
}

// Readdress returns p with other addresses and a length that is its own.
func Readdress(p []byte, src, dst [4]byte) []byte {
	p = append([]byte(nil), p...)
	ip := int(p[0]&0x0f) * 4
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[10:], 0)
	binary.BigEndian.PutUint16(p[10:], Checksum(p[:ip]))
	return p
}

// SYNs are segments to port 1723, by their TCP options and flags.
var SYNs = []struct {
	Name    string
	options []byte
	flags   byte
	payload int
	Wanted  bool
}{
	{"plain", nil, flagSYN, 0, false},
	{"as Linux sends it", []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}, flagSYN, 0, false},
	{"with data", nil, flagSYN, 8, true},
	{"MP_CAPABLE", []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7, 30, 4, 1, 1}, flagSYN, 0, true},
	{"MP_JOIN", []byte{30, 12, 0x10, 2, 1, 2, 3, 4, 5, 6, 7, 8}, flagSYN, 0, true},
	{"with ECN", []byte{30, 4, 1, 1}, flagSYN | 0xc0, 0, true},
	{"the kind is another option's content", []byte{8, 10, 30, 4, 1, 1, 30, 4, 1, 1, 1, 1}, flagSYN, 0, false},
	{"a pure ACK", []byte{30, 4, 0x20, 1}, flagACK, 0, false},
}

// SYNPacket crafts one of syns, for any port.
func SYNPacket(i int, src, dst [4]byte, port uint16) []byte {
	s := SYNs[i]
	p := Segment{IP: 20, TCP: 20 + len(s.options), Flags: s.flags, Payload: s.payload}.Packet(src, dst)
	copy(p[40:], s.options)
	binary.BigEndian.PutUint16(p[20:], uint16(40000+i))
	binary.BigEndian.PutUint16(p[22:], port)
	binary.BigEndian.PutUint32(p[24:], uint32(1000*i))
	tcp := p[20:]
	tcp[16], tcp[17] = 0, 0
	pseudo := slices.Concat(src[:], dst[:], []byte{0, 6, 0, byte(len(tcp))}, tcp)
	binary.BigEndian.PutUint16(tcp[16:], Checksum(pseudo))
	return p
}
