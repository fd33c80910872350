package pptp

import "encoding/binary"

// HeaderLen is how many bytes tell that a control message begins, and which:
// length, PPTP message type, magic cookie, control message type.
const HeaderLen = 10

// MagicCookie stands in every control message (RFC 2637 section 1.4).
const MagicCookie = 0x1A2B3C4D

// ControlMessage is the only PPTP Message Type in use (RFC 2637 section 1.4).
const ControlMessage = 1

// minLength is the header with its reserved word: no control message is shorter.
const minLength = 12

// ResultOK is the result code of a reply that grants the request.
const ResultOK = 1

// Kind tells how far bytes are understood as a control message.
type Kind uint8

const (
	// Foreign bytes do not begin a control message.
	Foreign Kind = iota
	// Opaque bytes begin a message whose length can be trusted to find the
	// next one, but whose type or size RFC 2637 does not define.
	Opaque
	// Known bytes begin a message that the table of layouts describes.
	Known
)

// Message is the beginning of a control message, at least HeaderLen bytes of it. Its
// accessors never panic: missing bytes read as zero.
type Message []byte

// Classify tells what the bytes begin.
func (m Message) Classify() Kind {
	if len(m) < HeaderLen || m.uint16(2) != ControlMessage || m.cookie() != MagicCookie || m.Length() < minLength {
		return Foreign
	}
	if l, ok := m.Type().Layout(); !ok || l.Size != m.Length() {
		return Opaque
	}
	return Known
}

// Length returns the length that the message states for itself, in bytes.
func (m Message) Length() int { return int(m.uint16(0)) }

// Type returns the control message type.
func (m Message) Type() Type { return Type(m.uint16(8)) }

// CallID returns the Call ID at an offset of the message's Layout.
func (m Message) CallID(at int) CallID { return CallID(m.uint16(at)) }

// Result returns the result code; ok is false where the type has none or the
// bytes do not reach to it.
func (m Message) Result() (code byte, ok bool) {
	l, known := m.Type().Layout()
	if !known || l.Result == 0 || l.Result >= len(m) {
		return 0, false
	}
	return m[l.Result], true
}

func (m Message) cookie() uint32 { return uint32(m.uint16(4))<<16 | uint32(m.uint16(6)) }

func (m Message) uint16(at int) uint16 {
	if at+2 > len(m) {
		return 0
	}
	return binary.BigEndian.Uint16(m[at:])
}
