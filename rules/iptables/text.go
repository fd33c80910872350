package iptables

import (
	"fmt"
	"slices"
	"strings"

	"pptpalg/conntrack"
	"pptpalg/rules"
)

// Chain is our own chain in table mangle. Every rule in it and every jump to it, wherever
// it is, is ours; nothing else is.
const Chain = "PPTPALG"

// jumps are the rules that lead to Chain. They match little more than the protocol, because
// every packet of the gateway passes the first ones.
func jumps(c rules.Config) []string {
	all := []string{"-A PREROUTING -p tcp -j " + Chain}
	if c.TooBig {
		all = append(all, "-A PREROUTING -p icmp -m icmp --icmp-type 3/4 -j "+Chain)
	}
	return append(all, "-A OUTPUT -p tcp -j "+Chain)
}

// fromLoopback is the first rule in Chain: packets that arrive over the loopback interface
// have passed OUTPUT.
const fromLoopback = "-A " + Chain + " -i lo -j RETURN"

// Text returns the rules as input for "iptables-restore --noflush" on tables that have none
// of our rules, with one for each VRF. iptables refuses it as a whole for a table that has some
// ("Chain already exists").
func Text(c rules.Config, vrfs ...VRF) string {
	text := LoadText("", c, vrfs...)
	if c.Data.Queues > 0 {
		text += loadText(c.Data, nil, vrfs...)
	}
	if c.ResetMark != 0 {
		text += loadParts(ResetChain, resetParts(c), nil)
	}
	if len(vrfs) > 0 {
		text = vrfNote + text
	}
	return text
}

// control returns the content of Chain: after the first rule, and those about VRFs, one rule per
// port, and another one for SYNs that ask for Multipath TCP. Its matches on TCP come first, so
// that other SYNs, and a flood of them, cost nothing more. The rule of TooBig is the last.
//
// A RST with which the gateway answers a segment (REJECT --reject-with tcp-reset) is
// RELATED, and is not queued. It shares the segment's conntrack entry. While that entry is
// not in the table, the kernel drops packets that are queued with it
// (nf_ct_drop_unconfirmed in nfnetlink_queue.c).
func control(c rules.Config, vrfs ...VRF) []string {
	segments := `-m comment --comment "every segment"`
	if !c.AllSegments {
		segments = `-m bpf --bytecode "` + bytecode(predicate) + `" -m comment --comment "data, SYN+ACK, FIN, RST"`
	}
	lines := append([]string{fromLoopback}, returning(Chain, vrfs)...)
	for _, port := range c.Ports {
		lines = append(lines, fmt.Sprintf(
			"-A %s -p tcp -m conntrack --ctstate NEW,ESTABLISHED --ctproto tcp --ctorigdstport %d %s%s -j NFQUEUE --queue-num %d --queue-bypass",
			Chain, port, passMatch(c.Bypass), segments, c.Queue))
		if !c.AllSegments {
			lines = append(lines, fmt.Sprintf(
				`-A %s -p tcp -m tcp --tcp-option %d --tcp-flags SYN,ACK SYN -m conntrack --ctproto tcp --ctorigdstport %d -m comment --comment "SYN of Multipath TCP" -j NFQUEUE --queue-num %d --queue-bypass`,
				Chain, rules.OptionMPTCP, port, c.Queue))
		}
	}
	if c.TooBig {
		lines = append(lines, fmt.Sprintf("-A %s %s -m conntrack --ctstate RELATED -m limit --limit %d/second -j NFQUEUE --queue-num %d --queue-bypass",
			Chain, aboutGRE, rules.TooBigRate, c.Queue))
	}
	return lines
}

// LoadText returns the transaction for "iptables-restore --noflush" that loads c's rules
// for control connections into table mangle: it removes our old rules, however many and
// wherever, adds the new ones, and puts the jumps last in their chains. current is what
// "iptables -t mangle -S" printed.
//
// iptables applies all of it or nothing. It applies nothing, with an error at one of the
// first lines, if another process has changed our rules since current was read: -D fails
// for a jump that is gone, -X fails for a chain with an added jump, -N fails for an added
// chain. So two loaders never leave two jumps.
func LoadText(current string, c rules.Config, vrfs ...VRF) string {
	return loadControlText(current, control(c, vrfs...), jumps(c))
}

// loadControlText is LoadText for the content of Chain, and the jumps to it.
func loadControlText(current string, lines, jumps []string) string {
	return transaction("mangle", removal(current), []string{"-N " + Chain}, lines, jumps)
}

// spelled returns lines in another spelling.
func spelled(lines []string, spell func(string) string) []string {
	lines = slices.Clone(lines)
	for i := range lines {
		lines[i] = spell(lines[i])
	}
	return lines
}

// UnloadText returns the transaction that removes what LoadText's transaction added, or ""
// if there is nothing to remove. current is as for LoadText.
func UnloadText(current string) string {
	lines := removal(current)
	if len(lines) == 0 {
		return ""
	}
	return transaction("mangle", lines)
}

// share is what one table has of our rules: rules in a chain, and jumps to it from others.
type share struct {
	table, chain string
	rules        int
	jumps        map[string]int // by the chain that has them
	first        bool           // the jumps come before rules that may keep packets of calls from them
}

// wanted returns what all tables have of c's rules.
func wanted(c rules.Config) []share {
	all := []share{{"mangle", Chain, len(control(c)), byChain(jumps(c)), false}}
	if c.Data.Queues > 0 {
		all = append(all, shares(DataChain, parts(c.Data))...)
	}
	if c.ResetMark != 0 {
		all = append(all, shares(ResetChain, resetParts(c))...)
	}
	return all
}

func shares(chain string, parts []part) []share {
	var all []share
	for _, p := range parts {
		if len(p.rules) > 0 {
			all = append(all, share{p.table, chain, len(p.rules), byChain(p.jumps), chain == DataChain})
		}
	}
	return all
}

// byChain counts the lines that add a rule, by the chain to which they add it.
func byChain(added []string) map[string]int {
	n := make(map[string]int)
	for _, line := range added {
		n[strings.Fields(line)[1]]++
	}
	return n
}

// in reports whether current (as for LoadText, of the table) has all of it. Jumps that others
// have added do no harm, and rules about VRFs come and go.
func (s share) in(current string) bool {
	n, found, taken := 0, make(map[string]int), make(map[string]bool)
	for _, r := range parse(current) {
		switch {
		case r.aboutVRF(s.chain):
		case r.appendsTo(s.chain):
			n++
		case r.jumpsTo(s.chain) && !taken[r.words[1]]:
			found[r.words[1]]++
		case s.first && r.mayTake(s.table):
			taken[r.words[1]] = true
		}
	}
	for chain, least := range s.jumps {
		if found[chain] < least {
			return false
		}
	}
	return n == s.rules
}

// passingTargets are those that let a packet of a call's go on to the next rule.
var passingTargets = []string{"CLASSIFY", "CONNMARK", "DSCP", "LOG", "MARK", "NFLOG", "SET", "TCPMSS", "TOS", "TRACE", "TTL"}

// mayTake reports whether a rule of a table may keep a packet of a call's, or an error about one,
// from what the data path has behind it. In table filter that is no more than an accept. What else
// the rule asks for than the protocol is not looked at.
func (r rule) mayTake(table string) bool {
	if r.words[0] != "-A" {
		return false
	}
	for i, word := range r.words[:len(r.words)-1] {
		switch next := r.words[i+1]; {
		case word == "-p" && r.words[i-1] != "!" && !slices.Contains([]string{"gre", "47", "icmp", "1"}, next):
			return false
		case word == "-g":
			return true
		case word == "-j":
			return !slices.Contains(passingTargets, next) && (table != "filter" || next != "ACCEPT")
		}
	}
	return false
}

// transaction returns groups of lines as one iptables-restore transaction.
func transaction(table string, groups ...[]string) string {
	return "*" + table + "\n" + strings.Join(slices.Concat(groups...), "\n") + "\nCOMMIT\n"
}

// removal returns the lines that remove Chain from current.
func removal(current string) []string { return removalOf(current, Chain) }

// removalOf returns the lines that remove a chain of ours and every jump to it. They delete
// a jump by its own words, not by its number, which other processes may change.
func removalOf(current, chain string) []string {
	var deletes, ends []string
	for _, r := range parse(current) {
		switch {
		case r.jumpsTo(chain):
			deletes = append(deletes, "-D"+strings.TrimPrefix(r.text, "-A"))
		case r.declares(chain):
			ends = []string{"-F " + chain, "-X " + chain}
		}
	}
	return append(deletes, ends...)
}

// rule is one line that "iptables -S" printed.
type rule struct {
	text  string   // as printed
	words []string // without quotes, which words no longer need
}

func (r rule) declares(chain string) bool { return slices.Equal(r.words, []string{"-N", chain}) }

func (r rule) appendsTo(chain string) bool {
	return len(r.words) > 2 && r.words[0] == "-A" && r.words[1] == chain
}

// jumpsTo reports whether the rule is a jump or goto to a chain. iptables prints the
// target last, and a chain as target has no options.
func (r rule) jumpsTo(chain string) bool {
	n := len(r.words)
	return n >= 4 && strings.HasPrefix(r.text, "-A ") && r.words[n-1] == chain &&
		(r.words[n-2] == "-j" || r.words[n-2] == "-g")
}

// parse splits the output of "iptables -S" into rules and their words, with the
// quoting of xtables_save_string: double quotes, inside them a backslash before
// a quote or a backslash. A newline inside quotes is part of a comment.
func parse(text string) []rule {
	var rules []rule
	for text != "" {
		var r rule
		r, text = parseRule(text)
		if len(r.words) > 0 {
			rules = append(rules, r)
		}
	}
	return rules
}

// parseRule splits the first rule off text, which is not empty.
func parseRule(text string) (r rule, rest string) {
	var word []byte
	inWord, quoted := false, false
	endWord := func() {
		if inWord {
			r.words = append(r.words, string(word))
		}
		word, inWord = nil, false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n' && !quoted:
			endWord()
			r.text = text[:i]
			return r, text[i+1:]
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			endWord()
		case c == '\\' && quoted && i+1 < len(text):
			i++
			word = append(word, text[i])
		default:
			word, inWord = append(word, c), true
		}
	}
	if quoted {
		return rule{}, "" // cut off
	}
	endWord()
	r.text = text
	return r, ""
}

// passMatch returns the match on connections that are not left alone, with a space behind it.
func passMatch(b conntrack.Bypass) string {
	switch {
	case b.Mark != 0:
		return fmt.Sprintf("-m connmark ! --mark 0x%x/0x%x ", b.Mark, b.Mark)
	case b.Labelled:
		return fmt.Sprintf("-m connlabel ! --label %d ", b.Label)
	}
	return ""
}
