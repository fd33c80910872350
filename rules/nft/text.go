package nft

import (
	"fmt"
	"strings"

	"pptpalg/rules"
)

// Text returns the rules as input for "nft -f", for gateways with their own nftables
// ruleset: a table of its own, replaced as a whole when it is loaded again. It goes with
// "pptpalg run --rules none".
func Text(c rules.Config) string {
	var b strings.Builder
	b.WriteString(head)
	if advice := ForwardRules(c.Data); len(advice) > 0 {
		fmt.Fprintf(&b, forwardAdvice, strings.Join(advice, "\n#\t"))
	}
	fmt.Fprintf(&b, "\ntable ip %[1]s\ndelete table ip %[1]s\ntable ip %[1]s {\n", Table)
	texts := make([]string, 0, len(chains(c)))
	for _, c := range chains(c) {
		texts = append(texts, c.String())
	}
	b.WriteString(strings.Join(texts, "\n"))
	b.WriteString("}\n")
	return b.String()
}

// ForwardRules returns the rules that accept the calls' GRE, and errors about it, for a
// forward chain that drops by default; none if they are not wanted.
func ForwardRules(d rules.Data) []string {
	if d.Queues == 0 || d.Mark == 0 {
		return nil
	}
	return []string{"ip protocol gre ct state untracked accept", "ip protocol icmp ct state untracked accept"}
}

const head = `# PPTP for pptpalg: load with "nft -f FILE", before "pptpalg run --rules none".
# "bypass" lets packets pass while no daemon reads the queue.
`

const forwardAdvice = `#
# An accept in this table would not overrule a drop in another one. If your forward chain
# drops by default, add this to it, before it drops, and to your input chain
# for calls of the gateway itself:
#
#	%s
`

func (c chain) String() string {
	lines := []string{"chain " + c.name + " {"}
	if c.at != nil {
		lines = append(lines, "\ttype "+string(c.at.kind)+" hook "+c.at.words+"; policy accept;")
	}
	for _, r := range c.rules {
		lines = append(lines, "\t"+r.String())
	}
	lines = append(lines, "}")
	if c.about != "" {
		lines = append(strings.Split(c.about, "\n"), lines...)
	}
	return "\t" + strings.Join(lines, "\n\t") + "\n"
}
