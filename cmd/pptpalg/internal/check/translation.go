package check

import (
	"net/netip"
	"slices"
	"strings"
)

// judgeNAT wants some translation, unless addresses need none: without any there is nothing to
// edit, and without a rule in a nat table the kernel does not translate by the entries of
// calls either.
func judgeNAT(f firewall) Finding {
	if found := f.strange(); found.Result != OK {
		return found
	}
	if c, r, found := f.rules.has(masquerade, snat, netmap); found {
		return ok("sources are translated by %s", c.line(r))
	}
	if c, r, found := f.rules.has(dnat); found {
		return ok("destinations are translated by %s", c.line(r))
	}
	return f.untranslated()
}

// strange looks for rules that give sources an address which is in a network that the gateway is in
// and which it does not have: nobody answers there for it. One that is routed to the gateway is none.
func (f firewall) strange() Finding {
	for _, c := range f.rules {
		for _, r := range c.rules {
			to := r.sourceTo()
			if !to.IsValid() || f.network.own(to) {
				continue
			}
			for _, dev := range f.outsides() {
				near := func(p netip.Prefix) bool { return p.Contains(to) }
				if slices.ContainsFunc(f.network.of(dev), near) {
					return warning(shell("ip", "addr", "add", to.String()+"/32", "dev", dev),
						"sources are translated to %v by %s, but this gateway does not have that address, so nothing answers for it on %s: add it, or correct the rule", to, c.line(r), dev)
				}
			}
		}
	}
	return Finding{}
}

// sourceTo is the address that a rule gives to sources, the first of several; the zero Addr if it
// gives none, or another for each.
func (r rule) sourceTo() netip.Addr {
	text := ""
	if i := slices.Index(r.words, "--to-source"); i > 0 && i+1 < len(r.words) {
		text, _, _ = strings.Cut(r.words[i+1], ":")
		text, _, _ = strings.Cut(text, "-")
	}
	for _, a := range r.actions {
		if a.name == snat && a.arg != "" {
			text = a.arg
		}
	}
	to, _ := netip.ParseAddr(text)
	return to
}

// judgePorts looks for port-forwards to PPTP servers by a port whose connections are not
// queued.
func judgePorts(f firewall) Finding {
	for _, s := range f.forwards {
		if slices.Contains(f.ports, s.port) {
			continue
		}
		with := append(slices.Clone(f.ports), s.port)
		return problem(f.set("ports", joined(with, ",")),
			"TCP port %d is forwarded to %v by %s, but is not in --ports: its calls are not edited", s.port, s.to, s.event.where())
	}
	return ok("no port forward leads to PPTP on a port other than %s", list(f.ports))
}
