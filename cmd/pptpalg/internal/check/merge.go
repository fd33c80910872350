package check

import (
	"slices"
	"strings"
)

// xtables are the names of iptables' tables. Where iptables has the nft backend they are
// tables of nft, family ip, and others may keep rules of nft's own in them.
var xtables = []string{"filter", "nat", "mangle", "raw", "security"}

// merge joins what iptables with the nft backend and nft tell of the same rules. nft
// knows of a match or target of iptables but its name, and iptables does not know nft's
// own rules: it prints them without their conditions, not at all, or refuses the table. So
// a chain is taken from iptables if all its rules can be iptables', else from nft.
func merge(iptables, nft ruleset) ruleset {
	all, names := slices.Clone(nft), iptables.names()
	for i, c := range all {
		table, found := strings.CutPrefix(c.table, "nft ip ")
		if !found || !slices.Contains(xtables, table) {
			continue
		}
		if at, found := names[chainName{"iptables " + table, c.name}]; found && c.isTold(iptables[at]) {
			all[i] = iptables[at]
			all[i].home = c.home
		}
	}
	return all
}

// isTold says whether iptables tells all of a chain.
func (c chain) isTold(twin chain) bool {
	same := twin.hook == c.hook && twin.drops == c.drops && len(twin.rules) == len(c.rules) &&
		(c.hook == "" || twin.prio == c.prio && twin.kind == c.kind)
	return same && !slices.ContainsFunc(c.rules, func(r rule) bool { return !r.counted })
}
