// Package kernel is data path kernel: a conntrack entry translates each flow.
package kernel

import (
	"os"
	"strings"
	"sync/atomic"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/conntrack"
)

// Entries creates and deletes entries, and Lister lists them; conntrack.Conn is both.
type Entries interface {
	Apply(events []calls.Event) (failed map[int]error)
	ApplyCounting(events []calls.Event, counted func(calls.Flow, calls.Traffic)) (failed map[int]error)
	ApplyLate(events []calls.Event) (failed map[int]error)
}

// Lister is told by Entries.
type Lister interface {
	Traffic(into map[calls.Flow]calls.Traffic, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error)
	StandingTraffic(into map[calls.Flow]calls.Traffic, known []calls.Flow) error
	Renew(mine func(calls.Flow) bool) (renewed int, err error)
}

// Path keeps the flows in the kernel's conntrack.
type Path struct {
	entries        Entries
	lister, viewer Lister
	counts         atomic.Bool // entries count their packets, or those created from now on will

	// What Apply has removed, and whether Carried has told of it.
	removed datapath.Flows
	told    bool
	keeper  func(calls.Flow, calls.Traffic) // keep

	former datapath.Former
}

// New returns the data path. viewer is a socket of its own, so that no audit waits for
// viewers.
func New(entries Entries, lister, viewer Lister) *Path {
	p := &Path{entries: entries, lister: lister, viewer: viewer, removed: make(datapath.Flows)}
	p.keeper = p.keep
	p.Counting(accounting())
	return p
}

// Counting says whether entries count their packets.
func (p *Path) Counting(yes bool) { p.counts.Store(yes) }

// accounting reports whether new entries count, in the network namespace of the calling
// thread.
func accounting() bool {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_acct")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

func (*Path) Name() datapath.Name { return datapath.Kernel }

func (p *Path) Traits() datapath.Traits {
	return datapath.Traits{Outlives: true, Former: &p.former}
}

// Apply also reads what the entries of removed flows have counted, if they count.
func (p *Path) Apply(events []calls.Event) (failed map[int]error) {
	if p.told {
		p.told = false
		p.removed = emptied(p.removed)
	}
	if p.counts.Load() {
		failed = p.entries.ApplyCounting(events, p.keeper)
	} else {
		failed = p.entries.Apply(events)
	}
	p.former.Follow(events, p.keepFormer)
	return failed
}

func (p *Path) ApplyLate(events []calls.Event) (failed map[int]error) {
	p.former.Follow(events, drop)
	return p.entries.ApplyLate(events)
}

func (p *Path) keep(f calls.Flow, t calls.Traffic) { p.removed[f.Unmarked()] = t }

func (p *Path) keepFormer(f calls.Flow, t calls.Traffic) {
	p.removed[f] = datapath.Sum(p.removed[f], t)
}

func drop(calls.Flow, calls.Traffic) {}

func (p *Path) Carried() datapath.Flows {
	if p.told {
		return nil
	}
	p.told = true
	return p.removed
}

// manyFlows is the size up to which maps are reused: emptying a map takes time for its
// largest size ever.
const manyFlows = 64

// emptied returns an empty map, the same one if it is small.
func emptied(f datapath.Flows) datapath.Flows {
	if len(f) > manyFlows {
		return make(datapath.Flows)
	}
	clear(f)
	return f
}

func (p *Path) Renew(mine func(calls.Flow) bool) (renewed int, err error) {
	return p.lister.Renew(mine)
}

func (p *Path) Snapshot(have datapath.Flows, known []calls.Flow, wanted func(*conntrack.Stray) bool) (strays []conntrack.Stray, err error) {
	clear(have)
	if known == nil {
		strays, err = p.lister.Traffic(have, wanted)
	} else {
		err = p.lister.StandingTraffic(have, known)
	}
	p.Counting(accounting() || counted(have))
	p.former.AddTo(have)
	return strays, err
}

func (p *Path) View(have datapath.Flows, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	strays, err := p.viewer.Traffic(have, wanted)
	p.former.AddTo(have)
	return strays, err
}

// counted reports whether any flow's packets are counted.
func counted(f datapath.Flows) bool {
	for _, t := range f {
		if t.Counted {
			return true
		}
	}
	return false
}

// Close leaves the entries, so that calls go on.
func (*Path) Close() error { return nil }
