// Package iptables owns the rules as iptables has them: their text, and loading it with the
// programs.
//
// The text (Text, LoadText, UnloadText) is pure; only Firewall and VRFs do I/O. The
// rules for control connections are in table mangle, in a chain of our own (rules.Data has
// those for GRE):
//
//	packet in ──► PREROUTING: the administrator's rules ─┐
//	                                                     ├─► PPTPALG ─► NFQUEUE ─► next hook
//	own packet ─► OUTPUT:     the administrator's rules ─┘       └────► pure ACK, other TCP: next rule
//
// "Fragmentation needed" about a call's packet goes the first of these ways (rules.Config.TooBig).
//
// Three facts decide the shape; a test against the kernel proves each.
//
// A queued packet skips the rules after the jump: its verdict sends it to the next hook
// (nf_reinject), and --queue-bypass without a daemon does the same (nf_hook_slow). So the
// jumps are at the very end, behind the administrator's CONNMARK --restore-mark and MARK
// rules, and loading again moves them back there. Rules that must see every packet belong
// before the jump.
//
// A packet over the loopback interface has passed OUTPUT before it arrives at PREROUTING,
// in both directions of its connection. So the jump in PREROUTING excludes lo: editing a
// packet twice would damage it.
//
// --ctorigdstport is the port the connection was opened to, before any DNAT, and
// it matches both directions of it. Packets without a conntrack entry (INVALID,
// untracked) never match, and they are not translated either.
//
// A packet that comes in over a VRF passes PREROUTING a second time, with the VRF's device, and
// the kernel frees what is queued then. iptables cannot ask for a device's kind. So each VRF has
// a rule that returns, by its name, and Watch keeps these rules up to date.
//
// Connections that need no queueing are recognized before their segments:
//
//	-m conntrack --ctorigdstport 1723 -m connlabel ! --label 118 -m bpf ... -j NFQUEUE
//
// # What the rules cannot give
//
// With the nft backend a mark set in mangle OUTPUT does not reroute the gateway's own
// packets if they are queued there (nf_route_table_hook4 reroutes accepted packets only;
// legacy does it before queueing). For a PPTP client on the gateway itself, choose the
// route with "ip rule add ipproto tcp dport 1723 ..." instead. Forwarded packets are routed
// after PREROUTING, so marks work for them with either backend.
//
// The rules belong to one iptables backend. After a change of the system's iptables between
// legacy and nft, unload with the old one (Firewall.Command): neither backend shows or
// removes the rules of the other.
package iptables
