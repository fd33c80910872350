// Package gre owns the translation of GRE packets in user space, for data path queue, in
// which every packet visits the daemon: a table of flows, and the rewriting of one packet
// by it.
//
// A packet visits twice. Its route depends on its destination, so the destination is
// rewritten before routing. Its source must not be one of the gateway's own addresses while
// routing checks where the packet comes from (a martian), so the source is rewritten after
// routing:
//
//	Src > Dst key Key  ── Enter ─►  Src > NewDst key via  ── Leave ─►  NewSrc > NewDst key NewKey
//	                     raw PREROUTING, OUTPUT             mangle POSTROUTING, INPUT
//
// Between the two, via identifies the packet's flow. It is NewKey, except for the rare flow
// that would look like another one there. A packet that entered leaves by the same flow,
// even if that flow is removed or replaced in between.
//
// Errors that routers and hosts send about such a packet (ICMP: destination unreachable,
// with "fragmentation needed", time exceeded, parameter problem) are translated back for
// its sender: Enter rewrites their destination and what they quote, and Leave rewrites
// their source if they come from behind a translated address.
//
// Fragments. Only the first one has a GRE header, so none of them is edited: nothing could
// reassemble a packet that is translated in part. No fragment reaches table raw, whose
// priority is -300: conntrack joins fragments at -400 (nf_defrag_ipv4,
// NF_IP_PRI_CONNTRACK_DEFRAG) wherever a rule uses conntrack, as ours do, and the kernel
// cuts the packet again where it leaves. If fragments come all the same (iptable_raw loaded
// with raw_before_defrag=1, at -450), they are counted.
package gre
