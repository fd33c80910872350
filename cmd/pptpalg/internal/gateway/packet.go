package gateway

import (
	"errors"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/conntrack"
)

// verdicts translates the editor's verdict into the queue's.
var verdicts = map[alg.Verdict]nfqueue.Verdict{
	alg.Accept: nfqueue.Accept,
	alg.Edited: nfqueue.AcceptModified,
	alg.Drop:   nfqueue.Drop,
}

// packet is the packet loop's body: one packet in, one verdict out. The verdict leaves
// when carryOut has done what the edit asks for.
func (g *Gateway) packet(p *nfqueue.Packet) nfqueue.Verdict {
	if g.turn.packets == 0 {
		g.turn.began = time.Now()
		g.pulse.packet.begin(g.turn.began)
	}
	g.turn.packets++
	out := g.edit(p, g.turn.began)
	if out.Reset {
		p.Mark |= g.cfg.ResetMark // a rule answers it with a RST
	}
	g.metrics.outcome(out)
	return verdicts[out.Verdict]
}

// turn is the packets that came together and wait for settle.
type turn struct {
	began   time.Time // when the first of them was taken up
	packets int
}

func (g *Gateway) edit(p *nfqueue.Packet, now time.Time) alg.Outcome {
	if p.Truncated {
		return alg.Outcome{Reason: alg.Truncated}
	}
	seg, err := packet.Parse(p.Payload)
	if err != nil {
		return alg.Outcome{Reason: alg.Malformed}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.forsake(seg)
	if g.editor.Asks(seg) && !g.ask(seg, now) {
		return alg.Outcome{Reason: alg.Failed}
	}
	out := g.editor.Edit(seg, p.Hook == nfqueue.Output, now)
	g.note(out.Changes)
	g.see(seg, &out, now)
	if out.Leave {
		g.leave(seg)
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
	c, err := g.kernel.Connection(calls.Tuple{Src: seg.Src(), Dst: seg.Dst()})
	switch {
	case errors.Is(err, conntrack.ErrNotFound):
		return true
	case err != nil:
		g.conntrackFailed(opGet, err)
		return false
	}
	if c.Helper != "" {
		g.limits.sometimes("helper", func() {
			g.log.Warn("the kernel's own helper edits this connection, so it is let alone: remove the rule (-j CT --helper pptp) or the sysctl (net.netfilter.nf_conntrack_helper) that attaches it",
				"helper", c.Helper, "connection", c.Original)
		})
	}
	taken := g.editor.Open(c, now)
	g.sight.seeOpened(&c, taken, now)
	if !taken {
		g.metrics.refused.Inc()
		g.limits.sometimes("connections", func() { g.log.Warn("too many control connections: this one is not edited", "connection", c.Original) })
	}
	return true
}

// leave has the kernel queue no more of a connection that is let alone. Where it
// cannot, the connection goes on visiting the daemon.
func (g *Gateway) leave(seg packet.Segment) {
	c := g.editor.Connection(seg)
	err := g.kernel.Leave(c.Original, c.Zone, conntrack.Bypass(g.cfg.Bypass))
	if err != nil && !errors.Is(err, conntrack.ErrNoLabels) && !errors.Is(err, conntrack.ErrNotFound) {
		g.conntrackFailed(opLeave, err)
	}
}

// note takes in what happened to the call table. The caller holds mu.
func (g *Gateway) note(changes []calls.Change) {
	for _, c := range changes {
		switch c.Kind {
		case calls.Install:
			delete(g.doomed, c.Flow)
			g.pending = append(g.pending, c)
		case calls.Remove:
			g.pending = append(g.pending, c)
		case calls.Opened:
			g.metrics.opened.Inc()
		case calls.Closed:
			g.metrics.cause[c.Cause].Inc()
			g.sight.ended[c.Call] = c.Cause
		}
	}
}

// settle is the end of the packet loop's turn: packets that came together have been
// edited, and wait to be let go. Kernel first, packets second: the GRE that their
// receivers may send at once finds its entries.
func (g *Gateway) settle() {
	defer g.endTurn()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.carryOut(g.turn.began)
}

func (g *Gateway) endTurn() {
	g.metrics.took(time.Since(g.turn.began), g.turn.packets)
	g.turn.packets = 0
	g.pulse.packet.end()
}

// carryOut does what was noted, in its order. The journal comes first: an entry in the
// kernel that it does not know would be nobody's. The caller holds mu.
//
// An entry that cannot be created does not hold its packet back: the ID is edited
// all the same, for unedited it could be another call's, and the next comparison
// tries the entry again.
func (g *Gateway) carryOut(now time.Time) {
	keeps := g.table.Keeps()
	g.journalFailed(g.journal.Append(keeps, now))
	if len(g.pending) > 0 {
		g.refused(g.pending, g.path.Apply(g.pending))
		g.pending = g.pending[:0]
	}
	g.sight.tell(keeps, g.path.carried(), now)
}

// refused takes note of changes that the data path could not make.
func (g *Gateway) refused(changes []calls.Change, errs map[int]error) {
	for i, err := range errs {
		if changes[i].Kind == calls.Install {
			g.conntrackFailed(opCreate, err)
			continue
		}
		g.doomed[changes[i].Flow] = struct{}{}
		g.conntrackFailed(opDelete, err)
	}
}
