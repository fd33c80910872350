// Command bench compares pptpalg with the alternatives for a gateway: the kernel's own
// helper, nothing, plain forwarding, forwarding in XDP, a simpler queue. It takes some
// twenty minutes and prints its report as Markdown.
//
//	make bench
//	make bench REPORT=docs/BENCHMARKS.md
//
// # How a measurement works
//
// Every contender has a yard, three network namespaces of its own:
//
//	clients 10.77.0.20–219 ── veth ── gateway, the contender ── veth ── servers 203.0.113.10–17
//
// In a lane, package farm sets up the contender's calls by real dialogues, and package
// inject makes and counts packets of these calls in the kernel. Before anything is timed,
// packets of each kind are checked where they arrive: addresses, TTL, checksum, Call ID,
// and that they belong to the right call. Then rounds begin. Each round measures every
// contender once for each kind of packets, one contender right after the other. Tables show
// medians. Ratios are taken within a round first, because the machine's speed changes from
// round to round.
//
//	round 1   helper │ kernel │ queue │ …
//	round 2   kernel │ queue │ … │ helper
//
// # What is counted
//
// CPU time, because a packet's path runs on several threads: the injecting thread (soft
// interrupts meanwhile are on its clock), ksoftirqd, and the contender's own process,
// including its other work. Nothing is subtracted; the cost of generator, cable and sink
// alone has a row of its own.
//
// Nothing outside the namespaces is changed. A packet that is not delivered correctly ends
// the run; a figure that misses its target does not.
package main
