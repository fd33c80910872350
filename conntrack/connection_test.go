package conntrack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// listen accepts connections in the server's namespace.
func listen(t *testing.T, ns *namespace, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ns.do(func() { l, err = lc.Listen(context.Background(), "tcp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connectTCP opens a TCP connection and returns both ends.
func connectTCP(t *testing.T, from *namespace, l net.Listener, addr string) (near, far *net.TCPConn) {
	t.Helper()
	var c net.Conn
	var err error
	from.do(func() { c, err = net.Dial("tcp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	f, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return c.(*net.TCPConn), f.(*net.TCPConn)
}

// tuples returns the two directions of a connection as packets of each enter the
// gateway, which are its conntrack tuples.
func tuples(near, far *net.TCPConn) (orig, reply calls.Tuple) {
	orig = calls.Tuple{Src: addrPort(near.LocalAddr()), Dst: addrPort(near.RemoteAddr())}
	reply = calls.Tuple{Src: addrPort(far.LocalAddr()), Dst: addrPort(far.RemoteAddr())}
	return orig, reply
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func TestConnection(t *testing.T) {
	const masquerade = "iptables -t nat -A POSTROUTING -o server -j MASQUERADE"
	for _, tt := range []struct {
		name  string
		rules []string // of the gateway
		to    string   // address the client connects to
		want  calls.Connection
	}{{
		name:  "tracked, not translated",
		rules: []string{"iptables -A FORWARD -m conntrack --ctstate ESTABLISHED"},
		to:    serverAddr,
	}, {
		name:  "source NAT",
		rules: []string{masquerade},
		to:    serverAddr,
	}, {
		name:  "destination NAT",
		rules: []string{"iptables -t nat -A PREROUTING -p tcp -d " + insideAddr + " -j DNAT --to " + serverAddr},
		to:    insideAddr,
	}, {
		name: "source and destination NAT",
		rules: []string{masquerade,
			"iptables -t nat -A PREROUTING -p tcp -d " + insideAddr + " -j DNAT --to " + serverAddr},
		to: insideAddr,
	}, {
		name:  "connmark",
		rules: []string{masquerade, "iptables -t mangle -A PREROUTING -j CONNMARK --set-mark 0xf0000001"},
		to:    serverAddr,
		want:  calls.Connection{Mark: 0xf0000001},
	}, {
		name:  "zone",
		rules: []string{masquerade, "iptables -t raw -A PREROUTING -p tcp -j CT --zone 7"},
		to:    serverAddr,
		want:  calls.Connection{Zone: 7},
	}, {
		name:  "zone of the original direction",
		rules: []string{masquerade, "iptables -t raw -A PREROUTING -i client -p tcp -j CT --zone-orig 8"},
		to:    serverAddr,
		want:  calls.Connection{Zone: 8, Way: calls.FromInitiator},
	}, {
		name:  "zone of the reply direction",
		rules: []string{masquerade, "iptables -t raw -A PREROUTING -p tcp -j CT --zone-reply 8"},
		to:    serverAddr,
		want:  calls.Connection{Zone: 8, Way: calls.FromResponder},
	}, {
		name:  "kernel helper",
		rules: []string{masquerade, "iptables -t raw -A PREROUTING -p tcp --dport 1723 -j CT --helper pptp"},
		to:    serverAddr,
		want:  calls.Connection{Helper: "pptp"},
	}} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.server.run(t, "ip route add default via "+publicAddr)
			n.gateway.run(t, tt.rules...)
			near, far := connectTCP(t, n.client, listen(t, n.server, ":1723"), tt.to+":1723")
			tt.want.Original, tt.want.Reply = tuples(near, far)

			for _, tuple := range []calls.Tuple{tt.want.Original, tt.want.Reply} {
				wantConnection(t, n.gateway.dial(t), tuple, tt.want) // knows no zone yet
			}
			c := n.gateway.dial(t)
			wantConnections(t, c, []uint16{1, 1723, 65535, 1723}, tt.want)
			wantConnections(t, c, []uint16{1724})
			wantConnections(t, c, nil)
			if want := []uint16{tt.want.Zone}; tt.want.Zone != 0 && !slices.Equal(c.zones, want) {
				t.Errorf("zones remembered: %v, want %v", c.zones, want)
			}
			wantConnection(t, c, tt.want.Original, tt.want)

			c.noFilter = true // as with a kernel that refuses to filter
			wantConnections(t, c, []uint16{1723}, tt.want)
			c.zones = nil
			wantConnection(t, c, tt.want.Reply, tt.want)
		})
	}
}

func TestConnectionNotFound(t *testing.T) {
	c := newNamespace(t).dial(t)
	none := calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723")}
	got, err := c.Connection(none)
	if !errors.Is(err, ErrNotFound) || got != (calls.Connection{}) {
		t.Errorf("Connection() = %+v, %v; want ErrNotFound", got, err)
	}
	if !strings.Contains(err.Error(), none.String()) {
		t.Errorf("error %q does not name the tuple", err)
	}
	if _, err := c.Connection(calls.Tuple{}); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("Connection of no address = %v, want an error of its own", err)
	}
}

func TestConnectionOfOtherProtocol(t *testing.T) {
	ns := newNamespace(t)
	ns.run(t, "conntrack -I -p udp -t 100 -s 10.0.0.2 -d 192.0.2.2 --sport 1024 --dport 1723 -w 3")
	c := ns.dial(t)
	udp := calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723")}
	if _, err := c.Connection(udp); !errors.Is(err, ErrNotFound) {
		t.Errorf("Connection() = %v, want ErrNotFound", err)
	}
	wantConnections(t, c, []uint16{1723})
}

func TestConnectionClosing(t *testing.T) {
	for _, tt := range []struct {
		name        string
		end         func(t *testing.T, near, far *net.TCPConn)
		want, reset bool
	}{
		{"FIN from the client", func(t *testing.T, near, far *net.TCPConn) { closeWrite(t, near) }, false, false},
		{"FIN from the server", func(t *testing.T, near, far *net.TCPConn) { closeWrite(t, far) }, false, false},
		{"FIN from both", func(t *testing.T, near, far *net.TCPConn) { closeWrite(t, near); closeWrite(t, far) }, true, false},
		{"RST from the client", func(t *testing.T, near, far *net.TCPConn) { reset(t, near) }, true, true},
		{"RST from the server", func(t *testing.T, near, far *net.TCPConn) { reset(t, far) }, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.gateway.run(t, "iptables -t nat -A POSTROUTING -o server -j MASQUERADE")
			near, far := connectTCP(t, n.client, listen(t, n.server, ":1723"), serverAddr+":1723")
			want := calls.Connection{Closing: tt.want, Reset: tt.reset}
			want.Original, want.Reply = tuples(near, far)
			c := n.gateway.dial(t)

			tt.end(t, near, far)
			poll(t, "conntrack has seen the end", func() bool {
				return !strings.Contains(n.gateway.run(t, "conntrack -L -p tcp"), "ESTABLISHED")
			})
			poll(t, "Closing is right", func() bool {
				got, err := c.Connection(want.Original)
				return err == nil && got == want
			})
		})
	}
}

func closeWrite(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// reset closes with a RST.
func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestZonesRemember(t *testing.T) {
	var z zones
	for zone := range uint16(maxZones + 4) {
		z.remember(zone)
	}
	z.remember(10)
	z.remember(0)
	want := zones{10, 19, 18, 17, 16, 15, 14, 13, 12, 11, 9, 8, 7, 6, 5, 4}
	if diff := gocmp.Diff(want, z); diff != "" {
		t.Errorf("zones (-want +got):\n%s", diff)
	}
}

func TestTCPState(t *testing.T) {
	for _, tt := range []struct {
		name           string
		state          tcpState
		opening, ended bool
	}{
		{"NONE", 0, false, false},
		{"SYN_SENT", 1, true, false},
		{"SYN_RECV", 2, true, false},
		{"ESTABLISHED", 3, false, false},
		{"FIN_WAIT", 4, false, false},
		{"CLOSE_WAIT", 5, false, false},
		{"LAST_ACK", 6, false, true},
		{"TIME_WAIT", 7, false, true},
		{"CLOSE", 8, false, true},
		{"SYN_SENT2", 9, false, false}, // simultaneous open, which PPTP has no use for
	} {
		if tt.state.opening() != tt.opening || tt.state.ended() != tt.ended {
			t.Errorf("%s: opening %v, ended %v; want %v, %v",
				tt.name, tt.state.opening(), tt.state.ended(), tt.opening, tt.ended)
		}
	}
}

// The entry of a connection that nobody answers.
func TestConnectionOpening(t *testing.T) {
	n := newNetwork(t)
	n.gateway.run(t, "iptables -t nat -A POSTROUTING -o server -j MASQUERADE")
	n.server.run(t, "iptables -A INPUT -p tcp -j DROP")
	dialed := make(chan struct{})
	var d net.Dialer
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(dialed)
		n.client.do(func() {
			if c, err := d.DialContext(ctx, "tcp4", serverAddr+":1723"); err == nil {
				c.Close()
			}
		})
	}()
	defer func() { cancel(); <-dialed }()

	c := n.gateway.dial(t)
	poll(t, "the SYN has an entry that is opening", func() bool {
		got, err := c.Connections([]uint16{1723})
		return err == nil && len(got) == 1 && got[0].Opening && !got[0].Closing
	})
}

func TestBudget(t *testing.T) {
	var b budget
	now := time.Unix(1e9, 0)
	granted := func(asked int) (n int) {
		for range asked {
			if b.take(now) {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{
		{0, searchBurst},
		{searchPause - 1, 0},
		{1, 1},
		{3 * searchPause, 3},
		{-time.Hour, 0}, // a clock set back
		{2 * time.Hour, searchBurst},
	} {
		now = now.Add(step.after)
		if got := granted(2 * searchBurst); got != step.want {
			t.Errorf("%v later: %d searches granted, want %d", step.after, got, step.want)
		}
	}
}

func TestConnectionSearchesBounded(t *testing.T) {
	c, k := openFake(t, says(unix.ENOENT))
	c.searches = budget{since: time.Now().Add(time.Hour)} // spent
	none := calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723")}
	if _, err := c.Connection(none); !errors.Is(err, ErrNotFound) {
		t.Errorf("Connection() = %v, want ErrNotFound", err)
	}
	if len(k.scripts) != 0 {
		t.Error("the default zone was not asked")
	}
}

// BenchmarkSearch is the price of a tuple that is in no zone.
func BenchmarkSearch(b *testing.B) {
	c := newNamespace(b).dial(b)
	none := calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723")}
	for b.Loop() {
		if _, err := c.search(none); !errors.Is(err, ErrNotFound) {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnection(b *testing.B) {
	ns := newNamespace(b)
	ns.run(b, "conntrack -I -p tcp -t 100 -s 10.0.0.2 -d 192.0.2.2 --sport 1024 --dport 1723 --state ESTABLISHED -u SEEN_REPLY,ASSURED")
	c := ns.dial(b)
	t := calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723")}
	for b.Loop() {
		if _, err := c.Connection(t); err != nil {
			b.Fatal(err)
		}
	}
}

func wantConnection(t *testing.T, c *Conn, tuple calls.Tuple, want calls.Connection) {
	t.Helper()
	got, err := c.Connection(tuple)
	if err != nil {
		t.Error(err)
		return
	}
	if diff := gocmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("connection of %v (-want +got):\n%s", tuple, diff)
	}
}

func wantConnections(t *testing.T, c *Conn, ports []uint16, want ...calls.Connection) {
	t.Helper()
	got, err := c.Connections(ports)
	if err != nil {
		t.Error(err)
		return
	}
	if diff := gocmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("connections to %v (-want +got):\n%s", ports, diff)
	}
}

var compareAddrs = gocmp.Options{
	gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}
