package lab

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// build makes the namespaces and cables in one run of ip, then sets up each
// namespace in one more.
func (n *Network) build(o Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		return fmt.Errorf("make directory for lab files: %w", err)
	}
	if err := batch(ctx, "", n.cables()); err != nil {
		return err
	}
	for _, h := range n.Hosts() {
		if err := h.open(); err != nil {
			return err
		}
		if err := batch(ctx, h.Namespace, n.addresses(h, o)); err != nil {
			return err
		}
	}
	for _, g := range n.gateways() {
		if err := tuneGateway(g); err != nil {
			return err
		}
		if err := g.IPTablesRestore(ctx, firewall(o, len(n.Inside))); err != nil {
			return err
		}
	}
	if !o.Pair {
		return nil
	}
	if err := bridgeOnly(n.Switch); err != nil {
		return err
	}
	return n.Take(ctx, n.Gateway)
}

// batch runs ip commands, one per line, in a namespace ("" is the caller's).
func batch(ctx context.Context, namespace, lines string) error {
	ip, err := program("ip")
	if err != nil {
		return err
	}
	args := []string{"-batch", "-"}
	if namespace != "" {
		args = append([]string{"-n", namespace}, args...)
	}
	cmd := exec.CommandContext(ctx, ip, args...)
	cmd.Stdin = strings.NewReader(lines)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run ip -batch: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// cables lists the ip commands that make namespaces and veth pairs. Both ends of
// a pair are born in their namespace: none is ever seen in the caller's.
func (n *Network) cables() string {
	var b strings.Builder
	for _, h := range n.Hosts() {
		fmt.Fprintf(&b, "netns add %s\n", h.Namespace)
	}
	middle := n.Gateway
	if n.Switch != nil {
		middle = n.Switch
		b.WriteString(n.trunks(n.Gateway) + n.trunks(n.Standby))
	}
	for _, h := range n.ends() {
		fmt.Fprintf(&b, "link add port-%s netns %s type veth peer name eth0 netns %s\n",
			h.Name, middle.Namespace, h.Namespace)
	}
	return b.String()
}

// addresses lists the ip commands that set up one namespace.
func (n *Network) addresses(h *Host, o Options) string {
	switch {
	case h == n.Switch:
		return n.bridges() + n.plugs(n.Gateway) + n.plugs(n.Standby) + fmt.Sprintf("addr add %v/24 dev lan\n", SwitchAddr)
	case n.Switch != nil && slices.Contains(n.gateways(), h):
		return n.trunkAddresses(h)
	case h == n.Gateway:
		return n.gatewayAddresses(o)
	}
	if LAN.Contains(h.Addr) {
		return hostAddresses(h, LAN) + fmt.Sprintf("route add default via %v\n", GatewayInside)
	}
	if o.routed() {
		return hostAddresses(h, WAN) + fmt.Sprintf("route add %v via %v\n", LAN, GatewayPublic)
	}
	return hostAddresses(h, WAN)
}

func hostAddresses(h *Host, net netip.Prefix) string {
	return fmt.Sprintf("link set lo up\nlink set eth0 up\naddr add %v/%d dev eth0\n", h.Addr, net.Bits())
}

// bridges lists the ip commands that make two bridges of the hosts' ports.
func (n *Network) bridges() string {
	var b strings.Builder
	b.WriteString("link set lo up\nlink add lan type bridge\nlink add wan type bridge\n")
	for _, h := range n.Inside {
		fmt.Fprintf(&b, "link set port-%s master lan up\n", h.Name)
	}
	for _, h := range n.Outside {
		fmt.Fprintf(&b, "link set port-%s master wan up\n", h.Name)
	}
	b.WriteString("link set lan up\nlink set wan up\n")
	return b.String()
}

func (n *Network) gatewayAddresses(o Options) string {
	var b strings.Builder
	b.WriteString(n.bridges())
	fmt.Fprintf(&b, "addr add %v/24 dev lan\n", GatewayInside)
	for _, a := range n.publicAddresses(o) {
		fmt.Fprintf(&b, "addr add %v/24 dev wan\n", a)
	}
	return b.String()
}

// publicAddresses lists the gateway's WAN addresses, each once.
func (n *Network) publicAddresses(o Options) []netip.Addr {
	all := []netip.Addr{GatewayPublic}
	if o.DNAT != NoDNAT {
		for i := range n.Inside {
			all = append(all, PublicOf(i))
		}
	}
	if o.SNAT.IsValid() && !slices.Contains(all, o.SNAT) {
		all = append(all, o.SNAT)
	}
	return all
}

// tuneGateway makes it a router.
func tuneGateway(g *Host) error {
	settings := [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.conf.lan.rp_filter", "0"},
		{"net.ipv4.conf.wan.rp_filter", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.lan.send_redirects", "0"},
		{"net.ipv4.conf.wan.send_redirects", "0"},
	}
	for _, s := range settings {
		if err := g.SetSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return bridgeOnly(g)
}

// bridgeOnly keeps bridged packets from iptables: a host talks to its neighbour as if a switch
// stood between them.
func bridgeOnly(h *Host) error {
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		return nil // there is nothing to keep them from
	}
	return h.SetSysctl("net.bridge.bridge-nf-call-iptables", "0")
}

// firewall writes the gateway's rules as iptables-restore reads them. The first
// rule has no target: it is there because the kernel tracks connections only in
// a namespace where some rule asks for it.
func firewall(o Options, inside int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*filter\n:FORWARD %s [0:0]\n-A FORWARD -m conntrack --ctstate INVALID\n", policy(o))
	if o.Firewall {
		b.WriteString("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -i lan -o wan -j ACCEPT\n")
	}
	if o.Firewall && o.DNAT != NoDNAT {
		b.WriteString("-A FORWARD -p tcp --dport 1723 -m conntrack --ctstate DNAT -j ACCEPT\n")
	}
	b.WriteString("COMMIT\n*nat\n")
	for i := range inside {
		b.WriteString(dnatRule(o.DNAT, i))
	}
	b.WriteString(snatRules(o))
	b.WriteString("COMMIT\n")
	return b.String()
}

func policy(o Options) string {
	if o.Firewall {
		return "DROP"
	}
	return "ACCEPT"
}

func dnatRule(d DNAT, i int) string {
	match := map[DNAT]string{DNATAddress: "", DNATControl: " -p tcp --dport 1723"}
	m, ok := match[d]
	if !ok {
		return ""
	}
	return fmt.Sprintf("-A PREROUTING -d %v%s -j DNAT --to-destination %v\n", PublicOf(i), m, nth(LAN, 10+i))
}

func snatRules(o Options) string {
	var b strings.Builder
	if o.SNAT.IsValid() {
		fmt.Fprintf(&b, "-A POSTROUTING -s %v -o wan -j SNAT --to-source %v\n", LAN, o.SNAT)
	} else if o.Masquerade {
		fmt.Fprintf(&b, "-A POSTROUTING -s %v -o wan -j MASQUERADE\n", LAN)
	}
	if o.Hairpin {
		fmt.Fprintf(&b, "-A POSTROUTING -s %v -o lan -j SNAT --to-source %v\n", LAN, GatewayPublic)
	}
	return b.String()
}
