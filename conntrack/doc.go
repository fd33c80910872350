// Package conntrack owns the way to the kernel's conntrack table: it asks how a
// control connection is translated, puts the entries that translate a call's GRE
// packets in and takes them out again, makes a connection's own entry anew where
// somebody has emptied the table, and marks the entry of one that is left alone.
//
// It speaks netlink (nfnetlink subsystem ctnetlink, the kernel's
// net/netfilter/nf_conntrack_netlink.c) and package calls' values. It keeps
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
// # What is never touched
//
// Delete, and Remove of ApplyLate, take out an entry that is of the shape above and
// translates as the flow does, whoever made it, and no other. The kernel's delete
// compares nothing but an ID (ctnetlink_del_conntrack), and finds an entry by the
// tuple of either direction, so each delete is preceded by a question for that ID.
// Without it, what could be hit is the entry of the call that has got the Call ID
// next, or one that somebody else made in the place of one that was flushed.
// Create takes out whatever has one of the two tuples that its entry needs and is no other
// flow's, and Remove of
// Apply whatever has the original one: they are for the time in which the tuples are
// the flow's. A tuple with both keys 0 may be a tunnel's at any time. An entry that has it and
// has seen an answer is not deleted unless it is a flow's.
//
// # Many at once
//
// Apply puts what a packet, or many, brought about into few datagrams. To look up a
// call's connection and to create and delete its entries takes 7 sends and 7
// receives one by one, 4 and 5 with Apply, and some 70 % of the CPU time, most of
// it the kernel's (BenchmarkCall). For the table of a large gateway, after it was
// emptied or when many calls end, Apply is one and a half times as fast as one by
// one (BenchmarkBatchRatio). What an entry has counted when it goes, as ApplyCounting
// shows, costs some 2 µs more (BenchmarkRemove). A dump, as Flows and Connections make, costs the walk
// through the kernel's hash table, some 20 ms where 100,000 entries are in 2^18
// buckets, and some 2 µs of CPU time for each entry that passes the filter, nearly
// all in the kernel (BenchmarkCrowd).
//
// # Own key 0
//
// No packet of a flow has its entry's reply tuple, but somebody else's may: its source key is
// the receiver's own key, and that of every packet is 0. So where the receiver has chosen Call
// ID 0, the reply tuple has both keys 0, as packets of any plain GRE tunnel (version 0) between
// the two addresses have. In the zone of packets, the entry would be such a tunnel's: the
// kernel refuses the gateway's own packets (EPERM), and translates those that come back for a
// call's. And where both ends have chosen 0, the reply tuple of one flow is the original tuple
// of the other.
//
// The reply tuple of such a flow therefore lies in a zone of its own (CTA_TUPLE_ZONE, Linux
// 4.3), in which no packet is looked up, and the conntrack tool shows it so:
//
//	src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x0 src=192.0.2.2 dst=192.0.2.1 srckey=0x0 dstkey=0x0 zone-reply=65003
//
// Another destination key in the reply tuple would not do. The kernel takes an entry's source,
// key included, for that of later connections of the same host that it translates to the same
// address (find_appropriate_src in nf_nat_core.c): the client's tunnels to other hosts would get
// reply tuples with that key, and no answers (TestReplyKeySpreads). Any key is some Call ID, too.
//
// What this costs: routers' errors about packets to Call ID 0 are not translated, since the
// kernel finds an error's entry by its reply tuple. They cannot be told from errors
// about a tunnel's packets.
//
// An entry has one zone. In a connection's zone other than the default one it is needed for the
// original tuple, so there the reply tuple stays in the zone of packets, and one entry may
// translate two flows. It is the same in a kernel without zones.
//
// A flow to Call ID 0 has the original tuple of a tunnel, whatever its reply tuple. Where a
// tunnel's entry is there first, has seen an answer, and translates as the flow's would, the
// flow needs none: it is Lent. A tunnel that begins later, from the very client to the very
// server whose Call ID for this client is 0, gets no answers while the call lasts.
//
// # Two flows that leave alike
//
// A client that dials again, with the Call ID that it had, while its first control connection
// is still in the table has two calls whose GRE leaves alike towards it; so has a server that gives one Call
// ID to two clients behind one address. Their entries have different original tuples, and would have one
// reply tuple. Neither is to lose its GRE for what the other connection says, so the reply tuple of
// the later one lies in a spare zone, one of 1,000 from 64000 on. Outside the default zone this cannot be
// done, and the later flow takes the place of the earlier.
//
// # Events
//
// A Listener hears of entries that leave the table (ctnetlink's multicast group
// NFNLGRP_CONNTRACK_DESTROY). A socket filter in the kernel drops the events of everybody
// else's entries: they wake nobody and fill no buffer. It finds attributes as the kernel does
// (SKF_AD_NLATTR, SKF_AD_NLATTR_NEST), wherever they lie. What it drops is what the kernel has
// composed nevertheless, for all entries of the namespace: that is what listening costs other
// connections, some 4 µs of CPU time each (BenchmarkListening).
//
// Tried on Linux 6.18 (TestDestroyed and those that follow it):
//
//   - An event has the entry's tuples, zone, mark, status, ID and TCP state, what it has
//     counted, the time that it had left (CTA_TIMEOUT, left out when it is 0), and, in the
//     netlink header, the port of whoever has deleted it. Time left and a port mean
//     conntrack -D or -F; time left and port 0 the kernel, as when the address of an interface
//     goes; no time left an expiry.
//   - With net.netfilter.nf_conntrack_events=2, the default, only entries are reported
//     that were made while somebody listened; with 1, all; with 0, none.
//   - A buffer that overflows is told once (ENOBUFS), before what it holds. What comes later
//     is heard again.
package conntrack
