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
	*Control
	gateway    *gateway
	translated bool
	inside     calls.Side     // the end that is translated
	public     netip.AddrPort // its address and port outside
	known      bool           // the editor was told of it, since its SYN
	cut        bool           // bytes of it were not captured
	fins       [2]bool        // who has sent a FIN
	closer     calls.Side     // who sent the first one
	held       [2][]held      // segments ahead of a gap, by who sends
	age
}

// tcp reads a segment, edits it if it is of a control connection, and writes it.
func (r *run) tcp(c captured) error {
	t := &r.report.Totals
	seg, err := c.segment()
	if err != nil {
		r.unread(c.missing > 0)
		return nil
	}
	l, from := r.link(seg)
	if l == nil {
		r.other(isPorts)
		return nil
	}
	t.Control++
	if c.missing > 0 {
		t.Cut++
	}
	l.handshake(from, seg)
	r.links.heard(l, r.now)
	if err := r.release(l, from, seg); err != nil {
		return err
	}
	return r.segment(l, from, c, seg)
}

// segment edits a segment of a control connection, and writes or holds it.
func (r *run) segment(l *link, from calls.Side, c captured, seg packet.Segment) error {
	r.original = append(r.original[:0], c.data[:c.CaptureLength]...)
	out := r.edit(l, from, c)
	r.tell(l, from, c, out)
	n := len(seg.Payload())
	if (out.Reason == alg.Gap || out.Reason == alg.Unread) && n > 0 {
		r.report.Totals.Behind++
		c.data = r.original
		l.hold(from, c, seg)
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
	if l, from := r.links.find(seg); l != nil {
		return l, from
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
	l := &link{Control: &c, gateway: r.reading}
	for _, old := range r.links.add(l, r.now) {
		r.forget(old)
	}
	client, clientInside := r.nat.hidden(c.Src.Addr())
	server, serverInside := r.nat.hidden(c.Dst.Addr())
	switch {
	case clientInside && !serverInside:
		l.inside, l.public = calls.Initiator, r.nat.take(client.Public, c.Src.Port(), c.Dst)
	case serverInside && !clientInside && server.Net.IsSingleIP():
		l.inside, l.public = calls.Responder, netip.AddrPortFrom(server.Public, c.Dst.Port())
	default:
		return l
	}
	l.translated, l.gateway = true, r.editing
	return l
}

// forget frees what a connection has that is no longer looked for.
func (r *run) forget(l *link) {
	if l.translated && l.inside == calls.Initiator {
		r.nat.free(l.public, l.Dst)
	}
}

// handshake takes note of what TCP's flags say.
func (l *link) handshake(from calls.Side, seg packet.Segment) {
	f := seg.Flags()
	l.ended = l.ended || f.Has(packet.RST)
	switch {
	case f.Has(packet.SYN | packet.ACK):
		l.answered = true
	case f.Has(packet.SYN):
		l.known, l.ended, l.fins, l.held = false, false, [2]bool{}, [2][]held{}
	case len(seg.Payload()) > 0:
		l.answered = true
	}
	if f.Has(packet.FIN) && !l.fins[from] {
		if !l.fins[from.Other()] {
			l.closer = from
		}
		l.fins[from] = true
		l.ended = l.ended || l.fins[from.Other()]
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
		return r.take(l, from, c, seg)
	}
	if from != l.inside {
		seg.SetDst(l.public)
	}
	out := r.take(l, from, c, seg)
	if from == l.inside {
		seg.SetSrc(l.public)
	}
	c.sum(seg)
	return out
}

// take has the editor read a packet that has its sender's addresses.
func (r *run) take(l *link, from calls.Side, c captured, seg packet.Segment) alg.Outcome {
	e := l.gateway.editor
	if e.Asks(seg) {
		e.Open(l.connection(seg), r.now)
		l.known = true
	}
	return e.Replay(seg, alg.Capture{Missing: c.lacks(seg), Undo: l.translated && from != l.inside}, r.now)
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
	ends := [2]netip.AddrPort{l.end(calls.Initiator), l.end(calls.Responder)}
	if l.translated && from != l.inside {
		ends[l.inside] = l.public
	}
	return calls.Tuple{Src: ends[from], Dst: ends[from.Other()]}
}

// event begins an event with what is captured of an end.
func (l *link) event(from calls.Side, at Moment) Event {
	return Event{time: at.Time, packet: uint32(at.Packet), control: l.Control, from: from}
}

// note reports what is no message.
func (r *run) note(l *link, from calls.Side, at Moment, text string) {
	r.report.Events.add(l.event(from, at).noted(text))
}

// tell reports what came of a segment.
func (r *run) tell(l *link, from calls.Side, c captured, out alg.Outcome) {
	e := l.event(from, c.at)
	for _, m := range out.Messages {
		r.report.Events.add(e.message(m))
	}
	if seg, err := c.segment(); err == nil {
		l.cut = l.cut || c.lacks(seg) > 0
		for _, text := range l.notes(seg, out) {
			r.note(l, from, c.at, text)
		}
	}
	if len(out.Messages)+len(out.Events) > 0 {
		r.calls(l, e, out)
	}
}

// calls brings the ledger up to what the editor knows now.
func (r *run) calls(l *link, e Event, out alg.Outcome) {
	g := l.gateway
	for _, c := range out.Events {
		if c.Kind == calls.Opened {
			g.calls[c.Call.Number] = r.ledger.open(l.Control, e.At())
		}
	}
	if len(out.Events) > 0 || slices.ContainsFunc(out.Messages, aboutCall) {
		for _, v := range g.editor.CallsOf(l.tuple(calls.Initiator)) {
			r.ledger.update(g.calls[v.Number], v)
		}
	}
	for _, c := range out.Events {
		if c.Kind == calls.Closed {
			r.ledger.close(g.calls[c.Call.Number], &End{Moment: e.At(), Cause: c.Cause.String(), Words: causes[c.Cause], By: l.by(c.Cause, e.Src())})
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
	case c == calls.Finished:
		return l.end(l.closer).Addr().String()
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

// unknown is what to say instead of a call that is not known, where bytes are missing that
// may have been about it.
const unknown = "the Call ID is of no call that was captured"

// notes lists what else happened with a segment.
func (l *link) notes(seg packet.Segment, out alg.Outcome) []string {
	var all []string
	if out.Missing > 0 {
		all = append(all, count(out.Missing, "byte")+" not captured")
	}
	if s, ok := reasons[out.Reason]; ok && len(seg.Payload()) > 0 {
		all = append(all, s)
	}
	for _, a := range out.Anomalies {
		if a == alg.UnknownCall && l.cut {
			all = append(all, unknown)
			continue
		}
		all = append(all, oddity(a))
	}
	for _, f := range [...]packet.Flags{packet.SYN | packet.ACK, packet.SYN, packet.FIN, packet.RST} {
		if seg.Flags().Has(f) {
			return append(all, fmt.Sprintf("TCP %v", f))
		}
	}
	return all
}
