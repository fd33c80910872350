package alg

import (
	"time"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// Capture is how a segment was captured.
type Capture struct {
	// Missing is how many bytes at the segment's end are not there. They count as a part
	// of the stream, and are not read.
	Missing int

	// Undo is set for a segment that is there as its receiver gets it, captured inside the
	// NAT. Its addresses and ports must be the sender's all the same. NAT must not translate
	// the sender: segments of a translated sender are as they entered the gateway.
	Undo bool
}

// Replay is Edit for a segment of a capture. With Undo it restores the Call IDs that the
// sender wrote, and so reverses what Edit would have done; the segments of one connection
// may come as they are, with and without.
func (e *Editor) Replay(seg packet.Segment, c Capture, now time.Time) Outcome {
	e.turn = newTurn(seg, now)
	e.turn.Capture = c
	e.take(false)
	if !c.Undo {
		e.onePath(seg)
	}
	return e.out
}

// blank steps over n bytes that are not there, from an offset of the payload on. A message
// is told as far as it was read, and acts as far as that goes. If not even its header was
// read, it is unknown where the next one begins.
func (t *turn) blank(at, n int) {
	r := &t.halves[t.sender].reader
	for n > 0 {
		switch {
		case r.skip > 0:
			k := min(int(r.skip), n)
			r.skip -= uint16(k)
			n -= k
			continue
		case r.have < pptp.HeaderLen:
			r.lose()
			t.out.Missing, n = n, 0
		default:
			t.part(r, at)
		}
		// The request of a call may be among what is not there.
		t.watched, t.opened = false, t.at
	}
}

// part reads a message that lacks some of its fields.
func (t *turn) part(r *reader, at int) {
	if l, _ := r.message().Type().Layout(); l.Own == 0 || int(r.have) >= l.Own+2 {
		t.act(r, at, true)
	}
	t.tell(r)
}
