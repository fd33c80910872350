package check

import (
	"slices"
)

// judgeNAT wants some translation, unless addresses need none: without any there is nothing to
// edit, and without a rule in a nat table the kernel does not translate by the entries of
// calls either.
func judgeNAT(f firewall) Finding {
	if c, r, found := f.rules.has(masquerade, snat, netmap); found {
		return ok("sources are translated by %s", c.line(r))
	}
	if c, r, found := f.rules.has(dnat); found {
		return ok("destinations are translated by %s", c.line(r))
	}
	return f.untranslated()
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
	return ok("no port forward leads to PPTP on another port than %s", list(f.ports))
}
