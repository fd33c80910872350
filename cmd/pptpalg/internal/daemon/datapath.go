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
	list() (flows, error)
	// flushed reports whether a control connection is missing in the kernel's table
	// because somebody emptied that, and not because it ended.
	flushed(l alg.Lost, have flows, now time.Time) bool
}

// kernelPath keeps the flows in the kernel's conntrack.
type kernelPath struct {
	kernel
	lister lister
}

func (p kernelPath) list() (flows, error) {
	traffic, err := p.lister.Traffic()
	have := make(flows, len(traffic))
	for f, t := range traffic {
		have[f.Unmarked()] = t
	}
	return have, err
}

// flushed: the entries of calls have a fixed timeout and go for no other reason. Where
// they are left, the connection has ended, or lost its address.
func (kernelPath) flushed(l alg.Lost, have flows, _ time.Time) bool {
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

// daemonPath keeps the flows in the daemon.
type daemonPath struct{ table *datapath.Table }

func (p daemonPath) Apply(changes []conntrack.Change) (failed map[int]error) {
	for i, c := range changes {
		switch c.Kind {
		case conntrack.Install:
			if err := p.table.Install(c.Flow); err != nil {
				failed = map[int]error{i: err} // not IPv4: the others are neither
			}
		case conntrack.Remove:
			p.table.Remove(c.Flow)
		}
	}
	return failed
}

func (p daemonPath) list() (flows, error) {
	have := make(flows, p.table.Len())
	for f, t := range p.table.All() {
		have[f.Unmarked()] = conntrack.Traffic{Packets: t.Packets, Bytes: t.Bytes, Counted: true}
	}
	return have, nil
}

// echoes is how long a control connection that lives is silent at most, and more: an
// end that has heard nothing for 60 s sends an Echo-Request (RFC 2637 section 3.1.4).
// An entry that was made anew and is not used is gone by then.
const echoes = 5 * time.Minute

// flushed: nothing in the kernel tells. A connection that has just spoken is not over.
func (daemonPath) flushed(l alg.Lost, _ flows, now time.Time) bool {
	return len(l.Calls) > 0 && now.Sub(l.Heard) < echoes
}

// openPath decides on the data path, and binds what it needs.
func (d *Daemon) openPath(c *ctnetlink.Conn) error {
	if d.chosenPath(c) == InKernel {
		d.path = kernelPath{d.kernel, d.lister}
		return nil
	}
	d.gre = datapath.NewTable()
	d.path = daemonPath{d.gre}
	data := d.cfg.Data
	return d.open(greQueue, nfqueue.Config{Queue: data.Queue, Queues: data.Queues}, d.grePacket)
}

func (d *Daemon) chosenPath(c *ctnetlink.Conn) DataPath {
	if d.cfg.DataPath != Auto {
		return d.cfg.DataPath
	}
	if err := c.Probe(); err != nil {
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
