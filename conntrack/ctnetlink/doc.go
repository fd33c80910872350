// Package ctnetlink owns the way to the kernel's conntrack table: it asks how a
// control connection is translated, puts the entries that translate a call's GRE
// packets in and takes them out again, and makes a connection's own entry anew
// where somebody has emptied the table.
//
// It speaks netlink (nfnetlink subsystem ctnetlink, the kernel's
// net/netfilter/nf_conntrack_netlink.c) and package conntrack's values. It keeps
// no call state: what the entries say is in the kernel alone, so they outlive
// the process, and Flows reads them back.
//
// # The GRE entry of a flow
//
// A flow is one way of one call; its entry, as Create sends it, is
//
//	original  Src > Dst  keys 0 > Key
//	reply     Dst > Src  keys NewKey > 0    NAT destination NewDst, source NewSrc
//
// and the kernel, applying the NAT attributes, turns the reply tuple into
//
//	reply  NewDst > NewSrc  keys NewKey > 0
//
// A GRE key travels where other protocols have a port. A packet carries only its
// receiver's key, so the source key is 0. The kernel rewrites a key as part of
// destination NAT alone (gre_manip_pkt in nf_nat_proto.c), and it takes an entry
// for destination NAT only if the attribute changes the address. A flow that
// changes the key and keeps the address therefore has 0.0.0.0 as the source of
// the reply tuple it sends, for the attribute to replace.
//
// Entries can be created in any network namespace. Packets are translated by them
// only where a nat table has a rule, whatever it is about: the first one is what
// makes the kernel hook its NAT into the namespace.
//
// # Many at once
//
// CreateAll and DeleteAll are for the table of a large gateway, after it was
// emptied or when many calls end: about twice as fast as one by one
// (BenchmarkBatchRatio), the rest being the kernel's own work. A dump, as Flows
// and Connections make, costs the walk through the kernel's hash table, some
// 20 ms where 100,000 entries are in 2^18 buckets, and some 2 µs of CPU time for
// each entry that passes the filter, nearly all in the kernel (BenchmarkCrowd).
//
// # One entry for two flows
//
// Where Call ID 0 is chosen by both ends, the flow to the initiator ends in the
// tuple in which the flow back begins: C > S, both keys 0. The kernel knows each
// tuple once in a zone, and the first entry's reply direction already translates
// as the second would. Create leaves such a flow to the entry that carries it,
// and Flows does not list it. Where two calls between the same ends share an
// entry so, the end of one takes it from the other, until that flow is created
// again.
package ctnetlink
