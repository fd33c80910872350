package pptp

import "fmt"

// Type is the Control Message Type of RFC 2637 section 2.
type Type uint16

// The control messages, by the names of RFC 2637.
const (
	StartControlConnectionRequest Type = 1
	StartControlConnectionReply   Type = 2
	StopControlConnectionRequest  Type = 3
	StopControlConnectionReply    Type = 4
	EchoRequest                   Type = 5
	EchoReply                     Type = 6
	OutgoingCallRequest           Type = 7
	OutgoingCallReply             Type = 8
	IncomingCallRequest           Type = 9
	IncomingCallReply             Type = 10
	IncomingCallConnected         Type = 11
	CallClearRequest              Type = 12
	CallDisconnectNotify          Type = 13
	WANErrorNotify                Type = 14
	SetLinkInfo                   Type = 15
)

// Layout says where in a message of one type the fields lie that matter to an
// address translator. Offsets are bytes from the start of the message; 0, which
// is inside the header, means that the type has no such field.
type Layout struct {
	Name   string
	Size   int // exact length of the message
	Own    int // the sender's own Call ID
	Peer   int // "Peer's Call ID": the receiver's
	Result int // Result Code, one byte
}

// layouts is indexed by Type. Sizes and offsets: RFC 2637 sections 2.1 to 2.15.
var layouts = [...]Layout{
	StartControlConnectionRequest: {Name: "Start-Control-Connection-Request", Size: 156},
	StartControlConnectionReply:   {Name: "Start-Control-Connection-Reply", Size: 156, Result: 14},
	StopControlConnectionRequest:  {Name: "Stop-Control-Connection-Request", Size: 16},
	StopControlConnectionReply:    {Name: "Stop-Control-Connection-Reply", Size: 16, Result: 12},
	EchoRequest:                   {Name: "Echo-Request", Size: 16},
	EchoReply:                     {Name: "Echo-Reply", Size: 20, Result: 16},
	OutgoingCallRequest:           {Name: "Outgoing-Call-Request", Size: 168, Own: 12},
	OutgoingCallReply:             {Name: "Outgoing-Call-Reply", Size: 32, Own: 12, Peer: 14, Result: 16},
	IncomingCallRequest:           {Name: "Incoming-Call-Request", Size: 220, Own: 12},
	IncomingCallReply:             {Name: "Incoming-Call-Reply", Size: 24, Own: 12, Peer: 14, Result: 16},
	IncomingCallConnected:         {Name: "Incoming-Call-Connected", Size: 28, Peer: 12},
	CallClearRequest:              {Name: "Call-Clear-Request", Size: 16, Own: 12},
	CallDisconnectNotify:          {Name: "Call-Disconnect-Notify", Size: 148, Own: 12, Result: 14},
	WANErrorNotify:                {Name: "WAN-Error-Notify", Size: 40, Peer: 12},
	SetLinkInfo:                   {Name: "Set-Link-Info", Size: 24, Peer: 12},
}

// Types lists the message types in their order.
func Types() []Type {
	all := make([]Type, 0, len(layouts)-1)
	for t := StartControlConnectionRequest; t <= SetLinkInfo; t++ {
		all = append(all, t)
	}
	return all
}

// Layout returns the type's row; ok is false for a type RFC 2637 does not define.
func (t Type) Layout() (l Layout, ok bool) {
	if t < StartControlConnectionRequest || t > SetLinkInfo {
		return Layout{}, false
	}
	return layouts[t], true
}

func (t Type) String() string {
	if l, ok := t.Layout(); ok {
		return l.Name
	}
	return fmt.Sprintf("unknown(%d)", uint16(t))
}

// PrefixLen is how many leading bytes of any message hold every field of every
// Layout: the furthest is a result code at offset 16.
const PrefixLen = 17

// prefixes is indexed by Type, for Prefix.
var prefixes = func() (all [len(layouts)]uint8) {
	for t, l := range layouts {
		all[t] = uint8(max(HeaderLen, end(l.Own, 2), end(l.Peer, 2), end(l.Result, 1)))
	}
	return all
}()

// end returns where a field ends, 0 for a field that there is not.
func end(field, size int) int {
	if field == 0 {
		return 0
	}
	return field + size
}

// Prefix returns how many leading bytes of a message hold its header and the
// fields of its layout.
func (t Type) Prefix() int {
	if int(t) >= len(prefixes) {
		return HeaderLen
	}
	return int(prefixes[t])
}
