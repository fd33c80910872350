package gateway

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestLost: what becomes of a call whose control connection conntrack has lost.
func TestLost(t *testing.T) {
	tests := []struct {
		name    string
		step    func(r *rig)
		revived bool
		ends    bool
	}{
		{"its address is there", func(*rig) {}, true, false},
		{"its address never was there", func(r *rig) { r.homes.there, r.kernel.addrs = nil, nil }, true, false},
		{"its address is gone", func(r *rig) { r.kernel.addrs = nil }, false, false},
		{"its address has been gone for a minute", func(r *rig) {
			r.kernel.addrs = nil
			r.homes.there[public] = time.Now().Add(-homeless - time.Second)
		}, false, true},
		{"another connection has its place", func(r *rig) { r.kernel.taken = true }, true, true},
	}
	for _, path := range []datapath.Name{datapath.Kernel, datapath.Queue} {
		for _, tt := range tests {
			t.Run(string(path)+"/"+tt.name, func(t *testing.T) {
				r := newRigOver(t, t.TempDir(), path)
				r.call()
				r.compare()
				r.kernel.gone, r.kernel.done = true, nil
				tt.step(r)
				r.compare()
				if revived := slices.Contains(r.kernel.done, "revive"); revived != tt.revived || (len(r.Calls()) == 0) != tt.ends {
					t.Errorf("revived %v, %d calls", revived, len(r.Calls()))
				}
				if n := testutil.ToFloat64(r.metrics.cause[calls.Lost]); (n == 1) != tt.ends {
					t.Errorf("%v calls are counted as lost", n)
				}
			})
		}
	}
}

// TestAddressComesBack within a minute, and the call goes on.
func TestAddressComesBack(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.compare()
	r.kernel.gone, r.kernel.addrs = true, nil
	r.compare()
	r.homes.there[public] = time.Now().Add(-homeless / 2)
	r.compare()
	r.kernel.addrs, r.kernel.done = []netip.Addr{public}, nil
	r.compare()
	if !slices.Equal(r.kernel.done, []string{"revive"}) || len(r.Calls()) != 1 {
		t.Errorf("%v, %d calls", r.kernel.done, len(r.Calls()))
	}
}

// TestRevivedLosesItsAddress: the kernel does not take a revived entry along with the address.
func TestRevivedLosesItsAddress(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.compare()
	r.kernel.gone = true
	r.compare()
	r.kernel.addrs = nil
	r.compare()
	if len(r.Calls()) != 1 {
		t.Fatal("it is not waited for")
	}
	r.homes.there[public] = time.Now().Add(-homeless - time.Second)
	if r.compare(); len(r.Calls()) != 0 {
		t.Errorf("%d calls are left", len(r.Calls()))
	}
}

// TestKernelDoesNotRevive: a request that fails is tried again, and ends nothing.
func TestKernelDoesNotRevive(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.compare()
	r.kernel.gone, r.kernel.refuses = true, errors.New("no room")
	r.compare()
	if n := testutil.ToFloat64(r.metrics.errors.WithLabelValues(opCreate)); n != 1 || len(r.Calls()) != 1 {
		t.Errorf("%v errors, %d calls", n, len(r.Calls()))
	}
	r.kernel.refuses = nil
	r.compare()
	if r.kernel.gone || len(r.Calls()) != 1 {
		t.Errorf("gone: %v, %d calls", r.kernel.gone, len(r.Calls()))
	}
}

// TestUnknownWhetherItEnded: a call that an earlier daemon knew, and whose connection is gone
// though its GRE entries are there, ends; but not at once, for a flush takes its time.
func TestUnknownWhetherItEnded(t *testing.T) {
	for _, path := range []datapath.Name{datapath.Kernel, datapath.Queue} {
		dir := t.TempDir()
		r := newRigOver(t, dir, path)
		r.call()
		r.settleDown()
		r.kernel.gone = true
		r = r.restarted(dir)
		for i, want := range []int{1, 0} {
			if r.compare(); len(r.Calls()) != want {
				t.Errorf("%s: comparison %d leaves %d calls", path, i, len(r.Calls()))
			}
		}
		if n := testutil.ToFloat64(r.metrics.cause[calls.Lost]); n != 1 {
			t.Errorf("%s: %v calls are counted as lost", path, n)
		}
	}
}

// TestResetMark: the next segment of a client whose call was lost gets the mark by which
// the rules answer it, and no other segment does.
func TestResetMark(t *testing.T) {
	for _, mark := range []uint32{0x10, 0} {
		r := newRig(t, t.TempDir())
		r.cfg.ResetMark = mark
		r.editor.ResetLost(mark != 0)
		r.call()
		r.compare()
		send := func(tu calls.Tuple, side calls.Side) *nfqueue.Packet {
			p := &nfqueue.Packet{Payload: segment(t, tu, [2]uint32{r.seq[side]}, []byte{0}), Mark: 3}
			r.packet(p)
			r.settle()
			r.released()
			return p
		}
		if p := send(connection.Original, calls.Initiator); p.Mark != 3 {
			t.Errorf("while the call is up: %#x", p.Mark)
		}
		r.kernel.gone, r.kernel.taken = true, true
		r.compare()
		if p := send(connection.Reply, calls.Responder); p.Mark != 3 {
			t.Errorf("the server's: %#x", p.Mark)
		}
		if p := send(connection.Original, calls.Initiator); p.Mark != 3|mark {
			t.Errorf("the client's: %#x, want %#x", p.Mark, 3|mark)
		}
		if n := testutil.ToFloat64(r.metrics.series(ending{alg.Accept, alg.Deserted})); (n == 1) != (mark != 0) {
			t.Errorf("%v segments are counted", n)
		}
	}
}

// TestHomes: an address that was there is missed, one that never was is not.
func TestHomes(t *testing.T) {
	var now time.Time
	at := func(d time.Duration) time.Time { return now.Add(d) }
	now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name       string
		seen       []time.Duration // when it was there, of looks
		looks      []time.Duration
		away, left bool
	}{
		{"there", []time.Duration{0}, []time.Duration{0}, false, false},
		{"never there", nil, []time.Duration{0, time.Second}, false, false},
		{"gone", []time.Duration{0}, []time.Duration{0, time.Second}, true, false},
		{"gone for a minute", []time.Duration{0}, []time.Duration{0, homeless}, true, false},
		{"gone for longer", []time.Duration{0}, []time.Duration{0, homeless + 1}, true, true},
		{"back", []time.Duration{0, homeless + 2}, []time.Duration{0, homeless + 1, homeless + 2}, false, false},
		{"gone for so long that nobody knows", []time.Duration{0}, []time.Duration{0, homeMemory + 1}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var there []netip.Addr
			h := homes{list: func() ([]netip.Addr, error) { return there, nil }}
			for _, look := range tt.looks {
				if there = nil; slices.Contains(tt.seen, look) {
					there = []netip.Addr{public}
				}
				if err := h.look(at(look)); err != nil {
					t.Fatal(err)
				}
			}
			if away, left := h.away(connection), h.left(connection); away != tt.away || left != tt.left {
				t.Errorf("away %v, left %v", away, left)
			}
		})
	}
}

// TestHomesUnknown: where the kernel does not tell, all is as it was.
func TestHomesUnknown(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.look(time.Now())
	r.kernel.addrs, r.kernel.err = nil, errKernel
	if r.look(time.Now().Add(2 * homeless)); r.homes.away(connection) {
		t.Error("an address is away, and nobody said so")
	}
}
