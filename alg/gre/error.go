package gre

import "fmt"

// Error tells why bytes are not enhanced GRE. It is a closed set: each value is
// also fit for a metric's label.
type Error uint8

// The reasons to refuse a packet.
const (
	ErrShort    Error = iota + 1 // fewer bytes than the flags call for
	ErrVersion                   // version is not 1
	ErrProtocol                  // protocol type is not PPP, 0x880B
	ErrFlags                     // the K bit is clear, or one of C, R and s is set
	ErrLength                    // the payload length exceeds the bytes there are
)

func (e Error) Error() string {
	switch e {
	case ErrShort:
		return "short GRE packet"
	case ErrVersion:
		return "not GRE version 1"
	case ErrProtocol:
		return "not PPP over GRE"
	case ErrFlags:
		return "bad GRE flags"
	case ErrLength:
		return "bad GRE payload length"
	}
	return fmt.Sprintf("unknown(%d)", uint8(e))
}
