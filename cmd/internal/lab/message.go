package lab

import (
	"encoding/binary"
	"fmt"

	"pptpalg/alg/pptp"
)

// Type is a control message type of RFC 2637.
type Type uint16

// The control messages (RFC 2637 section 1.4).
const (
	StartRequest         Type = 1
	StartReply           Type = 2
	StopRequest          Type = 3
	StopReply            Type = 4
	EchoRequest          Type = 5
	EchoReply            Type = 6
	OutgoingCallRequest  Type = 7
	OutgoingCallReply    Type = 8
	IncomingCallRequest  Type = 9
	IncomingCallReply    Type = 10
	IncomingCallConnect  Type = 11
	CallClearRequest     Type = 12
	CallDisconnectNotify Type = 13
	WANErrorNotify       Type = 14
	SetLinkInfo          Type = 15
)

func (t Type) String() string {
	if l, ok := layouts[t]; ok {
		return l.name
	}
	return fmt.Sprintf("unknown(%d)", uint16(t))
}

// ResultOK is the result code that means success in every reply.
const ResultOK = 1

const (
	headerSize  = 12 // length, message type, magic cookie, control type, reserved
	magicCookie = 0x1A2B3C4D
)

// layout is what the lab knows of a message type. It is written down a second
// time, from the RFC, so that no test checks the editor's table against itself.
// An offset of 0 means that the type has no such field.
type layout struct {
	name                       string
	size                       int
	own, peer, result, identif int
	cause                      int     // of two bytes
	fill                       []field // what an ordinary peer puts into the rest
}

// field is a default value: of two bytes, or of four where wide.
type field struct {
	offset int
	value  uint32
	wide   bool
}

const (
	version    = 0x0100 // protocol version 1.0
	bps        = 10_000_000
	anyFraming = 3 // asynchronous and synchronous
	anyBearer  = 3 // analog and digital
	window     = 64
)

var layouts = map[Type]layout{
	StartRequest: {name: "Start-Control-Connection-Request", size: 156,
		fill: []field{{12, version, false}, {16, anyFraming, true}, {20, anyBearer, true}, {26, 1, false}}},
	StartReply: {name: "Start-Control-Connection-Reply", size: 156, result: 14,
		fill: []field{{12, version, false}, {16, anyFraming, true}, {20, anyBearer, true}, {26, 1, false}}},
	StopRequest: {name: "Stop-Control-Connection-Request", size: 16,
		fill: []field{{12, 1 << 8, false}}}, // reason 1, a byte: none in particular
	StopReply:   {name: "Stop-Control-Connection-Reply", size: 16, result: 12},
	EchoRequest: {name: "Echo-Request", size: 16, identif: 12},
	EchoReply:   {name: "Echo-Reply", size: 20, result: 16, identif: 12},
	OutgoingCallRequest: {name: "Outgoing-Call-Request", size: 168, own: 12,
		fill: []field{{14, 1, false}, {16, 2400, true}, {20, bps, true}, {24, anyBearer, true}, {28, anyFraming, true}, {32, window, false}}},
	OutgoingCallReply: {name: "Outgoing-Call-Reply", size: 32, own: 12, peer: 14, result: 16, cause: 18,
		fill: []field{{20, bps, true}, {24, window, false}}},
	IncomingCallRequest: {name: "Incoming-Call-Request", size: 220, own: 12,
		fill: []field{{14, 1, false}, {16, 1, true}}},
	IncomingCallReply: {name: "Incoming-Call-Reply", size: 24, own: 12, peer: 14, result: 16,
		fill: []field{{18, window, false}}},
	IncomingCallConnect: {name: "Incoming-Call-Connected", size: 28, peer: 12,
		fill: []field{{16, bps, true}, {20, window, false}, {24, 1, true}}},
	CallClearRequest:     {name: "Call-Clear-Request", size: 16, own: 12},
	CallDisconnectNotify: {name: "Call-Disconnect-Notify", size: 148, own: 12, result: 14},
	WANErrorNotify:       {name: "WAN-Error-Notify", size: 40, peer: 12, fill: []field{{16, 7, true}}},
	SetLinkInfo: {name: "Set-Link-Info", size: 24, peer: 12,
		fill: []field{{16, 0xFFFFFFFF, true}, {20, 0xFFFFFFFF, true}}},
}

// Message is a control message. Fields that its type lacks are zero, and are not
// written.
type Message struct {
	Type       Type
	CallID     pptp.CallID // the sender's own; in a Call-Disconnect-Notify whatever stands there
	PeerCallID pptp.CallID // the receiver's
	Result     uint8
	Cause      uint16 // of an Outgoing-Call-Reply: more than the result says
	Identifier uint32 // of an Echo
}

func (m Message) String() string {
	l := layouts[m.Type]
	s := m.Type.String()
	if l.own != 0 {
		s += fmt.Sprintf(" call %v", m.CallID)
	}
	if l.peer != 0 {
		s += fmt.Sprintf(" peer %v", m.PeerCallID)
	}
	if l.result != 0 {
		s += fmt.Sprintf(" result %d", m.Result)
	}
	return s
}

// Bytes encodes the message as an ordinary peer would. An unknown type panics: it
// is for SendRaw.
func (m Message) Bytes() []byte {
	l, ok := layouts[m.Type]
	if !ok {
		panic(fmt.Sprintf("encode message: type %v", m.Type))
	}
	b := make([]byte, l.size)
	binary.BigEndian.PutUint16(b, uint16(l.size))
	binary.BigEndian.PutUint16(b[2:], 1) // a control message
	binary.BigEndian.PutUint32(b[4:], magicCookie)
	binary.BigEndian.PutUint16(b[8:], uint16(m.Type))
	for _, f := range l.fill {
		f.put(b)
	}
	m.put(b, l)
	return b
}

func (f field) put(b []byte) {
	if f.wide {
		binary.BigEndian.PutUint32(b[f.offset:], f.value)
		return
	}
	binary.BigEndian.PutUint16(b[f.offset:], uint16(f.value))
}

func (m Message) put(b []byte, l layout) {
	if l.own != 0 {
		binary.BigEndian.PutUint16(b[l.own:], uint16(m.CallID))
	}
	if l.peer != 0 {
		binary.BigEndian.PutUint16(b[l.peer:], uint16(m.PeerCallID))
	}
	if l.result != 0 {
		b[l.result] = m.Result
	}
	if l.cause != 0 {
		binary.BigEndian.PutUint16(b[l.cause:], m.Cause)
	}
	if l.identif != 0 {
		binary.BigEndian.PutUint32(b[l.identif:], m.Identifier)
	}
}

// ParseMessage decodes exactly one message. It is strict: length, message type,
// cookie and type must be right, as pptp-linux, mpd and accel-ppp demand.
func ParseMessage(b []byte) (Message, error) {
	size, err := messageSize(b)
	if err != nil {
		return Message{}, err
	}
	if size != len(b) {
		return Message{}, fmt.Errorf("parse message: %d bytes, want %d", len(b), size)
	}
	m := Message{Type: Type(binary.BigEndian.Uint16(b[8:]))}
	m.get(b, layouts[m.Type])
	return m, nil
}

func (m *Message) get(b []byte, l layout) {
	if l.own != 0 {
		m.CallID = pptp.CallID(binary.BigEndian.Uint16(b[l.own:]))
	}
	if l.peer != 0 {
		m.PeerCallID = pptp.CallID(binary.BigEndian.Uint16(b[l.peer:]))
	}
	if l.result != 0 {
		m.Result = b[l.result]
	}
	if l.cause != 0 {
		m.Cause = binary.BigEndian.Uint16(b[l.cause:])
	}
	if l.identif != 0 {
		m.Identifier = binary.BigEndian.Uint32(b[l.identif:])
	}
}

// messageSize reads from a header how long the message is.
func messageSize(header []byte) (int, error) {
	if len(header) < headerSize {
		return 0, fmt.Errorf("parse header: %d bytes, want %d", len(header), headerSize)
	}
	kind, cookie := binary.BigEndian.Uint16(header[2:]), binary.BigEndian.Uint32(header[4:])
	if kind != 1 || cookie != magicCookie {
		return 0, fmt.Errorf("parse header: message type %d, cookie %#x", kind, cookie)
	}
	size, t := int(binary.BigEndian.Uint16(header)), Type(binary.BigEndian.Uint16(header[8:]))
	if l, ok := layouts[t]; !ok || l.size != size {
		return 0, fmt.Errorf("parse header: %v of %d bytes", t, size)
	}
	return size, nil
}

// NewStartRequest opens a control connection.
func NewStartRequest() Message { return Message{Type: StartRequest} }

// NewStartReply answers a Start-Control-Connection-Request.
func NewStartReply(result uint8) Message { return Message{Type: StartReply, Result: result} }

// NewStopRequest ends a control connection.
func NewStopRequest() Message { return Message{Type: StopRequest} }

// NewStopReply answers a Stop-Control-Connection-Request.
func NewStopReply(result uint8) Message { return Message{Type: StopReply, Result: result} }

// NewEchoRequest asks whether the peer is alive.
func NewEchoRequest(identifier uint32) Message {
	return Message{Type: EchoRequest, Identifier: identifier}
}

// NewEchoReply answers an Echo-Request.
func NewEchoReply(identifier uint32, result uint8) Message {
	return Message{Type: EchoReply, Identifier: identifier, Result: result}
}

// NewOutgoingCallRequest asks a PAC for a call.
func NewOutgoingCallRequest(own pptp.CallID) Message {
	return Message{Type: OutgoingCallRequest, CallID: own}
}

// NewOutgoingCallReply answers an Outgoing-Call-Request.
func NewOutgoingCallReply(own, peer pptp.CallID, result uint8) Message {
	return Message{Type: OutgoingCallReply, CallID: own, PeerCallID: peer, Result: result}
}

// NewIncomingCallRequest offers a PNS a call.
func NewIncomingCallRequest(own pptp.CallID) Message {
	return Message{Type: IncomingCallRequest, CallID: own}
}

// NewIncomingCallReply answers an Incoming-Call-Request.
func NewIncomingCallReply(own, peer pptp.CallID, result uint8) Message {
	return Message{Type: IncomingCallReply, CallID: own, PeerCallID: peer, Result: result}
}

// NewIncomingCallConnected completes an incoming call.
func NewIncomingCallConnected(peer pptp.CallID) Message {
	return Message{Type: IncomingCallConnect, PeerCallID: peer}
}

// NewCallClearRequest asks the PAC to end a call.
func NewCallClearRequest(own pptp.CallID) Message {
	return Message{Type: CallClearRequest, CallID: own}
}

// NewCallDisconnectNotify says that a call has ended. RFC 2637 puts the PAC's own
// ID there; others put others.
func NewCallDisconnectNotify(id pptp.CallID, result uint8) Message {
	return Message{Type: CallDisconnectNotify, CallID: id, Result: result}
}

// NewWANErrorNotify reports line errors to the PNS.
func NewWANErrorNotify(peer pptp.CallID) Message {
	return Message{Type: WANErrorNotify, PeerCallID: peer}
}

// NewSetLinkInfo tells the PAC what PPP negotiated.
func NewSetLinkInfo(peer pptp.CallID) Message {
	return Message{Type: SetLinkInfo, PeerCallID: peer}
}
