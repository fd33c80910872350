package alg

import (
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// turn is the reading of one segment.
type turn struct {
	*dialogue
	sender  calls.Side
	seg     packet.Segment
	payload []byte       // of seg, written with set only
	flags   packet.Flags // of seg
	first   packet.Seq   // of payload's first byte
	until   packet.Seq   // behind the bytes of the message that acts
	now     time.Time
	at      time.Duration // now, as the editor's records have it
	out     *Outcome
	late    late
	unsure  bool // see Editor.Unsure
	Capture
}

// role says what a type of message means to the call table: what its own Call ID field is,
// and what happens to the call. act reports whether it found the call; nil means that only
// the ID is translated. ends is for messages that end calls.
type role struct {
	own  calls.Field
	act  func(t *turn, m pptp.Message, l pptp.Layout) bool
	ends func(t *turn, e ending)
}

// roles is indexed by message type. Types that carry no Call ID and end no call
// have none.
var roles = [pptp.SetLinkInfo + 1]role{
	pptp.StopControlConnectionRequest: {ends: stop},
	pptp.StopControlConnectionReply:   {ends: stop},
	pptp.OutgoingCallRequest:          {own: calls.Requests, act: requestAsPNS},
	pptp.OutgoingCallReply:            {own: calls.Assigns, act: replyAsPAC},
	pptp.IncomingCallRequest:          {own: calls.Requests, act: requestAsPAC},
	pptp.IncomingCallReply:            {own: calls.Assigns, act: replyAsPNS},
	pptp.IncomingCallConnected:        {act: connected},
	pptp.CallClearRequest:             {own: calls.Owns, ends: clearCall},
	pptp.CallDisconnectNotify:         {own: calls.Notifies, ends: disconnect},
}

func requestAsPNS(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.request(t.sender, m.CallID(l.Own))
}

func requestAsPAC(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.request(t.sender.Other(), m.CallID(l.Own))
}

// request opens a call. Where the stream is not placed, the request may have passed before the stream was joined:
// then its receiver has acknowledged it, and drops it.
func (t *turn) request(pns calls.Side, own pptp.CallID) bool {
	if t.has(t.sender, t.until) && t.control.Repeats(t.sender, own) {
		return true
	}
	return t.control.Request(t.sender, pns, own, t.now)
}

func replyAsPAC(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.reply(m, l, t.sender.Other(), calls.Established)
}

func replyAsPNS(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.reply(m, l, t.sender, calls.Answered)
}

func (t *turn) reply(m pptp.Message, l pptp.Layout, pns calls.Side, next calls.State) bool {
	code, known := m.Result()
	if !known {
		code, next = pptp.ResultOK, calls.Answered
	}
	return t.control.Reply(t.sender, calls.Reply{
		PNS: pns, Own: m.CallID(l.Own), Peer: m.CallID(l.Peer), AnyPeer: len(m) < l.Peer+2,
		Granted: code == pptp.ResultOK, Next: next, Adopt: t.adopts(),
	}, t.now)
}

func connected(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.control.Connected(t.sender, m.CallID(l.Peer))
}

// adoption is how long after the beginning of its record a connection may open calls whose
// requests passed unseen.
const adoption = time.Minute

// adopts reports whether call requests may have passed before the connection was watched.
func (t *turn) adopts() bool { return !t.watched && !t.unsure && t.at-t.opened < adoption }

// ending is a message that ends calls.
type ending struct {
	kind  pptp.Type
	from  calls.Side
	id    Translation   // its own ID: what the sender wrote, and what the receiver is shown
	until packet.Seq    // of the stream, behind the bytes that were read
	call  uint64        // if it waits: the number of the call that it meant when it was read
	at    time.Duration // if it waits: since when, as the editor's records have it
}

// means returns the number of the call that an ending means now, 0 for none or for all.
func (t *turn) means(e ending) uint64 {
	return t.control.Meant(e.from, roles[e.kind].own, e.id.From, e.id.To)
}

func stop(t *turn, _ ending) { t.control.Stop(t.now) }

func clearCall(t *turn, e ending) { t.control.Clear(e.from, e.id.From, t.now) }

func disconnect(t *turn, e ending) { t.control.Disconnect(e.from, e.id.From, e.id.To, t.now) }

// mostLate is the maximum number of endings of a connection that wait. A further one ends
// nothing: its call ends with the connection.
const mostLate = 8

// finish carries out an ending. If it is not certain that the receiver accepts these bytes,
// the ending waits until they are acknowledged: anybody who guesses a window could have
// sent them.
func (t *turn) finish(e ending) {
	if t.halves[e.from].stream.Placed() {
		roles[e.kind].ends(t, e)
	} else if late := t.late[t.dialogue]; len(late) < mostLate {
		e.call, e.at = t.means(e), t.at
		t.late[t.dialogue] = append(late, e)
	}
}

// believe carries out the endings that the receiver of a direction has acknowledged. The ID of
// a call that has ended otherwise may be a later call's by then.
func (t *turn) believe(from calls.Side) {
	t.halves[from].believe()
	s := &t.halves[from].stream
	if len(t.late) == 0 || !s.Placed() {
		return
	}
	for _, e := range t.late[t.dialogue] {
		if e.from == from && !e.until.After(s.Acknowledged()) && e.call == t.means(e) {
			roles[e.kind].ends(t, e)
		}
	}
	t.late.forget(t.dialogue, from)
}

// late is the waiting endings. Few connections ever have one.
type late map[*dialogue][]ending

// forget drops those of one direction.
func (l late) forget(d *dialogue, from calls.Side) {
	if all, some := l[d]; some {
		if l[d] = slices.DeleteFunc(all, func(e ending) bool { return e.from == from }); len(l[d]) == 0 {
			delete(l, d)
		}
	}
}

// newTurn returns the turn of a segment. Its flags and its place are asked for many times.
func newTurn(seg packet.Segment, now time.Time) turn {
	t := turn{seg: seg, payload: seg.Payload(), flags: seg.Flags(), first: seg.Seq(), now: now}
	if t.flags.Has(packet.SYN) {
		t.first = t.first.Add(1)
	}
	return t
}

// length returns how many sequence numbers of the stream the segment has. On a placed
// stream half.finish handles its FIN.
func (t *turn) length() int {
	n := len(t.payload)
	if t.flags.Has(packet.FIN) && !t.halves[t.sender].stream.Placed() {
		n++
	}
	return n
}

// read reads and edits the payload from an offset on.
func (t *turn) read(at int) {
	r := &t.halves[t.sender].reader
	there := t.payload[:max(at, len(t.payload)-t.Missing)]
	for at < len(there) && t.pass == Read {
		if r.skip > 0 {
			n := min(int(r.skip), len(there)-at)
			r.skip -= uint16(n)
			at += n
			continue
		}
		headless := r.have < pptp.HeaderLen
		at += r.fill(there[at:])
		if headless && r.have == pptp.HeaderLen {
			t.header(r)
		}
		if r.have >= pptp.HeaderLen {
			t.fields(r, at)
		}
	}
	if t.Missing > 0 && t.pass == Read {
		t.blank(at, len(t.payload)-at)
	}
}

// header judges a header that has just become complete.
func (t *turn) header(r *reader) {
	a, anomalous := r.header()
	if anomalous {
		t.out.Anomalies = append(t.out.Anomalies, a)
	}
	if anomalous && a == NotPPTPFound {
		t.pass = NotPPTP
		r.lose()
	}
}

// fields translates the Call IDs as far as they are read. Once the prefix is complete, it
// lets the message act on the call table. at is where the bytes that are read end in the
// payload.
func (t *turn) fields(r *reader, at int) {
	m := r.message()
	l, _ := m.Type().Layout()
	act := roles[m.Type()]
	if (act.own == calls.Requests || act.own == calls.Assigns) && l.Own != 0 && t.early() {
		t.out.Anomalies = append(t.out.Anomalies, EarlyRequest)
		r.next()
		return
	}
	known := true
	if l.Own != 0 {
		known = t.callID(r, at, l.Own, act.own) && known
	}
	if l.Peer != 0 {
		known = t.callID(r, at, l.Peer, calls.Peers) && known
	}
	if !r.whole() {
		return
	}
	if !t.act(r, at, known) {
		t.out.Anomalies = append(t.out.Anomalies, UnknownCall)
	}
	t.tell(r)
}

// act lets a message act on the call table. at is where it has been read to in the payload.
// act reports whether the message is about a known call; known says so of its Call IDs.
func (t *turn) act(r *reader, at int, known bool) bool {
	m := r.message()
	l, _ := m.Type().Layout()
	t.until = t.first.Add(at)
	switch role := roles[m.Type()]; {
	case role.ends != nil:
		t.finish(ending{kind: m.Type(), from: t.sender, id: t.told(r.own), until: t.until})
	case role.act != nil:
		// A refused request has its own anomaly.
		return role.act(t, m, l) || role.own == calls.Requests
	}
	return known
}

// tell adds a message to those that were read, and goes on to its end.
func (t *turn) tell(r *reader) {
	m := r.message()
	result, _ := m.Result()
	t.out.Messages = append(t.out.Messages, Message{Type: m.Type(), Own: r.own, Peer: r.peer, Result: result, Missing: r.want() - len(m)})
	r.next()
}

// early reports whether the other end has not sent its part of the Start exchange yet. No
// client requests a call before that, and no server grants one; but a web page that makes a
// browser connect to this port would (NAT slipstreaming).
func (t *turn) early() bool { return t.halves[t.sender.Other()].reader.first != 0 }

// callID translates the ID at an offset of the prefix as far as it is read and not yet
// settled. It reports false if the ID belongs to no known call.
func (t *turn) callID(r *reader, at, field int, f calls.Field) bool {
	have, done := int(r.have), int(r.done)
	switch {
	case have == field+1 && done <= field:
		r.sent = t.translateHigh(f, r.prefix[field])
		r.done = uint8(field + 1)
		t.set(at-1, r.sent)
	case have >= field+2 && done < field+2:
		return t.wholeID(r, at-(have-field), field, f)
	}
	return true
}

// wholeID translates an ID whose first byte lies at an offset of the payload,
// which is -1 if it came with an earlier segment.
func (t *turn) wholeID(r *reader, at, field int, f calls.Field) bool {
	var sent *byte
	if int(r.done) == field+1 {
		sent = &r.sent
	}
	from := r.message().CallID(field)
	id, ok := t.translate(f, from, sent)
	r.settle(field, f, Translation{From: from, To: id})
	if t.Undo {
		r.rewrite(field, id)
	}
	if sent == nil {
		t.set(at, id.High())
	}
	t.set(at+1, id.Low())
	if !ok && (f == calls.Requests || f == calls.Assigns) {
		t.out.Anomalies = append(t.out.Anomalies, refusals[t.control.Refusal(t.sender)])
	}
	return ok
}

// set edits a byte of the payload and remembers it for retransmissions.
func (t *turn) set(at int, b byte) {
	if t.payload[at] == b {
		return
	}
	t.seg.SetByte(at, b)
	t.halves[t.sender].stream.Record(t.first.Add(at), b)
	t.out.Verdict = Edited
}

// replay gives repeated bytes the edits that they got at first.
func (t *turn) replay(n int) {
	t.halves[t.sender].stream.Replay(t.first, n, func(at int, b byte) {
		t.seg.SetByte(at, b)
		t.out.Verdict = Edited
	})
}
