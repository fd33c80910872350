package packet

import (
	"encoding/binary"

	"pptpalg/alg/pptp"
)

// GREFields are the fields of an enhanced GRE packet. The zero value is a packet to Call ID
// 0 without numbers and payload.
type GREFields struct {
	CallID  pptp.CallID // of the receiver
	HasSeq  bool
	Seq     uint32 // sent only with HasSeq
	HasAck  bool
	Ack     uint32 // sent only with HasAck
	Payload []byte // at most 65535 bytes: the length field is 16 bits wide
}

// AppendGRE appends the packet to b and returns the extended slice.
func AppendGRE(b []byte, f GREFields) []byte {
	b = binary.BigEndian.AppendUint16(b, f.flags())
	b = binary.BigEndian.AppendUint16(b, typePPP)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.Payload)))
	b = binary.BigEndian.AppendUint16(b, uint16(f.CallID))
	if f.HasSeq {
		b = binary.BigEndian.AppendUint32(b, f.Seq)
	}
	if f.HasAck {
		b = binary.BigEndian.AppendUint32(b, f.Ack)
	}
	return append(b, f.Payload...)
}

func (f GREFields) flags() uint16 {
	flags := uint16(bitKey | greVersion)
	if f.HasSeq {
		flags |= bitSequence
	}
	if f.HasAck {
		flags |= bitAck
	}
	return flags
}
