package gateway

import (
	"sync/atomic"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/conntrack"
)

// kernelPath keeps the flows in the kernel's conntrack.
type kernelPath struct {
	kernel
	lister lister
	counts atomic.Bool // entries count their packets, or those made from now on will

	// What Apply has removed, and whether carried has told of it. Gateway.mu guards them,
	// as it does Apply.
	removed flows
	told    bool
	keeper  func(calls.Flow, calls.Traffic) // keep
}

func newKernelPath(k kernel, l lister) *kernelPath {
	p := &kernelPath{kernel: k, lister: l, removed: make(flows)}
	p.keeper = p.keep
	p.counts.Store(accounting())
	return p
}

// accounting reports whether the kernel has new entries count, in the network namespace
// of the calling thread.
func accounting() bool { return kernelNumber("nf_conntrack_acct")() == 1 }

func (p *kernelPath) list(have flows, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	strays, err := p.lister.Traffic(have, wanted)
	p.looked(have)
	return strays, err
}

func (p *kernelPath) standing(have flows, known []calls.Flow) error {
	clear(have)
	err := p.lister.StandingTraffic(have, known)
	p.looked(have)
	return err
}

func (p *kernelPath) looked(have flows) { p.counts.Store(accounting() || have.counted()) }

func (*kernelPath) watch() error { return nil }

func (*kernelPath) watched() error { return nil }

// Apply asks the entries of flows that end what they have counted, if they do.
func (p *kernelPath) Apply(changes []calls.Change) (failed map[int]error) {
	if !p.counts.Load() {
		return p.kernel.Apply(changes)
	}
	if p.told {
		p.told = false
		p.removed = p.removed.emptied()
	}
	return p.kernel.ApplyCounting(changes, p.keeper)
}

func (p *kernelPath) keep(f calls.Flow, t calls.Traffic) { p.removed[f.Unmarked()] = t }

func (p *kernelPath) carried() flows {
	if p.told {
		return nil
	}
	p.told = true
	return p.removed
}

// manyFlows is how many a map may have had that is used again: to empty it takes as long
// as it was ever large.
const manyFlows = 64

// emptied returns a map that is empty, the same one if it is small.
func (f flows) emptied() flows {
	if len(f) > manyFlows {
		return make(flows)
	}
	clear(f)
	return f
}

// flushed: the entries of calls have a fixed timeout and go for no other reason.
func (*kernelPath) flushed(l *alg.Lost, have flows) bool {
	needed := 0
	for _, c := range l.Calls {
		for _, f := range c.Flows() {
			if t, there := have[f.Unmarked()]; there && !t.Lent {
				return false
			}
			needed++
		}
	}
	return needed > 0
}

// close leaves the entries: they are the calls.
func (*kernelPath) close() error { return nil }
