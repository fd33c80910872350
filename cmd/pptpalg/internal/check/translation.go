package check

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
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
	for _, s := range f.forwards {
		if slices.Contains(f.ports, s.port) {
			continue
		}
		with := append(slices.Clone(f.ports), s.port)
		return problem(f.set("ports", joined(with, ",")),
			"TCP port %d is forwarded to %v by %s, and is none of --ports: calls by it are not edited", s.port, s.to, s.event.where())
	}
	return ok("no port-forward leads to PPTP by another port than %s", list(f.ports))
}

// Rules that translate sources, and the interfaces that they ask for.
var (
	translatingRule = regexp.MustCompile(`(?im)^.*(?:masquerade|snat).*$`)
	aimedRule       = regexp.MustCompile(` -d |--dports? |daddr|dport`)
	leavingBy       = regexp.MustCompile(`(?:^|[^!] )-o (\S+)|oifname "([^"]+)"`)
)

// translating lists the interfaces that rules translate sources for: all that leaves by
// them, but for a network of their own, which is sent back to where it came from.
func translating(text string, n network) []string {
	var all []string
	for _, rule := range translatingRule.FindAllString(text, -1) {
		found := leavingBy.FindStringSubmatch(rule)
		if found == nil || aimedRule.MatchString(rule) {
			continue
		}
		dev := found[1] + found[2]
		own := slices.ContainsFunc(readLiterals(rule).prefixes, func(p netip.Prefix) bool { return slices.Contains(n.of(dev), p) })
		if !own && !strings.ContainsAny(dev, "+*") {
			all = append(all, dev)
		}
	}
	return all
}
