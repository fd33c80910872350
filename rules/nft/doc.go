// Package nft owns the rules as a table of nftables': as text for nft, and as netlink
// messages, by which Backend loads them without any program.
//
// The table is "ip pptpalg". Everything in it is ours, and it is replaced as a whole, in one
// atomic batch. Its chains have hooks of their own. So a rule that accepts a packet in the
// administrator's chains does not keep it from ours, and who empties other tables does not
// empty this one.
//
// It queues what the iptables rules queue, with one exception. nftables cannot subtract
// lengths, so a rule for each length of the TCP header recognizes pure ACKs, but only if
// the IP header has no options; a pure ACK with IP options is queued needlessly. Packets
// with data are always queued.
//
// For GRE, the administrator's rules at priority raw come before ours, and a rule there
// that sets a conntrack zone makes conntrack track a call's packets after all; the iptables
// rules come before such a rule. And an error that quotes a packet with IP options is not
// recognized.
//
// Four facts decide the shape. On kernels without nft_ct_get_init's nf_connlabels_get,
// posted in October 2025, a match on "ct label" makes no room for labels in new entries,
// unlike iptables' match: only "ct label set" does, reached or not. Packets without a
// conntrack entry match no "ct" expression, not even "!=", so the rules check the port
// before they decide anything. An accept in one table does not overrule a drop in another:
// if the firewall's chains drop, they have to accept the calls' GRE themselves, by
// ForwardRules. And a packet that comes in over a VRF passes prerouting twice, the second
// time with the VRF's device: the kernel frees a packet that is queued then (vrf_rcv_nfhook),
// so our rules leave it alone.
package nft
