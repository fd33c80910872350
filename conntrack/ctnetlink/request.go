package ctnetlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/conntrack"
)

// request is one message to the kernel, with its attributes yet to be encoded.
type request struct {
	kind  netlink.HeaderType
	flags netlink.HeaderFlags
	attrs func(*netlink.AttributeEncoder)
}

// message encodes the request. Sequence and length are left to the socket.
func (r request) message() (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	r.attrs(ae)
	b, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, fmt.Errorf("encode request: %w", err)
	}
	return netlink.Message{
		Header: netlink.Header{Type: r.kind, Flags: netlink.Request | r.flags},
		Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, b...),
	}, nil
}

// getRequest asks for the entry of which t is a tuple, of either direction. The
// kernel looks in one zone.
func getRequest(t tuple, zone uint16) request {
	return request{
		kind:  msgGet,
		flags: netlink.Acknowledge,
		attrs: func(ae *netlink.AttributeEncoder) {
			t.encode(ae, ctaTupleOrig)
			encodeZone(ae, zone)
		},
	}
}

// createRequest puts e into the table, and is refused with EEXIST if one of its
// tuples is there.
func createRequest(e entry) request {
	return request{
		kind:  msgNew,
		flags: netlink.Create | netlink.Excl | netlink.Acknowledge,
		attrs: e.encode,
	}
}

// deleteRequest takes the entry of which t is a tuple out of the table; with an
// id other than 0, only if it is the entry's.
//
// The tuple is never left out: a delete without one empties the whole table.
func deleteRequest(t tuple, zone uint16, id uint32) request {
	return request{
		kind:  msgDelete,
		flags: netlink.Acknowledge,
		attrs: func(ae *netlink.AttributeEncoder) {
			t.encode(ae, ctaTupleOrig)
			encodeZone(ae, zone)
			if id != 0 {
				ae.Uint32(ctaID, id)
			}
		},
	}
}

// filter says which entries a dump is about. A kernel before 5.8 takes no notice
// of it, and a later one may know no such filter, so what comes is looked at
// again with match. Of the two tuples, the one with flags counts.
type filter struct {
	orig, reply           tuple
	origFlags, replyFlags filterFlags
	match                 func(entry) bool
}

// byProto filters by protocol: f(tuple).
func byProto(proto uint8) filter {
	return filter{
		orig:      tuple{proto: proto},
		origFlags: filterProto,
		match:     func(e entry) bool { return e.orig.proto == proto },
	}
}

// byPort filters the TCP connections by original destination port.
func byPort(port uint16) filter {
	f := byProto(unix.IPPROTO_TCP)
	f.orig.Dst = netip.AddrPortFrom(netip.Addr{}, port)
	f.origFlags |= filterDstPort
	f.match = func(e entry) bool {
		return e.orig.proto == unix.IPPROTO_TCP && e.orig.Dst.Port() == port
	}
	return f
}

// byTuple returns two filters, since the kernel's demands both tuples at once:
// the TCP entries whose original tuple is t, and those whose reply tuple is.
func byTuple(t conntrack.Tuple) [2]filter {
	tcp := tuple{Tuple: t, proto: unix.IPPROTO_TCP}
	match := func(e entry) bool { return e.has(unix.IPPROTO_TCP, t) }
	return [2]filter{
		{orig: tcp, origFlags: filterTuple, match: match},
		{reply: tcp, replyFlags: filterTuple, match: match},
	}
}

// dumpRequest asks for all IPv4 entries of all zones that pass the filter, or
// simply all of them.
func dumpRequest(f filter, inKernel bool) request {
	return request{kind: msgGet, flags: netlink.Dump, attrs: func(ae *netlink.AttributeEncoder) {
		if inKernel {
			f.encode(ae)
		}
	}}
}

func (f filter) encode(ae *netlink.AttributeEncoder) {
	if f.origFlags != 0 {
		f.orig.encode(ae, ctaTupleOrig)
	}
	if f.replyFlags != 0 {
		f.reply.encode(ae, ctaTupleReply)
	}
	ae.Nested(ctaFilter, func(ae *netlink.AttributeEncoder) error {
		ae.ByteOrder = binary.NativeEndian
		ae.Uint32(ctaFilterOrigFlags, uint32(f.origFlags))
		ae.Uint32(ctaFilterReplyFlags, uint32(f.replyFlags))
		return nil
	})
}

func (e entry) encode(ae *netlink.AttributeEncoder) {
	e.orig.encode(ae, ctaTupleOrig)
	e.reply.encode(ae, ctaTupleReply)
	ae.Uint32(ctaStatus, uint32(e.status))
	ae.Uint32(ctaTimeout, e.timeout)
	ae.Uint32(ctaMark, e.mark)
	encodeZone(ae, e.both)
	encodeNAT(ae, ctaNATDst, e.natDst)
	encodeNAT(ae, ctaNATSrc, e.natSrc)
}

// encode writes the tuple; without addresses, where a filter needs none.
func (t tuple) encode(ae *netlink.AttributeEncoder, as uint16) {
	ae.Nested(as, func(ae *netlink.AttributeEncoder) error {
		if t.Src.IsValid() && t.Dst.IsValid() {
			ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
				encodeIPv4(ae, ctaIPv4Src, t.Src.Addr())
				encodeIPv4(ae, ctaIPv4Dst, t.Dst.Addr())
				return nil
			})
		}
		ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
			ae.Uint8(ctaProtoNum, t.proto)
			ae.Uint16(ctaProtoSrcPort, t.Src.Port())
			ae.Uint16(ctaProtoDstPort, t.Dst.Port())
			return nil
		})
		return nil
	})
}

// encodeZone leaves the default zone out: a kernel without zones refuses the
// attribute.
func encodeZone(ae *netlink.AttributeEncoder, zone uint16) {
	if zone != 0 {
		ae.Uint16(ctaZone, zone)
	}
}

// encodeNAT writes the one address of a NAT range, or nothing.
func encodeNAT(ae *netlink.AttributeEncoder, as uint16, to netip.Addr) {
	if !to.IsValid() {
		return
	}
	ae.Nested(as, func(ae *netlink.AttributeEncoder) error {
		encodeIPv4(ae, ctaNATv4MinIP, to)
		encodeIPv4(ae, ctaNATv4MaxIP, to)
		return nil
	})
}

func encodeIPv4(ae *netlink.AttributeEncoder, as uint16, addr netip.Addr) {
	b := addr.As4()
	ae.Bytes(as, b[:])
}
