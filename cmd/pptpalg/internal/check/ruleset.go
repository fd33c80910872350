package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// level is how surely something applies to a packet.
type level uint8

const (
	no   level = iota
	some       // perhaps: it depends on what is not known here, as sets, marks and rates
	side       // where the packet comes from the right place, or goes there: addresses, and interfaces that are not known
	yes
)

func (l level) not() level {
	switch l {
	case no:
		return yes
	case yes:
		return no
	}
	return l
}

// when returns yes or no.
func when(b bool) level {
	if b {
		return yes
	}
	return no
}

// packet is what a condition is asked about.
type packet struct {
	proto   string // tcp, gre
	state   string // of its connection: new, established; or untracked; or invalid, before conntrack has seen it
	reply   bool   // it travels against the way that its connection was opened
	service uint16 // the TCP port that the connection was opened to
	inner   uint16 // what DNAT made of that port, or the same
	dnat    level  // whether its connection's destination is translated
	in, out string // interfaces; "" is one that is not known
	from    []span // the networks that it may come from; nil: not known
	to      []span // and those that it may go to

	// Where it is, which at sets.
	hook     string
	src, dst uint16 // TCP ports; 0 is one that the client's kernel chose
}

// The priorities of conntrack and of DNAT (enum nf_ip_hook_priorities).
const conntrackPriority, dnatPriority = -200, -100

// at returns the packet as a chain sees it: before or after DNAT, with or without
// conntrack.
func (p packet) at(c chain) packet {
	p.hook = c.hook
	arriving := c.hook == "ingress" || c.hook == "prerouting"
	if c.hook == "ingress" || c.hook == "egress" || arriving && c.prio <= conntrackPriority {
		p.state, p.dnat = "invalid", no
	}
	early := c.hook == "ingress" || arriving && c.prio <= dnatPriority
	late := c.hook == "egress" || c.hook == "postrouting" && c.prio > -dnatPriority
	switch {
	case p.proto != "tcp":
	case p.reply:
		p.src = p.inner
		if late {
			p.src = p.service
		}
	default:
		p.dst = p.inner
		if early {
			p.dst = p.service
		}
	}
	if early {
		p.to = nil // a public address, or a server's
	}
	if late {
		p.from = nil
	}
	if arriving {
		p.out = ""
	}
	return p
}

// condition is one match of a rule.
type condition func(packet) level

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

// final are the actions after which a packet sees no more rules of its base chain.
var final = []string{accept, drop, reject, queue, redirect, tproxy, dnat, snat, masquerade, netmap}

// rule is a rule of iptables or nft.
type rule struct {
	text       string   // as iptables prints it; of nft, its handle
	words      []string // of text, behind -A; nil of nft
	handle     int      // nft's number
	conditions []condition
	specific   bool   // a condition is about the protocol or the port
	ported     bool   // a condition is about the port
	action     string // one of those above, or any other
	arg        string // of jump and goto: the chain; of helper: its kernel name; of zone and queue: the number
	next       *chain // that a jump or goto leads to, which link sets; nil: nowhere
	to         target // of dnat

	// What is asked of rules beside whether they match.
	ports ports    // that the packet is to go to, if a condition says so
	outs  []string // interfaces that it is to leave by
	froms []span   // where it is to come from
	aimed bool     // a condition is about where it goes to

	counted bool // of nft: it has a counter, as all of iptables' have
}

// target is where DNAT sends packets.
type target struct {
	addr string // "" where it is not known
	port uint16 // 0: it stays
}

func (t target) String() string {
	switch {
	case t.addr == "":
		return "an address inside"
	case t.port == 0:
		return t.addr
	}
	return fmt.Sprintf("%s:%d", t.addr, t.port)
}

func (r rule) match(p packet) level {
	l := yes
	for _, c := range r.conditions {
		l = min(l, c(p))
	}
	return l
}

// about says whether the rule is about such packets as this one: most TCP is not PPTP, and
// most GRE is.
func (r rule) about(p packet) bool { return r.ported || r.specific && p.proto != "tcp" }

// chain is a chain of iptables or nft. hook is "" for one that is only jumped to.
type chain struct {
	table string // with the program's name: "iptables filter", "nft inet fw"
	home  string // the table that jumps stay in, as nft calls it if it knows it
	name  string
	hook  string // ingress, prerouting, forward, postrouting, …
	prio  int    // where among the chains of its hook
	kind  string // filter, nat, route
	dev   string // of hooks ingress and egress, if it is known
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

// base returns the chains at a hook, in the order in which packets meet them; kind "" is
// any.
func (all ruleset) base(hook, kind string) ruleset {
	var found ruleset
	for _, c := range all {
		if c.hook == hook && (kind == "" || c.kind == kind) {
			found = append(found, c)
		}
	}
	slices.SortStableFunc(found, func(a, b chain) int { return cmp.Compare(a.prio, b.prio) })
	return found
}

// chainName is the table that a chain's jumps stay in, and its name.
type chainName struct{ home, name string }

// names returns where each chain is.
func (all ruleset) names() map[chainName]int {
	found := make(map[chainName]int, len(all))
	for i, c := range all {
		found[chainName{c.home, c.name}] = i
	}
	return found
}

// link has jumps lead to their chains, and returns all. Without it they lead nowhere.
func (all ruleset) link() ruleset {
	names := all.names()
	for _, c := range all {
		for i, r := range c.rules {
			if to, found := names[chainName{c.home, r.arg}]; found && (r.action == jump || r.action == goTo) {
				c.rules[i].next = &all[to]
			}
		}
	}
	return all
}

// event is a rule that a packet meets.
type event struct {
	rule
	chain chain // that has the rule
	base  chain // that the walk began in
	level level
}

// maxJumps is more than any ruleset has; the kernel's own limit is 16.
const maxJumps = 32

// walk returns what a packet meets on its way through a base chain, up to the first
// final rule that is certain. Where there is none its end is the policy, an event of
// an accept or drop without a text.
func (c chain) walk(p packet) []event {
	events, done := c.pass(p.at(c), c.reached(p), 0)
	if !done {
		policy := rule{action: accept}
		if c.drops {
			policy.action = drop
		}
		events = append(events, event{rule: policy, chain: c, level: c.reached(p)})
	}
	for i := range events {
		events[i].base = c
	}
	return events
}

// reached says whether a packet comes to the chain, which may be of one interface.
func (c chain) reached(p packet) level {
	dev := p.in
	switch c.hook {
	case "egress":
		dev = p.out
	case "ingress":
	default:
		return yes
	}
	if dev == "" || c.dev == "" {
		return side
	}
	return when(dev == c.dev)
}

// pass walks one chain, which the packet reaches with certainty as. done says that a
// packet that comes to the chain meets its end there.
func (c *chain) pass(p packet, as level, depth int) (events []event, done bool) {
	if c == nil || depth > maxJumps {
		return nil, false
	}
	left := false // it may have gone back already
	for _, r := range c.rules {
		own := r.match(p)
		l := min(as, own)
		switch {
		case l == no:
			continue
		case r.action == jump || r.action == goTo:
			met, end := r.next.pass(p, l, depth+1)
			events = append(events, inherit(met, r)...)
			if end && own == yes {
				return events, !left
			}
		case r.action != back:
			events = append(events, event{rule: r, chain: *c, level: l})
			if own == yes && slices.Contains(final, r.action) {
				return events, !left
			}
		}
		if r.action == back || r.action == goTo {
			if own == yes {
				return events, false
			}
			as, left = l, true
		}
	}
	return events, false
}

// inherit makes events specific if the jump to them is.
func inherit(events []event, jump rule) []event {
	for i := range events {
		events[i].specific = events[i].specific || jump.specific
		events[i].ported = events[i].ported || jump.ported
	}
	return events
}

// meets returns the events of all base chains at a hook that have one of the actions.
func (all ruleset) meets(p packet, hook string, actions ...string) []event {
	var found []event
	for _, c := range all.base(hook, "") {
		for _, e := range c.walk(p) {
			if slices.Contains(actions, e.action) {
				found = append(found, e)
			}
		}
	}
	return found
}

// table returns the first chain of a table.
func (all ruleset) table(name string) (chain, bool) {
	i := slices.IndexFunc(all, func(c chain) bool { return c.table == name })
	if i < 0 {
		return chain{}, false
	}
	return all[i], true
}

// translating lists the interfaces that rules translate sources for: all that leaves by
// them, but for a network of their own, which is sent back to where it came from.
func (all ruleset) translating(n network) []string {
	var found []string
	for _, c := range all {
		for _, r := range c.rules {
			if r.action != masquerade && r.action != snat || r.aimed {
				continue
			}
			for _, dev := range r.outs {
				own := slices.ContainsFunc(r.froms, func(s span) bool { return among(n.of(dev), []span{s}) == yes })
				if !own && !strings.HasSuffix(dev, "+") && !strings.HasSuffix(dev, "*") {
					found = append(found, dev)
				}
			}
		}
	}
	return found
}

// has returns the first rule with one of the actions, whatever its conditions.
func (all ruleset) has(actions ...string) (chain, rule, bool) {
	for _, c := range all {
		for _, r := range c.rules {
			if slices.Contains(actions, r.action) {
				return c, r, true
			}
		}
	}
	return chain{}, rule{}, false
}
