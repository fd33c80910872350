package gateway

import (
	"slices"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/history"
)

// refusals are connections that servers refused. With the RST the kernel forgets them, so
// that whose they were cannot be told.
type refusals struct {
	last [8]explain.Refusal
	n    int // how many there were
}

// Events is where the daemon's events are: those that it kept, and those to come.
func (g *Gateway) Events() *history.Store { return g.events }

// seeOpened takes note of a connection that was seen first. taken is false if too many
// are on record. The caller holds mu.
func (g *Gateway) seeOpened(c *calls.Connection, taken bool, now time.Time) {
	e := history.Event{Time: now, Kind: history.ConnectionOpened, Ends: history.EndsOf(c)}
	switch {
	case !taken:
		e.Reason = alg.NoConnection
	case c.Helper != "":
		e.Reason = alg.Helped
	case g.ignores(c):
		e.Reason = alg.Untranslated
	}
	g.happened.seen = append(g.happened.seen, e)
}

// seeRefused takes note of an RST from a server on a connection that nobody knows.
func (g *Gateway) seeRefused(seg packet.Segment, now time.Time) {
	if !seg.Flags().Has(packet.RST) || !slices.Contains(g.cfg.Ports, seg.Src().Port()) {
		return
	}
	r := &g.refusals
	r.last[r.n%len(r.last)] = explain.Refusal{Time: now, Server: seg.Src(), To: seg.Dst()}
	r.n++
}

// refusalsSince returns the refusals since a time, the latest first.
func (g *Gateway) refusalsSince(t time.Time) []explain.Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []explain.Refusal
	for _, r := range g.refusals.last {
		if r.Time.After(t) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b explain.Refusal) int { return b.Time.Compare(a.Time) })
	return found
}

// see takes note of what was read in a segment. The caller holds mu.
func (g *Gateway) see(seg packet.Segment, out *alg.Outcome, now time.Time) {
	if out.Reason == alg.NoConnection {
		g.seeRefused(seg, now)
	}
	if len(out.Messages) == 0 && len(out.Anomalies) == 0 {
		return
	}
	c := g.editor.Connection(seg)
	e := history.Event{Time: now, Ends: history.EndsOf(&c)}
	if c.Original.Src != seg.Src() || c.Original.Dst != seg.Dst() {
		e.From = calls.Responder
	}
	e.Kind = history.MessageRead
	rest := pptp.Message(seg.Payload())
	for _, m := range out.Messages {
		if m.Type == pptp.EchoRequest || m.Type == pptp.EchoReply {
			continue // they come all day, and would push out all else
		}
		e.Message = m
		e.Error, rest = generalError(rest, m.Type)
		g.happened.seen = append(g.happened.seen, e)
	}
	e.Kind, e.Message, e.Error = history.AnomalySeen, alg.Message{}, 0
	for _, a := range out.Anomalies {
		e.Anomaly = a
		g.happened.seen = append(g.happened.seen, e)
	}
}

// generalError returns the General Error Code of the first message of a type in a
// payload, and what lies behind that message. Where the segment does not begin with a
// message, or does not hold it whole, the code is not known: 0.
func generalError(payload pptp.Message, t pptp.Type) (code byte, rest pptp.Message) {
	for payload.Classify() == pptp.Known && len(payload) >= payload.Length() {
		m := payload[:payload.Length()]
		payload = payload[len(m):]
		if m.Type() != t {
			continue
		}
		if l, _ := t.Layout(); l.Result != 0 {
			code = m[l.Result+1]
		}
		return code, payload
	}
	return 0, nil
}
