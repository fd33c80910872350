// Package fast is data path kernel with the fast path upon it: each flow is an entry in the
// kernel's conntrack, and most of its packets are forwarded in BPF, as the kernel forwards
// the others.
//
// The entry comes first and goes last. So a flow that is in the fast path alone is never in
// force for longer than the fast path believes what it has seen of the kernel.
//
// # What a flow has carried
//
// It is what its entry has counted and what the fast path has. The entry counts only where
// net.netfilter.nf_conntrack_acct is 1. Where it is 0, only the fast path's share is known:
// it is told, as calls.Traffic.AtLeast. If it grows, GRE flows; if it does not grow, nothing
// follows, as the packets may take the kernel's path. A flow of which the fast path has
// carried nothing is one that nobody counts.
//
// Both begin at 0 when an entry is created, also when it is created again.
package fast

import (
	"errors"
	"sync"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
	"pptpalg/conntrack"
)

// Table is a fast path; *fastpath.Table is one.
type Table interface {
	Install(calls.Flow) error
	Remove(calls.Flow) calls.Traffic
	Traffic(calls.Flow) (calls.Traffic, bool)
	Retain(needed func(calls.Flow) bool)
	Close() error
}

// none is the fast path where there is none.
type none struct{}

func (none) Install(calls.Flow) error                 { return nil }
func (none) Remove(calls.Flow) (t calls.Traffic)      { return t }
func (none) Traffic(calls.Flow) (calls.Traffic, bool) { return calls.Traffic{}, false }
func (none) Retain(func(calls.Flow) bool)             {}
func (none) Close() error                             { return nil }

// Path keeps flows in the kernel's conntrack, and in the fast path those that it carries.
type Path struct {
	*kernel.Path

	// What Apply has removed, and whether Carried has told of it.
	removed datapath.Flows
	told    bool

	mu      sync.Mutex              // guards what follows
	table   Table                   // none until use
	adopted bool                    // the flows of an earlier daemon are taken up
	lists   int                     // snapshots that are being taken
	touched map[calls.Flow]struct{} // flows that were installed or removed meanwhile
}

// New returns the data path, without a fast path yet.
func New(k *kernel.Path) *Path {
	return &Path{Path: k, table: none{}, adopted: true, removed: make(datapath.Flows), touched: make(map[calls.Flow]struct{})}
}

// use has the fast path carry flows, from the next Snapshot on also those that are there. The
// data path closes the table. Any goroutine may call it.
func (p *Path) use(t Table) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table, p.adopted = t, false
}

// ahead returns the fast path.
func (p *Path) ahead() Table {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table
}

func (p *Path) Apply(events []calls.Event) (failed map[int]error) {
	if p.told {
		p.told, p.removed = false, make(datapath.Flows)
	}
	p.before(events, p.keep)
	failed = p.Path.Apply(events)
	p.after(events, failed)
	return failed
}

func (p *Path) ApplyLate(events []calls.Event) (failed map[int]error) {
	p.before(events, drop)
	failed = p.Path.ApplyLate(events)
	p.after(events, failed)
	return failed
}

func (p *Path) keep(f calls.Flow, t calls.Traffic) { p.removed[f] = datapath.Sum(p.removed[f], t) }

func drop(calls.Flow, calls.Traffic) {}

// before takes flows out whose entries will be deleted.
func (p *Path) before(events []calls.Event, keep func(calls.Flow, calls.Traffic)) {
	for i := range events {
		if events[i].Kind == calls.Remove {
			p.remove(events[i].Flow.Unmarked(), keep)
		}
	}
}

func (p *Path) remove(f calls.Flow, keep func(calls.Flow, calls.Traffic)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touch(f)
	if t := p.table.Remove(f); t.Packets > 0 {
		keep(f, t)
	}
}

// after puts flows in whose entries were created. A flow may have been installed and
// removed again, so it goes through all events.
func (p *Path) after(events []calls.Event, failed map[int]error) {
	for i := range events {
		e := &events[i]
		switch {
		case e.Kind == calls.Remove, e.Kind == calls.Install && failed[i] != nil:
			p.remove(e.Flow.Unmarked(), drop)
		case e.Kind == calls.Install:
			p.install(e.Flow.Unmarked())
		}
	}
}

// install leaves to the kernel what cannot be installed; the table counts it.
func (p *Path) install(f calls.Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touch(f)
	p.table.Install(f)
}

// touch takes note of a change while a snapshot is being taken. The caller holds mu.
func (p *Path) touch(f calls.Flow) {
	if p.lists > 0 {
		p.touched[f] = struct{}{}
	}
}

// Carried also returns what the fast path has carried.
func (p *Path) Carried() datapath.Flows {
	if p.told {
		return nil
	}
	p.told = true
	for f, t := range p.Path.Carried() {
		p.removed[f] = datapath.Sum(t, p.removed[f])
	}
	return p.removed
}

// Snapshot also has the fast path carry what is there and is not in it yet, as after the
// start of the daemon, or when a place has become free. If it lists all flows for the first
// time, what the fast path has of others goes.
func (p *Path) Snapshot(have datapath.Flows, known []calls.Flow, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	p.begin()
	defer p.end()
	strays, err := p.Path.Snapshot(have, known, wanted)
	if err != nil {
		return strays, err
	}
	if known == nil {
		p.adopt(have)
	}
	table := p.ahead()
	for f, t := range have {
		if here, there := table.Traffic(f); there {
			have[f] = datapath.Sum(t, here)
			continue
		}
		p.catchUp(f)
	}
	return strays, nil
}

func (p *Path) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lists++
}

func (p *Path) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lists--; p.lists == 0 {
		p.touched = make(map[calls.Flow]struct{})
	}
}

// catchUp installs a flow that was found, unless that has changed meanwhile.
func (p *Path) catchUp(f calls.Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, changed := p.touched[f]; !changed {
		p.table.Install(f)
	}
}

// adopt takes flows out that are not there, the first time.
func (p *Path) adopt(have datapath.Flows) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.adopted {
		return
	}
	p.adopted = true
	p.table.Retain(func(f calls.Flow) bool {
		_, there := have[f]
		_, changed := p.touched[f]
		return there || changed
	})
}

// View adds what the fast path has carried.
func (p *Path) View(have datapath.Flows, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	strays, err := p.Path.View(have, wanted)
	table := p.ahead()
	for f, t := range have {
		if here, there := table.Traffic(f); there {
			have[f] = datapath.Sum(t, here)
		}
	}
	return strays, err
}

// Close leaves flows and entries, so that calls go on.
func (p *Path) Close() error {
	return errors.Join(p.ahead().Close(), p.Path.Close())
}
