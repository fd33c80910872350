package check

import (
	"fmt"
	"slices"
	"strings"
)

// The judges of this file look for rules that take control connections and calls out of
// the daemon's hands.

// met is an event, and whether the typical packet met it.
type met struct {
	event
	sure bool
}

// meets returns the events at a hook that have one of the actions.
func meets(all []passed, hook string, actions ...string) []met {
	var found []met
	for i, p := range all {
		for _, e := range p.events {
			if e.base.hook == hook && slices.Contains(actions, e.name) {
				found = append(found, met{e, i == 0})
			}
		}
	}
	return found
}

// forClients returns what packets of clients inside meet at a hook.
func (f firewall) forClients(hook string, packets func(journey) [][]passed, actions ...string) []met {
	var all []met
	for _, number := range f.ports {
		for _, j := range f.clients[number] {
			for _, some := range packets(j) {
				all = append(all, meets(some, hook, actions...)...)
			}
		}
	}
	return all
}

func openings(j journey) [][]passed { return [][]passed{j.opening} }

func bothWays(j journey) [][]passed { return [][]passed{j.opening, j.answer} }

func established(j journey) [][]passed { return [][]passed{j.began, j.answer} }

// judgeHelper looks for the kernel's own editor: a connection that has it is let alone
// by the daemon. iptables attaches it before conntrack has seen the packet, by a
// template; nft afterwards, and before the first packet leaves.
func judgeHelper(f firewall) Finding {
	for _, hook := range []string{"prerouting", "forward", "postrouting"} {
		for _, e := range f.forClients(hook, openings, helper) {
			late := e.chain.isNFT() && e.base.hook == "prerouting" && e.base.prio <= conntrackPriority
			if e.arg == "pptp" && !late {
				return problem(e.chain.without(e.rule), "the kernel's PPTP helper is attached by %s: pptpalg does not edit its connections", e.where())
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
		packets = func(j journey) [][]passed { return append(bothWays(j), j.outward, j.inward) }
	}
	var all []Finding
	for _, e := range f.forClients("prerouting", packets, notrack) {
		mend := e.chain.without(e.rule)
		switch {
		case e.base.prio >= conntrackPriority: // conntrack has seen the packet
		case e.sure:
			all = append(all, problem(mend, "%s keeps conntrack from tracking PPTP: none of it is translated", e.where()))
		case e.specific:
			all = append(all, warning(mend, "%s may keep conntrack from tracking PPTP", e.where()))
		}
	}
	if f.gre.queued {
		return worst(ok("conntrack tracks control connections"), all...)
	}
	return worst(ok("conntrack tracks control connections and calls"), append(all, f.judgeZones()...)...)
}

// judgeZones wants GRE to be tracked in the zone of its control connection: the entries of
// a call are made there.
func (f firewall) judgeZones() []Finding {
	var all []Finding
	for _, number := range f.ports {
		for _, j := range f.clients[number] {
			all = append(all, zonesDiffer(j.opening, j.outward, j.inside, j.outside)...)
			all = append(all, zonesDiffer(j.answer, j.inward, j.outside, j.inside)...)
		}
	}
	return all
}

// zonesDiffer compares the zones of packets that travel the same way.
func zonesDiffer(control, gre []passed, from, to string) []Finding {
	tcpZone, byTCP := zoneOf(control[0])
	greZone, byGRE := zoneOf(gre[0])
	if tcpZone == greZone {
		return nil
	}
	e := byTCP
	pass := statement{fmt.Sprintf("-p gre -j CT --zone %d", tcpZone), fmt.Sprintf("ip protocol gre ct zone set %d", tcpZone)}
	mend := e.base.at(e.base.only(pass, fate{from: from, to: to}))
	if tcpZone == 0 {
		e, mend = byGRE, byGRE.chain.without(byGRE.rule)
	}
	return []Finding{problem(mend, "control connections are tracked in zone %d and GRE%s in zone %d, by %s", tcpZone, between(from, to), greZone, e.where())}
}

// judgeProxy looks for who takes control connections for itself.
func judgeProxy(f firewall) Finding {
	var all []Finding
	for _, e := range f.forClients("prerouting", openings, redirect, tproxy, dnat) {
		mend := f.spare(e)
		switch {
		case e.name == dnat && e.sure:
			all = append(all, warning(mend, "%s also redirects inside clients' connections to outside servers: limit it to the outside interface or address", e.where()))
		case e.name == dnat:
		case e.sure:
			all = append(all, problem(mend, "%s redirects control connections to a transparent proxy", e.where()))
		case e.specific:
			all = append(all, warning(mend, "%s may redirect control connections to a transparent proxy", e.where()))
		}
	}
	return worst(ok("no rule redirects control connections to the gateway itself"), all...)
}

// spare returns a command that keeps clients' control connections from a rule: an
// accept before it, where that keeps them from nothing else of ours, or else the rule without
// their ports.
func (f firewall) spare(e met) string {
	outside := f.outsides()
	if e.base.kind != "nat" || len(outside) != 1 || outside[0] == "" {
		return e.chain.sparing(e.rule, f.ports)
	}
	return e.base.at(statement{
		fmt.Sprintf("! -i %s -p tcp -m multiport --dports %s -j ACCEPT", shell(outside[0]), joined(f.ports, ",")),
		fmt.Sprintf("iifname != %q tcp dport { %s } accept", outside[0], list(f.ports))})
}

// judgeOffload looks for flow offload of control connections: their packets skip the
// rules, and so the queue, once established.
func judgeOffload(f firewall) Finding {
	var all []Finding
	for _, e := range f.forClients("forward", established, offload) {
		mend := f.kept(e.chain)
		switch {
		case e.sure:
			all = append(all, problem(mend, "%s offloads control connections, so that they skip the daemon's queue", e.where()))
		default:
			all = append(all, warning(mend, "%s may offload control connections, so that they skip the daemon's queue", e.where()))
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
			all = append(all, warning(r.sibling(), "routing rule %d matches TCP only: calls' GRE may take another route than their control connection", r.Priority))
		}
	}
	if f.network.marked() {
		all = append(all, f.judgeRestoring()...)
		all = append(all, f.judgeSkipped()...)
	}
	return worst(ok("GRE and TCP take the same route"), all...)
}

// judgeRestoring looks for marks that TCP gets and GRE does not.
func (f firewall) judgeRestoring() []Finding {
	var all []Finding
	for _, number := range f.ports {
		for _, j := range f.clients[number] {
			if len(meets(j.outward, "prerouting", restore, mark)) > 0 {
				continue
			}
			for _, e := range meets(j.began, "prerouting", restore, mark) {
				if e.name == mark || !f.gre.queued { // else the daemon restores it
					all = append(all, judgeMarking(e))
				}
			}
		}
	}
	return all
}

// judgeMarking judges a rule that marks a control connection's packets, where none marks
// its calls'.
func judgeMarking(e met) Finding {
	mend := e.base.at(e.forGRE())
	if e.name == restore {
		return problem(mend, "%s restores the connection mark for routing, but not for calls' GRE: it takes another route than its control connection", e.where())
	}
	return warning(mend, "%s marks packets for routing, but not calls' GRE: it may take another route than its control connection", e.where())
}

// judgeSkipped looks for marks that control connections are to get behind our rules: what
// is queued there goes on from the daemon to the next base chain.
func (f firewall) judgeSkipped() []Finding {
	var all []Finding
	for _, number := range f.ports {
		for _, j := range f.clients[number] {
			for _, p := range j.began {
				if e, found := skipped(p); found {
					all = append(all, f.judgeSkip(e))
				}
			}
		}
	}
	return all
}

// skipped returns the first rule behind ours, in the same base chain, that marks a packet,
// where none before does.
func skipped(p passed) (event, bool) {
	ours := slices.IndexFunc(p.events, queuedByUs)
	marks := slices.IndexFunc(p.events, func(e event) bool { return e.base.hook == "prerouting" && (e.name == restore || e.name == mark) })
	if ours < 0 || marks < ours || p.events[marks].base.String() != p.events[ours].base.String() {
		return event{}, false
	}
	return p.events[marks], true
}

func (f firewall) judgeSkip(e event) Finding {
	if e.name == restore {
		return problem(f.reload, "%s comes after the daemon's rules, and queued packets skip it: control connections lose their mark and take another route", e.where())
	}
	return warning(f.reload, "%s comes after the daemon's rules, and queued packets skip it: control connections may take another route", e.where())
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
