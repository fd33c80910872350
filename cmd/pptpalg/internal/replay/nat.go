package replay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NAT says that the hosts of a network are known outside by one public address.
type NAT struct {
	Net    netip.Prefix
	Public netip.Addr
}

// ParseNAT reads "CLIENT-NET=PUBLIC", as in 10.0.0.0/24=203.0.113.1. The network
// may be a single address.
func ParseNAT(s string) (NAT, error) {
	inside, public, _ := strings.Cut(s, "=")
	net, err := parseNet(inside)
	if err != nil {
		return NAT{}, fmt.Errorf("read %q: %w", s, err)
	}
	address, err := netip.ParseAddr(public)
	if err != nil || !address.Is4() {
		return NAT{}, fmt.Errorf("read %q: %q is not an IPv4 address; want CLIENT-NET=PUBLIC", s, public)
	}
	if net.Contains(address) {
		return NAT{}, fmt.Errorf("read %q: the public address is inside", s)
	}
	return NAT{net, address}, nil
}

func parseNet(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return netip.PrefixFrom(a, 32), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("%q is not an IPv4 network; want CLIENT-NET=PUBLIC", s)
	}
	return p.Masked(), nil
}

// translator knows which hosts are hidden, and which ports their connections have
// outside.
type translator struct {
	rules []NAT // the longest prefix first
	ports map[outside]*ports
}

// outside is where two connections must not have one port.
type outside struct {
	public netip.Addr
	peer   netip.AddrPort
}

func newTranslator(rules []NAT) *translator {
	t := &translator{rules: slices.Clone(rules), ports: make(map[outside]*ports)}
	slices.SortStableFunc(t.rules, func(a, b NAT) int { return b.Net.Bits() - a.Net.Bits() })
	return t
}

// hidden returns the rule for an inside host.
func (t *translator) hidden(a netip.Addr) (NAT, bool) {
	for _, n := range t.rules {
		if n.Net.Contains(a) {
			return n, true
		}
	}
	return NAT{}, false
}

// public returns what a packet's addresses are outside. A packet between two inside
// hosts, or two outside, is not translated.
func (t *translator) public(src, dst netip.Addr) (outSrc, outDst netip.Addr) {
	from, fromInside := t.hidden(src)
	to, toInside := t.hidden(dst)
	switch {
	case fromInside && !toInside:
		return from.Public, dst
	case toInside && !fromInside:
		return src, to.Public
	}
	return src, dst
}

// take returns the port that an inside host's connection to a peer has outside: its own,
// unless another host's connection to that peer has it there. If none is free, it shares its
// own. free gives it back.
func (t *translator) take(public netip.Addr, own uint16, peer netip.AddrPort) netip.AddrPort {
	where := outside{public, peer}
	p := t.ports[where]
	if p == nil {
		p = new(ports)
		t.ports[where] = p
	}
	port := p.pick(own)
	p.set(port)
	return netip.AddrPortFrom(public, port)
}

// free gives back a port that take has returned.
func (t *translator) free(public netip.AddrPort, peer netip.AddrPort) {
	where := outside{public.Addr(), peer}
	if p := t.ports[where]; p != nil && p.clear(public.Port()) {
		delete(t.ports, where)
	}
}
