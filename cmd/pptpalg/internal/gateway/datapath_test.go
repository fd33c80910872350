package gateway

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/queue"
)

func TestChosenPath(t *testing.T) {
	tests := []struct {
		asked   datapath.Name
		refuses bool
		want    datapath.Name
	}{
		{datapath.Auto, false, datapath.Kernel},
		{datapath.Auto, true, datapath.Queue},
		{datapath.Kernel, true, datapath.Kernel},
		{datapath.Queue, false, datapath.Queue},
	}
	for _, tt := range tests {
		k := new(fakeKernel)
		if tt.refuses {
			k.err = errKernel
		}
		d := newGateway(Config{DataPath: tt.asked, Table: calls.DefaultConfig()}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
		d.kernel, d.lister, d.viewer = k, k, k
		d.choosePath()
		if got := d.DataPath(); got != tt.want {
			t.Errorf("%s, and the kernel refuses: %v: %s, want %s", tt.asked, tt.refuses, got, tt.want)
		}
	}
}

func TestDataPathText(t *testing.T) {
	var p datapath.Name
	if err := p.UnmarshalText([]byte("queue")); err != nil || p != datapath.Queue {
		t.Errorf("queue: %s, %v", p, err)
	}
	if err := p.UnmarshalText([]byte("fast")); err == nil || p != datapath.Queue {
		t.Errorf("fast: %s, %v", p, err)
	}
}

// TestDaemonTranslates: flows stand in the daemon when the packets that announce them are
// let go, and none in the kernel.
func TestDaemonTranslates(t *testing.T) {
	r := newRigOver(t, t.TempDir(), datapath.Queue)
	const call, seen = 0x40, 0x80
	r.path = queue.New(call, seen, func([]byte) {})
	r.call()
	r.settleDown()
	if r.visits().Flows() != 2 || !slices.Equal(r.kernel.flows, []calls.Flow{canary}) {
		t.Errorf("%d flows here, in the kernel %v", r.visits().Flows(), r.kernel.flows)
	}
	client, server, public := connection.Original.Src.Addr(), connection.Original.Dst.Addr(), connection.Reply.Dst.Addr()
	tests := []struct {
		name    string
		packet  nfqueue.Packet
		verdict nfqueue.Verdict
		mark    uint32
	}{
		{"to the client", nfqueue.Packet{Payload: datagram(t, server, public, 7)}, nfqueue.RepeatModified, call},
		{"to the server", nfqueue.Packet{Payload: datagram(t, client, server, 9), Mark: 3}, nfqueue.Repeat, call | 3},
		{"of no call", nfqueue.Packet{Payload: datagram(t, client, server, 10), Mark: 3}, nfqueue.Repeat, seen | 3},
		{"cut", nfqueue.Packet{Payload: datagram(t, client, server, 9)[:20], Truncated: true}, nfqueue.Repeat, seen},
		{"leaves for the server", nfqueue.Packet{Payload: datagram(t, client, server, 9), Hook: nfqueue.Postrouting, Mark: 3}, nfqueue.RepeatModified, seen | 3},
		{"leaves for the client", nfqueue.Packet{Payload: datagram(t, server, client, 7), Hook: nfqueue.Postrouting}, nfqueue.Repeat, seen},
		{"for the gateway", nfqueue.Packet{Payload: datagram(t, server, client, 7), Hook: nfqueue.Input}, nfqueue.Repeat, seen},
		{"untracked by others", nfqueue.Packet{Payload: datagram(t, client, server, 10), Hook: nfqueue.Postrouting}, nfqueue.Repeat, seen},
		{"a call's, come again", nfqueue.Packet{Payload: datagram(t, server, public, 7), Mark: call | 3}, nfqueue.Accept, call | 3},
		{"another, come again", nfqueue.Packet{Payload: datagram(t, client, server, 9), Mark: seen | 3}, nfqueue.Accept, 3},
		{"leaves again", nfqueue.Packet{Payload: datagram(t, client, server, 9), Hook: nfqueue.Postrouting, Mark: seen | 3}, nfqueue.Accept, 3},
	}
	for _, tt := range tests {
		if v := r.visits().Packet(&tt.packet); v != tt.verdict || tt.packet.Mark != tt.mark {
			t.Errorf("%s: %v with mark %#x, want %v with %#x", tt.name, v, tt.packet.Mark, tt.verdict, tt.mark)
		}
	}
	if n := r.visits().Count(gre.NoFlow); n != 1 {
		t.Errorf("%d packets of no call are counted", n)
	}
	r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
	if r.visits().Flows() != 0 {
		t.Errorf("%d flows of a call that has ended", r.visits().Flows())
	}
}

// TestMarksOfConnections: packets that leave translated have the mark of their control
// connection, as if it had been restored, and others keep theirs.
func TestMarksOfConnections(t *testing.T) {
	r := newRigOver(t, t.TempDir(), datapath.Queue)
	call, _ := r.cfg.Data.Marks()
	client, server, public := connection.Original.Src.Addr(), connection.Original.Dst.Addr(), connection.Reply.Dst.Addr()
	changes := []calls.Event{
		{Kind: calls.Install, Flow: calls.Flow{Src: client, Dst: server, Key: 9, NewSrc: public, NewDst: server, NewKey: 9, Mark: 2 | call}},
		{Kind: calls.Install, Flow: calls.Flow{Src: server, Dst: public, Key: 7, NewSrc: server, NewDst: client, NewKey: 7, Mark: 2}},
	}
	if failed := r.path.Apply(changes); len(failed) > 0 {
		t.Fatal(failed)
	}
	tests := []struct {
		name   string
		packet nfqueue.Packet
		want   uint32
	}{
		{"outward", nfqueue.Packet{Payload: datagram(t, client, server, 9), Mark: 5}, 2},
		{"inward", nfqueue.Packet{Payload: datagram(t, server, public, 7), Mark: 5}, 5},
		{"of the gateway's own", nfqueue.Packet{Payload: datagram(t, server, public, 7), Mark: 5, Hook: nfqueue.Output}, 2},
	}
	for _, tt := range tests {
		if r.visits().Packet(&tt.packet); tt.packet.Mark != call|tt.want {
			t.Errorf("%s: mark %#x, want %#x", tt.name, tt.packet.Mark, call|tt.want)
		}
	}
}

// datagram is an IP packet of enhanced GRE.
func datagram(t *testing.T, src, dst netip.Addr, id pptp.CallID) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolGRE, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	buf := gopacket.NewSerializeBuffer()
	payload := gopacket.Payload(packet.AppendGRE(nil, packet.GREFields{CallID: id, HasSeq: true, Payload: []byte("data")}))
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, payload)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// settleDown compares until nothing is new any more.
func (r *rig) settleDown() {
	for range 2 {
		r.compare()
	}
}

// TestFlushOrEnd: a connection that was there before the daemon, and is missing, was flushed
// if the canary is gone as well; else it may have ended. One that the daemon has seen did not
// end in either case.
func TestFlushOrEnd(t *testing.T) {
	for _, flushed := range []bool{true, false} {
		for _, seen := range []bool{true, false} {
			dir := t.TempDir()
			r := newRigOver(t, dir, datapath.Queue)
			r.call()
			r.settleDown()
			if !seen {
				r = r.restarted(dir)
			}
			r.kernel.gone = true
			if flushed {
				r.kernel.flows = nil
			}
			r.compare()
			r.compare()
			want := flushed || seen
			if revived := slices.Contains(r.kernel.done, "revive"); revived != want || (len(r.Calls()) == 1) != want {
				t.Errorf("flushed: %v, seen: %v; revived: %v, %d calls", flushed, seen, revived, len(r.Calls()))
			}
		}
	}
}

// restarted is another daemon that comes after this one has crashed.
func (r *rig) restarted(dir string) *rig {
	r.t.Helper()
	if err := r.store.Close(); err != nil {
		r.t.Fatal(err)
	}
	again := newRigOver(r.t, dir, r.DataPath())
	again.kernel.flows, again.kernel.gone, again.seq = r.kernel.flows, r.kernel.gone, r.seq
	return again
}

// TestFlushUnderWay: a flush that takes the connection before a comparison, and what tells
// that it is one after it, is a flush all the same; and so is one the other way round.
func TestFlushUnderWay(t *testing.T) {
	for _, path := range []datapath.Name{datapath.Kernel, datapath.Queue} {
		for _, first := range []string{"connection", "the rest"} {
			r := newRigOver(t, t.TempDir(), path)
			r.call()
			r.settleDown()
			if first == "connection" {
				r.kernel.gone = true
			} else {
				r.kernel.flows = nil
			}
			r.compare()
			if first == "connection" {
				r.kernel.flows = nil
			} else {
				r.kernel.gone = true
				if path == datapath.Kernel {
					r.kernel.flows = nil // made again meanwhile
				}
			}
			r.compare()
			if !slices.Contains(r.kernel.done, "revive") || len(r.Calls()) != 1 {
				t.Errorf("%s, the %s first: %v, %d calls", path, first, r.kernel.done, len(r.Calls()))
			}
		}
	}
}

// TestCrashAfterAFlush: a daemon that comes after one which had found the canary dead
// still knows of the flush.
func TestCrashAfterAFlush(t *testing.T) {
	dir := t.TempDir()
	before := newRigOver(t, dir, datapath.Queue)
	before.call()
	before.settleDown()
	before.kernel.flows = nil
	if err := before.watch(); err != nil {
		t.Fatal(err)
	}
	before.stop()
	r := newRigOver(t, dir, datapath.Queue)
	r.kernel.flows, r.kernel.gone = before.kernel.flows, true
	r.compare()
	if !slices.Contains(r.kernel.done, "revive") || len(r.Calls()) != 1 {
		t.Errorf("%v, %d calls", r.kernel.done, len(r.Calls()))
	}
}

// TestFromKernelToDaemon: entries that an earlier daemon had the kernel translate by are
// taken away, and others' are not.
func TestFromKernelToDaemon(t *testing.T) {
	dir := t.TempDir()
	before := newRig(t, dir)
	before.call()
	before.stop()
	foreign := calls.Flow{Src: canary.Src, Dst: canary.Dst, Key: 5, NewSrc: canary.Src, NewDst: canary.Dst, NewKey: 5}
	r := newRigOver(t, dir, datapath.Queue)
	r.kernel.flows = append(slices.Clone(before.kernel.flows), foreign)
	r.clearKernel()
	r.settleDown()
	if r.visits().Flows() != 2 || !slices.Equal(r.kernel.flows, []calls.Flow{foreign, canary}) {
		t.Errorf("%d flows here, in the kernel %v", r.visits().Flows(), r.kernel.flows)
	}
	if err := errors.Join(r.path.Close(), r.takeCanary()); err != nil || len(r.kernel.flows) != 2 {
		t.Errorf("closed with calls: %v, %v", err, r.kernel.flows)
	}
}
