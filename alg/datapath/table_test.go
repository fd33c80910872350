package datapath

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"pptpalg/alg/gre"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

var (
	server = netip.MustParseAddr("203.0.113.9")
	public = netip.MustParseAddr("192.0.2.1")
	client = netip.MustParseAddr("10.0.0.7")

	// inward travels to a client behind the gateway, outward to the server.
	inward  = conntrack.Flow{Src: server, Dst: public, Key: 77, NewSrc: server, NewDst: client, NewKey: 1}
	outward = conntrack.Flow{Src: client, Dst: server, Key: 5, NewSrc: public, NewDst: server, NewKey: 5}
)

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
	b[0], b[8], b[9] = byte(0x40|header/4), 64, gre.Protocol
	binary.BigEndian.PutUint16(b[2:], uint16(header+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(b))
	return append(b, payload...)
}

func data(id pptp.CallID) []byte {
	return gre.Append(nil, gre.Fields{CallID: id, HasSeq: true, Seq: 9, Payload: []byte("\xff\x03\xc0\x21")})
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

func newTable(t testing.TB, flows ...conntrack.Flow) *Table {
	t.Helper()
	table := NewTable()
	for _, f := range flows {
		if err := table.Install(f); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func TestRewrite(t *testing.T) {
	inside := ip(server, public, 0, data(77))
	rekeyed := conntrack.Flow{Src: client, Dst: server, Key: 6, NewSrc: public, NewDst: server, NewKey: 60}
	moved := conntrack.Flow{Src: client, Dst: server, Key: 8, NewSrc: public, NewDst: public, NewKey: 8}
	tests := []struct {
		name string
		b    []byte
		want Outcome
		out  []byte // nil: as it came
	}{
		{"to the client", inside, Outcome{Edited, Rewritten, 0}, ip(server, client, 0, data(1))},
		{"with IP options", ip(server, public, 8, data(77)), Outcome{Edited, Rewritten, 0}, ip(server, client, 8, data(1))},
		{"acknowledgment only", ip(server, public, 0, gre.Append(nil, gre.Fields{CallID: 77, HasAck: true})),
			Outcome{Edited, Rewritten, 0}, ip(server, client, 0, gre.Append(nil, gre.Fields{CallID: 1, HasAck: true}))},
		{"with link padding", append(bytes.Clone(inside), 1, 2, 3), Outcome{Edited, Rewritten, 0}, append(ip(server, client, 0, data(1)), 1, 2, 3)},
		{"Don't Fragment", edited(inside, func(b []byte) { b[6] = 0x40 }), Outcome{Edited, Rewritten, 0},
			edited(ip(server, client, 0, data(1)), func(b []byte) { b[6] = 0x40 })},
		{"Call ID alone", ip(client, server, 0, data(6)), Outcome{Edited, Rewritten, 0}, ip(client, server, 0, data(60))},
		{"destination alone", ip(client, server, 0, data(8)), Outcome{Edited, Rewritten, 0}, ip(client, public, 0, data(8))},
		{"to the server", ip(client, server, 0, data(5)), Outcome{Keep, Unchanged, 0}, nil},
		{"another Call ID", ip(server, public, 0, data(78)), Outcome{Pass, NoFlow, 0}, nil},
		{"another source", ip(client, public, 0, data(77)), Outcome{Pass, NoFlow, 0}, nil},
		{"another destination", ip(server, client, 0, data(77)), Outcome{Pass, NoFlow, 0}, nil},
		{"first fragment", edited(inside, func(b []byte) { b[6] = 0x20 }), Outcome{Pass, Fragment, 0}, nil},
		{"last fragment", edited(inside, func(b []byte) { b[7] = 1 }), Outcome{Pass, Fragment, 0}, nil},
		{"GRE version 0", edited(inside, func(b []byte) { b[21] = 0 }), Outcome{Pass, NotPPTP, 0}, nil},
		{"IPv4 over GRE", edited(inside, func(b []byte) { b[22], b[23] = 8, 0 }), Outcome{Pass, NotPPTP, 0}, nil},
		{"GRE without a key", edited(inside, func(b []byte) { b[20] = 0x10 }), Outcome{Pass, NotPPTP, 0}, nil},
		{"TCP", edited(inside, func(b []byte) { b[9] = 6 }), Outcome{Pass, NotPPTP, 0}, nil},
		{"payload cut", edited(inside[:len(inside)-1], func(b []byte) { b[3]-- }), Outcome{Pass, Malformed, 0}, nil},
		{"packet cut", inside[:len(inside)-1], Outcome{Pass, Malformed, 0}, nil},
		{"IPv6", edited(inside, func(b []byte) { b[0] = 0x65 }), Outcome{Pass, Malformed, 0}, nil},
		{"nothing", nil, Outcome{Pass, Malformed, 0}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, inward, outward, rekeyed, moved)
			b, want := bytes.Clone(tt.b), tt.out
			if want == nil {
				want = tt.b
			}
			if got := table.Rewrite(b); got != tt.want {
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
	table.Rewrite(bytes.Clone(packet))
	if err := table.Install(marked); err != nil {
		t.Fatal(err)
	}
	if got := maps.Collect(table.All()); !maps.Equal(got, map[conntrack.Flow]Traffic{inward: {1, uint64(len(packet))}}) {
		t.Errorf("installed again: %v", got)
	}
	if err := table.Install(other); err != nil {
		t.Fatal(err)
	}
	if got := maps.Collect(table.All()); !maps.Equal(got, map[conntrack.Flow]Traffic{other: {}}) || table.Len() != 1 {
		t.Errorf("replaced: %v", got)
	}
	if traffic, ok := table.Remove(inward); ok {
		t.Errorf("removed what was replaced, with %v", traffic)
	}
	table.Rewrite(packet)
	if traffic, ok := table.Remove(other); !ok || traffic.Packets != 1 || table.Len() != 0 {
		t.Errorf("removed %v, %v; %d flows left", traffic, ok, table.Len())
	}
	if got := table.Rewrite(ip(server, public, 0, data(77))); got.Reason != NoFlow {
		t.Errorf("after the removal: %v", got)
	}
}

func TestInstallRefusesIPv6(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1")
	table := NewTable()
	for _, f := range []conntrack.Flow{
		{},
		{Src: six, Dst: public, NewSrc: server, NewDst: client},
		{Src: server, Dst: six, NewSrc: server, NewDst: client},
		{Src: server, Dst: public, NewSrc: server, NewDst: six},
		{Src: server, Dst: public, NewSrc: six, NewDst: client},
	} {
		if err := table.Install(f); err == nil || table.Len() != 0 {
			t.Errorf("%v: installed", f)
		}
		if _, ok := table.Remove(f); ok {
			t.Errorf("%v: removed", f)
		}
	}
}

// model is the table done plainly.
type model map[key]*modelFlow

type modelFlow struct {
	flow    conntrack.Flow
	traffic Traffic
}

func (m model) install(f conntrack.Flow) {
	k := keyFrom(f.Src.As4(), f.Dst.As4(), f.Key)
	if old := m[k]; old == nil || old.flow.Unmarked() != f.Unmarked() {
		m[k] = &modelFlow{flow: f}
	}
}

func (m model) remove(f conntrack.Flow) (Traffic, bool) {
	k := keyFrom(f.Src.As4(), f.Dst.As4(), f.Key)
	old := m[k]
	if old == nil || old.flow.Unmarked() != f.Unmarked() {
		return Traffic{}, false
	}
	delete(m, k)
	return old.traffic, true
}

// rewrite returns what a packet from a to b with an ID becomes.
func (m model) rewrite(a, b netip.Addr, id pptp.CallID) []byte {
	in := ip(a, b, 0, data(id))
	f := m[keyFrom(a.As4(), b.As4(), id)]
	if f == nil {
		return in
	}
	f.traffic.Packets++
	f.traffic.Bytes += uint64(len(in))
	return ip(a, f.flow.NewDst, 0, data(f.flow.NewKey))
}

// TestModel compares the table with the model over installs, removals and packets.
func TestModel(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "host"))})
	})
	id := rapid.Map(rapid.Uint16Range(0, 60), func(id uint16) pptp.CallID { return pptp.CallID(id) })
	flow := rapid.Custom(func(t *rapid.T) conntrack.Flow {
		return conntrack.Flow{
			Src: addr.Draw(t, "src"), Dst: addr.Draw(t, "dst"), Key: id.Draw(t, "key"),
			NewSrc: addr.Draw(t, "new src"), NewDst: addr.Draw(t, "new dst"), NewKey: id.Draw(t, "new key") % 2,
			Mark: uint32(rapid.IntRange(0, 1).Draw(t, "mark")),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		table, m := NewTable(), make(model)
		t.Repeat(map[string]func(*rapid.T){
			"install": func(t *rapid.T) {
				for _, f := range rapid.SliceOfN(flow, 1, 20).Draw(t, "flows") {
					m.install(f)
					if err := table.Install(f); err != nil {
						t.Fatal(err)
					}
				}
			},
			"remove": func(t *rapid.T) {
				f := flow.Draw(t, "flow")
				want, wantOK := m.remove(f)
				if got, ok := table.Remove(f); got != want || ok != wantOK {
					t.Fatalf("remove %v: %v, %v; want %v, %v", f, got, ok, want, wantOK)
				}
			},
			"packet": func(t *rapid.T) {
				src, dst, id := addr.Draw(t, "src"), addr.Draw(t, "dst"), id.Draw(t, "id")
				got := ip(src, dst, 0, data(id))
				table.Rewrite(got)
				if diff := cmp.Diff(m.rewrite(src, dst, id), got); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
			},
			"": func(t *rapid.T) {
				want := make(map[conntrack.Flow]Traffic)
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
				if got := table.Rewrite(b); got.Reason != Rewritten || !bytes.Equal(b, want) {
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
			if err := table.Install(f); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				table.Remove(f)
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
			table.Rewrite(scratch[:copy(scratch, p)])
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
	if Reason(99).String() != "unknown(99)" || Verdict(99).String() != "unknown(99)" || NewTable().Count(99) != 0 {
		t.Error("an unknown value has a name, or a count")
	}
}

// FuzzRewrite: no bytes make it panic; only destination, checksum and Call ID ever
// differ; a checksum that was right is right.
func FuzzRewrite(f *testing.F) {
	for _, b := range [][]byte{ip(server, public, 0, data(77)), ip(server, public, 12, data(77)), ip(client, server, 0, data(5)), nil} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		table := newTable(t, inward, outward)
		before := bytes.Clone(b)
		got := table.Rewrite(b)
		if got.Verdict != Edited {
			if !bytes.Equal(before, b) {
				t.Errorf("%v, and yet edited: % x, was % x", got, b, before)
			}
			return
		}
		header := int(b[0]&0x0f) * 4
		if sum(before[:header]) == 0xffff && sum(b[:header]) != 0xffff {
			t.Errorf("checksum wrong: % x, was % x", b[:header], before[:header])
		}
		for _, part := range [][2]int{{10, 12}, {16, 20}, {header + 6, header + 8}} {
			copy(b[part[0]:part[1]], before[part[0]:part[1]])
		}
		if !bytes.Equal(before, b) {
			t.Errorf("more than destination, checksum and Call ID changed: % x, was % x", b, before)
		}
	})
}
