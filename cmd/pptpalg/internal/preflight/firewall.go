package preflight

import (
	"fmt"
	"slices"
	"strings"

	"pptpalg/rules"
)

// firewall is what judges of rules look at.
type firewall struct {
	rules ruleset
	ports []uint16 // of control connections
}

// opening returns the first packet of a control connection to each port.
func (f firewall) opening() []packet { return f.control("new") }

func (f firewall) control(state string) []packet {
	packets := make([]packet, len(f.ports))
	for i, p := range f.ports {
		packets[i] = packet{proto: "tcp", dst: p, state: state}
	}
	return packets
}

// data is a call's GRE as rules see it: the entries that translate it say that both
// directions were seen.
var data = packet{proto: "gre", state: "established"}

// forwarded are the hooks that a forwarded packet passes.
var forwarded = []string{"prerouting", "forward", "postrouting"}

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

// filters calls judge with what a packet meets in each chain that may drop it.
func (f firewall) filters(p packet, judge func(c chain, events []event) Finding) []Finding {
	var all []Finding
	for _, hook := range forwarded {
		for _, c := range f.rules.base(hook, "filter") {
			all = append(all, judge(c, f.rules.walk(c, p)))
		}
	}
	return all
}

// judgeControl looks for what drops the packet that opens a control connection, or the
// answers to it.
func judgeControl(f firewall) Finding {
	var all []Finding
	for _, number := range f.ports {
		there := packet{proto: "tcp", dst: number, state: "new"}
		all = append(all, f.filters(there, func(c chain, events []event) Finding {
			return judgeOneWay(fmt.Sprintf("TCP to port %d", number), c, events,
				c.at(fmt.Sprintf("-p tcp --dport %d -j ACCEPT", number), fmt.Sprintf("tcp dport %d accept", number)))
		})...)
		back := packet{proto: "tcp", src: number, state: "established"}
		all = append(all, f.filters(back, func(c chain, events []event) Finding {
			return judgeOneWay(fmt.Sprintf("TCP from port %d", number), c, events,
				c.at("-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "ct state established,related accept"))
		})...)
	}
	return worst(ok("control connections to TCP port %s may pass, both ways", list(f.ports)), all...)
}

// judgeOneWay takes a rule that accepts one side for a way through. One that drops
// one side counts only if it is about the port.
func judgeOneWay(what string, c chain, events []event, mend string) Finding {
	for _, e := range events {
		switch {
		case e.action == accept && e.level >= side:
			return ok("")
		case !drops(e):
		case e.level == yes && hasAccept(events):
			return warning(mend, "%s: %s is dropped, but for packets that cannot be told here", e.where(), what)
		case e.level == yes:
			return problem(mend, "%s drops %s", e.where(), what)
		case e.specific:
			return warning(e.chain.without(e.rule), "%s may drop %s: look whether it is meant for the clients", e.where(), what)
		}
	}
	return ok("")
}

// judgeGRE looks for what drops the packets of a call.
func judgeGRE(f firewall) Finding {
	return worst(ok("GRE of established calls may pass"), f.filters(data, judgeCall)...)
}

// judgeCall wants both directions to be accepted: by one certain rule, or by two that
// are for a side each.
func judgeCall(c chain, events []event) Finding {
	mend := c.at("-p gre -m conntrack --ctstate ESTABLISHED -j ACCEPT", "ip protocol gre ct state established accept")
	accepts := 0
	for _, e := range events {
		switch {
		case e.action == accept && e.chain.name == rules.DataChain:
			return ok("") // those of calls that the daemon translates
		case e.action == accept && e.level < yes:
			accepts++
		case !drops(e) || accepts > 1:
		case e.level == yes && accepts == 1:
			return warning(mend, "%s drops GRE but for one rule's: look whether both directions of a call pass", e.where())
		case e.level == yes:
			return problem(mend, "%s drops GRE", e.where())
		case e.specific || e.level == side:
			return warning(mend, "%s may drop GRE: look whether it is meant for calls", e.where())
		}
	}
	return ok("")
}

func drops(e event) bool { return e.action == drop || e.action == reject }

func hasAccept(events []event) bool {
	return slices.ContainsFunc(events, func(e event) bool { return e.action == accept })
}

// where names the rule, or the policy, for people.
func (e event) where() string { return e.chain.line(e.rule) }

// judgeNAT wants some translation: without any there is nothing to edit, and without a
// rule in a nat table the kernel does not translate by the entries of calls either.
func judgeNAT(f firewall) Finding {
	if c, r, found := f.rules.has(masquerade, snat); found {
		return ok("sources are translated by %s", c.line(r))
	}
	if c, r, found := f.rules.has(dnat); found {
		return ok("destinations are translated by %s", c.line(r))
	}
	return problem("iptables -t nat -A POSTROUTING -o WAN -j MASQUERADE, with the outside interface for WAN",
		"no rule translates addresses: clients behind this gateway have no public one")
}

// judgeHelper looks for the kernel's own editor: a connection that has it is let alone
// by the daemon.
func judgeHelper(f firewall) Finding {
	for _, e := range f.met([]string{helper}) {
		if e.arg == "pptp" {
			return problem(e.chain.without(e.rule), "the kernel's PPTP helper is attached by %s: its connections are not edited here", e.where())
		}
	}
	return ok("no rule attaches the kernel's PPTP helper")
}

// judgeTracking looks for what keeps conntrack from connections and calls.
func judgeTracking(f firewall) Finding {
	events := f.met([]string{notrack})
	events = append(events, f.rules.meets(packet{proto: "gre", state: "new"}, []string{"prerouting"}, []string{notrack})...)
	for _, e := range events {
		if e.level >= side {
			return problem(e.chain.without(e.rule), "conntrack is kept from PPTP by %s: nothing of it is translated", e.where())
		}
		if e.specific {
			return warning(e.chain.without(e.rule), "conntrack may be kept from PPTP by %s", e.where())
		}
	}
	return ok("conntrack sees control connections and calls")
}

// judgeProxy looks for who takes control connections for itself.
func judgeProxy(f firewall) Finding {
	var all []Finding
	for _, e := range f.met([]string{redirect, tproxy, dnat}) {
		mend := e.chain.without(e.rule)
		switch {
		case e.action == dnat && e.level == yes:
			all = append(all, warning(mend, "%s sends clients' own connections to its address too: limit it to the outside interface or address", e.where()))
		case e.action == dnat:
		case e.level >= side:
			all = append(all, problem(mend, "a transparent proxy takes control connections by %s", e.where()))
		default:
			all = append(all, warning(mend, "a transparent proxy may take control connections by %s", e.where()))
		}
	}
	return worst(ok("no rule takes control connections to the gateway itself"), all...)
}

// judgeOffload looks for flow offload of control connections: their packets skip the
// rules, and so the queue, once established.
func judgeOffload(f firewall) Finding {
	var all []Finding
	for _, p := range f.control("established") {
		mend := fmt.Sprintf("put before it a rule that accepts TCP port %d in both directions", p.dst)
		for _, e := range f.rules.meets(p, []string{"forward"}, []string{offload}) {
			if e.level >= side {
				all = append(all, problem(mend, "control connections are offloaded, and skip the queue, by %s", e.where()))
			} else {
				all = append(all, warning(mend, "control connections may be offloaded, and skip the queue, by %s", e.where()))
			}
		}
	}
	return worst(ok("control connections are not offloaded"), all...)
}

// met returns what the opening packets meet at PREROUTING.
func (f firewall) met(actions []string) []event {
	var all []event
	for _, p := range f.opening() {
		all = append(all, f.rules.meets(p, []string{"prerouting"}, actions)...)
	}
	return all
}

func list(ports []uint16) string {
	var words []string
	for _, p := range ports {
		words = append(words, fmt.Sprint(p))
	}
	return strings.Join(words, ", ")
}
