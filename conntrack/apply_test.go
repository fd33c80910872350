package conntrack

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

func TestApplyMany(t *testing.T) {
	c := newNamespace(t).dial(t)
	flows := manyFlows(3*batch + 7)
	for i := range flows {
		flows[i].Zone, flows[i].Mark = uint16(i%3), uint32(i)
	}
	for range 2 { // the second time, all are there
		wantNone(t, createAll(c, flows))
		wantFlows(t, c, flows...)
	}
	wantNone(t, createAll(c, nil))

	keep := flows[batch+3]
	gone := append(flows[:batch+3:batch+3], flows[batch+4:]...)
	for range 2 { // the second time, all are gone
		wantNone(t, deleteAll(c, gone))
		wantFlows(t, c, keep)
	}
	wantNone(t, deleteAll(c, nil))
}

// What one flow of a batch meets does not touch the others.
func TestApplyInTheWay(t *testing.T) {
	remarked, moved, renewed := toClient, toClient, toServer
	remarked.Mark = 9
	moved.NewDst = netip.MustParseAddr("10.0.0.9")
	renewed.Mark = 9
	bothZero := []calls.Flow{
		flow("192.0.2.2 > 192.0.2.1 1 => 192.0.2.2 > 10.0.0.2 0"),
		flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0"),
	}
	others := manyFlows(batch)
	for _, tt := range []struct {
		name  string
		there []calls.Flow
		flows []calls.Flow
		want  []calls.Flow // beside others
	}{
		{"nothing", nil, []calls.Flow{toClient}, []calls.Flow{toClient}},
		{"itself", []calls.Flow{toClient}, []calls.Flow{toClient}, []calls.Flow{toClient}},
		{"itself twice", nil, []calls.Flow{toClient, toClient}, []calls.Flow{toClient}},
		{"itself with another mark", []calls.Flow{toClient, toServer}, []calls.Flow{remarked, renewed}, []calls.Flow{remarked, renewed}},
		{"a former call", []calls.Flow{moved}, []calls.Flow{toClient}, []calls.Flow{toClient}},
		{"another zone", []calls.Flow{with(moved, 7, 0)}, []calls.Flow{toClient}, []calls.Flow{toClient, with(moved, 7, 0)}},
		{"the other flow of a call with both keys 0", nil, bothZero, bothZero},
		{"the same, there already", bothZero, bothZero, bothZero},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newNamespace(t).dial(t)
			for _, f := range tt.there {
				mustCreate(t, c, f)
			}
			half := len(others) / 2
			all := append(append(others[:half:half], tt.flows...), others[half:]...)
			wantNone(t, createAll(c, all))
			wantFlows(t, c, append(others[:len(others):len(others)], tt.want...)...)
			wantNone(t, deleteAll(c, all))
			for _, f := range tt.flows {
				if slices.Contains(listFlows(t, c), f) {
					t.Errorf("%v is left", f)
				}
			}
		})
	}
}

func TestApplyLeavesOthersAlone(t *testing.T) {
	c := newNamespace(t).dial(t)
	moved := toClient
	moved.NewDst = netip.MustParseAddr("10.0.0.9")
	mustCreate(t, c, toClient)
	mustCreate(t, c, with(toServer, 0, 5))
	wantNone(t, deleteAll(c, []calls.Flow{moved, with(toClient, 7, 0), toServer})) // the mark does not count
	wantFlows(t, c, toClient)
}

func TestApplyNamesTheFailed(t *testing.T) {
	c := newNamespace(t).dial(t)
	six := toClient
	six.NewDst = netip.MustParseAddr("2001:db8::1")
	flows := append(manyFlows(batch), six, calls.Flow{})
	for _, tt := range []struct {
		name string
		all  func(*Conn, []calls.Flow) map[calls.Flow]error
	}{{"create", createAll}, {"delete", deleteAll}} {
		failed := tt.all(c, flows)
		for _, f := range []calls.Flow{six, {}} {
			if err := failed[f]; err == nil || !strings.Contains(err.Error(), f.String()) {
				t.Errorf("%s: error of %v is %v", tt.name, f, err)
			}
		}
		if len(failed) != 2 {
			t.Errorf("%s: %d flows failed, want 2", tt.name, len(failed))
		}
	}
	wantFlows(t, c)
}

func TestApplyOfClosed(t *testing.T) {
	c, _ := openFake(t)
	c.Close()
	flows := manyFlows(batch + 1)
	for _, failed := range []map[calls.Flow]error{createAll(c, flows), deleteAll(c, flows)} {
		if len(failed) != len(flows) || !errors.Is(failed[flows[0]], net.ErrClosed) {
			t.Errorf("%d flows failed, %v; want %d, net.ErrClosed", len(failed), failed[flows[0]], len(flows))
		}
	}
}

// quiet answers as the kernel does to a request that succeeds: only if asked to.
func quiet(req netlink.Message) []datagram {
	if req.Header.Flags&netlink.Acknowledge == 0 {
		return nil
	}
	return says(0)(req)
}

func TestBatch(t *testing.T) {
	flows := manyFlows(4)
	lasting := says(unix.EOPNOTSUPP)
	for _, tt := range []struct {
		name    string
		scripts []func(netlink.Message) []datagram
		sends   []int // messages in each datagram
		failed  []calls.Flow
	}{
		{"all well", []func(netlink.Message) []datagram{quiet, quiet, quiet, quiet}, []int{4}, nil},
		{"the second refused, alone not", []func(netlink.Message) []datagram{quiet, says(unix.ENOMEM), quiet, quiet,
			quiet}, []int{4, 1}, nil},
		{"the last refused, alone too", []func(netlink.Message) []datagram{quiet, quiet, quiet, lasting,
			lasting}, []int{4, 1}, flows[3:]},
		{"two there already", []func(netlink.Message) []datagram{says(unix.EEXIST), quiet, quiet, says(unix.EEXIST),
			shows(t, 0, flows[0]), shows(t, 0, flows[3])}, []int{4, 1, 1}, nil},
		{"answers lost", []func(netlink.Message) []datagram{fails(unix.ENOBUFS), quiet, quiet, quiet,
			quiet, quiet, quiet, quiet}, []int{4, 1, 1, 1, 1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, k := openFake(t, tt.scripts...)
			failed := createAll(c, flows)
			var names []calls.Flow
			for f := range failed {
				names = append(names, f)
			}
			if diff := gocmp.Diff(tt.failed, names, compareAddrs, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("failed (-want +got):\n%s", diff)
			}
			if diff := gocmp.Diff(append([]int{1}, tt.sends...), k.sends()); diff != "" { // the probe first
				t.Errorf("messages by datagram (-want +got):\n%s", diff)
			}
			if len(k.scripts) != 0 {
				t.Errorf("%d scripts left, want 0", len(k.scripts))
			}
		})
	}
}

// sends returns the number of messages in each datagram sent.
func (k *kernel) sends() (n []int) {
	for _, s := range k.sockets {
		n = append(n, s.sends...)
	}
	return n
}

// A request of another goroutine gets its turn long before the last batch.
func TestApplyLetsOthersIn(t *testing.T) {
	flows := manyFlows(1000 * batch)
	var created, createdBefore int // guarded by the Conn's lock
	begun := make(chan struct{})
	c, err := open(func() (socket, error) {
		return &fakeSocket{answer: func(req netlink.Message) []datagram {
			if req.Header.Type == msgGet {
				createdBefore = created
				return says(unix.ENOENT)(req)
			}
			if created++; created == batch {
				close(begun)
			}
			return quiet(req)
		}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		<-begun
		done <- c.Delete(toClient)
	}()
	wantNone(t, createAll(c, flows))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if createdBefore == len(flows) {
		t.Error("the delete had to wait for all creates")
	}
}

// ApplyLate leaves what Create and Delete leave that are called one by one, whatever
// the changes have to do with each other.
func TestApplyInOrder(t *testing.T) {
	ns, model := newNamespace(t), newNamespace(t)
	c, one := ns.dial(t), model.dial(t)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		all := make([]calls.Event, 1+random.IntN(12))
		for i := range all {
			all[i] = calls.Event{Kind: calls.EventKind(random.IntN(3)), Flow: entangled(random)}
		}
		if failed := c.ApplyLate(all); failed != nil {
			t.Fatalf("round %d: %v", round, failed)
		}
		for _, change := range all {
			switch change.Kind {
			case calls.Install:
				mustCreate(t, one, change.Flow)
			case calls.Remove:
				mustDelete(t, one, change.Flow)
			}
		}
		wantFlows(t, c, listFlows(t, one)...)
		if t.Failed() {
			t.Fatalf("round %d: %+v", round, all)
		}
	}
}

// entangled returns one of few flows, which share tuples in many ways.
func entangled(random *rand.Rand) calls.Flow {
	f := calls.Flow{
		Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("192.0.2.1"), Key: pptp.CallID(random.IntN(3)),
		NewSrc: netip.MustParseAddr("192.0.2.2"), NewDst: netip.MustParseAddr("10.0.0.2"), NewKey: pptp.CallID(random.IntN(3)),
		Mark: uint32(random.IntN(2)), Zone: uint16(random.IntN(2)),
	}
	if random.IntN(2) == 0 {
		f.Src, f.Dst, f.NewSrc, f.NewDst = f.NewDst, f.Src, f.Dst, f.Src
		f.NewKey = f.Key
	}
	return f
}

// Apply takes whatever has the tuple of a flow that has just ended, and of a flow to Call
// ID 0 the entry that is its own alone.
func TestApplyAtOnce(t *testing.T) {
	c := newNamespace(t).dial(t)
	toZero := flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0")
	moved, elsewhere := toClient, toZero
	moved.NewDst = netip.MustParseAddr("10.0.0.9")
	elsewhere.NewSrc = netip.MustParseAddr("192.0.2.9")
	for _, f := range []calls.Flow{toClient, toServer, toZero} {
		mustCreate(t, c, f)
	}
	if failed := c.Apply(changes(calls.Remove, moved, toServer, elsewhere)); failed != nil {
		t.Error(failed)
	}
	wantFlows(t, c, toZero)
}

// The datagrams that a call's beginning and end take, and several calls' at once.
func TestApplySends(t *testing.T) {
	many := manyFlows(6)
	toZero := flow("192.0.2.2 > 192.0.2.1 0 => 192.0.2.2 > 10.0.0.2 7")
	installs, removes := changes(calls.Install, many...), changes(calls.Remove, many...)
	shown := func(n int) (s []func(netlink.Message) []datagram) {
		for _, f := range many[:n] {
			s = append(s, shows(t, 0, f))
		}
		return s
	}
	quiets := func(n int) (s []func(netlink.Message) []datagram) {
		return slices.Repeat([]func(netlink.Message) []datagram{quiet}, n)
	}
	for _, tt := range []struct {
		name    string
		changes []calls.Event
		scripts []func(netlink.Message) []datagram
		sends   []int
		atOnce  bool
	}{
		{"nothing", nil, nil, nil, false},
		{"others' business", []calls.Event{{Kind: calls.Opened}, {Kind: calls.Gone}}, nil, nil, false},
		{"one create", installs[:1], quiets(1), []int{1}, false},
		{"a call begins", installs[:2], quiets(2), []int{2}, false},
		{"a call ends", removes[:2], append(shown(2), quiets(2)...), []int{2, 2}, false},
		{"of two gone, one", removes[:2], append(append(shown(1), says(unix.ENOENT)), quiets(1)...), []int{2, 1}, false},
		{"both gone", removes[:2], []func(netlink.Message) []datagram{says(unix.ENOENT), says(unix.ENOENT)}, []int{2}, false},
		{"one call ends, two begin", slices.Concat(removes[:2], installs[2:6]), append(shown(2), quiets(6)...), []int{2, 6}, false},
		{"a call begins and ends", slices.Concat(installs[:2], removes[:2]), append(append(quiets(2), shown(2)...), quiets(2)...), []int{2, 2, 2}, false},
		{"a call ends, at once", removes[2:4], quiets(2), []int{2}, true},
		{"one of two is gone, at once", removes[2:4], append(quiets(1), says(unix.ENOENT)), []int{2}, true},
		{"one call ends and another begins, at once", slices.Concat(removes[2:4], installs[4:6]), quiets(4), []int{4}, true},
		{"to Call ID 0, at once", changes(calls.Remove, toZero), append([]func(netlink.Message) []datagram{shows(t, 0, toZero)}, quiets(1)...), []int{1, 1}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, k := openFake(t, tt.scripts...)
			apply := c.ApplyLate
			if tt.atOnce {
				apply = c.Apply
			}
			if failed := apply(tt.changes); failed != nil {
				t.Error(failed)
			}
			if diff := gocmp.Diff(append([]int{1}, tt.sends...), k.sends()); diff != "" { // the probe first
				t.Errorf("messages by datagram (-want +got):\n%s", diff)
			}
			if len(k.scripts) != 0 {
				t.Errorf("%d scripts left, want 0", len(k.scripts))
			}
		})
	}
}

// Neither what a call needs nor the question for its connection allocates.
func TestCallAllocates(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	insertLeft(t, ns, 0, 0)
	installs, removes := changes(calls.Install, toClient, toServer), changes(calls.Remove, toClient, toServer)
	n := testing.AllocsPerRun(100, func() {
		_, err := c.Connection(left)
		if err != nil || c.Apply(installs) != nil || c.Apply(removes) != nil {
			t.Error("failed:", err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func createAll(c *Conn, flows []calls.Flow) map[calls.Flow]error {
	return applyAll(c, calls.Install, flows)
}

func deleteAll(c *Conn, flows []calls.Flow) map[calls.Flow]error {
	return applyAll(c, calls.Remove, flows)
}

// applyAll applies one kind of change to flows and returns the errors by flow.
func applyAll(c *Conn, kind calls.EventKind, flows []calls.Flow) map[calls.Flow]error {
	failed := make(map[calls.Flow]error)
	for i, err := range c.ApplyLate(changes(kind, flows...)) {
		failed[flows[i]] = err
	}
	return failed
}

func changes(kind calls.EventKind, flows ...calls.Flow) (all []calls.Event) {
	for _, f := range flows {
		all = append(all, calls.Event{Kind: kind, Flow: f})
	}
	return all
}

func wantNone(t testing.TB, failed map[calls.Flow]error) {
	t.Helper()
	for f, err := range failed {
		t.Errorf("%v failed: %v", f, err)
	}
}

func listFlows(t testing.TB, c *Conn) []calls.Flow {
	t.Helper()
	flows, err := c.Flows()
	if err != nil {
		t.Fatal(err)
	}
	return flows
}
