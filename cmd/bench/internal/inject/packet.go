package inject

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// Offsets in a frame: Ethernet, IPv4 without options, enhanced GRE with a
// sequence number.
const (
	offType     = 12
	offIP       = 14
	offTTL      = offIP + 8
	offProtocol = offIP + 9
	offChecksum = offIP + 10
	offSrc      = offIP + 12
	offDst      = offIP + 16
	offGRE      = offIP + 20
	offVersion  = offGRE + 1 // with more flags, all 0
	offKey      = offGRE + 6
	offSeq      = offGRE + 8
	headers     = offGRE + 12
)

// MinSize is the size of the smallest packet, with its IP header.
const MinSize = 64

// captured is how many bytes of a frame the sink shows.
const captured = offIP + MinSize

const ttl = 64

// Packet is one call's packet: as it is sent, or as it is to arrive.
type Packet struct {
	Src, Dst netip.Addr
	Key      pptp.CallID
	Plain    bool // GRE of version 0, which is no call's
}

func (p Packet) String() string { return fmt.Sprintf("%v > %v key %v", p.Src, p.Dst, p.Key) }

// OfProtocol returns a frame of the least size of an Ethernet type and an IP protocol. It is
// for the eyes of a program only: what is behind the IP header is GRE's.
func OfProtocol(ethernet uint16, protocol byte) []byte {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	b := frame(Packet{Src: loopback, Dst: loopback, Key: 1}, MinSize)
	binary.BigEndian.PutUint16(b[offType:], ethernet)
	b[offProtocol] = protocol
	return b
}

// frame is what all frames of one size have in common, and addresses of p.
func frame(p Packet, size int) []byte {
	b := make([]byte, offGRE, offIP+size)
	binary.BigEndian.PutUint16(b[offType:], 0x0800)
	ip := b[offIP:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(size))
	ip[6] = 0x40 // don't fragment
	ip[8], ip[9] = ttl, packet.ProtocolGRE
	src, dst := p.Src.As4(), p.Dst.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	b = packet.AppendGRE(b, packet.GREFields{CallID: p.Key, HasSeq: true, Payload: make([]byte, size-(headers-offIP))})
	if p.Plain {
		b[offVersion] = 0
	}
	return b
}

// sum is the ones' complement sum of RFC 1071 over an even number of bytes.
func sum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// What the program writes into a frame for one packet of the stream, in two tables: a gateway that is measured has
// the processor's cache to itself in real life, so all that the generator needs there is kept small.
type (
	callRow []byte // number of the pair, in the machine's order, and key
	pairRow []byte // both addresses, and checksum
)

const callSize = 4

// newRows returns one row of all calls, one after the other, and one of each pair of addresses.
func newRows(s Stream) (calls callRow, pairs []pairRow, err error) {
	known := make(map[[2]netip.Addr]uint16)
	for _, p := range s.Packets {
		f := frame(p, s.Size)
		of := [2]netip.Addr{p.Src, p.Dst}
		number, ok := known[of]
		if !ok {
			if len(pairs) > math.MaxUint16 {
				return nil, nil, fmt.Errorf("more than %d pairs of addresses", len(pairs))
			}
			number = uint16(len(pairs))
			known[of] = number
			pairs = append(pairs, append(pairRow(f[offSrc:offSrc+8:offSrc+8]), f[offChecksum:offChecksum+2]...))
		}
		calls = append(binary.NativeEndian.AppendUint16(calls, number), f[offKey:offKey+2]...)
	}
	return calls, pairs, nil
}

// Arrived is a packet that has reached the sink.
type Arrived struct {
	Packet
	Seq  uint32 // the place of the packet in its stream
	Hops int    // routers that it has passed
}

// parse reads what a sink has captured. It is an error if the IP checksum is wrong
// or the GRE header not what was sent.
func parse(b []byte) (Arrived, error) {
	if len(b) != captured {
		return Arrived{}, fmt.Errorf("read arrived packet: %d bytes, want %d", len(b), captured)
	}
	if s := sum(b[offIP:offGRE]); s != 0xffff {
		return Arrived{}, fmt.Errorf("read arrived packet: wrong IP checksum: % x", b[offIP:offGRE])
	}
	// The whole packet is captured only if it has the least size.
	size := int(binary.BigEndian.Uint16(b[offIP+2:]))
	payload := int(binary.BigEndian.Uint16(b[offGRE+4:]))
	if b[offGRE] != 0x30 || b[offVersion] > 1 || payload != size-(headers-offIP) {
		return Arrived{}, fmt.Errorf("read arrived packet: not the GRE header that was sent: % x", b[offGRE:headers])
	}
	return Arrived{
		Packet: Packet{
			Src: netip.AddrFrom4([4]byte(b[offSrc:])), Dst: netip.AddrFrom4([4]byte(b[offDst:])),
			Key: pptp.CallID(binary.BigEndian.Uint16(b[offKey:])), Plain: b[offVersion] == 0,
		},
		Seq:  binary.BigEndian.Uint32(b[offSeq:]),
		Hops: ttl - int(b[offTTL]),
	}, nil
}
