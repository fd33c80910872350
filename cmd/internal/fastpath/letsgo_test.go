package fastpath

import (
	"bytes"
	"fmt"
	"net"
	"testing"
)

// outcome is what becomes of a packet.
type outcome struct {
	arrived [][]byte // on the other side
	back    string   // kinds of the ICMP errors that its sender gets
}

func (o outcome) equal(p outcome) bool {
	if len(o.arrived) != len(p.arrived) || o.back != p.back {
		return false
	}
	for i := range o.arrived {
		if !bytes.Equal(o.arrived[i], p.arrived[i]) {
			return false
		}
	}
	return true
}

// outcome sends a packet and looks on both sides.
func (r *rig) outcome(t *testing.T, direction int, p packet) outcome {
	t.Helper()
	from, _ := r.taps(direction)
	from.send(t, p.frame())
	o := outcome{arrived: r.arrived(t, direction)}
	o.back = icmp(r.arrived(t, 1-direction))
	return o
}

// narrow makes the way out of a direction smaller, or as it was.
func (r *rig) narrow(t *testing.T, direction, mtu int) {
	t.Helper()
	run(t, r.gateway, fmt.Sprintf("ip link set %s mtu %d", [...]string{"wan", "lan"}[direction], mtu))
}

// TestLetsGo sends what the kernel is to decide on: what becomes of it must be what the
// kernel alone makes of it.
func TestLetsGo(t *testing.T) {
	rows := []struct {
		name   string
		change func(*packet)
		reason string // in Stats, "" if it is not known to be of a flow
		mtu    int
		back   string // what must come back
	}{
		{name: "first fragment", change: func(p *packet) { p.id, p.fragment = 1, 0x2000 }},
		{name: "later fragment", change: func(p *packet) { p.id, p.fragment = 2, 0x0010 }},
		{name: "TTL 1", change: func(p *packet) { p.ttl = 1 }, reason: "hop", back: "11/0"},
		{name: "TTL 0", change: func(p *packet) { p.ttl = 0 }, reason: "hop"},
		{name: "options", change: func(p *packet) { p.options = true }},
		{name: "another Call ID", change: func(p *packet) { p.key = 4242 }},
		{name: "GRE version 0", change: func(p *packet) { p.version, p.protocol = 0, 0x0800 }},
		{name: "GRE with a checksum", change: func(p *packet) { p.flags |= 0x80 }},
		{name: "GRE with routing", change: func(p *packet) { p.flags |= 0x40 }},
		{name: "not PPP", change: func(p *packet) { p.protocol = 0x0800 }},
		{name: "a wrong checksum", change: func(p *packet) { p.broken = true }, reason: "broken"},
		{name: "another DSCP", change: func(p *packet) { p.tos = 0xb8 }, reason: "unlike"},
		{name: "longer than seen", change: func(p *packet) { p.payload = 1450 }, reason: "longer"},
		{name: "another machine's", change: func(p *packet) { p.to = net.HardwareAddr{2, 0, 0, 0, 0, 9} }},
		{name: "too big", change: func(p *packet) { p.payload, p.fragment = 1390, 0x4000 }, reason: "expired", mtu: 1300, back: "3/4"},
		{name: "too big, may be cut", change: func(p *packet) { p.payload, p.id = 1390, 77 }, reason: "expired", mtu: 1300},
	}
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t)
		run(t, r.gateway, "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=100000")
		built := func(d, i int) packet {
			p := r.packet(d, 0)
			rows[i].change(&p)
			return p
		}
		byKernel := make(map[[2]int]outcome)
		for _, d := range directions {
			for i, row := range rows {
				if row.mtu != 0 {
					r.narrow(t, d, row.mtu)
				}
				o := r.outcome(t, d, built(d, i))
				if o.back != row.back && row.back != "" {
					t.Errorf("%s: %s: the kernel answers %q, want %q", name(d), row.name, o.back, row.back)
				}
				byKernel[[2]int{d, i}] = o
				if row.mtu != 0 {
					r.narrow(t, d, 1500)
				}
			}
		}
		r.load(t, m, m.options(r))
		defer r.gateway.Do(func() error { return Unload(r.dir) })
		r.table = r.open(t)
		r.install(t)
		for _, d := range directions {
			for i, row := range rows {
				if row.reason == "longer" || row.mtu != 0 {
					r.changed(t) // what was seen is forgotten
				}
				r.learn(t, d, 0, 1400, 0)
				if row.mtu != 0 {
					r.narrow(t, d, row.mtu)
					r.changed(t)
				}
				before, passed := r.here(t, d, 0), r.table.Stats().Passed[row.reason]
				o := r.outcome(t, d, built(d, i))
				if n := r.here(t, d, 0) - before; n != 0 {
					t.Errorf("%s: %s: the fast path forwarded %d", name(d), row.name, n)
				}
				if row.reason != "" && r.table.Stats().Passed[row.reason] == passed {
					t.Errorf("%s: %s: not counted as %s", name(d), row.name, row.reason)
				}
				if want := byKernel[[2]int{d, i}]; !o.equal(want) {
					t.Errorf("%s: %s: got\n% x %q, the kernel alone\n% x %q", name(d), row.name, o.arrived, o.back, want.arrived, want.back)
				}
				if row.mtu != 0 {
					r.narrow(t, d, 1500)
					r.changed(t)
				}
			}
		}
	})
}
