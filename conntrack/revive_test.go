package conntrack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	oracle "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// connected is a TCP connection through the gateway.
type connected struct {
	network
	client, server *net.TCPConn
	conn           calls.Connection
	c              *Conn // to the gateway's conntrack
}

// connectThrough opens a connection under the gateway's rules, and counts what
// conntrack takes for invalid.
func connectThrough(t *testing.T, to string, rules ...string) connected {
	t.Helper()
	n := newNetwork(t)
	n.server.run(t, "ip route add default via "+publicAddr)
	n.gateway.run(t, rules...)
	n.gateway.run(t, "iptables -t mangle -A PREROUTING -m conntrack --ctstate INVALID -j DROP")
	s := connected{network: n, c: n.gateway.dial(t)}
	s.client, s.server = connectTCP(t, n.client, listen(t, n.server, ":1723"), to)
	s.talk(t, 1000)

	orig, reply := tuples(s.client, s.server)
	var err error
	if s.conn, err = s.c.Connection(orig); err != nil {
		t.Fatal(err)
	}
	if s.conn.Reply != reply {
		t.Fatalf("reply tuple %v, want %v", s.conn.Reply, reply)
	}
	return s
}

// talk sends n bytes each way at once, and expects them at the other end.
func (s connected) talk(t *testing.T, n int) {
	t.Helper()
	done := make(chan error)
	go func() { done <- transfer(s.client, s.server, n) }()
	if err := errors.Join(transfer(s.server, s.client, n), <-done); err != nil {
		t.Fatal(err)
	}
}

func transfer(from, to *net.TCPConn, n int) error {
	sent, got := make([]byte, n), make([]byte, n)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	deadline := time.Now().Add(20 * time.Second)
	if err := errors.Join(from.SetWriteDeadline(deadline), to.SetReadDeadline(deadline)); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		_, err := io.ReadFull(to, got)
		done <- err
	}()
	_, err := from.Write(sent)
	if err := errors.Join(err, <-done); err != nil {
		return fmt.Errorf("send %d bytes from %v: %w", n, from.LocalAddr(), err)
	}
	if !bytes.Equal(sent, got) {
		return errors.New("other bytes came than went")
	}
	return nil
}

// flush empties the gateway's table while no packet passes, and does the rest
// before one can.
func (s connected) flush(t *testing.T, rest func()) {
	t.Helper()
	const hold = "iptables -t raw %s PREROUTING -i %s -j DROP"
	s.gateway.run(t, fmt.Sprintf(hold, "-I", "client"), fmt.Sprintf(hold, "-I", "server"), "conntrack -F")
	rest()
	s.gateway.run(t, fmt.Sprintf(hold, "-D", "client"), fmt.Sprintf(hold, "-D", "server"))
}

// held reports whether a packet has been dropped that came from one side.
func (s connected) held(t *testing.T, from string) bool {
	t.Helper()
	for line := range strings.Lines(s.gateway.run(t, "iptables -t raw -L PREROUTING -v -x -n")) {
		if f := strings.Fields(line); len(f) > 5 && f[2] == "DROP" && f[5] == from {
			return f[0] != "0"
		}
	}
	return false
}

// entry returns the one TCP entry of the gateway.
func (s connected) entry(t *testing.T) oracle.Flow {
	t.Helper()
	es := dumpOracle(t, s.gateway)
	if len(es) != 1 || es[0].ProtoInfo.TCP == nil {
		t.Fatalf("entries of the gateway: %+v, want one of TCP", es)
	}
	return es[0]
}

// wantValid fails if conntrack has taken a packet for invalid.
func (s connected) wantValid(t *testing.T) {
	t.Helper()
	if s.invalid(t) {
		t.Error("packets were invalid")
	}
}

// invalid reports whether conntrack has taken a packet for invalid.
func (s connected) invalid(t *testing.T) bool {
	t.Helper()
	for line := range strings.Lines(s.gateway.run(t, "iptables -t mangle -L PREROUTING -v -x -n")) {
		if f := strings.Fields(line); strings.Contains(line, "INVALID") && f[0] != "0" {
			return true
		}
	}
	return false
}

const (
	masquerade      = "iptables -t nat -A POSTROUTING -o server -j MASQUERADE"
	masqueradePorts = "iptables -t nat -A POSTROUTING -p tcp -o server -j MASQUERADE --to-ports 40000-40010"
	forwardPort     = "iptables -t nat -A PREROUTING -p tcp -d " + insideAddr + " --dport 1724 -j DNAT --to " + serverAddr + ":1723"
)

func TestRevive(t *testing.T) {
	for _, tt := range []struct {
		name  string
		to    string
		rules []string // of the gateway
	}{
		{"source NAT", serverAddr + ":1723", []string{masquerade}},
		{"source NAT of address and port", serverAddr + ":1723", []string{masqueradePorts}},
		{"destination NAT of address and port", insideAddr + ":1724", []string{forwardPort}},
		{"source and destination NAT", insideAddr + ":1724", []string{forwardPort, masqueradePorts}},
		{"not translated where others are", serverAddr + ":1723", []string{masquerade + " -s 198.51.100.0/24"}},
		{"connmark", serverAddr + ":1723", []string{masquerade, "iptables -t mangle -A PREROUTING -m conntrack --ctstate NEW -j CONNMARK --set-mark 0xf0000001"}},
		{"zone", serverAddr + ":1723", []string{masquerade, "iptables -t raw -A PREROUTING -p tcp -j CT --zone 7"}},
		{"zone of the original direction", serverAddr + ":1723", []string{masquerade, "iptables -t raw -A PREROUTING -i client -p tcp -j CT --zone-orig 7"}},
		{"zone of the reply direction", serverAddr + ":1723", []string{masquerade, "iptables -t raw -A PREROUTING -p tcp -j CT --zone-reply 7"}},
	} {
		for _, first := range []string{"client", "server"} {
			t.Run(tt.name+", "+first+" speaks first", func(t *testing.T) {
				s := connectThrough(t, tt.to, tt.rules...)
				before := s.entry(t)
				s.flush(t, func() { s.revive(t) })
				s.wantEntry(t, before)

				from, to := s.client, s.server
				if first == "server" {
					from, to = to, from
				}
				for range 3 {
					if err := errors.Join(transfer(from, to, 156), transfer(to, from, 32)); err != nil {
						t.Fatal(err)
					}
				}
				s.talk(t, 4<<20) // more than a window that is not scaled
				s.wantEntry(t, before)
				s.wantClose(t)
			})
		}
	}
}

func (s connected) revive(t *testing.T) {
	t.Helper()
	if err := s.c.Revive(s.conn); err != nil {
		t.Fatal(err)
	}
	if got := s.entry(t).Timeout; got > ReviveTimeout || got < ReviveTimeout-60 {
		t.Errorf("timeout %d s, want %d", got, ReviveTimeout)
	}
}

// wantEntry compares the gateway's entry with the one before, and so does
// Connection.
func (s connected) wantEntry(t *testing.T, before oracle.Flow) {
	t.Helper()
	const done = oracle.StatusSrcNATDone | oracle.StatusDstNATDone // without NAT, the kernel looks at no rule and sets neither
	if before.Status.Value&(oracle.StatusSrcNAT|oracle.StatusDstNAT) == 0 {
		before.Status.Value &^= done
	}
	ignore := cmpopts.IgnoreFields(oracle.Flow{}, "ID", "Timeout", "Use", "ProtoInfo", "SynProxy", "Timestamp", "CountersOrig", "CountersReply")
	opts := gocmp.Options{ignore, compareAddrs, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(oracle.Status{}, oracle.Helper{}, oracle.SequenceAdjust{})}
	after := s.entry(t)
	if diff := gocmp.Diff(before, after, opts); diff != "" {
		t.Errorf("entry (-before +after):\n%s", diff)
	}
	if got := tcpState(after.ProtoInfo.TCP.State); got != tcpEstablished {
		t.Errorf("TCP state %d, want %d", got, tcpEstablished)
	}
	for _, tuple := range []calls.Tuple{s.conn.Original, s.conn.Reply} {
		got, err := s.c.Connection(tuple)
		if err != nil || got != s.conn || !got.Same(s.conn) {
			t.Errorf("Connection(%v) = %+v, %v; want %+v", tuple, got, err, s.conn)
		}
	}
	s.wantValid(t)
}

// wantClose ends the connection from both sides.
func (s connected) wantClose(t *testing.T) {
	t.Helper()
	poll(t, "the kernel gives the entry a timeout of its own", func() bool { return s.entry(t).Timeout > ReviveTimeout })
	closeWrite(t, s.client)
	closeWrite(t, s.server)
	poll(t, "the entry is in TIME_WAIT", func() bool { return s.entry(t).ProtoInfo.TCP.State == 7 })
	if got, err := s.c.Connection(s.conn.Original); err != nil || !got.Closing {
		t.Errorf("Connection() = %+v, %v; want Closing", got, err)
	}
	s.wantValid(t)
}

// TestReviveInFlight has both ends send while no entry stands, so that what comes
// first is a retransmission.
func TestReviveInFlight(t *testing.T) {
	s := connectThrough(t, insideAddr+":1724", forwardPort, masqueradePorts)
	before := s.entry(t)
	done := make(chan error, 2)
	s.flush(t, func() {
		go func() { done <- transfer(s.client, s.server, 1<<20) }()
		go func() { done <- transfer(s.server, s.client, 1<<20) }()
		for _, from := range []string{"client", "server"} {
			poll(t, "the "+from+" has sent", func() bool { return s.held(t, from) })
		}
		s.revive(t)
	})
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	s.wantEntry(t, before)
	s.wantClose(t)
}

// A RST is the first packet that the revived entry sees, or the second one, both
// from the same end.
func TestReviveReset(t *testing.T) {
	for _, tt := range []struct {
		name string
		ends func(s connected) (from, to *net.TCPConn)
		mute string // the interface of the other end
		data int    // bytes sent before
	}{
		{"from the client", func(s connected) (from, to *net.TCPConn) { return s.client, s.server }, "server", 0},
		{"from the server", func(s connected) (from, to *net.TCPConn) { return s.server, s.client }, "client", 0},
		{"from the client after data", func(s connected) (from, to *net.TCPConn) { return s.client, s.server }, "server", 1},
		{"from the server after data", func(s connected) (from, to *net.TCPConn) { return s.server, s.client }, "client", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 4 { // with four initial sequence numbers
				s := connectThrough(t, serverAddr+":1723", masqueradePorts)
				s.flush(t, func() { s.revive(t) })
				s.gateway.run(t, "iptables -t raw -A PREROUTING -i "+tt.mute+" -j DROP")
				from, to := tt.ends(s)
				if err := transfer(from, to, tt.data); err != nil {
					t.Fatal(err)
				}
				reset(t, from)
				to.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := to.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("the other end reads %v, want ECONNRESET", err)
				}
				if got := tcpState(s.entry(t).ProtoInfo.TCP.State); got != tcpClose {
					t.Errorf("TCP state %d, want %d", got, tcpClose)
				}
				s.wantValid(t)
			}
		})
	}
}

func TestReviveStanding(t *testing.T) {
	const flushRules = "iptables -t nat -F"
	pickUp := func(t *testing.T, s connected) {
		if err := transfer(s.client, s.server, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		inWay func(t *testing.T, s connected)
		want  error
	}{
		{"its own", func(*testing.T, connected) {}, nil},
		{"its own with another mark", func(t *testing.T, s connected) {
			if err := s.c.exchange(markRequest(tcp(s.conn.Original), 0, 5), nil, nil); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"picked up by the kernel, translated alike", func(t *testing.T, s connected) {
			s.gateway.run(t, "conntrack -F")
			pickUp(t, s)
		}, nil},
		{"picked up by the kernel, translated otherwise", func(t *testing.T, s connected) {
			s.gateway.run(t, flushRules, masqueradePorts, "conntrack -F")
			s.network.server.run(t, "iptables -A INPUT -p tcp --sport 40000:40010 -j DROP") // a RST would end the entry
			if _, err := s.client.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			poll(t, "the kernel has an entry", func() bool { return len(dumpOracle(t, s.gateway)) == 1 })
		}, ErrTaken},
		{"only its reply tuple is taken", func(t *testing.T, s connected) {
			s.gateway.run(t, "conntrack -F", insertTCP(s.conn.Reply))
		}, ErrTaken},
		{"its original tuple is a reply tuple", func(t *testing.T, s connected) {
			s.gateway.run(t, "conntrack -F", insertTCP(s.conn.Original.Reversed()))
		}, ErrTaken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := connectThrough(t, serverAddr+":1723", masquerade)
			tt.inWay(t, s)
			before := s.entry(t)
			err := s.c.Revive(s.conn)
			if !errors.Is(err, tt.want) {
				t.Errorf("Revive() = %v, want %v", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), s.conn.Original.String()) {
				t.Errorf("error %q does not name the connection", err)
			}
			if after := s.entry(t); after.ID != before.ID || after.Mark != before.Mark {
				t.Errorf("entry %+v, want %+v left alone", after, before)
			}
		})
	}
}

// TestReviveOpenedByTheOtherEnd has a server behind a forwarded port speak first, which
// source NAT gives the same address and port as before.
func TestReviveOpenedByTheOtherEnd(t *testing.T) {
	back := "iptables -t nat -A POSTROUTING -o client -p tcp --sport 1723 -j SNAT --to " + insideAddr + ":1724"
	s := connectThrough(t, insideAddr+":1724", forwardPort, back)
	before := s.entry(t)
	s.gateway.run(t, "conntrack -F")
	if err := transfer(s.server, s.client, 1); err != nil {
		t.Fatal(err)
	}
	if got := s.entry(t).TupleOrig.IP.SourceAddress.String(); got != serverAddr {
		t.Fatalf("the entry was opened by %s", got)
	}
	s.revive(t)
	s.talk(t, 1000)
	s.wantEntry(t, before)
}

// insertTCP is the command that makes an entry without translation.
func insertTCP(orig calls.Tuple) string {
	return fmt.Sprintf("conntrack -I -p tcp -t 100 --state ESTABLISHED -u SEEN_REPLY,ASSURED -s %v -d %v --sport %d --dport %d",
		orig.Src.Addr(), orig.Dst.Addr(), orig.Src.Port(), orig.Dst.Port())
}

// What is in the way is gone whenever it is looked for, as it may be once.
func TestReviveGivesUp(t *testing.T) {
	conn := calls.Connection{Original: calls.Tuple{
		Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723"),
	}}
	conn.Reply = conn.Original.Reversed()
	round := []func(netlink.Message) []datagram{says(unix.EEXIST), says(unix.ENOENT), says(unix.ENOENT)}

	c, k := openFake(t, append(round, says(0))...)
	if err := c.Revive(conn); err != nil || len(k.scripts) != 0 {
		t.Errorf("Revive() = %v with %d scripts left, want nil and 0", err, len(k.scripts))
	}
	var scripts []func(netlink.Message) []datagram
	for range tries {
		scripts = append(scripts, round...)
	}
	c, k = openFake(t, scripts...)
	if err := c.Revive(conn); !errors.Is(err, unix.EEXIST) || len(k.scripts) != 0 {
		t.Errorf("Revive() = %v with %d scripts left, want EEXIST and 0", err, len(k.scripts))
	}

	c, _ = openFake(t)
	conn.Reply.Dst = netip.MustParseAddrPort("[2001:db8::1]:1")
	if err := c.Revive(conn); err == nil {
		t.Error("Revive of an IPv6 connection = nil")
	}
}
