// Package lab owns a network of namespaces for tests of PPTP end to end: a gateway, hosts
// on either side of it, peers that send what real peers do not (down to the single TCP
// segment and ICMP error), and the real programs pptp and pptpd.
//
//	   10.77.0.0/24                                      203.0.113.0/24
//
//	in0  10.77.0.10 ──┐      ┌───────── gw ─────────┐      ┌── out0  203.0.113.10
//	in1  10.77.0.11 ──┼──────┤ lan              wan ├──────┼── out1  203.0.113.11
//	in…             ──┘      │ 10.77.0.1  203.0.113.1│      └── out…
//	                         │       203.0.113.100+i │
//	                         └───────────────────────┘
//
// Every box is a network namespace. lan and wan are bridges inside the gateway with one
// veth port per host, whose other end is the host's eth0. Packets between the two sides are
// routed; traffic between hosts of one side stays on the bridge and skips the gateway's
// rules. 203.0.113.(100+i) exist only with Options.DNAT and stand for inside host i.
//
// Nothing is created in, and nothing is sent to, the namespace of the caller.
// Needs root, iproute2 and iptables; the real peers need pptp-linux and pptpd.
package lab
