package alg

import (
	"time"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// turn is one segment being read: its sender speaks.
type turn struct {
	*dialogue
	sender conntrack.Side
	seg    packet.Segment
	now    time.Time
	at     time.Duration // now, as the editor's records have it
	out    *Outcome
	undo   bool // see Editor.Undo
}

// role says what a type of message means to the call table: what its own Call ID
// field is, and what becomes of the call. act reports whether it found the call;
// nil means that finding the ID was all.
type role struct {
	own conntrack.Field
	act func(t *turn, m pptp.Message, l pptp.Layout) bool
}

// roles is indexed by message type. Types that carry no Call ID and end no call
// have none.
var roles = [pptp.SetLinkInfo + 1]role{
	pptp.StopControlConnectionRequest: {act: stop},
	pptp.StopControlConnectionReply:   {act: stop},
	pptp.OutgoingCallRequest:          {own: conntrack.Requests, act: requestAsPNS},
	pptp.OutgoingCallReply:            {own: conntrack.Assigns, act: replyAsPAC},
	pptp.IncomingCallRequest:          {own: conntrack.Requests, act: requestAsPAC},
	pptp.IncomingCallReply:            {own: conntrack.Assigns, act: replyAsPNS},
	pptp.IncomingCallConnected:        {act: connected},
	pptp.CallClearRequest:             {own: conntrack.Owns, act: clearCall},
	pptp.CallDisconnectNotify:         {own: conntrack.Notifies, act: disconnect},
}

func stop(t *turn, _ pptp.Message, _ pptp.Layout) bool {
	t.control.Stop(t.now)
	return true
}

func requestAsPNS(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.control.Request(t.sender, t.sender, m.CallID(l.Own), t.now)
}

func requestAsPAC(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.control.Request(t.sender, t.sender.Other(), m.CallID(l.Own), t.now)
}

func replyAsPAC(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.reply(m, l, t.sender.Other(), conntrack.Established)
}

func replyAsPNS(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.reply(m, l, t.sender, conntrack.Answered)
}

func (t *turn) reply(m pptp.Message, l pptp.Layout, pns conntrack.Side, next conntrack.State) bool {
	code, _ := m.Result()
	return t.control.Reply(t.sender, conntrack.Reply{
		PNS: pns, Own: m.CallID(l.Own), Peer: m.CallID(l.Peer),
		Granted: code == pptp.ResultOK, Next: next,
	}, t.now)
}

func connected(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.control.Connected(t.sender, m.CallID(l.Peer))
}

func clearCall(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.control.Clear(t.sender, m.CallID(l.Own), t.now)
}

func disconnect(t *turn, m pptp.Message, l pptp.Layout) bool {
	return t.control.Disconnect(t.sender, m.CallID(l.Own), t.now)
}

// read reads the payload from an offset on, and edits it.
func (t *turn) read(at int) {
	r := &t.halves[t.sender].reader
	payload := t.seg.Payload()
	for at < len(payload) && t.pass == Read {
		if r.skip > 0 {
			n := min(int(r.skip), len(payload)-at)
			r.skip -= uint16(n)
			at += n
			continue
		}
		headless := r.have < pptp.HeaderLen
		at += r.fill(payload[at:])
		if headless && r.have == pptp.HeaderLen {
			t.header(r)
		}
		if r.have >= pptp.HeaderLen {
			t.fields(r, at)
		}
	}
}

// header judges a header that has just become whole.
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

// fields translates the Call IDs as far as they are read, and once the prefix is
// whole lets the message act on the call table. at is where in the payload the
// bytes end that are read.
func (t *turn) fields(r *reader, at int) {
	m := r.message()
	l, _ := m.Type().Layout()
	act := roles[m.Type()]
	if act.own == conntrack.Requests && l.Own != 0 && t.early() {
		t.out.Anomalies = append(t.out.Anomalies, EarlyRequest)
		r.next()
		return
	}
	known := true
	if l.Own != 0 {
		known = t.callID(r, at, l.Own, act.own) && known
	}
	if l.Peer != 0 {
		known = t.callID(r, at, l.Peer, conntrack.Peers) && known
	}
	if !r.whole() {
		return
	}
	if act.act != nil {
		// A request that is not taken has its own anomaly.
		known = act.act(t, m, l) || act.own == conntrack.Requests
	}
	if !known {
		t.out.Anomalies = append(t.out.Anomalies, UnknownCall)
	}
	result, _ := m.Result()
	t.out.Messages = append(t.out.Messages, Message{Type: m.Type(), Own: r.own, Peer: r.peer, Result: result})
	r.next()
}

// early reports whether the other end has not answered the Start-Control-Connection-
// Request yet. No client asks for a call then; a page that lured a browser to
// this port, and got that far, would (NAT slipstreaming).
func (t *turn) early() bool { return t.halves[t.sender.Other()].reader.first != 0 }

// callID translates the ID at an offset of the prefix as far as it is read and not
// settled. It reports false for one that belongs to no known call.
func (t *turn) callID(r *reader, at, field int, f conntrack.Field) bool {
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
func (t *turn) wholeID(r *reader, at, field int, f conntrack.Field) bool {
	var sent *byte
	if int(r.done) == field+1 {
		sent = &r.sent
	}
	from := r.message().CallID(field)
	id, ok := t.translate(f, from, sent)
	r.settle(field, f, Translation{From: from, To: id})
	if t.undo {
		r.rewrite(field, id)
	}
	if sent == nil {
		t.set(at, id.High())
	}
	t.set(at+1, id.Low())
	if !ok && (f == conntrack.Requests || f == conntrack.Assigns) {
		t.out.Anomalies = append(t.out.Anomalies, refusals[t.control.Refusal(t.sender)])
	}
	return ok
}

// set edits a byte of the payload and remembers it for retransmissions.
func (t *turn) set(at int, b byte) {
	if t.seg.Payload()[at] == b {
		return
	}
	t.seg.SetByte(at, b)
	t.halves[t.sender].stream.Record(t.seg.Seq().Add(at), b)
	t.out.Verdict = Edited
}

// replay gives the bytes that were seen before what they got then.
func (t *turn) replay(n int) {
	t.halves[t.sender].stream.Replay(t.seg.Seq(), n, func(at int, b byte) {
		t.seg.SetByte(at, b)
		t.out.Verdict = Edited
	})
}
