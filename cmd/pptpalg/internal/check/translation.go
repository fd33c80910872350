package check

import (
	"cmp"
	"slices"
)

// judgeNAT wants some translation: without any there is nothing to edit, and without a
// rule in a nat table the kernel does not translate by the entries of calls either.
func judgeNAT(f firewall) Finding {
	if c, r, found := f.rules.has(masquerade, snat, netmap); found {
		return ok("sources are translated by %s", c.line(r))
	}
	if c, r, found := f.rules.has(dnat); found {
		return ok("destinations are translated by %s", c.line(r))
	}
	if outside := f.ways[0].outside; outside != "" {
		return problem("iptables -t nat -A POSTROUTING -o "+shell(outside)+" -j MASQUERADE",
			"no rule translates addresses: clients behind this gateway have no public one")
	}
	return warning("iptables -t nat -A POSTROUTING -o WAN -j MASQUERADE, with the outside interface for WAN",
		"no rule translates addresses, and no default route says which interface is outside")
}

// judgePorts looks for port-forwards to PPTP servers by a port whose connections are not
// queued.
func judgePorts(f firewall) Finding {
	for _, number := range f.named() {
		if slices.Contains(f.ports, number) {
			continue
		}
		if e, found := f.forward(number); found {
			with := append(slices.Clone(f.ports), number)
			return problem(f.set("ports", joined(with, ",")),
				"TCP port %d is forwarded to %v by %s, and is none of --ports: calls by it are not edited", number, e.to, e.where())
		}
	}
	return ok("no port-forward leads to PPTP by another port than %s", list(f.ports))
}

// named lists the ports that rules tell apart where destinations are translated, if any
// of them leads to PPTP by another port; and PPTP's own.
func (f firewall) named() []uint16 {
	all, leads := []uint16{standard}, false
	for _, c := range f.rules {
		for _, r := range c.rules {
			if slices.Contains([]string{dnat, jump, goTo}, r.action) {
				all = append(all, r.ports.few()...)
			}
			leads = leads || r.action == dnat && r.to.port != 0 && f.isPPTP(r.to.port)
		}
	}
	if !leads {
		return all[:1]
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (f firewall) isPPTP(number uint16) bool {
	return number == standard || slices.Contains(f.ports, number)
}

// forward returns the rule that sends a port to PPTP.
func (f firewall) forward(number uint16) (event, bool) {
	var sides []string
	for _, w := range f.ways {
		sides = append(sides, w.outside, w.inside)
	}
	for _, in := range unique(sides) {
		p := packet{proto: "tcp", state: "new", service: number, inner: number, in: in}
		for _, e := range f.rules.meets(p, "prerouting", dnat) {
			if f.isPPTP(cmp.Or(e.to.port, number)) {
				return e, true
			}
		}
	}
	return event{}, false
}
