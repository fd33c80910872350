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
// Rules of iptables and of nft are read into one form (ruleset), and packets are walked
// through it, each by the chains of its hooks in the order of their priorities: the first
// of a control connection, the answer, and GRE as the kernel sees it where a call's entries
// translate it, as packets of an established connection (where the daemon translates,
// of a new one). They go between the interfaces that routes and rules of NAT tell to be
// inside and outside (network.ways), and where DNAT publishes a server, to that one.
//
// Which address outside a packet goes to is not known, nor are marks, sets of ipset and
// rates. So a condition holds for certain, holds on some side, holds perhaps, or does not
// hold. What cannot be decided is taken as it is most often meant, and told as something
// to look at where it is about PPTP. A problem is only what is certain: that nothing
// comes through, on any way.
//
// Tests hold the walk against the kernel: for what it is certain of, rulesets that nobody would
// write are loaded and packets sent through. And they hold that each finding is provoked,
// and that what it gives as the remedy mends it.
package check
