package conntrack

import (
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Message types: enum cntl_msg_types in linux/netfilter/nfnetlink_conntrack.h,
// under the subsystem in the high byte.
//
//	IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
const (
	msgNew    netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK << 8
	msgGet    netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	msgDelete netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
)

// Attributes of an entry: enum ctattr_type.
const (
	ctaTupleOrig  = 1  // CTA_TUPLE_ORIG
	ctaTupleReply = 2  // CTA_TUPLE_REPLY
	ctaStatus     = 3  // CTA_STATUS, be32
	ctaProtoInfo  = 4  // CTA_PROTOINFO
	ctaHelp       = 5  // CTA_HELP
	ctaNATSrc     = 6  // CTA_NAT_SRC
	ctaTimeout    = 7  // CTA_TIMEOUT, be32, seconds
	ctaMark       = 8  // CTA_MARK, be32
	ctaCountOrig  = 9  // CTA_COUNTERS_ORIG: present with net.netfilter.nf_conntrack_acct
	ctaCountReply = 10 // CTA_COUNTERS_REPLY
	ctaID         = 12 // CTA_ID, be32
	ctaNATDst     = 13 // CTA_NAT_DST
	ctaZone       = 18 // CTA_ZONE, be16
	ctaMarkMask   = 21 // CTA_MARK_MASK, be32
	ctaLabels     = 22 // CTA_LABELS, 128 bits in words of the machine
	ctaLabelsMask = 23 // CTA_LABELS_MASK, likewise
	ctaFilter     = 25 // CTA_FILTER, since Linux 5.8
)

// Attributes within those: enum ctattr_tuple, ctattr_ip, ctattr_l4proto,
// ctattr_protoinfo, ctattr_protoinfo_tcp, ctattr_help, ctattr_nat,
// ctattr_protonat and ctattr_filter.
const (
	ctaTupleIP    = 1 // CTA_TUPLE_IP
	ctaTupleProto = 2 // CTA_TUPLE_PROTO
	ctaTupleZone  = 3 // CTA_TUPLE_ZONE, be16

	ctaIPv4Src = 1 // CTA_IP_V4_SRC
	ctaIPv4Dst = 2 // CTA_IP_V4_DST

	ctaProtoNum     = 1 // CTA_PROTO_NUM, u8
	ctaProtoSrcPort = 2 // CTA_PROTO_SRC_PORT, be16; the source key of GRE
	ctaProtoDstPort = 3 // CTA_PROTO_DST_PORT, be16; the destination key of GRE

	ctaProtoInfoTCP      = 1 // CTA_PROTOINFO_TCP
	ctaProtoInfoTCPState = 1 // CTA_PROTOINFO_TCP_STATE, u8

	ctaProtoInfoTCPWscaleOrig  = 2 // CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, u8
	ctaProtoInfoTCPWscaleReply = 3 // CTA_PROTOINFO_TCP_WSCALE_REPLY, u8
	ctaProtoInfoTCPFlagsOrig   = 4 // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, struct nf_ct_tcp_flags: u8 flags, u8 mask
	ctaProtoInfoTCPFlagsReply  = 5 // CTA_PROTOINFO_TCP_FLAGS_REPLY, likewise

	ctaHelpName = 1 // CTA_HELP_NAME

	ctaCountPackets = 1 // CTA_COUNTERS_PACKETS, be64
	ctaCountBytes   = 2 // CTA_COUNTERS_BYTES, be64

	ctaNATv4MinIP = 1 // CTA_NAT_V4_MINIP
	ctaNATv4MaxIP = 2 // CTA_NAT_V4_MAXIP
	ctaNATProto   = 3 // CTA_NAT_PROTO

	ctaProtoNATPortMin = 1 // CTA_PROTONAT_PORT_MIN, be16
	ctaProtoNATPortMax = 2 // CTA_PROTONAT_PORT_MAX, be16

	ctaFilterOrigFlags  = 1 // CTA_FILTER_ORIG_FLAGS, u32 in native order
	ctaFilterReplyFlags = 2 // CTA_FILTER_REPLY_FLAGS, likewise
)

// filterFlags say which fields of a tuple a dump is filtered by: the
// CTA_FILTER_F_… of net/netfilter/nf_internals.h. The kernel compares ports of
// TCP and UDP, not the keys of GRE.
type filterFlags uint32

const (
	filterSrc     filterFlags = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterDst     filterFlags = 1 << 1 // CTA_FILTER_F_CTA_IP_DST
	filterProto   filterFlags = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
	filterSrcPort filterFlags = 1 << 4 // CTA_FILTER_F_CTA_PROTO_SRC_PORT
	filterDstPort filterFlags = 1 << 5 // CTA_FILTER_F_CTA_PROTO_DST_PORT

	filterTuple = filterSrc | filterDst | filterProto | filterSrcPort | filterDstPort
)

// status is an entry's state bits: enum ip_conntrack_status in
// linux/netfilter/nf_conntrack_common.h.
type status uint32

const (
	statusExpected     status = 1 << 0  // IPS_EXPECTED: a helper has foreseen it
	statusSeenReply    status = 1 << 1  // IPS_SEEN_REPLY: no NAT rule is asked about its packets
	statusAssured      status = 1 << 2  // IPS_ASSURED: not dropped early when the table is full
	statusConfirmed    status = 1 << 3  // IPS_CONFIRMED: in the table; without it a create is refused (EBUSY)
	statusSrcNAT       status = 1 << 4  // IPS_SRC_NAT: its packets' sources are translated
	statusDstNAT       status = 1 << 5  // IPS_DST_NAT: their destinations are
	statusFixedTimeout status = 1 << 10 // IPS_FIXED_TIMEOUT: packets do not change the timeout

	statusFlow      = statusSeenReply | statusAssured | statusConfirmed | statusFixedTimeout
	statusConnected = statusSeenReply | statusAssured | statusConfirmed

	statusNAT = statusSrcNAT | statusDstNAT // only the kernel sets these
)

// tcpState is enum tcp_conntrack in linux/netfilter/nf_conntrack_tcp.h.
type tcpState uint8

const (
	tcpSynSent     tcpState = 1 // SYN seen
	tcpSynRecv     tcpState = 2 // SYN+ACK seen
	tcpEstablished tcpState = 3 // and that acknowledged
	tcpLastAck     tcpState = 6 // FIN seen from both ends
	tcpClose       tcpState = 8 // RST seen
)

// opening reports whether TCP's handshake is under way.
func (s tcpState) opening() bool { return s == tcpSynSent || s == tcpSynRecv }

// ended reports whether TCP has ended. In FIN_WAIT and CLOSE_WAIT it has not: one end has
// sent its FIN, and the other may still send.
func (s tcpState) ended() bool { return s >= tcpLastAck && s <= tcpClose }

// What the kernel knows of each direction of a TCP connection: the
// IP_CT_TCP_FLAG_… of linux/netfilter/nf_conntrack_tcp.h.
//
// The kernel gives SACK_PERM and BE_LIBERAL to a connection that it meets in its middle
// (tcp_new in nf_conntrack_proto_tcp.c), so that it refuses no segment for lying outside of
// a window whose scale is unknown. But it lets such a segment through without tracking it
// (tcp_in_window), so data stays unacknowledged for ever, and the entry's timeout stays at
// the 300 seconds for such data. With WINDOW_SCALE and the largest scale (RFC 7323 section
// 2.3) every segment lies in the window, and tracking goes on.
//
// MAXACK_SET must not be set. It would say that the highest acknowledgement from that end
// is known, and is 0. The kernel would then refuse a RST whose number is before 0, as half
// of all numbers are. The kernel sets MAXACK_SET by itself.
const (
	tcpFlagWindowScale = 0x01 // IP_CT_TCP_FLAG_WINDOW_SCALE
	tcpFlagSACKPerm    = 0x02 // IP_CT_TCP_FLAG_SACK_PERM
	tcpFlagBeLiberal   = 0x08 // IP_CT_TCP_FLAG_BE_LIBERAL
	tcpFlagMaxAck      = 0x20 // IP_CT_TCP_FLAG_MAXACK_SET

	tcpFlagsRevived = tcpFlagWindowScale | tcpFlagSACKPerm | tcpFlagBeLiberal
	tcpMaxWscale    = 14
)
