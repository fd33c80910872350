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

// packet is the packet loop's body: one packet in, one verdict out.
func (d *Daemon) packet(p nfqueue.Packet) nfqueue.Verdict {
	now := time.Now()
	out := d.edit(p, now)
	d.metrics.outcome(out)
	d.metrics.took(now)
	return verdicts[out.Verdict]
}

func (d *Daemon) edit(p nfqueue.Packet, now time.Time) alg.Outcome {
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
	// Kernel first, packet second: the GRE that the receiver of this segment may
	// send at once finds its entry.
	d.apply(out.Changes, now)
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
	if !d.editor.Open(c, now) {
		d.limits.sometimes("connections", func() { d.log.Warn("too many control connections: this one is not edited", "connection", c.Original) })
	}
	return true
}

// apply carries out what happened to the call table, in its order. The journal
// comes first: an entry in the kernel that it does not know would be nobody's.
//
// An entry that cannot be created does not hold its packet back: the ID is edited
// all the same, for unedited it could be another call's, and the next comparison
// tries the entry again.
func (d *Daemon) apply(changes []conntrack.Change, now time.Time) {
	d.journalFailed(d.journal.Append(d.table.Keeps(), now))
	for _, c := range changes {
		switch c.Kind {
		case conntrack.Install:
			d.install(c.Flow)
		case conntrack.Remove:
			d.uninstall(c.Flow)
		case conntrack.Opened:
			d.metrics.opened.Inc()
		case conntrack.Closed:
			d.metrics.closed.WithLabelValues(c.Cause.String()).Inc()
		}
	}
}

func (d *Daemon) install(f conntrack.Flow) {
	if err := d.kernel.Create(f); err != nil {
		d.conntrackFailed(opCreate, err)
		return
	}
	delete(d.doomed, f)
}

func (d *Daemon) uninstall(f conntrack.Flow) {
	if err := d.kernel.Delete(f); err != nil {
		d.doomed[f] = struct{}{}
		d.conntrackFailed(opDelete, err)
	}
}
