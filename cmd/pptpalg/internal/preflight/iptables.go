package preflight

import (
	"slices"
	"strconv"
	"strings"
)

// hooks are the built-in chains of iptables, and nft's word for their hooks.
var hooks = map[string]string{
	"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting",
}

// parseIPTables reads what iptables-save prints. program is whose it is, iptables or
// iptables-legacy.
func parseIPTables(program, text string) ruleset {
	var all ruleset
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			all = append(all, declared(program, table, strings.Fields(line[1:])))
		case strings.HasPrefix(line, "-A "):
			all.add(program+" "+table, line)
		}
	}
	return all
}

// declared reads a chain's line: its name, policy, and counters.
func declared(program, table string, words []string) chain {
	c := chain{table: program + " " + table, kind: "filter"}
	if len(words) < 2 {
		return c
	}
	c.name, c.drops = words[0], words[1] == "DROP"
	if words[1] != "-" {
		c.hook = hooks[words[0]]
	}
	if table == "nat" {
		c.kind = "nat"
	}
	return c
}

func (all ruleset) add(table, line string) {
	words := split(line)
	if len(words) < 2 {
		return
	}
	i := slices.IndexFunc(all, func(c chain) bool { return c.table == table && c.name == words[1] })
	if i >= 0 {
		all[i].rules = append(all[i].rules, iptablesRule(line, words[2:]))
	}
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

// iptablesRule reads a rule behind "-A CHAIN".
func iptablesRule(text string, words []string) rule {
	r := rule{text: text}
	negated := false
	for i := 0; i < len(words); i++ {
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
		known = optionKind{read: func(string) condition { return always(some) }}
	}
	c := known.read(value)
	if negated {
		c = negate(c)
	}
	r.conditions = append(r.conditions, c)
	r.specific = r.specific || known.specific
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
	"--dport":         {toPorts, true},
	"--dports":        {toPorts, true},
	"--sport":         {fromPorts, true},
	"--sports":        {fromPorts, true},
	"--ports":         {func(v string) condition { return either(fromPorts(v), toPorts(v)) }, true},
	"--ctorigdstport": {func(v string) condition { return readPorts(v).contain(packet.service) }, true},
	"--ctstate":       {stateOption, false},
	"--state":         {stateOption, false},
	"-i":              {interfaceOption, false},
	"-o":              {interfaceOption, false},
	"-s":              {func(string) condition { return always(side) }, false},
	"-d":              {func(string) condition { return always(side) }, false},
	"--pkt-type":      {func(string) condition { return always(side) }, false},
	"--tcp-flags":     {flagsOption, false},
	"-f":              {func(string) condition { return always(no) }, false},
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
	for _, item := range strings.Split(value, ",") {
		first, last, isRange := strings.Cut(item, ":")
		if !isRange {
			last = first
		}
		all = append(all, [2]uint16{port(first, 0), port(last, 65535)})
	}
	return all
}

func toPorts(value string) condition {
	return readPorts(value).contain(func(p packet) uint16 { return p.dst })
}

func fromPorts(value string) condition {
	return readPorts(value).contain(func(p packet) uint16 { return p.src })
}

func either(a, b condition) condition { return func(p packet) level { return max(a(p), b(p)) } }

// The ports that a client's kernel chooses from (net.ipv4.ip_local_port_range).
const firstChosen, lastChosen = 32768, 60999

// contain is about one of a packet's ports.
func (all ports) contain(of func(packet) uint16) condition {
	return func(p packet) level {
		first, last := of(p), of(p)
		if first == 0 {
			first, last = firstChosen, lastChosen
		}
		return when(slices.ContainsFunc(all, func(r [2]uint16) bool { return r[0] <= first && last <= r[1] }))
	}
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

// isState leaves DNAT and SNAT open: they are of the connection, not of its age.
func isState(names ...string) condition {
	return func(p packet) level {
		switch {
		case slices.Contains(names, p.state):
			return yes
		case slices.Contains(names, "dnat"), slices.Contains(names, "snat"):
			return some
		}
		return no
	}
}

func interfaceOption(value string) condition {
	if value == "lo" {
		return always(no)
	}
	return always(side)
}

// flagsOption knows --syn, which is how a connection begins.
func flagsOption(value string) condition {
	return func(p packet) level {
		if p.state == "new" && strings.Contains(value, "SYN") {
			return yes
		}
		return some
	}
}

// targets are those that are of interest.
var targets = map[string]string{
	"ACCEPT": accept, "DROP": drop, "REJECT": reject, "RETURN": back, "REDIRECT": redirect, "TPROXY": tproxy, "DNAT": dnat,
	"SNAT": snat, "MASQUERADE": masquerade, "NETMAP": snat, "NOTRACK": notrack, "FLOWOFFLOAD": offload,
}

// target reads -j or -g and what follows it.
func (r *rule) target(option, name string, rest []string) {
	action, known := targets[name]
	switch {
	case known:
		r.action = action
	case name == "CT":
		r.trackingTarget(rest)
	case option == "-g":
		r.action, r.arg = goTo, name
	default:
		r.action, r.arg = jump, name // a target that is no chain leads nowhere
	}
}

func (r *rule) trackingTarget(rest []string) {
	r.action = "CT"
	for i, word := range rest {
		if word == "--notrack" {
			r.action = notrack
		}
		if word == "--helper" && i+1 < len(rest) {
			r.action, r.arg = helper, rest[i+1]
		}
	}
}
