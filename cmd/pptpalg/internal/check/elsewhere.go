package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// What conntrack does not see: addresses that need no translation, and those that something
// else translates.

// ipLink is what "ip -json -details link" prints of an interface.
type ipLink struct {
	Name     string `json:"ifname"`
	Index    int    `json:"ifindex"`
	Master   string
	LinkInfo struct {
		Kind string          `json:"info_kind"`
		Data json.RawMessage `json:"info_data"`
	}
	XDP struct{ Mode int }
}

// nat64 and cilium are names of the interfaces of programs that translate by themselves.
var (
	nat64  = regexp.MustCompile(`^(nat64|clat|siit|tayga|jool)`)
	cilium = regexp.MustCompile(`^cilium_`)
)

// readLinks reads which interfaces have a translation that conntrack does not see, and VRFs.
func (n *network) readLinks(text string) error {
	var listed []ipLink
	if err := unmarshal(text, &listed); err != nil {
		return fmt.Errorf("read interfaces: %w", err)
	}
	n.elsewhere = make(map[string]string)
	if err := n.readVRFs(listed); err != nil {
		return fmt.Errorf("read VRFs: %w", err)
	}
	for _, l := range listed {
		switch {
		case l.LinkInfo.Kind == "ip6tnl":
			n.elsewhere[l.Name] = "IPv4 in IPv6 (DS-Lite): the provider translates"
		case nat64.MatchString(l.Name):
			n.elsewhere[l.Name] = "NAT64"
		case l.XDP.Mode != 0:
			n.elsewhere[l.Name] = "an XDP program gets its packets before conntrack, and may translate them"
		case cilium.MatchString(l.Name):
			n.elsewhere[""] = "Cilium translates with BPF programs"
		}
	}
	return nil
}

// hidden returns why conntrack would not see a translation on an interface, "" if it would.
func (n network) hidden(dev string) string { return cmp.Or(n.elsewhere[dev], n.elsewhere[""]) }

// shared is the addresses between a provider and its customers (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// private reports whether nobody outside knows a way to a network.
func private(to netip.Prefix) bool {
	return to.Addr().IsPrivate() || shared.Contains(to.Addr())
}

// routed reports whether the networks inside have public addresses.
func (f firewall) routed() bool {
	known := false
	for _, w := range f.ways {
		if container(w.inside) {
			continue
		}
		for _, to := range f.network.of(w.inside) {
			if private(to) {
				return false
			}
			known = true
		}
	}
	return known
}

// inner reports whether an interface leads to a private network, whose gateway translates.
func (f firewall) inner(outside string) bool {
	near := f.network.of(outside)
	return len(near) > 0 && !slices.ContainsFunc(near, func(to netip.Prefix) bool { return !private(to) })
}

// untranslated judges a gateway whose rules translate nothing.
func (f firewall) untranslated() Finding {
	outside := f.ways[0].outside
	masquerading := f.masquerading(outside)
	hidden := f.network.hidden(outside)
	switch {
	case f.routed():
		return ok("no rule translates addresses, and the inside addresses are public: calls are followed but not changed")
	case outside == "":
		return warning(f.masquerading("WAN")+", with the outside interface in place of WAN",
			"no rule translates addresses, and the outside interface is not known: there is no default route")
	case hidden != "":
		return warning(masquerading+", if nothing else translates",
			"conntrack translates nothing on %s (%s), so Call IDs are not translated either: two clients with the same Call ID to the same server disturb each other", outside, hidden)
	case f.inner(outside):
		return warning(masquerading+", unless the next gateway has routes back to the inside networks",
			"no rule translates addresses here: another gateway must do it, and edit PPTP")
	}
	return problem(masquerading, "no rule translates addresses: clients behind this gateway have no public address")
}

// masquerading returns the command that has sources translated on an interface.
func (f firewall) masquerading(dev string) string {
	if f.noIPTables {
		return shell("nft", fmt.Sprintf("add table ip nat; add chain ip nat postrouting { type nat hook postrouting priority srcnat; }; add rule ip nat postrouting oifname %q masquerade", dev))
	}
	return "iptables -t nat -A POSTROUTING -o " + shell(dev) + " -j MASQUERADE"
}
