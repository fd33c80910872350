package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"pptpalg/alg/pptp"
)

// Packet is an enhanced GRE packet (RFC 2637 section 4.1) in its IP header.
type Packet struct {
	Src, Dst netip.Addr
	CallID   pptp.CallID // the receiver's
	Seq, Ack *uint32     // nil: the packet has no such number
	Payload  []byte      // empty, and ignored by receivers, without Seq
	Whole    bool        // not to be fragmented (IPv4's DF)
	Arrival  time.Time   // zero in packets to send
}

func (p Packet) String() string {
	s := fmt.Sprintf("GRE %v > %v call %v", p.Src, p.Dst, p.CallID)
	if p.Seq != nil {
		s += fmt.Sprintf(" seq %d", *p.Seq)
	}
	if p.Ack != nil {
		s += fmt.Sprintf(" ack %d", *p.Ack)
	}
	return fmt.Sprintf("%s %q", s, p.Payload)
}

const (
	ipHeader     = 20 // without options
	ipFlags      = 6  // offset
	dontFragment = 0x40
	protocolGRE  = 47
	greProtocol  = 0x880B // PPP
	greSeq       = 0x10   // S, in the first byte
	greAck       = 0x80   // A, in the second
	greKey       = 0x20   // K, in the first
	greVersion   = 1
	greHeader    = 8
	greMaxHeader = 16
	ttl          = 64
)

// datagram encodes the packet with its IP header; the kernel fills in the
// identification and the checksum (raw(7)).
func (p Packet) datagram() []byte {
	gre := p.gre()
	b := ipv4Header(p.Src, p.Dst, protocolGRE, len(gre))
	if p.Whole {
		b[ipFlags] = dontFragment
	}
	return append(b, gre...)
}

func (p Packet) gre() []byte {
	b := make([]byte, greHeader, greMaxHeader+len(p.Payload))
	b[0], b[1] = greKey, greVersion
	binary.BigEndian.PutUint16(b[2:], greProtocol)
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.Payload)))
	binary.BigEndian.PutUint16(b[6:], uint16(p.CallID))
	if p.Seq != nil {
		b[0] |= greSeq
		b = binary.BigEndian.AppendUint32(b, *p.Seq)
	}
	if p.Ack != nil {
		b[1] |= greAck
		b = binary.BigEndian.AppendUint32(b, *p.Ack)
	}
	return append(b, p.Payload...)
}

// parseDatagram decodes an IP packet that a raw socket gave.
func parseDatagram(b []byte) (Packet, error) {
	src, dst, gre, err := parseIPv4(b)
	if err != nil || b[9] != protocolGRE {
		return Packet{}, fmt.Errorf("parse datagram: not GRE over IPv4: % x", b)
	}
	p, err := parseGRE(gre)
	if err != nil {
		return Packet{}, err
	}
	p.Src, p.Dst, p.Whole = src, dst, b[ipFlags]&dontFragment != 0
	return p, nil
}

func parseGRE(b []byte) (Packet, error) {
	if len(b) < greHeader || b[0]&^greSeq != greKey || b[1]&^greAck != greVersion ||
		binary.BigEndian.Uint16(b[2:]) != greProtocol {
		return Packet{}, fmt.Errorf("parse GRE: not enhanced GRE: % x", b)
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	p := Packet{CallID: pptp.CallID(binary.BigEndian.Uint16(b[6:]))}
	rest := b[greHeader:]
	p.Seq, rest = number(rest, b[0]&greSeq != 0)
	p.Ack, rest = number(rest, b[1]&greAck != 0)
	if rest == nil || len(rest) < size {
		return Packet{}, fmt.Errorf("parse GRE: truncated: % x", b)
	}
	p.Payload = append([]byte(nil), rest[:size]...)
	return p, nil
}

// number takes four bytes off b where the packet has such a number; no bytes are
// left (nil) where it should but is too short.
func number(b []byte, present bool) (*uint32, []byte) {
	if !present || b == nil {
		return nil, b
	}
	if len(b) < 4 {
		return nil, nil
	}
	n := binary.BigEndian.Uint32(b)
	return &n, b[4:]
}
