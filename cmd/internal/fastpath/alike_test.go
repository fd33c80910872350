package fastpath

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// randomPackets are packets of two calls, each with an IP ID of its own.
func (r *rig) randomPackets(random *rand.Rand, direction, n int, dscp byte) (all []packet) {
	for i := range n {
		p := r.packet(direction, random.IntN(2))
		p.id = uint16(i)
		p.payload = random.IntN(1380)
		if random.IntN(4) == 0 {
			p.payload = random.IntN(20) // as acknowledgments, which Ethernet pads
		}
		p.flags = []byte{0x20, 0x30}[random.IntN(2)]
		p.version = []byte{1, 0x81}[random.IntN(2)]
		p.fragment = []uint16{0, 0x4000, 0x8000, 0xc000}[random.IntN(4)]
		p.tos = dscp | byte(random.IntN(4))
		p.ttl = byte(2 + random.IntN(253))
		if random.IntN(4) == 0 {
			p.padding = random.IntN(76) // up to what Ethernet demands, and beyond
		}
		all = append(all, p)
	}
	return all
}

// send sends packets, and returns the frames that arrive, by their IDs.
func (r *rig) send(t *testing.T, direction int, all []packet) map[uint16][]byte {
	t.Helper()
	const some = 32 // a veth's ring takes 256
	from, _ := r.taps(direction)
	got := make(map[uint16][]byte)
	for i := 0; i < len(all); i += some {
		for _, p := range all[i:min(i+some, len(all))] {
			from.send(t, p.frame())
		}
		for _, f := range r.arrived(t, direction) {
			id := binary.BigEndian.Uint16(f[18:])
			if _, twice := got[id]; twice {
				t.Fatalf("%s: packet %d arrived twice", name(direction), id)
			}
			got[id] = f
		}
	}
	return got
}

// TestAlike compares, byte for byte and with the link header, what the kernel and the fast
// path make of random packets.
func TestAlike(t *testing.T) {
	const n, seed = 1500, 13
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t)
		random := rand.New(rand.NewPCG(seed, 1))
		type batch struct {
			direction int
			dscp      byte
			packets   []packet
			kernel    map[uint16][]byte
		}
		var batches []*batch
		for _, d := range directions {
			for _, dscp := range []byte{0, 0xb8} {
				b := &batch{direction: d, dscp: dscp, packets: r.randomPackets(random, d, n, dscp)}
				if b.kernel = r.send(t, d, b.packets); len(b.kernel) != n {
					t.Fatalf("%s: the kernel forwarded %d of %d", name(d), len(b.kernel), n)
				}
				batches = append(batches, b)
			}
		}
		r.load(t, m, m.options(r))
		defer r.gateway.Do(func() error { return Unload(r.dir) })
		r.table = r.open(t)
		r.install(t)
		for _, b := range batches {
			r.changed(t)
			for call := range clients {
				r.learn(t, b.direction, call, 1440, b.dscp)
			}
			before := r.here(t, b.direction, 0) + r.here(t, b.direction, 1)
			got := r.send(t, b.direction, b.packets)
			if fast := r.here(t, b.direction, 0) + r.here(t, b.direction, 1) - before; fast != n {
				t.Errorf("%s: the fast path forwarded %d of %d: %+v", name(b.direction), fast, n, r.table.Stats())
			}
			for id, want := range b.kernel {
				if !bytes.Equal(got[id], onCable(m, b.packets[id], want)) {
					t.Fatalf("%s %+v:\nfast path % x\nkernel    % x", name(b.direction), b.packets[id], got[id], want)
				}
			}
		}
	})
}

// onCable is what a card sends of the kernel's frame. It pads short ones with zeros. XDP does
// so if the frame came padded, as from a cable it always does.
func onCable(m mode, came packet, frame []byte) []byte {
	const shortest = 60
	if !m.xdp || len(frame) >= shortest || len(came.frame()) < shortest {
		return frame
	}
	return append(bytes.Clone(frame), make([]byte, shortest-len(frame))...)
}
