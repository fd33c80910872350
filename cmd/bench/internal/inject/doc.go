// Package inject makes GRE packets in the kernel and counts them there where they
// arrive, so that neither costs much beside what lies between.
//
//	 thread of the injector                 namespace of the gateway              namespace of the sink
//
//	BPF_PROG_TEST_RUN ─► program: picks ─► veth ─► NAPI ─► what is measured ─► veth ─► NAPI ─► program:
//	of live frames       a call, writes                                                        counts, drops
//	                     its addresses
//
// A sender in user space costs several times what forwarding costs and hides it.
// A live frame costs about as much as its way through a veth pair.
//
// Frames come from a pool of pages, and return to it as the gateway has left them.
// So the program writes all that a gateway changes anew: link addresses, TTL,
// checksum, addresses, Call ID. The sequence number is the packet's place in the
// stream, so that a packet that arrives tells which one it was.
package inject
