package daemon

import (
	"errors"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/conntrack"
	"pptpalg/conntrack/ctnetlink"
)

// verdicts translates the editor's verdict into the queue's.
var verdicts = map[alg.Verdict]nfqueue.Verdict{
	alg.Accept: nfqueue.Accept,
	alg.Edited: nfqueue.AcceptModified,
	alg.Drop:   nfqueue.Drop,
}

// packet is the packet loop's body: one packet in, one verdict out. The verdict leaves
// when carryOut has done what the edit asks for.
func (d *Daemon) packet(p *nfqueue.Packet) nfqueue.Verdict {
	if d.turn.packets == 0 {
		d.turn.began = time.Now()
		d.pulse.packet.begin(d.turn.began)
	}
	d.turn.packets++
	out := d.edit(p, d.turn.began)
	if out.Reset {
		p.Mark |= d.cfg.ResetMark // a rule answers it with a RST
	}
	d.metrics.outcome(out)
	return verdicts[out.Verdict]
}

// turn is the packets that came together and wait for settle.
type turn struct {
	began   time.Time // when the first of them was taken up
	packets int
}

func (d *Daemon) edit(p *nfqueue.Packet, now time.Time) alg.Outcome {
	if p.Truncated {
		return alg.Outcome{Reason: alg.Truncated}
	}
	seg, err := packet.Parse(p.Payload)
	if err != nil {
		return alg.Outcome{Reason: alg.Malformed}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.forsake(seg)
	if d.editor.Asks(seg) && !d.ask(seg, now) {
		return alg.Outcome{Reason: alg.Failed}
	}
	out := d.editor.Edit(seg, p.Hook == nfqueue.Output, now)
	d.note(out.Changes)
	d.see(seg, &out, now)
	if out.Leave {
		d.leave(seg)
	}
	d.tellLimits(out.Anomalies, seg)
	return out
}

// forsake hands a panic on to the queue, which accepts the packet unedited, and has
// the editor leave the packet's connection alone.
func (d *Daemon) forsake(seg packet.Segment) {
	if p := recover(); p != nil {
		d.editor.Forsake(seg)
		panic(p)
	}
}

// ask has conntrack tell how the segment's connection is translated. A connection
// that conntrack does not know stays unknown to the editor too.
func (d *Daemon) ask(seg packet.Segment, now time.Time) bool {
	c, err := d.kernel.Connection(conntrack.Tuple{Src: seg.Src(), Dst: seg.Dst()})
	switch {
	case errors.Is(err, ctnetlink.ErrNotFound):
		return true
	case err != nil:
		d.conntrackFailed(opGet, err)
		return false
	}
	if c.Helper != "" {
		d.limits.sometimes("helper", func() {
			d.log.Warn("the kernel's own helper edits this connection, so it is let alone: remove the rule (-j CT --helper pptp) or the sysctl (net.netfilter.nf_conntrack_helper) that attaches it",
				"helper", c.Helper, "connection", c.Original)
		})
	}
	taken := d.editor.Open(c, now)
	d.sight.seeOpened(&c, taken, now)
	if !taken {
		d.metrics.refused.Inc()
		d.limits.sometimes("connections", func() { d.log.Warn("too many control connections: this one is not edited", "connection", c.Original) })
	}
	return true
}

// leave has the kernel queue no more of a connection that is let alone. Where it
// cannot, the connection goes on visiting the daemon.
func (d *Daemon) leave(seg packet.Segment) {
	c := d.editor.Connection(seg)
	err := d.kernel.Leave(c.Original, c.Zone, ctnetlink.Bypass(d.cfg.Bypass))
	if err != nil && !errors.Is(err, ctnetlink.ErrNoLabels) && !errors.Is(err, ctnetlink.ErrNotFound) {
		d.conntrackFailed(opLeave, err)
	}
}

// note takes in what happened to the call table. The caller holds mu.
func (d *Daemon) note(changes []conntrack.Change) {
	for _, c := range changes {
		switch c.Kind {
		case conntrack.Install:
			delete(d.doomed, c.Flow)
			d.pending = append(d.pending, c)
		case conntrack.Remove:
			d.pending = append(d.pending, c)
		case conntrack.Opened:
			d.metrics.opened.Inc()
		case conntrack.Closed:
			d.metrics.cause[c.Cause].Inc()
			d.sight.ended[c.Call] = c.Cause
		}
	}
}

// settle is the end of the packet loop's turn: packets that came together have been
// edited, and wait to be let go. Kernel first, packets second: the GRE that their
// receivers may send at once finds its entries.
func (d *Daemon) settle() {
	defer d.endTurn()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.carryOut(d.turn.began)
}

func (d *Daemon) endTurn() {
	d.metrics.took(time.Since(d.turn.began), d.turn.packets)
	d.turn.packets = 0
	d.pulse.packet.end()
}

// carryOut does what was noted, in its order. The journal comes first: an entry in the
// kernel that it does not know would be nobody's. The caller holds mu.
//
// An entry that cannot be created does not hold its packet back: the ID is edited
// all the same, for unedited it could be another call's, and the next comparison
// tries the entry again.
func (d *Daemon) carryOut(now time.Time) {
	keeps := d.table.Keeps()
	d.journalFailed(d.journal.Append(keeps, now))
	if len(d.pending) > 0 {
		d.refused(d.pending, d.path.Apply(d.pending))
		d.pending = d.pending[:0]
	}
	d.sight.tell(keeps, d.path.carried(), now)
}

// refused takes note of changes that the data path could not make.
func (d *Daemon) refused(changes []conntrack.Change, errs map[int]error) {
	for i, err := range errs {
		if changes[i].Kind == conntrack.Install {
			d.conntrackFailed(opCreate, err)
			continue
		}
		d.doomed[changes[i].Flow] = struct{}{}
		d.conntrackFailed(opDelete, err)
	}
}
