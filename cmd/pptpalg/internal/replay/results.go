package replay

import "pptpalg/alg/pptp"

// results are the result codes' words, shortened from RFC 2637 sections 2.2, 2.4,
// 2.6, 2.8, 2.10 and 2.13.
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
