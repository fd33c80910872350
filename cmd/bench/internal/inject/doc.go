// Package inject makes GRE packets in the kernel, and counts them in the kernel where they
// arrive, so that both cost little compared with what lies between.
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
// Frames come from a pool of pages, and return to it as the gateway has left them. So the
// program rewrites everything that a gateway changes: link addresses, TTL, checksum,
// addresses, Call ID. The sequence number counts the packets, so that an arriving packet
// tells which one it was.
package inject
