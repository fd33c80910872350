package alg

import (
	"bytes"
	"testing"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestPipelinedRequests has a client fill its window with call requests, all of which
// are edited, before the server says a word: the first of them can still be sent
// again.
func TestPipelinedRequests(t *testing.T) {
	const window = 64 << 10
	r := newRig(t)
	other, w := r.masqueraded(insideHost(99)).handshake(), r.masqueraded(insideAddr).handshake()
	var requests [][]byte
	for id := pptp.CallID(256); len(requests)*168 < window; id++ {
		requests = append(requests, message(pptp.OutgoingCallRequest, id, 0, 0))
		other.say(client, bytes.Clone(requests[len(requests)-1]))
	}
	first := w.seq[client]
	for _, b := range requests {
		w.say(client, bytes.Clone(b))
	}
	at := first
	for i, b := range requests {
		got := w.segment(client, packet.ACK, at, bytes.Clone(b))
		sent := w.received[server][i*len(b) : (i+1)*len(b)]
		if w.last.Verdict != Edited || !bytes.Equal(got, sent) || bytes.Equal(got, b) {
			t.Fatalf("request %d of %d, sent again, is %v, %v", i, len(requests), w.last.Verdict, w.last.Reason)
		}
		at = at.Add(len(b))
	}
}
