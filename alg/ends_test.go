package alg

import (
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// TestEndsByMessage has the messages that end calls, once their receiver has them.
func TestEndsByMessage(t *testing.T) {
	const own, servers = 7, 9
	for _, tt := range []struct {
		name  string
		from  calls.Side
		bytes []byte
		cause calls.Cause
		ends  bool
	}{
		{"Stop-Control-Connection-Request", client, message(pptp.StopControlConnectionRequest, 0, 0, 0), calls.Stopped, true},
		{"the server's", server, message(pptp.StopControlConnectionRequest, 0, 0, 0), calls.Stopped, true},
		{"Call-Clear-Request", client, message(pptp.CallClearRequest, own, 0, 0), calls.Cleared, true},
		{"Call-Clear-Request of no call", client, message(pptp.CallClearRequest, own+1, 0, 0), 0, false},
		{"Call-Disconnect-Notify", server, message(pptp.CallDisconnectNotify, servers, 0, 4), calls.Disconnected, true},
		{"Call-Disconnect-Notify of no call", server, message(pptp.CallDisconnectNotify, servers+1, 0, 4), 0, false},
		{"Echo-Request", client, message(pptp.EchoRequest, 0, 0, 0), 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newRig(t).masqueraded(insideAddr).handshake()
			w.outgoing(own, servers)
			w.changes = nil
			w.say(tt.from, tt.bytes)
			w.say(tt.from.Other(), message(pptp.EchoRequest, 0, 0, 0)) // and acknowledges
			var closed []calls.Cause
			for _, c := range w.changes {
				if c.Kind == calls.Closed {
					closed = append(closed, c.Cause)
				}
			}
			if len(closed) == 1 != tt.ends || tt.ends && closed[0] != tt.cause {
				t.Errorf("calls were closed for %v, want %v: %v", closed, tt.ends, tt.cause)
			}
		})
	}
}
