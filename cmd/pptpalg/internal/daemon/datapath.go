package daemon

import (
	"fmt"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/datapath"
	"pptpalg/alg/nfqueue"
	"pptpalg/conntrack"
	"pptpalg/conntrack/ctnetlink"
)

// DataPath says where the GRE packets of calls are translated.
type DataPath string

// The data paths.
const (
	Auto     DataPath = "auto"   // InKernel, unless the kernel refuses the entries
	InKernel DataPath = "kernel" // by conntrack entries, which outlive the daemon
	InDaemon DataPath = "queue"  // by the daemon, which every packet visits
)

// MarshalText and UnmarshalText are for flags.
func (p DataPath) MarshalText() ([]byte, error) { return []byte(p), nil }

func (p *DataPath) UnmarshalText(b []byte) error {
	switch read := DataPath(b); read {
	case Auto, InKernel, InDaemon:
		*p = read
		return nil
	}
	return fmt.Errorf("%q is none of %s, %s and %s", b, Auto, InKernel, InDaemon)
}

// DataPath returns the data path that is used: InKernel or InDaemon.
func (d *Daemon) DataPath() DataPath {
	if d.gre != nil {
		return InDaemon
	}
	return InKernel
}

// flows are what a data path translates by, unmarked, and what they have carried.
type flows map[conntrack.Flow]conntrack.Traffic

// path is a data path's table of flows.
type path interface {
	// Apply carries out changes of kind Install and Remove, in their order, and returns
	// the errors of those that failed, by their index.
	Apply(changes []conntrack.Change) (failed map[int]error)
	// ApplyLate is for the flows of calls that ended some time ago, or under another daemon.
	ApplyLate(changes []conntrack.Change) (failed map[int]error)
	// list has what the data path translates by in have, and returns GRE that it does not
	// translate, as far as it is wanted and the data path knows of it.
	list(have flows, wanted func(*ctnetlink.Stray) bool) ([]ctnetlink.Stray, error)
	// standing is list without flows of which it is not told.
	standing(have flows, known []conntrack.Flow) error
	// watch begins a comparison, before the connections are listed, and watched follows
	// when those are revived that somebody flushed.
	watch() error
	watched() error
	// carried returns what flows had carried that Apply has removed since it was called
	// last, as far as that was counted. It is valid until Apply is called.
	carried() flows
	// flushed reports whether a control connection is missing in the kernel's table
	// because somebody emptied that, and not because it ended.
	flushed(l *alg.Lost, have flows) bool
	// close leaves the kernel's table as it should be without the daemon.
	close() error
}

// daemonPath keeps the flows in the daemon.
type daemonPath struct {
	table   *datapath.Table
	kernel  kernel
	removed flows // that carried returns next; guarded by Daemon.mu, as Apply is

	heir bool // calls of an earlier daemon were taken up

	// Owned by sweep.
	kept    bool // this daemon has put a canary there
	there   bool // it was there when this comparison began
	emptied bool // it was not, and should have been
}

func (p *daemonPath) Apply(changes []conntrack.Change) (failed map[int]error) {
	now := time.Now()
	for i, c := range changes {
		switch c.Kind {
		case conntrack.Install:
			if err := p.table.Install(c.Flow, now); err != nil {
				failed = map[int]error{i: err} // not IPv4: the others are neither
			}
		case conntrack.Remove:
			if t, there := p.table.Remove(c.Flow, now); there {
				p.keep(c.Flow, t)
			}
		}
	}
	return failed
}

func (p *daemonPath) keep(f conntrack.Flow, t datapath.Traffic) {
	if p.removed == nil {
		p.removed = make(flows)
	}
	p.removed[f.Unmarked()] = conntrack.Traffic{Packets: t.Packets, Bytes: t.Bytes, Counted: true}
}

func (p *daemonPath) carried() flows {
	removed := p.removed
	p.removed = nil
	return removed
}

// ApplyLate is Apply: the table removes none but the very flow.
func (p *daemonPath) ApplyLate(changes []conntrack.Change) (failed map[int]error) {
	return p.Apply(changes)
}

// list: the daemon counts what is no flow's as it comes.
func (p *daemonPath) list(have flows, _ func(*ctnetlink.Stray) bool) ([]ctnetlink.Stray, error) {
	have.take(p.table)
	return nil, nil
}

func (p *daemonPath) standing(have flows, _ []conntrack.Flow) error {
	have.take(p.table)
	return nil
}

// take fills in what is in a table.
func (f flows) take(table *datapath.Table) {
	clear(f)
	for flow, t := range table.All() {
		f[flow.Unmarked()] = conntrack.Traffic{Packets: t.Packets, Bytes: t.Bytes, Counted: true}
	}
}

// choosePath decides on the data path.
func (d *Daemon) choosePath() {
	if d.chosenPath() == InKernel {
		d.path = newKernelPath(d.kernel, d.lister)
		return
	}
	d.gre = datapath.NewTable()
	d.path = &daemonPath{table: d.gre, kernel: d.kernel}
}

// openGRE binds the GRE queues, if the daemon translates.
func (d *Daemon) openGRE() error {
	if d.gre == nil {
		return nil
	}
	data := d.cfg.Data
	return d.open(greQueue, nfqueue.Config{Queue: data.Queue, Queues: data.Queues}, d.grePacket)
}

func (d *Daemon) chosenPath() DataPath {
	if d.cfg.DataPath != Auto {
		return d.cfg.DataPath
	}
	if err := d.kernel.Probe(); err != nil {
		d.log.Warn("the kernel does not translate GRE as it should: every GRE packet visits the daemon", "err", err)
		return InDaemon
	}
	return InKernel
}

// grePacket is the body of the GRE queues' loops. It takes no lock. Each packet visits
// when it comes and, if it is a call's, when it leaves. Each time it goes through the rules again
// with a mark that tells them of it, so that they do not queue it once more. Where it comes
// with a mark nevertheless, these are other rules: then it must not go round for good.
func (d *Daemon) grePacket(p *nfqueue.Packet) nfqueue.Verdict {
	call, seen := d.cfg.Data.Marks()
	if p.Mark&(call|seen) != 0 {
		p.Mark &^= seen
		return nfqueue.Accept
	}
	if p.Hook == nfqueue.Input || p.Hook == nfqueue.Postrouting {
		p.Mark |= seen
		return repeated[d.gre.Leave(p.Payload)]
	}
	out := d.gre.Enter(p.Payload)
	if out.Verdict == datapath.Pass {
		p.Mark |= seen
		return nfqueue.Repeat
	}
	if out.Mark != 0 && (out.Sourced || p.Hook == nfqueue.Output) {
		p.Mark = out.Mark &^ (call | seen)
	}
	p.Mark |= call
	return repeated[out.Verdict]
}

// repeated is what the queue is told of a packet.
var repeated = [...]nfqueue.Verdict{
	datapath.Pass: nfqueue.Repeat, datapath.Keep: nfqueue.Repeat, datapath.Edited: nfqueue.RepeatModified,
}
