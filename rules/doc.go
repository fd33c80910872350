// Package rules says which packets firewall rules send to the daemon's queues: PPTP control
// connections, and GRE if the daemon translates it. Backend is the plug that loads such
// rules; rules/iptables and rules/nft are behind it.
//
// # Connections that need no queueing
//
// A connection that turns out not to be PPTP, or not to be translated, needs no queueing
// any more. The daemon sets a bit on its conntrack entry (Bypass), and the rule checks the
// bit before it looks at the segment. From then on its data, FIN and RST are not queued, in
// either direction; other connections are queued as before. The bit ends with the entry. If
// the kernel or the program has no such match, Load leaves it out, and all connections are
// queued.
package rules
