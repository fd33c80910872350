package replay

import (
	"net/netip"
	"testing"
	"time"

	"pptpalg/alg/packet"
)

// hosts returns a client's address and port, another one for each number.
func hosts(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 40000)
}

// replays returns a run, and a way to give it a segment of a client at a time.
func replays(t testing.TB) (*run, func(n int, at time.Duration, f flags)) {
	b := newBuilder(t)
	r := newRun(nil, Config{NAT: []NAT{natted}})
	return r, func(n int, at time.Duration, f flags) {
		t.Helper()
		from, to := hosts(n), server
		if f.syn && f.ack {
			from, to = to, from
		}
		b.frames = b.frames[:0]
		b.tcp(from, to, f, nil)
		p := b.frames[0]
		p.Timestamp = time.Unix(1e9, 0).Add(at)
		if err := r.packet(p); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPortsAreFreed has many connections to one server, one after the other, all with one
// port of their own.
func TestPortsAreFreed(t *testing.T) {
	r, segment := replays(t)
	for n := range 3 * mostFading {
		segment(n, 0, flags{syn: true})
		if n%2 == 0 {
			segment(n, 0, flags{syn: true, ack: true})
			segment(n, 0, flags{rst: true})
		}
	}
	used := r.nat.ports[outside{natted.Public, server}].used
	if len(r.links.all) > mostFading || used > mostFading || r.links.lively.Len() > 0 {
		t.Errorf("%d connections on record, %d of them under way, %d ports in use", len(r.links.all), r.links.lively.Len(), used)
	}
	segment(-1, 3*silence, flags{syn: true})
	if len(r.links.all) != 1 || r.nat.ports[outside{natted.Public, server}].used != 1 {
		t.Errorf("after a while %d connections are on record", len(r.links.all))
	}
}

// TestForgotten tells which connections are forgotten after a while.
func TestForgotten(t *testing.T) {
	syn, answer, fin := flags{syn: true}, flags{syn: true, ack: true}, flags{fin: true, ack: true}
	tests := []struct {
		name string
		all  []flags
		kept bool
	}{
		{"not answered", []flags{syn}, false},
		{"answered", []flags{syn, answer}, true},
		{"half closed", []flags{syn, answer, fin}, true},
		{"reset", []flags{syn, answer, {rst: true}}, false},
		{"opened again", []flags{syn, answer, {rst: true}, syn, answer}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, segment := replays(t)
			for _, f := range tt.all {
				segment(1, 0, f)
			}
			segment(2, silence+time.Second, syn)
			if kept := len(r.links.all) == 2; kept != tt.kept {
				t.Errorf("kept: %v", kept)
			}
		})
	}
}

// TestGivesWay has more connections under way than may be on record.
func TestGivesWay(t *testing.T) {
	c := newConnections()
	for n := range mostLively + 2 {
		l := &link{Control: &Control{hosts(n), server}, age: age{answered: true}}
		gone := c.add(l, time.Unix(int64(n), 0))
		if n < mostLively && len(gone) > 0 || n >= mostLively && (len(gone) != 1 || gone[0].Src != hosts(n-mostLively)) {
			t.Fatalf("with the connection of %v, %d are gone", l.Src, len(gone))
		}
	}
	if len(c.all) != mostLively || c.lively.Len() != mostLively {
		t.Errorf("%d on record, %d under way", len(c.all), c.lively.Len())
	}
}

func TestPorts(t *testing.T) {
	var p ports
	for port := range 1 << 16 {
		if port != 700 && port != 5000 && port != 65535 {
			p.set(uint16(port))
		}
	}
	for _, want := range []uint16{65535, 5000, 60000} { // 700 is too low
		got := p.pick(60000)
		if got != want {
			t.Errorf("port %d, want %d", got, want)
		}
		p.set(got)
	}
	if got := p.pick(700); got != 700 {
		t.Errorf("a port of its own that is free: %d", got)
	}
	p.clear(1024)
	if got := p.pick(9); got != 1024 {
		t.Errorf("port %d, want 1024", got)
	}
}

func TestTurned(t *testing.T) {
	c := Control{client, server}
	back := Control{server, client}
	if k := c.ends(); k.turned() != back.ends() || k == back.ends() {
		t.Errorf("%x turned is %x", k, k.turned())
	}
	b := newBuilder(t)
	b.tcp(client, server, flags{}, nil)
	seg, err := packet.Parse(b.frames[0].data[etherHeader:])
	if err != nil {
		t.Fatal(err)
	}
	if addresses, numbers := seg.Ends(); (ends{addresses, numbers}) != c.ends() {
		t.Errorf("a segment has %x %x, its connection %x", addresses, numbers, c.ends())
	}
}
