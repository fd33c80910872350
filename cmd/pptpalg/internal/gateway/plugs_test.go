package gateway

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/conntrack"
)

// fakePath is a data path that keeps flows in a map. They have carried what the kernel says.
type fakePath struct {
	kernel         *fakeKernel
	flows, removed datapath.Flows
}

func (*fakePath) Name() datapath.Name     { return "fake" }
func (*fakePath) Traits() datapath.Traits { return datapath.Traits{Outlives: true} }
func (*fakePath) Close() error            { return nil }

func (p *fakePath) Apply(events []calls.Event) (failed map[int]error) {
	for _, e := range events {
		switch e.Kind {
		case calls.Install:
			p.flows[e.Flow.Unmarked()] = calls.Traffic{}
		case calls.Remove:
			p.removed[e.Flow.Unmarked()] = p.kernel.traffic()
			delete(p.flows, e.Flow.Unmarked())
		}
	}
	return nil
}

func (p *fakePath) ApplyLate(events []calls.Event) (failed map[int]error) { return p.Apply(events) }

func (p *fakePath) Carried() datapath.Flows {
	removed := p.removed
	p.removed = make(datapath.Flows)
	return removed
}

func (*fakePath) Renew(func(calls.Flow) bool) (renewed int, err error) { return 0, nil }

func (p *fakePath) Snapshot(have datapath.Flows, _ []calls.Flow, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	return p.View(have, wanted)
}

func (p *fakePath) View(have datapath.Flows, _ func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	clear(have)
	for f := range p.flows {
		have[f] = p.kernel.traffic()
	}
	return nil, nil
}

// fakeStore remembers calls in a map.
type fakeStore struct {
	calls map[uint64]calls.Record
	slow  func() // what Append waits for
}

func (s *fakeStore) Append(events []calls.Event, _ time.Time) error {
	for _, e := range events {
		switch {
		case e.Kind == calls.Gone:
			delete(s.calls, e.Call.Number)
		case e.OfCall():
			s.calls[e.Call.Number] = e.Call
		}
	}
	if s.slow != nil {
		s.slow()
	}
	return nil
}

func (s *fakeStore) Rewrite(all []calls.Record, _ []calls.Resting) error {
	clear(s.calls)
	for _, r := range all {
		s.calls[r.Number] = r
	}
	return nil
}

func (s *fakeStore) contents() store.Contents {
	return store.Contents{Calls: slices.Collect(maps.Values(s.calls))}
}

func (*fakeStore) Overgrown() bool { return false }
func (*fakeStore) Whole() bool     { return true }
func (*fakeStore) Close() error    { return nil }

// fakes has rigs run over fakes: the stores, by directory. nil for the real plugs.
var fakes map[string]*fakeStore

func (r *rig) fake(dir string) {
	r.path = &fakePath{kernel: r.kernel, flows: make(datapath.Flows), removed: make(datapath.Flows)}
	if fakes[dir] == nil {
		fakes[dir] = &fakeStore{calls: make(map[uint64]calls.Record)}
	}
	r.takeUp(fakes[dir], fakes[dir].contents())
}

// TestFakePlugs runs tests of the gateway over a data path and a store that are none: what
// it needs of a plug is in the interfaces.
func TestFakePlugs(t *testing.T) {
	fakes = make(map[string]*fakeStore)
	defer func() { fakes = nil }()
	for name, test := range map[string]func(*testing.T){
		"events of a call": TestEventsOfACall, "events of a turn": TestEventsOfATurn, "events after a restart": TestEventsAfterARestart,
		"counts of many calls": TestCountsOfManyCalls, "counts of calls that comparisons end": TestCountsOfCallsThatComparisonsEnd,
		"idle calls": TestIdleCalls, "connection limit": TestRefusedConnection, "a server refuses": TestServerRefuses, "lost": TestAddressComesBack,
	} {
		t.Run(name, test)
	}
}

// TestSlowStore: no packet is edited later because the store takes its time; but none whose
// events it does not have yet is let go.
func TestSlowStore(t *testing.T) {
	fakes = make(map[string]*fakeStore)
	defer func() { fakes = nil }()
	dir := t.TempDir()
	r := newRig(t, dir)
	waits, goes := make(chan struct{}), make(chan struct{})
	fakes[dir].slow = func() { close(waits); <-goes }
	r.edit(r.segmentOf(calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0), new(nfqueue.Packet))
	settled := make(chan struct{})
	go func() { defer close(settled); r.settle() }()
	<-waits
	if n := len(r.Calls()); n != 1 { // takes mu
		t.Errorf("%d calls", n)
	}
	if len(r.path.(*fakePath).flows) != 0 {
		t.Error("the data path has a flow that the store does not know")
	}
	select {
	case <-settled:
		t.Error("the packet is let go")
	default:
	}
	close(goes)
	<-settled
	r.released()
	if len(r.path.(*fakePath).flows) != 1 {
		t.Error("the flow is missing")
	}
}
