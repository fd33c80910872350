package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Two gateways stand on the same two segments where Options.Pair asks for it. The addresses
// GatewayInside and GatewayPublic are on one of them at a time:
//
//	in… ──┐                ┌── lan gw   wan ──┐                ┌── out…
//	      ├── lan (switch) ┤                  ├ wan (switch) ──┤
//	in… ──┘  10.77.0.250   └── lan gw2  wan ──┘                └── out…
//
// A namespace of its own is the switch; its address is for a service that both gateways use.
var SwitchAddr = nth(LAN, 250)

// moving are the commands for ip(8) that add or delete the addresses that move.
func moving(verb string) string {
	return fmt.Sprintf("addr %s %v/24 dev lan\naddr %s %v/24 dev wan\n", verb, GatewayInside, verb, GatewayPublic)
}

// Take gives a gateway the addresses that move, and waits until its neighbours know.
func (n *Network) Take(ctx context.Context, gateway *Host) error {
	if err := n.Give(ctx, gateway); err != nil {
		return err
	}
	return n.Moved(ctx, gateway)
}

// Give gives a gateway the addresses that move, and tells its neighbours.
func (n *Network) Give(ctx context.Context, gateway *Host) error {
	if err := gateway.IPBatch(ctx, moving("add")); err != nil {
		return fmt.Errorf("move addresses to %s: %w", gateway.Name, err)
	}
	return gateway.announceBoth()
}

// Announce tells the neighbours of a gateway that it has the addresses that move, and waits until they
// know.
func (n *Network) Announce(ctx context.Context, gateway *Host) error {
	if err := gateway.announceBoth(); err != nil {
		return err
	}
	return n.Moved(ctx, gateway)
}

func (h *Host) announceBoth() error {
	return errors.Join(h.announce("lan", GatewayInside), h.announce("wan", GatewayPublic))
}

// Moved waits until no host sends to another gateway what is for the addresses that move: one learns
// of it later than the other.
func (n *Network) Moved(ctx context.Context, gateway *Host) error {
	for _, side := range []struct {
		link  string
		addr  netip.Addr
		hosts []*Host
	}{{"lan", GatewayInside, n.Inside}, {"wan", GatewayPublic, n.Outside}} {
		mac, err := gateway.mac(side.link)
		if err != nil {
			return err
		}
		for _, h := range side.hosts {
			if err := Poll(Patience, func() bool { return h.knows(ctx, side.addr, mac) }); err != nil {
				return fmt.Errorf("%s does not learn that %s has %v: %w", h.Name, gateway.Name, side.addr, err)
			}
		}
	}
	return nil
}

// knows reports whether a host sends what is for an address to a link, or will have to ask.
func (h *Host) knows(ctx context.Context, addr netip.Addr, mac net.HardwareAddr) bool {
	out, err := h.Run(ctx, "ip", "neigh", "show", "to", addr.String())
	return err == nil && (!strings.Contains(out.Stdout, "lladdr") || strings.Contains(out.Stdout, "lladdr "+mac.String()))
}

func (h *Host) mac(link string) (mac net.HardwareAddr, err error) {
	err = h.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find %s of %s: %w", link, h.Name, err)
	}
	return mac, nil
}

// Drop takes them from it.
func (n *Network) Drop(ctx context.Context, gateway *Host) error {
	if err := gateway.IPBatch(ctx, moving("del")); err != nil {
		return fmt.Errorf("take addresses from %s: %w", gateway.Name, err)
	}
	return nil
}

// Cut deletes the links of a gateway, as if its cables were pulled.
func (n *Network) Cut(ctx context.Context, gateway *Host) error {
	return gateway.IPBatch(ctx, "link del lan\nlink del wan\n")
}

// Join gives a gateway of a pair its links, with the addresses that stay.
func (n *Network) Join(ctx context.Context, gateway *Host) error {
	if err := batch(ctx, "", n.trunks(gateway)); err != nil {
		return err
	}
	if err := n.Switch.IPBatch(ctx, n.plugs(gateway)); err != nil {
		return err
	}
	return gateway.IPBatch(ctx, n.trunkAddresses(gateway))
}

// trunks lists the ip commands that connect a gateway of a pair with the switch.
func (n *Network) trunks(gateway *Host) string {
	var b strings.Builder
	for _, segment := range []string{"lan", "wan"} {
		fmt.Fprintf(&b, "link add %s-%s netns %s type veth peer name %s netns %s\n", gateway.Name, segment, n.Switch.Namespace, segment, gateway.Namespace)
	}
	return b.String()
}

func (n *Network) plugs(gateway *Host) string {
	return fmt.Sprintf("link set %s-lan master lan up\nlink set %s-wan master wan up\n", gateway.Name, gateway.Name)
}

func (n *Network) trunkAddresses(gateway *Host) string {
	last := 2
	if gateway == n.Standby {
		last = 3
	}
	return fmt.Sprintf("link set lo up\nlink set lan up\nlink set wan up\naddr add %v/24 dev lan\naddr add %v/24 dev wan\n", nth(LAN, last), nth(WAN, last))
}

// announce sends a gratuitous ARP reply (RFC 826, RFC 5944 section 4.6).
func (h *Host) announce(link string, addr netip.Addr) error {
	err := h.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: swap16(unix.ETH_P_ARP), Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
		return unix.Sendto(fd, announcement(i.HardwareAddr, addr), 0, &to)
	})
	if err != nil {
		return fmt.Errorf("announce %v from %s: %w", addr, h.Name, err)
	}
	return nil
}

// announcement is an ARP reply from the address to itself.
func announcement(mac net.HardwareAddr, addr netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 2} // Ethernet, IPv4, their lengths, reply
	for range 2 {
		b = append(append(b, mac...), addr.AsSlice()...)
	}
	return b
}

// swap16 returns a number in network byte order.
func swap16(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
