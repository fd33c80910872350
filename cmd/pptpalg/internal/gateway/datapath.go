package gateway

import (
	"fmt"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/alg/nfqueue"
	"pptpalg/conntrack"
)

// DataPath says where the GRE packets of calls are translated.
type DataPath string

// The data paths.
const (
	Auto   DataPath = "auto"   // Kernel, unless the kernel refuses the entries
	Kernel DataPath = "kernel" // by conntrack entries, which outlive the daemon
	Queue  DataPath = "queue"  // by the daemon, which every packet visits
)

// MarshalText and UnmarshalText are for flags.
func (p DataPath) MarshalText() ([]byte, error) { return []byte(p), nil }

func (p *DataPath) UnmarshalText(b []byte) error {
	switch read := DataPath(b); read {
	case Auto, Kernel, Queue:
		*p = read
		return nil
	}
	return fmt.Errorf("%q is none of %s, %s and %s", b, Auto, Kernel, Queue)
}

// DataPath returns the data path that is used: Kernel or Queue.
func (g *Gateway) DataPath() DataPath {
	if g.gre != nil {
		return Queue
	}
	return Kernel
}

// flows are what a data path translates by, unmarked, and what they have carried.
type flows map[calls.Flow]calls.Traffic

// path is a data path's table of flows.
type path interface {
	// Apply carries out changes of kind Install and Remove, in their order, and returns
	// the errors of those that failed, by their index.
	Apply(changes []calls.Change) (failed map[int]error)
	// ApplyLate is for the flows of calls that ended some time ago, or under another daemon.
	ApplyLate(changes []calls.Change) (failed map[int]error)
	// list has what the data path translates by in have, and returns GRE that it does not
	// translate, as far as it is wanted and the data path knows of it.
	list(have flows, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error)
	// standing is list without flows of which it is not told.
	standing(have flows, known []calls.Flow) error
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
	table   *gre.Table
	kernel  kernel
	removed flows // that carried returns next; guarded by Gateway.mu, as Apply is

	heir bool // calls of an earlier daemon were taken up

	// Owned by sweep.
	kept    bool // this daemon has put a canary there
	there   bool // it was there when this comparison began
	emptied bool // it was not, and should have been
}

func (p *daemonPath) Apply(changes []calls.Change) (failed map[int]error) {
	now := time.Now()
	for i, c := range changes {
		switch c.Kind {
		case calls.Install:
			if err := p.table.Install(c.Flow, now); err != nil {
				failed = map[int]error{i: err} // not IPv4: the others are neither
			}
		case calls.Remove:
			if t, there := p.table.Remove(c.Flow, now); there {
				p.keep(c.Flow, t)
			}
		}
	}
	return failed
}

func (p *daemonPath) keep(f calls.Flow, t gre.Traffic) {
	if p.removed == nil {
		p.removed = make(flows)
	}
	p.removed[f.Unmarked()] = calls.Traffic{Packets: t.Packets, Bytes: t.Bytes, Counted: true}
}

func (p *daemonPath) carried() flows {
	removed := p.removed
	p.removed = nil
	return removed
}

// ApplyLate is Apply: the table removes none but the very flow.
func (p *daemonPath) ApplyLate(changes []calls.Change) (failed map[int]error) {
	return p.Apply(changes)
}

// list: the daemon counts what is no flow's as it comes.
func (p *daemonPath) list(have flows, _ func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	have.take(p.table)
	return nil, nil
}

func (p *daemonPath) standing(have flows, _ []calls.Flow) error {
	have.take(p.table)
	return nil
}

// take fills in what is in a table.
func (f flows) take(table *gre.Table) {
	clear(f)
	for flow, t := range table.All() {
		f[flow.Unmarked()] = calls.Traffic{Packets: t.Packets, Bytes: t.Bytes, Counted: true}
	}
}

// choosePath decides on the data path.
func (g *Gateway) choosePath() {
	if g.chosenPath() == Kernel {
		g.path = newKernelPath(g.kernel, g.lister)
		return
	}
	g.gre = gre.NewTable()
	g.path = &daemonPath{table: g.gre, kernel: g.kernel}
}

// openGRE binds the GRE queues, if the daemon translates.
func (g *Gateway) openGRE() error {
	if g.gre == nil {
		return nil
	}
	data := g.cfg.Data
	return g.open(greQueue, nfqueue.Config{Queue: data.Queue, Queues: data.Queues}, g.grePacket)
}

func (g *Gateway) chosenPath() DataPath {
	if g.cfg.DataPath != Auto {
		return g.cfg.DataPath
	}
	if err := g.kernel.Probe(); err != nil {
		g.log.Warn("the kernel does not translate GRE as it should: every GRE packet visits the daemon", "err", err)
		return Queue
	}
	return Kernel
}

// grePacket is the body of the GRE queues' loops. It takes no lock. Each packet visits
// when it comes and, if it is a call's, when it leaves. Each time it goes through the rules again
// with a mark that tells them of it, so that they do not queue it once more. Where it comes
// with a mark nevertheless, these are other rules: then it must not go round for good.
func (g *Gateway) grePacket(p *nfqueue.Packet) nfqueue.Verdict {
	call, seen := g.cfg.Data.Marks()
	if p.Mark&(call|seen) != 0 {
		p.Mark &^= seen
		return nfqueue.Accept
	}
	if p.Hook == nfqueue.Input || p.Hook == nfqueue.Postrouting {
		p.Mark |= seen
		return repeated[g.gre.Leave(p.Payload)]
	}
	out := g.gre.Enter(p.Payload)
	if out.Verdict == gre.Pass {
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
	gre.Pass: nfqueue.Repeat, gre.Keep: nfqueue.Repeat, gre.Edited: nfqueue.RepeatModified,
}
