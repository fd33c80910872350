package iptables

import (
	"fmt"
	"strings"

	"golang.org/x/net/bpf"
)

// TCP flags, RFC 9293 section 3.1.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// predicate is the cBPF program for xt_bpf that selects the segments that the daemon has to
// see: all with data, and SYN+ACK, FIN, RST. It does not select pure ACKs, about half of
// all segments, nor a bare SYN; a SYN that asks for Multipath TCP has a rule of its own. It
// recognizes data by lengths, not by a match on fixed offsets: both headers vary with their
// options, and a missed segment with data would leave a Call ID untranslated.
//
// xt_bpf runs it with offset 0 at the IP header and #len the length of the IP packet: link
// padding is gone (ip_rcv_core trims to the total length), and fragments are joined
// (conntrack, which comes first, needs whole packets).
//
// A load beyond the end makes the program return 0, no match. Such a segment has
// no full TCP header, conntrack calls it INVALID (tcp_error in
// nf_conntrack_proto_tcp.c), and the rule before asked for a conntrack entry.
// The same holds for a TCP header length under 20 or beyond the packet's end.
var predicate = []bpf.Instruction{
	/*  0 */ bpf.LoadMemShift{Off: 0}, // X = IP header length
	/*  1 */ bpf.LoadIndirect{Off: 13, Size: 1}, // A = TCP flags
	/*  2 */ bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: flagFIN | flagRST, SkipTrue: 9}, // match
	/*  3 */ bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagSYN | flagACK},
	/*  4 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: flagSYN | flagACK, SkipTrue: 7}, // match
	/*  5 */ bpf.LoadIndirect{Off: 12, Size: 1}, // A = data offset (high nibble, in words)
	/*  6 */ bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
	/*  7 */ bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 2}, // A = TCP header length
	/*  8 */ bpf.ALUOpX{Op: bpf.ALUOpAdd},
	/*  9 */ bpf.TAX{}, // X = length of both headers
	/* 10 */ bpf.LoadExtension{Num: bpf.ExtLen},
	/* 11 */ bpf.JumpIfX{Cond: bpf.JumpGreaterThan, SkipFalse: 1}, // data
	/* 12 */ bpf.RetConstant{Val: 1}, // match
	/* 13 */ bpf.RetConstant{Val: 0},
}

// bytecode returns a program as --bytecode wants it: the number of
// instructions, then "opcode jt jf k" of each, all decimal, separated by commas.
func bytecode(program []bpf.Instruction) string {
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic("iptables: predicate does not assemble: " + err.Error()) // constant but for a number
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d", len(raw))
	for _, ins := range raw {
		fmt.Fprintf(&b, ",%d %d %d %d", ins.Op, ins.Jt, ins.Jf, ins.K)
	}
	return b.String()
}
