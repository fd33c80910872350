// Package fastpath forwards the GRE of calls in BPF, ahead of the kernel, as the kernel has
// been seen to forward it. A packet that has no flow here, or whose flow is not in force, goes
// on to the kernel untouched. bpf/fastpath.bpf.c says how that works.
//
// Load is for root. It pins maps and links in a BPF file system, so that the fast path
// outlives every process, and replaces the programs of an earlier release while packets
// flow. The daemon needs no right but to open the pins: Open maps the flows into its memory,
// and Table puts flows in, takes them out and reads their counters there.
//
//	/run/pptpalg-bpf/ns_COOKIE/   one folder for each network namespace
//	    maps/                     what programs and daemon share
//	    xdp_7 ingress_7 egress_7  links of the interface with index 7
//
// Maps of another layout, as another release has, are replaced by new ones, and so are maps
// of another size. A daemon that still has the old ones finds them retired, opens the new
// ones and moves its flows.
//
// A flow is forwarded here only if it is in the default zone, IPv4, and translated. One that
// finds no place is left to the kernel and counted.
package fastpath
