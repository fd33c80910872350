package gre

import (
	"encoding/binary"

	"pptpalg/alg/pptp"
)

// Protocol is GRE's IANA number in the IPv4 header.
const Protocol = 47

// The header of RFC 2637 section 4.1; offsets in bytes:
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-----+-+-------+-----+-------------------------------+
//	|C|R|K|S|s|Recur|A| Flags | Ver |         Protocol Type         |
//	+-+-+-+-+-+-----+-+-------+-----+-------------------------------+
//	|        Payload Length         |            Call ID            |
//	+-------------------------------+-------------------------------+
//	|            Sequence Number, if S is set                       |
//	+---------------------------------------------------------------+
//	|            Acknowledgment Number, if A is set                 |
//	+---------------------------------------------------------------+
const (
	atFlags         = 0
	atProtocol      = 2
	atPayloadLength = 4
	atCallID        = 6
	atOptional      = 8 // the sequence number, else the acknowledgment, else the payload
	minimum         = 8
	numberLen       = 4
)

// AtCallID is where the Call ID stands in a packet, for those who edit no Header.
const AtCallID = atCallID

// Bits of the first 16-bit word.
const (
	bitChecksum    = 0x8000 // C
	bitRouting     = 0x4000 // R
	bitKey         = 0x2000 // K
	bitSequence    = 0x1000 // S
	bitSourceRoute = 0x0800 // s
	bitAck         = 0x0080 // A
	maskVersion    = 0x0007 // Ver
	version        = 1
)

// typePPP is the protocol type of PPP in enhanced GRE.
const typePPP = 0x880B

// blank is what the zero Header reads, so that reading one is no panic. Nothing
// writes to it.
var blank [minimum]byte

// Header is a view of one enhanced GRE packet in the bytes given to Parse. Every
// copy of it is a view of the same bytes. The zero value reads as all zeros and
// takes no edit.
type Header struct {
	b []byte // from the GRE header on; nil in the zero value
}

// Parse views the GRE packet in b, an IPv4 packet's payload. Recur and Flags,
// which are to be zero, are not looked at: they move nothing. Bytes beyond the
// payload length are no part of the packet.
//
// The error is an Error; the header is then the zero value.
func Parse(b []byte) (Header, error) {
	if err := check(b); err != nil {
		return Header{}, err
	}
	return trim(Header{b: b})
}

// QuotedCallID returns the Call ID of a packet of which no more than the beginning is
// known, 8 bytes at least, as ICMP quotes it. It stands at AtCallID.
func QuotedCallID(b []byte) (pptp.CallID, error) {
	if err := check(b); err != nil {
		return 0, err
	}
	return Header{b: b}.CallID(), nil
}

// check looks at what tells enhanced GRE from other kinds.
func check(b []byte) error {
	if len(b) < minimum {
		return ErrShort
	}
	flags := binary.BigEndian.Uint16(b[atFlags:])
	if flags&maskVersion != version {
		return ErrVersion
	}
	if binary.BigEndian.Uint16(b[atProtocol:]) != typePPP {
		return ErrProtocol
	}
	if flags&(bitKey|bitChecksum|bitRouting|bitSourceRoute) != bitKey {
		return ErrFlags
	}
	return nil
}

// trim checks the lengths that the flags and the payload length call for, and
// cuts the view to them.
func trim(h Header) (Header, error) {
	size := h.headerLen()
	if size > len(h.b) {
		return Header{}, ErrShort
	}
	end := size + h.PayloadLength()
	if end > len(h.b) {
		return Header{}, ErrLength
	}
	h.b = h.b[:end:end]
	return h, nil
}

// CallID returns the low half of the key: the Call ID of the packet's receiver.
func (h Header) CallID() pptp.CallID {
	return pptp.CallID(binary.BigEndian.Uint16(h.bytes()[atCallID:]))
}

// SetCallID writes the Call ID in place. Enhanced GRE has no checksum to follow
// it. It reports false if h is the zero value.
func (h Header) SetCallID(id pptp.CallID) bool {
	if h.b == nil {
		return false
	}
	binary.BigEndian.PutUint16(h.b[atCallID:], uint16(id))
	return true
}

// PayloadLength returns the high half of the key: the payload's length in bytes,
// without the GRE header. It is 0 in a packet that only acknowledges.
func (h Header) PayloadLength() int {
	return int(binary.BigEndian.Uint16(h.bytes()[atPayloadLength:]))
}

// HasSeq reports whether the packet has a sequence number (S bit). One that only
// acknowledges has none.
func (h Header) HasSeq() bool { return h.flags()&bitSequence != 0 }

// HasAck reports whether the packet has an acknowledgment number (A bit).
func (h Header) HasAck() bool { return h.flags()&bitAck != 0 }

// Seq returns the sequence number, 0 without one.
func (h Header) Seq() uint32 {
	if !h.HasSeq() {
		return 0
	}
	return binary.BigEndian.Uint32(h.b[atOptional:])
}

// Ack returns the highest sequence number that the sender has received, 0 without
// one.
func (h Header) Ack() uint32 {
	if !h.HasAck() {
		return 0
	}
	return binary.BigEndian.Uint32(h.b[h.headerLen()-numberLen:])
}

// Payload returns the PPP frame as a part of the packet's own bytes. It is empty
// in a packet that only acknowledges.
func (h Header) Payload() []byte {
	if h.b == nil {
		return nil
	}
	return h.b[h.headerLen():]
}

// headerLen returns the header's length in bytes: 8, 12 or 16.
func (h Header) headerLen() int {
	n := minimum
	if h.HasSeq() {
		n += numberLen
	}
	if h.HasAck() {
		n += numberLen
	}
	return n
}

func (h Header) flags() uint16 { return binary.BigEndian.Uint16(h.bytes()[atFlags:]) }

// bytes returns the packet for reading.
func (h Header) bytes() []byte {
	if h.b == nil {
		return blank[:]
	}
	return h.b
}
