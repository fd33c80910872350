package preflight

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/nfqueue"
)

func TestSystemJudges(t *testing.T) {
	refused := errors.New("operation\n not permitted")
	both := capabilities(1<<12 | 1<<13)
	taken := &nfqueue.TakenError{Queue: 1723, PID: 77, Command: "snort"}
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
		{"two backends", judgeIPTables(backend{version: "iptables v1.8.9 (nf_tables)", legacy: "nat filter"}), Warning, "nat filter"},
		{"bound", judgeBindable(binding{}), OK, ""},
		{"not bound", judgeBindable(binding{refused}), Problem, "operation not permitted"},
		{"free", judgeQueueOwner(owned{queue: 5}), OK, "5 is free"},
		{"the daemon's", judgeQueueOwner(owned{queue: 5, taken: taken, running: true}), OK, "daemon's"},
		{"snort's", judgeQueueOwner(owned{queue: 5, taken: taken}), Problem, "snort (process 77)"},
		{"unknown owner", judgeQueueOwner(owned{queue: 5, taken: &nfqueue.TakenError{}}), Problem, "another program"},
		{"daemon of another queue", judgeQueueOwner(owned{queue: 5, running: true}), Problem, "nobody has queue 5"},
		{"conntrack", judgeConntrack(tracked{}), OK, ""},
		{"no netlink", judgeConntrack(tracked{dial: refused}), Problem, "cannot be asked"},
		{"entries refused", judgeConntrack(tracked{probe: refused}), Warning, "does not take"},
		{"translated", judgeTranslation(tried{}), OK, ""},
		{"not translated", judgeTranslation(tried{refused}), Warning, "does not translate"},
		{"forwards", judgeForwarding("1"), OK, ""},
		{"forwards not", judgeForwarding("0"), Problem, "is 0"},
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
		{"daemon", judgeDaemon(state{running: true, rules: true}), OK, ""},
		{"daemon without rules", judgeDaemon(state{running: true}), Problem, "no rule sends"},
		{"rules without daemon", judgeDaemon(state{rules: true, why: "gone"}), Warning, "gone"},
		{"neither", judgeDaemon(state{why: "gone"}), Warning, "gone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wants(t, tt.got, tt.want, tt.found) })
	}
}

// TestFirewallJudges has what this kernel or its iptables cannot load, and how little
// changes what is found.
func TestFirewallJudges(t *testing.T) {
	const forward = "*filter\n:FORWARD ACCEPT [0:0]\n:fw - [0:0]\n"
	nft := func(expr string) string {
		return `{"nftables": [{"metainfo": {"version": "1.0.6"}},
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
		{"flowtable for the rest", "", nft(port("!=", "1723") + `, {"flow": {"op": "add", "flowtable": "@ft"}}`), judgeOffload, OK, ""},
		{"FLOWOFFLOAD", forward + "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j FLOWOFFLOAD\n", "", judgeOffload, Problem, "FLOWOFFLOAD"},
		{"accepted before FLOWOFFLOAD", forward + "-A FORWARD -p tcp --dport 1723 -j ACCEPT\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j FLOWOFFLOAD\n", "", judgeOffload, OK, ""},
		{"FLOWOFFLOAD of UDP", forward + "-A FORWARD -p udp -j FLOWOFFLOAD\n", "", judgeOffload, OK, ""},
		{"range", "", nft(port("==", `{"range": [1000, 2000]}`) + `, {"drop": null}`), judgeControl, Problem, "handle 5"},
		{"set", "", nft(port("==", `{"set": [80, {"range": [1700, 1800]}]}`) + `, {"reject": null}`), judgeControl, Problem, "handle 5"},
		{"named set", "", nft(port("==", `"@ports"`) + `, {"drop": null}`), judgeControl, Warning, "may drop"},
		{"negated", "", nft(port("!=", `1723`) + `, {"drop": null}`), judgeControl, Problem, "from port 1723"},
		{"udp negated", "", nft(`{"match": {"op": "!=", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 53}}, {"drop": null}`), judgeGRE, OK, ""},
		{"unknown expression", "", nft(tcp + `, {"limit": {"rate": 1}}, {"drop": null}`), judgeControl, Warning, "may drop"},
		{"comment and counter", "", nft(tcp + `, {"counter": {"packets": 1}}, {"log": null}, {"drop": null}`), judgeControl, Problem, "handle 5"},
		{"loopback", forward + "-A FORWARD -i lo -p tcp -j DROP\n", "", judgeControl, OK, ""},
		{"not loopback", forward + "-A FORWARD ! -i lo -p tcp -j DROP\n", "", judgeControl, Problem, "! -i lo"},
		{"quoted", forward + `-A FORWARD -p tcp -m comment --comment "a \"-j ACCEPT\" b" -j DROP` + "\n", "", judgeControl, Problem, "-j DROP"},
		{"return", forward + "-A FORWARD -j fw\n-A fw -p tcp -j RETURN\n-A fw -j DROP\n", "", judgeControl, OK, ""},
		{"goto", forward + "-A FORWARD -g fw\n-A FORWARD -j DROP\n-A fw -p udp -j DROP\n", "", judgeControl, OK, ""},
		{"chains in a circle", forward + "-A FORWARD -j fw\n-A fw -j fw\n-A fw -p gre -j DROP\n", "", judgeGRE, Problem, "drops GRE"},
		{"the daemon's data path", forward + "-A FORWARD -p gre -j PPTPALG-GRE\n:PPTPALG-GRE - [0:0]\n-A PPTPALG-GRE -p gre -m connlabel --label 119 -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeGRE, OK, ""},
		{"both ways by sides", forward + "-A FORWARD -i lan -j ACCEPT\n-A FORWARD -o lan -m state --state ESTABLISHED -j ACCEPT\n-A FORWARD -j DROP\n", "", judgeGRE, OK, ""},
		{"blacklist", forward + "-A FORWARD -m set --match-set bad src -j DROP\n", "", judgeGRE, OK, ""},
		{"iptables' own in nft", "", `{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "policy": "drop"}}]}`, judgeGRE, OK, ""},
		{"IPv6", "", `{"nftables": [{"chain": {"family": "ip6", "table": "fw", "name": "FORWARD", "type": "filter", "hook": "forward", "policy": "drop"}}]}`, judgeGRE, OK, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := parseNFT(tt.nft, true)
			if err != nil {
				t.Fatal(err)
			}
			f := firewall{rules: append(all, parseIPTables("iptables", tt.iptables)...), ports: []uint16{1723}}
			wants(t, tt.judge(f), tt.want, tt.found)
		})
	}
}

func TestParseNFTBroken(t *testing.T) {
	if all, err := parseNFT("{", true); err == nil || all != nil {
		t.Errorf("%v, %v", all, err)
	}
}

func FuzzRules(f *testing.F) {
	f.Add("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD ! -p tcp -m x --y \"z\\\" \" -j\n", `{"nftables": [{"rule": {"expr": [{"vmap": {"data": {"set": [[1, 2]]}}}]}}]}`)
	f.Fuzz(func(t *testing.T, iptables, nft string) {
		all, err := parseNFT(nft, false)
		if err != nil {
			all = nil
		}
		w := firewall{rules: append(all, parseIPTables("iptables", iptables)...), ports: []uint16{1723}}
		for _, judge := range []func(firewall) Finding{judgeControl, judgeGRE, judgeNAT, judgeHelper, judgeTracking, judgeProxy, judgeOffload} {
			if found := judge(w); (found.Remedy == "") != (found.Result == OK) {
				t.Errorf("%+v", found)
			}
		}
	})
}

func TestRoutes(t *testing.T) {
	tests := []struct {
		text string
		want int
	}{
		{"", 0},
		{"default via 192.0.2.1 dev wan \n10.0.0.0/8 dev lan\n", 1},
		{"default via 192.0.2.1 dev wan \ndefault via 192.0.3.1 dev wan2 table 7 \n", 2},
		{"default \n\tnexthop via 192.0.2.1 dev a weight 1 \n\tnexthop via 192.0.3.1 dev b weight 1 \n10.0.0.0/8 \n\tnexthop via 1.1.1.1\n", 2},
	}
	for _, tt := range tests {
		if got := defaultRoutes(tt.text); got != tt.want {
			t.Errorf("%q: %d, want %d", tt.text, got, tt.want)
		}
	}
	if n := extraRules("0:\tfrom all lookup local\n7:\tfrom all fwmark 0x1 lookup 7\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n"); n != 1 {
		t.Errorf("%d rules", n)
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
