package check

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/cmd/pptpalg/internal/store/cluster/etcd"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// The judges of a cluster over made-up facts. cmd/pptpalg has a real one.

func TestClusterJudges(t *testing.T) {
	refused := errors.New("connection\n refused")
	up := etcd.Endpoint{Name: "a:2379", Version: "3.4.23", Leader: true}
	silent := etcd.Endpoint{Name: "b:2379", Err: refused}
	full, alone := up, up
	full.Full, alone.Leader = true, false
	judged := func(voters int, all ...etcd.Endpoint) Finding {
		return judgeEtcd(asked{tool: "etcdctl", health: etcd.Health{Endpoints: all, Voters: voters}})
	}
	took := func(most time.Duration) Finding {
		all := slices.Repeat([]time.Duration{time.Millisecond}, 20)
		all[3] = most
		return judgeLatency(latency{all, 250 * time.Millisecond, setting0})
	}
	mine := state.Member{Name: "me", Ports: "1723", Rest: 2 * time.Minute}
	with := func(change func(*state.Member)) Finding {
		other := mine
		other.Name = "b"
		change(&other)
		return judgeGateways(gateways{mine, []state.Member{mine, other}, true, setting0})
	}
	ahead := func(d time.Duration) Finding {
		return judgeClocks(clocks{[]string{"b"}, map[string]time.Duration{"b": d}})
	}
	for _, tt := range []struct {
		name  string
		got   Finding
		want  Result
		found string
	}{
		{"etcd", judged(3, up, up, up), OK, "3 members of etcd 3.4.23; all 3 addresses answer"},
		{"no files", judgeEtcd(asked{open: errors.New("read certificate")}), Warning, "would not start"},
		{"no etcd", judged(0, silent, silent), Problem, "does not answer: connection refused"},
		{"no quorum", judged(3, alone, silent), Problem, "no leader"},
		{"no room", judged(3, full, up), Problem, "quota"},
		{"a silent member", judged(3, up, silent, up), Warning, "1 of 3"},
		{"one member", judged(1, up), Warning, "only one member"},
		{"fast", took(2 * time.Millisecond), OK, "20 writes: half of them within 1.0 ms, all within 2.0 ms"},
		{"slow", took(60 * time.Millisecond), Warning, "60.0 ms"},
		{"too slow", took(300 * time.Millisecond), Problem, "longer than a packet waits (250ms)"},
		{"rights", judgeEtcdRights(rightsThere{prefix: "/p/1/"}), OK, "below /p/1/, and nowhere else"},
		{"all rights", judgeEtcdRights(rightsThere{Rights: etcd.Rights{Elsewhere: true}}), OK, "elsewhere"},
		{"no TLS", judgeEtcdRights(rightsThere{insecure: true}), Warning, "without TLS"},
		{"may not read", judgeEtcdRights(rightsThere{Rights: etcd.Rights{Read: refused}}), Problem, "read"},
		{"may not write", judgeEtcdRights(rightsThere{Rights: etcd.Rights{Write: refused}}), Problem, "write"},
		{"alike", with(func(*state.Member) {}), OK, "b: the same"},
		{"other ports", with(func(m *state.Member) { m.Ports = "1723 1724" }), Problem, "--ports is 1723 here, and 1723,1724 on b"},
		{"other rest", with(func(m *state.Member) { m.Rest = time.Minute }), Problem, "--rest is 2m0s here, and 1m0s on b"},
		{"other IDs", with(func(m *state.Member) { m.RandomIDs = true }), Problem, "--random-ids is false here, and true on b"},
		{"alone", judgeGateways(gateways{me: mine, set: setting0}), Warning, "no other gateway"},
		{"one name", judgeGateways(gateways{me: mine, up: []state.Member{mine}, set: setting0}), Problem, "the name me"},
		{"clocks", ahead(-20 * time.Millisecond), OK, "within 20ms"},
		{"no clocks", judgeClocks(clocks{}), OK, "no other"},
		{"wrong clock", ahead(-1500 * time.Millisecond), Problem, "the clock of b differs from this gateway's by 1.5s"},
		{"silent clock", judgeClocks(clocks{up: []string{"b"}}), Warning, "does not report its time"},
		{"room", judgeClusterTable(clusterTable{262144, 1000}), OK, "the 1000 calls of all gateways need 3000 of 262144"},
		{"no limit", judgeClusterTable(clusterTable{0, 1000}), OK, "no limit"},
		{"no room for entries", judgeClusterTable(clusterTable{262144, 87000}), Problem, "need 261000 conntrack entries here, more than the limit of 262144"},
	} {
		t.Run(tt.name, func(t *testing.T) { wants(t, tt.got, tt.want, tt.found) })
	}
}

const tracksUs = "vrrp_script daemon {\n script \"/usr/bin/pptpalg cluster status\"\n interval 1\n}\n"

// instances are a configuration of keepalived with two of them.
func instances(group, each string) string {
	text := "# pptpalg\nglobal_defs {\n vrrp_version 3 ! fast\n}\n" + tracksUs + group
	for _, name := range []string{"inside", "outside"} {
		text += "vrrp_instance " + name + " {\n interface lan\n advert_int 0.1\n" + each + "virtual_ipaddress {\n 203.0.113.1/24 dev wan\n}\n}\n"
	}
	return text
}

func TestConfigurationsOfOthers(t *testing.T) {
	const group, tracked = "vrrp_sync_group all {\n group {\n inside\n outside\n }\n track_script {\n daemon\n }\n}\n", "track_script {\n daemon\n}\n"
	vrrp := func(text string) Finding { return judgeKeepalived(keepalived{"f", readBlocks(text, "#!")}) }
	sync := func(text string) Finding { return judgeConntrackd(conntrackd{"f", readBlocks(text, "#")}) }
	for _, tt := range []struct {
		name  string
		got   Finding
		want  Result
		found string
	}{
		{"by the group", vrrp(instances(group, "")), OK, "checks whether the daemon is ready"},
		{"each by itself", vrrp(instances("", tracked)), Warning, "in no vrrp_sync_group"},
		{"by nobody", vrrp(instances("vrrp_sync_group all {\n group {\n inside\n outside\n }\n}\n", "")), Warning, "does not check"},
		{"another script", vrrp(instances(group, "") + "vrrp_instance third {\n track_script {\n chk_nginx\n }\n}\n"), Warning, "third stays"},
		{"slow", vrrp(tracksUs + "vrrp_instance one {\n interface wan\n" + tracked + "}\n"), Warning, "three seconds"},
		{"by /-/ready", vrrp("vrrp_version 3\nvrrp_script x {\n script \"curl -sf 127.0.0.1:9723/-/ready\"\n}\nvrrp_instance one {\n advert_int 0.2\n track_script { x }\n}\n"), OK, ""},
		{"no instance", vrrp("global_defs {\n}\n"), OK, "not installed"},
		{"no keepalived", judgeKeepalived(keepalived{}), OK, "not installed"},
		{"no conntrackd", judgeConntrackd(conntrackd{}), OK, "not installed"},
		{"all is copied", sync("Sync {\n Mode FTFW {\n }\n}\nGeneral {\n}\n"), Warning, "replicates GRE"},
		{"some is copied", sync("General {\n Filter From Userspace {\n  Protocol Accept {\n   TCP\n   UDP # no GRE\n  }\n }\n}\n"), OK, "does not replicate GRE"},
		{"GRE, too", sync("General {\n Filter {\n Protocol Accept {\n TCP\n GRE\n }\n}\n}\n"), Warning, "replicates GRE"},
		{"all but GRE", sync("General {\n Filter {\n Protocol Ignore {\n gre\n }\n}\n}\n"), OK, "does not replicate GRE"},
		{"all but UDP", sync("General {\n Filter {\n Protocol Ignore {\n UDP\n }\n}\n}\n"), Warning, "replicates GRE"},
	} {
		t.Run(tt.name, func(t *testing.T) { wants(t, tt.got, tt.want, tt.found) })
	}
	k := keepalived{"f", readBlocks(instances("", ""), "#!")}
	if diff := cmp.Diff("203.0.113.1 203.0.113.1", joinedAddresses(k)); diff != "" {
		t.Error(diff)
	}
}

func joinedAddresses(k keepalived) string {
	text := ""
	for i, a := range k.addresses() {
		if i > 0 {
			text += " "
		}
		text += a.String()
	}
	return text
}

// TestMovingAddress: who masquerades loses its calls when the address moves.
func TestMovingAddress(t *testing.T) {
	etc := t.TempDir()
	clustered := func(c *Config) {
		c.Cluster = &Cluster{Etcd: etcd.Config{Target: etcd.Target{Endpoints: []string{"127.0.0.1:1"}, Prefix: "/p/1/"}, Insecure: true}, Member: state.Member{Name: "a"}, Etc: etc}
	}
	for name, nat := range map[string]string{
		"iptables": "",
		"nft":      "iptables -t nat -F; " + nftNAT + "nft add rule ip n post oifname wan masquerade",
	} {
		t.Run(name, func(t *testing.T) {
			p := gateway(t)
			sh(t, p, nat)
			file := filepath.Join(etc, "keepalived", "keepalived.conf")
			if err := os.RemoveAll(filepath.Dir(file)); err != nil {
				t.Fatal(err)
			}
			wants(t, findIn(t, p, "moving-address", clustered), Warning, "masqueraded by")
			if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(instances("", "")), 0o644)); err != nil {
				t.Fatal(err)
			}
			f := findIn(t, p, "moving-address", clustered)
			wants(t, f, Problem, netip.MustParseAddr("203.0.113.1").String()+" moves")
			mend(t, p, f, clustered)
		})
	}
}

// TestSharedAddress: gateways that have one public address at the same time must not give the same ports.
func TestSharedAddress(t *testing.T) {
	second := func(c *Config) {
		c.Cluster = &Cluster{Etcd: etcd.Config{Target: etcd.Target{Endpoints: []string{"127.0.0.1:1"}, Prefix: "/p/1/"}, Insecure: true}, Member: state.Member{Name: "b", Share: "2/2"}, Etc: t.TempDir()}
	}
	const flush = "iptables -t nat -F; "
	for name, tt := range map[string]struct {
		nat  string
		well bool
	}{
		"iptables, any port":     {"iptables -t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.1", false},
		"iptables, all ports":    {"iptables -t nat -A POSTROUTING -o wan -p tcp -j SNAT --to-source 203.0.113.1:1024-65535", false},
		"iptables":               {"iptables -t nat -A POSTROUTING -o wan -p tcp -j SNAT --to-source 203.0.113.1:32768-65535", true},
		"nft, the other's ports": {nftNAT + "nft add rule ip n post oifname wan meta l4proto tcp snat to 203.0.113.1:1024-32767", false},
		"nft":                    {nftNAT + "nft add rule ip n post oifname wan meta l4proto tcp snat to 203.0.113.1:40000-50000", true},
	} {
		t.Run(name, func(t *testing.T) {
			p := gateway(t)
			sh(t, p, flush+tt.nat)
			f := findIn(t, p, "moving-address", second)
			if tt.well {
				wants(t, f, OK, "no control connection is masqueraded")
				return
			}
			wants(t, f, Problem, "the ports must be 32768 to 65535")
			mend(t, p, f, second)
		})
	}
}
