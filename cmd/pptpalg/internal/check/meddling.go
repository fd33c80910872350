package check

import (
	"fmt"
	"slices"
	"strings"
)

// The judges of this file look for rules that take control connections and calls out of
// the daemon's hands.

// forClients sends packets of clients through all chains at a hook, and returns what they
// meet, each rule once.
func (f firewall) forClients(hook string, packets func(role) []packet, actions ...string) []event {
	var all []event
	for _, number := range f.ports {
		for _, r := range f.clients(number) {
			for _, p := range packets(r) {
				all = append(all, f.rules.meets(p, hook, actions...)...)
			}
		}
	}
	return firstOf(all)
}

// firstOf leaves out rules that were met before, as surely or more.
func firstOf(all []event) []event {
	var found []event
	for _, e := range all {
		same := func(o event) bool {
			return o.chain.table == e.chain.table && o.chain.name == e.chain.name && o.text == e.text && o.arg == e.arg
		}
		i := slices.IndexFunc(found, same)
		switch {
		case i < 0:
			found = append(found, e)
		case found[i].level < e.level:
			found[i] = e
		}
	}
	return found
}

func openings(r role) []packet { return []packet{r.opening()} }

func bothWays(r role) []packet { return []packet{r.opening(), r.answer()} }

// judgeHelper looks for the kernel's own editor: a connection that has it is let alone
// by the daemon. iptables attaches it before conntrack has seen the packet, by a
// template; nft afterwards, and before the first packet leaves.
func judgeHelper(f firewall) Finding {
	for _, hook := range []string{"prerouting", "forward", "postrouting"} {
		for _, e := range f.forClients(hook, openings, helper) {
			late := e.chain.isNFT() && e.base.hook == "prerouting" && e.base.prio <= conntrackPriority
			if e.arg == "pptp" && !late {
				return problem(e.chain.without(e.rule), "the kernel's PPTP helper is attached by %s: its connections are not edited here", e.where())
			}
		}
	}
	return ok("no rule attaches the kernel's PPTP helper")
}

// judgeTracking looks for what keeps conntrack from connections and calls, or them from
// each other. Calls that the daemon translates are not tracked anyway.
func judgeTracking(f firewall) Finding {
	packets := bothWays
	if !f.gre.queued {
		packets = func(r role) []packet { return append(bothWays(r), f.gre.packets(r)...) }
	}
	var all []Finding
	for _, e := range f.forClients("prerouting", packets, notrack) {
		mend := e.chain.without(e.rule)
		switch {
		case e.base.prio >= conntrackPriority: // conntrack has seen the packet
		case e.level == yes:
			all = append(all, problem(mend, "conntrack is kept from PPTP by %s: nothing of it is translated", e.where()))
		case e.specific:
			all = append(all, warning(mend, "conntrack may be kept from PPTP by %s", e.where()))
		}
	}
	if f.gre.queued {
		return worst(ok("conntrack sees control connections"), all...)
	}
	return worst(ok("conntrack sees control connections and calls"), append(all, f.judgeZones()...)...)
}

// judgeZones wants GRE to be tracked in the zone of its control connection: the entries of
// a call are made there.
func (f firewall) judgeZones() []Finding {
	var all []Finding
	for _, number := range f.ports {
		for _, r := range f.clients(number) {
			for i, control := range []packet{r.opening(), r.answer()} {
				gre := f.gre.packets(r)[i]
				tcpZone, byTCP := f.zone(control)
				greZone, byGRE := f.zone(gre)
				if tcpZone == greZone {
					continue
				}
				e := byTCP
				pass := statement{"-p gre -j CT --zone " + tcpZone, "ip protocol gre ct zone set " + tcpZone}
				mend := e.base.at(e.base.only(pass, gre))
				if tcpZone == "0" {
					e, mend = byGRE, byGRE.chain.without(byGRE.rule)
				}
				all = append(all, problem(mend, "control connections are tracked in zone %s and GRE%s in zone %s, by %s",
					tcpZone, between(gre.in, gre.out), greZone, e.where()))
			}
		}
	}
	return all
}

// zone returns where a packet is tracked, "0" if no rule says so for certain.
func (f firewall) zone(p packet) (string, event) {
	for _, e := range f.rules.meets(p, "prerouting", zone, notrack) {
		if e.level == yes && e.base.prio < conntrackPriority {
			return max(e.arg, "0"), e
		}
	}
	return "0", event{}
}

// judgeProxy looks for who takes control connections for itself.
func judgeProxy(f firewall) Finding {
	var all []Finding
	for _, e := range f.forClients("prerouting", openings, redirect, tproxy, dnat) {
		mend := f.spare(e)
		switch {
		case e.action == dnat && e.level == yes:
			all = append(all, warning(mend, "%s sends clients' own connections to its address too: limit it to the outside interface or address", e.where()))
		case e.action == dnat:
		case e.level == yes:
			all = append(all, problem(mend, "a transparent proxy takes control connections by %s", e.where()))
		case e.specific:
			all = append(all, warning(mend, "a transparent proxy may take control connections by %s", e.where()))
		}
	}
	return worst(ok("no rule takes control connections to the gateway itself"), all...)
}

// spare returns a command that keeps clients' control connections from a rule: an
// accept before it, where that keeps them from nothing else of ours.
func (f firewall) spare(e event) string {
	outside := f.outsides()
	if e.base.kind != "nat" || len(outside) != 1 || outside[0] == "" {
		return e.chain.without(e.rule)
	}
	return e.base.at(statement{
		fmt.Sprintf("! -i %s -p tcp -m multiport --dports %s -j ACCEPT", shell(outside[0]), joined(f.ports, ",")),
		fmt.Sprintf("iifname != %q tcp dport { %s } accept", outside[0], list(f.ports))})
}

// judgeOffload looks for flow offload of control connections: their packets skip the
// rules, and so the queue, once established.
func judgeOffload(f firewall) Finding {
	established := func(r role) []packet {
		p := r.opening()
		p.state = "established"
		return []packet{p, r.answer()}
	}
	var all []Finding
	for _, e := range f.forClients("forward", established, offload) {
		mend := f.kept(e.chain)
		switch {
		case e.level == yes:
			all = append(all, problem(mend, "control connections are offloaded, and skip the queue, by %s", e.where()))
		case e.specific || e.level == side:
			all = append(all, warning(mend, "control connections may be offloaded, and skip the queue, by %s", e.where()))
		}
	}
	return worst(ok("control connections are not offloaded"), all...)
}

// kept returns the commands that keep established control connections from what comes in a
// chain.
func (f firewall) kept(c chain) string {
	var all []string
	for _, number := range f.ports {
		all = append(all, c.at(statement{
			fmt.Sprintf("-p tcp -m conntrack --ctstate ESTABLISHED --ctorigdstport %d -j ACCEPT", number),
			fmt.Sprintf("meta l4proto tcp ct state established ct original proto-dst %d accept", number)}))
	}
	return strings.Join(all, " && ")
}

// judgeMarks wants the call to leave by the way of its control connection, where routing
// rules go by marks or by protocol. A call's entries have its control connection's mark,
// which has to keep it where its packets are queued.
func judgeMarks(f firewall) Finding {
	var all []Finding
	for _, r := range f.network.rules {
		covered := slices.ContainsFunc(f.network.rules, func(o ipRule) bool { return o.takesGRE(r.Table) })
		if r.takes(f.ports) && !covered {
			all = append(all, warning(r.sibling(), "routing rule %d is for TCP alone: calls' GRE may leave by another way than their control connection", r.Priority))
		}
	}
	if f.network.marked() {
		all = append(all, f.judgeRestoring()...)
		all = append(all, f.judgeSkipped()...)
	}
	return worst(ok("nothing routes GRE otherwise than TCP"), all...)
}

// judgeRestoring looks for marks that TCP gets and GRE does not.
func (f firewall) judgeRestoring() []Finding {
	var all []Finding
	for _, number := range f.ports {
		for _, r := range f.clients(number) {
			control := r.opening()
			control.state = "established"
			gre := f.gre.packets(r)[0]
			if len(f.rules.meets(gre, "prerouting", restore, mark)) > 0 {
				continue
			}
			for _, e := range f.rules.meets(control, "prerouting", restore, mark) {
				if e.action == restore && f.gre.queued {
					continue // the daemon restores it
				}
				if e.action == restore || e.level >= side { // marks of something else are many
					all = append(all, judgeMarking(e))
				}
			}
		}
	}
	return all
}

// judgeMarking judges a rule that marks a control connection's packets, where none marks
// its calls'.
func judgeMarking(e event) Finding {
	mend := e.base.at(e.forGRE())
	if e.action == restore && e.level >= side {
		return problem(mend, "%s gives packets their connection's mark, for routing, but not calls' GRE: it leaves by another way than its control connection", e.where())
	}
	return warning(mend, "%s marks packets, for routing, but not calls' GRE: it may leave by another way than its control connection", e.where())
}

// judgeSkipped looks for marks that control connections are to get behind our rules: what
// is queued there goes on from the daemon to the next base chain.
func (f firewall) judgeSkipped() []Finding {
	var all []Finding
	for _, number := range f.ports {
		for _, r := range f.clients(number) {
			control := r.opening()
			control.state = "established"
			if e, found := f.skipped(control); found {
				all = append(all, f.judgeSkip(e))
			}
		}
	}
	return all
}

// skipped returns the first rule behind ours that marks a packet, where none before does.
func (f firewall) skipped(p packet) (event, bool) {
	for _, c := range f.rules.base("prerouting", "filter") {
		i := slices.IndexFunc(c.rules, toOurs)
		before, behind := c, c
		if i >= 0 {
			before.rules, behind.rules = c.rules[:i], c.rules[i+1:]
		}
		if _, found := before.marks(p); found {
			return event{}, false
		}
		if i >= 0 {
			return behind.marks(p)
		}
	}
	return event{}, false
}

// marks returns the first rule that marks a packet, as far as it is one for such packets:
// marks of something else are many.
func (c chain) marks(p packet) (event, bool) {
	events := c.walk(p)
	i := slices.IndexFunc(events, func(e event) bool { return e.action == restore || e.action == mark && e.level >= side })
	if i < 0 {
		return event{}, false
	}
	return events[i], true
}

func (f firewall) judgeSkip(e event) Finding {
	if e.action == restore && e.level >= side {
		return problem(f.reload, "%s comes behind the daemon's rules, and what these queue does not meet it: control connections lose their mark, and leave by another way", e.where())
	}
	return warning(f.reload, "%s comes behind the daemon's rules, and what these queue does not meet it: control connections may leave by another way", e.where())
}

// ofTCP are options that a rule for GRE cannot have, and how many values they have.
var ofTCP = map[string]int{"-p": 1, "--ctproto": 1, "--dport": 1, "--sport": 1, "--dports": 1, "--sports": 1, "--ports": 1, "--ctorigdstport": 1, "--tcp-flags": 2}

// forGRE returns a rule that does the same to GRE. What nft's do is not known in its words:
// that is done by the connection's mark.
func (r rule) forGRE() statement {
	s := statement{nft: "ip protocol gre meta mark set ct mark"}
	words := []string{"-p", "gre"}
	for i := 1; i < len(r.words); i++ {
		word := r.words[i]
		next := ""
		if i+1 < len(r.words) {
			next = r.words[i+1]
		}
		switch values, tcp := ofTCP[word]; {
		case tcp:
			i += values
		case word == "!" && ofTCP[next] > 0:
		case word == "-m" && (next == "tcp" || next == "multiport"):
			i++
		default:
			words = append(words, word)
		}
	}
	s.iptables = shell(words...)
	return s
}
