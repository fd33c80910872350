package packet

import (
	"encoding/binary"

	"pptpalg/alg/pptp"
)

// ProtocolGRE is GRE's IANA number in the IPv4 header.
const ProtocolGRE = 47

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
	greFlags         = 0
	greProtocol      = 2
	grePayloadLength = 4
	AtCallID         = 6
	greMinimum       = 8
	greNumberLen     = 4
)

// Bits of the first 16-bit word.
const (
	bitChecksum    = 0x8000 // C
	bitRouting     = 0x4000 // R
	bitKey         = 0x2000 // K
	bitSequence    = 0x1000 // S
	bitSourceRoute = 0x0800 // s
	bitAck         = 0x0080 // A
	maskVersion    = 0x0007 // Ver
	greVersion     = 1
)

// typePPP is the protocol type of PPP in enhanced GRE.
const typePPP = 0x880B

// blankGRE is what the zero GRE reads, so that reading it does not panic. Nothing writes to
// it.
var blankGRE [greMinimum]byte

// GRE is a view of one enhanced GRE packet in the bytes given to ParseGRE. Every
// copy of it is a view of the same bytes. The zero value reads as all zeros and
// takes no edit.
type GRE struct {
	b []byte // from the GRE header on; nil in the zero value
}

// ParseGRE views the GRE packet in b, an IPv4 packet's payload. It ignores Recur and Flags,
// which must be zero and move nothing. Bytes beyond the payload length are not part of the
// packet.
//
// The error is an Error; the header is then the zero value.
func ParseGRE(b []byte) (GRE, error) {
	if err := checkGRE(b); err != nil {
		return GRE{}, err
	}
	return trimGRE(GRE{b: b})
}

// QuotedCallID returns the Call ID of a packet from its beginning, at least 8 bytes, as
// ICMP quotes it. It is at AtCallID.
func QuotedCallID(b []byte) (pptp.CallID, error) {
	if err := checkGRE(b); err != nil {
		return 0, err
	}
	return GRE{b: b}.CallID(), nil
}

// check looks at what tells enhanced GRE from other kinds.
func checkGRE(b []byte) error {
	if len(b) < greMinimum {
		return ErrShortGRE
	}
	flags := binary.BigEndian.Uint16(b[greFlags:])
	if flags&maskVersion != greVersion {
		return ErrVersion
	}
	if binary.BigEndian.Uint16(b[greProtocol:]) != typePPP {
		return ErrNotPPP
	}
	if flags&(bitKey|bitChecksum|bitRouting|bitSourceRoute) != bitKey {
		return ErrFlags
	}
	return nil
}

// trim checks the lengths that the flags and the payload length call for, and
// cuts the view to them.
func trimGRE(h GRE) (GRE, error) {
	size := h.headerLen()
	if size > len(h.b) {
		return GRE{}, ErrShortGRE
	}
	end := size + h.PayloadLength()
	if end > len(h.b) {
		return GRE{}, ErrLengthGRE
	}
	h.b = h.b[:end:end]
	return h, nil
}

// CallID returns the low half of the key: the Call ID of the packet's receiver.
func (h GRE) CallID() pptp.CallID {
	return pptp.CallID(binary.BigEndian.Uint16(h.bytes()[AtCallID:]))
}

// SetCallID writes the Call ID in place. Enhanced GRE has no checksum. It reports false if
// h is the zero value.
func (h GRE) SetCallID(id pptp.CallID) bool {
	if h.b == nil {
		return false
	}
	binary.BigEndian.PutUint16(h.b[AtCallID:], uint16(id))
	return true
}

// PayloadLength returns the high half of the key: the payload's length in bytes,
// without the GRE header. It is 0 in a packet that only acknowledges.
func (h GRE) PayloadLength() int {
	return int(binary.BigEndian.Uint16(h.bytes()[grePayloadLength:]))
}

// HasSeq reports whether the packet has a sequence number (S bit). One that only
// acknowledges has none.
func (h GRE) HasSeq() bool { return h.flags()&bitSequence != 0 }

// HasAck reports whether the packet has an acknowledgment number (A bit).
func (h GRE) HasAck() bool { return h.flags()&bitAck != 0 }

// headerLen returns the header's length in bytes: 8, 12 or 16.
func (h GRE) headerLen() int {
	n := greMinimum
	if h.HasSeq() {
		n += greNumberLen
	}
	if h.HasAck() {
		n += greNumberLen
	}
	return n
}

func (h GRE) flags() uint16 { return binary.BigEndian.Uint16(h.bytes()[greFlags:]) }

// bytes returns the packet for reading.
func (h GRE) bytes() []byte {
	if h.b == nil {
		return blankGRE[:]
	}
	return h.b
}
