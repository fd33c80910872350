package daemon

import (
	"fmt"

	"pptpalg/alg"
	"pptpalg/alg/datapath"
	"pptpalg/alg/nfqueue"
	"pptpalg/conntrack"
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
	list() (flows, error)
	// standing is list without flows of which it is not told.
	standing(known []conntrack.Flow) (flows, error)
	// watch begins a comparison, before the connections are listed.
	watch() error
	// carried returns what flows had carried that Apply has removed since it was called
	// last, if the data path tells: the kernel does not.
	carried() flows
	// flushed reports whether a control connection is missing in the kernel's table
	// because somebody emptied that, and not because it ended.
	flushed(l alg.Lost, have flows) bool
	// close leaves the kernel's table as it should be without the daemon.
	close() error
}

// kernelPath keeps the flows in the kernel's conntrack.
type kernelPath struct {
	kernel
	lister lister
}

func (p kernelPath) list() (flows, error) { return unmarked(p.lister.Traffic()) }

func (p kernelPath) standing(known []conntrack.Flow) (flows, error) {
	return unmarked(p.lister.StandingTraffic(known))
}

func unmarked(traffic map[conntrack.Flow]conntrack.Traffic, err error) (flows, error) {
	have := make(flows, len(traffic))
	for f, t := range traffic {
		have[f.Unmarked()] = t
	}
	return have, err
}

func (kernelPath) watch() error { return nil }

func (kernelPath) carried() flows { return nil }

// flushed: the entries of calls have a fixed timeout and go for no other reason. Where
// they are left, the connection has ended, or lost its address.
func (kernelPath) flushed(l alg.Lost, have flows) bool {
	needed := 0
	for _, c := range l.Calls {
		for _, f := range c.Flows() {
			if _, there := have[f.Unmarked()]; there {
				return false
			}
			needed++
		}
	}
	return needed > 0
}

// close leaves the entries: they are the calls.
func (kernelPath) close() error { return nil }

// daemonPath keeps the flows in the daemon.
type daemonPath struct {
	table  *datapath.Table
	kernel kernel

	removed flows // that carried returns next; guarded by Daemon.mu, as Apply is

	// Owned by sweep.
	watched bool // the canary has been looked for
	mourns  int  // for how many comparisons, this one too, the kernel's table counts as just emptied
}

func (p *daemonPath) Apply(changes []conntrack.Change) (failed map[int]error) {
	for i, c := range changes {
		switch c.Kind {
		case conntrack.Install:
			if err := p.table.Install(c.Flow); err != nil {
				failed = map[int]error{i: err} // not IPv4: the others are neither
			}
		case conntrack.Remove:
			if t, there := p.table.Remove(c.Flow); there {
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

func (p *daemonPath) list() (flows, error) {
	return flowsOf(p.table), nil
}

func (p *daemonPath) standing([]conntrack.Flow) (flows, error) { return p.list() }

func flowsOf(table *datapath.Table) flows {
	have := make(flows, table.Len())
	for f, t := range table.All() {
		have[f.Unmarked()] = conntrack.Traffic{Packets: t.Packets, Bytes: t.Bytes, Counted: true}
	}
	return have
}

// choosePath decides on the data path.
func (d *Daemon) choosePath() {
	if d.chosenPath() == InKernel {
		d.path = kernelPath{d.kernel, d.lister}
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

// grePacket is the body of the GRE queues' loops. It takes no lock. What is a call's
// gets the mark by which the rules let it pass, with that of its control connection.
func (d *Daemon) grePacket(p *nfqueue.Packet) nfqueue.Verdict {
	out := d.gre.Rewrite(p.Payload)
	if out.Verdict == datapath.Pass {
		return nfqueue.Accept
	}
	if d.cfg.Data.Mark != 0 {
		p.Mark = out.Mark | d.cfg.Data.Mark
	}
	if out.Verdict == datapath.Edited {
		return nfqueue.AcceptModified
	}
	return nfqueue.Accept
}
