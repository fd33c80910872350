package check

import (
	"fmt"
	"strings"

	"pptpalg/rules"
	"pptpalg/rules/iptables"
)

// firewall is what judges of rules look at.
type firewall struct {
	rules      ruleset
	network    network
	noIPTables bool  // it is not installed
	ways       []way // one at least
	ports      []uint16

	// What became of packets, by the port that they were sent to.
	clients    map[uint16][]journey // of clients inside
	servers    map[uint16][]journey // of clients outside whose connections DNAT sends inside
	neighbours map[uint16][]journey // of those in another network inside
	forwards   []server             // ports that are forwarded to PPTP

	gre    greRules
	bound  map[uint16]bool // queues that programs have; nil: not known
	set    func(key, value string) string
	reload string // the command that loads the daemon's rules
}

// greRules is how a call's GRE comes to be accepted.
type greRules struct {
	queued bool // it visits the daemon
	load   bool // by rules that the daemon, or "pptpalg rules load", loads
	data   rules.Data
}

// accepts says whether a rule of the daemon's will accept the GRE of calls in FORWARD.
func (g greRules) accepts() bool { return g.queued && g.load && g.data.Mark != 0 }

// passing returns the rule by which a firewall accepts a call's GRE. Chains that packets
// meet without conntrack have no state to ask for.
func (g greRules) passing(c chain) statement {
	switch {
	case c.hook == "ingress" || c.hook == "egress" || c.hook == "prerouting" && c.prio <= conntrackPriority:
		return statement{"-p gre -j ACCEPT", "ip protocol gre accept"}
	case g.queued:
		return statement{"-p gre -m conntrack --ctstate UNTRACKED -j ACCEPT", "ip protocol gre ct state untracked accept"}
	}
	return statement{"-p gre -m conntrack --ctstate ESTABLISHED -j ACCEPT", "ip protocol gre ct state established accept"}
}

func (f firewall) outsides() []string {
	var all []string
	for _, w := range f.ways {
		all = append(all, w.outside)
	}
	return unique(all)
}

// passage is how a packet fares.
type passage uint8

const (
	open    passage = iota
	doubted         // a rule that is about such packets may drop it
	unsure          // it is dropped, if not a rule that cannot be decided accepts it
	closed
)

// fate is what becomes of a packet, and by which rule or policy.
type fate struct {
	passage
	event
	reply    bool   // it travels against the way that its connection was opened
	from, to string // interfaces
}

// worse returns the fate that is worse, the first of two alike.
func worse(a, b fate) fate {
	if b.passage > a.passage {
		return b
	}
	return a
}

// fate judges a packet by the typical one, which comes first, and those that differ by what
// rules speak of. One of these that is dropped counts if the rule is about such packets.
func (f firewall) fate(all []passed, tcp bool) fate {
	var found fate
	closedToAll := true
	for i, p := range all {
		e, dropped := f.dropped(p)
		switch {
		case !dropped:
			closedToAll = false
		case i == 0:
			found = fate{passage: unsure, event: e}
		case found.passage == open && e.about(tcp):
			found = fate{passage: doubted, event: e}
		}
	}
	if found.passage == unsure && closedToAll {
		found.passage = closed
	}
	return found
}

// dropped returns what took a packet, if a rule or a policy did. One that a proxy wants is
// its own.
func (f firewall) dropped(p passed) (event, bool) {
	for _, e := range p.events {
		if e.name == drop && !e.does(tproxy) || e.name == queue && f.loses(e) {
			return e, true
		}
	}
	return event{}, false
}

// loses says whether a rule queues for a program that is not there, and has no way around
// it. Our own program is still to come.
func (f firewall) loses(e event) bool {
	return f.bound != nil && !f.bound[port(e.arg, 0)] && !e.bypass && !e.chain.ours() && e.chain.name != iptables.DataChain
}

// worst returns the finding with the highest result, the first of several; otherwise
// fine.
func worst(fine Finding, all ...Finding) Finding {
	w := fine
	for _, f := range all {
		if f.Result > w.Result {
			w = f
		}
	}
	return w
}

// where names the rule, or the policy, for people.
func (e event) where() string { return e.chain.line(e.rule) }

// only limits a statement to the interfaces of a packet, as far as rules of the chain
// may ask for them.
func (c chain) only(s statement, w fate) statement {
	switch c.hook {
	case "prerouting":
		return s.from(w.from, "")
	case "forward":
		return s.from(w.from, w.to)
	case "postrouting":
		return s.from("", w.to)
	}
	return s
}

// mend returns a command that lets pass what an event drops. Where the chain is one that
// our own rules are in, an accept at its beginning would keep packets from them.
func (e event) mend(s statement) string {
	program, table := e.base.program()
	switch {
	case program == "nft" || e.base.hook == "forward" || table != "mangle" && table != "raw":
		return e.base.at(s)
	case e.text == "":
		return e.base.opened()
	}
	return e.chain.without(e.rule)
}

func list(ports []uint16) string { return joined(ports, ", ") }

func joined(ports []uint16, by string) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprint(p)
	}
	return strings.Join(words, by)
}
