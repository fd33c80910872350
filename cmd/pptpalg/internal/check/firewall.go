package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"pptpalg/rules"
)

// firewall is what judges of rules look at.
type firewall struct {
	rules   ruleset
	network network
	ways    []way // one at least
	ports   []uint16
	gre     greRules
	bound   map[uint16]bool // queues that programs have; nil: not known
	set     func(key, value string) string
	reload  string // the command that loads the daemon's rules
}

// greRules is how a call's GRE comes to be accepted.
type greRules struct {
	queued bool // it visits the daemon
	load   bool // by rules that the daemon, or "pptpalg rules load", loads
	data   rules.Data
}

// accepts says whether a rule of the daemon's will stand first in the chain, that accepts
// the GRE of calls.
func (g greRules) accepts(c chain, p packet) bool {
	return p.proto == "gre" && g.queued && g.load && g.data.Mark != 0 &&
		c.hook == "forward" && c.name == "FORWARD" && c.table == "iptables filter"
}

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

// role is a way of being called: by clients inside, or by clients outside that a DNAT
// rule sends to a server inside.
type role struct {
	way
	port, inner uint16
	served      bool
	host        []span // the networks of the clients inside, or the server; nil: not known
}

// opening returns the packet that opens a control connection.
func (r role) opening() packet {
	p := packet{proto: "tcp", state: "new", service: r.port, inner: r.inner, dnat: when(r.served)}
	if r.served {
		p.in, p.out, p.to = r.outside, r.inside, r.host
	} else {
		p.in, p.out, p.from = r.inside, r.outside, r.host
	}
	return p
}

// answer returns a packet the other way.
func (r role) answer() packet {
	p := r.opening()
	p.reply, p.state = true, "established"
	p.in, p.out, p.from, p.to = p.out, p.in, p.to, p.from
	return p
}

// packets returns those of a call, out and in. The entries that translate them say that
// both directions were seen; where the daemon translates, conntrack does not see them.
func (g greRules) packets(r role) []packet {
	p := packet{proto: "gre", state: "established"}
	if g.queued {
		p.state = "untracked"
	}
	out, in := p, p
	out.in, out.out, out.from = r.inside, r.outside, r.host
	in.in, in.out, in.to, in.dnat = r.outside, r.inside, r.host, when(!g.queued)
	return []packet{out, in}
}

// clients returns the roles of clients inside.
func (f firewall) clients(port uint16) []role {
	var all []role
	for _, w := range f.ways {
		all = append(all, role{way: w, port: port, inner: port, host: f.network.of(w.inside)})
	}
	return all
}

// servers returns the roles of clients outside whose connections DNAT sends inside.
func (f firewall) servers(port uint16) []role { return f.served(port, f.outsides()) }

// neighbours returns those of clients in another network inside.
func (f firewall) neighbours(port uint16) []role {
	var inside []string
	for _, w := range f.ways {
		inside = append(inside, w.inside)
	}
	return slices.DeleteFunc(f.served(port, unique(inside)), func(r role) bool { return r.inside == r.outside })
}

// served returns the roles of clients that come by one of the interfaces.
func (f firewall) served(port uint16, from []string) []role {
	var all []role
	for _, outside := range from {
		arriving := packet{proto: "tcp", state: "new", service: port, inner: port, in: outside}
		for _, e := range f.rules.meets(arriving, "prerouting", dnat, netmap) {
			r := role{way: way{outside: outside}, port: port, inner: cmp.Or(e.to.port, port), served: true}
			host, known := spanOf(e.to.addr)
			if known && f.network.own(host) {
				continue // it is not forwarded
			}
			if known {
				r.host, r.inside = []span{host}, f.network.towards(host)
			}
			all = append(all, r)
		}
	}
	return all
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
	packet packet
}

// worse returns the fate that is worse, the first of two alike.
func worse(a, b fate) fate {
	if b.passage > a.passage {
		return b
	}
	return a
}

// hooked are the hooks that a forwarded packet passes.
var hooked = []string{"ingress", "prerouting", "forward", "postrouting", "egress"}

// meet sends a packet through all chains that may drop it.
func (f firewall) meet(p packet) fate {
	var worst fate
	for _, hook := range hooked {
		for _, c := range f.rules.base(hook, "") {
			if c.kind == "nat" && p.state != "new" {
				continue // its connection was translated when it began
			}
			worst = worse(worst, f.within(c, p))
			worst.packet = p
		}
	}
	return worst
}

// within sends a packet through one chain. What the daemon's own rules will accept needs
// no other rule. An accept where it comes from the right place is a way through; a drop
// where it comes from a wrong one counts if it is about such packets.
func (f firewall) within(c chain, p packet) fate {
	worst, sure := fate{}, true
	if f.gre.accepts(c, p) {
		return worst
	}
	for _, e := range c.walk(p) {
		switch {
		case f.lets(e):
			if e.level >= side {
				return worst
			}
			sure = false
		case !f.drops(e):
		case e.level == yes && sure:
			return fate{passage: closed, event: e}
		case e.level == yes:
			return fate{passage: unsure, event: e}
		case e.about(p):
			worst = worse(worst, fate{passage: doubted, event: e})
		}
	}
	return worst
}

// lets says whether the event lets the packet go on: what a program gets is for the
// program to say.
func (f firewall) lets(e event) bool {
	return e.action == accept || e.action == queue && !f.drops(e)
}

func (f firewall) drops(e event) bool {
	return e.action == drop || e.action == reject || e.action == queue && f.loses(e)
}

// loses says whether a rule queues for a program that is not there, and has no way around
// it. Our own program is still to come.
func (f firewall) loses(e event) bool {
	if f.bound == nil || f.bound[port(e.arg, 0)] || e.chain.name == rules.DataChain {
		return false
	}
	return slices.Contains(e.words, "--queue-num") && !slices.Contains(e.words, "--queue-bypass")
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
func (c chain) only(s statement, p packet) statement {
	switch c.hook {
	case "prerouting":
		return s.from(p.in, "")
	case "forward":
		return s.from(p.in, p.out)
	case "postrouting":
		return s.from("", p.out)
	}
	return s
}

// mend returns a command that lets pass what an event drops. Where the chain is one that
// our own rules are in, an accept at its beginning would keep packets from them.
func (e event) mend(s statement) string {
	program, table := e.base.program()
	switch {
	case program == "nft" || table != "mangle" && table != "raw":
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
