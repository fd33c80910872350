package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// tuple is one direction of an entry. The ports of a GRE tuple are its keys.
type tuple struct {
	calls.Tuple
	proto uint8
	zone  uint16 // of this direction alone (CT --zone-orig, --zone-reply), else 0
}

// entry is a conntrack entry, as far as this package reads and writes one.
type entry struct {
	orig, reply    tuple
	natSrc, natDst netip.AddrPort // only sent: the kernel shows NAT in the reply tuple; port 0 for none
	status         status
	timeout        uint32 // seconds
	mark           uint32
	both           uint16 // zone of both directions
	id             uint32 // tells an entry from a later one with its tuples, unless that lies in the same memory (nf_ct_get_id)
	helper         string
	tcp            tcpState
	liberal        bool             // no packet of either direction is invalid
	counts         [2]calls.Traffic // of the original and the reply direction
}

// zone returns the entry's zone. Of zones that differ by direction it is the one
// that is not the default.
func (e *entry) zone() uint16 {
	for _, z := range []uint16{e.both, e.orig.zone, e.reply.zone} {
		if z != 0 {
			return z
		}
	}
	return 0
}

// way returns whose packets are in the zone.
func (e *entry) way() calls.Way {
	switch {
	case e.both != 0:
	case e.orig.zone != 0:
		return calls.FromInitiator
	case e.reply.zone != 0:
		return calls.FromResponder
	}
	return calls.BothWays
}

// setZone puts the entry into a zone.
func (e *entry) setZone(zone uint16, w calls.Way) {
	e.both, e.orig.zone, e.reply.zone = 0, 0, 0
	switch w {
	case calls.FromInitiator:
		e.orig.zone = zone
	case calls.FromResponder:
		e.reply.zone = zone
	default:
		e.both = zone
	}
}

// has reports whether t is one of the entry's tuples.
func (e *entry) has(proto uint8, t calls.Tuple) bool {
	return e.orig.proto == proto && (e.orig.Tuple == t || e.reply.Tuple == t)
}

// connection returns the entry as a TCP connection.
func (e *entry) connection() calls.Connection {
	c := calls.Connection{
		Original: e.orig.Tuple,
		Reply:    e.reply.Tuple,
		Zone:     e.zone(),
		Way:      e.way(),
		Mark:     e.mark,
		Helper:   e.helper,
		Opening:  e.tcp.opening(),
		Answered: e.tcp == tcpSynRecv,
		Closing:  e.tcp.ended(),
		Reset:    e.tcp == tcpClose,
	}
	if c.Opening {
		c.Left = time.Duration(e.timeout) * time.Second
	}
	return c
}

// flow returns the flow that the entry translates, and whether the entry has the shape that
// Create gives it. An entry with the tuples of a flow may have been created without NAT:
// then the kernel matches the flow's packets and translates none.
func (e *entry) flow() (calls.Flow, bool) {
	ours := e.orig.proto == unix.IPPROTO_GRE && e.status&statusFlow == statusFlow &&
		e.orig.Src.Port() == 0 && e.reply.Dst.Port() == 0 && e.helper == ""
	if !ours {
		return calls.Flow{}, false
	}
	f := calls.Flow{
		Src:    e.orig.Src.Addr(),
		Dst:    e.orig.Dst.Addr(),
		Key:    pptp.CallID(e.orig.Dst.Port()),
		NewSrc: e.reply.Dst.Addr(),
		NewDst: e.reply.Src.Addr(),
		NewKey: pptp.CallID(e.reply.Src.Port()),
		Zone:   e.both | e.orig.zone, // an entry has one of them at most
		OneWay: e.orig.zone != 0,
		Mark:   e.mark,
	}
	if !replyZoneOf(f, e.reply.zone) || e.status&statusNAT != natOf(f) || checkFlow(f) != nil {
		return calls.Flow{}, false
	}
	return f, true
}

// stray returns the entry as a Stray, and whether it is one: an entry that the kernel
// created for a GRE packet without an entry. A helper's entry has a master, and an entry
// that a program created has a fixed timeout.
func (e *entry) stray() (Stray, bool) {
	if e.orig.proto != unix.IPPROTO_GRE || e.orig.Src.Port() != 0 || e.status&(statusExpected|statusFixedTimeout) != 0 || e.helper != "" {
		return Stray{}, false
	}
	return Stray{e.orig.Src.Addr(), e.orig.Dst.Addr(), pptp.CallID(e.orig.Dst.Port()), e.zone(), e.id, e.counts[0]}, true
}

// translates reports whether the entry is f's. It ignores the mark, which others may
// change.
func (e *entry) translates(f calls.Flow) bool {
	there, ours := e.flow()
	return ours && there.Unmarked() == f.Unmarked()
}

// natOf returns the NAT bits that the kernel gives to a flow's entry.
func natOf(f calls.Flow) (nat status) {
	if f.NewSrc != f.Src {
		nat |= statusSrcNAT
	}
	if f.NewDst != f.Dst || f.NewKey != f.Key {
		nat |= statusDstNAT
	}
	return nat
}

// enters returns the original tuple of a flow's entry.
func enters(f calls.Flow) calls.Tuple {
	return calls.Tuple{
		Src: netip.AddrPortFrom(f.Src, 0),
		Dst: netip.AddrPortFrom(f.Dst, uint16(f.Key)),
	}
}

// leaves returns what a flow's packets are after NAT: its entry's reply tuple,
// reversed.
func leaves(f calls.Flow) calls.Tuple {
	return calls.Tuple{
		Src: netip.AddrPortFrom(f.NewSrc, 0),
		Dst: netip.AddrPortFrom(f.NewDst, uint16(f.NewKey)),
	}
}

// flowEntry returns the entry of a flow as it is sent, before NAT.
func flowEntry(f calls.Flow) entry {
	before := f
	before.NewSrc, before.NewDst = f.Src, f.Dst
	e := entry{status: statusFlow, timeout: Timeout, mark: f.Mark}
	if f.NewSrc != f.Src {
		e.natSrc = netip.AddrPortFrom(f.NewSrc, 0)
	}
	if f.NewDst != f.Dst || f.NewKey != f.Key {
		e.natDst = netip.AddrPortFrom(f.NewDst, 0)
	}
	if f.NewDst == f.Dst && f.NewKey != f.Key {
		// Only an address that changes makes the kernel rewrite the key.
		before.NewDst = netip.IPv4Unspecified()
	}
	e.orig = tuple{Tuple: enters(f), proto: unix.IPPROTO_GRE}
	e.reply = tuple{Tuple: leaves(before).Reversed(), proto: unix.IPPROTO_GRE}
	e.place(f)
	return e
}

// nfgenmsgLen is the size of struct nfgenmsg, which precedes the attributes:
// address family, version, and a resource ID in network order.
const nfgenmsgLen = 4

var (
	errShort = errors.New("message shorter than its nfgenmsg header")
	errTuple = errors.New("tuple without its IPv4 addresses")
)

// decodeEntry reads an entry from the data of a netlink message. It skips attributes that
// it does not need; one of the wrong size is an error. It allocates only for the name of a
// helper.
func decodeEntry(b []byte) (entry, error) {
	var e entry
	if err := e.decode(b); err != nil {
		return entry{}, fmt.Errorf("decode conntrack entry: %w", err)
	}
	return e, nil
}

func (e *entry) decode(b []byte) error {
	if len(b) < nfgenmsgLen {
		return errShort
	}
	if err := walk(b[nfgenmsgLen:], e.decodeAttr); err != nil {
		return err
	}
	// This guard makes every decoded tuple an IPv4 one.
	for _, a := range [...]netip.AddrPort{e.orig.Src, e.orig.Dst, e.reply.Src, e.reply.Dst} {
		if !a.Addr().Is4() {
			return errTuple
		}
	}
	return nil
}

func (e *entry) decodeAttr(typ uint16, v []byte) error {
	switch typ {
	case ctaTupleOrig:
		return walk(v, e.orig.decode)
	case ctaTupleReply:
		return walk(v, e.reply.decode)
	case ctaStatus:
		return read32(v, &e.status)
	case ctaTimeout:
		return read32(v, &e.timeout)
	case ctaMark:
		return read32(v, &e.mark)
	case ctaID:
		return read32(v, &e.id)
	case ctaZone:
		return read16(v, &e.both)
	case ctaCountOrig:
		return decodeCounts(&e.counts[0], v)
	case ctaCountReply:
		return decodeCounts(&e.counts[1], v)
	case ctaHelp:
		return walk(v, e.decodeHelp)
	case ctaProtoInfo:
		return walk(v, e.decodeProtoInfo)
	}
	return nil
}

func decodeCounts(t *calls.Traffic, v []byte) error {
	t.Counted = true
	return walk(v, func(typ uint16, v []byte) error {
		switch typ {
		case ctaCountPackets:
			return read64(v, &t.Packets)
		case ctaCountBytes:
			return read64(v, &t.Bytes)
		}
		return nil
	})
}

func (e *entry) decodeHelp(typ uint16, v []byte) error {
	if typ == ctaHelpName {
		e.helper = strings.TrimRight(string(v), "\x00")
	}
	return nil
}

func (e *entry) decodeProtoInfo(typ uint16, v []byte) error {
	if typ == ctaProtoInfoTCP {
		return walk(v, e.decodeTCP)
	}
	return nil
}

func (e *entry) decodeTCP(typ uint16, v []byte) error {
	switch typ {
	case ctaProtoInfoTCPState:
		return read8(v, &e.tcp)
	case ctaProtoInfoTCPFlagsOrig:
		var flags uint8
		err := read8(v[:min(1, len(v))], &flags)
		e.liberal = flags&tcpFlagBeLiberal != 0
		return err
	}
	return nil
}

func (t *tuple) decode(typ uint16, v []byte) error {
	switch typ {
	case ctaTupleIP:
		return walk(v, t.decodeIP)
	case ctaTupleProto:
		return walk(v, t.decodeProto)
	case ctaTupleZone:
		return read16(v, &t.zone)
	}
	return nil
}

func (t *tuple) decodeIP(typ uint16, v []byte) error {
	switch typ {
	case ctaIPv4Src:
		return readAddr(v, &t.Src)
	case ctaIPv4Dst:
		return readAddr(v, &t.Dst)
	}
	return nil
}

func (t *tuple) decodeProto(typ uint16, v []byte) error {
	switch typ {
	case ctaProtoNum:
		return read8(v, &t.proto)
	case ctaProtoSrcPort:
		return readPort(v, &t.Src)
	case ctaProtoDstPort:
		return readPort(v, &t.Dst)
	}
	return nil
}
