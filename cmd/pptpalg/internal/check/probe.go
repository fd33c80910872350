package check

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// The network of the trial, of three namespaces that end with it:
//
//	client 198.51.100.2 ── .1 gateway 192.0.2.1 ── 192.0.2.2 server
var (
	trialClient = netip.MustParseAddr("198.51.100.2")
	trialPublic = netip.MustParseAddr("192.0.2.1")
	trialServer = netip.MustParseAddr("192.0.2.2")
)

// The trial's Call IDs, and its patience.
const (
	trialOwn   pptp.CallID = 7
	trialPeer  pptp.CallID = 900
	trialTaken pptp.CallID = 1000                   // the client's public form
	trialWait              = 100 * time.Millisecond // for one packet
	trialSends             = 20
)

// What ip(8) is to set up.
const (
	clientSetup = "link set eth0 up\naddr add 198.51.100.2/24 dev eth0\nroute add default via 198.51.100.1\n"
	serverSetup = "link set eth0 up\naddr add 192.0.2.2/24 dev eth0\n"
)

// natRule makes the kernel hook its NAT into the gateway's namespace. It matches nothing
// of the trial.
const natRule = "*nat\n-A POSTROUTING -s 203.0.113.1 -j MASQUERADE\nCOMMIT\n"

// tryTranslation sends a call's packets through a gateway that has the two entries of the
// call, and looks at what comes out. rules are the gateway's, for iptables-restore.
// The error is errNoTrial where it could not be tried.
func tryTranslation(ctx context.Context, rules string) (err error) {
	var places []*place
	defer func() {
		for _, p := range places {
			p.close()
		}
	}()
	for range 3 {
		p, err := newPlace()
		if err != nil {
			return fmt.Errorf("%w: make network namespace: %w", errNoTrial, err)
		}
		places = append(places, p)
	}
	t := trial{ctx: ctx, sends: trialSends, client: places[0], gateway: places[1], server: places[2]}
	if err := t.build(rules); err != nil {
		return fmt.Errorf("%w: %w", errNoTrial, err)
	}
	if err := t.gateway.do(t.install); err != nil {
		return err
	}
	return t.run()
}

type trial struct {
	ctx                     context.Context
	sends                   int // how often a packet is sent at most
	client, gateway, server *place
}

func (t trial) build(rules string) error {
	gateway := fmt.Sprintf("link add client type veth peer name eth0 netns %d\nlink add server type veth peer name eth0 netns %d\n"+
		"link set client up\nlink set server up\naddr add 198.51.100.1/24 dev client\naddr add 192.0.2.1/24 dev server\n", t.client.thread, t.server.thread)
	err := t.gateway.do(func() error {
		if err := t.ip(gateway); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		if rules == "" {
			return nil
		}
		_, err := command(t.ctx, rules, "iptables-restore", "-w", "5")
		return err
	})
	return errors.Join(err, t.client.do(func() error { return t.ip(clientSetup) }), t.server.do(func() error { return t.ip(serverSetup) }))
}

func (t trial) ip(lines string) error {
	_, err := command(t.ctx, lines, "ip", "-batch", "-")
	return err
}

// install puts in the two entries of the call.
func (t trial) install() error {
	c, err := conntrack.Dial()
	if err != nil {
		return err
	}
	return errors.Join(
		c.Create(calls.Flow{Src: trialServer, Dst: trialPublic, Key: trialTaken, NewSrc: trialServer, NewDst: trialClient, NewKey: trialOwn}),
		c.Create(calls.Flow{Src: trialClient, Dst: trialServer, Key: trialPeer, NewSrc: trialPublic, NewDst: trialServer, NewKey: trialPeer}),
		c.Close())
}

// run sends a packet each way.
func (t trial) run() error {
	client, err := t.client.socket(trialClient)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	server, err := t.server.socket(trialServer)
	if err != nil {
		return err
	}
	defer unix.Close(server)
	if err := t.pass(client, server, parcel{trialServer, trialPeer}, parcel{trialPublic, trialPeer}); err != nil {
		return fmt.Errorf("send GRE to the server: %w", err)
	}
	if err := t.pass(server, client, parcel{trialPublic, trialTaken}, parcel{trialServer, trialOwn}); err != nil {
		return fmt.Errorf("send GRE to the client: %w", err)
	}
	return nil
}

// parcel is a packet as its sender or its receiver sees it: the address of the other
// one, and the Call ID.
type parcel struct {
	peer netip.Addr
	id   pptp.CallID
}

// pass sends a packet from one socket and wants it at the other. It is sent again and
// again: a link that has just come up drops packets, for up to a second, until the kernel
// has taken notice of it (linkwatch_fire_event).
func (t trial) pass(from, to int, sent, want parcel) error {
	for range t.sends {
		if err := unix.Sendto(from, sent.gre(), 0, &unix.SockaddrInet4{Addr: sent.peer.As4()}); err != nil {
			return err
		}
		got, err := receive(to)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && got != want {
			err = fmt.Errorf("it arrived from %v with Call ID %v, want %v and %v", got.peer, got.id, want.peer, want.id)
		}
		return err
	}
	return fmt.Errorf("%w within %v", errNothing, time.Duration(t.sends)*trialWait)
}

func receive(socket int) (parcel, error) {
	b := make([]byte, 1500)
	n, _, err := unix.Recvfrom(socket, b, 0)
	if err != nil {
		return parcel{}, err
	}
	return parse(b[:n]), nil
}

// gre encodes an enhanced GRE packet without payload (RFC 2637 section 4.1).
func (p parcel) gre() []byte {
	b := []byte{0x20, 0x01, 0x88, 0x0b, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[6:], uint16(p.id))
	return b
}

// parse reads an IPv4 packet with enhanced GRE, zero if it is another.
func parse(b []byte) parcel {
	if len(b) < 28 || b[0] != 0x45 {
		return parcel{}
	}
	return parcel{peer: netip.AddrFrom4([4]byte(b[12:16])), id: pptp.CallID(binary.BigEndian.Uint16(b[26:28]))}
}

// place is a network namespace and the thread that lives in it. Both end with close.
type place struct {
	thread int
	calls  chan func()
	ended  chan struct{}
}

func newPlace() (*place, error) {
	p := &place{calls: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error)
	go p.live(ready)
	if err := <-ready; err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// live never unlocks its thread, so that the thread ends with the goroutine, and the
// namespace with the thread.
func (p *place) live(ready chan<- error) {
	defer close(p.ended)
	runtime.LockOSThread()
	p.thread = unix.Gettid()
	ready <- unix.Unshare(unix.CLONE_NEWNET)
	for call := range p.calls {
		call()
	}
}

func (p *place) close() {
	close(p.calls)
	<-p.ended
}

// do runs f in the namespace.
func (p *place) do(f func() error) error {
	result := make(chan error, 1)
	p.calls <- func() { result <- f() }
	return <-result
}

// socket opens a socket for GRE on an address of the namespace. Receiving takes
// trialWait at most.
func (p *place) socket(addr netip.Addr) (fd int, err error) {
	err = p.do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_GRE); err != nil {
			return fmt.Errorf("%w: open GRE socket: %w", errNoTrial, err)
		}
		wait := unix.NsecToTimeval(trialWait.Nanoseconds())
		err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.As4()}))
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("%w: set up GRE socket: %w", errNoTrial, err)
		}
		return nil
	})
	return fd, err
}
