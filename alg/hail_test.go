package alg

import (
	"slices"
	"testing"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestDataInTheSYN: data that comes with a SYN is part of the stream as far as the SYN/ACK
// acknowledges it.
func TestDataInTheSYN(t *testing.T) {
	start := message(pptp.StartControlConnectionRequest, 0, 0, 0)
	request := message(pptp.OutgoingCallRequest, 7, 0, 0)
	both := append(append([]byte{}, start...), request...)
	tests := []struct {
		name     string
		data     []byte
		accepted int
		twice    bool
		pass     Reason
		id       bool // the request that follows is translated
	}{
		{"all of it", start, len(start), false, Read, true},
		{"sent twice", start, len(start), true, Read, true},
		{"none of it", start, 0, false, Read, true},
		{"half of it", start, 70, false, Read, true},
		{"half of a header", start[:5], 5, false, Read, true},
		{"no PPTP", []byte("GET / HTTP/1.0\r\n\r\n"), 18, false, NotPPTP, false},
		{"a request behind it, which is too early", both, len(both), false, Read, true},
		{"the header of a request behind it", both[:156+10], 156 + 10, false, Read, true},
		{"half of a request behind it", both[:156+13], 156 + 13, false, Read, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			crowd(r, 7)
			w := r.masqueraded(insideAddr)
			isn := w.seq[client]
			for range map[bool]int{false: 1, true: 2}[tt.twice] {
				if got := w.segment(client, packet.SYN, isn, tt.data); w.last.Verdict != Accept || len(got) != len(tt.data) {
					t.Errorf("the SYN: %v", w.last.Verdict)
				}
			}
			w.seq[client] = isn.Add(1 + tt.accepted)
			w.segment(server, packet.SYN|packet.ACK, w.seq[server], nil)
			w.seq[server] = w.seq[server].Add(1)
			if rest := both[tt.accepted:max(len(start), len(tt.data), tt.accepted)]; len(rest) > 0 && tt.pass == Read {
				w.say(client, rest)
			}
			w.say(server, message(pptp.StartControlConnectionReply, 0, 0, 1))
			if len(tt.data) > len(start) && tt.accepted < len(both) && tt.pass == Read {
				w.say(client, both[tt.accepted:])
			}
			if w.last.Reason != tt.pass {
				t.Errorf("after the Start exchange: %v, want %v", w.last.Reason, tt.pass)
			}
			calls := w.table.Calls()
			if id, _ := ids(w.say(client, request)); (id != 7) != tt.id {
				t.Errorf("a request says %v, %v", id, w.last.Reason)
			}
			if len(r.ed.hails.byKey) != 0 && tt.accepted > 0 {
				t.Error("the SYN is still known")
			}
			if tt.pass == Read && slices.Contains(w.anomalies(), Resynced) {
				t.Error("where messages begin was lost")
			}
			if calls != 1 {
				t.Errorf("%d calls before it, want that of another client alone", calls)
			}
		})
	}
}

// TestDataInTheSYNACK: so is what comes with the SYN/ACK.
func TestDataInTheSYNACK(t *testing.T) {
	r := newRig(t)
	crowd(r, 7)
	w := r.masqueraded(insideAddr)
	start, reply := message(pptp.StartControlConnectionRequest, 0, 0, 0), message(pptp.StartControlConnectionReply, 0, 0, 1)
	w.segment(client, packet.SYN, w.seq[client], start)
	w.seq[client] = w.seq[client].Add(1 + len(start))
	w.segment(server, packet.SYN|packet.ACK, w.seq[server], reply)
	if len(w.last.Messages) != 1 {
		t.Errorf("messages %v", w.last.Messages)
	}
	w.seq[server] = w.seq[server].Add(1 + len(reply))
	if public := w.outgoing(7, 9); public == 7 {
		t.Error("the request passed unedited")
	}
}

// TestManyHails: SYNs that are not answered take little room, and the last ones stay.
func TestManyHails(t *testing.T) {
	r := newRig(t)
	var last *wire
	for i := range mostHails + 20 {
		if i != mostHails { // one comes twice
			last = r.masqueraded(insideAddr)
		}
		last.segment(client, packet.SYN, last.seq[client], message(pptp.StartControlConnectionRequest, 0, 0, 0))
	}
	last.segment(client, packet.SYN, last.seq[client], message(pptp.StartControlConnectionRequest, 0, 0, 0)) // again
	if len(r.ed.hails.byKey) != mostHails || len(r.ed.hails.order) != mostHails {
		t.Errorf("%d of %d wait", len(r.ed.hails.byKey), len(r.ed.hails.order))
	}
	last.seq[client] = last.seq[client].Add(157)
	last.segment(server, packet.SYN|packet.ACK, last.seq[server], nil)
	last.seq[server] = last.seq[server].Add(1)
	if last.say(server, message(pptp.StartControlConnectionReply, 0, 0, 1)); last.outgoing(7, 9) != 7 || r.table.Calls() != 1 {
		t.Errorf("%d calls", r.table.Calls())
	}
}
