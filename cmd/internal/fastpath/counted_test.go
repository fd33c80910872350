package fastpath

import (
	"net"
	"testing"
	"time"
)

// TestCountedOnce has programs in both places: a packet that XDP leaves to the kernel comes
// to tc as well, and is counted once.
func TestCountedOnce(t *testing.T) {
	r := newRig(t)
	all := r.ports(modes[0])
	for i := range all {
		all[i].TC = true
	}
	o := modes[0].options(r)
	do(t, r.gateway, func() error { _, err := Load(all, o); return err })
	defer r.gateway.Do(func() error { return Unload(r.dir) })
	r.table = r.open(t)
	r.install(t)
	for _, row := range []struct {
		reason string
		change func(*packet)
	}{
		{"hop", func(p *packet) { p.ttl = 1 }},
		{"unlike", func(p *packet) { p.tos = 0xb8 }},
		{"broken", func(p *packet) { p.broken = true }},
		{"others", func(p *packet) { p.to = net.HardwareAddr{2, 0, 0, 0, 0, 9} }},
		{"elsewhere", func(p *packet) { p.from = stranger }},
		{"longer", func(p *packet) { p.payload = 1300 }},
	} {
		r.learn(t, outward, 0, 100, 0)
		time.Sleep(20 * time.Millisecond) // XDP lets go what comes in the tick in which it was learnt
		before := r.table.Stats().Passed[row.reason]
		p := r.packet(outward, 0)
		row.change(&p)
		r.pass(t, outward, 0, p)
		if n := r.table.Stats().Passed[row.reason] - before; n != 1 {
			t.Errorf("%s: one packet counts as %d", row.reason, n)
		}
	}
	r.changed(t)
	before := r.table.Stats().Passed["expired"]
	r.pass(t, outward, 0, r.packet(outward, 0))
	if n := r.table.Stats().Passed["expired"] - before; n != 1 {
		t.Errorf("expired: one packet counts as %d", n)
	}
}
