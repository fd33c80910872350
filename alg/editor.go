package alg

import (
	"encoding/binary"
	"net/netip"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/stream"
)

// linger is how long the record of a connection outlives the connection, because its last
// segments may be sent again.
const linger = 2 * time.Minute

// mostEnded is the maximum number of such records. If connections end so fast that this
// drops them within seconds, older ones would only take room from living connections.
const mostEnded = 4096

// Editor edits control connections. It is not safe for concurrent use.
type Editor struct {
	most    int // connections on record
	table   *calls.Table
	senders map[key]sender
	last    struct { // the last one found; its dialogue is nil for none
		key    key
		sender sender
	}
	all      []*dialogue
	everyone roll                  // of the living ones
	origins  map[initiator]*origin // the same
	ended    []ended               // in the order in which they ended; some may have been removed
	lost     []ended               // likewise, those with resets
	late     late
	evicted  uint64
	hails    hails
	start    time.Time // the first time it was told: times on record are since then
	passes   uint32    // audits that were begun
	out      Outcome
	readAll  bool                        // see ReadAll
	resets   bool                        // see ResetLost
	owned    func(calls.Connection) bool // see Owned; nil if all are
	apart    int                         // connections that count for no limit, because another gateway owns them
	unsure   bool                        // see Unsure
	zoned    bool                        // see TellZones
	zone     uint64                      // see InZone
	doubted  []*dialogue                 // see Doubted
	turn     turn                        // the present one
}

// key is a packet's addresses and ports, as packet.Segment.Ends has them, and its conntrack
// zone, 0 until TellZones.
type key struct {
	addresses uint64
	ports     uint64 // and the zone in the low half
}

// ended is a connection that has ended, and when.
type ended struct {
	*dialogue
	at time.Duration
}

// sender is the end that sends the packets of one key.
type sender struct {
	dialogue *dialogue
	side     calls.Side
}

// DefaultConnections is the default maximum number of control connections on record: far
// more than a gateway has.
const DefaultConnections = 131072

// NewEditor returns an editor that keeps its calls in a table, and at most so many
// connections on record. A further connection takes the place of one without calls, or
// passes unedited.
func NewEditor(t *calls.Table, most int) *Editor {
	return &Editor{table: t, most: most, senders: make(map[key]sender), origins: make(map[initiator]*origin), late: make(late)}
}

// Asks reports whether the caller must ask the kernel's conntrack how the segment's
// connection is translated, and tell the editor with Open, before the segment can be
// edited. Conntrack does not know the connection of a SYN that has not passed yet, so it is
// not asked about a SYN, whatever data that carries.
func (e *Editor) Asks(seg packet.Segment) bool {
	greets := seg.Flags().Has(packet.SYN | packet.ACK)
	if seg.Flags().Has(packet.SYN) && !greets {
		return false
	}
	s, known := e.find(seg)
	if known && e.resetDue(s, seg) {
		return false
	}
	if !known || s.dialogue.over {
		return greets || len(seg.Payload()) > 0
	}
	began := &s.dialogue.halves[s.side].stream
	return greets && !(began.Joined() && began.Next() == seg.Seq().Add(1))
}

// Open begins the record of a connection. A connection that is on record stays, unless the
// kernel's answer shows that it has ended unseen. false means that too many are on record.
func (e *Editor) Open(c calls.Connection, now time.Time) bool {
	if s, known := e.senders[e.keyOf(&c, calls.Initiator)]; known {
		if !s.dialogue.outdated(c) || s.dialogue.control.Followed() && !e.owns(&c) {
			return true
		}
		e.end(s.dialogue, calls.Expired, now)
		e.remove(s.dialogue)
	}
	if !e.makeRoom(initiatorOf(&c), now) {
		return false
	}
	d := e.newDialogue(c, now)
	if e.readAll && d.pass == Untranslated {
		d.pass = Read
	}
	d.control = e.table.Open(c)
	if !e.owns(&c) {
		d.control.Yield(now)
	}
	e.place(d, &c)
	e.enroll(d)
	return true
}

// place puts a connection on record.
func (e *Editor) place(d *dialogue, c *calls.Connection) {
	d.index = int32(len(e.all))
	e.last.sender.dialogue = nil
	e.all = append(e.all, d)
	e.index(d, c)
}

// index lets a connection be found by its segments.
func (e *Editor) index(d *dialogue, c *calls.Connection) {
	for _, s := range []calls.Side{calls.Initiator, calls.Responder} {
		e.senders[e.keyOf(c, s)] = sender{d, s}
	}
}

// InZone says in which conntrack zone the next segments are. It has no effect before
// TellZones.
func (e *Editor) InZone(zone uint16) {
	if e.zoned {
		e.zone = uint64(zone)
	}
}

// TellZones makes the editor tell connections apart by their conntrack zones as well, from now
// on: the caller must say with InZone in which zone a segment is. Until then tuples are taken
// to be unique, whatever their zones.
func (e *Editor) TellZones() {
	if e.zoned {
		return
	}
	e.zoned = true
	e.last.sender.dialogue = nil
	clear(e.senders)
	for _, living := range []bool{false, true} { // who lives comes last, and stays
		for _, d := range e.all {
			if d.over != living {
				c := d.control.Connection()
				e.index(d, &c)
			}
		}
	}
}

// remove forgets a connection. It does not remove another connection's sender: if NAT
// gives one public port to two connections, the later one has it.
func (e *Editor) remove(d *dialogue) {
	e.last.sender.dialogue = nil
	c := d.control.Connection()
	for _, s := range []calls.Side{calls.Initiator, calls.Responder} {
		if k := e.keyOf(&c, s); e.senders[k].dialogue == d {
			delete(e.senders, k)
		}
	}
	if d.apart {
		d.apart = false
		e.apart--
	}
	last := len(e.all) - 1
	e.all[d.index] = e.all[last]
	e.all[d.index].index = d.index
	e.all[last] = nil
	e.all = e.all[:last]
	d.index = removed
}

// removed is the index of a dialogue that is not in Editor.all.
const removed = -1

// forget removes the connection that ended first, and reports false if none has ended.
func (e *Editor) forget() bool {
	for _, of := range []*[]ended{&e.ended, &e.lost} {
		for len(*of) > 0 {
			if e.forgetFirst(of) {
				return true
			}
		}
	}
	return false
}

// forgetBefore removes the connections of a list that ended before a time.
func (e *Editor) forgetBefore(of *[]ended, at time.Duration) {
	for len(*of) > 0 && (*of)[0].at <= at {
		e.forgetFirst(of)
	}
}

// forgetFirst takes the first one off a list, and reports whether it was still on record.
func (e *Editor) forgetFirst(of *[]ended) bool {
	d := (*of)[0].dialogue
	(*of)[0].dialogue = nil
	*of = (*of)[1:]
	if d.index == removed {
		return false
	}
	e.remove(d)
	return true
}

// since returns a time as it is on record.
func (e *Editor) since(now time.Time) time.Duration {
	if e.start.IsZero() {
		e.start = now
	}
	return now.Sub(e.start)
}

// Restore puts calls on record that were kept over a restart. It returns how many of them
// it refused because another call has their place, or because their connections are not
// read. The others' connections are read from the next message that begins. Calls on
// connections that another gateway owns are followed.
func (e *Editor) Restore(records []calls.Record, now time.Time) (refused int) {
	for _, r := range records {
		if !e.owns(&r.Connection) {
			if _, ok := e.Follow(r, now); !ok {
				refused++
			}
			continue
		}
		r.Connection.Opening = false // nothing was seen of its beginning
		k := e.keyOf(&r.Connection, calls.Initiator)
		if _, known := e.senders[k]; !known && !e.Open(r.Connection, now) {
			refused++
			continue
		}
		d := e.senders[k].dialogue
		d.unseen = true
		for s, local := range r.Local {
			if local {
				d.own(calls.Side(s))
			}
		}
		if d.pass == Untranslated || !d.control.Resume(r, now) {
			refused++
		}
		e.rank(d)
	}
	return refused
}

// Records returns a copy of the calls that a restart should find. Other gateways' are not
// among them.
func (e *Editor) Records() []calls.Record {
	records := make([]calls.Record, 0, e.table.Calls())
	for _, d := range e.all {
		records = d.kept(records)
	}
	return records
}

// kept appends the connection's calls that a restart should find.
func (d *dialogue) kept(records []calls.Record) []calls.Record {
	if d.over || d.control.Followed() {
		return records
	}
	return d.control.Records(records)
}

// Copy is one walk through the calls that Records returns. Between two slices the editor may be used
// for anything: calls that come meanwhile may be missing.
type Copy struct{ steps Audit }

// Copy begins a walk through the calls that a restart should find.
func (e *Editor) Copy() *Copy { return &Copy{Audit{ed: e, records: len(e.all)}} }

// Next appends the calls of at most so many connections, and reports whether there are more.
func (c *Copy) Next(most int, records []calls.Record) (_ []calls.Record, more bool) {
	more = c.steps.walk(&c.steps.records, most, func(d *dialogue) { records = d.kept(records) })
	return records, more
}

// Forsake ignores a segment's connection from now on. It is for a caller that has caught a
// panic of Edit: the record of the connection may be wrong, but its calls, which the kernel
// translates, are right.
func (e *Editor) Forsake(seg packet.Segment) {
	if s, known := e.senders[e.segmentKey(seg)]; known {
		s.dialogue.pass = Failed
	}
}

// Edit reads a segment, edits its bytes in place, and returns what the caller has to do.
// local is true for a packet that the gateway itself sends.
func (e *Editor) Edit(seg packet.Segment, local bool, now time.Time) Outcome {
	e.turn = newTurn(seg, now) // kept here, to allocate none per packet
	e.take(local)
	e.onePath(seg)
	return e.out
}

// take finds the sender of the turn's segment, and carries out the turn.
func (e *Editor) take(local bool) {
	t := &e.turn
	e.out = Outcome{Messages: e.out.Messages[:0], Anomalies: e.out.Anomalies[:0]}
	if t.flags.Has(packet.SYN) && !t.flags.Has(packet.ACK) {
		e.hail(t.seg)
		return
	}
	s, known := e.find(t.seg)
	if !known {
		e.out.Reason = NoConnection
		return
	}
	if !e.mine(s.dialogue, t.now) {
		e.out.Reason, e.out.Events = Elsewhere, e.table.Events()
		t.dialogue = s.dialogue // it may be off the record
		return
	}
	if local {
		s.dialogue.own(s.side)
	}
	t.dialogue, t.sender, t.out, t.at, t.late = s.dialogue, s.side, &e.out, e.since(t.now), e.late
	t.unsure = e.unsure
	e.table.Tick(t.now)
	t.heard, t.unseen = t.at, false
	if e.resetDue(s, t.seg) && t.reset() {
		return
	}
	if e.unsure {
		before := t.halves[t.sender].clone()
		e.edit(t)
		e.retract(t, before)
	} else {
		e.edit(t)
	}
	e.rank(t.dialogue)
	if t.flags&(packet.FIN|packet.RST) != 0 {
		e.doubt(t.dialogue, t.at)
	}
	if e.out.Leave = t.leaves(); e.out.Leave {
		e.out.Reason = t.pass // no later segment comes
	}
	e.out.Events = e.table.Events()
}

// hail lets a SYN pass. Its data, if any, is read when its receiver accepts it.
func (e *Editor) hail(seg packet.Segment) {
	e.out.Reason = NoData
	if len(seg.Payload()) > 0 {
		e.out.Reason = Read
	}
	if len(seg.Payload()) > 0 && e.turn.Missing == 0 {
		e.hails.add(e.segmentKey(seg), seg)
	}
}

func (e *Editor) edit(t *turn) {
	here, there := &t.halves[t.sender], &t.halves[t.sender.Other()]
	switch {
	case t.flags.Has(packet.SYN | packet.ACK):
		c := t.control.Connection()
		t.greet(t.sender, t.seg, e.hails.accepted(e.keyOf(&c, calls.Initiator), t.seg.Ack()))
		if len(t.payload) == 0 {
			t.out.Reason = NoData
			return
		}
	case t.flags.Has(packet.RST):
		t.out.Reason = NoData
		e.reset(t)
		return
	}
	if t.flags.Has(packet.ACK) {
		t.acknowledged(t.sender.Other(), t.seg.Ack())
		there.stream.Acked(t.seg.Ack())
		t.believe(t.sender.Other())
	}
	switch {
	case t.pass != Read:
		t.leave(here)
	case !e.locate(t, here):
		return
	}
	if t.flags.Has(packet.FIN) {
		here.finish(t.first.Add(len(t.payload)))
	}
	if t.finished() {
		e.end(t.dialogue, calls.Finished, t.now)
	}
}

// locate finds where the segment lies in its stream, and reads it. It reports false for a
// segment that is dropped, or is not known to belong to the stream.
func (e *Editor) locate(t *turn, h *half) bool {
	n := len(t.payload)
	p, old := h.stream.Place(t.first, t.length(), t.now)
	old = min(old, n)
	switch p {
	case stream.Ahead:
		t.out.Verdict, t.out.Reason = Drop, Gap
		return false
	case stream.Blind:
		t.out.Reason = Unread
		if n == 0 {
			t.out.Reason = NoData
		}
		return false
	case stream.Forgotten:
		t.out.Verdict, t.out.Reason = Drop, TooOld
		return false
	case stream.Joins:
		h.reader.lose()
		t.late.forget(t.dialogue, t.sender)
	}
	h.unsure = h.unsure && p == stream.Follows && n == old
	t.out.Reason = t.reason(n, old)
	if old > 0 {
		t.replay(old)
	}
	t.shot = t.shot && n <= old
	if n > old && t.out.Reason == Read {
		t.read(old)
		t.out.Reason = t.pass
	}
	h.stream.Advance(n - old)
	return true
}

// reset ends the connection if the receiver will accept the RST (RFC 5961 section 3): it
// lies where the stream ends, or where the receiver's part of it ends. The kernel's
// conntrack judges any other RST, and one on a stream that is not placed; Sweep follows it.
func (e *Editor) reset(t *turn) {
	if s := &t.halves[t.sender].stream; s.Placed() && (t.seg.Seq() == s.Next() || t.seg.Seq() == s.Acknowledged()) {
		e.end(t.dialogue, calls.Reset, t.now)
		return
	}
	t.shot = true
}

func (e *Editor) end(d *dialogue, cause calls.Cause, now time.Time) {
	if d.over {
		return
	}
	d.control.Close(cause, now)
	e.strike(d)
	delete(e.late, d)
	d.over = true
	if (cause == calls.Lost || cause == calls.Operator) && e.resets {
		d.resets = mostResets
		e.lost = append(e.lost, ended{d, e.since(now)})
		return
	}
	e.ended = append(e.ended, ended{d, e.since(now)})
	if len(e.ended) > mostEnded {
		e.forget()
	}
}

// Connection returns the connection of a segment that was just edited, also if that has taken it off the
// record.
func (e *Editor) Connection(seg packet.Segment) calls.Connection {
	d := e.senders[e.segmentKey(seg)].dialogue
	if d == nil {
		d = e.turn.dialogue
	}
	return d.control.Connection()
}

// Connections counts the living control connections by the reason why they are ignored:
// Read for those that are edited, Elsewhere for those of other gateways.
func (e *Editor) Connections() map[Reason]int {
	count := make(map[Reason]int)
	for _, d := range e.all {
		switch {
		case d.over:
		case d.control.Followed():
			count[Elsewhere]++
		default:
			count[d.pass]++
		}
	}
	return count
}

// find returns the sender of a segment. Asks and Edit look for the same sender in turn, so
// the last one found is remembered.
func (e *Editor) find(seg packet.Segment) (sender, bool) {
	k := e.segmentKey(seg)
	if e.last.sender.dialogue == nil || e.last.key != k {
		e.last.key, e.last.sender = k, e.senders[k]
	}
	return e.last.sender, e.last.sender.dialogue != nil
}

func (e *Editor) segmentKey(seg packet.Segment) key {
	addresses, ports := seg.Ends()
	return key{addresses, uint64(ports)<<32 | e.zone}
}

// keyOf returns the key of the packets that an end of a connection sends.
func (e *Editor) keyOf(c *calls.Connection, from calls.Side) key {
	t := c.Original
	if from == calls.Responder {
		t = c.Reply
	}
	k := keyOf(t.Src, t.Dst)
	if e.zoned {
		k.ports |= uint64(c.ZoneOf(from))
	}
	return k
}

func keyOf(src, dst netip.AddrPort) key {
	return key{
		addresses: uint64(number(src.Addr()))<<32 | uint64(number(dst.Addr())),
		ports:     uint64(src.Port())<<48 | uint64(dst.Port())<<32,
	}
}

// number is total: 0 stands for what is not IPv4.
func number(a netip.Addr) uint32 {
	if a = a.Unmap(); !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
