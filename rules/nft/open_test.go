package nft

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

const ownFirewall = `table inet own {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established accept
	}
	chain marking {
		type filter hook forward priority mangle; policy accept;
	}
	chain other {
		meta l4proto tcp drop
	}
}
`

// The firewall's own chains, of nftables and of iptables-nft, accept the calls' GRE while the
// rules are loaded, and are afterwards what they were.
func TestKernelOpens(t *testing.T) {
	trial.NeedRoot(t)
	ns := trial.NewNamespace(t)
	b := in(t, ns)
	ns.Run(t, ownFirewall, "nft", "-f", "-")
	ns.Run(t, "*filter\n:FORWARD DROP\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n", "iptables-nft-restore")
	before := ns.Run(t, "", "nft", "list", "ruleset")
	cfg := rules.Config{Queue: 1723, Ports: []uint16{1723}, Data: rules.Data{Queue: 1724, Queues: 2, Mark: rules.DefaultMark}}
	for range 2 {
		if _, err := b.Load(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		present(t, b, cfg, true)
	}
	want := "-P FORWARD DROP\n" +
		"-A FORWARD -p icmp -m conntrack --ctstate UNTRACKED -m comment --comment \"pptpalg: GRE of calls\" -j ACCEPT\n" +
		"-A FORWARD -p gre -m conntrack --ctstate UNTRACKED -m comment --comment \"pptpalg: GRE of calls\" -j ACCEPT\n" +
		"-A FORWARD -p udp -j ACCEPT\n"
	if diff := cmp.Diff(want, strings.ReplaceAll(ns.Run(t, "", "iptables-nft", "-S", "FORWARD"), "-p 47", "-p gre")); diff != "" {
		t.Errorf("iptables-nft lists (-want +got):\n%s", diff)
	}
	own := ns.Run(t, "", "nft", "list", "table", "inet", "own")
	if strings.Count(own, OpenerComment) != 2 || !strings.Contains(own, "meta nfproto ipv4 meta l4proto gre ct state untracked accept") {
		t.Errorf("nft lists:\n%s", own)
	}
	ns.Run(t, "", "iptables-nft", "-F", "FORWARD")
	present(t, b, cfg, false)
	if _, err := b.Load(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	present(t, b, cfg, true)
	ns.Run(t, "", "iptables-nft", "-A", "FORWARD", "-p", "udp", "-j", "ACCEPT")

	cfg.Data = rules.Data{}
	if _, err := b.Load(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if text := ns.Run(t, "", "nft", "list", "ruleset"); strings.Contains(text, OpenerComment) {
		t.Errorf("left behind when it is not wanted any more:\n%s", text)
	}
	if err := b.Unload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, ns.Run(t, "", "nft", "list", "ruleset")); diff != "" {
		t.Errorf("unloaded (-before +after):\n%s", diff)
	}
}

func present(t *testing.T, b *Backend, cfg rules.Config, want bool) {
	t.Helper()
	if got, err := b.Present(t.Context(), cfg); got != want || err != nil {
		t.Errorf("Present = %v, %v, want %v", got, err, want)
	}
}
