package check

import (
	"strings"
	"testing"

	"pptpalg/rules/choice"
)

// TestPreceded: the daemon's rules for GRE are loaded, and then somebody puts others before or
// behind them.
func TestPreceded(t *testing.T) {
	const drop = "-p gre -j DROP"
	both := []string{choice.IPTables, choice.NFT}
	tests := []struct {
		name, script string
		loaders      []string
		want         Result
		found        string
		remedy       string // how it begins
	}{
		{"nothing", "true", both, OK, "", ""},
		{"behind in filter", "iptables -A FORWARD " + drop, both, OK, "", ""},
		{"before in filter", "iptables -I FORWARD " + drop, both, Problem, "iptables filter: -A FORWARD -p gre -j DROP drops GRE", "iptables -I FORWARD"},
		{"before in filter, one way", "iptables -I FORWARD -o lan " + drop, both, Problem, "drops GRE from wan to lan", "iptables -I FORWARD"},
		{"a chain before in filter", "iptables -N fw; iptables -I FORWARD -j fw; iptables -A fw " + drop, both, Problem, "-A fw -p gre", "iptables -I FORWARD"},
		{"accepted before in filter", "iptables -I FORWARD -p gre -j ACCEPT", both, OK, "", ""},
		{"mangle FORWARD", "iptables -t mangle -I FORWARD " + drop, both, Problem, "iptables mangle: -A FORWARD", "iptables -t mangle -I FORWARD"},
		{"mangle FORWARD by its policy", "iptables -t mangle -A FORWARD -p tcp -j ACCEPT; iptables -t mangle -P FORWARD DROP", both, Problem, "the policy of iptables mangle FORWARD", "iptables -t mangle -I FORWARD"},
		{"mangle POSTROUTING", "iptables -t mangle -I POSTROUTING " + drop, both, Problem, "iptables mangle: -A POSTROUTING", "iptables -t mangle -D POSTROUTING"},
		{"mangle PREROUTING", "iptables -t mangle -I PREROUTING " + drop, both, Problem, "iptables mangle: -A PREROUTING", "iptables -t mangle"},
		{"before in raw", "iptables -t raw -I PREROUTING " + drop, both, Problem, "iptables raw: -A PREROUTING", "iptables -t raw -D PREROUTING"},
		{"behind in raw", "iptables -t raw -A PREROUTING " + drop, both[:1], OK, "", ""},
		{"behind in raw, where an accept ends but its table", "iptables -t raw -A PREROUTING " + drop, both[1:], Problem, "iptables raw: -A PREROUTING", "iptables -t raw -D PREROUTING"},
		{"an earlier chain of nft", strings.ReplaceAll(nftForward, "priority 0", "priority -10") + "nft insert rule inet fw f ip protocol gre drop", both[:1], Problem, "nft inet fw f", "nft 'insert rule inet fw f"},
		{"an earlier chain of nft that is going to be opened", strings.ReplaceAll(nftForward, "priority 0", "priority -10") + "nft insert rule inet fw f ip protocol gre drop", both[1:], OK, "", ""},
		{"an earlier chain of nft that is not opened", strings.ReplaceAll(nftForward, "priority 0", "priority -160") + "nft insert rule inet fw f ip protocol gre drop", both, Problem, "nft inet fw f", "nft 'insert rule inet fw f"},
		{"a chain of nft that sees what leaves", "nft add table ip n; nft 'add chain ip n c { type filter hook postrouting priority 0; }'; nft add rule ip n c ip protocol gre drop", both, Problem, "nft ip n c", "nft 'insert rule ip n c"},
		{"a chain of a device", "nft add table netdev n; nft 'add chain netdev n i { type filter hook ingress device \"wan\" priority 0; }'; nft add rule netdev n i ip protocol gre drop", both, Problem, "nft netdev n i", "nft 'insert rule netdev n i"},
	}
	for _, tt := range tests {
		for _, loader := range tt.loaders {
			t.Run(tt.name+" by "+loader, func(t *testing.T) {
				p := gateway(t)
				change := queuingBy(loader)
				loaded := config(t, change)
				do(t, p, func() error {
					_, err := choice.New(loader).Load(t.Context(), loaded.Rules)
					return err
				})
				sh(t, p, tt.script)
				f := findIn(t, p, "firewall-gre", answering(t), change)
				wants(t, f, tt.want, tt.found)
				if !strings.HasPrefix(f.Remedy, tt.remedy) {
					t.Errorf("the remedy is %q, want %s…", f.Remedy, tt.remedy)
				}
				if f.Result == Problem {
					mend(t, p, f, change)
				}
			})
		}
	}
}
