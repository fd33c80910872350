package alg

import (
	"time"

	"pptpalg/alg/packet"
	"pptpalg/alg/stream"
	"pptpalg/conntrack"
)

// dialogue is the record of one control connection.
type dialogue struct {
	connection conntrack.Connection
	control    *conntrack.Control // nil once the connection has ended
	pass       Reason             // why it is let alone; Read for one that is edited
	halves     [2]half            // by the side that sends
	opened     time.Time
	heard      time.Time // when the last of its packets came
	ended      time.Time // zero before the end
}

// half is one direction of a control connection.
type half struct {
	stream stream.Stream
	reader reader
	fin    bool
}

func newDialogue(c conntrack.Connection, now time.Time) *dialogue {
	d := &dialogue{connection: c, opened: now, heard: now}
	switch {
	case c.Helper != "":
		d.pass = Helped
	case !c.Translated():
		d.pass = Untranslated
	}
	for s := range d.halves {
		d.halves[s].reader.lose()
	}
	return d
}

// outdated reports whether the record is of an earlier connection than c: c is
// translated in another way, or just being opened, or alive after the record's end.
func (d *dialogue) outdated(c conntrack.Connection) bool {
	return !d.connection.Same(c) || c.Opening || d.control == nil && !c.Closing
}

// greet takes note of a SYN/ACK: with it both streams are known from their first
// byte. It does nothing if either has begun.
func (d *dialogue) greet(from conntrack.Side, seg packet.Segment) {
	if d.halves[0].stream.Joined() || d.halves[1].stream.Joined() {
		return
	}
	d.halves[from].stream.Start(seg.Seq())
	d.halves[from.Other()].stream.Start(seg.Ack().Add(-1))
	for s := range d.halves {
		d.halves[s].reader.begin(conntrack.Side(s))
	}
}

// own takes note that an end is the gateway itself. Nothing of it is translated,
// but it must be known which Call IDs it uses.
func (d *dialogue) own(s conntrack.Side) {
	if d.control == nil {
		return
	}
	d.control.SetLocal(s)
	if d.pass == Untranslated {
		d.pass = Read
	}
}

// finish takes note of a FIN, which has a sequence number of its own. One that is sent
// again changes nothing.
func (h *half) finish(seg packet.Segment) {
	h.fin = true
	if seg.Seq().Add(len(seg.Payload())) == h.stream.Next() {
		h.stream.Advance(1)
	}
}

// leave lets a segment of a connection go that is let alone. If the connection is to
// be read some day, it is joined then.
func (t *turn) leave(h *half) {
	t.out.Reason = NoData
	if len(t.seg.Payload()) > 0 {
		t.out.Reason = t.pass
		h.stream = stream.Stream{}
		h.reader.lose()
	}
}

// reason tells what happens to n bytes of payload of which old were seen before.
func (d *dialogue) reason(n, old int) Reason {
	switch {
	case n == 0:
		return NoData
	case d.control == nil:
		return Over
	case n == old:
		return Again
	}
	return Read
}
