package check

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What a rule compares, and what it does, is read from its expressions: those of iptables
// have matches and targets among them. Whether a packet matches is the kernel's business.

// field is what a rule compares, a letter.
type field byte

const (
	byProtocol    field = 'p'
	bySource      field = 's'
	byDestination field = 'd'
	bySourcePort  field = 'S'
	byPort        field = 'P'
	byMark        field = 'm'
	byLink        field = 'o' // name of the one that the packet leaves by
	byIndex       field = 'i' // number of that
	byConnMark    field = 'c'
)

// What an expression loads is written as a letter for each byte, a dot where it is of no
// interest. dots are enough for all registers.
var (
	dots       = strings.Repeat(".", 64)
	headers    = map[uint64]string{unix.NFT_PAYLOAD_NETWORK_HEADER: ".........p..ssssdddd", unix.NFT_PAYLOAD_TRANSPORT_HEADER: "SSPP"}
	metaFields = map[uint64]string{unix.NFT_META_L4PROTO: "p", unix.NFT_META_MARK: "mmmm", unix.NFT_META_OIF: "iiii", unix.NFT_META_OIFNAME: "oooooooooooooooo"}
	ctFields   = map[uint64]string{
		unix.NFT_CT_MARK: "cccc", unix.NFT_CT_PROTOCOL: "p", unix.NFT_CT_PROTO_SRC: "SS", unix.NFT_CT_PROTO_DST: "PP",
		unix.NFT_CT_SRC: "ssss", unix.NFT_CT_DST: "dddd", unix.NFT_CT_SRC_IP: "ssss", unix.NFT_CT_DST_IP: "dddd",
	}
)

// condition is that a field has one of some values.
type condition struct {
	field  field
	lo, hi uint32 // from, to; of addresses, ports and marks
	dev    string
	not    bool
}

// prefixes returns the addresses of a condition: the network, or the two ends.
func (c condition) prefixes() []netip.Prefix {
	if c.field != bySource && c.field != byDestination {
		return nil
	}
	wild := bits.Len32(c.lo ^ c.hi)
	if ones := uint32(1<<wild - 1); c.lo&ones == 0 && c.hi&ones == ones {
		return []netip.Prefix{netip.PrefixFrom(address(c.lo), 32-wild)}
	}
	return []netip.Prefix{netip.PrefixFrom(address(c.lo), 32), netip.PrefixFrom(address(c.hi), 32)}
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// set has the keys of one of nft's sets or maps, in their order.
type set struct {
	intervals bool // each key begins one, or ends one and begins none
	keys      []key
}

type key struct {
	from, to []byte // to is nil but for intervals of several fields
	ends     bool
}

// maxKeys bounds how many keys are looked at. The kernel looks at all.
const maxKeys = 256

func (s *set) add(elements attributes) {
	const keyEnd = 10 // NFTA_SET_ELEM_KEY_END
	for _, a := range elements[:min(len(elements), maxKeys-len(s.keys))] {
		e := read(a.Data)
		s.keys = append(s.keys, key{e.value(unix.NFTA_SET_ELEM_KEY), e.value(keyEnd), e.number(unix.NFTA_SET_ELEM_FLAGS)&unix.NFT_SET_ELEM_INTERVAL_END != 0})
	}
	slices.SortStableFunc(s.keys, func(a, b key) int {
		return cmp.Or(bytes.Compare(a.from, b.from), order(b.ends)-order(a.ends))
	})
}

// span returns the first and the last value of a key.
func (s *set) span(i int) (from, to []byte) {
	k := s.keys[i]
	switch {
	case k.to != nil:
		return k.from, k.to
	case s.intervals && i+1 < len(s.keys):
		next := new(big.Int).SetBytes(s.keys[i+1].from)
		return k.from, next.Sub(next, big.NewInt(1)).FillBytes(make([]byte, len(s.keys[i+1].from)))
	}
	return k.from, k.from
}

// meaning collects what a rule's expressions say, one after the other.
type meaning struct {
	home    string
	sets    map[string]*set   // by table and name
	helpers map[string]string // kernel names, likewise

	loaded   string            // since something was done with it; each load begins at a multiple of four
	mask     []byte            // of loaded
	used     bool              // something was done with it
	constant []byte            // the last
	values   map[uint64][]byte // constants, by their register
	asked    []condition
	actions  []action
}

// expressions read those of each name. Others have no meaning here.
var expressions = map[string]func(*meaning, attributes){
	"payload": (*meaning).payload, "meta": (*meaning).meta, "ct": (*meaning).ct, "bitwise": (*meaning).bitwise, "immediate": (*meaning).immediate,
	"cmp": (*meaning).cmp, "range": (*meaning).cmp, "lookup": (*meaning).lookup,
	"objref": (*meaning).object, "queue": (*meaning).queue, "nat": (*meaning).nat, "match": (*meaning).match, "target": (*meaning).target,
}

// plainDeeds are expressions, and targets of iptables, that do one thing.
var plainDeeds = map[string]string{
	"masq": masquerade, "redir": redirect, "tproxy": tproxy, "reject": reject, "notrack": notrack, "flow_offload": offload,
	"REJECT": reject, "REDIRECT": redirect, "TPROXY": tproxy, "DNAT": dnat, "SNAT": snat, "MASQUERADE": masquerade, "NETMAP": netmap, "NOTRACK": notrack, "FLOWOFFLOAD": offload,
}

func (m *meaning) read(all []expression) {
	for _, e := range all {
		if read := expressions[e.name]; read != nil {
			read(m, e.data)
			continue
		}
		m.do(plainDeeds[e.name], "")
		m.used = true
	}
}

func (m *meaning) do(name, arg string) {
	if name != "" {
		m.actions = append(m.actions, action{name: name, arg: arg})
	}
}

func (m *meaning) load(fields string) {
	if m.used {
		m.loaded, m.mask, m.used = "", nil, false
	}
	m.loaded += dots[:-len(m.loaded)&3] + fields
	m.mask = append(m.mask, bytes.Repeat([]byte{0xff}, len(m.loaded)-len(m.mask))...)
	m.constant = nil
}

func (m *meaning) payload(data attributes) {
	from, width := min(data.number(unix.NFTA_PAYLOAD_OFFSET), 64), min(data.number(unix.NFTA_PAYLOAD_LEN), 64)
	m.load((headers[data.number(unix.NFTA_PAYLOAD_BASE)] + dots + dots)[from : from+width])
}

// meta loads, or sets the packet's mark: to its connection's, or to one of its own. To have
// none is not one.
func (m *meaning) meta(data attributes) {
	key := data.number(unix.NFTA_META_KEY)
	none := m.constant != nil && len(bytes.Trim(m.constant, "\x00")) == 0
	switch {
	case data.get(unix.NFTA_META_DREG) != nil:
		m.load(cmp.Or(metaFields[key], "...."))
		return
	case key == unix.NFT_META_MARK && m.constant == nil && strings.HasPrefix(m.loaded, "c"):
		m.do(restore, "")
	case key == unix.NFT_META_MARK && !none:
		m.do(mark, "")
	}
	m.used = true
}

func (m *meaning) ct(data attributes) {
	key := data.number(unix.NFTA_CT_KEY)
	if data.get(unix.NFTA_CT_DREG) != nil {
		m.load(cmp.Or(ctFields[key], "...."))
		return
	}
	if key == unix.NFT_CT_ZONE && len(m.constant) >= 2 {
		m.do(zone, fmt.Sprint(binary.NativeEndian.Uint16(m.constant)))
	}
	m.used = true
}

// bitwise masks what was loaded last.
func (m *meaning) bitwise(data attributes) {
	mask := data.value(unix.NFTA_BITWISE_MASK)
	at := len(m.mask) - len(mask)
	for i := max(0, -at); i < len(mask); i++ {
		m.mask[at+i] &= mask[i]
	}
}

func (m *meaning) immediate(data attributes) {
	value := data.nest(unix.NFTA_IMMEDIATE_DATA)
	if v := verdict(value.nest(unix.NFTA_DATA_VERDICT)); v.name == jump {
		m.do(jump, v.arg)
	}
	m.constant = value.get(unix.NFTA_DATA_VALUE)
	if m.values == nil {
		m.values = make(map[uint64][]byte)
	}
	m.values[data.number(unix.NFTA_IMMEDIATE_DREG)] = m.constant
}

// cmp reads a comparison with a value, or with a range of them: that has one more.
func (m *meaning) cmp(data attributes) {
	from, to := data.value(unix.NFTA_RANGE_FROM_DATA), data.value(unix.NFTA_RANGE_TO_DATA)
	if to == nil {
		to = from
	}
	m.compare(from, to, data.number(unix.NFTA_CMP_OP) == unix.NFT_CMP_NEQ)
}

func (m *meaning) lookup(data attributes) {
	s := m.sets[m.home+" "+data.text(unix.NFTA_LOOKUP_SET)]
	if s == nil || len(s.keys) == 0 {
		m.compare(make([]byte, 64), make([]byte, 64), true) // it is asked for all the same
		return
	}
	for i, k := range s.keys {
		if from, to := s.span(i); !k.ends {
			m.compare(from, to, data.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0)
		}
	}
}

// compare adds a condition for each field that is compared with bytes of a value.
func (m *meaning) compare(from, to []byte, not bool) {
	m.used = true
	n := min(len(from), len(to), len(m.loaded))
	for i, j := 0, 0; i < n; i = j {
		f := m.loaded[i]
		for j = i + 1; j < n && m.loaded[j] == f && (j-i < 4 || field(f) == byLink); {
			j++
		}
		if f != '.' && field(f) != byConnMark {
			m.asked = append(m.asked, field(f).condition(from[i:j], to[i:j], m.mask[i:j], not))
		}
	}
}

func (f field) condition(from, to, mask []byte, not bool) condition {
	c := condition{field: f, not: not}
	four, both := padded(from, 4), padded(to, 4)
	switch f {
	case byLink:
		name, _, whole := strings.Cut(string(from), "\x00")
		if c.dev = name; !whole && len(from) < unix.IFNAMSIZ {
			c.dev += "*"
		}
	case byIndex:
		c.field = byLink
		if i, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(four))); err == nil {
			c.dev = i.Name
		}
	case byMark:
		c.lo, c.hi = binary.NativeEndian.Uint32(four), binary.NativeEndian.Uint32(both)
	case bySource, byDestination:
		c.lo, c.hi = binary.BigEndian.Uint32(four), binary.BigEndian.Uint32(both)|^binary.BigEndian.Uint32(padded(mask, 4))
	default:
		c.lo, c.hi = uint32(binary.BigEndian.Uint16(four)), uint32(binary.BigEndian.Uint16(both))
	}
	return c
}

func padded(b []byte, n int) []byte { return append(slices.Clone(b), make([]byte, n)...)[:n] }

func (m *meaning) object(data attributes) {
	if data.number(unix.NFTA_OBJREF_IMM_TYPE) == unix.NFT_OBJECT_CT_HELPER {
		name := data.text(unix.NFTA_OBJREF_IMM_NAME)
		m.do(helper, cmp.Or(m.helpers[m.home+" "+name], name))
	}
}

func (m *meaning) nat(data attributes) {
	if data.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT {
		m.do(dnat, "")
		return
	}
	to := ""
	if b := m.values[data.number(unix.NFTA_NAT_REG_ADDR_MIN)]; len(b) == 4 {
		to = netip.AddrFrom4([4]byte(b)).String()
	}
	m.do(snat, to)
	deed := &m.actions[len(m.actions)-1]
	for i, port := range []uint64{data.number(unix.NFTA_NAT_REG_PROTO_MIN), data.number(unix.NFTA_NAT_REG_PROTO_MAX)} {
		if b := m.values[port]; port != 0 && len(b) >= 2 {
			deed.ports[i] = binary.BigEndian.Uint16(b)
		}
	}
}

func (m *meaning) queue(data attributes) {
	a := action{name: queue, bypass: data.number(unix.NFTA_QUEUE_FLAGS)&unix.NFT_QUEUE_FLAG_BYPASS != 0}
	if data.get(unix.NFTA_QUEUE_NUM) != nil {
		a.arg = fmt.Sprint(data.number(unix.NFTA_QUEUE_NUM))
	}
	m.actions = append(m.actions, a)
}

// info is what a match or target of iptables is told, a struct of the kernel.
type info []byte

func (b info) u16(at int) uint16  { return binary.NativeEndian.Uint16(b[at:]) }
func (b info) u32(at int) uint32  { return binary.NativeEndian.Uint32(b[at:]) }
func (b info) be32(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) } // an address

func (m *meaning) ask(f field, lo, hi uint32) {
	m.asked = append(m.asked, condition{field: f, lo: lo, hi: hi})
}

// match reads matches of iptables (struct xt_tcp, xt_multiport, xt_mark_mtinfo1,
// xt_iprange_mtinfo).
func (m *meaning) match(data attributes) {
	b := info(padded(data.get(unix.NFTA_MATCH_INFO), 256))
	switch data.text(unix.NFTA_MATCH_NAME) {
	case "tcp", "udp":
		m.ask(byProtocol, 0, 0)
		for i, f := range []field{bySourcePort, byPort} {
			if lo, hi := b.u16(4*i), b.u16(4*i+2); lo != 0 || hi != 0xffff {
				m.ask(f, uint32(lo), uint32(hi))
			}
		}
	case "multiport":
		for i := range min(int(b[1]), 15) {
			number := uint32(b.u16(2 + 2*i))
			m.ask([]field{bySourcePort, byPort, byPort}[min(b[0], 2)], number, number)
		}
	case "mark":
		m.ask(byMark, b.u32(0), b.u32(0))
	case "iprange":
		for i, f := range []field{bySource, byDestination} {
			if flags := b[64]; flags>>i&1 != 0 {
				m.ask(f, b.be32(32*i), b.be32(32*i+16))
			}
		}
	case "set":
		m.ask(byMark, perhapsMark, perhapsMark)
	}
}

// target reads targets of iptables (struct xt_ct_target_info, xt_connmark_tginfo1 and 2,
// xt_mark_tginfo2, xt_NFQ_info_v3).
func (m *meaning) target(data attributes) {
	b := info(padded(data.get(unix.NFTA_TARGET_INFO), 64))
	switch name := data.text(unix.NFTA_TARGET_NAME); name {
	case "CT":
		if b[0]&1 != 0 {
			m.do(notrack, "")
		}
		if b.u16(2) != 0 {
			m.do(zone, fmt.Sprint(b.u16(2)))
		}
		if h, _, _ := strings.Cut(string(b[12:28]), "\x00"); h != "" {
			m.do(helper, h)
		}
	case "CONNMARK":
		mode := b[12]
		if data.number(unix.NFTA_TARGET_REV) >= 2 {
			mode = b[14]
		}
		if mode == 2 {
			m.do(restore, "")
		}
	case "MARK":
		if b.u32(0) != 0 || b.u32(4) != 0xffffffff {
			m.do(mark, "")
		}
	case "NFQUEUE":
		m.actions = append(m.actions, action{name: queue, arg: fmt.Sprint(b.u16(0)), bypass: b.u16(4)&1 != 0})
	default:
		m.do(plainDeeds[name], "")
	}
}

// literals are what rules compare with, for packets that differ by it.
type literals struct {
	prefixes []netip.Prefix // the narrowest first
	targets  []netip.Prefix // of these, where packets go to
	marks    []uint32
	ports    []uint16
}

// literals collects those of all rules.
func (all ruleset) literals() literals {
	var l literals
	for _, c := range all {
		for _, r := range c.rules {
			for _, a := range r.asked {
				l.add(a)
			}
		}
	}
	narrowest := func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
	}
	l.prefixes, l.targets = sorted(l.prefixes, narrowest), sorted(l.targets, narrowest)
	l.marks, l.ports = sorted(l.marks, cmp.Compare), sorted(l.ports, cmp.Compare)
	l.ports = l.ports[:min(len(l.ports), maxNamed)]
	return l
}

// sorted has each value once.
func sorted[T comparable](all []T, order func(a, b T) int) []T {
	slices.SortFunc(all, order)
	return slices.Compact(all)
}

func (l *literals) add(a condition) {
	for _, p := range a.prefixes() {
		if p.Bits() > 0 {
			l.prefixes = append(l.prefixes, p)
		}
		if p.Bits() > 0 && a.field == byDestination {
			l.targets = append(l.targets, p)
		}
	}
	switch {
	case a.lo == 0:
	case a.field == byMark:
		l.marks = append(l.marks, a.lo)
	case a.field == byPort:
		l.ports = append(l.ports, uint16(a.lo))
	}
}

// translating lists the interfaces that rules translate sources for: all that leaves by
// them, but for a network of their own, which is sent back to where it came from.
func (all ruleset) translating(n network) []string {
	var found []string
	for _, c := range all {
		for _, r := range c.rules {
			if r.does(masquerade, snat) {
				found = append(found, r.leavesBy(n)...)
			}
		}
	}
	return found
}

// leavesBy returns the interfaces that a rule asks for, if it does not ask where to.
func (r rule) leavesBy(n network) []string {
	asks := func(like func(condition) bool) bool { return slices.ContainsFunc(r.asked, like) }
	if asks(func(a condition) bool { return a.field == byDestination || a.field == byPort }) {
		return nil
	}
	var found []string
	for _, a := range r.asked {
		own := func(p netip.Prefix) bool { return slices.Contains(n.of(a.dev), p) }
		if a.field == byLink && !a.not && a.dev != "" && !strings.HasSuffix(a.dev, "*") &&
			!asks(func(a condition) bool { return slices.ContainsFunc(a.prefixes(), own) }) {
			found = append(found, a.dev)
		}
	}
	return found
}
