package check

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
)

// prefixOf reads an address, or a prefix addr/bits.
func prefixOf(s string) (netip.Prefix, bool) {
	if !strings.Contains(s, "/") {
		s += "/32"
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err == nil && p.Addr().Is4()
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
	Suppress *int            `json:"suppress_prefixlen"`
	L3MDev   json.RawMessage // null: the table is the VRF's
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
	prefix netip.Prefix
	dev    string
	table  string // "" is main
}

// wide says whether it is a default route, or half of one.
func (r route) wide() bool { return r.prefix.Bits() <= 1 }

// host is an address and the interface where it is, or is to be found.
type host struct {
	addr netip.Addr
	dev  string
}

// network is where packets can go from here.
type network struct {
	routes    []route // in all tables but local
	addresses []host  // of this gateway
	locals    []route // to these, each in its table
	rules     []ipRule
	policies  []netlink.Message // all routing rules, as the kernel lists them
	devs      []string          // that packets are sent by
	hosts     []host            // that they are sent to
	vrfs      []vrf
	elsewhere map[string]string // how something translates that conntrack does not see, by interface
}

// readRoutes reads "ip -json -4 route show table all".
func (n *network) readRoutes(text string) error {
	var listed []ipRoute
	if err := unmarshal(text, &listed); err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	for _, r := range listed {
		if r.Dst == "default" {
			r.Dst = "0.0.0.0/0"
		}
		to, good := prefixOf(r.Dst)
		switch {
		case !good:
		case r.Type == "local":
			if to.IsSingleIP() && !to.Addr().IsLoopback() {
				n.addresses = append(n.addresses, host{to.Addr(), r.Dev})
				n.locals = append(n.locals, route{prefix: to, dev: r.Dev, table: r.Table})
			}
		case r.Type == "" || r.Type == "unicast":
			for _, dev := range r.devices() {
				n.routes = append(n.routes, route{prefix: to, dev: dev, table: r.Table})
			}
		}
	}
	return nil
}

// own reports whether an address is this gateway's.
func (n network) own(addr netip.Addr) bool {
	return slices.ContainsFunc(n.addresses, func(h host) bool { return h.addr == addr })
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

// readRules reads "ip -json -4 rule show", without the kernel's own: three, and one that comes
// with the first VRF.
func readRules(text string) ([]ipRule, error) {
	var listed []ipRule
	if err := unmarshal(text, &listed); err != nil {
		return nil, fmt.Errorf("read routing rules: %w", err)
	}
	return slices.DeleteFunc(listed, func(r ipRule) bool {
		return r.Priority == 0 || r.Priority == 32766 || r.Priority == 32767 || r.L3MDev != nil
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
		if r.prefix.Bits() == 0 {
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

// of lists the networks behind an interface, but for default routes.
func (n network) of(dev string) []netip.Prefix {
	var all []netip.Prefix
	for _, r := range n.routes {
		if r.dev == dev && !r.wide() && !slices.Contains(all, r.prefix) {
			all = append(all, r.prefix)
		}
	}
	return all
}

// way is the two interfaces that calls pass between. One that is not known is "".
type way struct{ inside, outside string }

// What is tried is bounded: a gateway with more interfaces than that has one for each of
// its dial-in users, or containers, and treats them alike.
const maxWays, maxContainers = 64, 4

// facing returns the interfaces that lead to public addresses alone, if others lead to private ones:
// these are outside where nothing else says so.
func (n network) facing() (public []string) {
	near := false
	for _, r := range n.routes {
		switch to := n.of(r.dev); {
		case container(r.dev) || len(to) == 0:
		case slices.ContainsFunc(to, private):
			near = true
		default:
			public = append(public, r.dev)
		}
	}
	if !near {
		return nil
	}
	return unique(public)
}

// ways pairs the interfaces that are outside, of default routes and of the rules that
// translate sources (translated), with all others.
func (n network) ways(translated []string) []way {
	outside := slices.Clone(translated)
	for _, r := range n.routes {
		if r.wide() {
			outside = append(outside, r.dev)
		}
	}
	if len(outside) == 0 {
		outside = n.facing()
	}
	outside = n.arriving(outside)
	var inside []string
	for _, r := range n.routes {
		if !slices.Contains(outside, r.dev) {
			inside = append(inside, r.dev)
		}
	}
	inside = slices.DeleteFunc(n.arriving(inside), func(dev string) bool { return slices.Contains(outside, dev) })
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

func unique(names []string) []string { return sorted(names, strings.Compare) }

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
	words = append(words, "ipproto", "gre", "lookup", r.Table)
	if r.Suppress != nil {
		words = append(words, "suppress_prefixlength", strconv.Itoa(*r.Suppress))
	}
	return shell(words...)
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
