package check

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/netns"
	"pptpalg/conntrack"
)

// The trial's patience.
const (
	trialWait  = 100 * time.Millisecond // for one packet
	trialSends = 20
)

// What ip(8) is to set up.
const (
	clientSetup = "link set eth0 up\naddr add 198.51.100.2/24 dev eth0\nroute add default via 198.51.100.1\n"
	serverSetup = "link set eth0 up\naddr add 192.0.2.2/24 dev eth0\n"
)

// trial is a gateway between a client and a server, three namespaces.
type trial struct {
	ctx                     context.Context
	sends                   int // how often a packet is sent at most
	client, gateway, server *netns.Place
}

func (t trial) build(rules string) error {
	gateway := fmt.Sprintf("link add client type veth peer name eth0 netns %d\nlink add server type veth peer name eth0 netns %d\n"+
		"link set client up\nlink set server up\naddr add 198.51.100.1/24 dev client\naddr add 192.0.2.1/24 dev server\n", t.client.Thread, t.server.Thread)
	err := t.gateway.Do(func() error {
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
	return errors.Join(err, t.client.Do(func() error { return t.ip(clientSetup) }), t.server.Do(func() error { return t.ip(serverSetup) }))
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
		c.Create(trialFlows[0]), c.Create(trialFlows[1]),
		c.Close())
}

// run sends a packet each way.
func (t trial) run() error {
	client, err := socket(t.client, trialClient)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	server, err := socket(t.server, trialServer)
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
	return parcel{peer: netip.AddrFrom4([4]byte(b[12:16])), id: binary.BigEndian.Uint16(b[26:28])}
}

// socket opens a socket for GRE on an address of the namespace. Receiving takes
// trialWait at most.
func socket(p *netns.Place, addr netip.Addr) (fd int, err error) {
	err = p.Do(func() error {
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
