package check

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// span is a range of IPv4 addresses, first and last.
type span struct{ first, last netip.Addr }

// spanOf reads an address, a prefix addr/bits, or a range first-last.
func spanOf(s string) (span, bool) {
	if first, last, found := strings.Cut(s, "-"); found {
		a, errA := netip.ParseAddr(first)
		b, errB := netip.ParseAddr(last)
		return span{a, b}, errA == nil && errB == nil && a.Is4() && b.Is4()
	}
	if !strings.Contains(s, "/") {
		s += "/32"
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return span{}, false
	}
	first := p.Masked().Addr()
	last := first.As4()
	for bit := p.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return span{first, netip.AddrFrom4(last)}, true
}

func (s span) has(other span) bool {
	return !other.first.Less(s.first) && !s.last.Less(other.last)
}

func (s span) meets(other span) bool {
	return !other.last.Less(s.first) && !s.last.Less(other.first)
}

// size is the number of bits that differ within the span, the smaller the narrower.
func (s span) size() uint32 {
	a, b := s.first.As4(), s.last.As4()
	return uint32(b[0]-a[0])<<24 | uint32(b[1]-a[1])<<16 | uint32(b[2]-a[2])<<8 | uint32(b[3]-a[3])
}

// ipRoute is what "ip -json route" prints of a route, and of each way that it has.
type ipRoute struct {
	Type     string
	Dst      string
	Dev      string
	Table    string
	Nexthops []struct{ Dev string }
}

// ipRule is what "ip -json rule" prints of a routing rule.
type ipRule struct {
	Priority int
	Src      string
	SrcLen   *int
	IIF      string
	FWMark   string
	FWMask   string
	IPProto  any // a name, or a number
	DPort    any // a number
	Table    string
}

// takes reports whether the rule is for control connections alone, to one of the ports.
func (r ipRule) takes(ports []uint16) bool {
	tcp := r.IPProto == "tcp" || r.IPProto == float64(6)
	port := r.DPort == nil || slices.ContainsFunc(ports, func(p uint16) bool { return r.DPort == float64(p) })
	return tcp && port
}

// takesGRE reports whether GRE goes to the table as well.
func (r ipRule) takesGRE(table string) bool {
	gre := r.IPProto == nil || r.IPProto == "gre" || r.IPProto == float64(47)
	return gre && r.Table == table
}

// route is a way to a destination: one of several where a route has several.
type route struct {
	to    span
	wide  bool // a default route, or half of one
	dev   string
	table string // "" is main
}

// network is where packets can go from here.
type network struct {
	routes []route // in all tables but local
	local  []span  // addresses of this gateway
	rules  []ipRule
}

// readRoutes reads "ip -json -4 route show table all".
func (n *network) readRoutes(text string) error {
	var listed []ipRoute
	if err := unmarshal(text, &listed); err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	for _, r := range listed {
		wide := r.Dst == "default" || strings.HasSuffix(r.Dst, "/1")
		if r.Dst == "default" {
			r.Dst = "0.0.0.0/0"
		}
		to, good := spanOf(r.Dst)
		switch {
		case !good:
		case r.Type == "local":
			n.local = append(n.local, to)
		case r.Type == "" || r.Type == "unicast":
			for _, dev := range r.devices() {
				n.routes = append(n.routes, route{to: to, wide: wide, dev: dev, table: r.Table})
			}
		}
	}
	return nil
}

// own reports whether an address is this gateway's.
func (n network) own(addr span) bool {
	return slices.ContainsFunc(n.local, func(s span) bool { return s.has(addr) && s.size() == 0 })
}

func (r ipRoute) devices() []string {
	var all []string
	if r.Dev != "" {
		all = append(all, r.Dev)
	}
	for _, hop := range r.Nexthops {
		all = append(all, hop.Dev)
	}
	return slices.DeleteFunc(all, func(dev string) bool { return dev == "" || dev == "lo" })
}

// readRules reads "ip -json -4 rule show", without the kernel's own three.
func readRules(text string) ([]ipRule, error) {
	var listed []ipRule
	if err := unmarshal(text, &listed); err != nil {
		return nil, fmt.Errorf("read routing rules: %w", err)
	}
	return slices.DeleteFunc(listed, func(r ipRule) bool {
		return r.Priority == 0 || r.Priority == 32766 || r.Priority == 32767
	}), nil
}

// unmarshal takes no text at all, which ip prints where there is nothing, for an empty
// list.
func unmarshal(text string, to any) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), to)
}

// defaults counts the ways of default routes.
func (n network) defaults() int {
	count := 0
	for _, r := range n.routes {
		if r.wide && r.to.size() == 1<<32-1 {
			count++
		}
	}
	return count
}

// marked reports whether packets take another way out by their mark. Those that a proxy
// marks stay here.
func (n network) marked() bool {
	return slices.ContainsFunc(n.rules, func(r ipRule) bool {
		leads := func(to route) bool { return to.table == r.Table }
		return r.FWMark != "" && slices.ContainsFunc(n.routes, leads)
	})
}

// of lists the networks behind an interface, nil if none is known.
func (n network) of(dev string) []span {
	var all []span
	for _, r := range n.routes {
		if r.dev == dev && dev != "" {
			all = append(all, r.to)
		}
	}
	return all
}

// towards returns the interface that an address is behind, "" if none but a default
// route is known.
func (n network) towards(addr span) string {
	dev, narrowest := "", uint32(0)
	for _, r := range n.routes {
		if !r.wide && r.to.has(addr) && (dev == "" || r.to.size() < narrowest) {
			dev, narrowest = r.dev, r.to.size()
		}
	}
	return dev
}

// way is the two interfaces that calls pass between. One that is not known is "".
type way struct{ inside, outside string }

// What is tried is bounded: a gateway with more interfaces than that has one for each of
// its dial-in users, or containers, and treats them alike.
const maxWays, maxContainers = 64, 4

// ways pairs the interfaces that are outside, of default routes and of the rules that
// translate sources (translated), with all others.
func (n network) ways(translated []string) []way {
	outside := slices.Clone(translated)
	for _, r := range n.routes {
		if r.wide {
			outside = append(outside, r.dev)
		}
	}
	outside = unique(outside)
	var inside []string
	for _, r := range n.routes {
		if !slices.Contains(outside, r.dev) {
			inside = append(inside, r.dev)
		}
	}
	inside = unique(inside)
	slices.SortStableFunc(inside, func(a, b string) int { return order(container(a)) - order(container(b)) })
	if i := slices.IndexFunc(inside, container); i >= 0 {
		inside = inside[:min(len(inside), i+maxContainers)]
	}
	var all []way
	for _, in := range orUnknown(inside) {
		for _, out := range orUnknown(outside) {
			all = append(all, way{in, out})
		}
	}
	return all[:min(len(all), maxWays)]
}

func order(b bool) int {
	if b {
		return 1
	}
	return 0
}

func unique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

func orUnknown(names []string) []string {
	if len(names) == 0 {
		return []string{""}
	}
	return names
}

// containers are names of interfaces that have no network of people behind them: those
// of Docker, Podman, libvirt, LXD, and Kubernetes.
var containers = regexp.MustCompile(`^(docker|br-[0-9a-f]{12}$|veth|virbr|podman|cni|lxcbr|lxdbr|incusbr|cali|flannel|cilium|vnet|tap)`)

func container(dev string) bool { return containers.MatchString(dev) }

// between tells people of a direction, as far as it is known.
func between(from, to string) string {
	text := ""
	if from != "" {
		text += " from " + from
	}
	if to != "" {
		text += " to " + to
	}
	return text
}

// sibling returns the command that makes a routing rule for GRE like one for TCP.
func (r ipRule) sibling() string {
	words := []string{"ip", "rule", "add", "priority", strconv.Itoa(r.Priority)}
	if r.Src != "" && r.Src != "all" {
		if r.SrcLen != nil {
			r.Src += "/" + strconv.Itoa(*r.SrcLen)
		}
		words = append(words, "from", r.Src)
	}
	if r.IIF != "" {
		words = append(words, "iif", r.IIF)
	}
	if r.FWMark != "" {
		mark := r.FWMark
		if r.FWMask != "" {
			mark += "/" + r.FWMask
		}
		words = append(words, "fwmark", mark)
	}
	return shell(append(words, "ipproto", "gre", "lookup", r.Table)...)
}

// plain are words that mean nothing but themselves to a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shell writes words as a command: rules may have anything in their comments.
func shell(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if quoted[i] = w; !plain.MatchString(w) && w != "!" {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
