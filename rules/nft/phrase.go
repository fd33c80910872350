package nft

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// phrase is one part of a rule, as nft's words and as the expressions that nft makes of
// them. Both stand side by side, so that neither changes without the other.
type phrase struct {
	words string
	exprs []expr.Any
	// oneOf are the values of which exprs' last one is to be; nil if exprs say all.
	oneOf []byte
	// comment is a remark on the rule, which matches everything.
	comment string
}

// rule is one rule: phrases that all have to match, and a statement at the end.
type rule []phrase

func (r rule) String() string {
	words := make([]string, len(r))
	for i, p := range r {
		words[i] = p.words
	}
	return strings.Join(words, " ")
}

// reg is the register through which all expressions work.
const reg = 1

// Offsets of header fields, in bytes.
const (
	ipHeaderLength = 0 // low nibble
	ipLength       = 2
	ipProtocol     = 9
	tcpDataOffset  = 12 // high nibble
	tcpFlags       = 13
)

// TCP flags, RFC 9293 section 3.1.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }
func big16(v uint16) []byte  { return binary.BigEndian.AppendUint16(nil, v) }
func big32(v uint32) []byte  { return binary.BigEndian.AppendUint32(nil, v) }

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }
func other(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: data} }

// and masks the register.
func and(mask []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

func network(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func transport(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: reg} }

// upper returns expressions for a packet of an upper protocol: nft puts them before every
// match on that protocol's header.
func upper(protocol byte, exprs ...expr.Any) []expr.Any {
	return append([]expr.Any{meta(expr.MetaKeyL4PROTO), equal([]byte{protocol})}, exprs...)
}

// isTCP is what every packet of the gateway is asked first. The kernel compares a byte of the
// packet in line (nft_payload_fast), and calls a function for meta l4proto.
var isTCP = phrase{words: "ip protocol tcp", exprs: []expr.Any{network(ipProtocol, 1), equal([]byte{unix.IPPROTO_TCP})}}

// notLooped matches packets that do not arrive over the loopback interface.
var notLooped = phrase{words: `iifname != "lo"`, exprs: []expr.Any{meta(expr.MetaKeyIIFNAME), other(name("lo"))}}

// fromVRF matches the second visit of a packet that has come in over a VRF: its interface is
// then the VRF's device.
var fromVRF = phrase{words: `meta iifkind "vrf"`, exprs: []expr.Any{meta(iifKind), equal(name("vrf"))}}

// iifKind is NFT_META_IIFKIND of linux/netfilter/nf_tables.h.
const iifKind expr.MetaKey = 26

// name is an interface's name or kind, as long as the kernel has it.
func name(text string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, text)
	return b
}

// state matches packets in conntrack states.
func state(words string, bits uint32) phrase {
	return phrase{words: "ct state " + words, exprs: []expr.Any{&expr.Ct{Register: reg, Key: expr.CtKeySTATE}, and(native(bits)), other(native(0))}}
}

var (
	ours      = state("new,established", expr.CtStateBitNEW|expr.CtStateBitESTABLISHED)
	related   = state("related", expr.CtStateBitRELATED)
	untracked = state("untracked", expr.CtStateBitUNTRACKED)
)

// original is IP_CT_DIR_ORIGINAL of linux/netfilter/nf_conntrack_tuple_common.h.
const original = 0

// openedTo matches the packets of connections that were opened to a port, before DNAT.
func openedTo(port uint16) phrase {
	return phrase{
		words: fmt.Sprintf("ct original proto-dst %d", port),
		exprs: []expr.Any{&expr.Ct{Register: reg, Key: expr.CtKeyPROTODST, Direction: original}, equal(big16(port))},
	}
}

// ctMarked matches connections that have all bits of a mark.
func ctMarked(bits uint32) phrase {
	return phrase{
		words: fmt.Sprintf("ct mark & 0x%[1]x == 0x%[1]x", bits),
		exprs: []expr.Any{&expr.Ct{Register: reg, Key: expr.CtKeyMARK}, and(native(bits)), equal(native(bits))},
	}
}

// labelled matches connections that have a label, and label sets one.
func labelled(number uint8) phrase {
	return phrase{
		words: fmt.Sprintf("ct label %d", number),
		exprs: []expr.Any{&expr.Ct{Register: reg, Key: expr.CtKeyLABELS}, and(labelBit(number)), other(make([]byte, 16))},
	}
}

func label(number uint8) phrase {
	return phrase{
		words: fmt.Sprintf("ct label set %d", number),
		exprs: []expr.Any{&expr.Immediate{Register: reg, Data: labelBit(number)}, &expr.Ct{Register: reg, SourceRegister: true, Key: expr.CtKeyLABELS}},
	}
}

// labelBit is a label among the 128 of a connection: in the kernel's words of its own byte
// order.
func labelBit(number uint8) []byte {
	b := make([]byte, 16)
	if binaryutil.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		b[number/8] = 1 << (number % 8)
		return b
	}
	b[number/64*8+7-number%64/8] = 1 << (number % 8)
	return b
}

// flags matches TCP flags under a mask.
func flags(words string, mask byte, cmp func([]byte) expr.Any, value byte) phrase {
	return phrase{words: "tcp flags & " + words, exprs: upper(unix.IPPROTO_TCP, transport(tcpFlags, 1), and([]byte{mask}), cmp([]byte{value}))}
}

// option matches segments that have a TCP option.
func option(kind uint8) phrase {
	return phrase{
		words: fmt.Sprintf("tcp option %d exists", kind),
		exprs: []expr.Any{&expr.Exthdr{DestRegister: reg, Type: kind, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpTcpopt}, equal([]byte{1})},
	}
}

// bare matches segments with nothing behind a TCP header of so many words.
func bare(words int) phrase {
	length := 20 + 4*words
	return phrase{
		words: fmt.Sprintf("ip hdrlength 5 tcp doff %d ip length %d", words, length),
		exprs: append(append([]expr.Any{network(ipHeaderLength, 1), and([]byte{0x0f}), equal([]byte{5})},
			upper(unix.IPPROTO_TCP, transport(tcpDataOffset, 1), and([]byte{0xf0}), equal([]byte{byte(words) << 4}))...),
			network(ipLength, 2), equal(big16(uint16(length)))),
	}
}

// marked matches packets whose mark has all bits given, and unmarked those with none of
// them.
func marked(bits uint32) phrase {
	return phrase{words: fmt.Sprintf("meta mark & 0x%[1]x == 0x%[1]x", bits), exprs: []expr.Any{meta(expr.MetaKeyMARK), and(native(bits)), equal(native(bits))}}
}

func unmarked(bits uint32) phrase {
	return phrase{words: fmt.Sprintf("meta mark & 0x%08x == 0", bits), exprs: []expr.Any{meta(expr.MetaKeyMARK), and(native(bits)), equal(native(0))}}
}

// clear removes bits from a packet's mark.
func clear(bits uint32) phrase {
	return phrase{
		words: fmt.Sprintf("meta mark set meta mark & 0x%08x", ^bits),
		exprs: []expr.Any{meta(expr.MetaKeyMARK), and(native(^bits)), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg}},
	}
}

// Enhanced GRE (RFC 2637 section 4.1): version 1 and protocol type 0x880b, in the first
// four bytes.
const greMask, greValue = 0x0007ffff, 0x0001880b

// The packets of calls, and errors about them: type 3, 11 or 12, and behind their 8 bytes an
// IP header without options, of protocol 47, and enhanced GRE.
var (
	enhancedGRE = phrase{
		words: fmt.Sprintf("ip protocol gre @th,0,32 & 0x%08x == 0x%08x", greMask, greValue),
		exprs: []expr.Any{network(ipProtocol, 1), equal([]byte{unix.IPPROTO_GRE}), transport(0, 4), and(big32(greMask)), equal(big32(greValue))},
	}
	icmpError = phrase{
		words: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
		exprs: upper(unix.IPPROTO_ICMP, transport(0, 1)),
		oneOf: []byte{3, 11, 12},
	}
	aboutGRE = phrase{
		words: fmt.Sprintf("@th,64,8 0x45 @th,136,8 47 @th,224,32 & 0x%08x == 0x%08x", greMask, greValue),
		exprs: []expr.Any{
			transport(8, 1), equal([]byte{0x45}), transport(17, 1), equal([]byte{unix.IPPROTO_GRE}),
			transport(28, 4), and(big32(greMask)), equal(big32(greValue)),
		},
	}
)

// tooBig matches the error "fragmentation needed and DF set".
var tooBig = phrase{
	words: "icmp type destination-unreachable icmp code frag-needed",
	exprs: upper(unix.IPPROTO_ICMP, transport(0, 2), equal([]byte{3, 4})),
}

// limited matches so many packets a second, and the few that the kernel lets come together.
func limited(rate uint64) phrase {
	const burst = 5 // nft's own, which it does not print
	return phrase{
		words: fmt.Sprintf("limit rate %d/second", rate),
		exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: rate, Unit: expr.LimitTimeSecond, Burst: burst}},
	}
}

// Statements.
var (
	accept  = phrase{words: "accept", exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	back    = phrase{words: "return", exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}}
	notrack = phrase{words: "notrack", exprs: []expr.Any{&expr.Notrack{}}}
	reset   = phrase{words: "reject with tcp reset", exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
)

func jump(chain string) phrase {
	return phrase{words: "jump " + chain, exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}

func remark(text string) phrase {
	return phrase{words: fmt.Sprintf("comment %q", text), comment: text}
}

// queue sends packets to queues. Without flags, packets are dropped while nobody reads them.
func queue(first uint16, number int, flags expr.QueueFlag) phrase {
	words := fmt.Sprintf("queue num %d", first)
	if number > 1 {
		words += fmt.Sprintf("-%d", int(first)+number-1)
	}
	var names []string
	if flags&expr.QueueFlagBypass != 0 {
		names = append(names, "bypass")
	}
	if flags&expr.QueueFlagFanout != 0 {
		names = append(names, "fanout")
	}
	return phrase{
		words: strings.TrimRight(words+" "+strings.Join(names, ","), " "),
		exprs: []expr.Any{&expr.Queue{Num: first, Total: uint16(number), Flag: flags}},
	}
}

// byTarget returns a phrase that queues by iptables' target NFQUEUE (module xt_NFQUEUE, by
// nft_compat), for kernels that have no queue of nftables'. nft prints the target without its
// numbers, so the phrase says them in a comment. Other phrases stay as they are.
func (p phrase) byTarget() phrase {
	if len(p.exprs) != 1 {
		return p
	}
	q, queues := p.exprs[0].(*expr.Queue)
	if !queues {
		return p
	}
	info := make([]byte, 8) // struct xt_NFQ_info_v3, padded as the kernel wants it
	binary.NativeEndian.PutUint16(info[0:], q.Num)
	binary.NativeEndian.PutUint16(info[2:], q.Total)
	binary.NativeEndian.PutUint16(info[4:], uint16(q.Flag)) // the bits are the same
	return phrase{words: p.words, exprs: []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: (*xt.Unknown)(&info)}}, comment: p.words}
}
