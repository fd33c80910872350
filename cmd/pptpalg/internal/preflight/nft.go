package preflight

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// nftList is what "nft -j list ruleset" prints (libnftables-json(5)).
type nftList struct {
	Objects []nftObject `json:"nftables"`
}

// nftObject has one of its fields set.
type nftObject struct {
	Chain  *nftChain  `json:"chain"`
	Rule   *nftRule   `json:"rule"`
	Helper *nftHelper `json:"ct helper"`
}

type nftChain struct {
	Family, Table, Name, Type, Hook, Policy string
}

type nftRule struct {
	Family, Table, Chain string
	Handle               int
	Expr                 []map[string]json.RawMessage
}

type nftHelper struct {
	Family, Table, Name, Type string
}

// xtables are the tables of which iptables with the nft backend tells in its own words.
var xtables = []string{"filter", "nat", "mangle", "raw", "security"}

// parseNFT reads the chains for IPv4 in a ruleset. ofIPTables says that iptables has the
// nft backend, so that its tables are left out.
func parseNFT(text string, ofIPTables bool) (ruleset, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var list nftList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("read nft's ruleset: %w", err)
	}
	b := nftBuilder{helpers: map[string]string{}, leave: ofIPTables}
	for _, o := range list.Objects { // helpers and chains stand before the rules
		switch {
		case o.Helper != nil:
			b.helpers[o.Helper.Family+" "+o.Helper.Table+" "+o.Helper.Name] = o.Helper.Type
		case o.Chain != nil:
			b.chain(*o.Chain)
		case o.Rule != nil:
			b.rule(*o.Rule)
		}
	}
	return b.all, nil
}

type nftBuilder struct {
	all     ruleset
	helpers map[string]string // kernel names, by family, table and name
	leave   bool              // iptables' tables
}

func (b *nftBuilder) ours(family, table string) bool {
	if b.leave && family == "ip" && slices.Contains(xtables, table) {
		return false
	}
	return family == "ip" || family == "inet"
}

func (b *nftBuilder) chain(c nftChain) {
	if b.ours(c.Family, c.Table) {
		b.all = append(b.all, chain{table: "nft " + c.Family + " " + c.Table, name: c.Name, hook: c.Hook, kind: c.Type, drops: c.Policy == "drop"})
	}
}

func (b *nftBuilder) rule(n nftRule) {
	table := "nft " + n.Family + " " + n.Table
	i := slices.IndexFunc(b.all, func(c chain) bool { return c.table == table && c.name == n.Chain })
	if i < 0 {
		return
	}
	// What stands before a statement are its conditions; a rule may have several.
	r := rule{text: fmt.Sprintf("rule with handle %d", n.Handle), handle: n.Handle}
	for _, e := range n.Expr {
		for key, value := range e {
			b.all[i].rules = append(b.all[i].rules, b.expression(&r, key, value, n)...)
		}
	}
}

// nftActions are statements without more to read.
var nftActions = map[string]string{
	"accept": accept, "drop": drop, "reject": reject, "return": back, "redirect": redirect, "tproxy": tproxy, "dnat": dnat,
	"snat": snat, "masquerade": masquerade, "notrack": notrack, "flow": offload,
}

// silent are expressions without any condition.
var silent = []string{"counter", "log", "mangle", "comment", "ct timeout", "ct expectation", "queue"}

// expression reads one part of a rule: a condition is added to r, a statement gives
// rules of its own.
func (b *nftBuilder) expression(r *rule, key string, value json.RawMessage, n nftRule) []rule {
	done := *r
	done.conditions = slices.Clone(r.conditions)
	switch {
	case key == "match":
		r.comparison(value)
		return nil
	case key == "vmap":
		return b.verdictMap(*r, value)
	case key == "jump" || key == "goto":
		var to struct{ Target string }
		_ = json.Unmarshal(value, &to) // without a target it leads nowhere
		done.action, done.arg = key, to.Target
	case key == "ct helper":
		var name string
		_ = json.Unmarshal(value, &name)
		done.action, done.arg = helper, b.helpers[n.Family+" "+n.Table+" "+name]
	case nftActions[key] != "":
		done.action = nftActions[key]
	case slices.Contains(silent, key):
		return nil
	default:
		r.conditions = append(r.conditions, always(some))
		return nil
	}
	return []rule{done}
}

// comparison adds the condition of a match.
func (r *rule) comparison(value json.RawMessage) {
	var m struct {
		Op          string
		Left, Right json.RawMessage
	}
	_ = json.Unmarshal(value, &m) // what cannot be read holds perhaps
	c := nftCondition(m.Left, m.Right)
	if m.Op == "!=" {
		c.holds = negate(c.holds)
	}
	r.compare(c)
}

func (r *rule) compare(c comparison) {
	r.conditions, r.specific = append(r.conditions, c.needs, c.holds), r.specific || c.specific
}

// verdictMap makes a rule of each element of a vmap.
func (b *nftBuilder) verdictMap(r rule, value json.RawMessage) []rule {
	var m struct {
		Key  json.RawMessage
		Data struct {
			Set [][2]json.RawMessage
		}
	}
	if err := json.Unmarshal(value, &m); err != nil {
		return nil // a named map: what it holds is not looked up
	}
	var rules []rule
	for _, element := range m.Data.Set {
		var verdict map[string]json.RawMessage
		if json.Unmarshal(element[1], &verdict) != nil {
			continue
		}
		one := r
		one.conditions = slices.Clone(r.conditions)
		one.compare(nftCondition(m.Key, element[0]))
		for key, value := range verdict {
			rules = append(rules, b.expression(&one, key, value, nftRule{})...)
		}
	}
	return rules
}

// nftLeft is what a match looks at.
type nftLeft struct {
	Meta    struct{ Key string }
	CT      struct{ Key string }
	Payload struct{ Protocol, Field string }
}

// comparison is a match. It needs the right protocol, whether it is for equality or not.
type comparison struct {
	needs, holds condition
	specific     bool // about protocol or port
}

// foreign are protocols whose fields no packet of a call has.
var foreign = []string{"udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "ip6", "esp", "ah"}

// nftCondition reads a comparison for equality.
func nftCondition(left, right json.RawMessage) comparison {
	var l nftLeft
	values, known := nftValues(right)
	if json.Unmarshal(left, &l) != nil {
		known = false
	}
	protocol, field := l.Payload.Protocol, l.Payload.Field
	c := comparison{needs: always(yes), holds: always(some), specific: protocol != "" && protocol != "ip"}
	switch {
	case protocol == "tcp":
		c.needs = isProtocol("tcp")
	case slices.Contains(foreign, protocol):
		c.needs = always(no)
	}
	switch {
	case !known:
	case l.Meta.Key == "l4proto", protocol == "ip" && field == "protocol":
		c.holds, c.specific = isProtocol(values...), true
	case (protocol == "tcp" || protocol == "th") && field == "dport":
		c.holds = toPorts(nftPorts(values))
	case (protocol == "tcp" || protocol == "th") && field == "sport":
		c.holds = fromPorts(nftPorts(values))
	case protocol == "ip" && (field == "saddr" || field == "daddr"):
		c.holds = always(side)
	case l.CT.Key == "state":
		c.holds = isState(values...)
	case l.Meta.Key == "nfproto":
		c.holds = always(when(slices.Contains(values, "ipv4")))
	case slices.Contains([]string{"iif", "oif", "iifname", "oifname"}, l.Meta.Key):
		c.holds = interfaceOption(strings.Join(values, ","))
	}
	return c
}

// nftPorts writes ports and ranges first-last as iptables does.
func nftPorts(values []string) string { return strings.ReplaceAll(strings.Join(values, ","), "-", ":") }

// nftValues reads what is compared with: a value, several, a set, a range first-last. A
// set that is only named is not known.
func nftValues(raw json.RawMessage) (values []string, known bool) {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return nil, false
	}
	return flatten(v)
}

func flatten(v any) (values []string, known bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, !strings.HasPrefix(v, "@")
	case float64:
		return []string{strconv.FormatFloat(v, 'f', -1, 64)}, true
	case []any:
		for _, item := range v {
			some, known := flatten(item)
			if !known {
				return nil, false
			}
			values = append(values, some...)
		}
		return values, true
	case map[string]any:
		return flattenMap(v)
	}
	return nil, false
}

func flattenMap(m map[string]any) (values []string, known bool) {
	if set, ok := m["set"]; ok {
		return flatten(set)
	}
	if r, ok := m["range"]; ok {
		ends, known := flatten(r)
		return []string{strings.Join(ends, "-")}, known
	}
	if _, ok := m["prefix"]; ok {
		return []string{"prefix"}, true
	}
	return nil, false
}
