package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// standard is PPTP's own port.
const standard = 1723

// outcome is how a role fares: the worse of the fates of its packets.
type outcome struct {
	journey
	fate
}

// control returns how the control connections of journeys fare.
func (f firewall) control(all []journey) []outcome {
	found := make([]outcome, len(all))
	for i, j := range all {
		there, back := f.fate(j.opening[:min(len(j.opening), len(j.began))], true), f.fate(j.answer, true)
		there.from, there.to = j.inside, j.outside
		if j.served {
			there.from, there.to = there.to, there.from
		}
		back.from, back.to, back.reply = there.to, there.from, true
		found[i] = outcome{j, worse(f.named(there), f.named(back))}
	}
	return found
}

// data returns how the calls of journeys fare.
func (f firewall) data(all []journey) []outcome {
	found := make([]outcome, len(all))
	for i, j := range all {
		outward, inward := f.fate(j.outward, false), f.fate(j.inward, false)
		outward.from, outward.to = j.inside, j.outside
		inward.from, inward.to = j.outside, j.inside
		found[i] = outcome{j, worse(f.named(outward), f.named(inward))}
	}
	return found
}

// named has a fate tell of interfaces as rules of its chain know them.
func (f firewall) named(x fate) fate {
	if x.base.hook == "forward" {
		from, _ := f.network.vrfOf(x.from)
		x.from, x.to = f.network.routedBy(x.from), f.network.routedTo(x.to, from)
	}
	return x
}

// bestOf returns the outcome that is best, the first of several.
func bestOf(all []outcome) outcome {
	return slices.MinFunc(all, func(a, b outcome) int { return cmp.Compare(a.passage, b.passage) })
}

// lost returns those that do not come through.
func lost(all []outcome) []outcome {
	return slices.DeleteFunc(slices.Clone(all), func(o outcome) bool { return o.passage < unsure })
}

// judgeGroup judges roles of which one will do. Rules that are about PPTP are told of in
// any case.
func judgeGroup(all []outcome, judge func(outcome) Finding) Finding {
	found := judge(bestOf(all))
	for _, o := range all {
		if o.passage == doubted {
			found = worst(found, judge(o))
		}
	}
	return found
}

// byTarget divides servers' roles by where they are sent.
func byTarget(all []outcome) [][]outcome {
	groups := map[string][]outcome{}
	var names []string
	for _, o := range all {
		name := o.target()
		if groups[name] == nil {
			names = append(names, name)
		}
		groups[name] = append(groups[name], o)
	}
	var found [][]outcome
	for _, name := range names {
		found = append(found, groups[name])
	}
	return found
}

// target is where a role's connections end.
func (o outcome) target() string { return fmt.Sprint(o.host, o.inner) }

// judgeControl looks for what drops the packet that opens a control connection, or the
// answers to it.
func judgeControl(f firewall) Finding {
	var notes string
	var all []Finding
	for _, number := range f.ports {
		servers, clients := f.control(f.servers[number]), f.control(f.clients[number])
		for _, group := range byTarget(servers) {
			all = append(all, f.judgeServer(group))
		}
		if len(servers) == 0 {
			all = append(all, judgeGroup(clients, outcome.judgeControl), judgeContainers(clients))
		}
		if number == standard || len(servers) == 0 { // another port may be of servers alone
			notes += note(lost(clients))
		}
	}
	return worst(ok("control connections to TCP port %s are allowed in both directions%s", list(f.ports), notes), all...)
}

// judgeServer judges the roles of one server. One that is there for another network inside
// may be meant to be closed to the world.
func (f firewall) judgeServer(group []outcome) Finding {
	found := judgeGroup(group, outcome.judgeControl)
	if found.Result != Problem {
		return found
	}
	near := slices.DeleteFunc(f.control(f.neighbours[group[0].port]), func(o outcome) bool { return o.target() != group[0].target() })
	if len(near) > 0 && bestOf(near).passage == open {
		return soften(found)
	}
	return found
}

// note tells of clients that may be meant to be closed out.
func note(all []outcome) string {
	var ways []string
	for _, o := range all {
		ways = append(ways, fmt.Sprintf("port %d%s", o.port, between(o.inside, o.outside)))
	}
	if len(ways) == 0 {
		return ""
	}
	return "; closed: " + strings.Join(ways, ", ")
}

// judgeContainers warns where the only clients that come through are containers: their
// program has made way for them, and has closed it for others.
func judgeContainers(clients []outcome) Finding {
	isContainer := func(o outcome) bool { return container(o.inside) }
	people := slices.DeleteFunc(slices.Clone(clients), isContainer)
	if len(people) == 0 || bestOf(people).passage == open {
		return Finding{}
	}
	return soften(bestOf(people).judgeControl())
}

// soften makes a warning of a problem.
func soften(f Finding) Finding {
	f.Result = min(f.Result, Warning)
	return f
}

func (o outcome) judgeControl() Finding {
	what := fmt.Sprintf("TCP to port %d", o.seen())
	pass := statement{fmt.Sprintf("-p tcp --dport %d -j ACCEPT", o.seen()), fmt.Sprintf("tcp dport %d accept", o.seen())}
	if o.reply {
		what = fmt.Sprintf("TCP from port %d", o.seen())
		pass = statement{"-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "ct state established,related accept"}
		if o.base.hook == "ingress" || o.base.hook == "egress" {
			pass.nft = fmt.Sprintf("tcp sport %d accept", o.seen())
		}
	} else {
		pass = o.base.only(pass, o.fate)
	}
	what += between(o.from, o.to)
	switch o.passage {
	case closed:
		return problem(o.mend(pass), "%s drops %s", o.where(), what)
	case unsure:
		return warning(o.mend(pass), "%s drops %s, with exceptions that this check cannot evaluate: check whether they cover the clients", o.where(), what)
	case doubted:
		return warning(o.chain.without(o.rule), "%s may drop %s: check whether it applies to the clients", o.where(), what)
	}
	return Finding{}
}

// seen is the port of a control connection where the packet was lost: before DNAT another
// one than behind it.
func (o outcome) seen() uint16 {
	h, prio := o.base.hook, o.base.prio
	early := h == "ingress" || h == "prerouting" && prio <= dnatPriority
	late := h == "egress" || h == "postrouting" && prio > -dnatPriority
	if !o.reply && early || o.reply && late {
		return o.port
	}
	return o.inner
}

// judgeGRE looks for what drops the packets of calls, on ways that their control
// connections may take.
func judgeGRE(f firewall) Finding {
	var all []Finding
	for _, group := range f.calls() {
		found := f.data(group)
		all = append(all, judgeGroup(found, f.judgeCall))
		for _, o := range lost(found) {
			all = append(all, soften(f.judgeCall(o)))
		}
	}
	return worst(ok("calls' GRE is allowed"), all...)
}

// calls returns the roles whose control connections come through: clients, and those of
// each server. Where none does, it is all clients.
func (f firewall) calls() [][]journey {
	var clients, served []outcome
	for _, number := range f.ports {
		clients = append(clients, f.control(f.clients[number])...)
		served = append(served, f.control(f.servers[number])...)
	}
	var groups [][]journey
	for _, group := range append(byTarget(served), clients) {
		if through := passing(group); len(through) > 0 {
			groups = append(groups, through)
		}
	}
	if groups == nil {
		return [][]journey{f.clients[f.ports[0]]}
	}
	return groups
}

// passing returns the roles that are not closed, of all ports one for each way.
func passing(all []outcome) []journey {
	var found []journey
	for _, o := range all {
		again := slices.ContainsFunc(found, func(j journey) bool { return j.way == o.way })
		if o.passage != closed && !again {
			found = append(found, o.journey)
		}
	}
	return found
}

func (f firewall) judgeCall(o outcome) Finding {
	what := "GRE" + between(o.from, o.to)
	mend := o.mend(f.gre.passing(o.base))
	switch o.passage {
	case closed:
		return problem(mend, "%s drops %s", o.where(), what)
	case unsure:
		return warning(mend, "%s drops %s, with exceptions that this check cannot evaluate: check whether they cover calls' packets", o.where(), what)
	case doubted:
		return warning(mend, "%s may drop %s: check whether it applies to calls", o.where(), what)
	}
	return Finding{}
}
