// Package nft owns the rules as an nftables table.
package nft

import (
	"fmt"
	"strings"

	"pptpalg/conntrack"
	"pptpalg/rules"
)

// Table is our own table, of family ip, in Text's words. Everything in it is ours.
const Table = "pptpalg"

// Text returns the rules as input for "nft -f", for gateways with their own nftables
// ruleset: a table of its own, replaced as a whole when it is loaded again. The daemon does
// not load it: use it with "pptpalg run --rules none".
//
// It queues what the iptables rules queue, with one exception. nftables cannot subtract
// lengths, so a rule for each length of the TCP header recognizes pure ACKs, but only if
// the IP header has no options; a pure ACK with IP options is queued needlessly. Packets
// with data are always queued.
//
// For GRE, the administrator's rules at priority raw come before ours, and a rule there
// that sets a conntrack zone makes conntrack track a call's packets after all; the iptables
// rules come before such a rule. And an error that quotes a packet with IP options is not
// recognized.
//
// Three facts decide the shape. On kernels without nft_ct_get_init's nf_connlabels_get,
// posted in October 2025, a match on "ct label" makes no room for labels in new entries,
// unlike iptables' match: only "ct label set" does, reached or not. Packets without a
// conntrack entry match no "ct" expression, not even "!=", so the rules check the port
// before they decide anything. And an accept in one table does not overrule a drop in
// another: if the firewall's chains drop, they have to accept the calls' GRE themselves, by
// forwardRules.
func Text(c rules.Config) string {
	var b strings.Builder
	b.WriteString(head)
	if c.Data.Queues > 0 && c.Data.Mark != 0 {
		fmt.Fprintf(&b, forwardAdvice, strings.Join(forwardRules(c.Data), "\n#\t"))
	}
	fmt.Fprintf(&b, "\ntable ip %[1]s\ndelete table ip %[1]s\ntable ip %[1]s {\n", Table)
	chains := controlChains(c)
	if c.Data.Queues > 0 {
		chains = append(chains, dataChains(c.Data)...)
	}
	chains = append(chains, resetChains(c)...)
	b.WriteString(joined(chains))
	b.WriteString("}\n")
	return b.String()
}

// forwardRules returns the rules that accept the calls' GRE, and errors about it, for a
// forward chain that drops by default; none if they are not wanted.
func forwardRules(d rules.Data) []string {
	if d.Mark == 0 {
		return nil
	}
	return []string{"ip protocol gre ct state untracked accept", "ip protocol icmp ct state untracked accept"}
}

const head = `# PPTP for pptpalg: load with "nft -f FILE", before "pptpalg run --rules none".
# "bypass" has packets go on while no daemon reads the queue.
`

const forwardAdvice = `#
# An accept in this table would not overrule a drop in another one. If your forward chain
# drops what it does not know, add this to it, before it drops, and to your input chain
# for calls of the gateway itself:
#
#	%s
`

// chain is a chain; hook is "" where it is only jumped to.
type chain struct {
	name, about, hook string
	rules             []string
}

func (c chain) String() string {
	lines := []string{"chain " + c.name + " {"}
	if c.hook != "" {
		lines = append(lines, "\ttype "+c.hook+"; policy accept;")
	}
	for _, r := range c.rules {
		lines = append(lines, "\t"+r)
	}
	lines = append(lines, "}")
	if c.about != "" {
		lines = append(strings.Split(c.about, "\n"), lines...)
	}
	return "\t" + strings.Join(lines, "\n\t") + "\n"
}

func joined(chains []chain) string {
	texts := make([]string, len(chains))
	for i, c := range chains {
		texts[i] = c.String()
	}
	return strings.Join(texts, "\n")
}

// controlChains returns the chains of control connections. They come right after the
// administrator's chains at priority mangle, as our iptables rules come behind all others.
func controlChains(c rules.Config) []chain {
	chains := []chain{
		{"prerouting", "# What arrives over lo has passed output already.",
			"filter hook prerouting priority mangle + 1", portRules(c, `iifname != "lo" `)},
		{"output", "", "filter hook output priority mangle + 1", portRules(c, "")},
		{"control", "", "", segmentRules(c, fmt.Sprintf("queue num %d bypass", c.Queue))},
	}
	if c.Bypass.Labelled {
		chains = append(chains, chain{"labels", labelsAbout, "", []string{fmt.Sprintf("ct label set %d", c.Bypass.Label)}})
	}
	return chains
}

const labelsAbout = `# Nothing jumps here. That a rule sets a label is what makes kernels leave room for
# labels in new conntrack entries; to the older ones, a match on a label is not enough.`

// portRules returns a jump for each port that connections are opened to, before DNAT.
func portRules(c rules.Config, arriving string) []string {
	var lines []string
	for _, port := range c.Ports {
		lines = append(lines, fmt.Sprintf("meta l4proto tcp %sct state new,established ct original proto-dst %d jump control", arriving, port))
	}
	return lines
}

// segmentRules returns the rules that select segments, as predicate does. The most common
// lengths of TCP headers come first: without options, and with a timestamp.
func segmentRules(c rules.Config, target string) []string {
	lines := leftRules(c.Bypass)
	if c.AllSegments {
		return append(lines, target)
	}
	lines = append(lines,
		"tcp flags & (fin | rst) != 0 "+target,
		"tcp flags & (syn | ack) == (syn | ack) "+target,
		fmt.Sprintf(`tcp flags & (syn | ack) == syn tcp option %d exists %s comment "Multipath TCP"`, rules.OptionMPTCP, target))
	for _, words := range []int{8, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15} {
		lines = append(lines, fmt.Sprintf("ip hdrlength 5 tcp doff %d ip length %d return", words, 20+4*words))
	}
	return append(lines, target+` comment "data"`)
}

// leftRules returns the rule about connections that need no queueing.
func leftRules(b conntrack.Bypass) []string {
	switch {
	case b.Mark != 0:
		return []string{fmt.Sprintf("ct mark & 0x%[1]x == 0x%[1]x return", b.Mark)}
	case b.Labelled:
		return []string{fmt.Sprintf("ct label %d return", b.Label)}
	}
	return nil
}

// matches selects the packets of calls, and errors about them, as parts' matches do.
var matches = []string{
	"ip protocol gre @th,0,32 & 0x0007ffff == 0x0001880b ",
	"icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,64,8 0x45 @th,136,8 47 @th,224,32 & 0x0007ffff == 0x0001880b ",
}

// dataChains returns the chains of the data path, see Data. Those at raw come after the
// administrator's chains, which see the packets as they come; those that queue leaving
// packets come before.
func dataChains(d rules.Data) []chain {
	call, seen := d.Marks()
	const notLooped, untracked = `iifname != "lo" `, "ct state untracked "
	unmark := fmt.Sprintf("meta mark set meta mark & 0x%08x", ^seen)
	queue := fmt.Sprintf("meta mark & 0x%08x == 0 %s", seen, queueStatement(d))
	return []chain{
		{"gre-prerouting", greAbout, "filter hook prerouting priority raw + 1", dataJumps(notLooped, "gre")},
		{"gre-output", "", "filter hook output priority raw + 1", dataJumps("", "gre")},
		{"gre", "", "", []string{
			fmt.Sprintf("meta mark & 0x%[1]x == 0x%[1]x notrack", call),
			untracked + fmt.Sprintf("meta mark set meta mark & 0x%08x accept", ^(call|seen)),
			queue, unmark,
		}},
		{"gre-postrouting", leavingAbout, "filter hook postrouting priority mangle - 1", dataJumps(untracked, "gre-leaving")},
		{"gre-input", "", "filter hook input priority mangle - 1", dataJumps(notLooped+untracked, "gre-leaving")},
		{"gre-leaving", "", "", []string{queue, unmark}},
	}
}

func dataJumps(match, chain string) []string {
	var lines []string
	for _, m := range matches {
		lines = append(lines, match+m+"jump "+chain)
	}
	return lines
}

const greAbout = `# PPTP's GRE alone (version 1, protocol type 0x880b), and errors about it. The daemon marks a
# packet and has it come through this chain again: a call's is not tracked from here on.`

const leavingAbout = `# Packets of calls are untracked. The daemon rewrites their source, and has them come again.`

// queueStatement returns the statement that queues GRE.
func queueStatement(d rules.Data) string {
	target := fmt.Sprintf("queue num %d", d.Queue)
	if d.Queues > 1 {
		target += fmt.Sprintf("-%d", int(d.Queue)+d.Queues-1)
	}
	var flags []string
	if d.Bypass {
		flags = append(flags, "bypass")
	}
	if d.ByCPU && d.Queues > 1 {
		flags = append(flags, "fanout")
	}
	return strings.TrimRight(target+" "+strings.Join(flags, ","), " ")
}

// resetChains returns the chain that answers segments with a RST, if that is wanted.
func resetChains(c rules.Config) []chain {
	if c.ResetMark == 0 {
		return nil
	}
	return []chain{{"lost", "# The daemon marks segments of connections that cannot go on.",
		"filter hook forward priority filter - 1",
		[]string{fmt.Sprintf("meta l4proto tcp meta mark & 0x%[1]x == 0x%[1]x reject with tcp reset", c.ResetMark)}}}
}
