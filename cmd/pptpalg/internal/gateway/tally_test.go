package gateway

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestTally has the kernel count packets of a call's two entries, and compares.
func TestTally(t *testing.T) {
	tests := []struct {
		name    string
		step    func(r *rig)
		packets float64 // in all, of the two entries
		ended   float64
	}{
		{"a call", func(r *rig) { r.call(); r.kernel.packets = 10 }, 20, 1},
		{"it goes on", func(r *rig) { r.kernel.packets = 15 }, 30, 1},
		{"nothing comes", func(*rig) {}, 30, 1},
		{"flushed", func(r *rig) { r.kernel.flows, r.kernel.packets = nil, 0 }, 30, 0},
		{"made again", func(r *rig) { r.kernel.packets = 2 }, 34, 1},
		{"one entry is deleted", func(r *rig) { r.kernel.flows = r.kernel.flows[:1] }, 34, 1},
		{"accounting is off", func(r *rig) { r.kernel.counts = false }, 34, 0},
		{"the call ends", func(r *rig) { r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0) }, 34, 0},
	}
	r := newRig(t, t.TempDir())
	r.kernel.counts = true
	r.compare()
	for _, tt := range tests {
		tt.step(r)
		r.compare()
		if got := testutil.ToFloat64(r.metrics.grePackets); got != tt.packets {
			t.Errorf("%s: %v packets, want %v", tt.name, got, tt.packets)
		}
		if got := testutil.ToFloat64(r.metrics.counted); got != tt.ended {
			t.Errorf("%s: %v calls are counted, want %v", tt.name, got, tt.ended)
		}
	}
}

// TestTallyAfterRestart: what calls had carried before is no traffic of this daemon's.
func TestTallyAfterRestart(t *testing.T) {
	dir := t.TempDir()
	before := newRig(t, dir)
	before.call()
	before.stop()
	r := newRig(t, dir)
	r.kernel.flows, r.kernel.counts, r.kernel.packets = before.kernel.flows, true, 1000
	r.compare()
	r.kernel.packets = 1001
	r.compare()
	if got := testutil.ToFloat64(r.metrics.grePackets); got != 2 {
		t.Errorf("%v packets, want 2", got)
	}
}

// TestTallyOfACallThatEndsMeanwhile: what was listed before its end is no news after it.
func TestTallyOfACallThatEndsMeanwhile(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.kernel.counts, r.kernel.packets = true, 10
	r.counting()
	r.call()
	have := make(datapath.Flows)
	if _, err := r.path.Snapshot(have, nil, nil); err != nil {
		t.Fatal(err)
	}
	all := r.records(r.editor.Compare(time.Now()))
	r.kernel.packets = 12
	r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
	if tally := r.tally(all, have, time.Now()); tally.Grown.Packets != 24 || tally.Counted != 0 {
		t.Errorf("grown by %+v, %d calls are counted; want 24 packets, none", tally.Grown, tally.Counted)
	}
}

// TestTallyOverTheDaemon counts what the daemon translates, with its bytes.
func TestTallyOverTheDaemon(t *testing.T) {
	r := newRigOver(t, t.TempDir(), datapath.Queue)
	r.compare()
	r.call()
	d := datagram(t, connection.Original.Dst.Addr(), connection.Reply.Dst.Addr(), 7)
	r.visits().Packet(&nfqueue.Packet{Payload: d})
	r.compare()
	if packets, bytes := testutil.ToFloat64(r.metrics.grePackets), testutil.ToFloat64(r.metrics.greBytes); packets != 1 || bytes != float64(len(d)) {
		t.Errorf("%v packets of %v bytes, want 1 of %d", packets, bytes, len(d))
	}
}

func TestReady(t *testing.T) {
	d := new(Gateway)
	now := time.Now()
	if err := d.Ready(now); err == nil {
		t.Error("ready before it runs")
	}
	d.ready.Store(true)
	if err := d.Ready(now); err != nil {
		t.Error(err)
	}
	d.pulse.packet.begin(now)
	if err := d.Ready(now.Add(time.Hour)); err == nil || yes(d.Ready)() != 1 {
		t.Errorf("stuck for an hour: %v; just begun: %v", err, yes(d.Ready)())
	}
}

// TestRefusedConnection: one beyond what may be on record is counted.
func TestRefusedConnection(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.editor = alg.NewEditor(r.table, 0)
	r.say(calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	if n := testutil.ToFloat64(r.metrics.refused); n != 1 {
		t.Errorf("%v are refused, want 1", n)
	}
}

func TestSpaceUsed(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.table.SetConfig(calls.Config{CallsPerSpace: 4, Calls: 9, CallsPerClient: 9, Requests: 9})
	r.call()
	if got := r.spaceUsed(); got != 0.25 {
		t.Errorf("%v of the space are used, want a quarter", got)
	}
}
