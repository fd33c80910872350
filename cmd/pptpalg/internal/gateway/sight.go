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

// sight turns what passes into events. Gateway.mu guards it.
type sight struct {
	store *history.Store
	calls map[uint64]*seen       // that have not been forgotten, by number
	ended map[uint64]calls.Cause // calls that ended since tell was called last
	spare []*seen                // of calls that were forgotten, for the next ones; mostSpare at most
	last  volume                 // what calls have carried between a comparison and their end, until the next one

	// Connections that servers refused. With the RST the kernel forgets them, so that
	// whose they were cannot be told.
	refusals [8]explain.Refusal
	refused  int // how many there were
}

// seen is what was last known of a call: when it ends, the table has forgotten it.
type seen struct {
	legs  [2]calls.LegRecord
	stage history.Kind // the last event that was added
	ways  [2]odometer  // to each side
	begun bool         // what the metrics tell of it begins with this daemon, or has begun
	moved time.Time    // when packets were last seen to be counted; zero if nobody counts
}

func newSight() sight {
	return sight{
		store: history.NewStore(history.DefaultClients, history.DefaultPerClient),
		calls: make(map[uint64]*seen), ended: make(map[uint64]calls.Cause),
	}
}

// Events is where the daemon's events are: those that it kept, and those to come.
func (g *Gateway) Events() *history.Store { return g.sight.store }

// seeOpened takes note of a connection that was seen first. taken is false if too many
// are on record.
func (s *sight) seeOpened(c *calls.Connection, taken bool, now time.Time) {
	e := history.Event{Time: now, Kind: history.ConnectionOpened, Ends: history.EndsOf(c)}
	switch {
	case !taken:
		e.Reason = alg.NoConnection
	case c.Helper != "":
		e.Reason = alg.Helped
	case !c.Translated():
		e.Reason = alg.Untranslated
	}
	s.store.Add(&e)
}

// seeRefused takes note of an RST from a server on a connection that nobody knows.
func (g *Gateway) seeRefused(seg packet.Segment, now time.Time) {
	if !seg.Flags().Has(packet.RST) || !slices.Contains(g.cfg.Ports, seg.Src().Port()) {
		return
	}
	s := &g.sight
	s.refusals[s.refused%len(s.refusals)] = explain.Refusal{Time: now, Server: seg.Src(), To: seg.Dst()}
	s.refused++
}

// refusalsSince returns the refusals since a time, the latest first.
func (g *Gateway) refusalsSince(t time.Time) []explain.Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []explain.Refusal
	for _, r := range g.sight.refusals {
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
		g.sight.store.Add(&e)
	}
	e.Kind, e.Message, e.Error = history.AnomalySeen, alg.Message{}, 0
	for _, a := range out.Anomalies {
		e.Anomaly = a
		g.sight.store.Add(&e)
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

// know takes up calls that were there before the daemon, and are no news. afresh says
// that what they carried then was counted by somebody who is gone.
func (s *sight) know(all []calls.Record, afresh bool) {
	for _, r := range all {
		was := &seen{legs: r.Legs, stage: stageOf(r), ways: [2]odometer{{broken: afresh}, {broken: afresh}}}
		if r.State == calls.Clearing {
			was.stage = history.CallClosed
		}
		s.calls[r.Number] = was
	}
}

// stageOf returns the last event of a call that lives.
func stageOf(r calls.Record) history.Kind {
	switch {
	case r.State == calls.Established:
		return history.CallEstablished
	case r.Legs[0].Known && r.Legs[1].Known:
		return history.CallTranslated
	}
	return history.CallRequested
}

// tell makes events of what became of calls. removed is what their flows have carried
// that are gone from the data path, where that tells.
func (s *sight) tell(keeps []calls.Keep, removed flows, now time.Time) {
	for i := range keeps {
		s.tellCall(&keeps[i], removed, now)
	}
	clear(s.ended)
}

func (s *sight) tellCall(k *calls.Keep, removed flows, now time.Time) {
	r := &k.Record
	was, known := s.calls[r.Number]
	if !known {
		was = s.take()
	}
	e := history.Event{Time: now, Ends: history.EndsOf(&r.Connection)}
	for side, l := range r.Legs {
		if l.Known {
			was.legs[side] = l
		}
	}
	e.Call = history.Call{Number: r.Number, PNS: r.PNS, Legs: was.legs, Since: r.Since}
	if !known {
		was.stage = history.CallRequested
		e.Kind = history.CallRequested
		s.store.Add(&e)
	}
	over := k.Gone || r.State == calls.Clearing
	for !over && was.stage < stageOf(*r) {
		was.stage++
		e.Kind = was.stage
		s.store.Add(&e)
	}
	if over && was.stage != history.CallClosed {
		was.stage = history.CallClosed
		s.last.add(was.finish(r, removed, &e.Call))
		e.Kind, e.Call.Cause = history.CallClosed, s.ended[r.Number]
		s.store.Add(&e)
	}
	if k.Gone {
		delete(s.calls, r.Number)
		s.keep(was)
		return
	}
	s.calls[r.Number] = was
}

// mostSpare is how many calls' memory waits for other calls.
const mostSpare = 64

// take returns what is known of a call that is new.
func (s *sight) take() *seen {
	n := len(s.spare)
	if n == 0 {
		return &seen{begun: true}
	}
	c := s.spare[n-1]
	s.spare = s.spare[:n-1]
	*c = seen{begun: true}
	return c
}

func (s *sight) keep(c *seen) {
	if len(s.spare) < mostSpare {
		s.spare = append(s.spare, c)
	}
}

// finish tells what the flows of a call have carried that is over, as far as it is known,
// and returns what that is beyond what the metrics tell.
func (c *seen) finish(r *calls.Record, removed flows, told *history.Call) (grown volume) {
	whole := *r
	whole.Legs = c.legs
	exact := true
	for side := range c.ways {
		f, flows := whole.FlowTo(calls.Side(side))
		if !flows {
			continue
		}
		way := &c.ways[side]
		t, there := removed.at(f)
		grown.add(way.read(t))
		exact = exact && there && t.Counted && !way.broken
		told.Traffic[side] = way.total()
	}
	told.Approximate = !exact && (told.Traffic[0].Counted || told.Traffic[1].Counted)
	if !c.begun {
		return volume{}
	}
	return grown
}
