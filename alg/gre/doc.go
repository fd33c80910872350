// Package gre owns the translation of GRE packets in user space, for the data
// path in which every one of them visits the daemon: a table of flows, and the rewriting
// of one packet by it.
//
// A packet visits twice. Its destination decides on its way, so it is rewritten before
// routing; its source must not be one of the gateway's own addresses while routing looks
// at where the packet comes from (a martian), so it is rewritten after:
//
//	Src > Dst key Key  ── Enter ─►  Src > NewDst key via  ── Leave ─►  NewSrc > NewDst key NewKey
//	                     raw PREROUTING, OUTPUT             mangle POSTROUTING, INPUT
//
// Between the two, via tells the packet's flow. It is NewKey, but for the rare flow that
// would be like another one there. A packet that Enter has let in leaves by the same flow,
// though that is removed or replaced meanwhile.
//
// Errors that routers and hosts send about such a packet (ICMP: destination unreachable,
// with "fragmentation needed", time exceeded, parameter problem) are translated back for
// its sender: Enter rewrites their destination and what they quote, and Leave their source
// where they come from behind an address that is translated.
//
// Fragments. Only the first one has a GRE header, so none of them is touched: half a
// translated packet would be two that nobody can put together. In the kernel none comes
// to raw, whose priority is -300: conntrack joins fragments at -400 (nf_defrag_ipv4,
// NF_IP_PRI_CONNTRACK_DEFRAG) wherever a rule uses conntrack, as ours do, and the kernel
// cuts the packet again where it leaves. Where they come all the same (iptable_raw loaded
// with raw_before_defrag=1, at -450), they are counted.
package gre
