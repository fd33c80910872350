package lab

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// TCP sends and receives single TCP segments for one address: those that no
// kernel's TCP would send.
type TCP struct{ *raw[Segment] }

// OpenTCP opens a socket in place of the host's own TCP. From then on the host
// sends no RST: its kernel would answer so to what it does not know.
func OpenTCP(ctx context.Context, h *Host, addr netip.Addr) (*TCP, error) {
	if err := h.IPTables(ctx, "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"); err != nil {
		return nil, fmt.Errorf("open TCP: %w", err)
	}
	return OpenTCPBeside(h, addr)
}

// OpenTCPBeside opens a socket beside the host's own TCP, which goes on. It receives a
// copy of what arrives, and can send in the name of others.
func OpenTCPBeside(h *Host, addr netip.Addr) (*TCP, error) {
	r, err := openRaw(h, addr, unix.IPPROTO_TCP, "TCP", parseSegment)
	if err != nil {
		return nil, err
	}
	return &TCP{r}, nil
}

// Send sends a segment, with the right checksum.
func (t *TCP) Send(s Segment) error {
	if err := t.send(s.datagram(), s.Dst.Addr()); err != nil {
		return fmt.Errorf("send %v: %w", s, err)
	}
	return nil
}
