// Package preflight owns the question whether PPTP can work on this gateway: what of
// the kernel, its settings, the firewall and the daemon stands in a call's way, and
// the command that mends it.
//
// A check is a thin reader of facts and a pure judge over them, a row of a table
// (checks). Readers ask the network namespace of the calling thread, and change
// nothing of it but this: a queue that nobody has is bound for an instant, and
// ctnetlink's Probe puts two entries of documentation addresses in and out. The
// one check with packets makes namespaces of its own for them (tryTranslation).
//
// # The firewall
//
// Rules of iptables and of nft are read into one form (ruleset), and the packets of a
// call are walked through it: the first of a control connection, and GRE as the
// kernel sees it where a call's entries translate it, as packets of an established
// connection. Where a packet comes from and goes to is not known, nor are sets, marks
// and rates. So a condition holds for certain, holds on some side, holds perhaps,
// or does not hold; and what cannot be decided is told as something to look at.
package preflight
