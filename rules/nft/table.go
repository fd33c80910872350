package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"pptpalg/conntrack"
	"pptpalg/rules"
)

// Table is our own table, of family ip.
const Table = "pptpalg"

// chain is a chain of it; at is nil where it is only jumped to.
type chain struct {
	name, about string
	at          *place
	rules       []rule
}

// place is where the kernel calls a chain.
type place struct {
	kind     nftables.ChainType
	words    string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
}

// Priorities of linux/netfilter_ipv4.h.
const (
	rawPriority    = -300
	manglePriority = -150
	filterPriority = 0
	sourcePriority = 100 // of source NAT
)

// The places of control connections come right after the administrator's chains at priority
// mangle, as our iptables rules come behind all others. Those at raw come before the
// administrator's chains, as with iptables: rules that set a conntrack zone, or track nothing,
// would keep a call's packet from ours (see rules.Data). Those that queue leaving packets come
// before others too.
var (
	arriving    = &place{nftables.ChainTypeFilter, "prerouting priority mangle + 1", nftables.ChainHookPrerouting, manglePriority + 1}
	sending     = &place{nftables.ChainTypeFilter, "output priority mangle + 1", nftables.ChainHookOutput, manglePriority + 1}
	arrivingRaw = &place{nftables.ChainTypeFilter, "prerouting priority raw - 1", nftables.ChainHookPrerouting, rawPriority - 1}
	sendingRaw  = &place{nftables.ChainTypeFilter, "output priority raw - 1", nftables.ChainHookOutput, rawPriority - 1}
	leaving     = &place{nftables.ChainTypeFilter, "postrouting priority mangle - 1", nftables.ChainHookPostrouting, manglePriority - 1}
	delivered   = &place{nftables.ChainTypeFilter, "input priority mangle - 1", nftables.ChainHookInput, manglePriority - 1}
	forwarded   = &place{nftables.ChainTypeFilter, "forward priority filter - 1", nftables.ChainHookForward, filterPriority - 1}
	translating = &place{nftables.ChainTypeNAT, "postrouting priority srcnat", nftables.ChainHookPostrouting, sourcePriority}
)

// chains returns the table.
func chains(c rules.Config) []chain {
	all := controlChains(c)
	if c.Data.Queues > 0 {
		all = append(all, dataChains(c.Data)...)
	}
	if c.ResetMark != 0 {
		all = append(all, chain{"lost", "# The daemon marks segments of connections that cannot go on.",
			forwarded, []rule{{isTCP, marked(c.ResetMark), reset}}})
	}
	return append(all, chain{"nat", natAbout, translating, nil})
}

const natAbout = `# Empty. The kernel translates nothing while no table has a chain of type nat, not even
# connections that it knows, and some firewalls remove theirs during a reload.`

// controlChains returns the chains of control connections.
func controlChains(c rules.Config) []chain {
	all := []chain{
		{"prerouting", "# Packets over lo have already passed the output chain.", arriving, portRules(c, isTCP, notLooped)},
		{"output", "", sending, portRules(c, isTCP)},
		{"control", vrfAbout, nil, segmentRules(c, queue(c.Queue, 1, expr.QueueFlagBypass))},
	}
	if c.TooBig {
		all[0].rules = append(all[0].rules, rule{tooBig, jump("too-big")})
		all = append(all, chain{"too-big", tooBigAbout, nil, []rule{
			{fromVRF, back},
			{aboutGRE, related, limited(rules.TooBigRate), queue(c.Queue, 1, expr.QueueFlagBypass)},
		}})
	}
	if c.Bypass.Labelled {
		all = append(all, chain{"labels", labelsAbout, nil, []rule{{label(c.Bypass.Label)}}})
	}
	return all
}

const vrfAbout = `# Packets from a VRF have already passed here, with the VRF's member as their interface.`

const tooBigAbout = `# Routers say so about packets of calls: the daemon counts it, and lets it pass.`

const labelsAbout = `# Nothing jumps here. A rule that sets a label makes kernels leave room for labels in new
# conntrack entries; for older kernels, a rule that matches a label is not enough.`

// portRules returns a jump for each port that connections are opened to, before DNAT.
func portRules(c rules.Config, match ...phrase) []rule {
	var all []rule
	for _, port := range c.Ports {
		all = append(all, with(match, ours, openedTo(port), jump("control")))
	}
	return all
}

// with returns a rule of its own that begins with match.
func with(match []phrase, more ...phrase) rule { return append(append(rule(nil), match...), more...) }

// segmentRules returns the rules that select segments, as iptables' predicate does. The most
// common lengths of TCP headers come first: with a timestamp, and without options.
func segmentRules(c rules.Config, target phrase) []rule {
	all := append([]rule{{fromVRF, back}}, ignoredRules(c.Bypass)...)
	if c.AllSegments {
		return append(all, rule{target})
	}
	all = append(all,
		rule{flags("(fin | rst) != 0", flagFIN|flagRST, other, 0), target},
		rule{flags("(syn | ack) == (syn | ack)", flagSYN|flagACK, equal, flagSYN|flagACK), target},
		rule{flags("(syn | ack) == syn", flagSYN|flagACK, equal, flagSYN), option(rules.OptionMPTCP), target, remark("Multipath TCP")})
	for _, words := range []int{8, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15} {
		all = append(all, rule{bare(words), back})
	}
	return append(all, rule{target, remark("data")})
}

// ignoredRules returns the rule about connections that need no queueing.
func ignoredRules(b conntrack.Bypass) []rule {
	switch {
	case b.Mark != 0:
		return []rule{{ctMarked(b.Mark), back}}
	case b.Labelled:
		return []rule{{labelled(b.Label), back}}
	}
	return nil
}

// dataChains returns the chains of data path queue, see rules.Data.
func dataChains(d rules.Data) []chain {
	call, seen := d.Marks()
	queued := rule{unmarked(seen), dataQueue(d)}
	return []chain{
		{"gre-prerouting", greAbout, arrivingRaw, dataJumps("gre", notLooped)},
		{"gre-output", "", sendingRaw, dataJumps("gre")},
		{"gre", vrfAbout, nil, []rule{
			{marked(call), notrack},
			{untracked, clear(call | seen), accept},
			{fromVRF, back},
			queued, {clear(seen)},
		}},
		{"gre-postrouting", leavingAbout, leaving, dataJumps("gre-leaving", untracked)},
		{"gre-input", "", delivered, dataJumps("gre-leaving", notLooped, untracked)},
		{"gre-leaving", "", nil, []rule{queued, {clear(seen)}}},
	}
}

// dataJumps returns jumps for the packets of calls, and errors about them.
func dataJumps(chain string, match ...phrase) []rule {
	return []rule{with(match, enhancedGRE, jump(chain)), with(match, icmpError, aboutGRE, jump(chain))}
}

const greAbout = `# Only PPTP's GRE (version 1, protocol type 0x880b), and errors about it. The daemon marks a
# packet and sends it through this chain again, which excludes calls' packets from conntrack.`

const leavingAbout = `# Packets of calls are untracked. The daemon rewrites their source and sends them here again.`

// dataQueue is the statement that queues GRE.
func dataQueue(d rules.Data) phrase {
	var flags expr.QueueFlag
	if d.Bypass {
		flags |= expr.QueueFlagBypass
	}
	if d.ByCPU && d.Queues > 1 {
		flags |= expr.QueueFlagFanout
	}
	return queue(d.Queue, d.Queues, flags)
}
