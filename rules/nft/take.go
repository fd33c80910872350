package nft

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// mayTake reports whether a rule with these expressions may keep a packet of a call's, or an error
// about one, from the rules behind it, other than by accepting it. What else the rule asks for
// than the protocol is not looked at.
func mayTake(expressions []byte) bool {
	takes, other := false, false
	var kinds []byte // of what was loaded last, the values that are a call's; nil where that is not known
	each(expressions, func(_ uint16, e []byte) {
		name, data := text(find(e, unix.NFTA_EXPR_NAME)), find(e, unix.NFTA_EXPR_DATA)
		switch name {
		case "cmp":
			value := find(find(data, unix.NFTA_CMP_DATA), unix.NFTA_DATA_VALUE)
			equal := number(data, unix.NFTA_CMP_OP) == unix.NFT_CMP_EQ
			other = other || kinds != nil && equal && len(value) > 0 && !slices.Contains(kinds, value[0])
		case "immediate":
			v := find(find(data, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT)
			takes = takes || v != nil && number(v, unix.NFTA_VERDICT_CODE) != netfilterAccept
		case "lookup": // in a map of verdicts
			to := find(data, unix.NFTA_LOOKUP_DREG)
			takes = takes || to != nil && number(data, unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT
		case "reject", "queue":
			takes = true
		case "target":
			takes = takes || slices.Contains([]string{"REJECT", "NFQUEUE"}, text(find(data, unix.NFTA_TARGET_NAME)))
		}
		kinds = loaded(name, data)
	})
	return takes && !other
}

// netfilterAccept is NF_ACCEPT of linux/netfilter.h.
const netfilterAccept = 1

// loaded returns, of an expression that loads what a packet is, the values for those of calls.
func loaded(name string, data []byte) []byte {
	upper := []byte{unix.IPPROTO_GRE, unix.IPPROTO_ICMP}
	switch {
	case name == "meta" && number(data, unix.NFTA_META_KEY) == unix.NFT_META_L4PROTO:
		return upper
	case name == "meta" && number(data, unix.NFTA_META_KEY) == unix.NFT_META_NFPROTO:
		return []byte{unix.NFPROTO_IPV4}
	case name == "payload" && number(data, unix.NFTA_PAYLOAD_BASE) == unix.NFT_PAYLOAD_NETWORK_HEADER &&
		number(data, unix.NFTA_PAYLOAD_OFFSET) == ipProtocol && number(data, unix.NFTA_PAYLOAD_LEN) == 1:
		return upper
	}
	return nil
}

// number returns an attribute of four bytes, 0 if the list has none.
func number(list []byte, wanted uint16) uint32 {
	b := find(list, wanted)
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
