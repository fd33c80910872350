package conntrack

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// request is one message to the kernel, with its attributes yet to be encoded.
type request struct {
	kind  netlink.HeaderType
	flags netlink.HeaderFlags
	attrs func(*encoder)
}

// outbox is the messages of one datagram that will be sent, in memory that is reused for
// the next.
type outbox struct {
	encoder
	at []int // where in the buffer each message begins
}

func (o *outbox) reset() { o.b, o.at = o.b[:0], o.at[:0] }

// add encodes a request. What sending it needs is left open: see number.
func (o *outbox) add(r request) {
	at := len(o.b)
	o.at = append(o.at, at)
	o.b = binary.NativeEndian.AppendUint32(o.b, 0)
	o.b = binary.NativeEndian.AppendUint16(o.b, uint16(r.kind))
	o.b = binary.NativeEndian.AppendUint16(o.b, uint16(netlink.Request|r.flags))
	o.b = append(o.b, 0, 0, 0, 0, 0, 0, 0, 0)                // sequence; port: the socket's
	o.b = append(o.b, unix.AF_INET, unix.NFNETLINK_V0, 0, 0) // struct nfgenmsg
	r.attrs(&o.encoder)
	binary.NativeEndian.PutUint32(o.b[at:], uint32(len(o.b)-at))
}

// number gives the messages the sequence numbers from first on. Only the last one asks for
// an acknowledgement, unless it asks for entries, which are the answer. The kernel carries
// out the messages in order, each to its end, and reports failures without being asked
// (netlink_rcv_skb in af_netlink.c).
//
// bare says that the last message's answer is an entry, with no end after it.
func (o *outbox) number(first uint32) (bare bool) {
	for i, at := range o.at {
		binary.NativeEndian.PutUint32(o.b[at+8:], first+uint32(i))
	}
	last := o.b[o.at[len(o.at)-1]:]
	kind, flags := netlink.HeaderType(binary.NativeEndian.Uint16(last[4:])), netlink.HeaderFlags(binary.NativeEndian.Uint16(last[6:]))
	if kind != msgGet {
		binary.NativeEndian.PutUint16(last[6:], uint16(flags|netlink.Acknowledge))
	}
	return kind == msgGet && flags&netlink.Dump == 0
}

// getRequest asks for the entry of which t is a tuple, of either direction. The
// kernel looks in one zone.
func getRequest(t tuple, zone uint16) request {
	return request{kind: msgGet, attrs: func(ae *encoder) {
		t.encode(ae, ctaTupleOrig)
		encodeZone(ae, zone)
	}}
}

// createRequest puts e into the table, and is refused with EEXIST if one of its
// tuples is there.
func createRequest(e entry) request {
	return request{kind: msgNew, flags: netlink.Create | netlink.Excl, attrs: func(ae *encoder) { e.encode(ae) }}
}

// markRequest sets the mark of the entry of which t is a tuple. It creates none: without an
// entry the answer is ENOENT.
func markRequest(t tuple, zone uint16, mark uint32) request {
	return request{kind: msgNew, attrs: func(ae *encoder) {
		t.encode(ae, ctaTupleOrig)
		ae.put32(ctaMark, mark)
		encodeZone(ae, zone)
	}}
}

// lifeRequest sets the seconds that a connection's entry lives on, and nothing else: with the
// translation in it, as the conntrack tool sends it, the kernel refuses it. It creates none.
func lifeRequest(conn calls.Connection, life uint32) request {
	return request{kind: msgNew, attrs: func(ae *encoder) {
		tcp(conn.Original).encode(ae, ctaTupleOrig)
		ae.put32(ctaTimeout, life)
		encodeZone(ae, conn.ZoneOf(calls.Initiator))
	}}
}

// looseRequest is lifeRequest for an entry that is to take no packet for invalid, from now on.
func looseRequest(conn calls.Connection, life uint32) request {
	return request{kind: msgNew, attrs: func(ae *encoder) {
		tcp(conn.Original).encode(ae, ctaTupleOrig)
		ae.put32(ctaTimeout, life)
		ae.nest(ctaProtoInfo, func(ae *encoder) {
			ae.nest(ctaProtoInfoTCP, func(ae *encoder) { encodeLoose(ae, tcpFlagsRevived|tcpFlagMaxAck) })
		})
		encodeZone(ae, conn.ZoneOf(calls.Initiator))
	}}
}

// deleteRequest deletes the entry of which t is a tuple; with an id other than 0, only if
// it is the entry's.
//
// The tuple is never left out: a delete without one empties the whole table.
func deleteRequest(t tuple, zone uint16, id uint32) request {
	return request{kind: msgDelete, attrs: func(ae *encoder) {
		t.encode(ae, ctaTupleOrig)
		encodeZone(ae, zone)
		if id != 0 {
			ae.put32(ctaID, id)
		}
	}}
}

// filter says which entries a dump returns. A kernel before 5.8 ignores it, and a later one
// may not know such a filter, so match checks the entries again. Of the two tuples, the one
// with flags counts.
type filter struct {
	orig, reply           tuple
	origFlags, replyFlags filterFlags
	match                 func(*entry) bool
}

// byProto filters by protocol: f(tuple).
func byProto(proto uint8) filter {
	return filter{
		orig:      tuple{proto: proto},
		origFlags: filterProto,
		match:     func(e *entry) bool { return e.orig.proto == proto },
	}
}

// byPort filters the TCP connections by original destination port.
func byPort(port uint16) filter {
	f := byProto(unix.IPPROTO_TCP)
	f.orig.Dst = netip.AddrPortFrom(netip.Addr{}, port)
	f.origFlags |= filterDstPort
	f.match = func(e *entry) bool {
		return e.orig.proto == unix.IPPROTO_TCP && e.orig.Dst.Port() == port
	}
	return f
}

// byTuple returns two filters, since the kernel's demands both tuples at once:
// the TCP entries whose original tuple is t, and those whose reply tuple is.
func byTuple(t calls.Tuple) [2]filter {
	tcp := tuple{Tuple: t, proto: unix.IPPROTO_TCP}
	match := func(e *entry) bool { return e.has(unix.IPPROTO_TCP, t) }
	return [2]filter{
		{orig: tcp, origFlags: filterTuple, match: match},
		{reply: tcp, replyFlags: filterTuple, match: match},
	}
}

// dumpRequest asks for the IPv4 entries of all zones that pass the filter, or for all of
// them.
func dumpRequest(f filter, inKernel bool) request {
	return request{kind: msgGet, flags: netlink.Dump, attrs: func(ae *encoder) {
		if inKernel {
			f.encode(ae)
		}
	}}
}

func (f filter) encode(ae *encoder) {
	if f.origFlags != 0 {
		f.orig.encode(ae, ctaTupleOrig)
	}
	if f.replyFlags != 0 {
		f.reply.encode(ae, ctaTupleReply)
	}
	ae.nest(ctaFilter, func(ae *encoder) {
		ae.putNative32(ctaFilterOrigFlags, uint32(f.origFlags))
		ae.putNative32(ctaFilterReplyFlags, uint32(f.replyFlags))
	})
}

func (e *entry) encode(ae *encoder) {
	e.orig.encode(ae, ctaTupleOrig)
	e.reply.encode(ae, ctaTupleReply)
	ae.put32(ctaStatus, uint32(e.status))
	ae.put32(ctaTimeout, e.timeout)
	ae.put32(ctaMark, e.mark)
	encodeZone(ae, e.both)
	encodeNAT(ae, ctaNATDst, e.natDst)
	encodeNAT(ae, ctaNATSrc, e.natSrc)
	encodeTCP(ae, e.tcp)
}

// encode writes the tuple, without addresses if a filter needs none.
func (t tuple) encode(ae *encoder, as uint16) {
	ae.nest(as, func(ae *encoder) {
		if t.Src.IsValid() && t.Dst.IsValid() {
			ae.nest(ctaTupleIP, func(ae *encoder) {
				ae.putAddr(ctaIPv4Src, t.Src.Addr())
				ae.putAddr(ctaIPv4Dst, t.Dst.Addr())
			})
		}
		ae.nest(ctaTupleProto, func(ae *encoder) {
			ae.put(ctaProtoNum, t.proto)
			ae.put16(ctaProtoSrcPort, t.Src.Port())
			ae.put16(ctaProtoDstPort, t.Dst.Port())
		})
		if t.zone != 0 {
			ae.put16(ctaTupleZone, t.zone)
		}
	})
}

// encodeZone leaves the default zone out: a kernel without zones refuses the
// attribute.
func encodeZone(ae *encoder, zone uint16) {
	if zone != 0 {
		ae.put16(ctaZone, zone)
	}
}

// encodeNAT writes the one address of a NAT range and, unless it is 0, the one
// port; or nothing.
func encodeNAT(ae *encoder, as uint16, to netip.AddrPort) {
	if !to.IsValid() {
		return
	}
	ae.nest(as, func(ae *encoder) {
		ae.putAddr(ctaNATv4MinIP, to.Addr())
		ae.putAddr(ctaNATv4MaxIP, to.Addr())
		if to.Port() != 0 {
			ae.nest(ctaNATProto, func(ae *encoder) {
				ae.put16(ctaProtoNATPortMin, to.Port())
				ae.put16(ctaProtoNATPortMax, to.Port())
			})
		}
	})
}

// encodeTCP writes the state of a TCP connection that the kernel tracks from now on, or
// nothing.
func encodeTCP(ae *encoder, s tcpState) {
	if s == 0 {
		return
	}
	ae.nest(ctaProtoInfo, func(ae *encoder) {
		ae.nest(ctaProtoInfoTCP, func(ae *encoder) {
			ae.put(ctaProtoInfoTCPState, byte(s))
			encodeLoose(ae, tcpFlagsRevived)
		})
	})
}

// encodeLoose writes what has the kernel take every packet of a TCP connection for valid. The flags of a mask are
// as in an entry that this package creates.
func encodeLoose(ae *encoder, mask byte) {
	const flags = byte(tcpFlagsRevived)
	ae.put(ctaProtoInfoTCPWscaleOrig, tcpMaxWscale)
	ae.put(ctaProtoInfoTCPWscaleReply, tcpMaxWscale)
	ae.put(ctaProtoInfoTCPFlagsOrig, flags, mask)
	ae.put(ctaProtoInfoTCPFlagsReply, flags, mask)
}
