package gateway

import (
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

func TestRest(t *testing.T) {
	tests := []struct {
		worked   time.Duration
		repaired bool
		want     time.Duration
	}{
		{time.Millisecond, false, 2 * time.Second},
		{time.Millisecond, true, 2 * time.Second},
		{100 * time.Millisecond, false, 10 * time.Second},
		{100 * time.Millisecond, true, 5 * time.Second},
	}
	for _, tt := range tests {
		s := sweeper{repaired: tt.repaired}
		if got := s.rest(tt.worked); got != tt.want {
			t.Errorf("after %v, repaired: %v: %v, want %v", tt.worked, tt.repaired, got, tt.want)
		}
	}
}

// TestIntact: the sample between comparisons finds an emptied table, and nothing else.
func TestIntact(t *testing.T) {
	tests := []struct {
		name string
		step func(r *rig)
		want bool
	}{
		{"nothing happens", func(*rig) {}, true},
		{"emptied", func(r *rig) { r.kernel.flows = nil }, false},
		{"the control connection's entry is deleted", func(r *rig) { r.kernel.gone = true }, false},
		{"the kernel does not tell", func(r *rig) { r.kernel.flows, r.kernel.err = nil, errKernel }, true},
		{"the call ends", func(r *rig) { r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0) }, true},
	}
	for _, path := range []datapath.Name{datapath.Kernel, datapath.Queue} {
		for _, tt := range tests {
			t.Run(string(path)+"/"+tt.name, func(t *testing.T) {
				r := newRigOver(t, t.TempDir(), path)
				r.call()
				r.compare()
				tt.step(r)
				if got := r.intact(); got != tt.want {
					t.Errorf("intact: %v, want %v", got, tt.want)
				}
			})
		}
	}
}

// stays is said of every connection.
func stays(calls.Connection) bool { return false }

func TestSample(t *testing.T) {
	for all, want := range map[int]int{0: 0, 1: 1, samples: samples, 1000: samples} {
		var s sweeper
		s.sample(silentCalls(all), stays)
		if len(s.watched) != want {
			t.Errorf("of %d calls %d flows are looked at, want %d", all, len(s.watched), want)
		}
	}
	zero := calls.Record{State: calls.Established, Connection: connection, Legs: [2]calls.LegRecord{{Known: true}, {Known: true}}}
	var s sweeper
	if s.sample([]calls.Record{zero}, stays); len(s.watched) != 0 {
		t.Errorf("to Call ID 0: %v", s.watched)
	}
}

// TestRepairsAreRemembered until the next comparison begins.
func TestRepairsAreRemembered(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.sweepOnce()
	if r.sweeper.repaired {
		t.Error("nothing was to be mended")
	}
	r.kernel.flows = nil
	if r.sweepOnce(); !r.sweeper.repaired {
		t.Error("two entries were to be made again")
	}
	if r.sweepOnce(); r.sweeper.repaired {
		t.Error("it is never forgotten")
	}
}

// TestSampleOfWhatWaits: a connection whose address is away lacks its entry, and would have
// one comparison follow the other.
func TestSampleOfWhatWaits(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.compare()
	r.kernel.gone, r.kernel.addrs = true, nil
	r.compare()
	if !r.intact() || len(r.Calls()) != 1 {
		t.Errorf("intact: %v, %d calls", r.intact(), len(r.Calls()))
	}
}
