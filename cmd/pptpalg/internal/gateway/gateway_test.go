package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
	"pptpalg/conntrack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var connection = calls.Connection{
	Original: calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.10:4000"), Dst: netip.MustParseAddrPort("203.0.113.9:1723")},
	Reply:    calls.Tuple{Src: netip.MustParseAddrPort("203.0.113.9:1723"), Dst: netip.MustParseAddrPort("198.51.100.1:4000")},
}

var errKernel = errors.New("the kernel says no")

// fakeKernel is a conntrack with one TCP connection.
type fakeKernel struct {
	err    error // of every request, if it is set
	gone   bool  // the connection is no longer there
	closed bool  // it is closed
	flows  []calls.Flow
	done   []string
	lists  int // of all connections
	walks  int // of all GRE entries

	counts  bool // packets are counted
	packets uint64
	strays  []conntrack.Stray

	lent     []calls.Flow // by entries that are not their own
	outdated []calls.Flow // whose entries an earlier release has made

	zone    uint16       // of the connection
	addrs   []netip.Addr // of the gateway's interfaces
	refuses error        // of Revive
	taken   bool         // another connection has the place of the one that is gone
}

func (k *fakeKernel) Connection(t calls.Tuple) (calls.Connection, error) {
	if k.err != nil {
		return calls.Connection{}, k.err
	}
	if k.gone || t != connection.Original && t != connection.Reply {
		return calls.Connection{}, fmt.Errorf("get: %w", conntrack.ErrNotFound)
	}
	c := connection
	c.Zone = k.zone
	return c, nil
}

func (k *fakeKernel) ConnectionIn(t calls.Tuple, zone uint16) (calls.Connection, error) {
	c, err := k.Connection(t)
	c.Zone = zone
	return c, err
}

func (k *fakeKernel) connection() calls.Connection {
	c := connection
	c.Closing, c.Reset = k.closed, k.closed
	return c
}

func (k *fakeKernel) Connections([]uint16) ([]calls.Connection, error) {
	k.lists++
	if k.gone {
		return nil, k.err
	}
	return []calls.Connection{k.connection()}, k.err
}

func (k *fakeKernel) Traffic(into map[calls.Flow]calls.Traffic, _ func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	k.walks++
	clear(into)
	for _, f := range k.lent {
		into[f.Unmarked()] = calls.Traffic{Lent: true}
	}
	for _, f := range k.flows {
		into[f.Unmarked()] = k.traffic()
	}
	return k.strays, k.err
}

func (k *fakeKernel) Renew(mine func(calls.Flow) bool) (n int, err error) {
	for _, f := range k.outdated {
		if mine(f) {
			k.done = append(k.done, "renew")
			n++
		}
	}
	return n, k.err
}

func (k *fakeKernel) traffic() calls.Traffic {
	return calls.Traffic{Packets: k.packets, Counted: k.counts}
}

func (k *fakeKernel) ApplyCounting(events []calls.Event, counted func(calls.Flow, calls.Traffic)) map[int]error {
	for _, c := range events {
		if c.Kind == calls.Remove && k.counts && slices.Contains(k.flows, c.Flow) {
			counted(c.Flow.Unmarked(), k.traffic())
		}
	}
	return k.Apply(events)
}

func (k *fakeKernel) StandingConnections(known []calls.Connection) ([]calls.Connection, error) {
	if k.gone || !slices.ContainsFunc(known, connection.Same) {
		return nil, k.err
	}
	return []calls.Connection{k.connection()}, k.err
}

func (k *fakeKernel) StandingTraffic(into map[calls.Flow]calls.Traffic, known []calls.Flow) error {
	_, err := k.Traffic(into, nil)
	maps.DeleteFunc(into, func(f calls.Flow, _ calls.Traffic) bool {
		return !slices.ContainsFunc(known, func(g calls.Flow) bool { return g.Unmarked() == f })
	})
	return err
}

func (k *fakeKernel) Apply(events []calls.Event) map[int]error {
	failed := make(map[int]error)
	for i, c := range events {
		if c.OfCall() {
			continue
		}
		k.done = append(k.done, c.Kind.String())
		switch {
		case k.err != nil:
			failed[i] = k.err
		case c.Kind == calls.Remove:
			k.flows = slices.DeleteFunc(k.flows, func(f calls.Flow) bool { return f == c.Flow })
		case !slices.Contains(k.flows, c.Flow):
			k.flows = append(k.flows, c.Flow)
		}
	}
	return failed
}

func (k *fakeKernel) ApplyLate(events []calls.Event) map[int]error { return k.Apply(events) }

func (k *fakeKernel) Has(f calls.Flow) (bool, error) { return slices.Contains(k.flows, f), k.err }

func (k *fakeKernel) Leave(t calls.Tuple, _ uint16, _ conntrack.Bypass) error {
	k.done = append(k.done, "leave")
	return k.err
}

func (k *fakeKernel) Revive(calls.Connection) error {
	k.done = append(k.done, "revive")
	if k.taken {
		return fmt.Errorf("revive: %w", conntrack.ErrTaken)
	}
	if k.refuses != nil {
		return k.refuses
	}
	k.gone = k.err != nil
	return k.err
}

func (k *fakeKernel) Follow([]calls.Connection, uint32) map[int]error     { return nil }
func (k *fakeKernel) Remake([]calls.Connection, uint32) map[int]error     { return nil }
func (k *fakeKernel) Loosen([]calls.Connection, uint32) map[int]error     { return nil }
func (k *fakeKernel) SetTimeout([]calls.Connection, uint32) map[int]error { return nil }

func (k *fakeKernel) Probe() error { return k.err }

func (k *fakeKernel) Close() error { return nil }

// rig is a daemon without a queue.
type rig struct {
	*Gateway
	t      *testing.T
	kernel *fakeKernel
	seq    [2]uint32
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	return newRigOver(t, dir, datapath.Kernel)
}

func newRigOver(t *testing.T, dir string, path datapath.Name) *rig {
	t.Helper()
	k := &fakeKernel{addrs: []netip.Addr{connection.Reply.Dst.Addr()}}
	cfg := Config{DataPath: path, Ports: []uint16{1723}, StateDir: dir, Table: calls.DefaultConfig(), Connections: 10}
	d := newGateway(cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	d.kernel, d.lister, d.viewer, d.listener = k, k, k, new(fakeEvents)
	d.homes.list = func() ([]netip.Addr, error) { return k.addrs, k.err }
	d.choosePath()
	r := &rig{Gateway: d, t: t, kernel: k, seq: [2]uint32{1000, 2000}}
	if fakes != nil {
		r.fake(dir)
		return r
	}
	if err := d.openStore(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.store.Close() }) // some tests have closed it
	return r
}

// stop ends the daemon, as far as its store is concerned: another one may begin with what it has
// left.
func (r *rig) stop() {
	r.t.Helper()
	if err := r.store.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// say has an end send a message and returns the packet's outcome.
func (r *rig) say(from calls.Side, typ pptp.Type, own, peer pptp.CallID, result byte) alg.Outcome {
	r.t.Helper()
	return r.sayAt(time.Now(), from, typ, own, peer, result)
}

func (r *rig) sayAt(now time.Time, from calls.Side, typ pptp.Type, own, peer pptp.CallID, result byte) alg.Outcome {
	r.t.Helper()
	seg := r.segmentOf(from, typ, own, peer, result)
	r.turn.began = now
	out := r.edit(seg, new(nfqueue.Packet))
	r.settle()
	r.released()
	r.seq[from] += uint32(len(seg.Payload()))
	return out
}

// segmentOf returns the segment in which an end sends a message.
func (r *rig) segmentOf(from calls.Side, typ pptp.Type, own, peer pptp.CallID, result byte) packet.Segment {
	r.t.Helper()
	tuple := connection.Original
	if from == calls.Responder {
		tuple = connection.Reply
	}
	l, _ := typ.Layout()
	m := make([]byte, l.Size)
	binary.BigEndian.PutUint16(m, uint16(l.Size))
	binary.BigEndian.PutUint16(m[2:], pptp.ControlMessage)
	binary.BigEndian.PutUint32(m[4:], pptp.MagicCookie)
	binary.BigEndian.PutUint16(m[8:], uint16(typ))
	for at, id := range map[int]pptp.CallID{l.Own: own, l.Peer: peer} {
		if at != 0 {
			binary.BigEndian.PutUint16(m[at:], uint16(id))
		}
	}
	if l.Result != 0 {
		m[l.Result] = result
	}
	return r.parse(segment(r.t, tuple, [2]uint32{r.seq[from], r.seq[from.Other()]}, m))
}

func (r *rig) parse(b []byte) packet.Segment {
	r.t.Helper()
	seg, unread := read(&nfqueue.Packet{Payload: b})
	if unread != alg.Read {
		r.t.Fatal(unread)
	}
	return seg
}

// segment returns a segment with a sequence number and what it acknowledges.
func segment(t testing.TB, tuple calls.Tuple, at [2]uint32, payload []byte) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: tuple.Src.Addr().AsSlice(), DstIP: tuple.Dst.Addr().AsSlice()}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(tuple.Src.Port()), DstPort: layers.TCPPort(tuple.Dst.Port()), Seq: at[0], Ack: at[1], ACK: true}
	buf := gopacket.NewSerializeBuffer()
	err := errors.Join(tcp.SetNetworkLayerForChecksum(ip),
		gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp, gopacket.Payload(payload)))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// call opens a call.
func (r *rig) call() {
	r.t.Helper()
	r.say(calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0)
	r.say(calls.Responder, pptp.OutgoingCallReply, 9, 7, 1)
	if len(r.Calls()) != 1 {
		r.t.Fatalf("%d calls", len(r.Calls()))
	}
}

func TestKernelFirst(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.say(calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0)
	if len(r.kernel.flows) != 1 || r.kernel.flows[0].NewDst != connection.Original.Src.Addr() {
		t.Errorf("when the request is let go the kernel has %v", r.kernel.flows)
	}
	r.say(calls.Responder, pptp.OutgoingCallReply, 9, 7, 1)
	if len(r.kernel.flows) != 2 {
		t.Errorf("when the reply is let go the kernel has %v", r.kernel.flows)
	}
	r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
	if len(r.kernel.flows) != 0 {
		t.Errorf("when the call is cleared the kernel has %v", r.kernel.flows)
	}
}

func TestEntryThatCannotBeCreated(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.say(calls.Initiator, pptp.EchoRequest, 0, 0, 0) // so that the connection is known
	r.kernel.err = errKernel
	out := r.say(calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0)
	if out.Verdict == alg.Drop || out.Reason != alg.Read {
		t.Errorf("the request is %v, %v", out.Verdict, out.Reason)
	}
	if n := testutil.ToFloat64(r.metrics.errors.WithLabelValues(opCreate)); n != 1 {
		t.Errorf("%v errors are counted", n)
	}
	r.compare()
	r.kernel.err = nil
	r.compare()
	if len(r.kernel.flows) != 1 || r.missing() != 1 {
		t.Errorf("after the comparison the kernel has %v, %v were missing", r.kernel.flows, r.missing())
	}
	r.compare()
	if r.missing() != 0 {
		t.Errorf("%v are missing in the end", r.missing())
	}
}

func TestEntryThatCannotBeDeleted(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.kernel.err = errKernel
	r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
	if len(r.doomed) != 2 {
		t.Errorf("doomed: %v", r.doomed)
	}
	r.kernel.err = nil
	r.compare()
	if len(r.kernel.flows)+len(r.doomed) != 0 {
		t.Errorf("left over: %v, doomed %v", r.kernel.flows, r.doomed)
	}
}

func TestConntrackDoesNotAnswer(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.kernel.err = errKernel
	if out := r.say(calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0); out.Verdict != alg.Accept || out.Reason != alg.Failed {
		t.Errorf("the packet is %v, %v", out.Verdict, out.Reason)
	}
	r.kernel.err = nil
	r.call()
}

// TestEntriesDeletedByOthers are made again; a second look finds nothing to do.
func TestEntriesDeletedByOthers(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	foreign := calls.Flow{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2")}
	lost := r.kernel.flows[0]
	r.kernel.flows = []calls.Flow{r.kernel.flows[1], foreign}
	r.kernel.done = nil
	r.compare()
	r.compare()
	if !slices.Contains(r.kernel.flows, lost) || !slices.Contains(r.kernel.flows, foreign) || len(r.kernel.done) != 1 {
		t.Errorf("the kernel has %v after %v", r.kernel.flows, r.kernel.done)
	}
}

// TestFewAreAskedFor: where little is on record, the kernel is not made to walk through
// all of its table each time, and repairs are made all the same.
func TestFewAreAskedFor(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	for i := range 10 {
		if i == 5 {
			r.sweeper.listed = time.Now().Add(-listInterval)
		}
		lost := r.kernel.flows[0]
		r.kernel.flows = slices.Clone(r.kernel.flows[1:])
		r.compare()
		if !slices.Contains(r.kernel.flows, lost) {
			t.Fatalf("not made again: %v", lost)
		}
	}
	if r.kernel.lists != 2 {
		t.Errorf("%d comparisons list all", r.kernel.lists)
	}
}

// TestConnectionGone: that its entry is gone does not end a connection, whoever took what
// along with it. That TCP has ended does.
func TestConnectionGone(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.kernel.flows, r.kernel.gone, r.kernel.done = nil, true, nil
	r.compare()
	if !slices.Equal(r.kernel.done, []string{"revive", "install", "install"}) || len(r.Calls()) != 1 {
		t.Errorf("after a flush: %v, %d calls", r.kernel.done, len(r.Calls()))
	}
	r.kernel.gone, r.kernel.done = true, nil
	r.compare()
	if !slices.Equal(r.kernel.done, []string{"revive"}) || len(r.Calls()) != 1 {
		t.Errorf("after its entry alone was deleted: %v, %d calls", r.kernel.done, len(r.Calls()))
	}
	r.kernel.closed, r.kernel.done = true, nil
	r.compare()
	if !slices.Equal(r.kernel.done, []string{"remove", "remove"}) || len(r.Calls()) != 0 {
		t.Errorf("after the end: %v, %d calls", r.kernel.done, len(r.Calls()))
	}
}

func TestMarkChangedByOthers(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	for i := range r.kernel.flows {
		r.kernel.flows[i].Mark = 77
	}
	r.kernel.done = nil
	r.compare()
	if len(r.kernel.done) != 0 {
		t.Errorf("a changed mark leads to %v", r.kernel.done)
	}
}

// TestLentEntry: a flow that somebody else's entry translates lacks nothing, and is no sign
// that the kernel's table was not flushed.
func TestLentEntry(t *testing.T) {
	r := newRig(t, t.TempDir())
	request := r.say(calls.Initiator, pptp.OutgoingCallRequest, 0, 0, 0)
	r.say(calls.Responder, pptp.OutgoingCallReply, 0, request.Messages[0].Own.To, 1)
	r.kernel.lent = r.kernel.flows[1:]
	r.kernel.flows = r.kernel.flows[:1]
	r.kernel.done = nil
	r.compare()
	if len(r.kernel.done) != 0 || len(r.Calls()) != 1 {
		t.Errorf("%v, %d calls", r.kernel.done, len(r.Calls()))
	}
	r.kernel.flows, r.kernel.gone = nil, true
	r.compare()
	if diff := cmp.Diff([]string{"revive", "install"}, r.kernel.done); diff != "" || len(r.Calls()) != 1 {
		t.Errorf("after a flush, %d calls (-want +got):\n%s", len(r.Calls()), diff)
	}
}

// TestTakenUp: a daemon that takes up calls lists the kernel's entries once before it edits. It
// creates those that are missing and no others, and deletes those of calls that have ended.
func TestTakenUp(t *testing.T) {
	tests := []struct {
		name  string
		left  func(r *rig) // what the daemon before has left
		calls int
		done  []string
	}{
		{"all is there", func(*rig) {}, 1, nil},
		{"an entry is lacking", func(r *rig) { r.kernel.flows = r.kernel.flows[1:] }, 1, []string{"install"}},
		{"both are", func(r *rig) { r.kernel.flows = nil }, 1, []string{"install", "install"}},
		{"others have changed a mark", func(r *rig) { r.kernel.flows[0].Mark = 77 }, 1, nil},
		{"the call was being cleared", func(r *rig) {
			kept := slices.Clone(r.kernel.flows)
			r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
			r.kernel.flows = kept
		}, 0, []string{"remove", "remove"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			before := newRig(t, dir)
			before.call()
			tt.left(before)
			before.stop()
			r := newRig(t, dir)
			r.kernel.flows = before.kernel.flows
			r.adopt()
			r.clearKernel()
			r.audit()
			if diff := cmp.Diff(tt.done, r.kernel.done); diff != "" || len(r.Calls()) != tt.calls || r.orphans.count.Load() != 0 {
				t.Errorf("%d calls, %d orphans; done (-want +got):\n%s", len(r.Calls()), r.orphans.count.Load(), diff)
			}
			if r.kernel.lists != 1 || r.kernel.walks != 1 {
				t.Errorf("%d lists of connections, %d of entries", r.kernel.lists, r.kernel.walks)
			}
			r.kernel.flows = nil
			if r.compare(); len(r.kernel.flows) != 2*tt.calls {
				t.Errorf("the next audit leaves %v", r.kernel.flows)
			}
		})
	}
}

// TestTakenUpUnlisted: an audit that finds no list makes one of its own.
func TestTakenUpUnlisted(t *testing.T) {
	dir := t.TempDir()
	before := newRig(t, dir)
	before.call()
	before.stop()
	r := newRig(t, dir)
	r.kernel.err = errKernel
	r.adopt()
	r.audit()
	r.kernel.err = nil
	if r.audit(); len(r.kernel.flows) != 2 || len(r.Calls()) != 1 {
		t.Errorf("%d calls, the kernel has %v", len(r.Calls()), r.kernel.flows)
	}
}

// TestRenew: what an earlier release has left is made anew, of calls that live, and what it had
// one entry for gets two.
func TestRenew(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	other := r.kernel.flows[0]
	other.Key++
	r.kernel.outdated = append(slices.Clone(r.kernel.flows), other)
	r.kernel.flows = r.kernel.flows[:1]
	r.kernel.done = nil
	r.renew()
	if diff := cmp.Diff([]string{"renew", "renew", "install"}, r.kernel.done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
}

// TestKilled takes up the journal of a daemon that was killed at some instant.
func TestKilled(t *testing.T) {
	tests := []struct {
		name  string
		run   func(r *rig)
		left  int
		flows int
		rests bool
	}{
		{"in a call", func(r *rig) { r.call() }, 1, 2, false},
		{"before the kernel had the entry", func(r *rig) { r.call(); r.kernel.flows = r.kernel.flows[:1] }, 1, 2, false},
		{"before the kernel had lost the entries", func(r *rig) {
			r.call()
			kept := slices.Clone(r.kernel.flows)
			r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
			r.say(calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
			r.kernel.flows = kept
		}, 0, 0, true},
		{"while the call was cleared, before the kernel had lost the entries", func(r *rig) {
			r.call()
			kept := slices.Clone(r.kernel.flows)
			r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
			r.kernel.flows = kept
		}, 0, 0, false},
		{"while the call was cleared", func(r *rig) {
			r.call()
			r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
		}, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			r := newRig(t, dir)
			tt.run(r)
			r.stop()
			again := newRig(t, dir)
			again.kernel.flows = r.kernel.flows
			again.compare()
			if len(again.Calls()) != tt.left || len(again.kernel.flows) != tt.flows {
				t.Errorf("%d calls, the kernel has %v", len(again.Calls()), again.kernel.flows)
			}
			again.seq = r.seq
			out := again.say(calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0)
			if to := out.Messages[0].Own.To; tt.rests && to == 7 {
				t.Error("an ID that rests was given again")
			}
		})
	}
}

func TestIdleCalls(t *testing.T) {
	tests := []struct {
		name   string
		counts bool
		moves  bool // GRE flows
		speaks bool // control messages come
		left   int
	}{
		{"silent", true, false, false, 0},
		{"GRE flows", true, true, false, 1},
		{"control messages come", true, false, true, 1},
		{"nobody counts", false, false, false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.cfg.Idle = time.Minute
			r.kernel.counts = tt.counts
			r.call()
			begin := time.Now()
			for i := range 4 {
				now := begin.Add(time.Duration(i) * 25 * time.Second)
				if tt.moves {
					r.kernel.packets++
				}
				if tt.speaks {
					r.sayAt(now, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
				}
				have := make(datapath.Flows)
				if _, err := r.path.Snapshot(have, nil, nil); err != nil {
					t.Fatal(err)
				}
				c := r.editor.Compare(now)
				tally := r.tally(r.records(c), have, now)
				r.endIdle(c, &tally, now)
			}
			have := make(datapath.Flows)
			if _, err := r.path.Snapshot(have, nil, nil); err != nil || len(r.Calls()) != tt.left || len(have) != 2*tt.left {
				t.Errorf("%d calls, the data path has %v, %v", len(r.Calls()), have, err)
			}
		})
	}
}

// panicking is a log that panics.
type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool { panic("log") }

// TestPanic costs the packet, and its connection the editor.
func TestPanic(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.call()
	r.table.SetConfig(calls.Config{CallsPerClient: 1, Calls: 9, CallsPerSpace: 9, Requests: 9})
	r.log = slog.New(panicking{}) // the next request is beyond the limit, and its log line panics
	func() {
		defer func() {
			if recover() == nil {
				t.Error("nothing panicked")
			}
		}()
		r.say(calls.Initiator, pptp.OutgoingCallRequest, 8, 0, 0)
	}()
	out := r.say(calls.Initiator, pptp.CallClearRequest, 7, 0, 0)
	if out.Verdict != alg.Accept || out.Reason != alg.Failed || len(r.Calls()) != 1 {
		t.Errorf("afterwards: %v, %v, %d calls", out.Verdict, out.Reason, len(r.Calls()))
	}
}

func TestJournalThatFails(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.stop()
	r.call()
	if n := testutil.ToFloat64(r.metrics.journalErrors); n == 0 {
		t.Error("nothing is counted")
	}
	if len(r.kernel.flows) != 2 {
		t.Errorf("the kernel has %v", r.kernel.flows)
	}
}

// BenchmarkCompare states what a comparison with the kernel costs beside the kernel's
// own listing, with 50,000 calls on connections of their own.
func BenchmarkCompare(b *testing.B) {
	const number = 50_000
	k := &crowdedKernel{traffic: make(map[calls.Flow]calls.Traffic)}
	cfg := Config{StateDir: b.TempDir(), Table: calls.DefaultConfig(), Connections: number}
	d := newGateway(cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	d.kernel, d.lister, d.viewer, d.path = k, k, k, kernel.New(k, k, k)
	if err := d.openStore(); err != nil {
		b.Fatal(err)
	}
	defer d.store.Close()
	var records []calls.Record
	for i := range number {
		r := crowdedRecord(i)
		records = append(records, r)
		k.live = append(k.live, r.Connection)
		for _, f := range r.Flows() {
			k.traffic[f] = calls.Traffic{}
		}
	}
	if refused := d.editor.Restore(records, time.Now()); refused > 0 {
		b.Fatalf("%d of %d calls refused", refused, number)
	}
	d.table.Events()
	for b.Loop() {
		d.compare()
	}
	if len(d.Calls()) != number || d.missing() != 0 || len(k.done) != 0 {
		b.Fatalf("%d calls, %v missing, kernel asked to %d events", len(d.Calls()), d.missing(), len(k.done))
	}
}

// crowdedKernel is a conntrack with many connections.
type crowdedKernel struct {
	fakeKernel
	live    []calls.Connection
	traffic map[calls.Flow]calls.Traffic
}

func (k *crowdedKernel) Connections([]uint16) ([]calls.Connection, error) {
	return slices.Clone(k.live), nil
}

func (k *crowdedKernel) Traffic(into map[calls.Flow]calls.Traffic, _ func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	maps.Copy(into, k.traffic)
	return nil, nil
}

func crowdedRecord(i int) calls.Record {
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), uint16(1024+i%50000))
	server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i % 4)}), 1723)
	public := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(1024+i))
	return calls.Record{
		Number: uint64(i + 1), State: calls.Established, Since: time.Now(),
		Connection: calls.Connection{
			Original: calls.Tuple{Src: client, Dst: server}, Reply: calls.Tuple{Src: server, Dst: public},
		},
		Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: pptp.CallID(i + 1)}, {Known: true, Own: pptp.CallID(i), Public: pptp.CallID(i)}},
	}
}
