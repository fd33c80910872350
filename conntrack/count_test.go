package conntrack

import (
	"runtime"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"

	"pptpalg/alg/calls"
)

// carried is what ApplyCounting shows.
type carried map[calls.Flow]calls.Traffic

func (c carried) show(f calls.Flow, t calls.Traffic) { c[f] = t }

const packetLen = 20 + 12 // IPv4 and GRE, as greHost sends

// TestApplyCounting sends packets each way and takes the entries out.
func TestApplyCounting(t *testing.T) {
	zero := [2]calls.Flow{
		flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 0"),
		flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0"),
	}
	gone := toClient
	gone.Key = 999
	for _, tt := range []struct {
		name    string
		flows   [2]calls.Flow // to the client, to the server
		removes []calls.Flow
		off     bool
		want    carried
	}{
		{"both", [2]calls.Flow{toClient, toServer}, []calls.Flow{toClient, toServer}, false,
			carried{toClient: counts(3), toServer: counts(2)}},
		{"one of them, and one that is not there", [2]calls.Flow{toClient, toServer}, []calls.Flow{gone, toClient}, false,
			carried{toClient: counts(3)}},
		{"both keys 0", zero, zero[:], false, carried{zero[0]: counts(3), zero[1]: counts(2)}},
		{"without accounting", [2]calls.Flow{toClient, toServer}, []calls.Flow{toClient, toServer}, true, carried{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.gateway.run(t, "iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE")
			if !tt.off {
				n.gateway.run(t, "sysctl -qw net.netfilter.nf_conntrack_acct=1")
			}
			c := n.gateway.dial(t)
			mustApply(t, c, changes(calls.Install, tt.flows[:]...))
			client, server := newGREHost(t, n.client), newGREHost(t, n.server)
			down, up := tt.flows[0], tt.flows[1]
			for i := range 3 {
				pass(t, server, client, [2]packet{{"", publicAddr, down.Key, 2}, {serverAddr, clientAddr, down.NewKey, 2}})
				if i > 0 {
					pass(t, client, server, [2]packet{{"", serverAddr, up.Key, 1}, {publicAddr, serverAddr, up.NewKey, 1}})
				}
			}
			got := make(carried)
			if failed := c.ApplyCounting(changes(calls.Remove, tt.removes...), got.show); failed != nil {
				t.Error(failed)
			}
			if diff := gocmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("carried (-want +got):\n%s", diff)
			}
			for _, f := range tt.removes {
				if there, err := c.Has(f); there || err != nil {
					t.Errorf("%v is there: %v, %v", f, there, err)
				}
			}
		})
	}
}

func counts(packets uint64) calls.Traffic {
	return calls.Traffic{Packets: packets, Bytes: packets * packetLen, Counted: true}
}

// TestApplyCountingOthers: what an entry has counted that is in the place of a flow's is not
// the flow's.
func TestApplyCountingOthers(t *testing.T) {
	ns := newNamespace(t)
	ns.run(t, "sysctl -qw net.netfilter.nf_conntrack_acct=1")
	c := ns.dial(t)
	moved := toClient
	moved.NewKey++
	mustCreate(t, c, moved)
	if failed := c.ApplyCounting(changes(calls.Remove, toClient), func(f calls.Flow, counts calls.Traffic) {
		t.Errorf("%v is said to have carried %+v", f, counts)
	}); failed != nil {
		t.Error(failed)
	}
}

// TestApplyCountingMany has more than a datagram's worth.
func TestApplyCountingMany(t *testing.T) {
	ns := newNamespace(t)
	ns.run(t, "sysctl -qw net.netfilter.nf_conntrack_acct=1")
	c := ns.dial(t)
	flows := manyFlows(3*batch + 7)
	mustApply(t, c, changes(calls.Install, flows...))
	got := make(carried)
	if failed := c.ApplyCounting(changes(calls.Remove, flows...), got.show); failed != nil {
		t.Error(failed)
	}
	wantFlows(t, c)
	for _, f := range flows {
		if got[f] != counts(0) {
			t.Errorf("%v has carried %+v", f, got[f])
		}
	}
}

// TestApplyCountingSends: one datagram, with two messages for each that goes.
func TestApplyCountingSends(t *testing.T) {
	flows := manyFlows(4)
	c, k := openFake(t, shows(t, 0, flows[2]), quiet, shows(t, 0, flows[3]), quiet, quiet)
	all := append(changes(calls.Remove, flows[2:]...), changes(calls.Install, flows[1])...)
	if failed := c.ApplyCounting(all, func(calls.Flow, calls.Traffic) {}); failed != nil {
		t.Error(failed)
	}
	if diff := gocmp.Diff([]int{1, 5}, k.sends()); diff != "" { // the probe first
		t.Errorf("messages by datagram (-want +got):\n%s", diff)
	}
}

// TestApplyCountingRefused: a delete that the kernel refuses is tried alone, though its
// question was answered.
func TestApplyCountingRefused(t *testing.T) {
	f := manyFlows(3)[2]
	c, k := openFake(t, shows(t, 0, f), says(16), shows(t, 0, f), func(m netlink.Message) []datagram { return says(0)(m) })
	if failed := c.ApplyCounting(changes(calls.Remove, f), func(calls.Flow, calls.Traffic) {}); failed != nil {
		t.Error(failed)
	}
	if len(k.scripts) != 0 {
		t.Errorf("%d scripts left, want 0", len(k.scripts))
	}
}

func mustApply(t testing.TB, c *Conn, all []calls.Event) {
	t.Helper()
	if failed := c.Apply(all); failed != nil {
		t.Fatal(failed)
	}
}

// TestCountingAllocates: no more than Apply does.
func TestCountingAllocates(t *testing.T) {
	ns := newNamespace(t)
	ns.run(t, "sysctl -qw net.netfilter.nf_conntrack_acct=1")
	c := ns.dial(t)
	installs, removes := changes(calls.Install, toClient, toServer), changes(calls.Remove, toClient, toServer)
	seen := 0
	see := func(calls.Flow, calls.Traffic) { seen++ }
	n := testing.AllocsPerRun(100, func() {
		if c.Apply(installs) != nil || c.ApplyCounting(removes, see) != nil {
			t.Error("failed")
		}
	})
	if n != 0 || seen != 2*101 {
		t.Errorf("%v allocations, want none; %d counts, want %d", n, seen, 2*101)
	}
}

// TestStrays: what is wanted of the GRE entries that the kernel has made of packets.
func TestStrays(t *testing.T) {
	n := newNetwork(t)
	n.gateway.run(t, "sysctl -qw net.netfilter.nf_conntrack_acct=1", "iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE")
	c := n.gateway.dial(t)
	mustCreate(t, c, toClient)
	mustCreate(t, c, with(toServer, 0, 5))
	n.gateway.run(t, "conntrack -I -p gre -s 192.0.2.2 -d 192.0.2.1 --srckey 0 --dstkey 12 -t 60 -u FIXED_TIMEOUT,SEEN_REPLY")
	server := newGREHost(t, n.server)
	for range 2 {
		server.send(t, packet{"", publicAddr, 13, 1})
	}
	server.send(t, packet{"", publicAddr, 14, 1})
	list := func() (flows map[calls.Flow]calls.Traffic, strays []Stray) {
		flows = make(map[calls.Flow]calls.Traffic)
		strays, err := c.Traffic(flows, func(s *Stray) bool { return s.Key != 14 })
		if err != nil {
			t.Fatal(err)
		}
		return flows, strays
	}
	poll(t, "the packets' entries", func() bool { _, s := list(); return len(s) > 0 && s[0].Traffic == counts(2) })
	flows, strays := list()
	want := Stray{Src: toClient.Src, Dst: toClient.Dst, Key: 13, ID: strays[0].ID, Traffic: counts(2)}
	if len(strays) != 1 || strays[0] != want || want.ID == 0 {
		t.Errorf("strays %+v, want %+v", strays, want)
	}
	if _, there := flows[toServer]; !there || len(flows) != 2 {
		t.Errorf("flows %v", flows)
	}
	if strays, err := c.Traffic(flows, nil); len(strays) != 0 || err != nil {
		t.Errorf("strays that nobody wants: %v, %v", strays, err)
	}
}

// BenchmarkRemove states what it costs to count, in one run: the CPU time of making a
// call's two entries and taking them out, with and without, in turn.
func BenchmarkRemove(b *testing.B) {
	ns := newNamespace(b)
	ns.run(b, "sysctl -qw net.netfilter.nf_conntrack_acct=1")
	c := ns.dial(b)
	installs, removes := changes(calls.Install, toClient, toServer), changes(calls.Remove, toClient, toServer)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var used [2]time.Duration
	ways := [2]func() map[int]error{
		func() map[int]error { return c.Apply(removes) },
		func() map[int]error {
			return c.ApplyCounting(removes, func(calls.Flow, calls.Traffic) {})
		},
	}
	for b.Loop() {
		for i, remove := range ways {
			before := threadTime(b)
			mustApply(b, c, installs)
			if failed := remove(); failed != nil {
				b.Fatal(failed)
			}
			used[i] += threadTime(b) - before
		}
	}
	extra := float64((used[1] - used[0]).Nanoseconds()) / float64(b.N) / float64(len(removes))
	b.ReportMetric(extra, "extra-cpu-ns/entry")
	b.ReportMetric(float64(used[1])/float64(used[0]), "ratio")
}
