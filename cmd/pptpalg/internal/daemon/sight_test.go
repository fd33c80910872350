package daemon

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/events"
	"pptpalg/conntrack"
)

// story is what the daemon kept of the connection, a word or two for each event.
func (r *rig) story() (all []string) {
	for _, e := range r.Events().Of(connection.Original.Src.Addr()) {
		line := e.Kind.String()
		switch e.Kind {
		case events.ConnectionOpened:
			line += " " + e.Reason.String()
		case events.MessageRead:
			line = fmt.Sprintf("%v %d/%d", e.Message.Type, e.Message.Result, e.Error)
		case events.AnomalySeen:
			line += " " + e.Anomaly.String()
		case events.CallClosed:
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
	r.say(conntrack.Initiator, pptp.EchoRequest, 0, 0, 0)
	r.call()
	r.kernel.counts, r.kernel.packets = true, 5
	r.compare()
	r.say(conntrack.Initiator, pptp.CallClearRequest, 7, 0, 0)
	r.say(conntrack.Responder, pptp.CallDisconnectNotify, 9, 0, 4)
	r.say(conntrack.Initiator, pptp.SetLinkInfo, 0, 99, 0)
	r.wantStory(
		"connection_opened read",
		"Outgoing-Call-Request 0/0", "call_requested", "Outgoing-Call-Reply 1/0", "call_translated", "call_established",
		"Call-Clear-Request 0/0", "call_closed cleared", "Call-Disconnect-Notify 4/0",
		"Set-Link-Info 0/0", "anomaly unknown_call",
	)
	closed := r.Events().Kept(events.CallClosed)[0]
	want := [2]conntrack.LegRecord{{Known: true, Own: 7, Public: 7}, {Known: true, Own: 9, Public: 9}}
	if closed.Call.Legs != want || closed.Call.Traffic[0].Packets != 5 || closed.Call.Traffic[1].Packets != 5 || closed.Call.Number != 1 {
		t.Errorf("the call closed as %+v", closed.Call)
	}
	if len(r.sight.calls) != 0 || len(r.sight.ended) != 0 {
		t.Errorf("left over: %v, %v", r.sight.calls, r.sight.ended)
	}
}

// TestEventsOfATurn has a call asked for, refused and forgotten before anything settles.
func TestEventsOfATurn(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.say(conntrack.Initiator, pptp.OutgoingCallRequest, 7, 0, 0)
	r.say(conntrack.Responder, pptp.OutgoingCallReply, 9, 7, 4)
	r.wantStory(
		"connection_opened read", "Outgoing-Call-Request 0/0", "call_requested", "Outgoing-Call-Reply 4/0", "call_closed refused")
}

// TestEventsAfterARestart: what was there before is no news, but its end is.
func TestEventsAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	r.call()
	if err := r.journal.Close(); err != nil {
		t.Fatal(err)
	}
	next := newRig(t, dir)
	next.kernel.flows = r.kernel.flows
	next.compare()
	next.wantStory()
	next.kernel.gone = true
	next.compare()
	next.compare()
	next.wantStory("call_closed expired")
	if legs := next.Events().Kept()[0].Call.Legs; !legs[0].Known || legs[1].Own != 9 {
		t.Errorf("its ends were %+v", legs)
	}
}

// TestExactCounts: where the daemon translates, nothing that a call carried is missed.
func TestExactCounts(t *testing.T) {
	r := newRigOver(t, t.TempDir(), InDaemon)
	r.call()
	gre := []byte{
		0x45, 0, 0, 36, 0, 0, 0, 0, 64, 47, 0, 0, 203, 0, 113, 9, 198, 51, 100, 1, // from the server to the public address
		0x30, 1, 0x88, 0x0b, 0, 4, 0, 7, 0, 0, 0, 1, 1, 2, 3, 4, // sequence number 1 of call 7
	}
	r.grePacket(&nfqueue.Packet{Payload: gre})
	r.say(conntrack.Initiator, pptp.CallClearRequest, 7, 0, 0)
	got := r.Events().Kept(events.CallClosed)[0].Call.Traffic
	want := [2]conntrack.Traffic{{Packets: 1, Bytes: 36, Counted: true}, {Counted: true}}
	if got != want {
		t.Errorf("it carried %+v, want %+v", got, want)
	}
}

// TestServerRefuses: with the RST the kernel has forgotten whose it was.
func TestServerRefuses(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.kernel.gone = true
	for i := range 10 {
		b := segment(t, connection.Reply, uint32(i), nil)
		b[20+13] = byte(packet.RST | packet.ACK)
		r.edit(&nfqueue.Packet{Payload: b}, time.Now())
	}
	all := r.refusalsSince(time.Now().Add(-time.Minute))
	if len(all) != len(r.sight.refusals) || all[0].Server != connection.Original.Dst {
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
	defer r.journal.Close()
	r.call()
	l, _ := pptp.OutgoingCallReply.Layout()
	m := make([]byte, l.Size)
	binary.BigEndian.PutUint16(m, uint16(l.Size))
	binary.BigEndian.PutUint16(m[2:], pptp.ControlMessage)
	binary.BigEndian.PutUint32(m[4:], pptp.MagicCookie)
	binary.BigEndian.PutUint16(m[8:], uint16(pptp.OutgoingCallReply))
	seg, err := packet.Parse(segment(t, connection.Reply, 1, m))
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
	s := newSight()
	k := conntrack.Keep{Record: conntrack.Record{Connection: connection, Number: 1}}
	k.Record.Connection.Original.Src = netip.MustParseAddrPort("10.0.0.10:4000")
	steps := []conntrack.Keep{k, k, k}
	steps[1].Record.State, steps[1].Record.Legs = conntrack.Established, [2]conntrack.LegRecord{{Known: true}, {Known: true}}
	steps[2].Gone = true
	now := time.Now()
	b.ReportAllocs()
	perOp(b, func() { s.tell(steps, nil, now) })
}
