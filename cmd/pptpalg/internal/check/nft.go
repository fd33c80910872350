package check

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
	Set    *nftSet    `json:"set"`
	Map    *nftSet    `json:"map"`
}

type nftChain struct {
	Family, Table, Name, Type, Hook, Policy string
	Prio                                    int
	Dev                                     any // a name, or several
}

type nftRule struct {
	Family, Table, Chain string
	Handle               int
	Expr                 []map[string]json.RawMessage
}

type nftHelper struct {
	Family, Table, Name, Type string
}

// nftSet is a set or a map. Elements of a map are pairs.
type nftSet struct {
	Family, Table, Name string
	Elem                json.RawMessage
	Flags               any // a word, or several
}

// place is a family and a table, in which names are found.
type nftPlace struct{ family, table string }

func (p nftPlace) String() string { return p.family + " " + p.table }

// parseNFT reads the chains for IPv4 in a ruleset, iptables' own among them if it has
// the nft backend. dormant are the tables, family and name, that are not in force.
func parseNFT(text string, dormant []string) (ruleset, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var list nftList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("read nft's ruleset: %w", err)
	}
	b := nftBuilder{helpers: map[string]string{}, sets: map[string]json.RawMessage{}, dormant: dormant}
	for _, o := range list.Objects {
		b.declare(o)
	}
	b.names = b.all.names()
	for _, o := range list.Objects {
		if o.Rule != nil {
			b.rule(*o.Rule)
		}
	}
	return b.all, nil
}

type nftBuilder struct {
	all     ruleset
	names   map[chainName]int
	helpers map[string]string          // kernel names, by family, table and name
	sets    map[string]json.RawMessage // elements, by the same
	dormant []string
}

// declare keeps what rules refer to.
func (b *nftBuilder) declare(o nftObject) {
	switch {
	case o.Helper != nil:
		b.helpers[nftPlace{o.Helper.Family, o.Helper.Table}.String()+" "+o.Helper.Name] = o.Helper.Type
	case o.Chain != nil:
		b.chain(*o.Chain)
	case o.Set != nil:
		b.set(*o.Set)
	case o.Map != nil:
		b.set(*o.Map)
	}
}

// set keeps the elements of a set that rules and time leave as it is.
func (b *nftBuilder) set(s nftSet) {
	if flags := fmt.Sprint(s.Flags); strings.Contains(flags, "dynamic") || strings.Contains(flags, "timeout") {
		return
	}
	if s.Elem == nil {
		s.Elem = json.RawMessage("[]")
	}
	b.sets[nftPlace{s.Family, s.Table}.String()+" "+s.Name] = s.Elem
}

func (b *nftBuilder) chain(c nftChain) {
	place := nftPlace{c.Family, c.Table}.String()
	if !slices.Contains([]string{"ip", "inet", "netdev"}, c.Family) || slices.Contains(b.dormant, place) {
		return
	}
	dev, _ := c.Dev.(string)
	b.all = append(b.all, chain{table: "nft " + place, home: "nft " + place, name: c.Name, hook: c.Hook, prio: c.Prio, kind: c.Type, dev: dev, drops: c.Policy == "drop"})
}

func (b *nftBuilder) rule(n nftRule) {
	i, found := b.names[chainName{"nft " + nftPlace{n.Family, n.Table}.String(), n.Chain}]
	if !found {
		return
	}
	// What stands before a statement are its conditions; a rule may have several.
	r := rule{text: fmt.Sprintf("rule with handle %d", n.Handle), handle: n.Handle, counted: n.counted()}
	at := nftPlace{n.Family, n.Table}
	stated := false
	for _, e := range n.Expr {
		for key, value := range e {
			made := b.expression(&r, key, value, at)
			b.all[i].rules = append(b.all[i].rules, made...)
			stated = stated || len(made) > 0
		}
	}
	if !stated { // so that each rule of nft has one here, if it has no map
		b.all[i].rules = append(b.all[i].rules, r)
	}
}

func (n nftRule) counted() bool {
	return slices.ContainsFunc(n.Expr, func(e map[string]json.RawMessage) bool { return e["counter"] != nil })
}

// nftActions are statements without more to read.
var nftActions = map[string]string{
	"accept": accept, "drop": drop, "reject": reject, "return": back, "redirect": redirect, "tproxy": tproxy,
	"snat": snat, "masquerade": masquerade, "notrack": notrack, "flow": offload,
}

// silent are expressions without any condition.
var silent = []string{"counter", "log", "comment", "ct timeout", "ct expectation"}

// expression reads one part of a rule: a condition is added to r, a statement gives
// rules of its own.
func (b *nftBuilder) expression(r *rule, key string, value json.RawMessage, at nftPlace) []rule {
	switch {
	case key == "match":
		b.comparison(r, value, at)
		return nil
	case key == "vmap":
		return b.verdictMap(*r, value, at)
	case key == "dnat":
		return b.destinations(*r, value, at)
	case slices.Contains(silent, key):
		return nil
	case key == "limit" || key == "ct count":
		r.conditions = append(r.conditions, always(rate(value)))
		return nil
	}
	done := *r
	done.conditions = slices.Clone(r.conditions)
	if !b.statement(&done, key, value, at) {
		r.conditions = append(r.conditions, always(some))
		return nil
	}
	return []rule{done}
}

// rate says whether a packet is within a limit, as most are, or over it.
func rate(value json.RawMessage) level {
	var l struct{ Inv bool }
	if _ = json.Unmarshal(value, &l); l.Inv { // a name has none
		return some
	}
	return side
}

// statement reads what a rule does, false if it is none that is known.
func (b *nftBuilder) statement(r *rule, key string, value json.RawMessage, at nftPlace) bool {
	switch {
	case key == "jump" || key == "goto":
		var to struct{ Target string }
		_ = json.Unmarshal(value, &to) // without a target it leads nowhere
		r.action, r.arg = key, to.Target
	case key == "ct helper":
		var name string
		_ = json.Unmarshal(value, &name)
		r.action, r.arg = helper, b.helpers[at.String()+" "+name]
	case key == "queue":
		var q struct{ Num json.RawMessage }
		_ = json.Unmarshal(value, &q) // without a number it is another one than ours
		numbers, _ := b.values(q.Num, at)
		r.action, r.arg = queue, strings.Join(texts(numbers), ",")
	case key == "mangle":
		r.assignment(value)
	case key == "xt":
		return r.foreign(value)
	case nftActions[key] != "":
		r.action = nftActions[key]
	default:
		return false
	}
	return true
}

// assignment reads "meta mark set", and the like.
func (r *rule) assignment(value json.RawMessage) {
	var m struct {
		Key   nftLeft
		Value json.RawMessage
	}
	_ = json.Unmarshal(value, &m) // what cannot be read is of no interest
	r.action = "mangle"
	switch {
	case m.Key.CT.Key == "zone":
		r.action, r.arg = zone, string(m.Value)
	case m.Key.Meta.Key != "mark":
	case strings.Contains(string(m.Value), `"ct"`):
		r.action = restore
	case string(m.Value) != "0":
		r.action = mark
	}
}

// foreign reads a match or target of iptables, of which nft tells but the name. False is
// for a match.
func (r *rule) foreign(value json.RawMessage) bool {
	var x struct{ Type, Name string }
	_ = json.Unmarshal(value, &x)
	if x.Type != "target" {
		return false
	}
	if r.action = targets[x.Name]; r.action == "" {
		r.action = x.Name
	}
	return true
}

// comparison adds the condition of a match.
func (b *nftBuilder) comparison(r *rule, value json.RawMessage, at nftPlace) {
	var m struct {
		Op          string
		Left, Right json.RawMessage
	}
	_ = json.Unmarshal(value, &m) // what cannot be read holds perhaps
	c := b.condition(m.Left, m.Right, at)
	if m.Op == "!=" {
		c.holds = negate(c.holds)
	} else {
		r.froms, r.outs, r.ports = append(r.froms, c.froms...), append(r.outs, c.outs...), append(r.ports, c.ports...)
	}
	r.compare(c)
}

func (r *rule) compare(c comparison) {
	r.conditions = append(r.conditions, c.needs, c.holds)
	r.specific, r.ported, r.aimed = r.specific || c.specific, r.ported || c.ported, r.aimed || c.aimed
}

// verdictMap makes a rule of each element of a map. One that is not known may do
// anything, which is as good as nothing.
func (b *nftBuilder) verdictMap(r rule, value json.RawMessage, at nftPlace) []rule {
	var rules []rule
	b.elements(r, value, at, func(one rule, to json.RawMessage) {
		var verdict map[string]json.RawMessage
		_ = json.Unmarshal(to, &verdict)
		for key, value := range verdict {
			rules = append(rules, b.expression(&one, key, value, at)...)
		}
	})
	return rules
}

// destinations reads a dnat statement, whose address may be a map.
func (b *nftBuilder) destinations(r rule, value json.RawMessage, at nftPlace) []rule {
	var d struct {
		Addr json.RawMessage
		Port any
	}
	_ = json.Unmarshal(value, &d) // then it is not known where to
	r.action = dnat
	var m struct{ Map json.RawMessage }
	if json.Unmarshal(d.Addr, &m) == nil && m.Map != nil {
		var rules []rule
		b.elements(r, m.Map, at, func(one rule, to json.RawMessage) {
			addr, _ := b.values(to, at)
			one.to = nftTarget(addr, d.Port)
			rules = append(rules, one)
		})
		return rules
	}
	addr, _ := b.values(d.Addr, at)
	r.to = nftTarget(addr, d.Port)
	return []rule{r}
}

// nftTarget takes an address, or one with a port.
func nftTarget(addr []operand, number any) target {
	var t target
	if len(addr) == 1 {
		parts := append([]operand{addr[0]}, addr[0].parts...)
		if len(addr[0].parts) > 0 {
			parts = addr[0].parts
		}
		t.addr = parts[0].text
		if len(parts) == 2 {
			t.port = port(parts[1].text, 0)
		}
	}
	if n, plain := number.(float64); plain {
		t.port = port(strconv.FormatFloat(n, 'f', -1, 64), 0)
	}
	return t
}

// elements calls what makes rules with each element of a map: a rule with its
// condition, and its value.
func (b *nftBuilder) elements(r rule, value json.RawMessage, at nftPlace, each func(one rule, to json.RawMessage)) {
	var m struct{ Key, Data json.RawMessage }
	if json.Unmarshal(value, &m) != nil {
		return
	}
	for _, pair := range b.pairs(m.Data, at) {
		one := r
		one.conditions = slices.Clone(r.conditions)
		c := b.condition(m.Key, pair[0], at)
		one.compare(c)
		one.ports = append(slices.Clone(r.ports), c.ports...)
		each(one, pair[1])
	}
}

// pairs lists a map's, none of one that is not known.
func (b *nftBuilder) pairs(data json.RawMessage, at nftPlace) [][2]json.RawMessage {
	var name string
	if json.Unmarshal(data, &name) == nil {
		data = b.sets[at.String()+" "+strings.TrimPrefix(name, "@")]
	} else {
		var inline struct{ Set json.RawMessage }
		_ = json.Unmarshal(data, &inline)
		data = inline.Set
	}
	var all [][2]json.RawMessage
	if json.Unmarshal(data, &all) != nil {
		return nil
	}
	return all
}
