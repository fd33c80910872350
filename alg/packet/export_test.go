package packet

import "encoding/binary"

// The fields of a GRE packet that nothing but the tests reads: they hold all of a parsed
// packet against gopacket.

// Seq returns the sequence number, 0 without one.
func (h GRE) Seq() uint32 {
	if !h.HasSeq() {
		return 0
	}
	return binary.BigEndian.Uint32(h.b[greMinimum:])
}

// Ack returns the highest sequence number that the sender has received, 0 without
// one.
func (h GRE) Ack() uint32 {
	if !h.HasAck() {
		return 0
	}
	return binary.BigEndian.Uint32(h.b[h.headerLen()-greNumberLen:])
}

// Payload returns the PPP frame as a part of the packet's own bytes. It is empty
// in a packet that only acknowledges.
func (h GRE) Payload() []byte {
	if h.b == nil {
		return nil
	}
	return h.b[h.headerLen():]
}
