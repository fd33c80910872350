package gateway

import (
	"testing"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/pptp"
)

// TestZones: the kernel is asked for zones when a connection in one is seen, and from then on
// the same addresses and ports in another zone are another connection.
func TestZones(t *testing.T) {
	r := newRig(t, t.TempDir())
	request := func(p nfqueue.Packet, own pptp.CallID, calls int) {
		t.Helper()
		seg := r.segmentOf(0, pptp.OutgoingCallRequest, own, 0, 0)
		if out := r.edit(seg, &p); out.Reason != alg.Read {
			t.Errorf("request of %v: %v", own, out.Reason)
		}
		r.seq[0] += uint32(len(seg.Payload()))
		if n := len(r.Calls()); n != calls {
			t.Errorf("%d calls, want %d", n, calls)
		}
	}
	r.turn.began = time.Now()
	r.kernel.zone = 11
	if !r.zones.asked.IsZero() {
		t.Error("asked before there is a zone")
	}
	request(nfqueue.Packet{}, 7, 1)
	if r.zones.asked.IsZero() {
		t.Error("not asked")
	}
	request(nfqueue.Packet{}, 8, 2) // the kernel does not tell yet
	request(nfqueue.Packet{Zoned: true, Zone: 11}, 9, 3)
	request(nfqueue.Packet{Zoned: true, Zone: 12}, 7, 4)
	request(nfqueue.Packet{}, 10, 5) // was queued before
	zones := make(map[uint16]int)
	for _, record := range r.editor.Records() {
		zones[record.Connection.ZoneOf(calls.Initiator)]++
	}
	if zones[11] != 4 || zones[12] != 1 {
		t.Errorf("calls by zone: %v", zones)
	}
}
