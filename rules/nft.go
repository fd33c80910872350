package rules

import (
	"fmt"
	"strings"
)

// NFTTable is the table of our own, of family ip, that NFT's text has. Everything in it
// is ours.
const NFTTable = "pptpalg"

// NFT returns the rules as input for "nft -f", for those who manage their ruleset
// themselves: a table of its own, replaced as a whole when it is loaded again. The
// daemon does not load it: "pptpalg run --rules none" goes with it.
//
// It queues what the iptables rules queue, but for one thing. nftables cannot subtract
// lengths, so pure ACKs are told by a rule for each length of the TCP header, and only
// where the IP header has no options; a pure ACK whose IP header has some is queued in
// vain. What carries data is always queued.
//
// In the data path, the connection mark of a call's GRE becomes the control connection's
// but for the bit that is Data.Mark, which becomes 0: nftables cannot join two marks.
//
// Three facts decide the shape. On kernels without nft_ct_get_init's nf_connlabels_get,
// posted in October 2025, a match on "ct label" makes no room for labels in new entries,
// as iptables' match does: only "ct label set" makes it, reached or not. Packets without a conntrack entry match no "ct" expression, "!="
// included, so that the port is asked for before anything is decided. And an accept in
// one table does not overrule a drop in another: where the firewall's forward chain drops,
// it has to accept the calls' GRE itself, by NFTForwardRule.
func (c Config) NFT() string {
	var b strings.Builder
	b.WriteString(nftHead)
	if c.Data.Queues > 0 && c.Data.Mark != 0 {
		fmt.Fprintf(&b, nftForwardAdvice, c.Data.NFTForwardRule())
	}
	fmt.Fprintf(&b, "\ntable ip %[1]s\ndelete table ip %[1]s\ntable ip %[1]s {\n", NFTTable)
	chains := c.nftControl()
	if c.Data.Queues > 0 {
		chains = append(chains, c.Data.nftChains()...)
	}
	b.WriteString(joined(chains))
	b.WriteString("}\n")
	return b.String()
}

// NFTForwardRule returns the rule that accepts the calls' GRE in a forward chain that
// would drop it, "" if there is no mark by which to tell it.
func (d Data) NFTForwardRule() string {
	if d.Mark == 0 {
		return ""
	}
	return fmt.Sprintf("ip protocol gre ct label %d accept", d.Label)
}

const nftHead = `# PPTP for pptpalg: load with "nft -f FILE", before "pptpalg run --rules none".
# "bypass" has packets go on while no daemon reads the queue.
`

const nftForwardAdvice = `#
# An accept in this table would not overrule a drop in another one. If your forward chain
# drops what it does not know, add this to it, before it drops:
#
#	%s
`

// nftChain is a chain; hook is "" where it is only jumped to.
type nftChain struct {
	name, about, hook string
	rules             []string
}

func (c nftChain) String() string {
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

func joined(chains []nftChain) string {
	texts := make([]string, len(chains))
	for i, c := range chains {
		texts[i] = c.String()
	}
	return strings.Join(texts, "\n")
}

// nftControl returns the chains of control connections. They come right after those of
// the administrator's at priority mangle, as our iptables rules stand behind all others.
func (c Config) nftControl() []nftChain {
	chains := []nftChain{
		{"prerouting", "# What arrives over lo has passed output already.",
			"filter hook prerouting priority mangle + 1", c.nftPorts(`iifname != "lo" `)},
		{"output", "", "filter hook output priority mangle + 1", c.nftPorts("")},
		{"control", "", "", c.nftSegments(fmt.Sprintf("queue num %d bypass", c.Queue))},
	}
	if c.Bypass.Labelled {
		chains = append(chains, nftChain{"labels", nftLabelsAbout, "", []string{fmt.Sprintf("ct label set %d", c.Bypass.Label)}})
	}
	return chains
}

const nftLabelsAbout = `# Nothing jumps here. That a rule sets a label is what makes kernels leave room for
# labels in new conntrack entries; to the older ones, a match on a label is not enough.`

// nftPorts returns a jump for each port that connections are opened to, before DNAT.
func (c Config) nftPorts(arriving string) []string {
	var lines []string
	for _, port := range c.Ports {
		lines = append(lines, fmt.Sprintf("meta l4proto tcp %sct original proto-dst %d jump control", arriving, port))
	}
	return lines
}

// nftSegments returns the rules that pick segments, as predicate does. The lengths of TCP
// headers that are most common come first: without options, and with a timestamp.
func (c Config) nftSegments(target string) []string {
	lines := c.Bypass.nftLeft()
	if c.AllSegments {
		return append(lines, target)
	}
	lines = append(lines,
		"tcp flags & (fin | rst) != 0 "+target,
		"tcp flags & (syn | ack) == (syn | ack) "+target,
		fmt.Sprintf(`tcp flags & (syn | ack) == syn tcp option %d exists %s comment "Multipath TCP"`, optionMPTCP, target))
	for _, words := range []int{8, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15} {
		lines = append(lines, fmt.Sprintf("ip hdrlength 5 tcp doff %d ip length %d return", words, 20+4*words))
	}
	return append(lines, target+` comment "data"`)
}

// nftLeft returns the rule about connections that are left alone.
func (b Bypass) nftLeft() []string {
	switch {
	case b.Mark != 0:
		return []string{fmt.Sprintf("ct mark & 0x%[1]x == 0x%[1]x return", b.Mark)}
	case b.Labelled:
		return []string{fmt.Sprintf("ct label %d return", b.Label)}
	}
	return nil
}

// nftChains returns the chains of the data path, see Data. The output chain that takes
// the mark away is of type route, because the daemon may have changed where the packet
// goes: as in iptables' mangle OUTPUT, the packet is routed anew.
func (d Data) nftChains() []nftChain {
	var chains []nftChain
	if d.Mark != 0 {
		jump := fmt.Sprintf("ip protocol gre meta mark & 0x%[1]x == 0x%[1]x jump gre-marked", d.Mark)
		chains = []nftChain{
			{"gre-marked-prerouting", "", "filter hook prerouting priority mangle - 1", []string{jump}},
			{"gre-marked-output", "", "route hook output priority mangle - 1", []string{jump}},
			{"gre-marked", nftMarkedAbout, "", d.nftMarked()},
		}
	}
	return append(chains,
		nftChain{"gre-prerouting", "", "filter hook prerouting priority raw", []string{`iifname != "lo" ip protocol gre jump gre`}},
		nftChain{"gre-output", "", "filter hook output priority raw", []string{"ip protocol gre jump gre"}},
		nftChain{"gre", "# PPTP's GRE alone: version 1, protocol type 0x880b.", "",
			[]string{"@th,0,32 & 0x0007ffff == 0x0001880b " + d.nftQueue()}})
}

const nftMarkedAbout = `# The daemon marks a call's packets: the mark becomes a label of their connection, its
# other bits the control connection's mark, and is taken off the packet.`

func (d Data) nftMarked() []string {
	lines := []string{fmt.Sprintf("ct label set %d", d.Label)}
	if others := ^d.Mark; others != 0 {
		lines = append(lines, fmt.Sprintf("meta mark & 0x%[1]x != 0 ct mark set meta mark & 0x%[1]x", others))
	}
	return append(lines, "meta mark set 0")
}

// nftQueue returns the statement that queues GRE.
func (d Data) nftQueue() string {
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
