// Package datapath owns the translation of GRE packets in user space, for the data
// path in which every one of them visits the daemon: a table of flows, and the rewriting
// of one packet by it.
//
// It rewrites a packet before conntrack sees it, at raw PREROUTING (or OUTPUT):
//
//	Src > Dst key Key  ─►  Src > NewDst key NewKey
//
// Destination and Call ID are enough there: routing sends the packet on, and where its
// source is translated too the kernel's NAT rules do it, as for any packet.
//
// Fragments. Only the first one has a GRE header, so none of them is touched: half a
// translated packet would be two that nobody can put together. In the kernel none comes
// to raw, whose priority is -300: conntrack joins fragments at -400 (nf_defrag_ipv4,
// NF_IP_PRI_CONNTRACK_DEFRAG) wherever a rule uses conntrack, as every masquerading
// gateway does, and the kernel cuts the packet again where it leaves. Where they come all
// the same (iptable_raw loaded with raw_before_defrag=1, at -450), they are counted.
//
// Errors that routers send about a translated packet (ICMP, fragmentation needed) are not
// translated back to its sender.
package datapath
