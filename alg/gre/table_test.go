package gre

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

var (
	server = netip.MustParseAddr("203.0.113.9")
	public = netip.MustParseAddr("192.0.2.1")
	client = netip.MustParseAddr("10.0.0.7")

	// inward travels to a client behind the gateway, outward to the server.
	inward  = calls.Flow{Src: server, Dst: public, Key: 77, NewSrc: server, NewDst: client, NewKey: 1}
	outward = calls.Flow{Src: client, Dst: server, Key: 5, NewSrc: public, NewDst: server, NewKey: 5}
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// sum is the folded sum over an IP header: 0xffff if its checksum is right (RFC 791).
func sum(header []byte) uint16 {
	s := uint32(0)
	for i := 0; i < len(header); i += 2 {
		s += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// ip returns an IPv4 packet, its checksum right. Options are zeros.
func ip(src, dst netip.Addr, options int, payload []byte) []byte {
	header := 20 + options
	b := make([]byte, header, header+len(payload))
	b[0], b[8], b[9] = byte(0x40|header/4), 64, packet.ProtocolGRE
	binary.BigEndian.PutUint16(b[2:], uint16(header+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(b))
	return append(b, payload...)
}

func data(id pptp.CallID) []byte {
	return packet.AppendGRE(nil, packet.GREFields{CallID: id, HasSeq: true, Seq: 9, Payload: []byte("\xff\x03\xc0\x21")})
}

// edited returns a copy of b after f, with the checksum right.
func edited(b []byte, f func(b []byte)) []byte {
	b = bytes.Clone(b)
	f(b)
	header := int(b[0]&0x0f) * 4
	if header >= 20 && header <= len(b) {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^sum(b[:header]))
	}
	return b
}

func newTable(t testing.TB, flows ...calls.Flow) *Table {
	t.Helper()
	table := NewTable()
	for _, f := range flows {
		if err := table.Install(f, start); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func TestEnter(t *testing.T) {
	inside := ip(server, public, 0, data(77))
	rekeyed := calls.Flow{Src: client, Dst: server, Key: 6, NewSrc: public, NewDst: server, NewKey: 60, Mark: 3}
	moved := calls.Flow{Src: client, Dst: server, Key: 8, NewSrc: public, NewDst: public, NewKey: 8}
	tests := []struct {
		name string
		b    []byte
		want Outcome
		out  []byte // nil: as it came
	}{
		{"to the client", inside, Outcome{Verdict: Edited, Reason: Rewritten}, ip(server, client, 0, data(1))},
		{"with IP options", ip(server, public, 8, data(77)), Outcome{Verdict: Edited, Reason: Rewritten}, ip(server, client, 8, data(1))},
		{"acknowledgment only", ip(server, public, 0, packet.AppendGRE(nil, packet.GREFields{CallID: 77, HasAck: true})),
			Outcome{Verdict: Edited, Reason: Rewritten}, ip(server, client, 0, packet.AppendGRE(nil, packet.GREFields{CallID: 1, HasAck: true}))},
		{"with link padding", append(bytes.Clone(inside), 1, 2, 3), Outcome{Verdict: Edited, Reason: Rewritten}, append(ip(server, client, 0, data(1)), 1, 2, 3)},
		{"Don't Fragment", edited(inside, func(b []byte) { b[6] = 0x40 }), Outcome{Verdict: Edited, Reason: Rewritten},
			edited(ip(server, client, 0, data(1)), func(b []byte) { b[6] = 0x40 })},
		{"Call ID alone", ip(client, server, 0, data(6)), Outcome{Verdict: Edited, Reason: Rewritten, Mark: 3, Sourced: true}, ip(client, server, 0, data(60))},
		{"destination alone", ip(client, server, 0, data(8)), Outcome{Verdict: Edited, Reason: Rewritten, Sourced: true}, ip(client, public, 0, data(8))},
		{"to the server", ip(client, server, 0, data(5)), Outcome{Verdict: Keep, Reason: Unchanged, Sourced: true}, nil},
		{"another Call ID", ip(server, public, 0, data(78)), Outcome{Reason: NoFlow}, nil},
		{"another source", ip(client, public, 0, data(77)), Outcome{Reason: NoFlow}, nil},
		{"another destination", ip(server, client, 0, data(77)), Outcome{Reason: NoFlow}, nil},
		{"first fragment", edited(inside, func(b []byte) { b[6] = 0x20 }), Outcome{Reason: Fragment}, nil},
		{"last fragment", edited(inside, func(b []byte) { b[7] = 1 }), Outcome{Reason: Fragment}, nil},
		{"GRE version 0", edited(inside, func(b []byte) { b[21] = 0 }), Outcome{Reason: NotPPTP}, nil},
		{"IPv4 over GRE", edited(inside, func(b []byte) { b[22], b[23] = 8, 0 }), Outcome{Reason: NotPPTP}, nil},
		{"GRE without a key", edited(inside, func(b []byte) { b[20] = 0x10 }), Outcome{Reason: NotPPTP}, nil},
		{"TCP", edited(inside, func(b []byte) { b[9] = 6 }), Outcome{Reason: NotPPTP}, nil},
		{"payload cut", edited(inside[:len(inside)-1], func(b []byte) { b[3]-- }), Outcome{Reason: Malformed}, nil},
		{"packet cut", inside[:len(inside)-1], Outcome{Reason: Malformed}, nil},
		{"IPv6", edited(inside, func(b []byte) { b[0] = 0x65 }), Outcome{Reason: Malformed}, nil},
		{"nothing", nil, Outcome{Reason: Malformed}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, inward, outward, rekeyed, moved)
			b, want := bytes.Clone(tt.b), tt.out
			if want == nil {
				want = tt.b
			}
			if got := table.Enter(b); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			if diff := cmp.Diff(want, b); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, r := range Reasons() {
				if got := table.Count(r); (got == 1) != (r == tt.want.Reason) {
					t.Errorf("counted %v %d times", r, got)
				}
			}
		})
	}
}

func TestInstallAndRemove(t *testing.T) {
	table := newTable(t, inward)
	other := inward
	other.NewDst, other.NewKey = netip.MustParseAddr("10.0.0.8"), 2
	marked := inward
	marked.Mark = 3
	packet := ip(server, public, 0, data(77))
	table.Enter(bytes.Clone(packet))
	if err := table.Install(marked, start); err != nil {
		t.Fatal(err)
	}
	if got := maps.Collect(table.All()); !maps.Equal(got, map[calls.Flow]Traffic{inward: {1, uint64(len(packet))}}) {
		t.Errorf("installed again: %v", got)
	}
	if err := table.Install(other, start); err != nil {
		t.Fatal(err)
	}
	if got := maps.Collect(table.All()); !maps.Equal(got, map[calls.Flow]Traffic{other: {}}) || table.Len() != 1 {
		t.Errorf("replaced: %v", got)
	}
	if traffic, ok := table.Remove(inward, start); ok {
		t.Errorf("removed what was replaced, with %v", traffic)
	}
	table.Enter(packet)
	if traffic, ok := table.Remove(other, start); !ok || traffic.Packets != 1 || table.Len() != 0 {
		t.Errorf("removed %v, %v; %d flows left", traffic, ok, table.Len())
	}
	if got := table.Enter(ip(server, public, 0, data(77))); got.Reason != NoFlow {
		t.Errorf("after the removal: %v", got)
	}
}

// TestSomeOfAll: whoever reads the flows may stop before the last one.
func TestSomeOfAll(t *testing.T) {
	seen := 0
	for range newTable(t, inward, outward).All() {
		seen++
		break
	}
	if seen != 1 {
		t.Errorf("%d flows, want 1", seen)
	}
}

// TestForgets: what is over takes no memory for good, whether it was removed or replaced.
func TestForgets(t *testing.T) {
	for _, tt := range []struct {
		name    string
		enters  func(i int) pptp.CallID
		removed bool
	}{
		{"removed", func(i int) pptp.CallID { return pptp.CallID(i) }, true},
		{"replaced", func(int) pptp.CallID { return inward.Key }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, now := NewTable(), start
			for i := range 1000 {
				f := inward
				f.Key, f.NewKey = tt.enters(i), pptp.CallID(i)
				if err := table.Install(f, now); err != nil {
					t.Fatal(err)
				}
				now = now.Add(lingering / 10)
				if tt.removed {
					table.Remove(f, now)
				}
			}
			if inside, left, fading := table.inside.n.Load(), table.left.n.Load(), len(table.fading); inside > 20 || left != table.entering.n.Load() || fading > 20 {
				t.Errorf("%d flows inside, %d that left, %d fading", inside, left, fading)
			}
		})
	}
}

// TestManyAlike: a client that uses one Call ID for everything, and again, costs no more
// than others, and its packets are told apart.
func TestManyAlike(t *testing.T) {
	table := NewTable()
	for round := range 3 {
		for i := range 1 << 14 {
			f := inward
			f.Key, f.NewKey, f.NewSrc = pptp.CallID(i), pptp.CallID(round), netip.AddrFrom4([4]byte{9, byte(round), byte(i >> 8), byte(i)})
			if err := table.Install(f, start); err != nil {
				t.Fatal(err)
			}
			b := ip(f.Src, f.Dst, 0, data(f.Key))
			table.Enter(b)
			table.Leave(b)
			if want := ip(f.NewSrc, f.NewDst, 0, data(f.NewKey)); !bytes.Equal(b, want) {
				t.Fatalf("flow %d of round %d: % x, want % x", i, round, b, want)
			}
		}
	}
}

// TestEveryIDTaken: a flow gets the only Call ID that is free from a source to a receiver.
// Where every one is taken, a further flow takes one from another flow, and the search for it
// ends.
func TestEveryIDTaken(t *testing.T) {
	const free = 40000
	table := NewTable()
	for i := range 1 << 16 {
		f := inward
		f.Key, f.NewKey = pptp.CallID(i), pptp.CallID(i)
		if i == free {
			continue
		}
		if err := table.Install(f, start); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		key  pptp.CallID
		via  pptp.CallID // of its packets before they leave
	}{
		{"one is free", 77, free},
		{"every one is taken", 78, 78},
	} {
		f := inward
		f.Dst, f.NewSrc, f.Key = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("198.51.100.9"), tt.key
		if err := table.Install(f, start); err != nil {
			t.Fatal(err)
		}
		b := ip(f.Src, f.Dst, 0, data(f.Key))
		table.Enter(b)
		if diff := cmp.Diff(ip(f.Src, f.NewDst, 0, data(tt.via)), b); diff != "" {
			t.Errorf("%s: entered (-want +got):\n%s", tt.name, diff)
		}
		table.Leave(b)
		if diff := cmp.Diff(ip(f.NewSrc, f.NewDst, 0, data(f.NewKey)), b); diff != "" {
			t.Errorf("%s: left (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestUnderway: a packet that has entered leaves by its flow, although that is removed
// meanwhile and another flow comes from the same source to the same Call ID of the receiver.
func TestUnderway(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.2")
	for _, tt := range []struct {
		name   string
		newSrc netip.Addr
		via    pptp.CallID // of the next flow's packets before they leave
	}{
		{"the next one leaves alike", inward.NewSrc, inward.NewKey},
		{"the next one leaves otherwise", other, 78},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, inward)
			first := ip(server, public, 0, data(inward.Key))
			table.Enter(first)
			table.Remove(inward, start)
			next := inward
			next.Dst, next.Key, next.NewSrc = other, 78, tt.newSrc
			if err := table.Install(next, start); err != nil {
				t.Fatal(err)
			}
			second := ip(server, other, 0, data(next.Key))
			table.Enter(second)
			if diff := cmp.Diff(ip(server, client, 0, data(tt.via)), second); diff != "" {
				t.Errorf("the next one's, inside (-want +got):\n%s", diff)
			}
			table.Leave(first)
			table.Leave(second)
			if diff := cmp.Diff(ip(server, client, 0, data(inward.NewKey)), first); diff != "" {
				t.Errorf("the first one's (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(ip(tt.newSrc, client, 0, data(next.NewKey)), second); diff != "" {
				t.Errorf("the next one's (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLeaveAlike: of two flows that leave alike one goes, and the packets of the other still
// leave, and errors about them still find their sender.
func TestLeaveAlike(t *testing.T) {
	alike := inward
	alike.Dst = netip.MustParseAddr("192.0.2.2")
	for _, tt := range []struct{ stays, goes calls.Flow }{{inward, alike}, {alike, inward}} {
		table := newTable(t, inward, alike)
		table.Remove(tt.goes, start)
		table.Remove(tt.goes, start.Add(lingering)) // nothing is left of it
		b := ip(server, tt.stays.Dst, 0, data(tt.stays.Key))
		table.Enter(b)
		if got := table.Leave(b); got == Pass {
			t.Errorf("%v: a packet of no flow leaves", tt.stays)
		}
		if diff := cmp.Diff(ip(server, client, 0, data(inward.NewKey)), b); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.stays, diff)
		}
		b = report(public, server, 11, ip(server, client, 0, data(inward.NewKey)))
		table.Enter(b)
		if diff := cmp.Diff(report(public, server, 11, ip(server, tt.stays.Dst, 0, data(tt.stays.Key))), b); diff != "" {
			t.Errorf("%v: error (-want +got):\n%s", tt.stays, diff)
		}
	}
}

// TestManyLeaveAlike: of flows that come and go and leave alike, nothing is kept but what is in
// force, and the last one that is left has the errors.
func TestManyLeaveAlike(t *testing.T) {
	table := newTable(t, inward)
	for i := range 100 {
		f := inward
		f.Dst = netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i)})
		if err := table.Install(f, start); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			table.Remove(f, start)
			continue
		}
		if err := table.Install(inward, start); err != nil { // no change
			t.Fatal(err)
		}
		marked := f
		marked.Mark = 7
		if err := table.Install(marked, start); err != nil {
			t.Fatal(err)
		}
		table.Remove(marked, start)
	}
	s := table.left.find(keyFrom(server.As4(), client.As4(), inward.NewKey))
	if s == nil || s.flow.dst != public.As4() || s.older != nil || s.newer != nil {
		t.Errorf("errors find %+v", s)
	}
	table.Remove(inward, start)
	if n := table.left.n.Load(); n != 0 {
		t.Errorf("%d flows left", n)
	}
}

func TestLeave(t *testing.T) {
	fixed := calls.Flow{Src: server, Dst: public, Key: 9, NewSrc: server, NewDst: public, NewKey: 10}
	tests := []struct {
		name string
		b    []byte
		want Verdict
		out  []byte // nil: as it came
	}{
		{"to the server", ip(client, server, 0, data(5)), Edited, ip(public, server, 0, data(5))},
		{"with IP options", ip(client, server, 8, data(5)), Edited, ip(public, server, 8, data(5))},
		{"to the client", ip(server, client, 0, data(1)), Keep, nil},
		{"to the gateway", ip(server, public, 0, data(10)), Keep, nil},
		{"another Call ID", ip(client, server, 0, data(6)), Pass, nil},
		{"fragment", edited(ip(client, server, 0, data(5)), func(b []byte) { b[6] = 0x20 }), Pass, nil},
		{"TCP", edited(ip(client, server, 0, data(5)), func(b []byte) { b[9] = 6 }), Pass, nil},
		{"GRE version 0", edited(ip(client, server, 0, data(5)), func(b []byte) { b[21] = 0 }), Pass, nil},
		{"nothing", nil, Pass, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, inward, outward, fixed)
			b, want := bytes.Clone(tt.b), tt.out
			if want == nil {
				want = tt.b
			}
			if got := table.Leave(b); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
			if diff := cmp.Diff(want, b); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// report returns an ICMP error about a packet, of which it quotes as much as is given.
func report(from, to netip.Addr, icmpType byte, quoted []byte) []byte {
	m := append([]byte{icmpType, 4, 0, 0, 0, 0, 5, 120}, quoted...)
	even := append(bytes.Clone(m), make([]byte, len(m)%2)...)
	binary.BigEndian.PutUint16(m[2:], ^sum(even))
	return edited(ip(from, to, 0, m), func(b []byte) { b[9] = 1 })
}

// TestErrors: who sent a packet is told of its fate in its own terms, wherever the packet
// was when that was known.
func TestErrors(t *testing.T) {
	router, beyond := netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("10.0.9.9")
	out, in := ip(client, server, 0, data(5)), ip(server, public, 0, data(77))
	outLeft, inLeft := ip(public, server, 0, data(5)), ip(server, client, 0, data(1))
	tests := []struct {
		name    string
		b       []byte
		reason  Reason
		entered []byte // nil: as it came
		left    []byte // nil: as it came in
	}{
		{"outside, to the client", report(router, public, 3, outLeft), Error, report(router, client, 3, out), nil},
		{"8 bytes quoted", report(router, public, 3, outLeft[:28]), Error, report(router, client, 3, out[:28]), nil},
		{"an odd number quoted", report(router, public, 3, outLeft[:31]), Error, report(router, client, 3, out[:31]), nil},
		{"with IP options", report(router, public, 11, ip(public, server, 8, data(5))), Error, report(router, client, 11, ip(client, server, 8, data(5))), nil},
		{"the server's", report(server, public, 12, outLeft), Error, report(server, client, 12, out), nil},
		{"the client's, to the server", report(client, server, 3, inLeft), Error, report(client, server, 3, in), report(public, server, 3, in)},
		{"inside, to the server", report(beyond, server, 11, inLeft), Error, report(beyond, server, 11, in), report(public, server, 11, in)},
		{"the gateway's, to the client", report(public, client, 3, out), Error, nil, nil},
		{"the gateway's, to the server", report(public, server, 3, inLeft), Error, report(public, server, 3, in), nil},
		{"the gateway's, as it sends", report(public, public, 3, outLeft), Error, report(public, client, 3, out), nil},
		{"another Call ID", report(router, public, 3, ip(public, server, 0, data(6))), NotPPTP, nil, nil},
		{"to another than the sender", report(router, beyond, 3, outLeft), NotPPTP, nil, nil},
		{"an echo", report(router, public, 8, outLeft), NotPPTP, nil, nil},
		{"a redirect", report(router, public, 5, outLeft), NotPPTP, nil, nil},
		{"7 bytes quoted", report(router, public, 3, outLeft[:27]), NotPPTP, nil, nil},
		{"TCP quoted", report(router, public, 3, edited(outLeft, func(b []byte) { b[9] = 6 })), NotPPTP, nil, nil},
		{"nothing quoted", report(router, public, 3, nil), NotPPTP, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, inward, outward)
			entered, left := tt.entered, tt.left
			if entered == nil {
				entered = tt.b
			}
			if left == nil {
				left = entered
			}
			b := bytes.Clone(tt.b)
			if got := table.Enter(b); got.Reason != tt.reason || (got.Verdict == Edited) != (tt.entered != nil) {
				t.Errorf("%+v, want %v", got, tt.reason)
			}
			if diff := cmp.Diff(entered, b); diff != "" {
				t.Errorf("entered (-want +got):\n%s", diff)
			}
			if got := table.Leave(b); (got == Edited) != (tt.left != nil) {
				t.Errorf("leaves: %v", got)
			}
			if diff := cmp.Diff(left, b); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInstallRefusesIPv6(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1")
	table := NewTable()
	for _, f := range []calls.Flow{
		{},
		{Src: six, Dst: public, NewSrc: server, NewDst: client},
		{Src: server, Dst: six, NewSrc: server, NewDst: client},
		{Src: server, Dst: public, NewSrc: server, NewDst: six},
		{Src: server, Dst: public, NewSrc: six, NewDst: client},
	} {
		if err := table.Install(f, start); err == nil || table.Len() != 0 {
			t.Errorf("%v: installed", f)
		}
		if _, ok := table.Remove(f, start); ok {
			t.Errorf("%v: removed", f)
		}
	}
}

// model is the table done plainly.
type model map[key]*modelFlow

type modelFlow struct {
	flow    calls.Flow
	traffic Traffic
}

func (m model) install(f calls.Flow) {
	k := keyFrom(f.Src.As4(), f.Dst.As4(), f.Key)
	if old := m[k]; old == nil || old.flow.Unmarked() != f.Unmarked() {
		m[k] = &modelFlow{flow: f}
	}
}

func (m model) remove(f calls.Flow) (Traffic, bool) {
	k := keyFrom(f.Src.As4(), f.Dst.As4(), f.Key)
	old := m[k]
	if old == nil || old.flow.Unmarked() != f.Unmarked() {
		return Traffic{}, false
	}
	delete(m, k)
	return old.traffic, true
}

// carry returns what a packet from a to b with an ID leaves as, nil if it is no flow's.
func (m model) carry(a, b netip.Addr, id pptp.CallID) []byte {
	f := m[keyFrom(a.As4(), b.As4(), id)]
	if f == nil {
		return nil
	}
	f.traffic.Packets++
	f.traffic.Bytes += uint64(len(ip(a, b, 0, data(id))))
	return ip(f.flow.NewSrc, f.flow.NewDst, 0, data(f.flow.NewKey))
}

// underway is a packet that was let in, and what it is to leave as.
type underway struct{ packet, want []byte }

// TestModel compares the table with the model over installs, removals and packets. While a
// packet is inside, flows come and go; it leaves by the one that it came by.
func TestModel(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "host"))})
	})
	id := rapid.Map(rapid.Uint16Range(0, 60), func(id uint16) pptp.CallID { return pptp.CallID(id) })
	flow := rapid.Custom(func(t *rapid.T) calls.Flow {
		return calls.Flow{
			Src: addr.Draw(t, "src"), Dst: addr.Draw(t, "dst"), Key: id.Draw(t, "key"),
			NewSrc: addr.Draw(t, "new src"), NewDst: addr.Draw(t, "new dst"), NewKey: id.Draw(t, "new key") % 2,
			Mark: uint32(rapid.IntRange(0, 1).Draw(t, "mark")),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		table, m, now := NewTable(), make(model), start
		var inside []underway
		t.Repeat(map[string]func(*rapid.T){
			"install": func(t *rapid.T) {
				for _, f := range rapid.SliceOfN(flow, 1, 20).Draw(t, "flows") {
					m.install(f)
					if err := table.Install(f, now); err != nil {
						t.Fatal(err)
					}
				}
			},
			"remove": func(t *rapid.T) {
				f := flow.Draw(t, "flow")
				want, wantOK := m.remove(f)
				if got, ok := table.Remove(f, now); got != want || ok != wantOK {
					t.Fatalf("remove %v: %v, %v; want %v, %v", f, got, ok, want, wantOK)
				}
			},
			"packet": func(t *rapid.T) {
				src, dst, id := addr.Draw(t, "src"), addr.Draw(t, "dst"), id.Draw(t, "id")
				in := ip(src, dst, 0, data(id))
				b, want := bytes.Clone(in), m.carry(src, dst, id)
				out := table.Enter(b)
				if (out.Verdict == Pass) != (want == nil) || (out.Verdict == Edited) == bytes.Equal(in, b) {
					t.Fatalf("%+v: % x, was % x", out, b, in)
				}
				if want != nil {
					inside = append(inside, underway{b, want})
				}
			},
			"leave": func(t *rapid.T) {
				for _, u := range inside {
					before := bytes.Clone(u.packet)
					if v := table.Leave(u.packet); v == Pass || (v == Edited) == bytes.Equal(before, u.packet) {
						t.Fatalf("%v: % x, was % x", v, u.packet, before)
					}
					if diff := cmp.Diff(u.want, u.packet); diff != "" {
						t.Fatalf("(-want +got):\n%s", diff)
					}
				}
				inside = nil
			},
			"later": func(t *rapid.T) {
				if len(inside) == 0 {
					now = now.Add(lingering)
				}
			},
			"": func(t *rapid.T) {
				want := make(map[calls.Flow]Traffic)
				for _, f := range m {
					want[f.flow] = f.traffic
				}
				if got := maps.Collect(table.All()); !maps.Equal(got, want) || table.Len() != len(want) {
					t.Fatalf("flows %v, want %v", got, want)
				}
			},
		})
	})
}

// TestGrowth: a table of many flows has them all, and none that was removed.
func TestGrowth(t *testing.T) {
	table := NewTable()
	const many = 5000
	flow := func(i int) calls.Flow {
		f := inward
		f.Key = pptp.CallID(i)
		return f
	}
	for i := range many {
		if err := table.Install(flow(i), start); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < many; i += 2 {
		if _, ok := table.Remove(flow(i), start); !ok {
			t.Fatalf("flow %d is lost", i)
		}
	}
	if table.Len() != many/2 {
		t.Errorf("%d flows, want %d", table.Len(), many/2)
	}
	for i := range many {
		if _, ok := table.Remove(flow(i), start); ok != (i%2 == 1) {
			t.Fatalf("flow %d is there: %v", i, ok)
		}
	}
}

// TestConcurrent: packets of a flow that stays are rewritten, however others come and go.
func TestConcurrent(t *testing.T) {
	table := newTable(t, inward)
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			want := ip(server, client, 0, data(1))
			for !stop.Load() {
				b := ip(server, public, 0, data(77))
				if got := table.Enter(b); got.Reason != Rewritten || !bytes.Equal(b, want) {
					t.Errorf("%v: % x", got, b)
					return
				}
			}
		})
	}
	for round := range 3 {
		for i := range 5000 {
			f := inward
			f.Key, f.NewKey = pptp.CallID(1000+i), pptp.CallID(round)
			if err := table.Install(f, start); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				table.Remove(f, start)
			}
		}
	}
	stop.Store(true)
	readers.Wait()
}

func TestAllocatesNothing(t *testing.T) {
	table := newTable(t, inward, outward)
	packets := [][]byte{ip(server, public, 0, data(77)), ip(client, server, 0, data(5)), ip(client, server, 0, data(6)), {1}}
	scratch := make([]byte, 100)
	allocs := testing.AllocsPerRun(100, func() {
		for _, p := range packets {
			table.Enter(scratch[:copy(scratch, p)])
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range Reasons() {
		seen[r.String()] = true
	}
	for v := range verdicts {
		seen[v.String()] = true
	}
	if len(seen) != int(reasons)+int(verdicts) || seen[""] {
		t.Errorf("names are not distinct: %v", seen)
	}
	if !strings.HasPrefix(reasons.String(), "unknown(") || !strings.HasPrefix(verdicts.String(), "unknown(") || NewTable().Count(99) != 0 {
		t.Error("an unknown value has a name, or a count")
	}
}

// FuzzEnter: no bytes make a visit panic, and nothing but addresses, Call IDs and their
// checksums ever differs after one; checksums that were right are right.
func FuzzEnter(f *testing.F) {
	out := ip(public, server, 0, data(5))
	for _, b := range [][]byte{
		ip(server, public, 0, data(77)), ip(server, public, 12, data(77)), ip(client, server, 0, data(5)), nil,
		report(server, public, 3, out), report(client, server, 11, ip(server, client, 8, data(1))), report(server, public, 3, out[:28]),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		table := newTable(t, inward, outward)
		unedited(t, b, func() bool { return table.Enter(b).Verdict == Edited })
		unedited(t, b, func() bool { return table.Leave(b) == Edited })
	})
}

// unedited checks what an edit of b leaves as it was.
func unedited(t *testing.T, b []byte, edit func() bool) {
	t.Helper()
	before := bytes.Clone(b)
	if !edit() {
		if !bytes.Equal(before, b) {
			t.Errorf("edited for no reason: % x, was % x", b, before)
		}
		return
	}
	header := int(b[0]&0x0f) * 4
	end := int(binary.BigEndian.Uint16(b[2:]))
	spans, checked := [][2]int{{10, 12}, {12, 20}, {header + 6, header + 8}}, [][2]int{{0, header}}
	if b[9] == 1 {
		quoted := header + 8
		inner := quoted + int(b[quoted]&0x0f)*4
		spans = [][2]int{{10, 12}, {12, 20}, {header + 2, header + 4}, {quoted + 10, quoted + 12}, {quoted + 12, quoted + 20}, {inner + 6, inner + 8}}
		checked = append(checked, [2]int{header, end}, [2]int{quoted, inner})
	}
	for _, c := range checked {
		if right(before[c[0]:c[1]]) && !right(b[c[0]:c[1]]) {
			t.Errorf("a checksum is wrong: % x, was % x", b, before)
		}
	}
	for _, s := range spans {
		copy(before[s[0]:s[1]], b[s[0]:s[1]])
	}
	if !bytes.Equal(before, b) {
		t.Errorf("more has changed than it may: % x, was % x", b, before)
	}
}

// right reports whether a checksum over the bytes is right.
func right(b []byte) bool {
	return sum(append(bytes.Clone(b), make([]byte, len(b)%2)...)) == 0xffff
}
