package check

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What a rule compares, and what it does, is read from its expressions: those of iptables
// have matches and targets among them. Whether a packet matches is the kernel's business.

// field is what a rule compares. What it may compare beside is of no interest.
type field uint8

const (
	other field = iota
	byProtocol
	bySource
	byDestination
	bySourcePort
	byPort
	byMark
	byLink  // name of the one that the packet leaves by
	byIndex // number of that
	connMark
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
	if first := uint64(c.lo); first&(1<<wild-1) == 0 && first|(1<<wild-1) == uint64(c.hi) {
		return []netip.Prefix{netip.PrefixFrom(address(c.lo), 32-wild)}
	}
	return []netip.Prefix{netip.PrefixFrom(address(c.lo), 32), netip.PrefixFrom(address(c.hi), 32)}
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// set is a set or map of nft, as far as its keys matter.
type set struct {
	keyLen    int
	intervals bool
	keys      []element
}

// element is one of a set, or where an interval ends.
type element struct {
	from, to []byte // to is nil but for intervals of several fields
	ends     bool
}

// maxKeys bounds how many elements of a set are looked at. The kernel looks at all.
const maxKeys = 256

func (s *set) add(listed attributes) {
	for _, a := range listed {
		e := read(a.Data)
		const keyEnd = 10 // NFTA_SET_ELEM_KEY_END
		k := element{from: dataValue(e, unix.NFTA_SET_ELEM_KEY), to: dataValue(e, keyEnd)}
		k.ends = e.number(unix.NFTA_SET_ELEM_FLAGS)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		if len(k.from) > 0 && len(s.keys) < maxKeys {
			s.keys = append(s.keys, k)
		}
	}
	slices.SortStableFunc(s.keys, func(a, b element) int {
		return cmp.Or(bytes.Compare(a.from, b.from), order(b.ends)-order(a.ends))
	})
}

func dataValue(of attributes, typ uint16) []byte {
	return of.nest(typ).get(unix.NFTA_DATA_VALUE)
}

// cell is what a byte of a register has: one of a field, as far as a mask leaves it.
type cell struct {
	field field
	at    int
	mask  byte
}

// meaning collects what a rule's expressions say, one after the other, with what they leave
// in registers.
type meaning struct {
	home    string
	sets    map[string]*set   // by table and name
	helpers map[string]string // kernel names, likewise

	cells    [64]cell
	constant map[int][]byte // by the first byte's place
	asked    []condition
	actions  []action
}

// place returns where a register begins: there are four of 16 bytes, which are 16 of 4.
func place(register uint64) int {
	if register >= unix.NFT_REG32_00 {
		return int(register-unix.NFT_REG32_00) * 4 % 64
	}
	return int(register+3) % 4 * 16
}

func (m *meaning) read(all []expression) {
	for _, e := range all {
		if add, found := expressions[e.name]; found {
			add(m, e.data)
			continue
		}
		m.cells = [64]cell{} // some are written
	}
}

// expressions have what is read of each. An expression that is not there has no meaning here.
var expressions = map[string]func(*meaning, attributes){
	"payload":   (*meaning).payload,
	"meta":      (*meaning).meta,
	"ct":        (*meaning).ct,
	"bitwise":   (*meaning).bitwise,
	"immediate": (*meaning).immediate,
	"cmp":       (*meaning).cmp,
	"range":     (*meaning).ranges,
	"lookup":    (*meaning).lookup,
	"match":     (*meaning).match,
	"target":    (*meaning).target,
	"objref":    (*meaning).object,
	"queue":     (*meaning).queue,
	"nat": func(m *meaning, data attributes) {
		name := snat
		if data.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT {
			name = dnat
		}
		m.do(name, "")
	},
	"masq":         func(m *meaning, _ attributes) { m.do(masquerade, "") },
	"redir":        func(m *meaning, _ attributes) { m.do(redirect, "") },
	"tproxy":       func(m *meaning, _ attributes) { m.do(tproxy, "") },
	"reject":       func(m *meaning, _ attributes) { m.do(reject, "") },
	"notrack":      func(m *meaning, _ attributes) { m.do(notrack, "") },
	"flow_offload": func(m *meaning, _ attributes) { m.do(offload, "") },
}

func (m *meaning) do(name, arg string) { m.actions = append(m.actions, action{name: name, arg: arg}) }

// load has a register hold bytes, of which fieldAt tells.
func (m *meaning) load(register uint64, width int, fieldAt func(i int) (field, int)) {
	at := place(register)
	delete(m.constant, at)
	for i := at; i < min(at+width, len(m.cells)); i++ {
		f, nth := fieldAt(i - at)
		m.cells[i] = cell{f, nth, 0xff}
	}
}

func whole1(f field) func(int) (field, int) { return func(i int) (field, int) { return f, i } }

// headers are the fields of packets, by the byte where each begins, and the one behind it.
var headers = map[uint64][]struct {
	field    field
	from, to int
}{
	unix.NFT_PAYLOAD_NETWORK_HEADER:   {{byProtocol, 9, 10}, {bySource, 12, 16}, {byDestination, 16, 20}},
	unix.NFT_PAYLOAD_TRANSPORT_HEADER: {{bySourcePort, 0, 2}, {byPort, 2, 4}},
}

func (m *meaning) payload(data attributes) {
	if data.get(unix.NFTA_PAYLOAD_DREG) == nil {
		return
	}
	offset := int(data.number(unix.NFTA_PAYLOAD_OFFSET))
	m.load(data.number(unix.NFTA_PAYLOAD_DREG), int(data.number(unix.NFTA_PAYLOAD_LEN)), func(i int) (field, int) {
		for _, f := range headers[data.number(unix.NFTA_PAYLOAD_BASE)] {
			if offset+i >= f.from && offset+i < f.to {
				return f.field, offset + i - f.from
			}
		}
		return other, i
	})
}

var metaFields = map[uint64]struct {
	field field
	width int
}{
	unix.NFT_META_L4PROTO: {byProtocol, 1}, unix.NFT_META_MARK: {byMark, 4}, unix.NFT_META_OIF: {byIndex, 4}, unix.NFT_META_OIFNAME: {byLink, unix.IFNAMSIZ},
}

func (m *meaning) meta(data attributes) {
	key := data.number(unix.NFTA_META_KEY)
	if from := data.get(unix.NFTA_META_SREG); from != nil && key == unix.NFT_META_MARK {
		m.marks(place(data.number(unix.NFTA_META_SREG)))
	}
	if data.get(unix.NFTA_META_DREG) != nil {
		f, known := metaFields[key]
		if !known {
			f.width = unix.IFNAMSIZ
		}
		m.load(data.number(unix.NFTA_META_DREG), f.width, whole1(f.field))
	}
}

// marks adds that a packet's mark is set to what a register has: to its connection's, or to
// one of its own. To have none is not one.
func (m *meaning) marks(at int) {
	value, constant := m.constant[at]
	switch {
	case m.cells[at].field == connMark:
		m.do(restore, "")
	case !constant || slices.ContainsFunc(value, func(b byte) bool { return b != 0 }):
		m.do(mark, "")
	}
}

var ctFields = map[uint64]field{
	unix.NFT_CT_MARK: connMark, unix.NFT_CT_PROTOCOL: byProtocol, unix.NFT_CT_PROTO_SRC: bySourcePort, unix.NFT_CT_PROTO_DST: byPort,
	unix.NFT_CT_SRC: bySource, unix.NFT_CT_DST: byDestination, unix.NFT_CT_SRC_IP: bySource, unix.NFT_CT_DST_IP: byDestination,
}

func (m *meaning) ct(data attributes) {
	key := data.number(unix.NFTA_CT_KEY)
	if data.get(unix.NFTA_CT_DREG) != nil {
		m.load(data.number(unix.NFTA_CT_DREG), 16, whole1(ctFields[key]))
		return
	}
	if value := m.constant[place(data.number(unix.NFTA_CT_SREG))]; key == unix.NFT_CT_ZONE && len(value) >= 2 {
		m.do(zone, fmt.Sprint(binary.NativeEndian.Uint16(value)))
	}
}

func (m *meaning) bitwise(data attributes) {
	from, to := place(data.number(unix.NFTA_BITWISE_SREG)), place(data.number(unix.NFTA_BITWISE_DREG))
	delete(m.constant, to)
	for i, b := range dataValue(data, unix.NFTA_BITWISE_MASK) {
		if max(from, to)+i < len(m.cells) {
			m.cells[to+i] = m.cells[from+i]
			m.cells[to+i].mask &= b
		}
	}
}

func (m *meaning) immediate(data attributes) {
	value := data.nest(unix.NFTA_IMMEDIATE_DATA)
	if v := verdict(value.nest(unix.NFTA_DATA_VERDICT)); v.name == jump {
		m.actions = append(m.actions, v)
	}
	m.load(data.number(unix.NFTA_IMMEDIATE_DREG), len(value.get(unix.NFTA_DATA_VALUE)), whole1(other))
	m.constant[place(data.number(unix.NFTA_IMMEDIATE_DREG))] = value.get(unix.NFTA_DATA_VALUE)
}

func (m *meaning) cmp(data attributes) {
	value := dataValue(data, unix.NFTA_CMP_DATA)
	m.compare(place(data.number(unix.NFTA_CMP_SREG)), value, value, data.number(unix.NFTA_CMP_OP) == unix.NFT_CMP_NEQ)
}

func (m *meaning) ranges(data attributes) {
	m.compare(place(data.number(unix.NFTA_RANGE_SREG)), dataValue(data, unix.NFTA_RANGE_FROM_DATA), dataValue(data, unix.NFTA_RANGE_TO_DATA), data.number(unix.NFTA_RANGE_OP) == unix.NFT_CMP_NEQ)
}

func (m *meaning) lookup(data attributes) {
	at := place(data.number(unix.NFTA_LOOKUP_SREG))
	if s := m.sets[m.home+" "+data.text(unix.NFTA_LOOKUP_SET)]; s != nil {
		m.compareAll(at, s, data.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0)
	}
	if data.get(unix.NFTA_LOOKUP_DREG) != nil {
		m.load(data.number(unix.NFTA_LOOKUP_DREG), 16, whole1(other))
	}
}

func (m *meaning) compareAll(at int, s *set, not bool) {
	for i, k := range s.keys {
		to := cmp.Or(string(k.to), string(k.from))
		if s.intervals && k.to == nil && i+1 < len(s.keys) {
			to = before(s.keys[i+1].from)
		}
		if !k.ends {
			m.compare(at, k.from, []byte(to), not)
		}
	}
	if len(s.keys) == 0 { // it is asked for all the same
		m.compare(at, make([]byte, s.keyLen), make([]byte, s.keyLen), not)
	}
}

// before returns the number that is one less.
func before(key []byte) string {
	key = slices.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]--
		if key[i] != 0xff {
			break
		}
	}
	return string(key)
}

// compare adds a condition for each field that is compared with bytes of a value.
func (m *meaning) compare(at int, from, to []byte, not bool) {
	n := min(len(from), len(to), len(m.cells)-at)
	for i := 0; i < n; {
		first, width := m.cells[at+i], 1
		for i+width < n && m.cells[at+i+width].field == first.field && m.cells[at+i+width].at == first.at+width {
			width++
		}
		if c, known := first.condition(from[i:i+width], to[i:i+width], m.cells[at+i:]); known {
			c.not = not
			m.asked = append(m.asked, c)
		}
		i += width
	}
}

// condition returns what a field is compared with. cells have its mask.
func (c cell) condition(from, to []byte, cells []cell) (condition, bool) {
	asked := condition{field: c.field}
	switch c.field {
	case other, connMark:
		return condition{}, false
	case byLink:
		name, _, plain := bytes.Cut(from, []byte{0})
		if asked.dev = string(name); !plain && len(from) < unix.IFNAMSIZ {
			asked.dev += "*"
		}
	case byIndex:
		asked.field = byLink
		if i, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(padded(from, 4)))); err == nil {
			asked.dev = i.Name
		}
	case byMark:
		asked.lo, asked.hi = binary.NativeEndian.Uint32(padded(from, 4)), binary.NativeEndian.Uint32(padded(to, 4))
	case bySource, byDestination:
		asked.lo, asked.hi = binary.BigEndian.Uint32(padded(from, 4)), binary.BigEndian.Uint32(padded(to, 4))
		for i := range 4 {
			if i >= len(from) {
				asked.hi |= 0xff << (24 - 8*i)
			} else {
				asked.hi |= uint32(^cells[i].mask) << (24 - 8*i)
			}
		}
	default:
		asked.lo, asked.hi = uint32(binary.BigEndian.Uint16(padded(from, 2))), uint32(binary.BigEndian.Uint16(padded(to, 2)))
	}
	return asked, true
}

func padded(b []byte, n int) []byte { return append(slices.Clone(b), make([]byte, n)...)[:n] }

func (m *meaning) object(data attributes) {
	if data.number(unix.NFTA_OBJREF_IMM_TYPE) == unix.NFT_OBJECT_CT_HELPER {
		name := data.text(unix.NFTA_OBJREF_IMM_NAME)
		m.do(helper, cmp.Or(m.helpers[m.home+" "+name], name))
	}
}

func (m *meaning) queue(data attributes) {
	a := action{name: queue, bypass: data.number(unix.NFTA_QUEUE_FLAGS)&unix.NFT_QUEUE_FLAG_BYPASS != 0}
	if data.get(unix.NFTA_QUEUE_NUM) != nil {
		a.arg = fmt.Sprint(data.number(unix.NFTA_QUEUE_NUM))
	}
	m.actions = append(m.actions, a)
}

// info is what a match or target of iptables is told, a struct of the kernel. The end of
// some is left out.
type info []byte

func (b info) u16(at int) uint16 { return binary.NativeEndian.Uint16(padded(b, 256)[at:]) }
func (b info) u32(at int) uint32 { return binary.NativeEndian.Uint32(padded(b, 256)[at:]) }

// be32 reads an address.
func (b info) be32(at int) uint32 { return binary.BigEndian.Uint32(padded(b, 256)[at:]) }

func (m *meaning) ask(f field, lo, hi uint32) {
	m.asked = append(m.asked, condition{field: f, lo: lo, hi: hi})
}

// match reads matches of iptables (struct xt_tcp, xt_multiport, xt_mark_mtinfo1,
// xt_iprange_mtinfo, xt_conntrack_mtinfo3).
func (m *meaning) match(data attributes) {
	b := info(data.get(unix.NFTA_MATCH_INFO))
	switch data.text(unix.NFTA_MATCH_NAME) {
	case "tcp", "udp":
		m.ask(byProtocol, 0, 0)
		for i, f := range []field{bySourcePort, byPort} {
			if lo, hi := b.u16(4*i), b.u16(4*i+2); lo != 0 || hi != 0xffff {
				m.ask(f, uint32(lo), uint32(hi))
			}
		}
	case "multiport":
		for i := range min(b.u16(0)>>8, 15) {
			number := uint32(b.u16(int(2 + 2*i)))
			m.ask([]field{bySourcePort, byPort, byPort}[min(b.u16(0)&0xff, 2)], number, number)
		}
	case "mark":
		m.ask(byMark, b.u32(0), b.u32(0))
	case "iprange":
		const flags, ofSource, ofDestination = 64, 1, 2
		if b.u16(flags)&ofSource != 0 {
			m.ask(bySource, b.be32(0), b.be32(16))
		}
		if b.u16(flags)&ofDestination != 0 {
			m.ask(byDestination, b.be32(32), b.be32(48))
		}
	case "conntrack":
		m.conntrack(b)
	case "set":
		m.ask(byMark, perhapsMark, perhapsMark)
	}
}

func (m *meaning) conntrack(b info) {
	const flags, proto, source, destination, port = 146, 1 << 1, 1 << 2, 1 << 3, 1 << 9
	if b.u16(flags)&proto != 0 {
		m.ask(byProtocol, 0, 0)
	}
	for i, f := range []field{bySource, byDestination} {
		if at := 32 * i; b.u16(flags)&(source<<i) != 0 {
			m.ask(f, b.be32(at), b.be32(at)|^b.be32(at+16))
		}
	}
	if b.u16(flags)&port != 0 {
		m.ask(byPort, uint32(b.u16(140)), uint32(b.u16(140)))
	}
}

// plainTargets are those of which it is enough that a rule has them.
var plainTargets = map[string]string{
	"REJECT": reject, "REDIRECT": redirect, "TPROXY": tproxy, "DNAT": dnat, "SNAT": snat, "MASQUERADE": masquerade, "NETMAP": netmap, "NOTRACK": notrack, "FLOWOFFLOAD": offload,
}

// target reads targets of iptables (struct xt_ct_target_info, xt_mark_tginfo2,
// xt_connmark_tginfo1, xt_NFQ_info_v3).
func (m *meaning) target(data attributes) {
	b := info(data.get(unix.NFTA_TARGET_INFO))
	switch name := data.text(unix.NFTA_TARGET_NAME); name {
	case "CT":
		const noTracking, helperAt = 1, 12
		if b.u16(0)&noTracking != 0 {
			m.do(notrack, "")
		}
		if b.u16(2) != 0 {
			m.do(zone, fmt.Sprint(b.u16(2)))
		}
		if h, _, _ := bytes.Cut(padded(b, 64)[helperAt:helperAt+16], []byte{0}); len(h) > 0 {
			m.do(helper, string(h))
		}
	case "CONNMARK":
		const modeAt, shifts, restores = 12, 2, 2
		at := modeAt
		if data.number(unix.NFTA_TARGET_REV) >= 2 {
			at += shifts
		}
		if padded(b, 64)[at] == restores {
			m.do(restore, "")
		}
	case "MARK":
		if b.u32(0) != 0 || b.u32(4) != 0xffffffff {
			m.do(mark, "")
		}
	case "NFQUEUE":
		m.actions = append(m.actions, action{name: queue, arg: fmt.Sprint(b.u16(0)), bypass: b.u16(4)&1 != 0})
	default:
		if does := plainTargets[name]; does != "" {
			m.do(does, "")
		}
	}
}

// literals are what rules compare with, for packets that differ by it.
type literals struct {
	prefixes []netip.Prefix // the narrowest first
	targets  []netip.Addr   // of prefixes, where packets go to
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
	slices.SortFunc(l.prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
	})
	l.prefixes = slices.Compact(l.prefixes)
	slices.SortFunc(l.targets, netip.Addr.Compare)
	l.targets = slices.Compact(l.targets)
	slices.Sort(l.marks)
	l.marks = slices.Compact(l.marks)
	l.ports = unique16(l.ports)
	l.ports = l.ports[:min(len(l.ports), maxNamed)]
	return l
}

func (l *literals) add(a condition) {
	switch a.field {
	case bySource, byDestination:
		for _, p := range a.prefixes() {
			if p.Bits() == 0 {
				continue
			}
			l.prefixes = append(l.prefixes, p)
			if a.field == byDestination {
				l.targets = append(l.targets, p.Addr())
			}
		}
	case byMark:
		if a.lo != 0 {
			l.marks = append(l.marks, a.lo)
		}
	case byPort:
		if a.lo != 0 {
			l.ports = append(l.ports, uint16(a.lo))
		}
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
