// Command bench measures pptpalg beside what else a gateway can do about PPTP: the
// kernel's own helper, nothing, plain forwarding, a simpler queue. It takes some ten
// minutes and prints its report, as Markdown.
//
//	make bench
//	make bench REPORT=docs/BENCHMARKS.md
//
// # How a measurement walks
//
// Every contender has a yard, three network namespaces of its own:
//
//	clients 10.77.0.20–219 ── veth ── gateway, the contender ── veth ── servers 203.0.113.10–17
//
// In a lane, its calls are set up by real dialogues of package farm, and packets
// of these calls are made and counted in the kernel by package inject. Before
// anything is timed, packets of each kind are looked at where they arrive: addresses, TTL, checksum,
// Call ID, and that they are the very call's. Then rounds begin. In each, every contender
// is measured once for each kind of packets, one contender right after the other.
// Tables show medians; ratios are taken within a round first, for the machine's mood is
// not that of the contender.
//
//	round 1   helper │ kernel │ queue │ …
//	round 2   kernel │ queue │ … │ helper
//
// # What is counted
//
// CPU time, because a packet's path runs on several threads: that which injects
// (soft interrupts are on its clock while it does), ksoftirqd, and the contender's own
// process, with what it does beside. Nothing is subtracted; what generator,
// cable and sink cost alone is a row of its own.
//
// Nothing outside the namespaces is changed. What fails to be delivered as it should
// ends the run; a figure that misses its target does not.
package main
