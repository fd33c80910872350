package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/nfqueue"
)

// config is that of a daemon that does not run.
func config(t *testing.T) Config {
	return Config{Queue: 1723, Ports: []uint16{1723}, StateDir: t.TempDir()}
}

// findIn carries out one check in a namespace.
func findIn(t *testing.T, p *place, name string) Finding {
	t.Helper()
	i := slices.IndexFunc(checks, func(c check) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("no check %s", name)
	}
	var f Finding
	do(t, p, func() error {
		f = checks[i].find(newReader(t.Context(), config(t)))
		return nil
	})
	return f
}

func do(t *testing.T, p *place, f func() error) {
	t.Helper()
	if err := p.do(f); err != nil {
		t.Fatal(err)
	}
}

// gateway makes a namespace that is one: it forwards, masquerades, and lets through what
// begins inside.
func gateway(t *testing.T) *place {
	t.Helper()
	needRoot(t)
	p, err := newPlace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	sh(t, p, `ip link set lo up
ip link add lan type bridge; ip link set lan up
ip link add wan type bridge; ip addr add 203.0.113.1/24 dev wan; ip link set wan up
ip route add default via 203.0.113.2
sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_acct=1
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan.rp_filter=0 net.ipv4.conf.wan.rp_filter=0
iptables -t nat -A POSTROUTING -o wan -j MASQUERADE
iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP
iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A FORWARD -i lan -o wan -j ACCEPT
iptables -P FORWARD DROP`)
	return p
}

// sh runs a script in a namespace.
func sh(t *testing.T, p *place, script string) {
	t.Helper()
	do(t, p, func() error {
		_, err := command(t.Context(), "", "sh", "-ec", script)
		return err
	})
}

// wants compares a finding with what it should be.
func wants(t *testing.T, f Finding, want Result, text string) {
	t.Helper()
	if f.Result != want || !strings.Contains(f.Found, text) {
		t.Errorf("%s: %v: %s; want %v: …%s…", f.Check, f.Result, f.Found, want, text)
	}
	if (f.Remedy == "") != (f.Result == OK) {
		t.Errorf("%s: %v with remedy %q", f.Check, f.Result, f.Remedy)
	}
}

// TestGateway: nothing is wrong with a gateway that has nothing wrong but that the daemon
// does not run yet.
func TestGateway(t *testing.T) {
	p := gateway(t)
	var all Findings
	do(t, p, func() error {
		all = Run(t.Context(), config(t))
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

// TestFindings breaks a gateway, wants the finding, and where the remedy is a command,
// that it mends it.
func TestFindings(t *testing.T) {
	tests := []struct {
		name   string
		script string
		check  string
		want   Result
		found  string
		mends  bool
	}{
		{"no forwarding", "sysctl -qw net.ipv4.ip_forward=0", "ip-forward", Problem, "ip_forward is 0", true},
		{"no accounting", "sysctl -qw net.netfilter.nf_conntrack_acct=0", "accounting", Warning, "acct is 0", true},
		{"no NAT", "iptables -t nat -F", "nat", Problem, "no rule translates", false},
		{"a server behind", "iptables -t nat -F; iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "nat", OK, "destinations", false},
		{"NAT by nft", "iptables -t nat -F; nft add table ip n; nft 'add chain ip n p { type nat hook postrouting priority 100; }'; nft add rule ip n p oifname wan masquerade", "nat", OK, "nft ip n p", false},

		{"policy drops control", "iptables -F FORWARD", "firewall-control", Problem, "the policy of iptables filter FORWARD drops TCP to port 1723", false},
		{"policy drops answers", "iptables -F FORWARD; iptables -A FORWARD -p tcp --dport 1723 -j ACCEPT", "firewall-control", Problem, "drops TCP from port 1723", true},
		{"rule rejects control", "iptables -I FORWARD -p tcp -m multiport --dports 80,1720:1730 -j REJECT", "firewall-control", Problem, "--dports 80,1720:1730", true},
		{"rule drops control of one network", "iptables -I FORWARD -s 10.1.0.0/16 -p tcp --dport 1723 -j DROP", "firewall-control", Warning, "-s 10.1.0.0/16", true},
		{"another port", "iptables -I FORWARD -p tcp --dport 1724 -j DROP", "firewall-control", OK, "", false},
		{"chain of a firewall", "iptables -N fw; iptables -I FORWARD -i lan -j fw; iptables -A fw -p tcp --dport 1723 -j DROP", "firewall-control", Warning, "-A fw", true},
		{"accepts a set alone", "iptables -F FORWARD; iptables -A FORWARD -m mark --mark 1 -j ACCEPT", "firewall-control", Warning, "cannot be told", true},
		{"table mangle drops control", "iptables -t mangle -A PREROUTING -p tcp --dport 1723 -j DROP", "firewall-control", Problem, "iptables mangle", true},
		{"nft policy drops control", "nft add table inet fw; nft 'add chain inet fw f { type filter hook forward priority 0; policy drop; }'; nft add rule inet fw f ct state established accept", "firewall-control", Problem, "the policy of nft inet fw f", true},
		{"nft drops GRE by map", "nft add table inet fw; nft 'add chain inet fw f { type filter hook forward priority 0; }'; nft 'add rule inet fw f meta l4proto vmap { gre : drop, tcp : accept }'", "firewall-gre", Problem, "nft inet fw f: rule with handle", true},
		{"nft drops GRE", "nft add table inet fw; nft 'add chain inet fw f { type filter hook forward priority 0; }'; nft add rule inet fw f ip protocol gre drop", "firewall-gre", Problem, "nft inet fw f", true},
		{"nft accepts by map", "nft add table inet fw; nft 'add chain inet fw f { type filter hook forward priority 0; policy drop; }'; nft 'add rule inet fw f ct state vmap { established : accept, related : accept, invalid : drop }'", "firewall-gre", OK, "", false},
		{"rule drops GRE", "iptables -I FORWARD -p gre -j DROP", "firewall-gre", Problem, "iptables filter: -A FORWARD -p gre -j DROP", true},
		{"policy drops GRE", "iptables -F FORWARD; iptables -A FORWARD -p tcp -j ACCEPT", "firewall-gre", Problem, "the policy", true},
		{"GRE one way", "iptables -F FORWARD; iptables -A FORWARD -i lan -o wan -j ACCEPT", "firewall-gre", Warning, "one rule", true},
		{"GRE dropped on one side", "iptables -I FORWARD -i wan -p gre -j DROP", "firewall-gre", Warning, "may drop GRE", true},

		{"helper by rule", "iptables -t raw -A PREROUTING -p tcp --dport 1723 -j CT --helper pptp", "kernel-helper", Problem, "--helper pptp", true},
		{"helper of another protocol", "iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp", "kernel-helper", OK, "", false},
		{"helper by nft", `nft 'table ip h { ct helper pp { type "pptp" protocol tcp; }; chain c { type filter hook prerouting priority -300; tcp dport 1723 ct helper set "pp"; }; }'`, "kernel-helper", Problem, "nft ip h c", true},
		{"not tracked", "iptables -t raw -A PREROUTING -p gre -j CT --notrack", "tracking", Problem, "--notrack", true},
		{"perhaps not tracked", "iptables -t raw -A PREROUTING -p tcp --dport 1723 -m mark --mark 1 -j CT --notrack", "tracking", Warning, "may be kept", true},
		{"not tracked by nft", "nft add table ip n; nft 'add chain ip n c { type filter hook prerouting priority -300; }'; nft add rule ip n c tcp dport 1723 notrack", "tracking", Problem, "nft ip n c", true},

		{"proxy", "iptables -t nat -A PREROUTING -i lan -p tcp --dport 1723 -j REDIRECT --to-ports 3128", "proxy", Problem, "REDIRECT", true},
		{"proxy of everything", "iptables -t nat -A PREROUTING -i lan -p tcp -j REDIRECT --to-ports 3128", "proxy", Problem, "REDIRECT", true},
		{"proxy by TPROXY", "iptables -t mangle -A PREROUTING -p tcp --dport 1723 -j TPROXY --on-port 3128 --tproxy-mark 1", "proxy", Problem, "TPROXY", true},
		{"proxy of the web", "iptables -t nat -A PREROUTING -i lan -p tcp --dport 80 -j REDIRECT --to-ports 3128", "proxy", OK, "", false},
		{"proxy by nft", "nft add table ip x; nft 'add chain ip x c { type nat hook prerouting priority -100; }'; nft 'add rule ip x c tcp dport { 80, 1723 } redirect to :3128'", "proxy", Problem, "nft ip x c", true},
		{"perhaps a proxy", "iptables -t nat -A PREROUTING -m mark --mark 7 -p tcp -j REDIRECT --to-ports 3128", "proxy", Warning, "may take", true},
		{"a server published", "iptables -t nat -A PREROUTING -d 203.0.113.1 -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "proxy", OK, "", false},
		{"a server takes all", "iptables -t nat -A PREROUTING -p tcp --dport 1723 -j DNAT --to 10.0.0.5", "proxy", Warning, "clients' own", true},

		{"strict with two ways", "sysctl -qw net.ipv4.conf.wan.rp_filter=1; ip route add default via 203.0.113.3 table 7", "rp-filter", Warning, "strict on wan, with 2 default routes", true},
		{"strict with multipath", "sysctl -qw net.ipv4.conf.wan.rp_filter=1; ip route replace default nexthop via 203.0.113.2 nexthop via 203.0.113.3", "rp-filter", Warning, "2 default routes", true},
		{"strict with rules", "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip rule add fwmark 1 table 7", "rp-filter", Warning, "1 routing rules", true},
		{"strict with one way", "sysctl -qw net.ipv4.conf.wan.rp_filter=1", "rp-filter", OK, "one default route", false},

		{"both backends", "iptables-legacy -t nat -A POSTROUTING -j MASQUERADE", "iptables", Warning, "iptables-legacy has rules too (nat)", false},
		{"legacy drops GRE", "iptables-legacy -A FORWARD -p gre -j DROP", "firewall-gre", Problem, "iptables-legacy filter", true},
		{"rules without a daemon", "iptables -t mangle -N PPTPALG; iptables -t mangle -A PPTPALG -p tcp -j NFQUEUE --queue-num 1723 --queue-bypass; for c in PREROUTING OUTPUT; do iptables -t mangle -A $c -p tcp -j PPTPALG; done", "daemon", Warning, "pass unedited", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := gateway(t)
			sh(t, p, tt.script)
			f := findIn(t, p, tt.check)
			wants(t, f, tt.want, tt.found)
			if tt.mends {
				sh(t, p, f.Remedy)
				if f = findIn(t, p, tt.check); f.Result != OK { // what stood behind it
					sh(t, p, f.Remedy)
					f = findIn(t, p, tt.check)
				}
				wants(t, f, OK, "")
			}
		})
	}
}

// TestQueueTaken: another socket has the queue, and no daemon answers.
func TestQueueTaken(t *testing.T) {
	p := gateway(t)
	var q *nfqueue.Queue
	do(t, p, func() (err error) {
		q, err = nfqueue.Open(nfqueue.Config{Queue: 1723}, func(*nfqueue.Packet) nfqueue.Verdict { return nfqueue.Accept })
		return err
	})
	wants(t, findIn(t, p, "queue-owner"), Problem, fmt.Sprintf("(process %d)", os.Getpid()))
	wants(t, findIn(t, p, "nfqueue"), OK, "")
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	wants(t, findIn(t, p, "queue-owner"), OK, "free")
}

// TestWithoutRights drops all capabilities of a thread that ends with the test.
func TestWithoutRights(t *testing.T) {
	p := gateway(t)
	do(t, p, func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		return unix.Capset(&header, &none[0])
	})
	wants(t, findIn(t, p, "rights"), Problem, "CAP_NET_ADMIN is missing")
	wants(t, findIn(t, p, "nfqueue"), Problem, "operation not permitted")
	wants(t, findIn(t, p, "conntrack"), Problem, "operation not permitted")
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
	err := tryTranslation(t.Context(), "")
	if errors.Is(err, errNoTrial) || err == nil {
		t.Fatal(err)
	}
	wants(t, judgeTranslation(tried{err}), Warning, "it arrived from 198.51.100.2")
}

// TestDropped: a gateway that drops GRE translates none.
func TestDropped(t *testing.T) {
	needRoot(t)
	err := tryTranslation(t.Context(), natRule+"*filter\n-A FORWARD -p gre -j DROP\nCOMMIT\n")
	wants(t, judgeTranslation(tried{err}), Warning, "nothing arrived")
}

// ownMounts gives a namespace's thread mounts of its own, with a file or a directory
// over another one.
func ownMounts(t *testing.T, p *place, what, over string) {
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
			wants(t, findIn(t, p, "conntrack-table"), tt.want, "entries")
		})
	}
}

// TestHelperSetting stands in for kernels up to 5.19, which have the setting.
func TestHelperSetting(t *testing.T) {
	p := gateway(t)
	ownMounts(t, p, filepath.Dir(file(t, "nf_conntrack_helper", "1\n")), "/proc/sys/net/netfilter")
	f := findIn(t, p, "helper-sysctl")
	if f.Result == OK || !strings.Contains(f.Found, "nf_conntrack_helper is 1") {
		t.Errorf("%+v", f)
	}
}

// TestWithoutIPTables hides the program.
func TestWithoutIPTables(t *testing.T) {
	p := gateway(t)
	path, err := find("iptables")
	if err != nil {
		t.Fatal(err)
	}
	ownMounts(t, p, "/dev/null", path)
	wants(t, findIn(t, p, "iptables"), Problem, "not installed")
	wants(t, findIn(t, p, "daemon"), Unchecked, "iptables")
	if f := findIn(t, p, "daemon"); f.Remedy != "apt-get install iptables iproute2" {
		t.Errorf("remedy %q", f.Remedy)
	}
}

// TestPlacesEnd: the trial leaves no thread in a namespace of its own.
func TestPlacesEnd(t *testing.T) {
	needRoot(t)
	before := namespaces(t)
	if err := tryTranslation(context.Background(), natRule); err != nil {
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
