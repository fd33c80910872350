package gateway

import (
	"errors"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/conntrack"
)

// The walk of a control packet. Packets that come together go it together, from settle on:
//
//	packet ─► read ─► edit                   mu is held for each packet
//	settle ─► remember ─► translate          order is held from here
//	          the queue releases the packets, or drops them if another gateway has the calls
//	released ─► tell                         to here
//
// Memory comes first: an entry in the kernel that the store does not know would be nobody's.
// Translation comes before the packets: the GRE that their receivers may send at once finds
// its flows. The reconciler goes the same way from remember on: carryOut.

// packet is the packet loop's body: one packet in, one verdict out.
func (g *Gateway) packet(p *nfqueue.Packet) nfqueue.Verdict {
	g.turn.begin(&g.pulse)
	seg, unread := read(p)
	if unread == alg.Malformed && g.tooBigs.hear(p.Payload, g.turn.began) {
		return nfqueue.Accept // an ICMP error, which rules.Config.TooBig has queued
	}
	out := alg.Outcome{Reason: unread}
	if unread == alg.Read {
		out = g.editOwned(seg, p)
	}
	if out.Reset {
		p.Mark |= g.rules().ResetMark // a rule answers it with a RST
	}
	g.metrics.outcome(out)
	return verdicts[out.Verdict]
}

// settle is called when packets that came together are edited, and wait to be let go. It reports
// whether they may be: not if another gateway has taken their calls over meanwhile, without a word of
// what they say. Their senders send them again, by that gateway.
func (g *Gateway) settle() (release bool) {
	g.order.Lock()
	settled := false
	defer func() {
		g.endTurn()
		if !settled { // the queue has caught a panic, and does not call released
			g.order.Unlock()
		}
	}()
	g.turn.happened = g.take()
	g.remember(g.turn.happened.events, g.turn.began)
	if release = !g.elsewhere; !release {
		g.elsewhere = false
		g.share.metrics.withheld.Add(float64(g.turn.packets))
	}
	g.translate(g.turn.happened.events)
	settled = true
	return release
}

// released is called when they are on their way.
func (g *Gateway) released() {
	defer g.order.Unlock()
	g.tell(g.turn.happened, g.turn.began)
}

// turn is the packets that came together. The packet loop owns it.
type turn struct {
	began    time.Time // when the first of them was taken up
	packets  int
	happened happened

	elsewhere calls.Connection // of the last packet of a connection of another gateway
	unclaimed bool             // the public address of the last packet's connection is being acquired
}

func (t *turn) begin(p *pulse) {
	if t.packets == 0 {
		t.began = time.Now()
		p.packet.begin(t.began)
	}
	t.packets++
}

func (g *Gateway) endTurn() {
	g.metrics.took(time.Since(g.turn.began), g.turn.packets)
	g.turn.packets = 0
	g.pulse.packet.end()
}

// verdicts translates the editor's verdict into the queue's.
var verdicts = map[alg.Verdict]nfqueue.Verdict{
	alg.Accept: nfqueue.Accept,
	alg.Edited: nfqueue.AcceptModified,
	alg.Drop:   nfqueue.Drop,
}

// read returns the segment that a packet is, or why it cannot be read.
func read(p *nfqueue.Packet) (packet.Segment, alg.Reason) {
	if p.Truncated {
		return packet.Segment{}, alg.Truncated
	}
	seg, err := packet.Parse(p.Payload)
	if err != nil {
		return packet.Segment{}, alg.Malformed
	}
	return seg, alg.Read
}

// editOwned edits a packet's segment when it is known whose its connection is.
func (g *Gateway) editOwned(seg packet.Segment, p *nfqueue.Packet) alg.Outcome {
	if g.share == nil {
		return g.edit(seg, p)
	}
	if g.turn.packets == 1 {
		g.refresh(trusted) // a daemon that has slept may have lost an address without a word
	}
	out := g.editKnown(seg, p)
	if g.turn.unclaimed {
		out = g.editKnown(seg, p)
	}
	if out.Reason != alg.Elsewhere {
		return out
	}
	ours, held := g.comes(&g.turn.elsewhere)
	switch {
	case ours:
		return g.editKnown(seg, p)
	case g.underWay(&g.turn.elsewhere), held && len(seg.Payload()) > 0:
		out.Verdict = alg.Drop // it comes again
	}
	return out
}

// editKnown edits a packet's segment when nothing is known to change hands.
func (g *Gateway) editKnown(seg packet.Segment, p *nfqueue.Packet) alg.Outcome {
	g.awaitOwners()
	g.turn.unclaimed = false
	return g.edit(seg, p)
}

// edit edits a packet's segment.
func (g *Gateway) edit(seg packet.Segment, p *nfqueue.Packet) alg.Outcome {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inZone(seg, p)
	defer g.forsake(seg)
	now := g.turn.began
	if g.editor.Asks(seg) && !g.ask(seg, now) {
		return alg.Outcome{Reason: alg.Failed}
	}
	if g.share != nil {
		g.editor.Unsure(g.mayBeTold(seg, now))
	}
	out := g.editor.Edit(seg, p.Hook == nfqueue.Output, now)
	g.note(out.Events)
	g.see(seg, &out, now)
	if out.Leave {
		g.leave(seg)
	}
	if out.Reason == alg.Elsewhere {
		g.turn.elsewhere = g.editor.Connection(seg)
	}
	g.tellLimits(out.Anomalies, seg)
	return out
}

// forsake hands a panic on to the queue, which accepts the packet unedited, and has
// the editor leave the packet's connection alone.
func (g *Gateway) forsake(seg packet.Segment) {
	if p := recover(); p != nil {
		g.editor.Forsake(seg)
		panic(p)
	}
}

// ask has conntrack tell how the segment's connection is translated. A connection
// that conntrack does not know stays unknown to the editor too.
func (g *Gateway) ask(seg packet.Segment, now time.Time) bool {
	c, err := g.connection(seg)
	switch {
	case errors.Is(err, conntrack.ErrNotFound):
		return true
	case err != nil:
		g.conntrackFailed(opGet, err)
		return false
	}
	if c.Helper != "" {
		g.limits.sometimes("helper", func() {
			g.log.Warn("the kernel's own helper edits this connection, so it is ignored: remove the rule (-j CT --helper pptp) or the sysctl (net.netfilter.nf_conntrack_helper) that attaches it",
				"helper", c.Helper, "connection", c.Original)
		})
	}
	g.askForZones(&c, now)
	if g.acquires(&c) {
		g.turn.unclaimed = true
		return false
	}
	taken := g.editor.Open(c, now)
	g.seeOpened(&c, taken, now)
	if !taken {
		g.metrics.refused.Inc()
		g.limits.sometimes("connections", func() { g.log.Warn("too many control connections: this one is not edited", "connection", c.Original) })
	}
	return true
}

// leave has the kernel queue no more of a connection that is ignored. Where it
// cannot, the connection goes on visiting the daemon.
func (g *Gateway) leave(seg packet.Segment) {
	c := g.editor.Connection(seg)
	err := g.kernel.Leave(c.Original, c.ZoneOf(calls.Initiator), g.rules().Bypass)
	if err != nil && !errors.Is(err, conntrack.ErrNoLabels) && !errors.Is(err, conntrack.ErrNotFound) {
		g.conntrackFailed(opLeave, err)
	}
}

// happened is what was not carried out yet: what the call table says, and what was seen in
// control messages.
type happened struct {
	events []calls.Event
	seen   []history.Event
}

func (h *happened) empty() bool { return len(h.events)+len(h.seen) == 0 }

// note takes in what happened to the call table. The caller holds mu.
func (g *Gateway) note(events []calls.Event) {
	g.happened.events = append(g.happened.events, events...)
}

// most is how many events room is kept for.
const most = 1024

// take hands over what has happened. It is valid until take is called again; the caller
// holds order.
func (g *Gateway) take() happened {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.happened
	g.happened, g.taken = happened{g.taken.events[:0], g.taken.seen[:0]}, h
	if cap(h.events) > most {
		g.taken = happened{}
	}
	return h
}

// carryOut goes the rest of the walk with what the reconciler has done. The caller holds
// order.
func (g *Gateway) carryOut() {
	now := time.Now()
	h := g.take()
	g.remember(h.events, now)
	g.translate(h.events)
	g.tell(h, now)
}

// remember has the store know of the events before anybody else does. Where another gateway has the
// calls, nobody else may: the events may be of packets that wait for settle, whoever carries them out.
func (g *Gateway) remember(events []calls.Event, now time.Time) {
	if len(events) == 0 {
		return
	}
	if err := g.store.Append(events, now); !errors.Is(err, store.ErrElsewhere) {
		g.storeFailed(err)
	} else if g.pulse.packet.underWay() { // else the events are of no packet that waits
		g.elsewhere = true
	}
}

// translate has the data path translate by the events.
//
// A flow that cannot be installed does not hold its packet back: the ID is edited all the
// same, for unedited it could be another call's, and the next audit tries it again.
func (g *Gateway) translate(events []calls.Event) {
	flows := false
	for i := range events {
		if e := &events[i]; !e.OfCall() {
			flows = true
			if e.Kind == calls.Install {
				delete(g.doomed, e.Flow)
			}
		}
	}
	if flows {
		g.refused(events, g.path.Apply(events))
	}
}

// refused takes note of events that the data path could not follow.
func (g *Gateway) refused(events []calls.Event, errs map[int]error) {
	for i, err := range errs {
		if events[i].Kind == calls.Install {
			g.lacking.Add(1)
			g.conntrackFailed(opCreate, err)
			continue
		}
		g.doomed[events[i].Flow] = struct{}{}
		g.conntrackFailed(opDelete, err)
	}
}

// tell has metrics and history tell.
func (g *Gateway) tell(h happened, now time.Time) {
	if h.empty() {
		return
	}
	for i := range h.seen {
		g.events.Add(&h.seen[i])
	}
	g.metrics.tell(h.events)
	g.ledger.Tell(h.events, g.path.Carried(), now)
}
