package packet

import "fmt"

// Error tells why bytes are not the packet that was asked for. It is a closed
// set: each value is also fit for a metric's label.
type Error uint8

// The reasons to refuse a packet.
const (
	ErrShort     Error = iota + 1 // fewer bytes than the smallest IPv4 header
	ErrNotIPv4                    // IP version is not 4
	ErrLength                     // a length field contradicts another, or the bytes there are
	ErrNotTCP                     // IP protocol is not 6
	ErrFragment                   // one of several fragments: TCP is not all here
	ErrNotQuote                   // not an ICMP error, or what it quotes is no IPv4 header
	ErrShortGRE                   // fewer bytes than the GRE flags call for
	ErrVersion                    // GRE version is not 1
	ErrNotPPP                     // GRE protocol type is not PPP, 0x880B
	ErrFlags                      // the K bit is clear, or one of C, R and s is set
	ErrLengthGRE                  // the payload length exceeds the bytes there are
)

func (e Error) Error() string {
	switch e {
	case ErrShort:
		return "short packet"
	case ErrNotIPv4:
		return "not IPv4"
	case ErrLength:
		return "bad length"
	case ErrNotTCP:
		return "not TCP"
	case ErrFragment:
		return "IP fragment"
	case ErrNotQuote:
		return "not an ICMP error about an IPv4 packet"
	case ErrShortGRE:
		return "short GRE packet"
	case ErrVersion:
		return "not GRE version 1"
	case ErrNotPPP:
		return "not PPP over GRE"
	case ErrFlags:
		return "bad GRE flags"
	case ErrLengthGRE:
		return "bad GRE payload length"
	}
	return fmt.Sprintf("unknown(%d)", uint8(e))
}
