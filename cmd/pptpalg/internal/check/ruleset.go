package check

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// What a rule does. What else it may do is of no interest.
const (
	accept     = "accept"
	drop       = "drop"
	reject     = "reject"
	queue      = "queue" // a program decides
	jump       = "jump"
	goTo       = "goto"
	back       = "return"
	redirect   = "redirect"
	tproxy     = "tproxy"
	dnat       = "dnat"
	snat       = "snat"
	masquerade = "masquerade"
	netmap     = "netmap" // dnat or snat, of networks
	notrack    = "notrack"
	zone       = "zone"
	helper     = "helper"
	offload    = "offload"
	restore    = "restore" // the connection's mark becomes the packet's
	mark       = "mark"    // the packet gets another mark
)

// action is one of them. arg is, of jump and goto, the chain; of helper its kernel name;
// of zone and queue the number; of nft's snat the first address, "" if it is not in the rule, and the ports,
// 0 if they are not.
type action struct {
	name, arg string
	ports     [2]uint16
	bypass    bool // of queue: the packet goes on where nobody has the queue
}

// rule is a rule of iptables or nft, as far as it is told to people. What it matches is
// the kernel's business.
type rule struct {
	text     string   // as iptables prints it; else its handle
	words    []string // of text, behind -A; nil of nft
	handle   int      // nft's number
	asked    []condition
	actions  []action
	specific bool // it asks for the protocol or the port
	ported   bool // it asks for the port
	counted  bool // it has a counter, as all of iptables' have
	opens    bool // it is the daemon's, and accepts the GRE of calls
}

func (r rule) does(actions ...string) bool {
	return slices.ContainsFunc(r.actions, func(a action) bool { return slices.Contains(actions, a.name) })
}

// about says whether the rule is about TCP, or GRE, as a call has it: most TCP is not PPTP, and
// most GRE is.
func (r rule) about(tcp bool) bool { return r.ported || r.specific && !tcp }

// chain is a chain of iptables or nft. hook is "" for one that is only jumped to.
type chain struct {
	table string // with the program's name: "iptables filter", "nft inet fw"
	home  string // the table's name in the copy
	name  string
	hook  string // ingress, prerouting, forward, postrouting, …
	prio  int    // where among the chains of its hook
	kind  string // filter, nat, route
	drops bool   // its policy is drop
	rules []rule
}

func (c chain) String() string { return c.table + " " + c.name }

// program returns iptables, iptables-legacy or nft, and the table's own name.
func (c chain) program() (program, table string) {
	program, table, _ = strings.Cut(c.table, " ")
	return program, table
}

func (c chain) isNFT() bool { return strings.HasPrefix(c.table, "nft ") }

// line names a rule of the chain for people, or its policy.
func (c chain) line(r rule) string {
	switch {
	case r.text == "":
		return "the policy of " + c.String()
	case strings.HasPrefix(r.text, "-A "):
		return c.table + ": " + r.text
	}
	return c.String() + ": " + r.text
}

// statement is a rule in the words of both programs.
type statement struct{ iptables, nft string }

// from limits a statement to interfaces, those of them that are known.
func (s statement) from(in, out string) statement {
	for _, i := range []struct{ dev, iptables, nft string }{{out, "-o", "oifname"}, {in, "-i", "iifname"}} {
		if i.dev != "" {
			s.iptables = i.iptables + " " + shell(i.dev) + " " + s.iptables
			s.nft = fmt.Sprintf("%s %q %s", i.nft, i.dev, s.nft)
		}
	}
	return s
}

// at returns a command that puts a rule at the chain's beginning.
func (c chain) at(s statement) string {
	program, table := c.program()
	if program == "nft" {
		return shell("nft", "insert rule "+table+" "+c.name+" "+s.nft)
	}
	if table != "filter" {
		program += " -t " + table
	}
	return fmt.Sprintf("%s -I %s %s", program, shell(c.name), s.iptables)
}

// without returns a command that takes the rule out of the chain.
func (c chain) without(r rule) string {
	program, table := c.program()
	if program == "nft" {
		return shell("nft", fmt.Sprintf("delete rule %s %s handle %d", table, c.name, r.handle))
	}
	return fmt.Sprintf("%s -t %s -D %s", program, table, shell(r.words...))
}

// sparing returns a command that keeps TCP packets to ports from the rule, and leaves it as it
// is for all others. A rule for nothing but such a port is taken out.
func (c chain) sparing(r rule, ports []uint16) string {
	program, table := c.program()
	if program == "nft" {
		return shell("nft", fmt.Sprintf("insert rule %s %s position %d tcp dport { %s } accept", table, c.name, r.handle, list(ports)))
	}
	target := slices.Index(r.words, "-j")
	number := slices.IndexFunc(c.rules, func(other rule) bool { return other.handle == r.handle })
	if dport := slices.Index(r.words, "--dport"); target < 1 || number < 0 || !slices.Contains(r.words, "-p") ||
		dport > 0 && slices.ContainsFunc(ports, func(p uint16) bool { return r.words[dport+1] == fmt.Sprint(p) }) {
		return c.without(r)
	}
	spec := slices.Concat(r.words[1:target], []string{"-m", "multiport", "!", "--dports", joined(ports, ",")}, r.words[target:])
	return fmt.Sprintf("%s -t %s -R %s %d %s", program, table, shell(c.name), number+1, shell(spec...))
}

// opened returns a command that has the chain's policy accept.
func (c chain) opened() string {
	program, table := c.program()
	if program == "nft" {
		return shell("nft", fmt.Sprintf("chain %s %s { policy accept; }", table, c.name))
	}
	return fmt.Sprintf("%s -t %s -P %s ACCEPT", program, table, c.name)
}

// ruleset is all that the network namespace's firewall has for IPv4.
type ruleset []chain

// The priorities of conntrack and of DNAT (enum nf_ip_hook_priorities).
const conntrackPriority, dnatPriority = -200, -100

// Verdicts of netfilter (include/uapi/linux/netfilter.h).
const nfDrop, nfAccept = 0, 1

// hooks are the words for netfilter's hooks, by number; a device has two of its own.
var (
	hooks    = []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	devHooks = []string{"ingress", "egress"}
)

// rulesetOf reads chains and rules from what the kernel has listed. lines are those that
// the program, one of iptables, prints, for each table and chain.
func rulesetOf(all []object, program string, lines map[string][]string) ruleset {
	var found ruleset
	asleep, helpers, sets := map[string]bool{}, map[string]string{}, map[string]*set{}
	for _, o := range all {
		name := o.home() + " " + o.attrs.text(unix.NFTA_OBJ_NAME) // of sets and their elements it is the same attribute
		switch o.kind {
		case unix.NFT_MSG_NEWTABLE:
			asleep[o.home()] = o.attrs.number(unix.NFTA_TABLE_FLAGS)&1 != 0
		case unix.NFT_MSG_NEWOBJ:
			helpers[name] = o.attrs.nest(unix.NFTA_OBJ_DATA).text(unix.NFTA_CT_HELPER_NAME)
		case unix.NFT_MSG_NEWSET:
			sets[name] = &set{intervals: o.attrs.number(unix.NFTA_SET_FLAGS)&unix.NFT_SET_INTERVAL != 0}
		case unix.NFT_MSG_NEWSETELEM:
			if s := sets[name]; s != nil {
				s.add(o.attrs.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS))
			}
		case unix.NFT_MSG_NEWCHAIN:
			found = append(found, o.chain(asleep))
		case unix.NFT_MSG_NEWRULE:
			if i := found.index(o.home(), o.attrs.text(unix.NFTA_RULE_CHAIN)); i >= 0 {
				found[i].rules = append(found[i].rules, o.rule(&meaning{home: o.home(), sets: sets, helpers: helpers}))
			}
		}
	}
	for i := range found {
		found[i].tell(program, lines)
	}
	return found
}

func (o object) chain(asleep map[string]bool) chain {
	c := chain{home: o.home(), name: o.attrs.text(unix.NFTA_CHAIN_NAME), kind: o.attrs.text(unix.NFTA_CHAIN_TYPE)}
	c.table = "nft " + nfproto[o.family] + " " + o.attrs.text(unix.NFTA_CHAIN_TABLE)
	hook := o.attrs.nest(unix.NFTA_CHAIN_HOOK)
	if len(hook) == 0 || asleep[c.home] {
		return c
	}
	names := hooks
	if o.family == unix.NFPROTO_NETDEV {
		names = devHooks
	}
	if n := int(hook.number(unix.NFTA_HOOK_HOOKNUM)); n < len(names) {
		c.hook = names[n]
	}
	c.prio = int(int32(hook.number(unix.NFTA_HOOK_PRIORITY)))
	c.drops = o.attrs.get(unix.NFTA_CHAIN_POLICY) != nil && o.attrs.number(unix.NFTA_CHAIN_POLICY) == nfDrop
	return c
}

func (o object) rule(m *meaning) rule {
	n := int(o.attrs.number(unix.NFTA_RULE_HANDLE))
	parts := o.exprs()
	m.read(parts)
	r := rule{handle: n, text: fmt.Sprintf("rule with handle %d", n), asked: m.asked, actions: m.actions}
	comments := slices.Concat(o.attrs.get(unix.NFTA_RULE_USERDATA), o.attrs.get(unix.NFTA_RULE_EXPRESSIONS)) // iptables has them in a match
	r.opens = slices.Contains(r.actions, action{name: jump, arg: iptables.DataChain}) || bytes.Contains(comments, []byte(nft.OpenerComment))
	r.counted = slices.ContainsFunc(parts, func(e expression) bool { return e.name == "counter" })
	asks := func(fields ...field) bool {
		return slices.ContainsFunc(m.asked, func(c condition) bool { return slices.Contains(fields, c.field) })
	}
	r.ported = asks(bySourcePort, byPort)
	r.specific = r.ported || asks(byProtocol)
	return r
}

func verdict(v attributes) action {
	chain := v.text(unix.NFTA_VERDICT_CHAIN)
	switch int32(v.number(unix.NFTA_VERDICT_CODE)) {
	case nfDrop:
		return action{name: drop}
	case nfAccept:
		return action{name: accept}
	case unix.NFT_JUMP:
		return action{name: jump, arg: chain}
	case unix.NFT_GOTO:
		return action{name: goTo, arg: chain}
	case unix.NFT_RETURN:
		return action{name: back}
	}
	return action{}
}

// xtables are the names of iptables' tables. Others may keep rules of nft's own in them,
// which iptables does not tell of.
var xtables = []string{"filter", "nat", "mangle", "raw", "security"}

// tell has a chain be one of iptables' if that tells all of it. It tells of the daemon's rules
// too.
func (c *chain) tell(program string, lines map[string][]string) {
	told, found := lines[c.home+" "+c.name]
	foreign := slices.ContainsFunc(c.rules, func(r rule) bool { return !r.counted && !r.opens })
	if !found || foreign || len(told) != len(c.rules) || !slices.Contains(xtables, c.home) {
		return
	}
	c.table = program + " " + c.home
	for i, line := range told {
		c.rules[i].text, c.rules[i].words = line, split(line)[1:]
	}
}

// readLines divides what iptables-save prints among its chains.
func readLines(text string) map[string][]string {
	lines, table := map[string][]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			lines[table+" "+words[0][1:]] = nil
		case strings.HasPrefix(line, "-A ") && len(words) > 1:
			lines[table+" "+words[1]] = append(lines[table+" "+words[1]], line)
		}
	}
	return lines
}

// quotedOrPlain is a word as xtables_save_string quotes it: in double quotes, inside them
// a backslash before a quote or a backslash.
var quotedOrPlain = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|\S+`)

// split cuts a line of iptables into words.
func split(line string) []string {
	words := quotedOrPlain.FindAllString(line, -1)
	for i, w := range words {
		if strings.HasPrefix(w, `"`) && len(w) > 1 {
			words[i] = escaped.ReplaceAllString(w[1:len(w)-1], "$1")
		}
	}
	return words
}

var escaped = regexp.MustCompile(`\\(.)`)

func (all ruleset) index(home, name string) int {
	return slices.IndexFunc(all, func(c chain) bool { return c.home == home && c.name == name })
}

// event is a rule that a packet has met, or the policy of a chain: an accept or drop
// without a text.
type event struct {
	rule
	action
	chain chain // that has the rule
	base  chain // that the packet came from
}

// has returns the first rule with one of the actions, whatever its conditions.
func (all ruleset) has(actions ...string) (chain, rule, bool) {
	for _, c := range all {
		for _, r := range c.rules {
			if r.does(actions...) {
				return c, r, true
			}
		}
	}
	return chain{}, rule{}, false
}
