package nft

import (
	"testing"

	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

// What others put before the rules that accept the calls' GRE counts if it may take a packet of
// theirs. Then the rules are not present, and Load puts them first again.
func TestKernelOpensFirst(t *testing.T) {
	trial.NeedRoot(t)
	const set = "nft 'add set inet own s { type inet_proto; elements = { tcp, gre }; }'; "
	tests := []struct {
		name, script string
		present      bool
	}{
		{"drops GRE", "iptables-nft -I FORWARD -p gre -j DROP", false},
		{"drops an interface", "iptables-nft -I FORWARD -i eth7 -j DROP", false},
		{"between both", "iptables-nft -I FORWARD 2 -p gre -j DROP", false},
		{"rejects all", "iptables-nft -I FORWARD -j REJECT", false},
		{"another program's queue", "iptables-nft -I FORWARD -j NFQUEUE", false},
		{"a chain", "iptables-nft -N fw; iptables-nft -I FORWARD -j fw", false},
		{"goes to a chain", "iptables-nft -N fw; iptables-nft -I FORWARD -g fw", false},
		{"returns to the policy", "iptables-nft -I FORWARD -j RETURN", false},
		{"drops errors", "iptables-nft -I FORWARD -p icmp -j DROP", false},
		{"drops all but TCP", "iptables-nft -I FORWARD ! -p tcp -j DROP", false},
		{"moved behind", `iptables-nft-save -t filter | awk '/pptpalg/ {ours = ours $0 "\n"; next} /^COMMIT/ {printf "-A FORWARD -p gre -j DROP\n%s", ours} {print}' | iptables-nft-restore`, false},
		{"drops UDP", "iptables-nft -I FORWARD -p udp -j DROP", true},
		{"a chain for TCP", "iptables-nft -N f2b; iptables-nft -I FORWARD -p tcp -m multiport --dports 22 -j f2b", true},
		{"accepts", "iptables-nft -I FORWARD -i eth7 -j ACCEPT", true},
		{"counts", "iptables-nft -I FORWARD -p gre", true},
		{"logs", "iptables-nft -I FORWARD -p gre -j LOG", true},
		{"drops behind", "iptables-nft -A FORWARD -p gre -j DROP", true},
		{"nft drops GRE", "nft insert rule inet own forward meta l4proto gre drop", false},
		{"nft drops GRE of IPv4", "nft insert rule inet own forward ip protocol gre drop", false},
		{"nft drops by a map", "nft 'insert rule inet own forward meta l4proto vmap { gre : drop }'", false},
		{"nft drops by a set", set + "nft insert rule inet own forward meta l4proto @s drop", false},
		{"nft rejects", "nft insert rule inet own forward reject", false},
		{"nft drops TCP", "nft insert rule inet own forward tcp dport 22 drop", true},
		{"nft drops IPv6", "nft insert rule inet own forward ip6 saddr fe80::/10 drop", true},
		{"nft counts", "nft insert rule inet own forward counter", true},
	}
	cfg := rules.Config{Queue: 1723, Ports: []uint16{1723}, Data: rules.Data{Queue: 1724, Queues: 2, Mark: rules.DefaultMark}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := trial.NewNamespace(t)
			b := in(t, ns)
			ns.Run(t, ownFirewall, "nft", "-f", "-")
			ns.Run(t, "*filter\n:FORWARD DROP\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n", "iptables-nft-restore")
			load := func() {
				if _, err := b.Load(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
				present(t, b, cfg, true)
			}
			load()
			ns.Run(t, "", "sh", "-ec", tt.script)
			present(t, b, cfg, tt.present)
			load()
			have, err := b.opened()
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []string{"1 own forward", "2 filter FORWARD"} {
				if !have[at].good() {
					t.Errorf("chain %s has %+v", at, have[at])
				}
			}
		})
	}
}
