package check

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// operand is what is compared with: a word or number, a range first-last, a prefix
// addr/bits, or several that belong together.
type operand struct {
	text  string
	parts []operand
}

func texts(all []operand) []string {
	words := make([]string, len(all))
	for i, o := range all {
		words[i] = o.text
	}
	return words
}

// values reads what is compared with. A set that is not known is not.
func (b *nftBuilder) values(raw json.RawMessage, at nftPlace) (all []operand, known bool) {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return nil, false
	}
	if name, isText := v.(string); isText && strings.HasPrefix(name, "@") {
		elements, there := b.sets[at.String()+" "+name[1:]]
		if !there || json.Unmarshal(elements, &v) != nil {
			return nil, false
		}
	}
	return flatten(v)
}

func flatten(v any) (all []operand, known bool) {
	switch v := v.(type) {
	case string:
		return []operand{{text: v}}, true
	case float64:
		return []operand{{text: strconv.FormatFloat(v, 'f', -1, 64)}}, true
	case bool:
		return []operand{{text: strconv.FormatBool(v)}}, true
	case []any:
		return flattenList(v)
	case map[string]any:
		return flattenMap(v)
	}
	return nil, false
}

func flattenList(list []any) (all []operand, known bool) {
	for _, item := range list {
		some, known := flatten(item)
		if !known {
			return nil, false
		}
		all = append(all, some...)
	}
	return all, true
}

func flattenMap(m map[string]any) (all []operand, known bool) {
	if set, ok := m["set"]; ok {
		return flatten(set)
	}
	if e, ok := m["elem"].(map[string]any); ok { // with a comment, or a counter
		return flatten(e["val"])
	}
	if r, ok := m["range"]; ok {
		ends, known := flatten(r)
		return []operand{{text: strings.Join(texts(ends), "-")}}, known
	}
	if p, ok := m["prefix"].(map[string]any); ok {
		addr, _ := flatten(p["addr"])
		bits, _ := flatten(p["len"])
		return []operand{{text: strings.Join(texts(append(addr, bits...)), "/")}}, true
	}
	if c, ok := m["concat"].([]any); ok {
		parts, known := flattenList(c)
		return []operand{{parts: parts}}, known && len(parts) == len(c)
	}
	return nil, false
}

// nftLeft is what a match looks at.
type nftLeft struct {
	Meta    struct{ Key string }
	CT      struct{ Key, Dir string }
	Payload struct{ Protocol, Field string }
	FIB     struct {
		Result string
		Flags  []string
	}
	Concat []json.RawMessage
	And    []json.RawMessage `json:"&"`
}

// comparison is a match. It needs the right protocol, whether it is for equality or not.
type comparison struct {
	needs, holds condition
	specific     bool // about protocol or port
	ported       bool // about the port
	aimed        bool // about where packets go to

	ports ports
	outs  []string
	froms []span
}

// strangers are protocols whose fields no packet of a call has.
var strangers = []string{"udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "ip6", "esp", "ah"}

// condition reads a comparison for equality.
func (b *nftBuilder) condition(left, right json.RawMessage, at nftPlace) comparison {
	var l nftLeft
	values, known := b.values(right, at)
	if json.Unmarshal(left, &l) != nil {
		known = false
	}
	if len(l.Concat) > 0 {
		return concatenation(l.Concat, values, known)
	}
	return l.compare(values, known)
}

// concatenation holds where all its parts do for one of the values.
func concatenation(left []json.RawMessage, values []operand, known bool) comparison {
	whole := comparison{needs: always(yes), holds: always(some)}
	var any []condition
	for _, v := range values {
		var every []condition
		for i, raw := range left {
			var l nftLeft
			_ = json.Unmarshal(raw, &l) // then it is not known
			if i >= len(v.parts) {
				return whole
			}
			part := l.compare(v.parts[i:i+1], known)
			every = append(every, part.needs, part.holds)
			whole.specific, whole.ported, whole.aimed = whole.specific || part.specific, whole.ported || part.ported, whole.aimed || part.aimed
			whole.ports = append(whole.ports, part.ports...)
		}
		any = append(any, rule{conditions: every}.match)
	}
	if known {
		whole.holds = func(p packet) level {
			l := no
			for _, c := range any {
				l = max(l, c(p))
			}
			return l
		}
	}
	return whole
}

// compare reads a comparison of one thing with values.
func (l nftLeft) compare(values []operand, known bool) comparison {
	protocol := l.Payload.Protocol
	c := comparison{needs: always(yes), holds: always(some), ported: strings.HasSuffix(l.Payload.Field, "port")}
	c.specific = c.ported
	switch {
	case protocol == "tcp":
		c.needs, c.specific = isProtocol("tcp"), true
	case protocol == "ether":
		c.holds = always(side)
	case slices.Contains(strangers, protocol):
		c.needs = always(no)
	}
	words := texts(values)
	switch {
	case !known:
		c.aimed = l.Payload.Field == "daddr" || l.Payload.Field == "dport"
	case protocol != "":
		l.payload(&c, words)
	case l.CT.Key != "":
		l.tracked(&c, words)
	case l.Meta.Key != "":
		l.meta(&c, words)
	case l.FIB.Result == "type" && slices.Contains(l.FIB.Flags, "daddr"):
		c.holds = destinationIs(words...)
	case len(l.And) == 2:
		l.masked(&c, words)
	}
	return c
}

func (l nftLeft) payload(c *comparison, words []string) {
	transport := l.Payload.Protocol == "tcp" || l.Payload.Protocol == "th"
	switch field := l.Payload.Field; {
	case l.Payload.Protocol == "ip" && field == "protocol":
		c.holds, c.specific = isProtocol(words...), true
	case transport && field == "dport":
		c.ports, c.aimed = nftPorts(words), true
		c.holds = toPorts(c.ports)
	case transport && field == "sport":
		c.holds = fromPorts(nftPorts(words))
	case l.Payload.Protocol == "ip" && field == "saddr":
		c.holds = comesFrom(words...)
		for _, w := range words {
			if s, good := spanOf(w); good {
				c.froms = append(c.froms, s)
			}
		}
	case l.Payload.Protocol == "ip" && field == "daddr":
		c.holds, c.aimed = goesTo(words...), true
	}
}

func (l nftLeft) tracked(c *comparison, words []string) {
	switch {
	case l.CT.Key == "state":
		c.holds = isState(words...)
	case l.CT.Key == "direction":
		c.holds = isDirection(words...)
	case l.CT.Key == "status" && (slices.Contains(words, "dnat") || slices.Contains(words, "snat")):
		c.holds = isState(words...)
	case l.CT.Key == "proto-dst" && l.CT.Dir == "original":
		c.ports, c.specific, c.ported = nftPorts(words), true, true
		c.holds = openedTo(c.ports)
	case l.CT.Key == "protocol":
		c.holds, c.specific = isProtocol(words...), true
	}
}

func (l nftLeft) meta(c *comparison, words []string) {
	switch l.Meta.Key {
	case "l4proto":
		c.holds, c.specific = isProtocol(words...), true
	case "nfproto":
		c.holds = always(when(slices.Contains(words, "ipv4")))
	case "protocol":
		c.holds = always(when(slices.Contains(words, "ip")))
	case "iif", "iifname":
		c.holds = arrivesBy(words)
	case "iifgroup", "oifgroup":
		c.holds = always(side)
	case "oif", "oifname":
		c.holds, c.outs = leavesBy(words), words
	}
}

// masked reads "tcp flags & (fin | syn | rst | ack) == syn".
func (l nftLeft) masked(c *comparison, words []string) {
	var of nftLeft
	var mask any
	_ = json.Unmarshal(l.And[0], &of) // then it is not known
	_ = json.Unmarshal(l.And[1], &mask)
	flags, known := flatten(mask)
	if of.Payload.Field == "flags" && known {
		c.needs, c.specific = isProtocol("tcp"), true
		c.holds = hasFlags(texts(flags), words)
	}
}

// nftPorts reads ports and ranges first-last.
func nftPorts(words []string) ports {
	return readPorts(strings.ReplaceAll(strings.Join(words, ","), "-", ":"))
}
