package events

import (
	"fmt"

	"pptpalg/alg/pptp"
)

// results are the result codes' words, from RFC 2637 sections 2.2, 2.4, 2.6, 2.8, 2.10
// and 2.13.
var results = map[pptp.Type]map[byte]string{
	pptp.StartControlConnectionReply: {
		1: "successful channel establishment", 2: "general error", 3: "command channel already exists",
		4: "requester is not authorized", 5: "protocol version not supported",
	},
	pptp.StopControlConnectionReply: {1: "OK", 2: "general error"},
	pptp.EchoReply:                  {1: "OK", 2: "general error"},
	pptp.OutgoingCallReply: {
		1: "connected", 2: "general error", 3: "no carrier", 4: "busy", 5: "no dial tone", 6: "time-out", 7: "do not accept",
	},
	pptp.IncomingCallReply:    {1: "connect", 2: "general error", 3: "do not accept"},
	pptp.CallDisconnectNotify: {1: "lost carrier", 2: "general error", 3: "admin shutdown", 4: "request"},
}

// general are the General Error Codes' words (RFC 2637 section 2.16).
var general = [...]string{
	"none", "not connected: no control connection exists yet", "bad format: length or magic cookie is wrong",
	"bad value: a field is out of range", "no resource: not enough to handle this now", "bad vendor: the Call ID is invalid here",
	"PAC error: a vendor's own error",
}

// ResultWords returns a result code in words, with its number. A type of message that has
// none gives "".
func ResultWords(t pptp.Type, code byte) string {
	if l, ok := t.Layout(); !ok || l.Result == 0 {
		return ""
	}
	words, ok := results[t][code]
	if !ok {
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
