package alg

import (
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/stream"
)

// dialogue is the record of one control connection.
type dialogue struct {
	control *calls.Control
	halves  [2]half           // by the side that sends
	acked   [2]packet.Seq     // of halves that are acked: the receiver has all before this
	links   [rolls]neighbours // where it stands in the rolls
	opened  time.Duration     // times are since Editor.start
	heard   time.Duration     // when the last of its packets came
	closing time.Duration     // since when conntrack says that it has ended, or it was found silent for long; 0 for neither
	doubted time.Duration     // when a FIN or RST was seen that was not believed, for Editor.Doubted; 0 for none
	again   time.Duration     // when Leave may be said again, if it was said
	index   int32             // in Editor.all
	found   uint32            // the last audit that found its tuple in conntrack
	alive   bool              // and found it as it is here, and not ended
	unseen  bool              // Restore took it up, and neither a segment nor an entry of it was seen since
	missed  bool              // the last audit found no entry of it
	revived bool              // its entry was created again
	watched bool              // it was seen from its first byte on
	started bool              // the Start exchange was seen, or passed unseen
	over    bool              // the connection has ended
	apart   bool              // it is in no roll, because another gateway owns it
	turned  bool              // a segment has shown that it has a new owner, and no Handover has visited it since
	resets  uint8             // how many segments are still answered with a RST: see Outcome.Reset
	left    bool              // Leave was said
	shot    bool              // a RST was seen that was not believed, and nothing new was said since
	pass    Reason            // why it is ignored; Read if it is edited
}

// half is one direction of a control connection.
type half struct {
	stream stream.Stream
	reader reader
	spoke  bool // it has sent data
	acked  bool // its receiver has acknowledged something before the stream was placed
	fin    bool
	unsure bool // it has sent a FIN that is believed when its receiver has acknowledged it
}

// clone returns a copy that shares nothing.
func (h *half) clone() half {
	c := *h
	c.stream = h.stream.Clone()
	return c
}

// newDialogue returns a record that a comparison under way passes by: the packet that begins it, or that shows whose
// it is now, may have come before the kernel was asked.
func (e *Editor) newDialogue(c calls.Connection, now time.Time) *dialogue {
	at := e.since(now)
	d := &dialogue{opened: at, heard: at, found: e.passes, alive: true}
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
func (d *dialogue) outdated(c calls.Connection) bool {
	return !d.control.Same(c) || c.Opening || d.over && !c.Closing
}

// greet records a SYN/ACK: with it both streams are known from their first byte. early is
// the data of the SYN, which has passed. It does nothing if either stream has begun, or if
// conntrack has not seen the handshake, because anybody can send a SYN/ACK.
func (d *dialogue) greet(from calls.Side, seg packet.Segment, early []byte) {
	if d.begun() || !d.control.Connection().Opening {
		return
	}
	d.watched = true
	d.halves[from].stream.Start(seg.Seq())
	d.halves[from.Other()].stream.Start(seg.Ack().Add(-1))
	for s := range d.halves {
		d.halves[s].reader.begin(calls.Side(s))
	}
	if h := &d.halves[from.Other()]; len(early) > 0 {
		h.spoke = true
		if !h.reader.skim(early) && d.pass == Read {
			d.pass = NotPPTP
		}
	}
}

// acknowledged records what the receiver of a side's stream acknowledges while the stream is not placed.
func (d *dialogue) acknowledged(from calls.Side, ack packet.Seq) {
	h := &d.halves[from]
	if !h.stream.Placed() && (!h.acked || ack.After(d.acked[from])) {
		d.acked[from], h.acked = ack, true
	}
}

// has reports whether it is known that the receiver of a side's stream has all bytes before a place, though the stream
// is not placed.
func (d *dialogue) has(from calls.Side, until packet.Seq) bool {
	h := &d.halves[from]
	return !h.stream.Placed() && h.acked && !until.After(d.acked[from])
}

func (d *dialogue) begun() bool {
	return d.halves[0].stream.Joined() || d.halves[1].stream.Joined()
}

// own records that an end is the gateway itself. Nothing of it is translated, but the
// call table must know which Call IDs it uses.
func (d *dialogue) own(s calls.Side) {
	if d.over {
		return
	}
	d.control.SetLocal(s)
	if d.pass == Untranslated {
		d.pass = Read
	}
}

// finish records a FIN at the end of what was sent. A FIN has a sequence number of its own,
// and a repeated one changes nothing. On a stream that is not placed anybody could have
// sent it, so it counts only once it is acknowledged.
func (h *half) finish(end packet.Seq) {
	if h.stream.Joined() && end == h.stream.Next() && !h.fin && !h.unsure {
		h.fin = h.stream.Placed()
		h.unsure = !h.fin
		h.stream.Advance(1)
	}
}

// believe lets the FIN count if the receiver has acknowledged everything up to it.
func (h *half) believe() {
	if h.unsure && h.stream.Placed() && h.stream.Acknowledged() == h.stream.Next() {
		h.fin, h.unsure = true, false
	}
}

// finished reports whether both ends have sent their FIN.
func (d *dialogue) finished() bool { return d.halves[0].fin && d.halves[1].fin }

// parts reports whether both ends have sent a FIN, and one of the two counts. The last
// acknowledgement may be a segment without data, which the rules do not queue; conntrack
// tells of the other FIN.
func (d *dialogue) parts() bool {
	a, b := &d.halves[0], &d.halves[1]
	return a.fin && b.unsure || b.fin && a.unsure
}

// placed reports whether a RST of either end can be checked against its stream. That bytes
// behind a gap passed unread does not matter: anybody could have sent them. If they were the
// end's own, and its RST with them, GRE stops, and conntrack forgets the connection soon.
func (d *dialogue) placed() bool {
	return d.halves[0].stream.Placed() && d.halves[1].stream.Placed()
}

// believes reports whether to believe conntrack that the connection has ended. Conntrack
// accepts any FIN in its window, takes even two FINs of one end for one of each, and after a
// flush of its table accepts any RST. The editor knows better about connections that it
// reads: there only FINs and RSTs that fit the streams end the connection, or an entry that
// disappears. Conntrack decides about a RST on other streams, and about what ended before a
// restart, unless it said so before that restart already and was not believed.
func (d *dialogue) believes(c *calls.Connection) bool {
	return c.Closing && (d.pass != Read || d.parts() || c.Reset && !d.placed() || d.unseen && !d.control.Disputed())
}

// patience is how long segments may still come after Leave, because they were queued
// before the kernel was told.
const patience = time.Second

// leaves reports whether the connection is ignored for good from this segment on.
func (t *turn) leaves() bool {
	if t.over || t.left && t.at < t.again || !t.settled() || t.flags.Has(packet.FIN) {
		return false
	}
	t.left, t.again = true, t.at+patience
	return true
}

// settled reports whether nothing that the editor must read can come on the connection.
func (d *dialogue) settled() bool {
	switch d.pass {
	case Helped, NotPPTP:
		return true
	case Untranslated:
		return d.halves[0].spoke && d.halves[1].spoke
	}
	return false
}

// leave lets a segment of an ignored connection pass. If the connection has to be read
// later, its streams are joined then.
func (t *turn) leave(h *half) {
	t.out.Reason = NoData
	if len(t.payload) > 0 {
		t.out.Reason = t.pass
		h.stream = stream.Stream{}
		h.spoke = true
		h.reader.lose()
	}
}

// reason tells what happens to n bytes of payload, old of them seen before.
func (d *dialogue) reason(n, old int) Reason {
	switch {
	case n == 0:
		return NoData
	case d.over:
		return Over
	case n == old:
		return Again
	}
	return Read
}
