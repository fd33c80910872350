package conntrack

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	oracle "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// The flows of a call as section 5 of the design draws them: a client with its
// own Call ID 7, known as 777 outside, and a server with Call ID 42.
var (
	toClient = flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 7")
	toServer = flow("10.0.0.2 > 192.0.2.2 42 => 192.0.2.1 > 192.0.2.2 42")
)

// flow reads "src > dst key => src > dst key".
func flow(s string) calls.Flow {
	var src, dst, newSrc, newDst string
	var f calls.Flow
	_, err := fmt.Sscanf(s, "%s > %s %d => %s > %s %d", &src, &dst, &f.Key, &newSrc, &newDst, &f.NewKey)
	if err != nil {
		panic(err)
	}
	f.Src, f.Dst = netip.MustParseAddr(src), netip.MustParseAddr(dst)
	f.NewSrc, f.NewDst = netip.MustParseAddr(newSrc), netip.MustParseAddr(newDst)
	return f
}

// oneWay returns a flow whose packets alone are in zone 7.
func oneWay(f calls.Flow) calls.Flow {
	f.Zone, f.OneWay = 7, true
	return f
}

func with(f calls.Flow, zone uint16, mark uint32) calls.Flow {
	f.Zone, f.Mark = zone, mark
	return f
}

// natDone is what the kernel adds to the status of an entry that was created
// with a NAT attribute.
const natDone = oracle.StatusSrcNATDone | oracle.StatusDstNATDone

var flowTests = []struct {
	name string
	flow calls.Flow
	nat  oracle.StatusFlag // beyond the bits of statusFlow
	tool string            // what the conntrack tool shows
}{{
	name: "destination and key",
	flow: toClient,
	nat:  natDone | oracle.StatusDstNAT,
	tool: "src=192.0.2.2 dst=192.0.2.1 srckey=0x0 dstkey=0x309 src=10.0.0.2 dst=192.0.2.2 srckey=0x7 dstkey=0x0 [ASSURED] mark=0",
}, {
	name: "source",
	flow: toServer,
	nat:  natDone | oracle.StatusSrcNAT,
	tool: "src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x2a src=192.0.2.2 dst=192.0.2.1 srckey=0x2a dstkey=0x0 [ASSURED] mark=0",
}, {
	name: "source, destination and key",
	flow: flow("10.0.0.2 > 192.0.2.1 1000 => 192.0.2.1 > 10.0.0.3 9"),
	nat:  natDone | oracle.StatusSrcNAT | oracle.StatusDstNAT,
	tool: "src=10.0.0.2 dst=192.0.2.1 srckey=0x0 dstkey=0x3e8 src=10.0.0.3 dst=192.0.2.1 srckey=0x9 dstkey=0x0",
}, {
	name: "key alone",
	flow: flow("10.0.0.2 > 192.0.2.2 5 => 10.0.0.2 > 192.0.2.2 6"),
	nat:  natDone | oracle.StatusDstNAT,
	tool: "src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x5 src=192.0.2.2 dst=10.0.0.2 srckey=0x6 dstkey=0x0",
}, {
	name: "key and source",
	flow: flow("10.0.0.2 > 192.0.2.2 5 => 192.0.2.1 > 192.0.2.2 6"),
	nat:  natDone | oracle.StatusSrcNAT | oracle.StatusDstNAT,
	tool: "src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x5 src=192.0.2.2 dst=192.0.2.1 srckey=0x6 dstkey=0x0",
}, {
	name: "nothing",
	flow: flow("10.0.0.2 > 192.0.2.2 5 => 10.0.0.2 > 192.0.2.2 5"),
	tool: "src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x5 src=192.0.2.2 dst=10.0.0.2 srckey=0x5 dstkey=0x0",
}, {
	name: "key 0",
	flow: flow("192.0.2.2 > 192.0.2.1 0 => 192.0.2.2 > 10.0.0.2 0"),
	nat:  natDone | oracle.StatusDstNAT,
	tool: "src=192.0.2.2 dst=192.0.2.1 srckey=0x0 dstkey=0x0 src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x0 zone-reply=65002 [ASSURED]",
}, {
	name: "key from 65535 to 0",
	flow: flow("192.0.2.2 > 192.0.2.1 65535 => 192.0.2.2 > 10.0.0.2 0"),
	nat:  natDone | oracle.StatusDstNAT,
	tool: "src=192.0.2.2 dst=192.0.2.1 srckey=0x0 dstkey=0xffff src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x0 zone-reply=65002 [ASSURED]",
}, {
	name: "key 0, source",
	flow: flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0"),
	nat:  natDone | oracle.StatusSrcNAT,
	tool: "src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x0 src=192.0.2.2 dst=192.0.2.1 srckey=0x0 dstkey=0x0 zone-reply=65003 [ASSURED]",
}, {
	name: "zone",
	flow: with(toClient, 7, 0),
	nat:  natDone | oracle.StatusDstNAT,
	tool: "[ASSURED] mark=0 zone=7",
}, {
	name: "zone of one direction",
	flow: oneWay(toServer),
	nat:  natDone | oracle.StatusSrcNAT,
	tool: "zone-orig=7",
}, {
	name: "mark",
	flow: with(toServer, 0, 0xfffffffe),
	nat:  natDone | oracle.StatusSrcNAT,
	tool: "[ASSURED] mark=4294967294",
}}

func TestCreate(t *testing.T) {
	for _, tt := range flowTests {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNamespace(t)
			c := ns.dial(t)
			mustCreate(t, c, tt.flow)
			wantFlows(t, c, tt.flow)

			if out := ns.run(t, "conntrack -L -p gre"); !strings.Contains(out, tt.tool) {
				t.Errorf("conntrack -L shows\n%s\nwant\n%s", out, tt.tool)
			}
			wantEntry(t, ns, tt.flow, tt.nat)

			mustDelete(t, c, tt.flow)
			wantFlows(t, c)
			mustDelete(t, c, tt.flow) // gone: no error
		})
	}
}

// wantEntry compares the one entry of the table, as the oracle reads it.
func wantEntry(t *testing.T, ns *namespace, f calls.Flow, nat oracle.StatusFlag) {
	t.Helper()
	got := dumpOracle(t, ns)
	if len(got) != 1 {
		t.Fatalf("table has %d entries, want 1: %v", len(got), got)
	}
	e := got[0]
	if e.Timeout > Timeout || e.Timeout < Timeout-60 {
		t.Errorf("timeout %d s, want %d", e.Timeout, Timeout)
	}
	status := nat | oracle.StatusSeenReply | oracle.StatusAssured | oracle.StatusConfirmed | oracle.StatusFixedTimeout
	want := oracle.Flow{
		Status:     oracle.Status{Value: status},
		TupleOrig:  oracleTuple(f.Src, f.Dst, 0, f.Key),
		TupleReply: oracleTuple(f.NewDst, f.NewSrc, f.NewKey, 0),
		Zone:       f.Zone,
		Mark:       f.Mark,
	}
	want.TupleReply.Zone = replyZone(f)
	if f.OneWay {
		want.Zone, want.TupleOrig.Zone = 0, f.Zone
	}
	ignore := cmpopts.IgnoreFields(oracle.Flow{}, "ID", "Timeout", "Use", "SynProxy", "Timestamp", "CountersOrig", "CountersReply")
	addr := gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	opts := gocmp.Options{ignore, addr, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(oracle.Status{}, oracle.Helper{}, oracle.SequenceAdjust{})}
	if diff := gocmp.Diff(want, e, opts); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
}

func oracleTuple(src, dst netip.Addr, srcKey, dstKey pptp.CallID) oracle.Tuple {
	return oracle.Tuple{
		IP:    oracle.IPTuple{SourceAddress: src, DestinationAddress: dst},
		Proto: oracle.ProtoTuple{Protocol: 47, SourcePort: uint16(srcKey), DestinationPort: uint16(dstKey)},
	}
}

func dumpOracle(t testing.TB, ns *namespace) []oracle.Flow {
	t.Helper()
	flows, err := ns.oracle(t).Dump(nil)
	if err != nil {
		t.Fatal(err)
	}
	return flows
}

func TestCreateClearsTheWay(t *testing.T) {
	const (
		// Entries as the kernel makes them of packets, or as others put in.
		orig  = "conntrack -I -p gre -t 100 -s 192.0.2.2 -d 192.0.2.1 --srckey 0 --dstkey 777 --reply-key-src 777 --reply-key-dst 0"
		reply = "conntrack -I -p gre -t 100 -s 192.0.2.2 -d 10.0.0.2 --srckey 0 --dstkey 7 --reply-key-src 7 --reply-key-dst 0"
		// One whose original tuple is the flow's reply tuple, and the reverse.
		fromReply = "conntrack -I -p gre -t 100 -s 10.0.0.2 -d 192.0.2.2 --srckey 7 --dstkey 0 --reply-key-src 0 --reply-key-dst 7"
		toOrig    = "conntrack -I -p gre -t 100 -s 192.0.2.1 -d 192.0.2.2 --srckey 777 --dstkey 0 --reply-key-src 0 --reply-key-dst 777"
		elsewhere = "conntrack -I -p gre -t 100 -s 198.51.100.1 -d 198.51.100.2 --srckey 0 --dstkey 777 --reply-key-src 777 --reply-key-dst 0"
	)
	for _, tt := range []struct {
		name    string
		inWay   []string
		flow    calls.Flow
		entries int // left in the table
	}{
		{"free", nil, toClient, 1},
		{"original tuple taken", []string{orig}, toClient, 1},
		{"reply tuple taken", []string{reply}, toClient, 1},
		{"both taken", []string{orig, reply}, toClient, 1},
		{"original tuple taken by a reply tuple", []string{toOrig}, toClient, 1},
		{"reply tuple taken by an original tuple", []string{fromReply}, toClient, 1},
		{"both taken, crosswise", []string{toOrig, fromReply}, toClient, 1},
		{"both taken in that zone", []string{orig + " -w 7", reply + " -w 7"}, with(toClient, 7, 1), 1},
		{"other zones are no clash", []string{orig, reply, orig + " -w 8"}, with(toClient, 7, 1), 4},
		{"others are left alone", []string{elsewhere, orig}, toClient, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNamespace(t)
			c := ns.dial(t)
			ns.run(t, tt.inWay...)
			if n := len(dumpOracle(t, ns)); n != len(tt.inWay) {
				t.Fatalf("%d entries before the test, want %d", n, len(tt.inWay))
			}
			mustCreate(t, c, tt.flow)
			wantFlows(t, c, tt.flow)
			if n := len(dumpOracle(t, ns)); n != tt.entries {
				t.Errorf("%d entries in the table, want %d:\n%s", n, tt.entries, ns.run(t, "conntrack -L -p gre"))
			}
		})
	}
}

func TestCreateAgain(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	for _, f := range []calls.Flow{toClient, toServer, toClient, with(toClient, 0, 5)} {
		mustCreate(t, c, f)
	}
	wantFlows(t, c, with(toClient, 0, 5), toServer)
}

// What is in the way of a flow stays if it is the flow's own entry, and only then.
func TestCreateKeepsItsEntry(t *testing.T) {
	moved, rekeyed := toClient, toClient
	moved.NewDst = netip.MustParseAddr("10.0.0.9")
	rekeyed.NewKey = 8
	// Only the timeout tells: the kernel reuses an entry's memory, and so its ID.
	const old = 1000
	made := func(f calls.Flow) func(*testing.T, *namespace, *Conn) {
		return func(t *testing.T, _ *namespace, c *Conn) {
			e := flowEntry(f)
			e.timeout = old
			if err := c.exchange(createRequest(e), nil, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	inserted := func(line string) func(*testing.T, *namespace, *Conn) {
		return func(t *testing.T, ns *namespace, c *Conn) {
			ns.run(t, "conntrack -I -p gre -t 100 -w 7 -s 192.0.2.2 -d 192.0.2.1 --srckey 0 --dstkey 777 --reply-key-src 7 --reply-key-dst 0 --reply-dst 192.0.2.2 "+line)
			wantFlows(t, c)
		}
	}
	for _, tt := range []struct {
		name  string
		inWay func(*testing.T, *namespace, *Conn)
		kept  bool
	}{
		{"its own", made(with(toClient, 7, 5)), true},
		{"its own with another mark", made(with(toClient, 7, 6)), true},
		{"another address", made(with(moved, 7, 5)), false},
		{"another key", made(with(rekeyed, 7, 5)), false},
		{"its tuples without NAT", inserted("-u SEEN_REPLY,ASSURED,FIXED_TIMEOUT --reply-src 10.0.0.2"), false},
		{"its tuples with a timeout of packets", inserted("-u SEEN_REPLY,ASSURED --reply-src 192.0.2.1 -g 10.0.0.2"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNamespace(t)
			for name, create := range map[string]func(*Conn, calls.Flow) error{
				"Create": (*Conn).Create,
				"Apply":  func(c *Conn, f calls.Flow) error { return createAll(c, []calls.Flow{f})[f] },
			} {
				c := ns.dial(t)
				tt.inWay(t, ns, c)
				if err := create(c, with(toClient, 7, 5)); err != nil {
					t.Fatal(err)
				}
				wantFlows(t, c, with(toClient, 7, 5))
				if es := dumpOracle(t, ns); len(es) != 1 || es[0].Timeout <= old != tt.kept {
					t.Errorf("%s: table is %+v; want the old entry kept: %v", name, es, tt.kept)
				}
				mustDelete(t, c, with(toClient, 7, 5))
			}
		})
	}
}

// The entry that is to get another mark ends before it can.
func TestCreateMarkOfNothing(t *testing.T) {
	c, k := openFake(t, says(unix.EEXIST), shows(t, 0, with(toClient, 0, 5)), says(unix.ENOENT), says(0))
	mustCreate(t, c, toClient)
	if len(k.scripts) != 0 {
		t.Errorf("%d scripts left, want 0", len(k.scripts))
	}
}

// Where both ends chose Call ID 0, each flow has an entry all the same; in a zone other than
// the default one, they are the two directions of one.
func TestCreateBothKeysZero(t *testing.T) {
	in := flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 0")
	out := flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0")
	for name, order := range map[string][]calls.Flow{
		"in before out": {in, out},
		"out before in": {out, in},
		"repeated":      {in, out, in, out, out},
	} {
		t.Run(name, func(t *testing.T) {
			c := newNamespace(t).dial(t)
			for _, f := range order {
				mustCreate(t, c, f)
			}
			wantFlows(t, c, in, out)
			mustDelete(t, c, out)
			wantFlows(t, c, in)
			mustDelete(t, c, in)
			wantFlows(t, c)

			zoned := func(f calls.Flow) calls.Flow { return with(f, 7, 0) }
			for _, f := range order {
				mustCreate(t, c, zoned(f))
			}
			wantFlows(t, c, zoned(in))
			wantThere(t, c, []calls.Flow{zoned(in), zoned(out)})
			mustDelete(t, c, zoned(out))
			wantFlows(t, c, zoned(in))
			mustDelete(t, c, zoned(in))
			wantFlows(t, c)
		})
	}
}

func TestDeleteLeavesOthersAlone(t *testing.T) {
	moved := toClient
	moved.NewDst = netip.MustParseAddr("10.0.0.9")
	rekeyed := toClient
	rekeyed.NewKey = 8
	const foreign = "conntrack -I -p gre -t 100 -s 192.0.2.2 -d 192.0.2.1 --srckey 0 --dstkey 777 --reply-src 192.0.2.1 --reply-dst 192.0.2.2 --reply-key-src 7 --reply-key-dst 0 -g 10.0.0.2"

	t.Run("another translation", func(t *testing.T) {
		c := newNamespace(t).dial(t)
		mustCreate(t, c, toClient)
		for _, f := range []calls.Flow{moved, rekeyed, with(toClient, 7, 0)} {
			mustDelete(t, c, f)
		}
		wantFlows(t, c, toClient)
	})
	t.Run("not of the shape", func(t *testing.T) {
		ns := newNamespace(t)
		c := ns.dial(t)
		ns.run(t, foreign)
		wantFlows(t, c) // not listed either
		mustDelete(t, c, toClient)
		if n := len(dumpOracle(t, ns)); n != 1 {
			t.Errorf("%d entries left, want 1", n)
		}
	})
	t.Run("another mark is the same flow", func(t *testing.T) {
		c := newNamespace(t).dial(t)
		mustCreate(t, c, with(toClient, 0, 5))
		mustDelete(t, c, toClient)
		wantFlows(t, c)
	})
}

func TestFlowsManyInAllZones(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	var want []calls.Flow
	for i := range 500 {
		f := with(toClient, uint16(i%3), uint32(i))
		f.Key = pptp.CallID(i)
		f.NewKey = pptp.CallID(i + 1)
		want = append(want, f)
		mustCreate(t, c, f)
	}
	ns.run(t, "conntrack -I -p udp -t 100 -s 10.0.0.2 -d 192.0.2.2 --sport 1 --dport 2")
	wantFlows(t, c, want...)

	c.noFilter = true // as with a kernel that refuses to filter
	wantFlows(t, c, want...)
}

func TestConcurrentUse(t *testing.T) {
	c := newNamespace(t).dial(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f := toClient
			f.Key = pptp.CallID(i)
			f.NewKey = pptp.CallID(i)
			for range 20 {
				err := errors.Join(c.Create(f), c.Delete(f), c.Create(f))
				if _, e := c.Flows(); e != nil || err != nil {
					t.Error(err, e)
				}
			}
		})
	}
	wg.Wait()
	if flows, err := c.Flows(); err != nil || len(flows) != 8 {
		t.Errorf("Flows() = %d flows, %v; want 8", len(flows), err)
	}
}

func TestFlowNotIPv4(t *testing.T) {
	c := newNamespace(t).dial(t)
	six := toClient
	six.NewDst = netip.MustParseAddr("2001:db8::1")
	mapped := toClient
	mapped.Src = netip.MustParseAddr("::ffff:192.0.2.2")
	nobody := toClient
	nobody.Src = netip.IPv4Unspecified()
	for _, f := range []calls.Flow{{}, six, mapped, nobody} {
		if err := c.Create(f); err == nil {
			t.Errorf("Create(%v) = nil", f)
		}
		if err := c.Delete(f); err == nil {
			t.Errorf("Delete(%v) = nil", f)
		}
	}
}

func BenchmarkCreateDelete(b *testing.B) {
	c := newNamespace(b).dial(b)
	for b.Loop() {
		mustCreate(b, c, toClient)
		mustDelete(b, c, toClient)
	}
}

func BenchmarkFlows(b *testing.B) {
	c := newNamespace(b).dial(b)
	for i := range 1000 {
		f := toClient
		f.Key = pptp.CallID(i)
		f.NewKey = f.Key
		mustCreate(b, c, f)
	}
	for b.Loop() {
		if _, err := c.Flows(); err != nil {
			b.Fatal(err)
		}
	}
}

func mustCreate(t testing.TB, c *Conn, f calls.Flow) {
	t.Helper()
	if err := c.Create(f); err != nil {
		t.Fatal(err)
	}
}

func mustDelete(t testing.TB, c *Conn, f calls.Flow) {
	t.Helper()
	if err := c.Delete(f); err != nil {
		t.Fatal(err)
	}
}

func wantFlows(t testing.TB, c *Conn, want ...calls.Flow) {
	t.Helper()
	got, err := c.Flows()
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(sorted(want), sorted(got), gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("flows (-want +got):\n%s", diff)
	}
}

func sorted(flows []calls.Flow) []calls.Flow {
	return slices.SortedFunc(slices.Values(flows), func(a, b calls.Flow) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.String(), b.String()))
	})
}
