package gateway

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
	"pptpalg/cmd/pptpalg/internal/history"
)

// story is what the daemon kept of the connection, a word or two for each event.
func (r *rig) story() (all []string) {
	for _, e := range r.Events().Of(connection.Original.Src.Addr()) {
		line := e.Kind.String()
		switch e.Kind {
		case history.ConnectionOpened:
			line += " " + e.Reason.String()
		case history.MessageRead:
			line = fmt.Sprintf("%v %d/%d", e.Message.Type, e.Message.Result, e.Error)
		case history.AnomalySeen:
			line += " " + e.Anomaly.String()
		case history.CallClosed:
			line += " " + e.Call.Cause.String()
		}
		all = append(all, line)
	}
	return all
}

func (r *rig) wantStory(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.story()); diff != "" {
		r.t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestEventsOfACall(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.say(calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	r.call()
	r.kernel.counts, r.kernel.packets = true, 5
	r.compare()
	r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
	r.say(calls.Responder, pptp.CallDisconnectNotify, 9, 0, 4)
	r.say(calls.Initiator, pptp.SetLinkInfo, 0, 99, 0)
	r.wantStory(
		"connection_opened read",
		"Outgoing-Call-Request 0/0", "call_requested", "Outgoing-Call-Reply 1/0", "call_translated", "call_established",
		"Call-Clear-Request 0/0", "call_closed cleared", "Call-Disconnect-Notify 4/0",
		"Set-Link-Info 0/0", "anomaly unknown_call",
	)
	closed := r.Events().Kept(history.CallClosed)[0]
	want := [2]calls.LegRecord{{Known: true, Own: 7, Public: 7}, {Known: true, Own: 9, Public: 9}}
	if closed.Call.Legs != want || closed.Call.Traffic[0].Packets != 5 || closed.Call.Traffic[1].Packets != 5 || closed.Call.Number != 1 {
		t.Errorf("the call closed as %+v", closed.Call)
	}
}

// TestEventsOfATurn has a call asked for, refused and forgotten before anything settles.
func TestEventsOfATurn(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.say(calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0)
	r.say(calls.Responder, pptp.OutgoingCallReply, 9, 7, 4)
	r.wantStory(
		"connection_opened read", "Outgoing-Call-Request 0/0", "call_requested", "Outgoing-Call-Reply 4/0", "call_closed refused")
}

// TestEventsAfterARestart: what was there before is no news, but its end is.
func TestEventsAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	r.call()
	r.stop()
	next := newRig(t, dir)
	next.kernel.flows = r.kernel.flows
	next.compare()
	next.wantStory()
	next.kernel.closed = true
	next.compare()
	next.wantStory("call_closed expired")
	if legs := next.Events().Kept()[0].Call.Legs; !legs[0].Known || legs[1].Own != 9 {
		t.Errorf("its ends were %+v", legs)
	}
}

// TestExactCounts: where the daemon translates, nothing that a call carried is missed.
func TestExactCounts(t *testing.T) {
	r := newRigOver(t, t.TempDir(), datapath.Queue)
	r.call()
	gre := []byte{
		0x45, 0, 0, 36, 0, 0, 0, 0, 64, 47, 0, 0, 203, 0, 113, 9, 198, 51, 100, 1, // from the server to the public address
		0x30, 1, 0x88, 0x0b, 0, 4, 0, 7, 0, 0, 0, 1, 1, 2, 3, 4, // sequence number 1 of call 7
	}
	r.visits().Packet(&nfqueue.Packet{Payload: gre})
	r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
	got := r.Events().Kept(history.CallClosed)[0].Call.Traffic
	want := [2]calls.Traffic{{Packets: 1, Bytes: 36, Counted: true}, {Counted: true}}
	if got != want {
		t.Errorf("it carried %+v, want %+v", got, want)
	}
}

// TestCountsOfTheKernel: what a call's entries had counted when they went is in its last
// event, and where that cannot be known, the event says so.
func TestCountsOfTheKernel(t *testing.T) {
	counts := func(packets uint64) calls.Traffic { return calls.Traffic{Packets: packets, Counted: true} }
	tests := []struct {
		name  string
		step  func(r *rig) // before the call is cleared
		want  [2]calls.Traffic
		rough bool
		told  float64 // by the metrics, once compared
	}{
		{"at once", func(r *rig) { r.kernel.packets = 3 }, [2]calls.Traffic{counts(3), counts(3)}, false, 6},
		{"since the last comparison", func(r *rig) {
			r.kernel.packets = 3
			r.compare()
			r.kernel.packets = 5
		}, [2]calls.Traffic{counts(5), counts(5)}, false, 10},
		{"flushed, and made again", func(r *rig) {
			r.kernel.packets = 3
			r.compare()
			r.kernel.flows = nil
			r.compare()
			r.counting() // which the sysctl tells
			r.kernel.packets = 2
		}, [2]calls.Traffic{counts(5), counts(5)}, true, 10},
		{"flushed, and closed before that was seen", func(r *rig) {
			r.kernel.packets = 3
			r.compare()
			r.kernel.flows = nil
		}, [2]calls.Traffic{counts(3), counts(3)}, true, 6},
		{"one entry is gone", func(r *rig) {
			r.kernel.packets = 3
			r.compare()
			r.kernel.flows = r.kernel.flows[:1]
		}, [2]calls.Traffic{counts(3), counts(3)}, true, 6},
		{"the entry cannot be asked", func(r *rig) {
			r.kernel.packets = 3
			r.compare()
			r.kernel.err = errKernel
			r.kernel.flows = nil
		}, [2]calls.Traffic{counts(3), counts(3)}, true, 6},
		{"nobody counts", func(r *rig) { r.kernel.counts = false }, [2]calls.Traffic{}, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.kernel.counts = true
			r.counting()
			r.call()
			tt.step(r)
			r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
			got := r.Events().Kept(history.CallClosed)[0].Call
			if got.Traffic != tt.want || got.Approximate != tt.rough {
				t.Errorf("it carried %+v, approximately: %v; want %+v, %v", got.Traffic, got.Approximate, tt.want, tt.rough)
			}
			r.kernel.err = nil
			r.compare()
			if told := testutil.ToFloat64(r.metrics.grePackets); told != tt.told {
				t.Errorf("the metrics tell of %v packets, want %v", told, tt.told)
			}
		})
	}
}

// counting has the daemon know that entries count.
func (r *rig) counting() {
	if p, ok := r.path.(*kernel.Path); ok {
		p.Counting(true)
	}
}

// TestCountsOfCallsThatComparisonsEnd: their entries are there until then, and are asked.
func TestCountsOfCallsThatComparisonsEnd(t *testing.T) {
	tests := []struct {
		name  string
		cause calls.Cause
		step  func(r *rig)
	}{
		{"its connection has ended", calls.Expired, func(r *rig) { r.kernel.closed = true }},
		{"its connection is lost", calls.Lost, func(r *rig) { r.kernel.gone, r.kernel.taken = true, true }},
		{"it is idle", calls.Idle, func(r *rig) { r.cfg.Idle = 1 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.kernel.counts, r.kernel.packets = true, 3
			r.call()
			r.compare()
			tt.step(r)
			for range 2 {
				r.compare()
			}
			closed := r.Events().Kept(history.CallClosed)
			if len(closed) != 1 {
				t.Fatalf("closed: %+v", closed)
			}
			if c := closed[0].Call; c.Cause != tt.cause || c.Traffic[0].Packets != 3 || c.Traffic[1].Packets != 3 || c.Approximate {
				t.Errorf("it closed as %+v", c)
			}
		})
	}
}

// TestCountsOfManyCalls: what one turn removed is not told in the next.
func TestCountsOfManyCalls(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.kernel.counts = true
	r.counting()
	for i := range uint64(3) {
		r.kernel.packets = i
		r.call()
		r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
		r.say(calls.Responder, pptp.CallDisconnectNotify, 9, 0, 4)
		closed := r.Events().Kept(history.CallClosed)
		if len(closed) != int(i)+1 || closed[i].Call.Traffic[0].Packets != i || closed[i].Call.Approximate {
			t.Fatalf("call %d closed as %+v", i, closed)
		}
		if removed := r.path.Carried(); len(removed) != 0 {
			t.Errorf("told twice: %v", removed)
		}
	}
}

// TestCountsAfterARestart: the kernel's entries have counted on; the daemon's flows have not.
func TestCountsAfterARestart(t *testing.T) {
	for path, rough := range map[datapath.Name]bool{datapath.Kernel: false, datapath.Queue: true} {
		dir := t.TempDir()
		before := newRigOver(t, dir, path)
		before.call()
		before.stop()
		r := newRigOver(t, dir, path)
		r.kernel.flows, r.kernel.counts, r.kernel.packets = before.kernel.flows, true, 4
		r.compare()
		r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
		r.say(calls.Responder, pptp.CallDisconnectNotify, 9, 0, 4) // which acknowledges the request
		if got := r.Events().Kept(history.CallClosed)[0].Call; got.Approximate != rough || !got.Traffic[0].Counted {
			t.Errorf("%s: %+v, approximately: %v", path, got.Traffic, got.Approximate)
		}
	}
}

// TestServerRefuses: with the RST the kernel has forgotten whose it was.
func TestServerRefuses(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.kernel.gone = true
	for i := range 10 {
		b := segment(t, connection.Reply, [2]uint32{uint32(i)}, nil)
		b[20+13] = byte(packet.RST | packet.ACK)
		r.turn.began = time.Now()
		r.edit(r.parse(b), new(nfqueue.Packet))
	}
	all := r.refusalsSince(time.Now().Add(-time.Minute))
	if len(all) != len(r.refusals.last) || all[0].Server != connection.Original.Dst {
		t.Errorf("refusals: %+v", all)
	}
}

func TestGeneralError(t *testing.T) {
	message := func(typ pptp.Type, code byte) []byte {
		l, _ := typ.Layout()
		m := make([]byte, l.Size)
		binary.BigEndian.PutUint16(m, uint16(l.Size))
		binary.BigEndian.PutUint16(m[2:], pptp.ControlMessage)
		binary.BigEndian.PutUint32(m[4:], pptp.MagicCookie)
		binary.BigEndian.PutUint16(m[8:], uint16(typ))
		if l.Result != 0 {
			m[l.Result+1] = code
		}
		return m
	}
	two := append(message(pptp.EchoReply, 1), message(pptp.OutgoingCallReply, 4)...)
	tests := []struct {
		name    string
		payload []byte
		typ     pptp.Type
		want    byte
	}{
		{"one message", message(pptp.StartControlConnectionReply, 3), pptp.StartControlConnectionReply, 3},
		{"behind another", two, pptp.OutgoingCallReply, 4},
		{"cut off", two[:len(two)-1], pptp.OutgoingCallReply, 0},
		{"begun earlier", two[1:], pptp.OutgoingCallReply, 0},
		{"another type", two, pptp.CallDisconnectNotify, 0},
		{"without a result", message(pptp.SetLinkInfo, 0), pptp.SetLinkInfo, 0},
		{"nothing", nil, pptp.OutgoingCallReply, 0},
	}
	for _, tt := range tests {
		if got, _ := generalError(tt.payload, tt.typ); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// perOp reports the processor time of the loop beside its wall time, which is others' too.
func perOp(b *testing.B, do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime(b)
	for b.Loop() {
		do()
	}
	b.ReportMetric(float64(threadTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func threadTime(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkSee is what an event of a control message takes.
func BenchmarkSee(b *testing.B) {
	t := new(testing.T)
	r := newRig(t, b.TempDir())
	defer r.store.Close()
	r.call()
	l, _ := pptp.OutgoingCallReply.Layout()
	m := make([]byte, l.Size)
	binary.BigEndian.PutUint16(m, uint16(l.Size))
	binary.BigEndian.PutUint16(m[2:], pptp.ControlMessage)
	binary.BigEndian.PutUint32(m[4:], pptp.MagicCookie)
	binary.BigEndian.PutUint16(m[8:], uint16(pptp.OutgoingCallReply))
	seg, err := packet.Parse(segment(t, connection.Reply, [2]uint32{1}, m))
	if err != nil {
		b.Fatal(err)
	}
	out := alg.Outcome{Messages: []alg.Message{{Type: pptp.OutgoingCallReply, Result: 1}}}
	now := time.Now()
	b.ReportAllocs()
	perOp(b, func() { r.see(seg, &out, now) })
}

// BenchmarkTell is what the events of a call's life take: asked for, up, closed.
func BenchmarkTell(b *testing.B) {
	l := history.NewLedger(history.NewStore(10, 10))
	r := calls.Record{Connection: connection, Number: 1, Legs: [2]calls.LegRecord{{Known: true}, {Known: true}}}
	r.Connection.Original.Src = netip.MustParseAddrPort("10.0.0.10:4000")
	var life []calls.Event
	for kind := calls.Opened; kind <= calls.Gone; kind++ {
		life = append(life, calls.Event{Kind: kind, Call: r})
	}
	now := time.Now()
	b.ReportAllocs()
	perOp(b, func() { l.Tell(life, nil, now) })
}
