package conntrack

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// TestStandingTraffic: questions for known flows find what a dump finds, in all zones, and
// nothing of those that are gone or another's.
func TestStandingTraffic(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	var asked []calls.Flow
	for i := range 3 * batch / 2 {
		f := with(toClient, uint16(i%3), uint32(i))
		f.Key, f.NewKey = pptp.CallID(i), pptp.CallID(i+1)
		asked = append(asked, f)
		if i%5 > 0 {
			mustCreate(t, c, f)
		}
	}
	other := asked[1]
	other.NewKey += 1000 // another flow has its tuple
	got, want := make(map[calls.Flow]calls.Traffic), make(map[calls.Flow]calls.Traffic)
	if err := c.StandingTraffic(got, append(slices.Clone(asked), other)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Traffic(want, nil)
	if err != nil || len(want) < batch {
		t.Fatalf("%d entries, %v", len(want), err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d flows stand, a dump has %d", len(got), len(want))
	}
	clear(got)
	if err := c.StandingTraffic(got, nil); err != nil || len(got) != 0 {
		t.Errorf("asked for nothing: %v, %v", got, err)
	}
}

func TestStandingConnections(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	insertLeft(t, ns, 0, 0)
	all, err := c.Connections([]uint16{left.Dst.Port()})
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	gone := all[0]
	gone.Original.Src = netip.AddrPortFrom(left.Src.Addr(), left.Src.Port()+1)
	elsewhere := all[0]
	elsewhere.Zone = 7
	got, err := c.StandingConnections([]calls.Connection{gone, all[0], elsewhere})
	if err != nil || !slices.Equal(got, all) {
		t.Errorf("%v, %v; want %v", got, err, all)
	}
}

// TestStandingOneByOne: a datagram whose answers do not fit is asked again in pieces.
func TestStandingOneByOne(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	var flows []calls.Flow
	for i := range batch {
		f := toClient
		f.Key, f.NewKey = pptp.CallID(i+1), pptp.CallID(i+1)
		flows = append(flows, f)
		mustCreate(t, c, f)
	}
	if err := unix.SetsockoptInt(c.socket.(*kernelSocket).fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	got := make(map[calls.Flow]calls.Traffic)
	err := c.StandingTraffic(got, flows)
	if err != nil || len(got) != batch {
		t.Errorf("%d of %d flows, %v", len(got), batch, err)
	}
}
