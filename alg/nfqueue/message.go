package nfqueue

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The messages of nfnetlink_queue (linux/netlink.h, linux/netfilter/nfnetlink.h and
// linux/netfilter/nfnetlink_queue.h), in the machine's byte order where not said
// otherwise; offsets in bytes:
//
//	struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 portid; }
//	struct nfgenmsg { u8 family; u8 version; be16 queue; }
//	struct nlattr   { u16 len; u16 type; }         then len - 4 bytes, padded to 4
//	struct nlmsgerr { int error; ... }             in place of nfgenmsg
//	struct nfqnl_msg_packet_hdr  { be32 packet_id; be16 hw_protocol; u8 hook; }
//	struct nfqnl_msg_verdict_hdr { be32 verdict; be32 id; }
const (
	atType   = 4
	atFlags  = 6
	atFamily = 16
	atQueue  = 18
	atError  = 16
	atAttrs  = 20

	attrLen    = 4  // of struct nlattr
	headLen    = 32 // of a verdict: nlmsghdr, nfgenmsg, one attribute of 8 bytes
	atVerdict  = 24 // in a verdict
	atID       = 28 // in a verdict
	markLen    = 8  // of the mark's attribute
	maxHeadLen = headLen + markLen + attrLen
)

// Message types: the subsystem, NFNL_SUBSYS_QUEUE, in the high byte.
const (
	typePacket  = 3<<8 | iota // NFQNL_MSG_PACKET
	typeVerdict               // NFQNL_MSG_VERDICT
	typeConfig                // NFQNL_MSG_CONFIG
	typeBatch                 // NFQNL_MSG_VERDICT_BATCH: all packets up to an ID
)

// Attributes of a packet and of a verdict (enum nfqnl_attr_type).
const (
	attrPacketHdr  = 1
	attrVerdictHdr = 2
	attrMark       = 3
	attrPayload    = 10
	attrCT         = 11 // NFQA_CT: attributes of the conntrack entry
	attrCTInfo     = 12 // NFQA_CT_INFO, be32: enum ip_conntrack_info
	attrCapLen     = 13

	attrTypeMask = 0x3fff // NLA_TYPE_MASK
)

// Netfilter's verdicts.
const (
	nfDrop   = 0
	nfAccept = 1
	nfRepeat = 4
)

var native = binary.NativeEndian

// align rounds up to where the next message or attribute starts.
func align(n int) int { return (n + 3) &^ 3 }

// Attributes of a conntrack entry, and of its tuples (enum ctattr_type, ctattr_tuple).
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaZone       = 18
	ctaTupleZone  = 3

	replying = 3 // IP_CT_IS_REPLY: the least ip_conntrack_info of packets of the reply direction
)

// queued is a packet as the kernel's message describes it.
type queued struct {
	Packet
	id uint32
	at int // where Payload starts in the message

	zones [2]uint16 // of the entry's original and reply direction
	reply bool      // the packet is of the reply direction
}

// parsePacket reads a packet message, b from its nlmsghdr on. Cut says that the
// message did not fit its buffer. It reports false if the packet has no ID, so that
// no verdict could name it.
func parsePacket(b []byte, cut bool) (q queued, ok bool) {
	q.Truncated = cut
	for at := atAttrs; at+attrLen <= len(b); {
		end := at + int(native.Uint16(b[at:]))
		if end < at+attrLen {
			break
		}
		if end > len(b) {
			end, q.Truncated = len(b), true
		}
		ok = q.attribute(b, at, end) || ok
		at = align(end)
	}
	q.Zone = q.zones[0]
	if q.reply {
		q.Zone = q.zones[1]
	}
	return q, ok
}

// entry reads the zones of a conntrack entry. An entry has one of the three at most.
func (q *queued) entry(ct []byte) {
	q.Zoned = true
	for at := 0; at+attrLen <= len(ct); {
		typ, data, next := nested(ct, at)
		switch typ {
		case ctaZone:
			z := zone(data)
			q.zones = [2]uint16{z, z}
		case ctaTupleOrig, ctaTupleReply:
			if z := tupleZone(data); z != 0 {
				q.zones[typ-ctaTupleOrig] = z
			}
		}
		at = next
	}
}

func tupleZone(tuple []byte) uint16 {
	for at := 0; at+attrLen <= len(tuple); {
		typ, data, next := nested(tuple, at)
		if typ == ctaTupleZone {
			return zone(data)
		}
		at = next
	}
	return 0
}

func zone(data []byte) uint16 {
	if len(data) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(data)
}

// nested returns the attribute at an offset, and where the next one starts.
func nested(b []byte, at int) (typ uint16, data []byte, next int) {
	end := at + int(native.Uint16(b[at:]))
	if end < at+attrLen || end > len(b) {
		return 0, nil, len(b)
	}
	return native.Uint16(b[at+2:]) & attrTypeMask, b[at+attrLen : end], align(end)
}

// attribute reads one attribute, b[at:end], and reports whether it had the ID.
func (q *queued) attribute(b []byte, at, end int) bool {
	data := b[at+attrLen : end : end]
	switch native.Uint16(b[at+2:]) & attrTypeMask {
	case attrPacketHdr:
		if len(data) < 7 {
			return false
		}
		q.id, q.Hook = binary.BigEndian.Uint32(data), Hook(data[6])
		return true
	case attrMark:
		if len(data) >= 4 {
			q.Mark = binary.BigEndian.Uint32(data)
		}
	case attrCT:
		q.entry(data)
	case attrCTInfo:
		q.reply = len(data) >= 4 && binary.BigEndian.Uint32(data) >= replying
	case attrCapLen:
		q.Truncated = true
	case attrPayload:
		q.Payload, q.at = data, at+attrLen
	}
	return false
}

// messageType returns a message's type. What is no message is of type 0.
func messageType(b []byte) uint16 {
	if len(b) < atAttrs {
		return 0
	}
	return native.Uint16(b[atType:])
}

// answer returns what the kernel answered in an NLMSG_ERROR message, 0 for no error.
func answer(b []byte) unix.Errno { return unix.Errno(-int32(native.Uint32(b[atError:]))) }

// ruling is a verdict on a packet, or on all waiting packets up to it.
type ruling struct {
	verdict uint32 // netfilter's
	id      uint32
	mark    uint32
	marks   bool // set the packet's mark to mark
}

// headLen returns how many bytes write needs.
func (r ruling) headLen() int {
	if r.marks {
		return headLen + markLen
	}
	return headLen
}

// write writes the ruling as a message of its own and returns its length.
func (r ruling) write(b []byte, typ, queue uint16) int {
	n := r.headLen()
	native.PutUint32(b, uint32(n))
	native.PutUint16(b[atType:], typ)
	native.PutUint16(b[atFlags:], unix.NLM_F_REQUEST)
	native.PutUint64(b[8:], 0) // sequence number and port
	b[atFamily], b[atFamily+1] = unix.AF_INET, 0
	binary.BigEndian.PutUint16(b[atQueue:], queue)
	putAttrHead(b[atAttrs:], attrVerdictHdr, 8)
	binary.BigEndian.PutUint32(b[atVerdict:], r.verdict)
	binary.BigEndian.PutUint32(b[atID:], r.id)
	if r.marks {
		putAttrHead(b[headLen:], attrMark, 4)
		binary.BigEndian.PutUint32(b[headLen+attrLen:], r.mark)
	}
	return n
}

// writeBefore writes the ruling with the payload that starts in b at the given
// offset, which must be at least maxHeadLen and have three bytes of b behind the
// payload. It returns where the message starts and ends; nothing of the payload is
// moved.
func (r ruling) writeBefore(b []byte, at, payload int, queue uint16) (start, end int) {
	start = at - attrLen - r.headLen()
	n := r.write(b[start:at], typeVerdict, queue)
	putAttrHead(b[start+n:], attrPayload, payload)
	native.PutUint32(b[start:], uint32(n+attrLen+payload))
	return start, start + align(n+attrLen+payload)
}

// tellZones is the configuration that attaches a packet's conntrack entry to its message.
func tellZones(queue uint16) []byte {
	const (
		attrMask, attrFlags = 4, 5   // NFQA_CFG_MASK, NFQA_CFG_FLAGS, be32
		conntrack           = 1 << 1 // NFQA_CFG_F_CONNTRACK
	)
	b := make([]byte, atAttrs+2*(attrLen+4))
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[atType:], typeConfig)
	native.PutUint16(b[atFlags:], unix.NLM_F_REQUEST)
	binary.BigEndian.PutUint16(b[atQueue:], queue)
	for i, typ := range []uint16{attrMask, attrFlags} {
		at := atAttrs + i*(attrLen+4)
		putAttrHead(b[at:], typ, 4)
		binary.BigEndian.PutUint32(b[at+attrLen:], conntrack)
	}
	return b
}

func putAttrHead(b []byte, typ uint16, data int) {
	native.PutUint16(b, uint16(attrLen+data))
	native.PutUint16(b[2:], typ)
}
