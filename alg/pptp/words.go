package pptp

import "fmt"

// results are the result codes' words, from RFC 2637 sections 2.2, 2.4, 2.6, 2.8, 2.10
// and 2.13.
var results = map[Type]map[byte]string{
	StartControlConnectionReply: {
		1: "successful channel establishment", 2: "general error", 3: "command channel already exists",
		4: "requester is not authorized", 5: "protocol version not supported",
	},
	StopControlConnectionReply: {1: "OK", 2: "general error"},
	EchoReply:                  {1: "OK", 2: "general error"},
	OutgoingCallReply: {
		1: "connected", 2: "general error", 3: "no carrier", 4: "busy", 5: "no dial tone", 6: "time-out", 7: "do not accept",
	},
	IncomingCallReply:    {1: "connect", 2: "general error", 3: "do not accept"},
	CallDisconnectNotify: {1: "lost carrier", 2: "general error", 3: "admin shutdown", 4: "request"},
}

// general are the General Error Codes' words (RFC 2637 section 2.16).
var general = [...]string{
	"none", "not connected: no control connection exists yet", "bad format: length or magic cookie is wrong",
	"bad value: a field is out of range", "no resource: not enough to handle this now", "bad vendor: the Call ID is invalid here",
	"PAC error: a vendor's own error",
}

// Result returns a result code in words, "" for one that is not known.
func (t Type) Result(code byte) string { return results[t][code] }

// ResultWords returns a result code in words, with its number. A type of message that has
// none gives "".
func (t Type) ResultWords(code byte) string {
	if l, ok := t.Layout(); !ok || l.Result == 0 {
		return ""
	}
	words := t.Result(code)
	if words == "" {
		words = "unknown"
	}
	return fmt.Sprintf("%d (%s)", code, words)
}

// ErrorWords returns a General Error Code in words, with its number; "" for none.
func ErrorWords(code byte) string {
	switch {
	case code == 0:
		return ""
	case int(code) < len(general):
		return fmt.Sprintf("%d (%s)", code, general[code])
	}
	return fmt.Sprintf("%d (unknown)", code)
}
