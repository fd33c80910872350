package ctnetlink

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/conntrack"
)

func TestCreateAllDeleteAll(t *testing.T) {
	c := newNamespace(t).dial(t)
	flows := manyFlows(3*batch + 7)
	for i := range flows {
		flows[i].Zone, flows[i].Mark = uint16(i%3), uint32(i)
	}
	for range 2 { // the second time, all are there
		wantNone(t, c.CreateAll(flows))
		wantFlows(t, c, flows...)
	}
	wantNone(t, c.CreateAll(nil))

	keep := flows[batch+3]
	gone := append(flows[:batch+3:batch+3], flows[batch+4:]...)
	for range 2 { // the second time, all are gone
		wantNone(t, c.DeleteAll(gone))
		wantFlows(t, c, keep)
	}
	wantNone(t, c.DeleteAll(nil))
}

// What one flow of a batch meets does not touch the others.
func TestCreateAllInTheWay(t *testing.T) {
	remarked, moved, renewed := toClient, toClient, toServer
	remarked.Mark = 9
	moved.NewDst = netip.MustParseAddr("10.0.0.9")
	renewed.Mark = 9
	bothZero := []conntrack.Flow{
		flow("192.0.2.2 > 192.0.2.1 1 => 192.0.2.2 > 10.0.0.2 0"),
		flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0"),
	}
	others := manyFlows(batch)
	for _, tt := range []struct {
		name  string
		there []conntrack.Flow
		flows []conntrack.Flow
		want  []conntrack.Flow // beside others
	}{
		{"nothing", nil, []conntrack.Flow{toClient}, []conntrack.Flow{toClient}},
		{"itself", []conntrack.Flow{toClient}, []conntrack.Flow{toClient}, []conntrack.Flow{toClient}},
		{"itself twice", nil, []conntrack.Flow{toClient, toClient}, []conntrack.Flow{toClient}},
		{"itself with another mark", []conntrack.Flow{toClient, toServer}, []conntrack.Flow{remarked, renewed}, []conntrack.Flow{remarked, renewed}},
		{"a former call", []conntrack.Flow{moved}, []conntrack.Flow{toClient}, []conntrack.Flow{toClient}},
		{"another zone", []conntrack.Flow{with(moved, 7, 0)}, []conntrack.Flow{toClient}, []conntrack.Flow{toClient, with(moved, 7, 0)}},
		{"the other flow of a call with both keys 0", nil, bothZero, bothZero[:1]},
		{"the same, there already", bothZero, bothZero, bothZero[:1]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newNamespace(t).dial(t)
			for _, f := range tt.there {
				mustCreate(t, c, f)
			}
			half := len(others) / 2
			all := append(append(others[:half:half], tt.flows...), others[half:]...)
			wantNone(t, c.CreateAll(all))
			wantFlows(t, c, append(others[:len(others):len(others)], tt.want...)...)
			wantNone(t, c.DeleteAll(all))
			for _, f := range tt.flows {
				if slices.Contains(listFlows(t, c), f) {
					t.Errorf("%v is left", f)
				}
			}
		})
	}
}

func TestDeleteAllLeavesOthersAlone(t *testing.T) {
	c := newNamespace(t).dial(t)
	moved := toClient
	moved.NewDst = netip.MustParseAddr("10.0.0.9")
	mustCreate(t, c, toClient)
	mustCreate(t, c, with(toServer, 0, 5))
	wantNone(t, c.DeleteAll([]conntrack.Flow{moved, with(toClient, 7, 0), toServer})) // the mark does not count
	wantFlows(t, c, toClient)
}

func TestAllNameTheFailed(t *testing.T) {
	c := newNamespace(t).dial(t)
	six := toClient
	six.NewDst = netip.MustParseAddr("2001:db8::1")
	flows := append(manyFlows(batch), six, conntrack.Flow{})
	for _, tt := range []struct {
		name string
		all  func([]conntrack.Flow) map[conntrack.Flow]error
	}{{"create", c.CreateAll}, {"delete", c.DeleteAll}} {
		failed := tt.all(flows)
		for _, f := range []conntrack.Flow{six, {}} {
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

func TestAllOfClosed(t *testing.T) {
	c, _ := openFake(t)
	c.Close()
	flows := manyFlows(batch + 1)
	for _, failed := range []map[conntrack.Flow]error{c.CreateAll(flows), c.DeleteAll(flows)} {
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
		failed  []conntrack.Flow
	}{
		{"all well", []func(netlink.Message) []datagram{quiet, quiet, quiet, quiet}, []int{4}, nil},
		{"the second refused, alone not", []func(netlink.Message) []datagram{quiet, says(unix.ENOMEM), quiet, quiet,
			says(unix.ENOENT), quiet}, []int{4, 1, 1}, nil},
		{"the last refused, alone too", []func(netlink.Message) []datagram{quiet, quiet, quiet, lasting,
			says(unix.ENOENT), lasting}, []int{4, 1, 1}, flows[3:]},
		{"two there already", []func(netlink.Message) []datagram{says(unix.EEXIST), quiet, quiet, says(unix.EEXIST),
			shows(t, 0, flows[0]), shows(t, 0, flows[3])}, []int{4, 2}, nil},
		{"answers lost", []func(netlink.Message) []datagram{fails(unix.ENOBUFS), quiet, quiet, quiet,
			fails(unix.ENOBUFS), quiet, quiet, quiet, quiet, quiet, quiet, quiet}, []int{4, 4, 1, 1, 1, 1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, k := openFake(t, tt.scripts...)
			failed := c.CreateAll(flows)
			var names []conntrack.Flow
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
func TestAllLetOthersIn(t *testing.T) {
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
	wantNone(t, c.CreateAll(flows))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if createdBefore == len(flows) {
		t.Error("the delete had to wait for all creates")
	}
}

func wantNone(t testing.TB, failed map[conntrack.Flow]error) {
	t.Helper()
	for f, err := range failed {
		t.Errorf("%v failed: %v", f, err)
	}
}

func listFlows(t testing.TB, c *Conn) []conntrack.Flow {
	t.Helper()
	flows, err := c.Flows()
	if err != nil {
		t.Fatal(err)
	}
	return flows
}
