package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/internal/netns"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/rules"
	"pptpalg/rules/choice"
	"pptpalg/rules/iptables"
)

// scripts stand for what would change the daemon's configuration, and load its rules.
var scripts = map[string]string{
	"set-key":    "#!/bin/sh\necho \"$1 $2\" >> $SETTINGS\n",
	"load-rules": "#!/bin/sh\niptables-save -t mangle | grep -v PPTPALG | iptables-restore\niptables-restore --noflush < $RULES\n",
}

// config is that of a daemon that does not run, but for change and what remedies have set.
func config(t testing.TB, change ...func(*Config)) Config {
	t.Helper()
	cfg := Config{
		Rules:    rules.Config{Queue: 1723, Ports: []uint16{1723}, Data: rules.Data{Queue: 1724, Queues: 2, Mark: rules.DefaultMark}},
		DataPath: "auto", Loader: choice.Auto, StateDir: t.TempDir(),
		Set: func(key, value string) string { return "set-key " + key + " " + shell(value) }, Load: "load-rules",
	}
	for _, c := range change {
		if c != nil {
			c(&cfg)
		}
	}
	text, err := os.ReadFile(os.Getenv("SETTINGS"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		setKey(t, &cfg, key, value)
	}
	loaded := cfg.Rules
	loaded.Data = rules.Data{}
	if err := os.WriteFile(os.Getenv("RULES"), []byte(iptables.Text(loaded)), 0o644); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func setKey(t testing.TB, cfg *Config, key, value string) {
	t.Helper()
	switch key {
	case "queue":
		cfg.Rules.Queue = port(value, 0)
	case "gre-queue":
		cfg.Rules.Data.Queue = port(value, 0)
	case "ports":
		cfg.Rules.Ports = nil
		for _, p := range strings.Split(value, ",") {
			cfg.Rules.Ports = append(cfg.Rules.Ports, port(p, 0))
		}
	case "datapath":
		cfg.DataPath = value
	case "listen":
		cfg.Listen = value
	default:
		t.Fatalf("no key %s", key)
	}
}

// findIn carries out one check in a namespace, for the daemon of config.
func findIn(t *testing.T, p *netns.Place, name string, change ...func(*Config)) Finding {
	t.Helper()
	all := slices.Concat(checks, clusterChecks)
	i := slices.IndexFunc(all, func(c check) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("no check %s", name)
	}
	cfg := config(t, change...)
	var f Finding
	do(t, p, func() error {
		r := newReader(t.Context(), cfg)
		defer r.close()
		f = all[i].find(r)
		return nil
	})
	return f
}

func do(t testing.TB, p *netns.Place, f func() error) {
	t.Helper()
	if err := p.Do(f); err != nil {
		t.Fatal(err)
	}
}

// bare makes a namespace with a network inside and one outside, and no rules.
func bare(t testing.TB) *netns.Place {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("SETTINGS", filepath.Join(dir, "settings"))
	t.Setenv("RULES", filepath.Join(dir, "rules"))
	p, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	sh(t, p, `ip link set lo up
ip link add lan type bridge; ip addr add 10.0.0.1/24 dev lan; ip link set lan up
ip link add wan type bridge; ip addr add 203.0.113.1/24 dev wan; ip link set wan up
ip route add default via 203.0.113.2
sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_acct=1
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan.rp_filter=0 net.ipv4.conf.wan.rp_filter=0`)
	return p
}

// gateway makes a namespace that is one: it forwards, masquerades, and lets through what
// begins inside.
func gateway(t testing.TB) *netns.Place {
	t.Helper()
	p := bare(t)
	sh(t, p, `iptables -t nat -A POSTROUTING -o wan -j MASQUERADE
iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP
iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A FORWARD -i lan -o wan -j ACCEPT
iptables -P FORWARD DROP`)
	return p
}

// sh runs a script in a namespace.
func sh(t testing.TB, p *netns.Place, script string) {
	t.Helper()
	do(t, p, func() error {
		_, err := command(t.Context(), "", "sh", "-ec", script)
		return err
	})
}

// wants compares a finding with what it should be.
func wants(t *testing.T, f Finding, want Result, text string) {
	t.Helper()
	hearFinding(f)
	if f.Result != want || !strings.Contains(f.Found, text) {
		t.Errorf("%s: %v: %s; want %v: …%s…", f.Check, f.Result, f.Found, want, text)
	}
	if (f.Remedy == "") != (f.Result == OK) {
		t.Errorf("%s: %v with remedy %q", f.Check, f.Result, f.Remedy)
	}
	if f.Result == Problem {
		wantsCommand(t, f)
	}
}

// mend carries out remedies until the check has nothing more to say: behind what is mended
// there may stand another thing.
func mend(t *testing.T, p *netns.Place, f Finding, change ...func(*Config)) {
	t.Helper()
	first := f
	for range 4 {
		sh(t, p, f.Remedy)
		if f = findIn(t, p, first.Check, change...); f.Result == OK {
			if first.Result == Problem {
				hear(&heard.mended, first.form)
			}
			return
		}
		hearFinding(f)
	}
	t.Errorf("%s: not mended by %q: %v: %s", first.Check, first.Remedy, f.Result, f.Found)
}

// TestGateway: nothing is wrong with a gateway that has nothing wrong but that the daemon
// does not run yet.
func TestGateway(t *testing.T) {
	p := gateway(t)
	cfg := config(t)
	var all Findings
	do(t, p, func() error {
		all = Run(t.Context(), cfg)
		return nil
	})
	for _, f := range all {
		if f.Check == "daemon" {
			wants(t, f, Warning, "no daemon is running")
		} else {
			wants(t, f, OK, "")
		}
	}
	if all.Code() != 0 {
		t.Errorf("exit code %d", all.Code())
	}
}

// BenchmarkManyWays checks a gateway with many ways and rules, which should take less than two
// seconds.
func BenchmarkManyWays(b *testing.B) {
	p := gateway(b)
	sh(b, p, secondWAN+`for i in $(seq 10); do
ip link add net$i type bridge; ip addr add 10.20.$i.1/24 dev net$i; ip link set net$i up; done
{ echo '*filter'; for i in $(seq 250); do echo "-A FORWARD -s 10.20.0.$((i%250)) -p tcp --dport $((2000+i)) -m mark --mark $i -j DROP"; done; echo COMMIT
echo '*nat'; for i in $(seq 20); do echo "-A PREROUTING -d 203.0.113.1 -p tcp --dport $((3000+i)) -j DNAT --to 10.0.0.$i:80"; done; echo COMMIT; } | iptables-restore --noflush`)
	cfg := config(b, withPorts(1723, 1724))
	do(b, p, func() error {
		for b.Loop() {
			if _, err := newReader(b.Context(), cfg).firewall(); err != nil {
				return err
			}
		}
		return nil
	})
}

// row breaks a gateway, and says what is found. A problem's remedy has to mend it, a
// warning's where mends says so.
type row struct {
	name   string
	script string
	check  string
	want   Result
	found  string
	mends  bool
	change func(*Config)
}

func (tt row) run(t *testing.T, p *netns.Place) {
	t.Helper()
	sh(t, p, tt.script)
	f := findIn(t, p, tt.check, tt.change)
	wants(t, f, tt.want, tt.found)
	if f.Result == Problem || tt.mends {
		mend(t, p, f, tt.change)
	}
}

const (
	nftForward = "nft add table inet fw; nft 'add chain inet fw f { type filter hook forward priority 0; }'; "
	nftNAT     = "nft add table ip n; nft 'add chain ip n pre { type nat hook prerouting priority -100; }'; nft 'add chain ip n post { type nat hook postrouting priority 100; }'; "
	published  = "iptables -A FORWARD -i wan -m conntrack --ctstate DNAT -j ACCEPT; "
	secondWAN  = "ip link add wan2 type bridge; ip addr add 192.0.2.1/24 dev wan2; ip link set wan2 up; ip route add default via 192.0.2.2 table 102; ip rule add fwmark 2 lookup 102; iptables -t nat -A POSTROUTING -o wan2 -j MASQUERADE; iptables -A FORWARD -i lan -o wan2 -j ACCEPT; "
	unreadable = "nft add table ip mangle; nft 'add chain ip mangle PREROUTING { type filter hook prerouting priority -150; }'; nft add rule ip mangle PREROUTING iifname lan meta mark set 5; "
	ownRules   = "iptables -t mangle -N PPTPALG; iptables -t mangle -A PPTPALG -p tcp -m conntrack --ctorigdstport 1723 -j NFQUEUE --queue-num 1723 --queue-bypass; for c in PREROUTING OUTPUT; do iptables -t mangle -A $c -p tcp -j PPTPALG; done; "
)

func withPorts(all ...uint16) func(*Config) { return func(c *Config) { c.Rules.Ports = all } }

// by has the rules loaded by one of rules/choice.
func by(loader string) func(*Config) { return func(c *Config) { c.Loader = loader } }

var byIPTables = by(choice.IPTables)

func queuing(c *Config) { c.DataPath = "queue" }

func queuingBy(loader string) func(*Config) {
	return func(c *Config) { c.DataPath, c.Loader = "queue", loader }
}

func unmarked(c *Config) {
	c.DataPath = "queue"
	c.Rules.Data.Mark = 0
}

// TestFindings breaks a gateway, wants the finding, and that the remedy mends it.
func TestFindings(t *testing.T) {
	tests := []row{
		{"no forwarding", "sysctl -qw net.ipv4.ip_forward=0", "ip-forward", Problem, "ip_forward is 0", false, nil},
		{"one interface does not forward", "sysctl -qw net.ipv4.conf.lan.forwarding=0", "ip-forward", Problem, "packets that arrive on lan", false, nil},
		{"the interfaces alone forward", "sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.lan.forwarding=1 net.ipv4.conf.wan.forwarding=1", "ip-forward", OK, "from lan to wan", false, nil},
		{"a third interface does not forward", "ip link add dmz type bridge; ip addr add 10.5.0.1/24 dev dmz; ip link set dmz up; sysctl -qw net.ipv4.conf.dmz.forwarding=0", "ip-forward", OK, "", false, nil},
		{"no accounting", "sysctl -qw net.netfilter.nf_conntrack_acct=0", "accounting", Warning, "acct is 0", true, nil},

		{"no NAT", "iptables -t nat -F", "nat", Problem, "no rule translates", false, nil},
		{"no NAT, and no default route", "iptables -t nat -F; ip route del default", "nat", Problem, "no rule translates", false, nil},
		{"no NAT, and nothing says what is outside", "iptables -t nat -F; ip route del default; ip addr flush dev wan; ip addr add 192.168.1.2/24 dev wan", "nat", Warning, "no default route", false, nil},
		{"no NAT, and public addresses inside", "iptables -t nat -F; ip addr flush dev lan; ip addr add 198.51.100.1/24 dev lan", "nat", OK, "are public", false, nil},
		{"no NAT, in a private network", "iptables -t nat -F; ip addr flush dev wan; ip addr add 192.168.1.2/24 dev wan; ip route replace default via 192.168.1.1", "nat", Warning, "another gateway must", false, nil},
		{"no NAT, behind NAT64", "iptables -t nat -F; ip link add nat64 type bridge; ip link set nat64 up; ip route replace default dev nat64", "nat", Warning, "NAT64", false, nil},
		{"a server behind", "iptables -t nat -F; iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "nat", OK, "destinations", false, nil},
		{"NAT to an address of nobody", "iptables -t nat -F; iptables -t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.77", "nat", Warning, "does not have that address, so nothing answers for it on wan", true, nil},
		{"NAT to addresses of nobody", "iptables -t nat -F; iptables -t nat -A POSTROUTING -o wan -p tcp -j SNAT --to-source 203.0.113.77-203.0.113.79:1024-65535", "nat", Warning, "translated to 203.0.113.77", true, nil},
		{"NAT to an address of nobody by nft", "iptables -t nat -F; " + nftNAT + "nft add rule ip n post oifname wan tcp dport 1723 snat to 203.0.113.77:1024-2048", "nat", Warning, "translated to 203.0.113.77 by nft ip n post", true, nil},
		{"NAT to an address of its own", "iptables -t nat -F; iptables -t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.1", "nat", OK, "--to-source", false, nil},
		{"NAT to an address that is routed here", "iptables -t nat -F; iptables -t nat -A POSTROUTING -o wan -j SNAT --to-source 198.51.100.77", "nat", OK, "--to-source", false, nil},
		{"NAT by nft", "iptables -t nat -F; " + nftNAT + "nft add rule ip n post oifname wan masquerade", "nat", OK, "nft ip n post", false, nil},
		{"NAT of TCP alone", "iptables -t nat -F; iptables -t nat -A POSTROUTING -o wan -p tcp -j MASQUERADE", "nat", OK, "", false, nil},
		{"NAT of TCP alone, and the daemon translates", "iptables -t nat -F; iptables -t nat -A POSTROUTING -o wan -p tcp -j MASQUERADE", "nat", OK, "", false, queuing},

		{"another port is published", "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1724 -j DNAT --to 10.0.0.5:1723", "ports", Problem, "TCP port 1724 is forwarded to 10.0.0.5:1723", false, nil},
		{"another port is published in a chain", "iptables -t nat -N fw; iptables -t nat -A PREROUTING -i wan -p tcp -m multiport --dports 1724,8080 -j fw; iptables -t nat -A fw -p tcp --dport 1724 -j DNAT --to 10.0.0.5:1723", "ports", Problem, "TCP port 1724", false, nil},
		{"another port is published by nft", nftNAT + "nft 'add rule ip n pre ip daddr 203.0.113.1 tcp dport 1724 dnat to 10.0.0.5:1723'", "ports", Problem, "TCP port 1724 is forwarded to 10.0.0.5:1723", false, nil},
		{"another port is published by a map", nftNAT + "nft 'add map ip n servers { type inet_service : ipv4_addr . inet_service; elements = { 1723 : 10.0.0.5 . 1723, 1724 : 10.0.0.6 . 1723 }; }'; nft 'add rule ip n pre iifname wan dnat ip to tcp dport map @servers'", "ports", Problem, "TCP port 1724 is forwarded to 10.0.0.6:1723", false, nil},
		{"the web is published", "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 80 -j DNAT --to 10.0.0.5:8080", "ports", OK, "", false, nil},
		{"a port is published and known", "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1724 -j DNAT --to 10.0.0.5:1723", "ports", OK, "", false, withPorts(1723, 1724)},
		{"the standard port is none of them", "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "ports", Problem, "TCP port 1723 is forwarded to 10.0.0.5", false, withPorts(1724)},
		{"everything is published", "iptables -t nat -A PREROUTING -d 203.0.113.1 -j DNAT --to 10.0.0.5", "ports", OK, "", false, nil},

		{"policy drops control", "iptables -F FORWARD", "firewall-control", Problem, "the policy of iptables filter FORWARD drops TCP to port 1723 from lan to wan", false, nil},
		{"policy drops answers", "iptables -F FORWARD; iptables -A FORWARD -p tcp --dport 1723 -j ACCEPT", "firewall-control", Problem, "drops TCP from port 1723", false, nil},
		{"rule rejects control", "iptables -I FORWARD -p tcp -m multiport --dports 80,1720:1730 -j REJECT", "firewall-control", Problem, "--dports 80,1720:1730", false, nil},
		{"rule drops control of one network", "iptables -I FORWARD -s 10.0.0.128/25 -p tcp --dport 1723 -j DROP", "firewall-control", Warning, "-s 10.0.0.128/25", true, nil},
		{"rule drops control of another network", "iptables -I FORWARD -s 10.1.0.0/16 -p tcp --dport 1723 -j DROP", "firewall-control", OK, "", false, nil},
		{"another port", "iptables -I FORWARD -p tcp --dport 1724 -j DROP", "firewall-control", OK, "", false, nil},
		{"chain of a firewall", "iptables -N fw; iptables -I FORWARD -i lan -j fw; iptables -A fw -p tcp --dport 1723 -j DROP", "firewall-control", Problem, "-A fw", false, nil},
		{"accepts a set alone", "iptables -F FORWARD; iptables -A FORWARD -m mark --mark 1 -j ACCEPT", "firewall-control", Warning, "this check cannot evaluate", true, nil},
		{"perhaps goes back before the drop", "iptables -N fw; iptables -I FORWARD -j fw; iptables -A fw -m mark --mark 1 -j RETURN; iptables -A fw -j DROP", "firewall-control", Warning, "this check cannot evaluate", true, nil},
		{"table mangle drops control", "iptables -t mangle -A PREROUTING -p tcp --dport 1723 -j DROP", "firewall-control", Problem, "iptables mangle", false, nil},
		{"policy of table mangle", "iptables -t mangle -P PREROUTING DROP", "firewall-control", Problem, "the policy of iptables mangle PREROUTING", false, nil},
		{"nft policy drops control", nftForward + "nft 'chain inet fw f { policy drop; }'; nft add rule inet fw f ct state established accept", "firewall-control", Problem, "the policy of nft inet fw f", false, nil},
		{"nft drops what arrives", "nft add table netdev n; nft 'add chain netdev n i { type filter hook ingress device \"lan\" priority 0; }'; nft add rule netdev n i tcp dport 1723 drop", "firewall-control", Problem, "nft netdev n i", false, nil},
		{"nft drops before conntrack", "nft add table ip n; nft 'add chain ip n c { type filter hook prerouting priority -300; }'; nft add rule ip n c tcp dport 1723 drop", "firewall-control", Problem, "nft ip n c", false, nil},
		{"nft drops behind DNAT", "nft add table ip n; nft 'add chain ip n c { type filter hook prerouting priority 0; }'; nft add rule ip n c tcp dport 1723 drop", "firewall-control", Problem, "nft ip n c", false, nil},
		{"a dormant table", "nft 'add table ip n { flags dormant; }'; nft 'add chain ip n c { type filter hook forward priority 0; policy drop; }'", "firewall-control", OK, "", false, nil},
		{"a program that is not there", "iptables -I FORWARD -j NFQUEUE --queue-num 7", "firewall-control", Problem, "--queue-num 7", false, nil},
		{"a program that may be missing", "iptables -I FORWARD -j NFQUEUE --queue-num 7 --queue-bypass", "firewall-control", OK, "", false, nil},

		{"server's port is closed", "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "firewall-control", Problem, "TCP to port 1723 from wan to lan", false, nil},
		{"server's port is open", published + "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "firewall-control", OK, "", false, nil},
		{"server alone", "iptables -F FORWARD; iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT; " + published + "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "firewall-control", OK, "closed: port 1723 from lan to wan", false, nil},
		{"another port to the server's", "iptables -A FORWARD -i wan -p tcp --dport 1723 -j ACCEPT; iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1724 -j DNAT --to 10.0.0.5:1723", "firewall-control", OK, "", false, withPorts(1723, 1724)},
		{"another port to the server's, and the wrong one is open", "iptables -A FORWARD -i wan -p tcp --dport 1724 -j ACCEPT; iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1724 -j DNAT --to 10.0.0.5:1723", "firewall-control", Problem, "TCP to port 1723 from wan to lan", false, withPorts(1723, 1724)},
		{"the port to the server's other one", "iptables -A FORWARD -i wan -p tcp --dport 1724 -j ACCEPT; iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5:1724", "firewall-control", OK, "", false, nil},
		{"server on the gateway itself", "iptables -t nat -A PREROUTING -d 203.0.113.9 -p tcp --dport 1723 -j DNAT --to 203.0.113.1", "firewall-control", OK, "", false, nil},
		{"server for another network inside", "ip link add vpn type bridge; ip addr add 10.7.0.1/24 dev vpn; ip link set vpn up; iptables -A FORWARD -i vpn -o lan -j ACCEPT; iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "firewall-control", Warning, "from wan to lan", true, nil},
		{"only containers come through", "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up; iptables -D FORWARD -i lan -o wan -j ACCEPT; iptables -A FORWARD -i docker0 -j ACCEPT", "firewall-control", Warning, "from lan to wan", true, nil},
		{"guests do not come through", "ip link add guest type bridge; ip addr add 10.6.0.1/24 dev guest; ip link set guest up", "firewall-control", OK, "closed: port 1723 from guest to wan", false, nil},

		{"nft drops GRE by map", nftForward + "nft 'add rule inet fw f meta l4proto vmap { gre : drop, tcp : accept }'", "firewall-gre", Problem, "nft inet fw f: rule with handle", false, nil},
		{"nft drops GRE by a named map", nftForward + "nft 'add map inet fw m { type inet_proto : verdict; elements = { gre : drop, tcp : accept }; }'; nft 'add rule inet fw f meta l4proto vmap @m'", "firewall-gre", Problem, "nft inet fw f: rule with handle", false, nil},
		{"nft drops GRE", nftForward + "nft add rule inet fw f ip protocol gre drop", "firewall-gre", Problem, "nft inet fw f", false, nil},
		{"nft drops GRE of a set", nftForward + "nft 'add set inet fw s { type inet_proto; elements = { gre, esp }; }'; nft add rule inet fw f meta l4proto @s drop", "firewall-gre", Problem, "nft inet fw f", false, nil},
		{"nft drops GRE of another set", nftForward + "nft 'add set inet fw s { type inet_proto; elements = { ah, esp }; }'; nft add rule inet fw f meta l4proto @s drop", "firewall-gre", OK, "", false, nil},
		{"nft accepts by map", nftForward + "nft 'chain inet fw f { policy drop; }'; nft 'add rule inet fw f ct state vmap { established : accept, related : accept, invalid : drop }'", "firewall-gre", OK, "", false, nil},
		{"nft accepts what leaves by map", nftForward + "nft 'chain inet fw f { policy drop; }'; nft 'add rule inet fw f ct state established accept'; nft 'add rule inet fw f iifname . oifname vmap { lan . wan : accept }'", "firewall-control", OK, "", false, nil},
		{"rule drops GRE", "iptables -I FORWARD -p gre -j DROP", "firewall-gre", Problem, "iptables filter: -A FORWARD -p gre -j DROP", false, nil},
		{"policy drops GRE", "iptables -F FORWARD; iptables -A FORWARD -p tcp -j ACCEPT", "firewall-gre", Problem, "the policy", false, nil},
		{"GRE one way", "iptables -F FORWARD; iptables -A FORWARD -i lan -o wan -j ACCEPT", "firewall-gre", Problem, "from wan to lan", false, nil},
		{"GRE dropped on one side", "iptables -I FORWARD -i wan -p gre -j DROP", "firewall-gre", Problem, "drops GRE from wan to lan", false, nil},
		{"GRE of one network", "iptables -I FORWARD -d 10.0.0.128/25 -p gre -j DROP", "firewall-gre", Warning, "may drop GRE", true, nil},
		{"GRE accepted by a mark", "iptables -F FORWARD; iptables -A FORWARD -p tcp -j ACCEPT; iptables -A FORWARD -m mark --mark 1 -j ACCEPT", "firewall-gre", Warning, "this check cannot evaluate", true, nil},
		{"bogons dropped", "iptables -I FORWARD -i wan -s 10.0.0.0/8 -j DROP; iptables -I FORWARD -i wan -s 192.168.0.0/16 -j DROP", "firewall-gre", OK, "", false, nil},
		{"GRE for one of two networks", "ip link add dmz type bridge; ip addr add 10.5.0.1/24 dev dmz; ip link set dmz up; iptables -I FORWARD -i dmz -p gre -j DROP; iptables -I FORWARD -i dmz -o wan -p tcp -j ACCEPT", "firewall-gre", Warning, "drops GRE from dmz to wan", true, nil},
		{"our own GRE rules will come", "iptables -F FORWARD; iptables -A FORWARD -p tcp -j ACCEPT", "firewall-gre", OK, "", false, queuing},
		{"nft before our own GRE rules", nftForward + "nft 'chain inet fw f { policy drop; }'; nft add rule inet fw f ct state established accept; nft add rule inet fw f meta l4proto tcp accept", "firewall-gre", Problem, "the policy of nft inet fw f drops GRE", false, queuingBy(choice.IPTables)},
		{"our own GRE rules will come into nft's chains", nftForward + "nft 'chain inet fw f { policy drop; }'; nft add rule inet fw f ct state established accept; nft add rule inet fw f meta l4proto tcp accept", "firewall-gre", OK, "", false, queuing},
		{"nft before nft's own GRE rules", strings.ReplaceAll(nftForward, "priority 0", "priority -200") + "nft 'chain inet fw f { policy drop; }'; nft add rule inet fw f ct state established accept; nft add rule inet fw f meta l4proto tcp accept", "firewall-gre", Problem, "the policy of nft inet fw f drops GRE", false, queuing},
		{"our own GRE rules do not come into legacy's chains", "iptables-legacy -P FORWARD DROP; iptables-legacy -A FORWARD -p tcp -j ACCEPT", "firewall-gre", Problem, "the policy of iptables-legacy filter FORWARD drops GRE", false, queuingBy(choice.NFT)},
		{"our own GRE rules were left", "iptables -F FORWARD; iptables -P FORWARD ACCEPT; iptables -t raw -N PPTPALG-GRE; iptables -t raw -A PREROUTING -p gre -j PPTPALG-GRE; iptables -t raw -A PPTPALG-GRE -p gre -j NFQUEUE --queue-num 1724", "firewall-gre", OK, "", false, queuing},
		{"GRE without a mark is not tracked", "true", "firewall-gre", Problem, "drops GRE from wan to lan", false, unmarked},

		{"helper by rule", "iptables -t raw -A PREROUTING -p tcp --dport 1723 -j CT --helper pptp", "kernel-helper", Problem, "--helper pptp", false, nil},
		{"helper of another protocol", "iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp", "kernel-helper", OK, "", false, nil},
		{"helper by nft", `nft 'table ip h { ct helper pp { type "pptp" protocol tcp; }; chain c { type filter hook prerouting priority 0; tcp dport 1723 ct helper set "pp"; }; }'`, "kernel-helper", Problem, "nft ip h c", false, nil},
		{"helper by nft in forward", `nft 'table ip h { ct helper pp { type "pptp" protocol tcp; }; chain c { type filter hook forward priority 0; tcp dport 1723 ct helper set "pp"; }; }'`, "kernel-helper", Problem, "nft ip h c", false, nil},
		{"helper by nft too early", `nft 'table ip h { ct helper pp { type "pptp" protocol tcp; }; chain c { type filter hook prerouting priority -300; tcp dport 1723 ct helper set "pp"; }; }'`, "kernel-helper", OK, "", false, nil},

		{"not tracked", "iptables -t raw -A PREROUTING -p gre -j CT --notrack", "tracking", Problem, "--notrack", false, nil},
		{"GRE not tracked, and the daemon translates", "iptables -t raw -A PREROUTING -p gre -j CT --notrack", "tracking", OK, "", false, queuing},
		{"zone of TCP, and the daemon translates", "iptables -t raw -A PREROUTING -i lan -p tcp -j CT --zone 5; iptables -t raw -A PREROUTING -i wan -p tcp -j CT --zone 5", "tracking", OK, "", false, queuing},
		{"answers not tracked", "iptables -t raw -A PREROUTING -p tcp --sport 1723 -j CT --notrack", "tracking", Problem, "--notrack", false, nil},
		{"perhaps not tracked", "iptables -t raw -A PREROUTING -p tcp --dport 1723 -m mark --mark 1 -j CT --notrack", "tracking", Warning, "may keep conntrack", true, nil},
		{"not tracked by nft", "nft add table ip n; nft 'add chain ip n c { type filter hook prerouting priority -300; }'; nft add rule ip n c tcp dport 1723 notrack", "tracking", Problem, "nft ip n c", false, nil},
		{"not tracked by nft, too late", "nft add table ip n; nft 'add chain ip n c { type filter hook prerouting priority 0; }'; nft add rule ip n c tcp dport 1723 notrack", "tracking", OK, "", false, nil},
		{"zone of TCP", "iptables -t raw -A PREROUTING -i lan -p tcp -j CT --zone 5; iptables -t raw -A PREROUTING -i wan -p tcp -j CT --zone 5", "tracking", Problem, "in zone 5 and GRE from lan to wan in zone 0", false, nil},
		{"zone of GRE", "iptables -t raw -A PREROUTING -p gre -j CT --zone 5", "tracking", Problem, "in zone 0 and GRE from lan to wan in zone 5", false, nil},
		{"zone of TCP by nft", "nft add table ip n; nft 'add chain ip n c { type filter hook prerouting priority -300; }'; nft add rule ip n c meta l4proto tcp ct zone set 5", "tracking", Problem, "in zone 5 and GRE", false, nil},
		{"zone of all", "iptables -t raw -A PREROUTING -i lan -j CT --zone 5; iptables -t raw -A PREROUTING -i wan -j CT --zone 5", "tracking", OK, "", false, nil},

		{"proxy", "iptables -t nat -A PREROUTING -i lan -p tcp --dport 1723 -j REDIRECT --to-ports 3128", "proxy", Problem, "REDIRECT", false, nil},
		{"proxy of everything", "iptables -t nat -A PREROUTING -i lan -p tcp -j REDIRECT --to-ports 3128", "proxy", Problem, "REDIRECT", false, nil},
		{"proxy of a network", "iptables -t nat -A PREROUTING -s 10.0.0.0/24 -p tcp -j REDIRECT --to-ports 3128", "proxy", Problem, "REDIRECT", false, nil},
		{"proxy by TPROXY", "iptables -t mangle -A PREROUTING -p tcp --dport 1723 -j TPROXY --on-port 3128 --tproxy-mark 1", "proxy", Problem, "TPROXY", false, nil},
		{"proxy of everything by TPROXY", "iptables -t mangle -A PREROUTING -i lan -p udp -j ACCEPT; iptables -t mangle -A PREROUTING -i lan -p tcp -j TPROXY --on-port 3128 --tproxy-mark 1", "proxy", Problem, "TPROXY", false, nil},
		{"proxy of everything by nft's TPROXY", "nft add table ip m; nft 'add chain ip m pre { type filter hook prerouting priority mangle; }'; nft add rule ip m pre iifname lan meta l4proto tcp tproxy to :3128 meta mark set 1 accept", "proxy", Problem, "nft ip m pre", false, nil},
		{"proxy of the web", "iptables -t nat -A PREROUTING -i lan -p tcp --dport 80 -j REDIRECT --to-ports 3128", "proxy", OK, "", false, nil},
		{"proxy for one address", "iptables -t nat -A PREROUTING -i lan -d 10.0.0.1 -p tcp -j REDIRECT --to-ports 3128", "proxy", Warning, "may redirect", true, nil},
		{"proxy for what comes from outside", "iptables -t nat -A PREROUTING -i wan -p tcp --dport 1723 -j REDIRECT --to-ports 3128", "proxy", OK, "", false, nil},
		{"proxy by nft", nftNAT + "nft 'add rule ip n pre tcp dport { 80, 1723 } redirect to :3128'", "proxy", Problem, "nft ip n pre", false, nil},
		{"proxy by a set of nft", nftNAT + "nft 'add set ip n web { type inet_service; flags interval; elements = { 80, 1700-1800 }; }'; nft 'add rule ip n pre tcp dport @web redirect to :3128'", "proxy", Problem, "nft ip n pre", false, nil},
		{"perhaps a proxy", "iptables -t nat -A PREROUTING -m mark --mark 7 -p tcp -j REDIRECT --to-ports 3128", "proxy", Warning, "may redirect", true, nil},
		{"a server published", "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "proxy", OK, "", false, nil},
		{"a server takes all from two networks", "ip link add dmz type bridge; ip addr add 10.5.0.1/24 dev dmz; ip link set dmz up; iptables -t nat -A PREROUTING -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "proxy", Warning, "inside clients' connections", true, nil},
		{"a server takes all", "iptables -t nat -A PREROUTING -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "proxy", Warning, "inside clients' connections", true, nil},

		{"mark restored for TCP", secondWAN + "iptables -t mangle -A PREROUTING -p tcp -j CONNMARK --restore-mark", "multi-wan", Problem, "--restore-mark", false, nil},
		{"mark restored for TCP, and the daemon translates", secondWAN + "iptables -t mangle -A PREROUTING -p tcp -j CONNMARK --restore-mark", "multi-wan", OK, "", false, queuing},
		{"mark restored for one port", secondWAN + "iptables -t mangle -A PREROUTING -p tcp --dport 1723 -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", "multi-wan", Problem, "--restore-mark", false, nil},
		{"mark restored in a chain", secondWAN + "iptables -t mangle -N ways; iptables -t mangle -A PREROUTING -p tcp -j ways; iptables -t mangle -A ways -j CONNMARK --restore-mark", "multi-wan", Problem, "-A ways", false, nil},
		{"mark restored for TCP by nft", secondWAN + "nft add table ip m; nft 'add chain ip m p { type filter hook prerouting priority -150; }'; nft add rule ip m p meta l4proto tcp meta mark set ct mark", "multi-wan", Problem, "nft ip m p", false, nil},
		{"mark restored for all", secondWAN + "iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark; iptables -t mangle -A PREROUTING -i lan -p tcp -m mark --mark 0 -j MARK --set-mark 2; iptables -t mangle -A PREROUTING -p tcp -j CONNMARK --save-mark", "multi-wan", OK, "", false, nil},
		{"mark restored behind our rules", secondWAN + ownRules + "iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark", "multi-wan", Problem, "after the daemon's rules", false, nil},
		{"mark set behind our rules", secondWAN + ownRules + "iptables -t mangle -A PREROUTING -i lan -s 10.0.0.5 -j MARK --set-mark 2", "multi-wan", Warning, "may take another route", true, nil},
		{"mark restored before our rules", secondWAN + "iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark; " + ownRules + "iptables -t mangle -A PREROUTING -i lan -j MARK --set-mark 2", "multi-wan", OK, "", false, nil},
		{"mark of TCP alone", secondWAN + "iptables -t mangle -A PREROUTING -i lan -p tcp -j MARK --set-mark 2", "multi-wan", Warning, "marks packets", true, nil},
		{"mark of the web", secondWAN + "iptables -t mangle -A PREROUTING -i lan -p tcp --dport 80 -j MARK --set-mark 2", "multi-wan", OK, "", false, nil},
		{"mark of a proxy", "ip rule add fwmark 1 lookup 100; ip route add local default dev lo table 100; iptables -t mangle -A PREROUTING -p tcp -j CONNMARK --restore-mark", "multi-wan", OK, "", false, nil},
		{"mark that no route asks for", "iptables -t mangle -A PREROUTING -p tcp -j CONNMARK --restore-mark", "multi-wan", OK, "", false, nil},
		{"routing rule for TCP", "ip route add default via 203.0.113.3 table 7; ip rule add priority 50 from 10.0.0.0/24 iif lan ipproto tcp dport 1723 lookup 7", "multi-wan", Warning, "routing rule 50 matches TCP only", true, nil},
		{"routing rule for the web", "ip rule add priority 50 ipproto tcp dport 80 lookup 7", "multi-wan", OK, "", false, nil},

		{"strict with two ways", "sysctl -qw net.ipv4.conf.wan.rp_filter=1; ip route add default via 203.0.113.3 table 7", "rp-filter", Warning, "strict on wan, with 2 default routes", true, nil},
		{"strict with multipath", "sysctl -qw net.ipv4.conf.wan.rp_filter=1; ip route replace default nexthop via 203.0.113.2 nexthop via 203.0.113.3", "rp-filter", Warning, "2 default routes", true, nil},
		{"strict with rules", "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip rule add fwmark 1 table 7", "rp-filter", Warning, "1 routing rules", true, nil},
		{"strict with one way", "sysctl -qw net.ipv4.conf.wan.rp_filter=1", "rp-filter", OK, "one default route", false, nil},

		{"both backends", "iptables-legacy -t nat -A POSTROUTING -j MASQUERADE", "iptables", Warning, "iptables-legacy has rules too (nat)", false, nil},
		{"legacy drops GRE", "iptables-legacy -A FORWARD -p gre -j DROP", "firewall-gre", Problem, "iptables-legacy filter", false, nil},
		{"nft's rules in table mangle", "nft add table ip mangle; nft 'add chain ip mangle PREROUTING { type filter hook prerouting priority -150; }'; nft add rule ip mangle PREROUTING tcp dport 22 ct state new meta mark set 1", "rules", Problem, "iptables cannot read table mangle", false, byIPTables},
		{"a rule in table mangle that iptables cannot read", unreadable, "rules", Problem, "iptables cannot read table mangle", false, byIPTables},
		{"a rule in table mangle that nobody has to read", unreadable, "rules", OK, "nftables and the kernel accept", false, nil},
		{"rules by nftables alone", "true", "rules", OK, "nftables and the kernel accept", false, by(choice.NFT)},
		{"rules by iptables", "true", "rules", OK, "iptables and the kernel accept", false, byIPTables},
		{"rules by others", "true", "rules", OK, "nftables and the kernel accept", false, by(choice.None)},
		{"rules that others have loaded", ownRules, "rules", OK, "they are loaded", false, by(choice.None)},
		{"rules of both data paths", "true", "rules", OK, "nftables and the kernel accept", false, queuing},
		{"nftables does not reach legacy's filter", "iptables-legacy -A FORWARD -j ACCEPT", "rules", OK, "iptables and the kernel accept", false, queuing},
		{"beside a rule that iptables cannot read", unreadable + "iptables -I FORWARD -p gre -j DROP", "firewall-gre", Problem, "iptables filter: -A FORWARD -p gre -j DROP", false, nil},

		{"rules without a daemon", ownRules, "daemon", Warning, "pass unedited", false, nil},
		{"no metrics", "true", "listener", OK, "--listen is empty", false, nil},
		{"metrics", "true", "listener", OK, "is free", false, func(c *Config) { c.Listen = "127.0.0.1:9723" }},
		{"no place for metrics", "true", "listener", Problem, "has no address 192.0.2.77", false, func(c *Config) { c.Listen = "192.0.2.77:9723" }},
		{"no TLS for metrics", "true", "listener", Problem, "--web-config", false, func(c *Config) { c.Listen, c.WebConfig = "127.0.0.1:9723", "/nonexistent/web.yml" }},
		{"no event log", "true", "event-log", OK, "--event-log is empty", false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, gateway(t)) })
	}
}

// bind has the queue taken until the returned function is called.
func bind(t *testing.T, p *netns.Place, number uint16) (release func()) {
	t.Helper()
	var q *nfqueue.Queue
	do(t, p, func() (err error) {
		q, err = nfqueue.Open(nfqueue.Config{Queue: number}, func(*nfqueue.Packet) nfqueue.Verdict { return nfqueue.Accept })
		return err
	})
	return sync.OnceFunc(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestQueueTaken: another socket has the queue, and no daemon answers.
func TestQueueTaken(t *testing.T) {
	p := gateway(t)
	release := bind(t, p, 1723)
	f := findIn(t, p, "queue-owner")
	wants(t, f, Problem, fmt.Sprintf("(process %d)", os.Getpid()))
	wants(t, findIn(t, p, "nfqueue"), OK, "")
	mend(t, p, f)
	if err := os.Remove(os.Getenv("SETTINGS")); err != nil {
		t.Fatal(err)
	}
	release()
	wants(t, findIn(t, p, "queue-owner"), OK, "free")
}

// TestGREQueueTaken: where the daemon translates it needs more of them.
func TestGREQueueTaken(t *testing.T) {
	p := gateway(t)
	defer bind(t, p, 1725)()
	wants(t, findIn(t, p, "queue-owner"), OK, "free")
	f := findIn(t, p, "queue-owner", queuing)
	wants(t, f, Problem, "queue 1725 is bound by")
	mend(t, p, f, queuing)
	wants(t, findIn(t, p, "queue-owner", queuing), OK, "queue 1723, 1726-1727 is free")
}

// answering has a daemon's socket in its directory.
func answering(t *testing.T) func(*Config) {
	t.Helper()
	dir := t.TempDir()
	s, err := admin.Listen(admin.Config{StateDir: dir}, nil, func() []calls.View { return nil })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func(c *Config) { c.StateDir = dir }
}

// TestRulesOfDaemon: a daemon answers, and its rules are not as they should be.
func TestRulesOfDaemon(t *testing.T) {
	tests := []row{
		{"all is well", ownRules, "daemon", OK, "", false, nil},
		{"no rules", "true", "daemon", Problem, "no rule sends it", false, nil},
		{"rules for another queue", strings.ReplaceAll(ownRules, "num 1723", "num 1800"), "daemon", Problem, "to queue 1800", false, nil},
		{"rules for another port", strings.ReplaceAll(ownRules, "port 1723", "port 1724"), "daemon", Problem, "no rule sends it", false, nil},
		{"no rules for one port", ownRules, "daemon", Problem, "to TCP port 1724", false, withPorts(1723, 1724)},
		{"accepted before", "iptables -t mangle -A PREROUTING -p tcp -j ACCEPT; " + ownRules, "daemon", Problem, "-p tcp -j ACCEPT keeps control", false, nil},
		{"another program's before", "iptables -t mangle -A PREROUTING -j NFQUEUE --queue-num 0 --queue-bypass; " + ownRules, "daemon", Problem, "--queue-num 0", false, nil},
		{"accepted perhaps", "iptables -t mangle -A PREROUTING -m mark --mark 1 -j ACCEPT; " + ownRules, "daemon", OK, "", false, nil},
		{"the web accepted", "iptables -t mangle -A PREROUTING -p tcp --dport 80 -j ACCEPT; " + ownRules, "daemon", OK, "", false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := gateway(t)
			running, change := answering(t), tt.change
			tt.change = func(c *Config) {
				running(c)
				if change != nil {
					change(c)
				}
			}
			tt.run(t, p)
		})
	}
}

// TestRulesByNFT: a daemon answers, and its rules are in a table of their own. What iptables
// accepts before does not keep packets from them.
func TestRulesByNFT(t *testing.T) {
	otherQueue := func(c *Config) { c.Rules.Queue = 1800 }
	tests := []struct {
		name, script   string
		loaded, judged func(*Config)
		want           Result
		found          string
	}{
		{"all is well", "true", nil, nil, OK, "its rules are loaded"},
		{"data path queue", "true", queuing, queuing, OK, "its rules are loaded"},
		{"data path queue beside routing rules of all kinds", routingRules + "ip route del default", queuing, queuing, OK, "its rules are loaded"},
		{"no rules for GRE", "true", nil, queuing, Problem, "no rule sends GRE to it"},
		{"accepted before", "iptables -t mangle -I PREROUTING -p tcp -j ACCEPT", nil, nil, OK, "its rules are loaded"},
		{"another program's before", "iptables -t mangle -I PREROUTING -j NFQUEUE --queue-num 0 --queue-bypass", nil, nil, OK, "its rules are loaded"},
		{"accepted before in raw", "iptables -t raw -I PREROUTING -j ACCEPT", queuing, queuing, OK, "its rules are loaded"},
		{"rules for another queue", "true", otherQueue, nil, Problem, "to queue 1800"},
		{"no rules for one port", "true", nil, withPorts(1723, 1724), Problem, "to TCP port 1724"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := gateway(t)
			sh(t, p, tt.script)
			loaded := config(t, tt.loaded)
			if loaded.DataPath != "queue" {
				loaded.Rules.Data = rules.Data{}
			}
			do(t, p, func() error {
				_, err := choice.New(choice.NFT).Load(t.Context(), loaded.Rules)
				return err
			})
			wants(t, findIn(t, p, "daemon", answering(t), tt.judged), tt.want, tt.found)
		})
	}
}

// TestListenerTaken: somebody else has the port.
func TestListenerTaken(t *testing.T) {
	p := gateway(t)
	var l net.Listener
	do(t, p, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:9723")
		return err
	})
	defer l.Close()
	at := func(c *Config) { c.Listen = "127.0.0.1:9723" }
	f := findIn(t, p, "listener", at)
	wants(t, f, Problem, "is in use by check.test")
	mend(t, p, f, at)
	running := answering(t)
	wants(t, findIn(t, p, "listener", at, running), OK, "by the running daemon")
}

// TestEventLog: a file cannot be made where there is no directory.
func TestEventLog(t *testing.T) {
	p := bare(t)
	file := filepath.Join(t.TempDir(), "of a name", "events.json")
	to := func(c *Config) { c.EventLog = file }
	f := findIn(t, p, "event-log", to)
	wants(t, f, Problem, "no such file")
	mend(t, p, f, to)
}

// TestWithoutRights drops all capabilities of a thread that ends with the test. What
// cannot be known without them is not called a problem.
func TestWithoutRights(t *testing.T) {
	p := gateway(t)
	do(t, p, func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		return unix.Capset(&header, &none[0])
	})
	wants(t, findIn(t, p, "rights"), Problem, "CAP_NET_ADMIN is missing")
	wants(t, findIn(t, p, "nfqueue"), Unchecked, "operation not permitted")
	wants(t, findIn(t, p, "conntrack"), Unchecked, "operation not permitted")
}

// TestWithoutRaw takes one of the two rights.
func TestWithoutRaw(t *testing.T) {
	p := gateway(t)
	do(t, p, func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		if err := unix.Capget(&header, &sets[0]); err != nil {
			return err
		}
		sets[0].Effective &^= 1 << unix.CAP_NET_RAW
		return unix.Capset(&header, &sets[0])
	})
	wants(t, findIn(t, p, "rights"), Warning, "CAP_NET_RAW is missing")
}

// TestUntranslated: without any rule of NAT, entries do nothing, and the packets tell.
func TestUntranslated(t *testing.T) {
	needRoot(t)
	err := tryTranslation(t.Context(), nil)
	if errors.Is(err, errNoTrial) || err == nil {
		t.Fatal(err)
	}
	wants(t, judgeTranslation(tried{err: err, set: setting0}), Problem, "it arrived from 198.51.100.2")
}

// TestDropped: a gateway that drops GRE translates none.
func TestDropped(t *testing.T) {
	needRoot(t)
	p := gateway(t)
	sh(t, p, "nft flush ruleset; iptables -A FORWARD -p gre -j DROP")
	err := tryTranslation(t.Context(), trialFlows, dumped(t, p)...)
	wants(t, judgeTranslation(tried{err: err, set: setting0}), Warning, "nothing arrived")
}

// ownMounts gives a namespace's thread mounts of its own, with a file or a directory
// over another one.
func ownMounts(t *testing.T, p *netns.Place, what, over string) {
	t.Helper()
	do(t, p, func() error {
		return errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
			unix.Mount(what, over, "", unix.MS_BIND, ""))
	})
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTableFull has a limit of few entries, which only the first network namespace can
// set: a file stands in for it. The entries are the kernel's.
func TestTableFull(t *testing.T) {
	for _, tt := range []struct {
		max  string
		want Result
	}{{"20", Problem}, {"25", Warning}, {"60", OK}, {"0", OK}} {
		t.Run(tt.max, func(t *testing.T) {
			p := gateway(t)
			sh(t, p, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "+
				"conntrack -I -p udp -s 10.0.0.$i -d 10.1.0.1 --sport 5 --dport 6 -t 60; done")
			ownMounts(t, p, file(t, "max", tt.max+"\n"), "/proc/sys/net/netfilter/nf_conntrack_max")
			f := findIn(t, p, "conntrack-table")
			wants(t, f, tt.want, "entries")
			if tt.want == Problem || tt.want == Warning {
				mend(t, p, f)
			}
		})
	}
}

// TestHelperSetting stands in for kernels up to 5.19, which have the setting, and may have
// the helper as a module.
func TestHelperSetting(t *testing.T) {
	for _, tt := range []struct {
		module string
		want   Result
	}{{"nf_conntrack_pptp", Problem}, {"another", Warning}} {
		t.Run(tt.module, func(t *testing.T) {
			p := gateway(t)
			ownMounts(t, p, filepath.Dir(file(t, "nf_conntrack_helper", "1\n")), "/proc/sys/net/netfilter")
			ownMounts(t, p, filepath.Dir(file(t, tt.module, "")), "/sys/module")
			f := findIn(t, p, "helper-sysctl")
			wants(t, f, tt.want, "nf_conntrack_helper is 1")
			mend(t, p, f)
		})
	}
}

// TestWithoutPrograms hides them.
func TestWithoutPrograms(t *testing.T) {
	hide := func(t *testing.T, name string) *netns.Place {
		p := gateway(t)
		path, err := find(name)
		if err != nil {
			t.Fatal(err)
		}
		ownMounts(t, p, "/dev/null", path)
		return p
	}
	t.Run("iptables", func(t *testing.T) {
		p := hide(t, "iptables")
		wants(t, findIn(t, p, "iptables"), OK, "not installed, and not needed: the rules are loaded by nftables")
		wants(t, findIn(t, p, "iptables", by(choice.None)), OK, "not needed: for --rules none")
		wants(t, findIn(t, p, "iptables", byIPTables), Problem, "not installed")
		wants(t, findIn(t, p, "rules"), OK, "nftables and the kernel accept")
		f := findIn(t, p, "rules", byIPTables)
		wants(t, f, Problem, "cannot be loaded")
		if f.Remedy != "apt-get install -y iptables" {
			t.Errorf("remedy %q", f.Remedy)
		}
		wants(t, findIn(t, p, "firewall-gre"), OK, "") // the kernel has the rules all the same
		sh(t, p, "nft delete table ip nat")
		f = findIn(t, p, "nat")
		wants(t, f, Problem, "no rule translates addresses")
		mend(t, p, f)
	})
	t.Run("nft", func(t *testing.T) {
		wants(t, findIn(t, hide(t, "nft"), "firewall-gre"), OK, "")
	})
	t.Run("both", func(t *testing.T) { // rules are named by what the kernel knows of them
		p := gateway(t)
		sh(t, p, "iptables -I FORWARD -p gre -j DROP")
		for _, name := range []string{"nft", "iptables"} {
			path, err := find(name)
			if err != nil {
				t.Fatal(err)
			}
			ownMounts(t, p, "/dev/null", path)
		}
		f := findIn(t, p, "firewall-gre")
		wants(t, f, Problem, "nft ip filter FORWARD: rule with handle ")
		if !strings.HasPrefix(f.Remedy, "apt-get install -y nftables && nft 'insert rule ip filter FORWARD ") {
			t.Errorf("remedy %q", f.Remedy)
		}
	})
	t.Run("ip", func(t *testing.T) {
		f := findIn(t, hide(t, "ip"), "firewall-gre")
		wants(t, f, Unchecked, "find ip")
		if f.Remedy != "apt-get install -y iproute2" {
			t.Errorf("remedy %q", f.Remedy)
		}
	})
}

// routingRules makes some of each kind, with the one that the kernel makes for VRFs. ip does not
// take all that it prints.
const routingRules = `ip rule add priority 1000 l3mdev
ip rule add priority 70 from 198.51.100.0/24 unreachable
ip rule add priority 80 to 198.51.100.0/24 goto 32766
ip rule add priority 90 not fwmark 0xca6c/0xffff lookup 51820
ip rule add priority 100 lookup main suppress_prefixlength 0
ip rule add priority 110 oif lan tos 0x10 ipproto tcp sport 1000-2000 dport 1723 lookup 7
ip rule add priority 120 iif gone uidrange 5-6 lookup 8
`

// TestCopyRoutingRules: ip lists the same of a copy, beside the rule by which packets go the way
// that is tried.
func TestCopyRoutingRules(t *testing.T) {
	p := gateway(t)
	sh(t, p, routingRules)
	list := func(p *netns.Place) (text string) {
		do(t, p, func() (err error) {
			text, err = command(t.Context(), "", "ip", "-4", "rule", "list")
			return err
		})
		return strings.ReplaceAll(text, " [detached]", "")
	}
	var n network
	do(t, p, func() (err error) {
		n, err = newReader(t.Context(), config(t)).network()
		return err
	})
	x, err := newScratch(t.Context(), surroundings{network: n}, layer{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.close)
	sh(t, x.place, fmt.Sprintf("ip rule delete priority 0 lookup %d", hostTable))
	if diff := cmp.Diff(list(p), list(x.place)); diff != "" {
		t.Errorf("(-original +copy)\n%s", diff)
	}
}

// TestCopy: programs list the same of a copy.
func TestCopy(t *testing.T) {
	const rules = `flush ruleset
table ip t {
	counter hits { packets 5 bytes 500; }
	quota much { over 10 mbytes; }
	limit few { rate 10/second; }
	map ports { type inet_service : ipv4_addr; elements = { 1723 : 10.0.0.5, 1724 : 10.0.0.6 }; }
	set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.0.2.0/24 . 5002, 10.0.3.1-10.0.3.9 . 5003 }; }
	set seen { type ipv4_addr; size 99; flags dynamic,timeout; timeout 1m; }
	set bad { type ipv4_addr; flags interval; elements = { 10.0.0.0/24, 10.1.0.0-10.1.0.7 }; }
	chain other { counter name "hits" quota name "much" accept; }
	chain nat { type nat hook prerouting priority dstnat; policy accept; dnat to tcp dport map @ports; }
	chain c {
		type filter hook forward priority filter; policy drop;
		ip saddr . tcp dport @pairs accept
		ip saddr @bad limit name "few" drop
		ip daddr vmap { 10.0.5.0/25 : jump other, 10.0.5.128-10.0.6.3 : drop }
		tcp flags syn update @seen { ip saddr limit rate 5/second } accept
		tcp flags syn tcp option maxseg size set rt mtu
		iifname { "lan", "w*" } fib daddr type local ct state { new, established } meta mark set ct mark and 0xff or 0x10
		ip ttl 7 meta hour "08:00"-"17:00" log prefix "x" accept
		ip saddr 10.0.4.4 ip daddr 10.0.4.5 tcp sport 7000 tcp dport 5004 reject with tcp reset
	}
}
`
	p := gateway(t)
	list := func(p *netns.Place) (text string) {
		do(t, p, func() (err error) {
			text, err = command(t.Context(), "", "nft", "-s", "list", "ruleset", "ip")
			return err
		})
		return text
	}
	sh(t, p, "nft -f - <<'END'\n"+rules+"END\n"+`
iptables -A FORWARD -p tcp -m multiport --dports 1,2 -m conntrack --ctstate NEW -m hashlimit --hashlimit-above 9/sec --hashlimit-name x -m comment --comment "it is" -j DROP
iptables -t mangle -A PREROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -m addrtype --dst-type LOCAL -m string --string x --algo bm -j MARK --set-xmark 1/3
iptables -t nat -A POSTROUTING -p udp -m iprange --src-range 10.0.0.1-10.0.0.2 -j SNAT --to-source 192.0.2.1:5-6`)
	copied := func() *scratch {
		x, err := newScratch(t.Context(), surroundings{}, layer{objects: dumped(t, p)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.close)
		sh(t, x.place, "nft delete table ip observer")
		return x
	}
	if diff := cmp.Diff(list(p), list(copied().place)); diff != "" {
		t.Errorf("(-original +copy)\n%s", diff)
	}
	sh(t, p, "nft add rule ip t other meta l4proto gre jump '{ ip ttl 7 drop; accept; }'")
	if rules, copies := len(dumped(t, p)), len(dumped(t, copied().place)); rules != copies { // the chain gets a name
		t.Errorf("%d objects, and %d in the copy", rules, copies)
	}
}

// TestNotLookedAt: where the kernel cannot judge the firewall, the line says why.
func TestNotLookedAt(t *testing.T) {
	t.Run("no time", func(t *testing.T) {
		do(t, gateway(t), func() error {
			r := newReader(t.Context(), config(t))
			r.judgeTime = time.Nanosecond
			_, err := r.firewall()
			wants(t, unchecked(err), Unchecked, "not checked: there are too many rules and interfaces")
			return nil
		})
	})
	t.Run("refused", func(t *testing.T) {
		p := gateway(t)
		sh(t, p, "iptables -A FORWARD -p gre -j DROP")
		all := dumped(t, p)
		last := &all[len(all)-1] // a rule
		last.attrs = append(last.attrs.without(unix.NFTA_RULE_EXPRESSIONS), nested(unix.NFTA_RULE_EXPRESSIONS, makeExpr("unheard-of")))
		_, err := newScratch(t.Context(), surroundings{}, layer{objects: all})
		if err == nil || !strings.HasPrefix(err.Error(), "copy "+last.String()+": ") {
			t.Errorf("%v, want %v", err, last)
		}
	})
}

// TestPlacesEnd: the trial leaves no thread in a namespace of its own.
func TestPlacesEnd(t *testing.T) {
	needRoot(t)
	before := namespaces(t)
	if err := tryTranslation(context.Background(), trialFlows); err != nil {
		t.Fatal(err)
	}
	// The thread ends a little after its goroutine.
	for deadline := time.Now().Add(10 * time.Second); namespaces(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d namespaces among the threads, %d before", namespaces(t), before)
		}
	}
}

// namespaces counts those that the process's threads are in.
func namespaces(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, link := range tasks {
		if to, err := os.Readlink(link); err == nil {
			seen[to] = true
		}
	}
	return len(seen)
}
