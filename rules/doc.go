// Package rules owns the firewall rules that bring PPTP control connections to
// the daemon's NFQUEUE, and GRE if the daemon is to translate it: their text, and
// loading it with iptables.
//
// The text (Config, LoadText, UnloadText, LoadedIn) is pure; Firewall is the
// only I/O. The rules for control connections live in table mangle, in a chain of
// our own (Data has those for GRE):
//
//	packet in ──► PREROUTING: the administrator's rules ─┐
//	                                                     ├─► PPTPALG ─► NFQUEUE ─► next hook
//	own packet ─► OUTPUT:     the administrator's rules ─┘       └────► pure ACK, other TCP: next rule
//
// Three facts decide the shape; each is held by a test against the kernel.
//
// A queued packet never sees the rules after the jump: its verdict sends it to
// the next hook (nf_reinject), and --queue-bypass without a daemon does the same
// (nf_hook_slow). The jumps therefore stand at the very end, behind the
// administrator's CONNMARK --restore-mark and MARK rules, and loading again moves
// them back there. Rules that must see every packet belong before the jump.
//
// A packet over the loopback interface has passed OUTPUT before it arrives at
// PREROUTING, in both directions of its connection, so PREROUTING leaves lo out:
// a packet edited twice would be damaged.
//
// --ctorigdstport is the port the connection was opened to, before any DNAT, and
// it matches both directions of it. Packets without a conntrack entry (INVALID,
// untracked) never match, and they are not translated either.
//
// # Connections that are left alone
//
// A connection that turns out not to be PPTP, or not to be translated, need not be
// queued any more. The daemon says so by a bit of its conntrack entry (Bypass), and
// the rule asks for the bit before it looks at the segment:
//
//	-m conntrack --ctorigdstport 1723 -m connlabel ! --label 118 -m bpf ... -j NFQUEUE
//
// From then on neither data nor FIN nor RST of it is queued, in either direction;
// other connections are queued as before. The bit ends with the entry. Where
// iptables or the kernel has no such match, Load does without, and all are queued.
//
// # What the rules cannot give
//
// One thing the rules cannot give: with the nft backend a mark set in mangle
// OUTPUT does not route the gateway's own packets anew once they are queued there
// (nf_route_table_hook4 does it for accepted packets only; legacy does it before
// queueing). For a PPTP client on the gateway itself choose the route with
// "ip rule add ipproto tcp dport 1723 ..." instead. Forwarded packets are routed
// after PREROUTING, marks work for them with either backend.
//
// NFT is the same as a native nftables table, printed for those who manage their ruleset
// themselves; Firewall does not load it.
//
// The rules are those of one iptables backend. After a change of the system's
// iptables between legacy and nft, unload with the old one (Firewall.Command):
// each backend neither shows nor removes the rules of the other.
package rules
