package replay

import (
	"fmt"
	"net/netip"
	"slices"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// link is a control connection as captured.
type link struct {
	Control
	gateway    *gateway
	translated bool
	inside     calls.Side     // the end that is translated
	public     netip.AddrPort // its address and port outside
	known      bool           // the editor was told of it, since its SYN
	closer     netip.AddrPort // who sent the first FIN
	held       [2][]held      // segments ahead of a gap, by who sends
}

// tcp reads a segment, edits it if it is of a control connection, and writes it.
func (r *run) tcp(c captured) error {
	t := &r.report.Totals
	seg, err := c.segment()
	if err != nil {
		t.Malformed++
		return nil
	}
	l, from := r.link(seg)
	if l == nil {
		t.Other++
		return nil
	}
	t.Control++
	if c.missing > 0 {
		t.Cut++
	}
	l.handshake(seg)
	if err := r.release(l, from, seg); err != nil {
		return err
	}
	return r.segment(l, from, c, seg)
}

// segment edits a segment of a control connection, and writes or holds it.
func (r *run) segment(l *link, from calls.Side, c captured, seg packet.Segment) error {
	original := c.clone()
	out := r.edit(l, from, c)
	r.tell(l, from, original, out)
	n := len(seg.Payload())
	if (out.Reason == alg.Gap || out.Reason == alg.Unread) && n > 0 {
		r.report.Totals.Behind++
		l.hold(from, original, seg)
		return nil
	}
	if out.Verdict == alg.Drop && n > 0 {
		return nil
	}
	if err := r.put(c.frame); err != nil || n == 0 {
		return err
	}
	return r.follow(l, from, seg.Seq().Add(n))
}

// link returns the connection of a segment and who of it sends, nil if neither end
// is a server.
func (r *run) link(seg packet.Segment) (*link, calls.Side) {
	c := Control{seg.Src(), seg.Dst()}
	if l := r.links[c]; l != nil {
		return l, calls.Initiator
	}
	if l := r.links[Control{c.Dst, c.Src}]; l != nil {
		return l, calls.Responder
	}
	greets := seg.Flags().Has(packet.SYN | packet.ACK)
	switch {
	case r.control(c.Dst.Port()) && !(greets && r.control(c.Src.Port())):
		return r.add(c), calls.Initiator
	case r.control(c.Src.Port()):
		return r.add(Control{c.Dst, c.Src}), calls.Responder
	}
	return nil, 0
}

func (r *run) add(c Control) *link {
	l := &link{Control: c, gateway: r.reading}
	r.links[c] = l
	client, clientInside := r.nat.hidden(c.Src.Addr())
	server, serverInside := r.nat.hidden(c.Dst.Addr())
	switch {
	case clientInside && !serverInside:
		l.inside, l.public = calls.Initiator, r.nat.port(client.Public, c.Src.Port(), c.Dst)
	case serverInside && !clientInside && server.Net.IsSingleIP():
		l.inside, l.public = calls.Responder, netip.AddrPortFrom(server.Public, c.Dst.Port())
	default:
		return l
	}
	l.translated, l.gateway = true, r.editing
	return l
}

// handshake takes note of what TCP's flags say.
func (l *link) handshake(seg packet.Segment) {
	f := seg.Flags()
	switch {
	case f.Has(packet.SYN | packet.ACK):
	case f.Has(packet.SYN):
		l.known, l.closer, l.held = false, netip.AddrPort{}, [2][]held{}
	case f.Has(packet.FIN) && !l.closer.IsValid():
		l.closer = seg.Src()
	}
}

// edit has the editor edit the packet, and gives it the addresses and ports of
// outside the NAT.
func (r *run) edit(l *link, from calls.Side, c captured) alg.Outcome {
	seg, err := c.segment()
	if err != nil {
		return alg.Outcome{Reason: alg.Malformed} // it was parsed before, and its lengths are the same
	}
	if !l.translated {
		return r.take(l, from, seg)
	}
	if from != l.inside {
		seg.SetDst(l.public)
	}
	out := r.take(l, from, seg)
	if from == l.inside {
		seg.SetSrc(l.public)
	}
	c.sum(seg)
	return out
}

// take has the editor read a packet that has its sender's addresses.
func (r *run) take(l *link, from calls.Side, seg packet.Segment) alg.Outcome {
	e := l.gateway.editor
	if e.Asks(seg) {
		e.Open(l.connection(seg), r.now)
		l.known = true
	}
	if l.translated && from != l.inside {
		return e.Undo(seg, r.now)
	}
	return e.Edit(seg, false, r.now)
}

// connection is what conntrack would say of the segment's connection. If it is
// known and the editor asks again though nobody greets, its end has been seen.
func (l *link) connection(seg packet.Segment) calls.Connection {
	greets := seg.Flags().Has(packet.SYN | packet.ACK)
	return calls.Connection{
		Original: l.tuple(calls.Initiator), Reply: l.tuple(calls.Responder),
		Opening: greets, Closing: l.known && !greets,
	}
}

// tuple is what the packets of an end carry when they enter the gateway.
func (l *link) tuple(from calls.Side) calls.Tuple {
	ends := [2]netip.AddrPort{calls.Initiator: l.Src, calls.Responder: l.Dst}
	if l.translated && from != l.inside {
		ends[l.inside] = l.public
	}
	return calls.Tuple{Src: ends[from], Dst: ends[from.Other()]}
}

// event begins an event with what is captured of an end.
func (l *link) event(from calls.Side, at Moment) Event {
	ends := [2]netip.AddrPort{calls.Initiator: l.Src, calls.Responder: l.Dst}
	return Event{Moment: at, Src: ends[from], Dst: ends[from.Other()]}
}

// note reports what is no message.
func (r *run) note(l *link, from calls.Side, at Moment, text string) {
	e := l.event(from, at)
	e.Note = text
	r.report.Events = append(r.report.Events, e)
}

// tell reports what came of a segment.
func (r *run) tell(l *link, from calls.Side, c captured, out alg.Outcome) {
	e := l.event(from, c.at)
	for _, m := range out.Messages {
		r.report.Events = append(r.report.Events, e.message(m))
	}
	if seg, err := c.segment(); err == nil {
		for _, text := range notes(seg, out) {
			r.note(l, from, c.at, text)
		}
	}
	if len(out.Messages)+len(out.Events) > 0 {
		r.calls(l, e, out)
	}
}

// message returns the event with what a message says.
func (e Event) message(m alg.Message) Event {
	l, _ := m.Type.Layout()
	e.Message = l.Name
	if l.Own != 0 {
		e.CallID = &ID{m.Own.From, m.Own.To}
	}
	if l.Peer != 0 {
		e.Peer = &ID{m.Peer.From, m.Peer.To}
	}
	if l.Result != 0 {
		e.Result = &Result{m.Result, m.Type.Result(m.Result)}
	}
	return e
}

// calls brings the ledger up to what the editor knows now.
func (r *run) calls(l *link, e Event, out alg.Outcome) {
	g := l.gateway
	for _, c := range out.Events {
		if c.Kind == calls.Opened {
			g.calls[c.Call.Number] = r.ledger.open(l.Control, e.Moment)
		}
	}
	if len(out.Events) > 0 || slices.ContainsFunc(out.Messages, aboutCall) {
		for _, v := range g.editor.CallsOf(l.tuple(calls.Initiator)) {
			r.ledger.update(g.calls[v.Number], v)
		}
	}
	for _, c := range out.Events {
		if c.Kind == calls.Closed {
			r.ledger.close(g.calls[c.Call.Number], &End{Moment: e.Moment, Cause: c.Cause.String(), Words: causes[c.Cause], By: l.by(c.Cause, e.Src)})
			delete(g.calls, c.Call.Number)
		}
	}
}

func aboutCall(m alg.Message) bool {
	return m.Type >= pptp.OutgoingCallRequest && m.Type <= pptp.CallDisconnectNotify
}

// by names who ended a call. Of two FINs the first did.
func (l *link) by(c calls.Cause, sender netip.AddrPort) string {
	switch {
	case c == calls.Expired:
		return ""
	case c == calls.Finished && l.closer.IsValid():
		return l.closer.Addr().String()
	}
	return sender.Addr().String()
}

// causes says in words what a call's end means.
var causes = map[calls.Cause]string{
	calls.Cleared:      "Call-Clear-Request",
	calls.Disconnected: "Call-Disconnect-Notify",
	calls.Refused:      "by the reply's result code",
	calls.Stopped:      "Stop-Control-Connection",
	calls.Finished:     "TCP FIN both ways",
	calls.Reset:        "TCP RST",
	calls.Expired:      "another TCP connection has its ports",
	calls.Replaced:     "another call took its Call ID",
}

// reasons says in words why a segment was not read, or not at once.
var reasons = map[alg.Reason]string{
	alg.Again:   "retransmission",
	alg.NotPPTP: "not PPTP",
	alg.Over:    "the connection has ended",
	alg.Gap:     "earlier bytes are missing",
	alg.Unread:  "not read: earlier bytes are missing",
	alg.TooOld:  "not read: a late retransmission",
}

// oddities says in words what was odd in a stream. A gateway's limits are
// named as its metrics name them.
var oddities = map[alg.Anomaly]string{
	alg.UnknownCall:  "the Call ID is of no known call",
	alg.BadMessage:   "message of unknown type or length",
	alg.Resynced:     "no message begins here: searching",
	alg.NotPPTPFound: "the connection is not PPTP",
	alg.EarlyRequest: "a call before the Start exchange",
	alg.NoPublicID:   "no public Call ID is free",
}

func oddity(a alg.Anomaly) string {
	if s, ok := oddities[a]; ok {
		return s
	}
	return a.String()
}

// notes lists what else happened with a segment.
func notes(seg packet.Segment, out alg.Outcome) []string {
	var all []string
	if s, ok := reasons[out.Reason]; ok && len(seg.Payload()) > 0 {
		all = append(all, s)
	}
	for _, a := range out.Anomalies {
		all = append(all, oddity(a))
	}
	for _, f := range [...]packet.Flags{packet.SYN | packet.ACK, packet.SYN, packet.FIN, packet.RST} {
		if seg.Flags().Has(f) {
			return append(all, fmt.Sprintf("TCP %v", f))
		}
	}
	return all
}
