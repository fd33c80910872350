package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// greHost sends and receives enhanced GRE as one end of a call.
type greHost struct{ fd int }

func newGREHost(t *testing.T, ns *namespace) greHost {
	t.Helper()
	var h greHost
	var err error
	ns.do(func() { h.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_GRE) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(h.fd) })
	return h
}

// packet is what the gateway is to translate, and the payload that tells one
// packet from another.
type packet struct {
	Src, Dst string
	Key      pptp.CallID
	Seq      uint32
}

// send leaves the source address to the kernel.
func (h greHost) send(t *testing.T, p packet) {
	t.Helper()
	b := []byte{
		0x30, 0x01, // key and sequence number present, version 1
		0x88, 0x0b, // PPP
		0, 0, // payload length
		0, 0, // key: the receiver's Call ID
		0, 0, 0, 0, // sequence number
	}
	binary.BigEndian.PutUint16(b[6:], uint16(p.Key))
	binary.BigEndian.PutUint32(b[8:], p.Seq)
	to := unix.SockaddrInet4{Addr: netip.MustParseAddr(p.Dst).As4()}
	if err := unix.Sendto(h.fd, b, 0, &to); err != nil {
		t.Fatalf("send %+v: %v", p, err)
	}
}

// patience is how long a packet may take that is to come.
const patience = 15 * time.Second

// receive returns the next packet, or an error if none comes.
func (h greHost) receive() (packet, error) {
	wait := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(h.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return packet{}, err
	}
	b := make([]byte, 1500)
	n, _, err := unix.Recvfrom(h.fd, b, 0)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(h.fd, b, 0)
	}
	if err != nil {
		return packet{}, fmt.Errorf("receive: %w", err)
	}
	if n != 32 {
		return packet{}, errors.New("not 20 bytes of IPv4 and 12 of GRE")
	}
	return packet{
		Src: netip.AddrFrom4([4]byte(b[12:16])).String(),
		Dst: netip.AddrFrom4([4]byte(b[16:20])).String(),
		Key: pptp.CallID(binary.BigEndian.Uint16(b[26:])),
		Seq: binary.BigEndian.Uint32(b[28:]),
	}, nil
}

// TestPackets sends what the two ends of a call send, and looks at what comes
// out of the gateway, which has no rule about GRE: only the entries translate.
func TestPackets(t *testing.T) {
	for _, tt := range []struct {
		name     string
		flows    []calls.Flow
		up, down [2]packet // as sent, and as received
	}{{
		name:  "client behind the gateway",
		flows: []calls.Flow{toClient, toServer},
		up:    [2]packet{{"", serverAddr, 42, 1}, {publicAddr, serverAddr, 42, 1}},
		down:  [2]packet{{"", publicAddr, 777, 2}, {serverAddr, clientAddr, 7, 2}},
	}, {
		name: "client's key 0",
		flows: []calls.Flow{
			flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 0"),
			flow("10.0.0.2 > 192.0.2.2 42 => 192.0.2.1 > 192.0.2.2 42"),
		},
		up:   [2]packet{{"", serverAddr, 42, 1}, {publicAddr, serverAddr, 42, 1}},
		down: [2]packet{{"", publicAddr, 777, 2}, {serverAddr, clientAddr, 0, 2}},
	}, {
		name: "both keys 0",
		flows: []calls.Flow{
			flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 0"),
			flow("10.0.0.2 > 192.0.2.2 0 => 192.0.2.1 > 192.0.2.2 0"),
		},
		up:   [2]packet{{"", serverAddr, 0, 1}, {publicAddr, serverAddr, 0, 1}},
		down: [2]packet{{"", publicAddr, 777, 2}, {serverAddr, clientAddr, 0, 2}},
	}, {
		name: "both ends translated",
		flows: []calls.Flow{
			flow("192.0.2.2 > 192.0.2.1 777 => 10.0.0.1 > 10.0.0.2 7"),
			flow("10.0.0.2 > 10.0.0.1 888 => 192.0.2.1 > 192.0.2.2 42"),
		},
		up:   [2]packet{{"", insideAddr, 888, 1}, {publicAddr, serverAddr, 42, 1}},
		down: [2]packet{{"", publicAddr, 777, 2}, {insideAddr, clientAddr, 7, 2}},
	}, {
		name: "both ends translated, all own keys 0",
		flows: []calls.Flow{
			flow("192.0.2.2 > 192.0.2.1 777 => 10.0.0.1 > 10.0.0.2 0"),
			flow("10.0.0.2 > 10.0.0.1 888 => 192.0.2.1 > 192.0.2.2 0"),
		},
		up:   [2]packet{{"", insideAddr, 888, 1}, {publicAddr, serverAddr, 0, 1}},
		down: [2]packet{{"", publicAddr, 777, 2}, {insideAddr, clientAddr, 0, 2}},
	}, {
		name: "key alone changes on the way up",
		flows: []calls.Flow{
			flow("10.0.0.2 > 192.0.2.2 888 => 10.0.0.2 > 192.0.2.2 42"),
			flow("192.0.2.2 > 192.0.2.1 777 => 192.0.2.2 > 10.0.0.2 7"),
		},
		up:   [2]packet{{"", serverAddr, 888, 1}, {clientAddr, serverAddr, 42, 1}},
		down: [2]packet{{"", publicAddr, 777, 2}, {serverAddr, clientAddr, 7, 2}},
	}} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			// Any rule of the nat table turns the namespace's NAT on.
			n.gateway.run(t, "iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE")
			c := n.gateway.dial(t)
			for _, f := range tt.flows {
				mustCreate(t, c, f)
			}
			client, server := newGREHost(t, n.client), newGREHost(t, n.server)
			for range 3 { // the first packet must not be special
				pass(t, client, server, tt.up)
				pass(t, server, client, tt.down)
			}
			if t.Failed() {
				t.Log(n.gateway.run(t, "conntrack -L"))
			}
		})
	}
}

// pass sends a packet from one end and expects it at the other.
func pass(t *testing.T, from, to greHost, p [2]packet) {
	t.Helper()
	from.send(t, p[0])
	got, err := to.receive()
	if err != nil {
		t.Errorf("sent %+v: %v", p[0], err)
		return
	}
	if diff := gocmp.Diff(p[1], got); diff != "" {
		t.Errorf("sent %+v (-want +got):\n%s", p[0], diff)
	}
}

// TestPacketsTooEarly has the kernel make entries of its own before the flows
// are created, as GRE does that overtakes the control connection.
func TestPacketsTooEarly(t *testing.T) {
	n := newNetwork(t)
	n.gateway.run(t, "iptables -t nat -A POSTROUTING -o server -j MASQUERADE")
	client, server := newGREHost(t, n.client), newGREHost(t, n.server)
	c := n.gateway.dial(t)

	server.send(t, packet{Dst: publicAddr, Key: 777})
	client.send(t, packet{Dst: serverAddr, Key: 42})
	if _, err := server.receive(); err != nil {
		t.Fatal(err)
	}
	poll(t, "both packets have entries", func() bool { return len(dumpOracle(t, n.gateway)) == 2 })
	wantFlows(t, c)

	mustCreate(t, c, toClient)
	mustCreate(t, c, toServer)
	pass(t, client, server, [2]packet{{"", serverAddr, 42, 1}, {publicAddr, serverAddr, 42, 1}})
	pass(t, server, client, [2]packet{{"", publicAddr, 777, 2}, {serverAddr, clientAddr, 7, 2}})
	wantFlows(t, c, toClient, toServer)
}

// TestPacketsWhileCreatedAgain has packets pass while a reconciliation creates
// flows that are there: none may slip by untranslated.
func TestPacketsWhileCreatedAgain(t *testing.T) {
	n := newNetwork(t)
	n.gateway.run(t, "iptables -t nat -A POSTROUTING -o server -j MASQUERADE")
	c := n.gateway.dial(t)
	flows := []calls.Flow{toClient, toServer}
	wantNone(t, createAll(c, flows))
	client, server := newGREHost(t, n.client), newGREHost(t, n.server)

	done := make(chan struct{})
	again := make(chan struct{})
	go func() {
		defer close(again)
		for mark := uint32(0); ; mark++ {
			select {
			case <-done:
				return
			default:
			}
			for _, f := range flows {
				if err := c.Create(with(f, 0, mark%2)); err != nil {
					t.Error(err)
				}
			}
			for f, err := range createAll(c, flows) {
				t.Errorf("%v: %v", f, err)
			}
		}
	}()
	for range 500 {
		pass(t, client, server, [2]packet{{"", serverAddr, 42, 1}, {publicAddr, serverAddr, 42, 1}})
		pass(t, server, client, [2]packet{{"", publicAddr, 777, 2}, {serverAddr, clientAddr, 7, 2}})
		if t.Failed() {
			break
		}
	}
	close(done)
	<-again
	if es := dumpOracle(t, n.gateway); len(es) != 2 {
		t.Errorf("%d entries, want 2: %v", len(es), es)
	}
}

// TestTraffic: entries count their packets where the kernel does accounting.
func TestTraffic(t *testing.T) {
	for _, accounting := range []bool{false, true} {
		t.Run(fmt.Sprintf("accounting=%v", accounting), func(t *testing.T) {
			n := newNetwork(t)
			n.gateway.run(t, "iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE")
			want := calls.Traffic{}
			if accounting {
				n.gateway.run(t, "sysctl -qw net.netfilter.nf_conntrack_acct=1")
				want = calls.Traffic{Packets: 3, Bytes: 3 * 32, Counted: true}
			}
			c := n.gateway.dial(t)
			mustCreate(t, c, toClient)
			mustCreate(t, c, toServer)
			client, server := newGREHost(t, n.client), newGREHost(t, n.server)
			for range 3 {
				pass(t, server, client, [2]packet{{"", publicAddr, 777, 2}, {serverAddr, clientAddr, 7, 2}})
			}
			got := make(map[calls.Flow]calls.Traffic)
			_, err := c.Traffic(got, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got[toClient] != want || len(got) != 2 {
				t.Errorf("traffic %+v, want %+v for %v", got, want, toClient)
			}
		})
	}
}
