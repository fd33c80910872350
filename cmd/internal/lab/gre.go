package lab

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
)

// GRE sends and receives enhanced GRE for one address.
type GRE struct{ *raw[Packet] }

// OpenGRE opens a socket bound to one of the host's addresses.
func OpenGRE(h *Host, addr netip.Addr) (*GRE, error) {
	r, err := openRaw(h, addr, unix.IPPROTO_GRE, "GRE", arrived)
	if err != nil {
		return nil, err
	}
	return &GRE{r}, nil
}

// arrived decodes a packet that has just come. What is not enhanced GRE is not
// for the lab.
func arrived(datagram []byte) (Packet, error) {
	p, err := parseDatagram(datagram)
	p.Arrival = time.Now()
	return p, err
}

// Send sends a packet. A zero Src is the socket's own address; another one is
// spoofed.
func (g *GRE) Send(p Packet) error {
	if !p.Src.IsValid() {
		p.Src = g.addr
	}
	if err := g.send(p.datagram(), p.Dst); err != nil {
		return fmt.Errorf("send %v: %w", p, err)
	}
	return nil
}

// SendBytes sends GRE that need not be enhanced GRE, from its first byte on.
func (g *GRE) SendBytes(dst netip.Addr, gre []byte) error {
	datagram := append(ipv4Header(g.addr, dst, protocolGRE, len(gre)), gre...)
	if err := g.send(datagram, dst); err != nil {
		return fmt.Errorf("send GRE % x to %v: %w", gre, dst, err)
	}
	return nil
}

// RecvCall takes the oldest packet that carries this Call ID; others stay.
func (g *GRE) RecvCall(id pptp.CallID, within time.Duration) (Packet, error) {
	return g.Take(within, func(p Packet) bool { return p.CallID == id })
}
