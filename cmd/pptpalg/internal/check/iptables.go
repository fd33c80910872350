package check

import (
	"slices"
	"strconv"
	"strings"
)

// hooks are the built-in chains of iptables, and nft's word for their hooks.
var hooks = map[string]string{
	"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting",
}

// priorities are those of iptables' tables (enum nf_ip_hook_priorities). Table nat has
// another one where sources are translated.
var priorities = map[string]int{"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}

// parseIPTables reads what iptables-save prints. program is whose it is, iptables or
// iptables-legacy.
func parseIPTables(program, text string) ruleset {
	var all ruleset
	table, names := "", map[chainName]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			c := declared(program, table, strings.Fields(line[1:]))
			names[chainName{c.home, c.name}] = len(all)
			all = append(all, c)
		case strings.HasPrefix(line, "-A "):
			words := split(line)
			if i, found := names[chainName{program + " " + table, second(words)}]; found && len(words) > 1 {
				all[i].rules = append(all[i].rules, iptablesRule(line, words[1:]))
			}
		}
	}
	return all
}

// declared reads a chain's line: its name, policy, and counters.
func declared(program, table string, words []string) chain {
	c := chain{table: program + " " + table, home: program + " " + table, kind: "filter", prio: priorities[table]}
	if len(words) < 2 {
		return c
	}
	c.name, c.drops = words[0], words[1] == "DROP"
	if words[1] != "-" {
		c.hook = hooks[words[0]]
	}
	if table == "nat" {
		c.kind = "nat"
		if c.hook == "postrouting" || c.hook == "input" {
			c.prio = -c.prio
		}
	}
	return c
}

// second is the chain's name behind -A.
func second(words []string) string {
	if len(words) < 2 {
		return ""
	}
	return words[1]
}

// split cuts a line into words as xtables_save_string quotes them: double quotes,
// inside them a backslash before a quote or a backslash.
func split(line string) []string {
	var words []string
	var word []byte
	in, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted, in = !quoted, true
		case c == ' ' && !quoted:
			if in {
				words = append(words, string(word))
			}
			word, in = nil, false
		default:
			if c == '\\' && quoted && i+1 < len(line) {
				i++
			}
			word, in = append(word, line[i]), true
		}
	}
	if in {
		words = append(words, string(word))
	}
	return words
}

// iptablesRule reads a rule from its words behind "-A".
func iptablesRule(text string, words []string) rule {
	r := rule{text: text, words: words}
	negated := false
	for i := 1; i < len(words); i++ {
		option := words[i]
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch {
		case option == "!":
			negated = true
			continue
		case (option == "-j" || option == "-g") && i+1 < len(words):
			r.target(option, value, words[i+2:])
			return r
		case option == "-m" || option == "--comment":
			i++
		case option == "--tcp-flags" && i+2 < len(words):
			r.option(option, value+" "+words[i+2], negated)
			i += 2
		case strings.HasPrefix(option, "-"):
			r.option(option, value, negated)
		}
		negated = false
	}
	return r
}

// option adds the condition of one option.
func (r *rule) option(option, value string, negated bool) {
	known, ok := options[option]
	if !ok {
		known = optionKind{read: func(string) condition { return always(undecided(option)) }}
	}
	c := known.read(value)
	if negated {
		c = negate(c)
	} else {
		r.note(option, value)
	}
	r.conditions = append(r.conditions, c)
	r.specific = r.specific || known.specific
	r.ported = r.ported || strings.Contains(option, "port")
	r.aimed = r.aimed || option == "-d" || strings.HasPrefix(option, "--dport")
}

// note keeps what is asked of rules beside whether they match.
func (r *rule) note(option, value string) {
	switch option {
	case "-o":
		r.outs = append(r.outs, value)
	case "-s":
		if s, good := spanOf(value); good {
			r.froms = append(r.froms, s)
		}
	case "--dport", "--dports", "--ctorigdstport":
		r.ports = append(r.ports, readPorts(value)...)
	}
}

func negate(c condition) condition { return func(p packet) level { return c(p).not() } }

func always(l level) condition { return func(packet) level { return l } }

// optionKind is how an option of iptables is read.
type optionKind struct {
	read     func(value string) condition
	specific bool
}

// options are those whose condition can be decided, or is about where packets come
// from and go to. Any other is one that holds perhaps.
var options = map[string]optionKind{
	"-p":              {func(v string) condition { return isProtocol(v) }, true},
	"--ctproto":       {func(v string) condition { return isProtocol(v) }, true},
	"--dport":         {func(v string) condition { return toPorts(readPorts(v)) }, true},
	"--dports":        {func(v string) condition { return toPorts(readPorts(v)) }, true},
	"--sport":         {func(v string) condition { return fromPorts(readPorts(v)) }, true},
	"--sports":        {func(v string) condition { return fromPorts(readPorts(v)) }, true},
	"--ports":         {func(v string) condition { return either(fromPorts(readPorts(v)), toPorts(readPorts(v))) }, true},
	"--ctorigdstport": {func(v string) condition { return openedTo(readPorts(v)) }, true},
	"--ctstate":       {stateOption, false},
	"--state":         {stateOption, false},
	"--ctdir":         {func(v string) condition { return isDirection(strings.ToLower(v)) }, false},
	"-i":              {func(v string) condition { return arrivesBy(prefixes(v)) }, false},
	"-o":              {func(v string) condition { return leavesBy(prefixes(v)) }, false},
	"-s":              {func(v string) condition { return comesFrom(v) }, false},
	"-d":              {func(v string) condition { return goesTo(v) }, false},
	"--src-range":     {func(v string) condition { return comesFrom(v) }, false},
	"--dst-range":     {func(v string) condition { return goesTo(v) }, false},
	"--dst-type":      {func(v string) condition { return destinationIs(strings.Split(strings.ToLower(v), ",")...) }, false},
	"--pkt-type":      {func(v string) condition { return always(when(strings.EqualFold(v, "unicast"))) }, false},
	"--tcp-flags":     {flagsOption, false},
	"--src-type":      {func(v string) condition { return always(when(strings.Contains(strings.ToLower(v), "unicast"))) }, false},
	"--mac-source":    {func(string) condition { return always(side) }, false},
	"--pol":           {func(v string) condition { return always(max(some, when(v == "none"))) }, false}, // of IPsec
	"--dir":           {func(string) condition { return always(yes) }, false},                            // what --pol is about

	"--physdev-is-bridged": {func(string) condition { return always(no) }, false},
	"-f":                   {func(string) condition { return always(no) }, false},
}

// undecided is for options that are not known, and for rates: few packets are over one.
func undecided(option string) level {
	rate := strings.HasPrefix(option, "--limit") || strings.HasPrefix(option, "--hashlimit-") || strings.HasPrefix(option, "--connlimit-")
	if rate && !strings.HasSuffix(option, "-above") {
		return side
	}
	return some
}

// isProtocol takes names and numbers (/etc/protocols).
func isProtocol(names ...string) condition {
	alias := map[string]string{"6": "tcp", "47": "gre", "0": "all", "ip": "all"}
	return func(p packet) level {
		return when(slices.ContainsFunc(names, func(n string) bool {
			if a, ok := alias[n]; ok {
				n = a
			}
			return n == p.proto || n == "all"
		}))
	}
}

// ports are ranges, first and last.
type ports [][2]uint16

// readPorts reads a list of ports and ranges first:last.
func readPorts(value string) ports {
	var all ports
	for _, item := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
		first, last, isRange := strings.Cut(item, ":")
		if !isRange {
			last = first
		}
		all = append(all, [2]uint16{port(first, 0), port(last, 65535)})
	}
	return all
}

func toPorts(all ports) condition {
	return all.contain(func(p packet) uint16 { return p.dst })
}

func fromPorts(all ports) condition {
	return all.contain(func(p packet) uint16 { return p.src })
}

// openedTo is about the port before DNAT, which conntrack knows.
func openedTo(all ports) condition {
	holds := all.contain(func(p packet) uint16 { return p.service })
	return func(p packet) level {
		if p.state == "invalid" {
			return no
		}
		return holds(p)
	}
}

func either(a, b condition) condition { return func(p packet) level { return max(a(p), b(p)) } }

// The ports that a client's kernel chooses from (net.ipv4.ip_local_port_range).
const firstChosen, lastChosen = 32768, 60999

// contain is about one of a TCP packet's ports.
func (all ports) contain(of func(packet) uint16) condition {
	return func(p packet) level {
		if p.proto != "tcp" {
			return no
		}
		first, last := of(p), of(p)
		if first == 0 {
			first, last = firstChosen, lastChosen
		}
		return when(slices.ContainsFunc(all, func(r [2]uint16) bool { return r[0] <= first && last <= r[1] }))
	}
}

// few lists the ports, nil if they are more than a port-forward has.
func (all ports) few() []uint16 {
	const many = 16
	var found []uint16
	for _, r := range all {
		for number := int(r[0]); number <= int(r[1]); number++ {
			if found = append(found, uint16(number)); len(found) > many {
				return nil
			}
		}
	}
	return found
}

// port reads one; what is left out is def.
func port(s string, def uint16) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return def
	}
	return uint16(n)
}

func stateOption(value string) condition {
	return isState(strings.Split(strings.ToLower(value), ",")...)
}

// isState takes DNAT and SNAT too, which iptables has among the states. A packet from a
// client leaves with another source; whether it has one already is not asked often.
func isState(names ...string) condition {
	return func(p packet) level {
		l := when(slices.Contains(names, p.state))
		if slices.Contains(names, "dnat") {
			l = max(l, p.dnat)
		}
		if slices.Contains(names, "snat") {
			l = max(l, min(some, p.dnat.not()))
		}
		return l
	}
}

// isDirection is about the way that a connection was opened. A call's GRE has a
// connection for each direction.
func isDirection(names ...string) condition {
	return func(p packet) level {
		if p.state == "invalid" || p.state == "untracked" {
			return no
		}
		if p.reply {
			return when(slices.Contains(names, "reply"))
		}
		return when(slices.Contains(names, "original"))
	}
}

// prefixes reads iptables' pattern of an interface, where + stands for any letters.
func prefixes(value string) []string {
	if name, some := strings.CutSuffix(value, "+"); some {
		value = name + "*"
	}
	return []string{value}
}

func arrivesBy(patterns []string) condition {
	return func(p packet) level { return oneOf(patterns, p.in) }
}

func leavesBy(patterns []string) condition {
	return func(p packet) level { return oneOf(patterns, p.out) }
}

// oneOf matches an interface with patterns, in which * at the end stands for any letters.
func oneOf(patterns []string, dev string) level {
	if dev == "" {
		if slices.Equal(patterns, []string{"lo"}) {
			return no // what is forwarded
		}
		return side
	}
	return when(slices.ContainsFunc(patterns, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return pattern == dev || open && strings.HasPrefix(dev, prefix)
	}))
}

func comesFrom(values ...string) condition {
	return addressed(func(p packet) []span { return p.from }, values)
}

func goesTo(values ...string) condition {
	return addressed(func(p packet) []span { return p.to }, values)
}

// addressed is about an address: certain where all networks that a packet may come from
// or go to are among the values, or none is.
func addressed(of func(packet) []span, values []string) condition {
	var all []span
	for _, v := range values {
		s, good := spanOf(v)
		if !good {
			return always(side)
		}
		all = append(all, s)
	}
	return func(p packet) level {
		if slices.ContainsFunc(all, func(s span) bool { return s.size() == 1<<32-1 }) {
			return yes
		}
		return among(of(p), all)
	}
}

func among(networks, all []span) level {
	if networks == nil {
		return side
	}
	inside, touched := 0, 0
	for _, n := range networks {
		inside += order(slices.ContainsFunc(all, func(s span) bool { return s.has(n) }))
		touched += order(slices.ContainsFunc(all, func(s span) bool { return s.meets(n) }))
	}
	switch {
	case inside == len(networks):
		return yes
	case touched == 0:
		return no
	}
	return side
}

// destinationIs takes types of addresses, by which packets for the gateway itself are
// told, and broadcasts.
func destinationIs(names ...string) condition {
	return func(p packet) level {
		switch {
		case slices.Contains(names, "unicast"):
			return yes
		case slices.Contains(names, "local") && (p.hook == "ingress" || p.hook == "prerouting"):
			return side // a public address that is DNATed
		}
		return no
	}
}

// flagsOption reads the flags that are looked at, and those of them that are set.
func flagsOption(value string) condition {
	mask, set, _ := strings.Cut(strings.ToLower(value), " ")
	return hasFlags(strings.Split(mask, ","), strings.FieldsFunc(set, func(r rune) bool { return r == ',' }))
}

// hasFlags is about TCP's flags: SYN when a connection is opened, later ACK, and perhaps
// PSH.
func hasFlags(mask, set []string) condition {
	if slices.Contains(mask, "all") {
		mask = []string{"fin", "syn", "rst", "psh", "ack", "urg"}
	}
	is := func(flags ...string) bool {
		return !slices.ContainsFunc(mask, func(f string) bool { return slices.Contains(flags, f) != slices.Contains(set, f) })
	}
	return func(p packet) level {
		bare, pushed := is("ack"), is("ack", "psh")
		switch {
		case p.proto != "tcp":
			return no
		case !p.reply && p.state != "established":
			return when(is("syn"))
		case bare != pushed:
			return some
		}
		return when(bare)
	}
}

// targets are those that are of interest.
var targets = map[string]string{
	"ACCEPT": accept, "DROP": drop, "REJECT": reject, "RETURN": back, "REDIRECT": redirect, "TPROXY": tproxy, "DNAT": dnat,
	"SNAT": snat, "MASQUERADE": masquerade, "NETMAP": netmap, "NOTRACK": notrack, "FLOWOFFLOAD": offload, "NFQUEUE": queue,
}

// target reads -j or -g and what follows it.
func (r *rule) target(option, name string, rest []string) {
	action, known := targets[name]
	switch {
	case known:
		r.action = action
		r.details(rest)
	case name == "CT":
		r.trackingTarget(rest)
	case name == "CONNMARK" && slices.Contains(rest, "--restore-mark"):
		r.action = restore
	case name == "MARK":
		r.markTarget(rest)
	case option == "-g":
		r.action, r.arg = goTo, name
	default:
		r.action, r.arg = jump, name // a target that is no chain leads nowhere
	}
}

// details are of DNAT and NFQUEUE.
func (r *rule) details(rest []string) {
	for i, word := range rest[:max(0, len(rest)-1)] {
		switch word {
		case "--to-destination", "--to":
			r.to = destination(rest[i+1])
		case "--queue-num", "--queue-balance":
			r.arg = strings.ReplaceAll(rest[i+1], ":", "-")
		}
	}
	if r.action == queue && r.arg == "" {
		r.arg = "0"
	}
}

// destination reads address, and :port if it is there.
func destination(s string) target {
	addr, number, _ := strings.Cut(s, ":")
	return target{addr, port(number, 0)}
}

// markTarget leaves out marks that are taken away.
func (r *rule) markTarget(rest []string) {
	r.action = mark
	if len(rest) == 2 && (rest[1] == "0x0/0xffffffff" || rest[1] == "0x0") {
		r.action = "MARK"
	}
}

func (r *rule) trackingTarget(rest []string) {
	r.action = "CT"
	for i, word := range rest {
		value := ""
		if i+1 < len(rest) {
			value = rest[i+1]
		}
		switch word {
		case "--notrack":
			r.action = notrack
		case "--helper":
			r.action, r.arg = helper, value
		case "--zone":
			r.action, r.arg = zone, value
		}
	}
}
