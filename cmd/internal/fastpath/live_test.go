package fastpath

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/fastpath/ports"
)

// TestAwayAndBack moves an interface to another namespace and back. It keeps index and
// programs, but the kernel has forgotten that XDP may redirect to it: Load has to say so again.
func TestAwayAndBack(t *testing.T) {
	m := modes[0]
	r := newFastRig(t, m, time.Hour)
	r.learn(t, outward, 0, 100, 0)
	r.awayAndBack(t)
	r.load(t, m, m.options(r))
	r.changed(t)
	r.learn(t, outward, 0, 100, 0)
	r.carried(t, outward, 100)
}

// TestSettle: without Load, a port that is not attached any more, or must not be used as it is,
// is out of use at once, and no packet is lost.
func TestSettle(t *testing.T) {
	m := modes[0]
	chosen := func(change func(*ports.Port)) func(*rig) []ports.Port {
		return func(r *rig) []ports.Port {
			all := r.ports(m)
			change(&all[1])
			return all
		}
	}
	asBefore := chosen(func(*ports.Port) {})
	for _, row := range []struct {
		name   string
		happen func(*testing.T, *rig)
		chosen func(*rig) []ports.Port
		want   Attached // of wan
	}{
		{"away and back", func(t *testing.T, r *rig) { r.awayAndBack(t) }, asBefore, Attached{Idle: true}},
		{"another with the same index", func(t *testing.T, r *rig) { r.anotherWAN(t) }, asBefore, Attached{}},
		{"pins unmounted", func(t *testing.T, r *rig) { r.unmount(t) }, asBefore, Attached{}},
		{"the peer has no GRO", func(t *testing.T, r *rig) {
			do(t, r.server, func() error { return setGRO("eth0", 0) })
			r.changed(t)
		}, chosen(func(p *ports.Port) { p.XDP, p.TC = false, true }), Attached{Idle: true}},
		{"not to be used", func(*testing.T, *rig) {}, chosen(func(p *ports.Port) { p.XDP = false }), Attached{Idle: true}},
		{"down for now", func(*testing.T, *rig) {}, chosen(func(p *ports.Port) { p.XDP, p.Down = false, true }), Attached{Port: ports.Port{XDP: true}}},
		{"not chosen at all", func(*testing.T, *rig) {}, func(r *rig) []ports.Port { return r.ports(m)[:1] }, Attached{Idle: true}},
		{"in order", func(*testing.T, *rig) {}, asBefore, Attached{Port: ports.Port{XDP: true}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newFastRig(t, m, time.Hour)
			r.learn(t, outward, 0, 100, 0)
			row.happen(t, r)
			got := r.settle(t, row.chosen(r))[1]
			if got.XDP != row.want.XDP || got.TC || got.Idle != row.want.Idle || got.Taken {
				t.Errorf("wan: %+v, want %+v", got, row.want)
			}
			before := r.table.Stats().Packets["xdp"]
			r.carried(t, outward, 20)
			r.carried(t, inward, 20)
			if s := r.table.Stats(); got.XDP != (s.Packets["xdp"] > before) {
				t.Errorf("packets: %+v", s)
			}
		})
	}
}

// settle has the table settle, and returns the ports, wan last.
func (r *rig) settle(t *testing.T, chosen []ports.Port) (all []Attached) {
	t.Helper()
	do(t, r.gateway, func() (err error) {
		if all, err = r.table.Settle(chosen); err != nil {
			return err
		}
		again, err := r.table.Attached()
		if diff := cmp.Diff(all, again); diff != "" {
			t.Errorf("attached, not as settled: %s", diff)
		}
		return err
	})
	if len(all) != 2 {
		t.Fatalf("ports: %+v", all)
	}
	return all
}

// TestSettleAgain: what was out of use is in use when it is in order.
func TestSettleAgain(t *testing.T) {
	m := modes[0]
	r := newFastRig(t, m, time.Hour)
	worse := r.ports(m)
	worse[1].XDP, worse[1].TC = false, true
	r.settle(t, worse)
	if got := r.settle(t, r.ports(m))[1]; !got.XDP || got.Idle {
		t.Errorf("wan: %+v", got)
	}
	r.learn(t, outward, 0, 100, 0)
	r.learn(t, inward, 0, 100, 0)
}

// unmount takes the pins away. The kernel detaches a little later.
func (r *rig) unmount(t *testing.T) {
	t.Helper()
	do(t, r.gateway, func() error { return unix.Unmount(r.dir, unix.MNT_DETACH) })
	for end := time.Now().Add(patient); r.attachedTo(t, r.lan.Index, "lan")+r.attachedTo(t, r.wan.Index, "wan") > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("programs stay attached")
		}
	}
}

// TestUnmounted loads anew after the pins were unmounted: the daemon moves its flows.
func TestUnmounted(t *testing.T) {
	m := modes[0]
	r := newFastRig(t, m, time.Hour)
	r.learn(t, outward, 0, 100, 0)
	r.unmount(t)
	r.settle(t, r.ports(m))
	r.load(t, m, m.options(r))
	if got := r.settle(t, r.ports(m)); !got[0].XDP || !got[1].XDP {
		t.Errorf("attached: %+v", got)
	}
	r.learn(t, outward, 0, 100, 0)
}

// TestAnotherLoaded: Load attaches to an interface that has the index of one that has gone to
// another namespace with its programs. Until then it is out of use.
func TestAnotherLoaded(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newFastRig(t, m, time.Hour)
		r.learn(t, outward, 0, 100, 0)
		had := r.attachedTo(t, r.wan.Index, "wan")
		r.anotherWAN(t)
		if got := r.settle(t, r.ports(m)); !got[0].Used() || got[1].Used() {
			t.Errorf("attached: %+v", got)
		}
		r.carried(t, outward, 20)
		r.load(t, m, m.options(r))
		if n := r.attachedTo(t, r.wan.Index, "wan"); n != had {
			t.Errorf("wan has %d programs, had %d", n, had)
		}
		r.changed(t)
		r.learn(t, outward, 0, 100, 0)
		r.learn(t, inward, 0, 100, 0)
	})
}

// anotherWAN puts another interface with the same index in the place of wan, which goes to
// another namespace.
func (r *rig) anotherWAN(t *testing.T) {
	t.Helper()
	other := place(t)
	run(t, r.gateway, fmt.Sprintf(`ip link set wan netns %d
		ip link add wan index %d address %v type veth peer name eth1 netns %d`, other.Thread, r.wan.Index, r.wan.HardwareAddr, r.server.Thread))
	run(t, r.server, fmt.Sprintf(`ip link set eth0 down; ip link set eth0 name was
		ip link set eth1 name eth0 address %v
		ip addr add 203.0.113.10/24 dev eth0; ip link set eth0 up
		ip neigh replace %v lladdr %v nud permanent dev eth0`, r.atServer.mac, public, r.wan.HardwareAddr))
	run(t, r.gateway, fmt.Sprintf("ip addr add 203.0.113.1/24 dev wan; ip link set wan up; ip neigh replace %v lladdr %v nud permanent dev wan", server, r.atServer.mac))
	r.atServer = newTap(t, r.server)
}

// awayAndBack moves wan to another namespace and back.
func (r *rig) awayAndBack(t *testing.T) {
	t.Helper()
	other := place(t)
	run(t, r.gateway, fmt.Sprintf("ip link set wan netns %d", other.Thread))
	run(t, other, fmt.Sprintf("ip link set wan netns %d", r.gateway.Thread))
	run(t, r.gateway, fmt.Sprintf("ip addr add 203.0.113.1/24 dev wan; ip link set wan up; ip neigh replace %v lladdr %v nud permanent dev wan", server, r.atServer.mac))
}

// carried sends packets, all of which have to arrive.
func (r *rig) carried(t *testing.T, direction, n int) {
	t.Helper()
	arrived := 0
	for range n {
		frames, _ := r.pass(t, direction, 0, r.packet(direction, 0))
		arrived += len(frames)
	}
	if arrived != n {
		t.Errorf("%s: %d of %d arrive", name(direction), arrived, n)
	}
}
