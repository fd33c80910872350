package alg

import (
	"net/netip"
	"time"

	"pptpalg/alg/packet"
	"pptpalg/alg/stream"
	"pptpalg/conntrack"
)

// linger is how long the record of a connection outlives the connection: its last
// segments may be sent again.
const linger = 2 * time.Minute

// Editor edits control connections. It is not safe for concurrent use.
type Editor struct {
	most    int // connections on record
	table   *conntrack.Table
	senders map[key]sender
	out     Outcome
	readAll bool // see ReadAll
	turn    turn // that is being taken
}

// key is a packet's addresses and ports.
type key struct {
	src, dst         [4]byte
	srcPort, dstPort uint16
}

// sender is who sends the packets of one key.
type sender struct {
	dialogue *dialogue
	side     conntrack.Side
}

// DefaultConnections is how many control connections are on record at most: far
// more than a gateway has.
const DefaultConnections = 131072

// NewEditor returns an editor that keeps its calls in a table, and at most so many
// connections on record. One beyond passes unedited.
func NewEditor(t *conntrack.Table, most int) *Editor {
	return &Editor{table: t, most: most, senders: make(map[key]sender)}
}

// Asks reports whether the editor needs to know from the kernel's conntrack how
// the segment's connection is translated, before it can edit the segment: Open
// tells it. Conntrack cannot know the connection of a SYN that it has not let go,
// so that none is worth asking for, whatever data it carries.
func (e *Editor) Asks(seg packet.Segment) bool {
	greets := seg.Flags().Has(packet.SYN | packet.ACK)
	if seg.Flags().Has(packet.SYN) && !greets {
		return false
	}
	s, known := e.senders[keyOf(seg.Src(), seg.Dst())]
	if !known || s.dialogue.control == nil {
		return greets || len(seg.Payload()) > 0
	}
	return greets && s.dialogue.halves[s.side].stream.Next() != seg.Seq().Add(1)
}

// Open begins the record of a connection. One that is on record already stays,
// unless what the kernel says now shows that it has ended unseen. false means that
// too many are on record.
func (e *Editor) Open(c conntrack.Connection, now time.Time) bool {
	if s, known := e.senders[keyOf(c.Original.Src, c.Original.Dst)]; known {
		if !s.dialogue.outdated(c) {
			return true
		}
		e.end(s.dialogue, conntrack.Expired, now)
		e.remove(s.dialogue)
	}
	if len(e.senders) >= 2*e.most {
		return false
	}
	d := newDialogue(c, now)
	if e.readAll && d.pass == Untranslated {
		d.pass = Read
	}
	d.control = e.table.Open(c)
	e.senders[keyOf(c.Original.Src, c.Original.Dst)] = sender{d, conntrack.Initiator}
	e.senders[keyOf(c.Reply.Src, c.Reply.Dst)] = sender{d, conntrack.Responder}
	return true
}

// Restore puts calls on record that were kept over a restart. It returns how many
// of them it could not take: another one has their place. Their connections are
// read on from the next message that begins.
func (e *Editor) Restore(records []conntrack.Record, now time.Time) (refused int) {
	for _, r := range records {
		k := keyOf(r.Connection.Original.Src, r.Connection.Original.Dst)
		if _, known := e.senders[k]; !known && !e.Open(r.Connection, now) {
			refused++
			continue
		}
		d := e.senders[k].dialogue
		if !r.Connection.Translated() { // only the gateway's own calls are kept then
			d.own(conntrack.Initiator)
			d.own(conntrack.Responder)
		}
		if !d.control.Resume(r, now) {
			refused++
		}
	}
	return refused
}

// Records returns a copy of all that a restart is to find.
func (e *Editor) Records() []conntrack.Record {
	records := make([]conntrack.Record, 0, e.table.Calls())
	for _, s := range e.senders {
		if s.side == conntrack.Initiator && s.dialogue.control != nil {
			records = s.dialogue.control.Records(records)
		}
	}
	return records
}

// Forsake leaves a segment's connection alone from now on. It is for a caller that
// has caught a panic of Edit: what is on record of the connection may be wrong, but
// its calls are, as the kernel translates them, right.
func (e *Editor) Forsake(seg packet.Segment) {
	if s, known := e.senders[keyOf(seg.Src(), seg.Dst())]; known {
		s.dialogue.pass = Failed
	}
}

// Edit reads a segment, edits its bytes in place, and says what is to be done.
// local is true for a packet that the gateway itself sends.
func (e *Editor) Edit(seg packet.Segment, local bool, now time.Time) Outcome {
	return e.take(turn{seg: seg, now: now}, local)
}

// take finds who sends the segment of a turn, and takes the turn.
func (e *Editor) take(t turn, local bool) Outcome {
	e.out = Outcome{Messages: e.out.Messages[:0], Anomalies: e.out.Anomalies[:0]}
	s, known := e.senders[keyOf(t.seg.Src(), t.seg.Dst())]
	if !known {
		e.out.Reason = NoConnection
		return e.out
	}
	if local {
		s.dialogue.own(s.side)
	}
	t.dialogue, t.sender, t.out = s.dialogue, s.side, &e.out
	e.table.Tick(t.now)
	t.heard = t.now
	e.turn = t // kept here, so that none is allocated for each packet
	e.edit(&e.turn)
	e.out.Changes = e.table.Changes()
	return e.out
}

func (e *Editor) edit(t *turn) {
	flags := t.seg.Flags()
	here, there := &t.halves[t.sender], &t.halves[t.sender.Other()]
	switch {
	case flags.Has(packet.SYN | packet.ACK):
		t.greet(t.sender, t.seg)
		t.out.Reason = NoData
		return
	case flags.Has(packet.RST):
		t.out.Reason = NoData
		e.reset(t)
		return
	}
	if flags.Has(packet.ACK) {
		there.stream.Acked(t.seg.Ack())
	}
	switch {
	case t.pass != Read:
		t.leave(here)
	case !e.place(t, here):
		return
	}
	if !flags.Has(packet.FIN) {
		return
	}
	here.finish(t.seg)
	if there.fin {
		e.end(t.dialogue, conntrack.Finished, t.now)
	}
}

// place finds where the segment lies in its stream, and has it read. It reports
// false for a segment that is dropped, or is not known to belong to the stream.
func (e *Editor) place(t *turn, h *half) bool {
	n := len(t.seg.Payload())
	p, old := h.stream.Place(t.seg.Seq(), n, t.now)
	switch p {
	case stream.Ahead:
		t.out.Verdict, t.out.Reason = Drop, Gap
		return false
	case stream.Blind:
		t.out.Reason = Unread
		return false
	case stream.Forgotten:
		t.out.Verdict, t.out.Reason = Drop, TooOld
		return false
	case stream.Joins:
		h.reader.lose()
	}
	t.out.Reason = t.reason(n, old)
	t.replay(old)
	if n > old && t.out.Reason == Read {
		t.read(old)
		t.out.Reason = t.pass
	}
	h.stream.Advance(n - old)
	return true
}

// reset ends the connection if the RST is what its receiver will believe (RFC 5961
// section 3). Any other is for the kernel's conntrack to judge; Sweep follows it.
func (e *Editor) reset(t *turn) {
	if s := &t.halves[t.sender].stream; !s.Joined() || t.seg.Seq() == s.Next() {
		e.end(t.dialogue, conntrack.Reset, t.now)
	}
}

func (e *Editor) end(d *dialogue, cause conntrack.Cause, now time.Time) {
	if d.control == nil {
		return
	}
	d.control.Close(cause, now)
	d.control, d.ended = nil, now
}

func (e *Editor) remove(d *dialogue) {
	delete(e.senders, keyOf(d.connection.Original.Src, d.connection.Original.Dst))
	delete(e.senders, keyOf(d.connection.Reply.Src, d.connection.Reply.Dst))
}

// Lost is a control connection that conntrack does not have any more, although its
// end was not seen.
type Lost struct {
	Connection conntrack.Connection
	Calls      []conntrack.Record
}

// Missing returns the connections that Sweep will end for want of an entry in
// conntrack, those on which a FIN was seen left out. The arguments are as for Sweep.
func (e *Editor) Missing(live []conntrack.Connection, asked time.Time) []Lost {
	var lost []Lost
	alive := byTuple(live)
	for k, s := range e.senders {
		d := s.dialogue
		_, found := alive[k]
		if s.side != conntrack.Initiator || found || d.control == nil || !d.opened.Before(asked) || d.halves[0].fin || d.halves[1].fin {
			continue
		}
		lost = append(lost, Lost{d.connection, d.control.Records(nil)})
	}
	return lost
}

// Sweep ends the connections that the kernel's conntrack no longer has as they were,
// or has as closed, and lets time pass in the call table. live is what conntrack had
// at a time not before asked.
func (e *Editor) Sweep(live []conntrack.Connection, asked, now time.Time) []conntrack.Change {
	alive := byTuple(live)
	for k, s := range e.senders {
		d := s.dialogue
		if c, ok := alive[k]; s.side == conntrack.Initiator && d.opened.Before(asked) && !(ok && d.connection.Same(c) && !c.Closing) {
			e.end(d, conntrack.Expired, now)
		}
		if d.control == nil && now.Sub(d.ended) >= linger {
			e.remove(d)
		}
	}
	e.table.Expire(now)
	return e.table.Changes()
}

func byTuple(live []conntrack.Connection) map[key]conntrack.Connection {
	m := make(map[key]conntrack.Connection, len(live))
	for _, c := range live {
		m[keyOf(c.Original.Src, c.Original.Dst)] = c
	}
	return m
}

// EndIdle ends the calls on connections that have been silent since a time, if GRE
// has been as silent: silent tells.
func (e *Editor) EndIdle(since time.Time, silent func(conntrack.Record) bool, now time.Time) []conntrack.Change {
	for _, s := range e.senders {
		if d := s.dialogue; s.side == conntrack.Initiator && d.control != nil && d.heard.Before(since) {
			d.control.EndIf(silent, conntrack.Idle, now)
		}
	}
	return e.table.Changes()
}

// Calls returns a copy of the call table, in no order.
func (e *Editor) Calls() []conntrack.View {
	views := make([]conntrack.View, 0, e.table.Calls())
	for _, s := range e.senders {
		if s.side == conntrack.Initiator && s.dialogue.control != nil {
			views = s.dialogue.control.Calls(views)
		}
	}
	return views
}

// Connections counts the control connections that live, by why they are let
// alone: Read for those that are edited.
func (e *Editor) Connections() map[Reason]int {
	count := make(map[Reason]int)
	for _, s := range e.senders {
		if s.side == conntrack.Initiator && s.dialogue.control != nil {
			count[s.dialogue.pass]++
		}
	}
	return count
}

func keyOf(src, dst netip.AddrPort) key {
	return key{as4(src.Addr()), as4(dst.Addr()), src.Port(), dst.Port()}
}

func as4(a netip.Addr) [4]byte {
	if a = a.Unmap(); !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}
