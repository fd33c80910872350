package preflight

import (
	"fmt"
	"slices"
	"strings"
)

// level is how surely something applies to a packet.
type level uint8

const (
	no   level = iota
	some       // perhaps: it depends on what is not known here, as sets, marks and rates
	side       // where the packet comes from the right place, or goes there: interfaces and addresses
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
	proto    string // tcp, gre
	src, dst uint16 // TCP ports; 0 is one that the client's kernel chose
	state    string // of its connection: new, established
}

// service is the port that the control connection was opened to.
func (p packet) service() uint16 { return max(p.src, p.dst) }

// condition is one match of a rule.
type condition func(packet) level

// What a rule does. What else it may do is of no interest.
const (
	accept     = "accept"
	drop       = "drop"
	reject     = "reject"
	jump       = "jump"
	goTo       = "goto"
	back       = "return"
	redirect   = "redirect"
	tproxy     = "tproxy"
	dnat       = "dnat"
	snat       = "snat"
	masquerade = "masquerade"
	notrack    = "notrack"
	helper     = "helper"
	offload    = "offload"
)

// final are the actions after which a packet sees no more rules of its base chain.
var final = []string{accept, drop, reject, redirect, tproxy, dnat, snat, masquerade}

// rule is a rule of iptables or nft.
type rule struct {
	text       string // as iptables prints it; of nft, its handle
	handle     int    // nft's number
	conditions []condition
	specific   bool   // a condition is about the protocol or the port
	action     string // one of those above, or any other
	arg        string // of jump and goto: the chain; of helper: its kernel name
}

func (r rule) match(p packet) level {
	l := yes
	for _, c := range r.conditions {
		l = min(l, c(p))
	}
	return l
}

// chain is a chain of iptables or nft. hook is "" for one that is only jumped to.
type chain struct {
	table string // with the program's name: "iptables filter", "nft inet fw"
	name  string
	hook  string // prerouting, forward, postrouting, …
	kind  string // filter, nat, route
	drops bool   // its policy is drop
	rules []rule
}

func (c chain) String() string { return c.table + " " + c.name }

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

// at returns a command that puts a rule at the chain's beginning: iptables' words, or
// nft's.
func (c chain) at(iptables, nft string) string {
	program, table, _ := strings.Cut(c.table, " ")
	if program == "nft" {
		return "nft insert rule " + table + " " + c.name + " " + nft
	}
	if table != "filter" {
		program += " -t " + table
	}
	return program + " -I " + c.name + " " + iptables
}

// without returns a command that takes the rule out of the chain.
func (c chain) without(r rule) string {
	program, table, _ := strings.Cut(c.table, " ")
	if program == "nft" {
		return fmt.Sprintf("nft delete rule %s %s handle %d", table, c.name, r.handle)
	}
	return program + " -t " + table + " -D" + strings.TrimPrefix(r.text, "-A")
}

// ruleset is all that the network namespace's firewall has for IPv4.
type ruleset []chain

// base returns the chains at a hook; kind "" is any.
func (all ruleset) base(hook, kind string) ruleset {
	var found ruleset
	for _, c := range all {
		if c.hook == hook && (kind == "" || c.kind == kind) {
			found = append(found, c)
		}
	}
	return found
}

func (all ruleset) find(table, name string) (chain, bool) {
	i := slices.IndexFunc(all, func(c chain) bool { return c.table == table && c.name == name })
	if i < 0 {
		return chain{}, false
	}
	return all[i], true
}

// event is a rule that a packet meets.
type event struct {
	rule
	chain chain
	level level
}

// maxJumps is more than any ruleset has; the kernel's own limit is 16.
const maxJumps = 32

// walk returns what a packet meets on its way through a base chain, up to the first
// final rule that is certain. Where there is none its end is the policy, an event of
// an accept or drop without a text.
func (all ruleset) walk(c chain, p packet) []event {
	events, done := all.pass(c, p, yes, 0)
	if done {
		return events
	}
	policy := rule{action: accept}
	if c.drops {
		policy.action = drop
	}
	return append(events, event{rule: policy, chain: c, level: yes})
}

// pass walks one chain, which the packet reaches with certainty as. done says that it
// has met its end.
func (all ruleset) pass(c chain, p packet, as level, depth int) (events []event, done bool) {
	if depth > maxJumps {
		return nil, false
	}
	for _, r := range c.rules {
		own := r.match(p)
		l := min(as, own)
		switch {
		case l == no:
		case r.action == back:
			if own == yes {
				return events, false
			}
		case r.action == jump || r.action == goTo:
			to, _ := all.find(c.table, r.arg)
			met, end := all.pass(to, p, l, depth+1)
			events = append(events, inherit(met, r)...)
			if end {
				return events, true
			}
			if r.action == goTo && own == yes {
				return events, false
			}
		default:
			events = append(events, event{rule: r, chain: c, level: l})
			if l == yes && slices.Contains(final, r.action) {
				return events, true
			}
		}
	}
	return events, false
}

// inherit makes events specific if the jump to them is.
func inherit(events []event, jump rule) []event {
	for i := range events {
		events[i].specific = events[i].specific || jump.specific
	}
	return events
}

// meets returns the events of all base chains at the hooks that have one of the
// actions.
func (all ruleset) meets(p packet, hooks, actions []string) []event {
	var found []event
	for _, hook := range hooks {
		for _, c := range all.base(hook, "") {
			for _, e := range all.walk(c, p) {
				if slices.Contains(actions, e.action) {
					found = append(found, e)
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
