// Package ports chooses the interfaces of the fast path, and tells when the kernel's
// decisions may have changed.
//
// Choose asks the kernel about all interfaces and decides for each whether packets are taken
// by XDP, by tc or not at all, and why. Watch tells of changes of links, routes, rules,
// addresses and nftables.
//
// The fast path repeats what it saw the kernel do, so a port too many does no harm: what
// arrives by another way than the flow's is left to the kernel. A port is only refused where
// a packet that is sent there could get lost, or would miss what the administrator has
// attached to the interface.
package ports
