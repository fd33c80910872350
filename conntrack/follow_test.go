package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// manyConnections returns n connections through a gateway, of which no two share a tuple, and which begin at
// a public port.
func manyConnections(n int, port uint16) []calls.Connection {
	all := make([]calls.Connection, n)
	server := netip.MustParseAddrPort("192.0.2.2:1723")
	for i := range all {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1024)
		public := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i >> 12)}), port+uint16(i&0xfff))
		all[i] = calls.Connection{
			Original: calls.Tuple{Src: client, Dst: server}, Reply: calls.Tuple{Src: server, Dst: public}, Mark: uint32(i),
		}
	}
	return all
}

// sendCounter counts the datagrams that are sent.
type sendCounter struct {
	socket
	n int
}

func (s *sendCounter) send(b []byte) error {
	s.n++
	return s.socket.send(b)
}

// counting has the Conn count its datagrams.
func counting(c *Conn) *sendCounter {
	s := &sendCounter{socket: c.socket}
	c.socket = s
	return s
}

// ways are how the entry of a connection is made for another gateway, or made anew.
var ways = map[string]func(*Conn, []calls.Connection, uint32) map[int]error{"Follow": (*Conn).Follow, "Remake": (*Conn).Remake}

// wantLife checks how long the gateway's entry lives.
func wantLife(t *testing.T, got uint32, life uint32) {
	t.Helper()
	if got > life || got < life-60 {
		t.Errorf("the entry lives %d s more, want %d", got, life)
	}
}

// TestFollow: the entry of a connection is made as it was, for as long as is said, and the
// connection goes on by it.
func TestFollow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		to    string
		rules []string
	}{
		{"source NAT", serverAddr + ":1723", []string{masqueradePorts}},
		{"source and destination NAT", insideAddr + ":1724", []string{forwardPort, masqueradePorts}},
		{"connmark", serverAddr + ":1723", []string{masquerade, "iptables -t mangle -A PREROUTING -m conntrack --ctstate NEW -j CONNMARK --set-mark 0xf0000001"}},
		{"zone", serverAddr + ":1723", []string{masquerade, "iptables -t raw -A PREROUTING -p tcp -j CT --zone 7"}},
		{"zone of the original direction", serverAddr + ":1723", []string{masquerade, "iptables -t raw -A PREROUTING -i client -p tcp -j CT --zone-orig 7"}},
		{"zone of the reply direction", serverAddr + ":1723", []string{masquerade, "iptables -t raw -A PREROUTING -p tcp -j CT --zone-reply 7"}},
	} {
		for way, do := range ways {
			t.Run(tt.name+", "+way, func(t *testing.T) {
				s := connectThrough(t, tt.to, tt.rules...)
				before := s.entry(t)
				s.flush(t, func() {
					for range 2 { // once more, with the entry there
						if failed := do(s.c, []calls.Connection{s.conn}, Timeout); failed != nil {
							t.Fatal(failed)
						}
						wantLife(t, s.entry(t).Timeout, Timeout)
					}
				})
				s.wantEntry(t, before)
				s.talk(t, 1<<20)
				s.wantEntry(t, before)
				if failed := s.c.SetTimeout([]calls.Connection{s.conn}, ReviveTimeout); failed != nil {
					t.Error(failed)
				}
				wantLife(t, s.entry(t).Timeout, ReviveTimeout)
				s.wantEntry(t, before)
				s.talk(t, 1000)
				s.wantClose(t)
			})
		}
	}
}

// TestFollowStanding: what is there is treated as by Revive; but the life of the connection's
// own entry is set, or the entry is made anew.
func TestFollowStanding(t *testing.T) {
	const life = 12345
	for _, tt := range []struct {
		name  string
		inWay func(t *testing.T, s connected)
		want  error
	}{
		{"its own", func(*testing.T, connected) {}, nil},
		{"its own, made by Follow", func(t *testing.T, s connected) {
			s.gateway.run(t, "conntrack -F")
			if failed := s.c.Follow([]calls.Connection{s.conn}, Timeout); failed != nil {
				t.Fatal(failed)
			}
		}, nil},
		{"none", func(t *testing.T, s connected) { s.gateway.run(t, "conntrack -F") }, nil},
		{"opened by the other end", func(t *testing.T, s connected) {
			s.gateway.run(t, "conntrack -F")
			turned := calls.Connection{Original: s.conn.Reply, Reply: s.conn.Original}
			if err := s.c.Revive(turned); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"only its reply tuple is taken", func(t *testing.T, s connected) {
			s.gateway.run(t, "conntrack -F", insertTCP(s.conn.Reply))
		}, ErrTaken},
		{"its original tuple is a reply tuple", func(t *testing.T, s connected) {
			s.gateway.run(t, "conntrack -F", insertTCP(s.conn.Original.Reversed()))
		}, ErrTaken},
	} {
		for way, do := range ways {
			t.Run(tt.name+", "+way, func(t *testing.T) {
				s := connectThrough(t, serverAddr+":1723", masqueradePorts)
				own := s.entry(t)
				tt.inWay(t, s)
				before := dumpOracle(t, s.gateway)
				other := manyConnections(1, 50000)[0]
				failed := do(s.c, []calls.Connection{s.conn, other}, life)
				if err := failed[0]; !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), s.conn.Original.String()) {
					t.Errorf("it fails with %v, want %v", err, tt.want)
				}
				if failed[1] != nil || len(failed) > 1 {
					t.Errorf("beside it fail %v", failed)
				}
				if failed := s.c.delete1(t, other); failed != nil {
					t.Errorf("the other one is not there: %v", failed)
				}
				after := s.entry(t)
				switch {
				case tt.want != nil:
					if after.ID != before[0].ID {
						t.Errorf("entry %+v, want %+v left alone", after, before[0])
					}
					return
				case way == "Follow" && tt.name == "its own, made by Follow" && after.ID != before[0].ID:
					t.Error("its own entry was made anew")
				}
				wantLife(t, after.Timeout, life)
				s.wantEntry(t, own)
				s.talk(t, 1000)
			})
		}
	}
}

// delete1 deletes a connection's entry.
func (c *Conn) delete1(t *testing.T, conn calls.Connection) error {
	t.Helper()
	return c.exchange(deleteRequest(tcp(conn.Original), conn.ZoneOf(calls.Initiator), 0), nil, nil)
}

// TestFollowMany: connections that are there already take two datagrams more for each group,
// and no connection takes one of its own.
func TestFollowMany(t *testing.T) {
	n := newNamespace(t)
	n.run(t, masquerade)
	c := n.dial(t)
	const some = 2*batch + 17
	conns := manyConnections(some, 20000)
	check := func(name string, do func(*Conn, []calls.Connection, uint32) map[int]error, some []calls.Connection, life uint32, sends int) {
		t.Helper()
		count := counting(c)
		if failed := do(c, some, life); failed != nil {
			t.Fatalf("%s: %v", name, failed)
		}
		if c.socket = count.socket; count.n != sends {
			t.Errorf("%s: %d datagrams, want %d", name, count.n, sends)
		}
		es := dumpOracle(t, n)
		if len(es) != len(some) {
			t.Errorf("%s: %d entries, want %d", name, len(es), len(some))
		}
		standing, err := c.StandingConnections(some)
		if err != nil {
			t.Fatal(err)
		}
		for i := range min(len(some), len(standing)) {
			if standing[i] != some[i] {
				t.Fatalf("%s: entry %d is %+v, want %+v", name, i, standing[i], some[i])
			}
		}
		for _, e := range es {
			wantLife(t, e.Timeout, life)
		}
	}
	half := conns[:some/2]
	check("half of them", (*Conn).Follow, half, 1000, 2)
	check("all of them", (*Conn).Follow, conns, 2000, 3+2*2) // the third group has none in the way
	check("all of them again", (*Conn).Follow, conns, 3000, 3*3)
	check("made anew", (*Conn).Remake, conns, 4000, 3*2)
	check("given a life", (*Conn).SetTimeout, conns, 5000, 3)
	n.run(t, "conntrack -F")
	check("made anew from nothing", (*Conn).Remake, conns, 4000, 3*3)
	n.run(t, "conntrack -F")
	failed := c.SetTimeout(conns[:2], 5000)
	if len(failed) != 2 || !errors.Is(failed[0], ErrNotFound) || !errors.Is(failed[1], ErrNotFound) {
		t.Errorf("without entries: %v", failed)
	}
}

// TestRemake: the packets of a connection pass elsewhere for a time, and come back. Here
// another zone is elsewhere.
func TestRemake(t *testing.T) {
	for way, do := range ways {
		t.Run(way, func(t *testing.T) { testRemake(t, do) })
	}
	t.Run("Loosen", func(t *testing.T) { testRemake(t, (*Conn).Loosen) })
}

func testRemake(t *testing.T, do func(*Conn, []calls.Connection, uint32) map[int]error) {
	const there = "iptables -t raw %s PREROUTING -p tcp -j CT --zone 9"
	s := connectThrough(t, serverAddr+":1723", masqueradePorts)
	away := s.conn
	away.Zone = 9
	if failed := s.c.Follow([]calls.Connection{away}, Timeout); failed != nil {
		t.Fatal(failed)
	}
	s.gateway.run(t, fmt.Sprintf(there, "-A"))
	s.talk(t, 8<<20)
	s.gateway.run(t, fmt.Sprintf(there, "-D"))
	if err := s.c.delete1(t, away); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- transfer(s.client, s.server, 1000) }()
	poll(t, "conntrack takes what comes back for invalid", func() bool { return s.invalid(t) })
	if failed := do(s.c, []calls.Connection{s.conn}, ReviveTimeout); failed != nil {
		t.Fatal(failed)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.talk(t, 1<<20)
}

// TestFollowAlone: if a datagram fails as a whole, or something comes in the way in the
// meantime, each connection goes on alone.
func TestFollowAlone(t *testing.T) {
	conns := manyConnections(2, 20000)
	lost := []func(netlink.Message) []datagram{fails(unix.ENOBUFS), func(netlink.Message) []datagram { return nil }}
	silent := func(netlink.Message) []datagram { return nil }
	for _, tt := range []struct {
		name    string
		do      func(*Conn, []calls.Connection, uint32) map[int]error
		scripts []func(netlink.Message) []datagram
		failed  int
	}{
		{"follow, no room for the answers", (*Conn).Follow, append(lost, says(unix.EEXIST), says(unix.ENOENT), says(unix.ENOENT), says(0), says(0), says(0), says(0)), 0},
		{"follow, no memory", (*Conn).Follow, []func(netlink.Message) []datagram{silent, says(unix.ENOMEM), says(unix.ENOMEM)}, 1},
		{"follow, the query fails", (*Conn).Follow, []func(netlink.Message) []datagram{says(unix.EEXIST), says(unix.EEXIST),
			says(unix.ENOMEM), says(unix.ENOENT), says(unix.ENOENT), says(0), says(0), says(0)}, 0},
		{"remake, something came meanwhile", (*Conn).Remake, []func(netlink.Message) []datagram{says(unix.ENOENT), says(unix.ENOENT), says(unix.ENOENT), says(unix.ENOENT),
			silent, says(unix.EEXIST), says(0)}, 0},
		{"a life, no room for the answers", (*Conn).SetTimeout, append(lost, says(0), says(unix.ENOENT)), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, k := openFake(t, tt.scripts...)
			failed := tt.do(c, conns, 300)
			if len(failed) != tt.failed || len(k.scripts) != 0 {
				t.Errorf("failed: %v, with %d scripts left; want %d and 0", failed, len(k.scripts), tt.failed)
			}
		})
	}
	c, k := openFake(t, says(0))
	conns[0].Reply.Dst = netip.MustParseAddrPort("[2001:db8::1]:1")
	if failed := c.Follow(conns, 300); len(failed) != 1 || failed[0] == nil || len(k.scripts) != 0 {
		t.Errorf("of an IPv6 connection and another: %v", failed)
	}
}

// BenchmarkFollow makes the entries of the connections of another gateway, finds them there
// already, makes them anew, and sets their life.
func BenchmarkFollow(b *testing.B) {
	n := newNamespace(b)
	n.run(b, masquerade)
	c := n.dial(b)
	conns := manyConnections(10_000, 20000)
	must := func(failed map[int]error) {
		if failed != nil {
			b.Fatal(len(failed), "failed")
		}
	}
	flush := func() { n.run(b, "conntrack -F") }
	for _, bb := range []struct {
		name     string
		op, undo func()
	}{
		{"alone", func() {
			for i := range conns {
				if err := c.Revive(conns[i]); err != nil {
					b.Fatal(err)
				}
			}
		}, flush},
		{"new", func() { must(c.Follow(conns, Timeout)) }, flush},
		{"there already", func() { must(c.Follow(conns, Timeout)) }, func() {}},
		{"remake", func() { must(c.Remake(conns, Timeout)) }, func() {}},
		{"set timeout", func() { must(c.SetTimeout(conns, ReviveTimeout)) }, func() {}},
	} {
		b.Run(bb.name, func(b *testing.B) { reportCPU(b, bb.op, bb.undo) })
	}
}
