// Package check owns the question whether PPTP can work on this gateway: what of
// the kernel, its settings, the firewall and the daemon stands in a call's way, and
// the command that mends it.
//
// A check is a thin reader of facts and a pure judge over them, a row of a table
// (checks). Readers ask the network namespace of the calling thread, and change
// nothing of it but this: a queue that nobody has, and the port of the metrics, are bound
// for an instant, and conntrack's Probe puts two entries of documentation addresses in and
// out. Packets are sent (tryTranslation), and rules loaded (tryLoading), in namespaces of
// their own.
//
// # The firewall
//
// The kernel judges it. Rules are copied into a network namespace of their own (scratch), object
// by object as the kernel lists them, so that whatever it can match is copied. iptables is asked
// only for the words of its rules, nft for nothing. Links there have the names and numbers of the
// gateway's; VRFs, addresses, routes and routing rules are the gateway's. Packets are put in as if they
// had arrived: the first of a control connection, data both ways,
// and GRE as the kernel sees it where a call's entries translate it (where the daemon translates,
// untracked). They go between the interfaces that routes and rules of NAT tell to be inside and
// outside (network.ways), and where DNAT publishes a server, to that one (travellers). The
// kernel's trace tells which rules each has met, and which one took it.
//
// Our own rules that queue are left out of the copy: what a packet would meet behind them is
// looked at as well. Another program's queue has somebody who accepts, if it has somebody there.
//
// Which host calls, to which address, and with which mark is not known. So packets differ: a
// typical one comes first, then those that differ by what rules compare (literals). A
// problem is what none of them survives.
//
// Rules of iptables-legacy are loaded with the other backend, in a namespace of their own: a
// packet has to come through both. Sets of ipset cannot be copied: rules know them by number.
//
// Tests hold the judge against the gateways of others and rulesets that nobody would write, with
// real packets. And they hold that each finding is provoked, and that what it gives as the
// remedy mends it.
package check
