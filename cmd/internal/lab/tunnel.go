package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Plain is a packet of plain GRE (RFC 2784), version 0 without a key, as of a tunnel that has
// nothing to do with PPTP.
type Plain struct {
	Src, Dst netip.Addr
	Payload  []byte
}

func (p Plain) String() string { return fmt.Sprintf("plain GRE %v > %v %q", p.Src, p.Dst, p.Payload) }

const (
	plainHeader   = 4
	plainProtocol = 0x0800 // IPv4, which nobody looks at
)

func parsePlain(b []byte) (Plain, error) {
	src, dst, gre, err := parseIPv4(b)
	if err != nil {
		return Plain{}, err
	}
	if len(gre) < plainHeader || gre[0]|gre[1] != 0 {
		return Plain{}, errors.New("parse plain GRE: another version, or options")
	}
	return Plain{src, dst, bytes.Clone(gre[plainHeader:])}, nil
}

// TunnelEnd is one end of a tunnel of plain GRE.
type TunnelEnd struct {
	Peer netip.Addr // whom it sends to
	*raw[Plain]
}

// OpenTunnel opens the end of a tunnel that is at one of the host's addresses.
func OpenTunnel(h *Host, addr, peer netip.Addr) (*TunnelEnd, error) {
	r, err := openRaw(h, addr, unix.IPPROTO_GRE, "plain GRE", parsePlain)
	if err != nil {
		return nil, err
	}
	return &TunnelEnd{peer, r}, nil
}

// Send sends a payload.
func (e *TunnelEnd) Send(payload []byte) error {
	b := ipv4Header(e.addr, e.Peer, protocolGRE, plainHeader+len(payload))
	b = binary.BigEndian.AppendUint32(b, plainProtocol)
	if err := e.send(append(b, payload...), e.Peer); err != nil {
		return fmt.Errorf("send plain GRE %v > %v: %w", e.addr, e.Peer, err)
	}
	return nil
}

// Expect waits for a payload from an address.
func (e *TunnelEnd) Expect(payload []byte, from netip.Addr, within time.Duration) error {
	_, err := e.Take(within, func(p Plain) bool { return p.Src == from && bytes.Equal(p.Payload, payload) })
	return err
}

// Tunnel is both ends of a tunnel, the first of which may be seen under another address.
type Tunnel struct {
	Near, Far *TunnelEnd
	sent      int
}

// Carry has a packet go each way.
func (u *Tunnel) Carry(within time.Duration) error {
	u.sent++
	payload := fmt.Appendf(nil, "packet %d", u.sent)
	if err := u.Near.Send(payload); err != nil {
		return err
	}
	if err := u.Far.Expect(payload, u.Far.Peer, within); err != nil {
		return err
	}
	if err := u.Far.Send(payload); err != nil {
		return err
	}
	return u.Near.Expect(payload, u.Near.Peer, within)
}

// Close closes both ends.
func (u *Tunnel) Close() error { return errors.Join(u.Near.Close(), u.Far.Close()) }

// StartTunnel opens a tunnel from a host to another one, which sees it under an address.
func StartTunnel(near *Host, seen netip.Addr, far *Host) (*Tunnel, error) {
	a, err := OpenTunnel(near, near.Addr, far.Addr)
	if err != nil {
		return nil, fmt.Errorf("start tunnel: %w", err)
	}
	b, err := OpenTunnel(far, far.Addr, seen)
	if err != nil {
		return nil, fmt.Errorf("start tunnel: %w", errors.Join(err, a.Close()))
	}
	return &Tunnel{Near: a, Far: b}, nil
}
