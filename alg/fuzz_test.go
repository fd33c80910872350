package alg

import (
	"bytes"
	"net/netip"
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// FuzzEditor has both ends of two connections send what the fuzzer likes, in the
// segments that it likes. No segment changes its length or loses its checksum, a
// segment that is dropped or let go unread is not changed, what comes again comes as
// the same bytes, and the table's changes are such as the kernel can carry out.
func FuzzEditor(f *testing.F) {
	f.Add(script(0, message(pptp.OutgoingCallRequest, 7, 0, 0)))
	f.Add(append(script(0, message(pptp.OutgoingCallRequest, 7, 0, 0)), script(1, message(pptp.OutgoingCallReply, 9, 255, 1))...))
	f.Add(append(script(1, message(pptp.IncomingCallRequest, 9, 0, 0)), script(0, message(pptp.IncomingCallReply, 7, 9, 1))...))
	f.Add(append(script(0, message(pptp.CallClearRequest, 7, 0, 0)), script(1, message(pptp.CallDisconnectNotify, 0xff00, 0, 0))...))
	f.Add([]byte{0, 3, 1, 2, 3, 4, 0, 4, 2, 0x40, 1, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRig(t)
		crowd(r, 7)
		wires := []*wire{r.masqueraded(insideAddr).handshake(), r.masqueraded(netip.MustParseAddr("10.0.0.11"))}
		var changes []calls.Event
		for len(b) >= 2 {
			op, n := b[0], min(int(b[1]), len(b)-2)
			w, from := wires[op>>1&1], calls.Side(op&1)
			fuzzSegment(t, w, from, op, bytes.Clone(b[2:2+n]))
			changes = append(changes, w.last.Events...)
			b = b[2+n:]
		}
		checkFlows(t, changes)
	})
}

// fuzzSegment sends bytes at the place in the stream that op's high bits say.
func fuzzSegment(t *testing.T, w *wire, from calls.Side, op byte, payload []byte) {
	flags := packet.ACK
	if op&0x0c == 0x0c {
		flags |= packet.FIN
	}
	seq := w.seq[from].Add([...]int{0, -1, 0, 5}[op>>4&3])
	got := w.segment(from, flags, seq, payload)
	if len(got) != len(payload) {
		t.Fatalf("%d bytes became %d", len(payload), len(got))
	}
	if w.last.Verdict != Edited && !bytes.Equal(got, payload) {
		t.Fatalf("bytes changed, and the verdict is %v", w.last.Verdict)
	}
	first := bytes.Clone(got)
	if again := w.segment(from, flags, seq, payload); w.last.Verdict != Drop && seq == w.seq[from] && !bytes.Equal(again, first) {
		t.Fatalf("a retransmission differs:\n% x\n% x", first, again)
	}
	if w.last.Verdict != Drop && seq == w.seq[from] {
		w.seq[from] = seq.Add(len(payload))
	}
}

// checkFlows plays changes to a model of the kernel's table: what is removed was
// installed, and no two flows enter the same way.
func checkFlows(t *testing.T, changes []calls.Event) {
	type way struct {
		src, dst netip.Addr
		key      pptp.CallID
	}
	there := make(map[way]calls.Flow)
	for _, c := range changes {
		w := way{c.Flow.Src, c.Flow.Dst, c.Flow.Key}
		old, taken := there[w]
		switch {
		case c.Kind == calls.Install && taken && old != c.Flow:
			t.Fatalf("install %v over %v", c.Flow, old)
		case c.Kind == calls.Install:
			there[w] = c.Flow
		case c.Kind == calls.Remove && old != c.Flow:
			t.Fatalf("remove %v, there is %v", c.Flow, old)
		case c.Kind == calls.Remove:
			delete(there, w)
		}
	}
}

// script is a seed: a message in segments of 255 bytes at most.
func script(op byte, m []byte) (b []byte) {
	for len(m) > 0 {
		n := min(255, len(m))
		b = append(append(b, op, byte(n)), m[:n]...)
		m = m[n:]
	}
	return b
}
