// Package conntrack owns access to the kernel's conntrack table. It asks how a control
// connection is translated, creates and deletes the entries that translate a call's GRE
// packets, creates a connection's own entry again after somebody has flushed the table, and
// marks the entry of a connection that the daemon ignores.
//
// It uses netlink (nfnetlink subsystem ctnetlink, the kernel's
// net/netfilter/nf_conntrack_netlink.c) and the types of package calls. It keeps no state
// of calls: that is in the kernel's entries only, so they outlive the process, and Flows
// reads them back.
//
// # The GRE entry of a flow
//
// A flow is the GRE packets to one end of a call. Its entry, as Create sends it, is
//
//	original  Src > Dst  keys 0 > Key
//	reply     Dst > Src  keys NewKey > 0    NAT destination NewDst, source NewSrc
//
// and the kernel, applying the NAT attributes, turns the reply tuple into
//
//	reply  NewDst > NewSrc  keys NewKey > 0
//
// A GRE key is where other protocols have a port. A packet carries only its receiver's key,
// so the source key is 0. The kernel rewrites a key only as part of destination NAT
// (gre_manip_pkt in nf_nat_proto.c), and it takes an entry for destination NAT only if the
// attribute changes the address. If a flow changes the key and keeps the address, Create
// therefore sends 0.0.0.0 as the source of the reply tuple, and the attribute replaces it.
//
// Entries can be created in any network namespace. But they translate packets only if a nat
// table has a rule, whatever rule that is: with the first one the kernel hooks its NAT into
// the namespace.
//
// # What is never touched
//
// Delete, and Remove of ApplyLate, delete only an entry that has the shape above and
// translates as the flow does, whoever created it. The kernel's delete compares only an ID
// (ctnetlink_del_conntrack), and finds an entry by the tuple of either direction, so a
// query for that ID precedes each delete. Without it, the delete could hit the entry of the
// call that got the Call ID next, or an entry that somebody else created in the place of a
// flushed one. Create deletes whatever has one of the two tuples that its entry needs,
// unless it is another flow's entry, and Remove of Apply deletes whatever has the original
// tuple: they are for the time in which the tuples are the flow's. A tuple with both keys 0
// may be a tunnel's at any time. An entry with such a tuple that has seen an answer is
// deleted only if it is a flow's.
//
// Remake, too, deletes only what it has queried: the connection's own entry, or one that the
// other end has opened. Follow and SetTimeout set the life of an entry, and nothing else of
// it; Loosen also sets which packets the kernel takes for invalid: none.
//
// Between its delete and its create the kernel handles packets that wait on that processor, as
// it allows softirqs again. Where the address of the connection's NAT is on an interface of this
// host, a packet of the other end that comes in this moment is for the host itself, and is
// answered with a RST. So Remake is for connections whose packets do not come here.
//
// # Many at once
//
// Apply puts the changes that one or many packets caused into few datagrams. To look up a
// call's connection and to create and delete its entries takes 7 sends and 7 receives one
// by one, 4 and 5 with Apply, and some 70 % of the CPU time, most of it the kernel's
// (BenchmarkCall). For the table of a large gateway, after a flush or when many calls end,
// Apply is one and a half times as fast as one by one (BenchmarkBatchRatio). The counts of
// deleted entries, for ApplyCounting, cost some 2 µs more each (BenchmarkRemove). A dump,
// for Flows and Connections, costs the walk through the kernel's hash table, some 20 ms
// with 100,000 entries in 2^18 buckets, and some 2 µs of CPU time for each entry that
// passes the filter, nearly all in the kernel (BenchmarkCrowd).
//
// Follow makes the entries of TCP connections in less than half the CPU time that Revive
// takes one by one, some 5 µs each. Entries that are there already take some 12 µs each,
// Remake 15, and SetTimeout 2 (BenchmarkFollow).
//
// So the encoding stays ours: github.com/ti-mo/conntrack, which the tests hold it against,
// sends one request at a time, and makes no entry with NAT.
//
// # Own key 0
//
// No packet of a flow has its entry's reply tuple, but another packet may. The reply
// tuple's source key is the receiver's own key, and every packet's source key is 0. So if
// the receiver has chosen Call ID 0, the reply tuple has both keys 0, like the packets of
// any plain GRE tunnel (version 0) between the two addresses. In the zone of packets, such
// a tunnel would match the entry: the kernel would refuse the gateway's own packets
// (EPERM), and translate the answers as a call's. And if both ends have chosen 0, the reply
// tuple of one flow is the original tuple of the other.
//
// The reply tuple of such a flow therefore lies in a zone of its own (CTA_TUPLE_ZONE, Linux
// 4.3), in which no packet is looked up. The conntrack tool shows it:
//
//	src=10.0.0.2 dst=192.0.2.2 srckey=0x0 dstkey=0x0 src=192.0.2.2 dst=192.0.2.1 srckey=0x0 dstkey=0x0 zone-reply=65003
//
// Another destination key in the reply tuple is no solution. The kernel uses an entry's
// source, including the key, for later connections of the same host that it translates to
// the same address (find_appropriate_src in nf_nat_core.c): the client's tunnels to other
// hosts would get reply tuples with that key, and no answers (TestReplyKeySpreads). And any
// key may be a Call ID.
//
// The price: routers' errors about packets to Call ID 0 are not translated, because the
// kernel finds an error's entry by its reply tuple. Nothing distinguishes them from errors
// about a tunnel's packets.
//
// An entry has one zone. If the connection's zone is not the default one, the original
// tuple needs it. Then the reply tuple stays in the zone of packets, and one entry may
// translate two flows. The same is true for a kernel without zones.
//
// A flow to Call ID 0 has the original tuple of a tunnel, whatever its reply tuple. If a
// tunnel's entry exists first, has seen an answer, and translates as the flow's entry
// would, the flow needs none: it is Lent. A tunnel that begins later, from the same client
// to the server whose Call ID for this client is 0, gets no answers while the call lasts.
//
// # Zones of one direction
//
// A connection may be in its zone one way only (CT --zone-orig). Then one of its flows is in
// that zone, and the other one in the default zone. The entry of the first one is in the zone
// with its original tuple only, since its reply tuple is compared with what comes from the
// other end. If its own key is 0, or another flow leaves alike, its zone has both of its
// tuples instead, which hides the reply tuple.
//
// # Two flows that leave alike
//
// If a client dials again with the same Call ID while its first control connection is still
// in the table, it has two calls whose flows to it leave alike. The same is true for a
// server that gives one Call ID to two clients behind one address. The entries of these
// flows have different original tuples, but would have the same reply tuple. Neither call
// may lose its GRE because of the other connection, so the reply tuple of the later flow
// lies in a spare zone, one of 1,000 from 64000 on. Outside the default zone this is not
// possible, and the later flow replaces the earlier one.
package conntrack
