package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
)

// ICMP sends and receives errors about GRE packets for one address.
type ICMP struct{ *raw[TooBig] }

// OpenICMP opens a socket bound to one of the host's addresses.
func OpenICMP(h *Host, addr netip.Addr) (*ICMP, error) {
	r, err := openRaw(h, addr, unix.IPPROTO_ICMP, "ICMP", parseTooBig)
	if err != nil {
		return nil, err
	}
	return &ICMP{r}, nil
}

// TooBig is ICMP's "fragmentation needed and DF set" (RFC 1191 section 4) about a
// GRE packet, of which it quotes the IP header and the first eight bytes.
type TooBig struct {
	Src, Dst         netip.Addr // of the error
	MTU              uint16     // of the next hop
	QuotSrc, QuotDst netip.Addr // of the packet that was too big
	QuotCallID       pptp.CallID
}

func (e TooBig) String() string {
	return fmt.Sprintf("ICMP %v > %v: GRE %v > %v call %v is larger than %d",
		e.Src, e.Dst, e.QuotSrc, e.QuotDst, e.QuotCallID, e.MTU)
}

const (
	icmpHeader        = 8
	icmpUnreachable   = 3
	icmpFragmentation = 4 // a code of icmpUnreachable
	protocolICMP      = 1
	quotedSize        = 1400 // what the packet that was too big says of itself
	minQuote          = ipHeader + greHeader
	icmpMTU, icmpSum  = 6, 2 // offsets
	greCallID         = 6    // offset
)

// Send sends an error. A zero Src is the socket's own address.
func (c *ICMP) Send(e TooBig) error {
	if !e.Src.IsValid() {
		e.Src = c.addr
	}
	if err := c.send(e.datagram(), e.Dst); err != nil {
		return fmt.Errorf("send %v: %w", e, err)
	}
	return nil
}

func (e TooBig) datagram() []byte {
	b := make([]byte, icmpHeader, icmpHeader+minQuote)
	b[0], b[1] = icmpUnreachable, icmpFragmentation
	binary.BigEndian.PutUint16(b[icmpMTU:], e.MTU)
	b = append(b, e.quote()...)
	binary.BigEndian.PutUint16(b[icmpSum:], checksum(0, b))
	return append(ipv4Header(e.Src, e.Dst, protocolICMP, len(b)), b...)
}

// quote encodes the beginning of the packet that was too big, as it went out.
func (e TooBig) quote() []byte {
	ip := ipv4Header(e.QuotSrc, e.QuotDst, protocolGRE, quotedSize)
	ip[ipFlags] = dontFragment
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
	gre := Packet{CallID: e.QuotCallID, Seq: new(uint32)}.gre()[:greHeader]
	return append(ip, gre...)
}

// parseTooBig decodes a datagram. Wrong checksums are errors, that of the quoted
// header too: who reads it wants to find the packet that it sent.
func parseTooBig(b []byte) (TooBig, error) {
	src, dst, m, err := parseIPv4(b)
	if err != nil {
		return TooBig{}, err
	}
	if len(m) < icmpHeader+minQuote || m[0] != icmpUnreachable || m[1] != icmpFragmentation {
		return TooBig{}, fmt.Errorf("parse ICMP: not fragmentation needed: % x", m)
	}
	quoted := m[icmpHeader:]
	from, to, gre, err := parseIPv4(quoted)
	if err != nil || len(gre) < greHeader || quoted[9] != protocolGRE {
		return TooBig{}, fmt.Errorf("parse ICMP: quotes no GRE: % x", quoted)
	}
	if checksum(0, m) != 0 || checksum(0, quoted[:ipHeader]) != 0 {
		return TooBig{}, fmt.Errorf("parse ICMP: wrong checksum: % x", m)
	}
	return TooBig{
		Src: src, Dst: dst, MTU: binary.BigEndian.Uint16(m[icmpMTU:]),
		QuotSrc: from, QuotDst: to, QuotCallID: pptp.CallID(binary.BigEndian.Uint16(gre[greCallID:])),
	}, nil
}
