package ctnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// tuple is one direction of an entry. The ports of a GRE tuple are its keys.
type tuple struct {
	conntrack.Tuple
	proto uint8
	zone  uint16 // of this direction alone (CT --zone-orig, --zone-reply), else 0
}

// entry is a conntrack entry, as far as this package reads and writes one.
type entry struct {
	orig, reply    tuple
	natSrc, natDst netip.Addr // only sent: the kernel shows NAT in the reply tuple
	status         status
	timeout        uint32 // seconds
	mark           uint32
	both           uint16 // zone of both directions
	id             uint32 // tells an entry from a later one with its tuples
	helper         string
	tcp            tcpState
}

// zone returns the entry's zone. Of zones that differ by direction it is the one
// that is not the default.
func (e entry) zone() uint16 {
	for _, z := range []uint16{e.both, e.orig.zone, e.reply.zone} {
		if z != 0 {
			return z
		}
	}
	return 0
}

// has reports whether t is one of the entry's tuples.
func (e entry) has(proto uint8, t conntrack.Tuple) bool {
	return e.orig.proto == proto && (e.orig.Tuple == t || e.reply.Tuple == t)
}

// connection returns the entry as a TCP connection.
func (e entry) connection() conntrack.Connection {
	return conntrack.Connection{
		Original: e.orig.Tuple,
		Reply:    e.reply.Tuple,
		Zone:     e.zone(),
		Mark:     e.mark,
		Helper:   e.helper,
		Opening:  e.tcp.opening(),
		Closing:  e.tcp.ended(),
	}
}

// flow returns the flow that the entry translates, and whether it is an entry as
// Create makes it.
func (e entry) flow() (conntrack.Flow, bool) {
	ours := e.orig.proto == unix.IPPROTO_GRE && e.status&statusFlow == statusFlow &&
		e.orig.Src.Port() == 0 && e.reply.Dst.Port() == 0 && e.helper == "" &&
		e.orig.zone == 0 && e.reply.zone == 0
	if !ours {
		return conntrack.Flow{}, false
	}
	return conntrack.Flow{
		Src:    e.orig.Src.Addr(),
		Dst:    e.orig.Dst.Addr(),
		Key:    pptp.CallID(e.orig.Dst.Port()),
		NewSrc: e.reply.Dst.Addr(),
		NewDst: e.reply.Src.Addr(),
		NewKey: pptp.CallID(e.reply.Src.Port()),
		Zone:   e.both,
		Mark:   e.mark,
	}, true
}

// carries reports whether the entry's reply direction translates as f would: see
// "One entry for two flows" in the package's documentation. In that direction the
// original tuple's destination key would be the source key, which no packet has.
func (e entry) carries(f conntrack.Flow) bool {
	if _, ours := e.flow(); !ours {
		return false
	}
	out := leaves(f)
	return e.reply.Tuple == enters(f) && e.orig.Src == out.Dst && e.orig.Dst.Addr() == out.Src.Addr()
}

// enters returns the original tuple of a flow's entry.
func enters(f conntrack.Flow) conntrack.Tuple {
	return conntrack.Tuple{
		Src: netip.AddrPortFrom(f.Src, 0),
		Dst: netip.AddrPortFrom(f.Dst, uint16(f.Key)),
	}
}

// leaves returns what a flow's packets are after NAT: its entry's reply tuple,
// reversed.
func leaves(f conntrack.Flow) conntrack.Tuple {
	return conntrack.Tuple{
		Src: netip.AddrPortFrom(f.NewSrc, 0),
		Dst: netip.AddrPortFrom(f.NewDst, uint16(f.NewKey)),
	}
}

// flowEntry returns the entry of a flow as it is sent, before NAT.
func flowEntry(f conntrack.Flow) entry {
	before := f
	before.NewSrc, before.NewDst = f.Src, f.Dst
	e := entry{status: statusFlow, timeout: Timeout, mark: f.Mark, both: f.Zone}
	if f.NewSrc != f.Src {
		e.natSrc = f.NewSrc
	}
	switch {
	case f.NewDst != f.Dst:
		e.natDst = f.NewDst
	case f.NewKey != f.Key:
		// Only an address that changes makes the kernel rewrite the key.
		e.natDst, before.NewDst = f.NewDst, netip.IPv4Unspecified()
	}
	e.orig = tuple{Tuple: enters(f), proto: unix.IPPROTO_GRE}
	e.reply = tuple{Tuple: leaves(before).Reversed(), proto: unix.IPPROTO_GRE}
	return e
}

// nfgenmsgLen is the size of struct nfgenmsg, which precedes the attributes:
// address family, version, and a resource ID in network order.
const nfgenmsgLen = 4

var (
	errShort = errors.New("message shorter than its nfgenmsg header")
	errAddr  = errors.New("address is not 4 bytes long")
	errTuple = errors.New("tuple without its IPv4 addresses")
)

// decodeEntry reads an entry from the data of a netlink message. Attributes it
// has no use for are skipped; one of the wrong size is an error.
func decodeEntry(b []byte) (entry, error) {
	if len(b) < nfgenmsgLen {
		return entry{}, fmt.Errorf("decode conntrack entry: %w", errShort)
	}
	ad, err := netlink.NewAttributeDecoder(b[nfgenmsgLen:])
	if err != nil {
		return entry{}, fmt.Errorf("decode conntrack entry: %w", err)
	}
	ad.ByteOrder = binary.BigEndian

	var e entry
	for ad.Next() {
		e.decode(ad)
	}
	if err := errors.Join(ad.Err(), e.orig.check(), e.reply.check()); err != nil {
		return entry{}, fmt.Errorf("decode conntrack entry: %w", err)
	}
	return e, nil
}

// decode reads one attribute. Errors stick to the decoder.
func (e *entry) decode(ad *netlink.AttributeDecoder) {
	switch ad.Type() {
	case ctaTupleOrig:
		ad.Nested(e.orig.decode)
	case ctaTupleReply:
		ad.Nested(e.reply.decode)
	case ctaStatus:
		e.status = status(ad.Uint32())
	case ctaTimeout:
		e.timeout = ad.Uint32()
	case ctaMark:
		e.mark = ad.Uint32()
	case ctaID:
		e.id = ad.Uint32()
	case ctaZone:
		e.both = ad.Uint16()
	case ctaHelp:
		ad.Nested(e.decodeHelp)
	case ctaProtoInfo:
		ad.Nested(e.decodeProtoInfo)
	}
}

func (e *entry) decodeHelp(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() == ctaHelpName {
			e.helper = ad.String()
		}
	}
	return nil
}

func (e *entry) decodeProtoInfo(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() == ctaProtoInfoTCP {
			ad.Nested(e.decodeTCP)
		}
	}
	return nil
}

func (e *entry) decodeTCP(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() == ctaProtoInfoTCPState {
			e.tcp = tcpState(ad.Uint8())
		}
	}
	return nil
}

func (t *tuple) decode(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(t.decodeIP)
		case ctaTupleProto:
			ad.Nested(t.decodeProto)
		case ctaTupleZone:
			t.zone = ad.Uint16()
		}
	}
	return nil
}

func (t *tuple) decodeIP(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctaIPv4Src:
			t.Src = netip.AddrPortFrom(decodeIPv4(ad), t.Src.Port())
		case ctaIPv4Dst:
			t.Dst = netip.AddrPortFrom(decodeIPv4(ad), t.Dst.Port())
		}
	}
	return nil
}

func (t *tuple) decodeProto(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctaProtoNum:
			t.proto = ad.Uint8()
		case ctaProtoSrcPort:
			t.Src = netip.AddrPortFrom(t.Src.Addr(), ad.Uint16())
		case ctaProtoDstPort:
			t.Dst = netip.AddrPortFrom(t.Dst.Addr(), ad.Uint16())
		}
	}
	return nil
}

// check is the guard that makes every decoded tuple one of IPv4.
func (t *tuple) check() error {
	if !t.Src.Addr().Is4() || !t.Dst.Addr().Is4() {
		return errTuple
	}
	return nil
}

func decodeIPv4(ad *netlink.AttributeDecoder) (addr netip.Addr) {
	ad.Do(func(b []byte) error {
		if len(b) != 4 {
			return errAddr
		}
		addr = netip.AddrFrom4([4]byte(b))
		return nil
	})
	return addr
}
