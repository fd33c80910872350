package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/nfqueue"
	"pptpalg/rules"
)

func TestSystemJudges(t *testing.T) {
	refused := errors.New("operation\n not permitted")
	both := capabilities(1<<12 | 1<<13)
	queue5, set := []uint16{5}, setting0
	taken := &takenBy{queue: 5, pid: 77, command: "snort", key: "queue"}
	lan := []way{{"lan", "wan"}}
	tests := []struct {
		name  string
		got   Finding
		want  Result
		found string
	}{
		{"rights", judgeRights(both), OK, ""},
		{"no right", judgeRights(0), Problem, "CAP_NET_ADMIN"},
		{"no raw", judgeRights(1 << 12), Warning, "CAP_NET_RAW"},
		{"no iptables", judgeIPTables(backend{}), Problem, "not installed"},
		{"iptables", judgeIPTables(backend{version: "iptables v1.8.9 (nf_tables)"}), OK, "v1.8.9"},
		{"legacy alone", judgeIPTables(backend{version: "iptables v1.8.9 (legacy)", legacy: "nat"}), OK, "legacy"},
		{"no iptables, and no need", judgeIPTables(backend{spared: true}), OK, "not needed"},
		{"two backends", judgeIPTables(backend{version: "iptables v1.8.9 (nf_tables)", legacy: "nat filter"}), Warning, "nat filter"},
		{"bound", judgeBindable(binding{}), OK, ""},
		{"not bound", judgeBindable(binding{refused}), Problem, "operation not permitted"},
		{"free", judgeQueueOwner(owned{numbers: queue5}), OK, "5 is free"},
		{"the daemon's", judgeQueueOwner(owned{numbers: queue5, taken: taken, running: true}), OK, "daemon's"},
		{"snort's", judgeQueueOwner(owned{numbers: queue5, taken: taken, set: set}), Problem, "snort (process 77)"},
		{"unknown owner", judgeQueueOwner(owned{numbers: []uint16{5, 6, 7}, taken: &takenBy{queue: 7}, set: set}), Problem, "queue 7 is taken by another program"},
		{"daemon of another queue", judgeQueueOwner(owned{numbers: queue5, running: true}), Problem, "nobody has queue 5"},
		{"conntrack", judgeConntrack(tracked{}), OK, ""},
		{"no netlink", judgeConntrack(tracked{dial: refused}), Problem, "cannot be asked"},
		{"entries refused", judgeConntrack(tracked{probe: refused, path: "kernel", set: set}), Problem, "does not take"},
		{"entries refused, the daemon decides", judgeConntrack(tracked{probe: refused, path: "auto", queued: true, set: set}), Warning, "every GRE packet"},
		{"entries refused, the daemon translates", judgeConntrack(tracked{probe: refused, path: "queue", queued: true}), OK, ""},
		{"translated", judgeTranslation(tried{}), OK, ""},
		{"not translated", judgeTranslation(tried{err: refused, set: set}), Problem, "does not translate"},
		{"not translated, and need not", judgeTranslation(tried{err: refused, queued: true}), OK, "need not"},
		{"nothing arrived", judgeTranslation(tried{err: errNothing, set: set}), Warning, "seems not"},
		{"forwards", judgeForwarding(forwards{all: "1", ways: lan}), OK, ""},
		{"forwards not", judgeForwarding(forwards{all: "0", ways: lan}), Problem, "is 0"},
		{"config", judgeConfig(File{Name: "f"}), OK, "f"},
		{"no config", judgeConfig(File{}), OK, "defaults"},
		{"wrong config", judgeConfig(File{Err: refused, Mend: "sed -i 3d f"}), Problem, "operation not permitted"},
		{"rules", judgeLoading(loading{}), OK, ""},
		{"rules of others", judgeLoading(loading{spared: true}), OK, "not loaded"},
		{"rules without a match", judgeLoading(loading{refused: refused}), Warning, "without what is refused"},
		{"rules not loaded", judgeLoading(loading{failed: refused}), Problem, "cannot be loaded"},
		{"rules in a table of nft's", judgeLoading(loading{table: "mangle"}), Problem, "refuses table mangle"},
		{"counts", judgeAccounting("1"), OK, ""},
		{"counts not", judgeAccounting("0"), Warning, "idle-timeout"},
		{"no helper setting", judgeHelperSetting(helperSetting{}), OK, "by rule alone"},
		{"helper setting off", judgeHelperSetting(helperSetting{automatic: "0", loaded: true}), OK, ""},
		{"helper setting on", judgeHelperSetting(helperSetting{automatic: "1", loaded: true}), Problem, "every control connection"},
		{"helper may come", judgeHelperSetting(helperSetting{automatic: "1"}), Warning, "once it is loaded"},
		{"loose", judgeReversePath(reversePath{defaults: 3, rules: 3}), OK, ""},
		{"strict", judgeReversePath(reversePath{strict: []string{"a"}, defaults: 1}), OK, ""},
		{"strict, two ways", judgeReversePath(reversePath{strict: []string{"a", "b"}, defaults: 2}), Warning, "a, b"},
		{"strict, rules", judgeReversePath(reversePath{strict: []string{"a"}, rules: 1}), Warning, "1 routing rules"},
		{"room", judgeTable(table{74, 100}), OK, "74 of 100"},
		{"filling", judgeTable(table{75, 100}), Warning, "75 of 100"},
		{"full", judgeTable(table{95, 100}), Problem, "95 of 100"},
		{"no limit", judgeTable(table{95, 0}), OK, "without a limit"},
		{"daemon", judgeDaemon(state{running: true}), OK, ""},
		{"daemon without rules", judgeDaemon(state{running: true, load: "pptpalg rules load", queued: queueing{state: nowhere}}), Problem, "no rule sends"},
		{"daemon without rules for GRE", judgeDaemon(state{running: true, load: "pptpalg rules load", queued: queueing{gre: true}}), Problem, "no rule sends it any"},
		{"rules without daemon", judgeDaemon(state{why: "gone"}), Warning, "gone"},
		{"neither", judgeDaemon(state{why: "gone", queued: queueing{state: nowhere}}), Warning, "gone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wants(t, tt.got, tt.want, tt.found) })
	}
}

// setting0 stands for the command that sets a key.
func setting0(key, value string) string { return "set-key " + key + " " + shell(value) }

// judged is a firewall between lan and wan.
func judged(all ruleset) firewall {
	return firewall{rules: all.link(), ways: []way{{"lan", "wan"}}, ports: []uint16{1723}, set: setting0}
}

// judgeQueued is judgeGRE where the daemon translates.
func judgeQueued(f firewall) Finding {
	f.gre = greRules{queued: true, data: rules.Data{Mark: rules.DefaultMark}}
	return judgeGRE(f)
}

// TestFirewallJudges has what this kernel or its iptables cannot load, and how little
// changes what is found.
func TestFirewallJudges(t *testing.T) {
	const forward = "*filter\n:FORWARD ACCEPT [0:0]\n:fw - [0:0]\n"
	nft := func(expr string) string {
		return `{"nftables": [{"metainfo": {"version": "1.0.6"}},
			{"set": {"family": "inet", "table": "fw", "name": "ports", "type": "inet_service", "elem": [80, {"elem": {"val": 1723, "comment": "PPTP"}}]}},
			{"set": {"family": "inet", "table": "fw", "name": "none", "type": "inet_service"}},
			{"set": {"family": "inet", "table": "fw", "name": "changing", "type": "inet_service", "flags": ["dynamic"], "elem": [1723]}},
			{"set": {"family": "inet", "table": "fw", "name": "pairs", "type": ["inet_proto", "inet_service"], "elem": [{"concat": ["tcp", 1723]}]}},
			{"map": {"family": "inet", "table": "fw", "name": "verdicts", "map": "verdict", "elem": [[80, {"accept": null}], [1723, {"drop": null}]]}},
			{"chain": {"family": "inet", "table": "fw", "name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
			{"rule": {"family": "inet", "table": "fw", "chain": "f", "handle": 5, "expr": [` + expr + `]}}]}`
	}
	const tcp = `{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}`
	port := func(op, right string) string {
		return `{"match": {"op": "` + op + `", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": ` + right + `}}`
	}
	tests := []struct {
		name     string
		iptables string
		nft      string
		judge    func(firewall) Finding
		want     Result
		found    string
	}{
		{"empty", "", "", judgeControl, OK, ""},
		{"flowtable", "", nft(tcp + `, {"flow": {"op": "add", "flowtable": "@ft"}}`), judgeOffload, Problem, "skip the queue"},
		{"flowtable of a mark", "", nft(tcp + `, {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 1}}, {"flow": {"op": "add", "flowtable": "@ft"}}`), judgeOffload, Warning, "may be offloaded"},
		{"flowtable for the rest", "", nft(port("!=", "1723") + `, {"match": {"op": "!=", "left": {"payload": {"protocol": "tcp", "field": "sport"}}, "right": 1723}}, {"flow": {"op": "add", "flowtable": "@ft"}}`), judgeOffload, OK, ""},
		{"FLOWOFFLOAD", forward + "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j FLOWOFFLOAD\n", "", judgeOffload, Problem, "FLOWOFFLOAD"},
		{"accepted before FLOWOFFLOAD", forward + "-A FORWARD -p tcp -m conntrack --ctstate ESTABLISHED --ctorigdstport 1723 -j ACCEPT\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j FLOWOFFLOAD\n", "", judgeOffload, OK, ""},
		{"FLOWOFFLOAD of UDP", forward + "-A FORWARD -p udp -j FLOWOFFLOAD\n", "", judgeOffload, OK, ""},
		{"range", "", nft(port("==", `{"range": [1000, 2000]}`) + `, {"drop": null}`), judgeControl, Problem, "handle 5"},
		{"set", "", nft(port("==", `{"set": [80, {"range": [1700, 1800]}]}`) + `, {"reject": null}`), judgeControl, Problem, "handle 5"},
		{"named set", "", nft(port("==", `"@ports"`) + `, {"drop": null}`), judgeControl, Problem, "handle 5"},
		{"empty set", "", nft(port("==", `"@none"`) + `, {"drop": null}`), judgeControl, OK, ""},
		{"not in the empty set", "", nft(port("!=", `"@none"`) + `, {"drop": null}`), judgeControl, Problem, "handle 5"},
		{"set that changes", "", nft(port("==", `"@changing"`) + `, {"drop": null}`), judgeControl, Warning, "may drop"},
		{"set of another table", "", nft(port("==", `"@strange"`) + `, {"drop": null}`), judgeControl, Warning, "may drop"},
		{"set of pairs", "", nft(`{"match": {"op": "==", "left": {"concat": [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "th", "field": "dport"}}]}, "right": "@pairs"}}, {"drop": null}`), judgeControl, Problem, "handle 5"},
		{"named map", "", nft(`{"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@verdicts"}}`), judgeControl, Problem, "handle 5"},
		{"negated", "", nft(port("!=", `1723`) + `, {"drop": null}`), judgeControl, Problem, "from port 1723"},
		{"udp negated", "", nft(`{"match": {"op": "!=", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 53}}, {"drop": null}`), judgeGRE, OK, ""},
		{"no SYN", "", nft(`{"match": {"op": "!=", "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}, "right": "syn"}}, {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}, {"drop": null}`), judgeControl, OK, ""},
		{"unknown expression", "", nft(port("==", "1723") + `, {"quota": {"val": 1}}, {"drop": null}`), judgeControl, Warning, "may drop"},
		{"unknown expression of all TCP", "", nft(tcp + `, {"quota": {"val": 1}}, {"drop": null}`), judgeControl, OK, ""},
		{"within a rate", "", nft(`{"limit": {"rate": 1}}, {"accept": null}, {"drop": null}`), judgeControl, OK, ""},
		{"over a rate", "", nft(`{"limit": {"rate": 1, "inv": true}}, {"drop": null}`), judgeGRE, OK, ""},
		{"rates of iptables", forward + "-A FORWARD -p tcp --dport 1723 -m hashlimit --hashlimit-above 9/sec --hashlimit-name x -j DROP\n-A FORWARD -m limit --limit 9/sec --limit-burst 9 -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeControl, Warning, "hashlimit"},
		{"connections over a number", forward + "-A FORWARD -p tcp --tcp-flags FIN,SYN,RST,ACK SYN -m connlimit --connlimit-above 20 -j REJECT\n", "", judgeControl, OK, ""},
		{"without IPsec", forward + "-A FORWARD -m policy --dir in --pol none -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeGRE, OK, ""},
		{"bridged", forward + "-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeGRE, Problem, "drops GRE"},
		{"comment and counter", "", nft(tcp + `, {"counter": {"packets": 1}}, {"log": null}, {"drop": null}`), judgeControl, Problem, "handle 5"},
		{"loopback", forward + "-A FORWARD -i lo -p tcp -j DROP\n", "", judgeControl, OK, ""},
		{"not loopback", forward + "-A FORWARD ! -i lo -p tcp -j DROP\n", "", judgeControl, Problem, "! -i lo"},
		{"pattern", forward + "-A FORWARD -i la+ -p tcp -j DROP\n", "", judgeControl, Problem, "-i la+"},
		{"quoted", forward + `-A FORWARD -p tcp -m comment --comment "a \"-j ACCEPT\" b" -j DROP` + "\n", "", judgeControl, Problem, "-j DROP"},
		{"return", forward + "-A FORWARD -j fw\n-A fw -p tcp -j RETURN\n-A fw -j DROP\n", "", judgeControl, OK, ""},
		{"perhaps returned, and dropped", forward + "-A FORWARD -j fw\n-A FORWARD -j DROP\n-A fw -m mark --mark 1 -j RETURN\n-A fw -j ACCEPT\n", "", judgeGRE, Warning, "cannot be told"},
		{"perhaps gone to, and dropped", forward + ":fw2 - [0:0]\n-A FORWARD -j fw\n-A FORWARD -j DROP\n-A fw -m mark --mark 1 -g fw2\n-A fw -j ACCEPT\n", "", judgeGRE, Warning, "cannot be told"},
		{"goto", forward + "-A FORWARD -g fw\n-A FORWARD -j DROP\n-A fw -p udp -j DROP\n", "", judgeControl, OK, ""},
		{"chains in a circle", forward + "-A FORWARD -j fw\n-A fw -j fw\n-A fw -p gre -j DROP\n", "", judgeGRE, Problem, "drops GRE"},
		{"the daemon's data path", forward + "-A FORWARD -p gre -m conntrack --ctstate UNTRACKED -j PPTPALG-GRE\n:PPTPALG-GRE - [0:0]\n-A PPTPALG-GRE -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeQueued, OK, ""},
		{"the data path, without its rules", forward + "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeQueued, Problem, "drops GRE"},
		{"the data path, by nft", "", nft(`{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "untracked"}}, {"accept": null}, {"drop": null}`), judgeQueued, OK, ""},
		{"the data path, by direction", forward + "-A FORWARD -m conntrack --ctdir ORIGINAL -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeQueued, Problem, "drops GRE"},
		{"both ways by sides", forward + "-A FORWARD -i lan -j ACCEPT\n-A FORWARD -o lan -m state --state ESTABLISHED -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeGRE, OK, ""},
		{"one way by direction", forward + "-A FORWARD -m conntrack --ctdir REPLY -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeGRE, Problem, "drops GRE"},
		{"blacklist", forward + "-A FORWARD -m set --match-set bad src -j DROP\n", "", judgeGRE, OK, ""},
		{"iptables' own in nft", "", `{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "policy": "drop"}}]}`, judgeGRE, Problem, "the policy of nft ip filter"},
		{"IPv6", "", `{"nftables": [{"chain": {"family": "ip6", "table": "fw", "name": "FORWARD", "type": "filter", "hook": "forward", "policy": "drop"}}]}`, judgeGRE, OK, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := parseNFT(tt.nft, nil)
			if err != nil {
				t.Fatal(err)
			}
			wants(t, tt.judge(judged(append(all, parseIPTables("iptables", tt.iptables)...))), tt.want, tt.found)
		})
	}
}

// TestQueuedByNFT is for the nft form of our rules, which kernels without queue for nft
// cannot load.
func TestQueuedByNFT(t *testing.T) {
	const text = `{"nftables": [
		{"chain": {"family": "ip", "table": "pptpalg", "name": "prerouting", "type": "filter", "hook": "prerouting", "prio": -149, "policy": "accept"}},
		{"chain": {"family": "ip", "table": "pptpalg", "name": "control"}},
		{"rule": {"family": "ip", "table": "pptpalg", "chain": "prerouting", "handle": 5, "expr": [
			{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "lo"}},
			{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
			{"match": {"op": "==", "left": {"ct": {"key": "proto-dst", "dir": "original"}}, "right": 1723}},
			{"jump": {"target": "control"}}]}},
		{"rule": {"family": "ip", "table": "pptpalg", "chain": "control", "handle": 6, "expr": [
			{"match": {"op": "==", "left": {"ct": {"key": "label"}}, "right": 118}}, {"return": null}]}},
		{"rule": {"family": "ip", "table": "pptpalg", "chain": "control", "handle": 7, "expr": [{"queue": {"num": 1723, "flags": "bypass"}}]}}]}`
	all, err := parseNFT(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := judged(all)
	for _, tt := range []struct {
		number uint16
		ports  []uint16
		want   arrival
	}{{1723, []uint16{1723}, arrives}, {9, []uint16{1723}, elsewhere}, {1723, []uint16{1723, 1724}, missing}, {1723, []uint16{1724}, nowhere}} {
		f.ports = tt.ports
		if q := f.queueing(tt.number, rules.Data{}); q.state != tt.want {
			t.Errorf("queue %d, ports %v: %v, want %v", tt.number, tt.ports, q.state, tt.want)
		}
	}
}

func TestParseNFTBroken(t *testing.T) {
	if all, err := parseNFT("{", nil); err == nil || all != nil {
		t.Errorf("%v, %v", all, err)
	}
}

func FuzzRules(f *testing.F) {
	f.Add("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD ! -p tcp -m x --y \"z\\\" \" -j\n", `{"nftables": [{"rule": {"expr": [{"vmap": {"data": {"set": [[1, 2]]}}}]}}]}`)
	f.Fuzz(func(t *testing.T, iptables, nft string) {
		all, err := parseNFT(nft, nil)
		if err != nil {
			all = nil
		}
		w := judged(append(all, parseIPTables("iptables", iptables)...))
		for _, judge := range []func(firewall) Finding{judgeControl, judgeGRE, judgeNAT, judgePorts, judgeHelper, judgeTracking, judgeProxy, judgeOffload, judgeMarks} {
			if found := judge(w); (found.Remedy == "") != (found.Result == OK) {
				t.Errorf("%+v", found)
			}
		}
		w.queueing(1723, rules.Data{})
	})
}

func TestNetwork(t *testing.T) {
	const listed = `[{"dst":"default","gateway":"192.0.2.1","dev":"wan","flags":[]},
		{"dst":"default","gateway":"192.0.3.1","dev":"wan2","table":"7","flags":[]},
		{"dst":"default","flags":[],"nexthops":[{"gateway":"192.0.2.1","dev":"wan"},{"gateway":"192.0.4.1","dev":"wan3"}]},
		{"dst":"0.0.0.0/1","dev":"tun0","flags":[]},
		{"dst":"10.0.0.0/24","dev":"lan","flags":[]},
		{"dst":"172.17.0.0/16","dev":"docker0","flags":[]},
		{"dst":"10.0.0.77","dev":"dmz","flags":[]},
		{"type":"blackhole","dst":"10.9.0.0/16","flags":[]},
		{"type":"local","dst":"10.0.0.1","dev":"lan","table":"local","flags":[]}]`
	var n network
	if err := n.readRoutes(listed); err != nil {
		t.Fatal(err)
	}
	if got := n.defaults(); got != 4 {
		t.Errorf("%d default routes", got)
	}
	var got []string
	for _, w := range n.ways(nil) {
		got = append(got, w.inside+">"+w.outside)
	}
	want := "dmz>tun0 dmz>wan dmz>wan2 dmz>wan3 lan>tun0 lan>wan lan>wan2 lan>wan3 docker0>tun0 docker0>wan docker0>wan2 docker0>wan3"
	if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for addr, dev := range map[string]string{"10.0.0.5": "lan", "10.0.0.77": "dmz", "192.0.2.9": ""} {
		s, _ := spanOf(addr)
		if got := n.towards(s); got != dev {
			t.Errorf("%s: %q, want %q", addr, got, dev)
		}
	}
	for addr, own := range map[string]bool{"10.0.0.1": true, "10.0.0.5": false} {
		if s, _ := spanOf(addr); n.own(s) != own {
			t.Errorf("%s is its own: %t", addr, !own)
		}
	}
	if diff := cmp.Diff([]way{{}}, network{}.ways(nil), cmp.AllowUnexported(way{})); diff != "" {
		t.Errorf("without routes (-want +got)\n%s", diff)
	}
}

func TestRoutingRules(t *testing.T) {
	all, err := readRules(`[{"priority":0,"src":"all","table":"local"},
		{"priority":50,"src":"10.0.0.0","srclen":24,"iif":"lan","iif_detached":null,"fwmark":"0x1","fwmask":"0xff","ipproto":"tcp","dport":1723,"table":"7"},
		{"priority":32766,"src":"all","table":"main"},{"priority":32767,"src":"all","table":"default"}]`)
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	want := "ip rule add priority 50 from 10.0.0.0/24 iif lan fwmark 0x1/0xff ipproto gre lookup 7"
	if got := all[0].sibling(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !all[0].takes([]uint16{1723}) || all[0].takes([]uint16{1724}) {
		t.Error("the rule is for port 1723")
	}
}

func TestForGRE(t *testing.T) {
	tests := []struct{ rule, want string }{
		{"PREROUTING -p tcp -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", "-p gre -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff"},
		{"ways -s 10.0.0.5/32 -i lan -p tcp -m multiport ! --dports 80,443 -m mark --mark 0x0 -j MARK --set-xmark 0x2/0xff", "-p gre -s 10.0.0.5/32 -i lan -m mark --mark 0x0 -j MARK --set-xmark 0x2/0xff"},
		{"PREROUTING ! -i wan -p tcp -m tcp --dport 1723 --tcp-flags SYN,ACK SYN -j CONNMARK --restore-mark", "-p gre ! -i wan -j CONNMARK --restore-mark"},
	}
	for _, tt := range tests {
		if got := iptablesRule("", split(tt.rule)).forGRE().iptables; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.rule, got, tt.want)
		}
	}
}

// TestShell: what comes out of a rule's comment is not carried out.
func TestShell(t *testing.T) {
	c := chain{table: "iptables filter", name: "FORWARD"}
	r := iptablesRule("", split(`FORWARD -p gre -m comment --comment "$(touch x) it's \"so\"" ! -i lan -j DROP`))
	want := `iptables -t filter -D FORWARD -p gre -m comment --comment '$(touch x) it'\''s "so"' ! -i lan -j DROP`
	if got := c.without(r); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestOutput(t *testing.T) {
	all := Findings{
		{Check: "rights", Result: OK, Found: "all"},
		{Check: "ip-forward", Result: Problem, Found: "off", Remedy: "sysctl <x>"},
		{Check: "nat", Result: Unchecked, Found: "no right", Remedy: "run as root"},
	}
	var text, js bytes.Buffer
	if err := errors.Join(all.WriteText(&text), all.WriteJSON(&js)); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"ok         rights      all",
		"problem    ip-forward  off",
		"                       -> sysctl <x>",
		"unchecked  nat         no right",
		"                       -> run as root",
		"",
	}, "\n")
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	var back []map[string]string
	if err := json.Unmarshal(js.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"check": "ip-forward", "result": "problem", "found": "off", "remedy": "sysctl <x>"}, back[1]); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCode(t *testing.T) {
	tests := []struct {
		results []Result
		want    int
	}{
		{nil, 0},
		{[]Result{OK, Warning}, 0},
		{[]Result{OK, Unchecked, Problem}, 1},
		{[]Result{Unchecked, Warning}, 2},
	}
	for _, tt := range tests {
		var all Findings
		for _, r := range tt.results {
			all = append(all, Finding{Result: r})
		}
		if got := all.Code(); got != tt.want {
			t.Errorf("%v: code %d, want %d", tt.results, got, tt.want)
		}
	}
	if s := Result(9).String(); s != "unknown(9)" {
		t.Error(s)
	}
}

// TestFree: the number that is recommended, and those behind it, can be had.
func TestFree(t *testing.T) {
	all := func(n int) (numbers []uint16) {
		for i := range n {
			numbers = append(numbers, uint16(i))
		}
		return numbers
	}
	tests := []struct {
		name    string
		taken   []uint16
		numbers []uint16
		want    uint16
	}{
		{"none else taken", []uint16{5}, []uint16{5}, 6},
		{"the next one taken", []uint16{5, 6}, []uint16{5}, 7},
		{"two runs taken", []uint16{5, 6, 7}, []uint16{5}, 8},
		{"first of a run taken", []uint16{5, 8}, []uint16{5, 6, 7}, 9},
		{"run after run taken", []uint16{5, 9, 10, 13}, []uint16{5, 6, 7}, 14},
		{"middle of a run taken", []uint16{5, 9}, []uint16{5, 6, 7}, 10},
		{"the highest taken", []uint16{65535}, []uint16{65535}, 0},
		{"the daemon's lock next", nil, []uint16{nfqueue.Lock - 1}, nfqueue.Lock + 1},
		{"no room for a run at the end", []uint16{65531, 0}, []uint16{65531, 65532, 65533}, 1},
		{"those that it has itself", []uint16{65535}, []uint16{0, 65534, 65535}, 1},
		{"all but one taken", slices.DeleteFunc(all(65536), func(n uint16) bool { return n == 3 }), []uint16{9}, 3},
		{"all taken", all(65536), []uint16{9}, 0},
	}
	for _, tt := range tests {
		taken := make(map[uint16]bool)
		for _, n := range tt.taken {
			taken[n] = true
		}
		if got := free(taken, tt.numbers); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
