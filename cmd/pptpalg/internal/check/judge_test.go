package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/internal/netns"
	"pptpalg/rules/nft"
)

func TestSystemJudges(t *testing.T) {
	refused := errors.New("operation\n not permitted")
	both := capabilities(1<<12 | 1<<13)
	queue5, set := []uint16{5}, setting0
	taken := &takenBy{queue: 5, pid: 77, command: "snort", key: "queue"}
	lan := []way{{"lan", "wan"}}
	chosen := []ports.Port{
		{Index: 2, Name: "lan", TC: true, Why: "no XDP: a bridge"}, {Index: 3, Name: "wan", XDP: true, Why: "the driver takes and sends"},
		{Index: 4, Name: "port0", Why: "it is a port of bridge lan"}, {Index: 1, Name: "lo", Why: "it is the loopback interface"},
	}
	attached := []fastpath.Attached{{Port: chosen[0]}, {Port: chosen[1]}}
	withoutXDP := func(refused bool) []fastpath.Attached {
		return []fastpath.Attached{attached[0], {Port: ports.Port{Index: 3, Name: "wan", TC: true}, Refused: refused}}
	}
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
		{"no iptables, and no need", judgeIPTables(backend{spared: "the rules are loaded by nftables"}), OK, "not installed, and not needed: the rules are loaded by nftables"},
		{"two backends", judgeIPTables(backend{version: "iptables v1.8.9 (nf_tables)", legacy: "nat filter"}), Warning, "nat filter"},
		{"bound", judgeBindable(binding{}), OK, ""},
		{"not bound", judgeBindable(binding{refused}), Problem, "operation not permitted"},
		{"free", judgeQueueOwner(owned{numbers: queue5}), OK, "5 is free"},
		{"the daemon's", judgeQueueOwner(owned{numbers: queue5, taken: taken, running: true}), OK, "running daemon"},
		{"snort's", judgeQueueOwner(owned{numbers: queue5, taken: taken, set: set}), Problem, "snort (process 77)"},
		{"unknown owner", judgeQueueOwner(owned{numbers: []uint16{5, 6, 7}, taken: &takenBy{queue: 7}, set: set}), Problem, "queue 7 is bound by another program"},
		{"daemon of another queue", judgeQueueOwner(owned{numbers: queue5, running: true}), Problem, "queue 5 is not bound"},
		{"conntrack", judgeConntrack(tracked{}), OK, ""},
		{"zones that are not told", judgeConntrack(tracked{blind: true}), Warning, "zones"},
		{"no netlink", judgeConntrack(tracked{dial: refused}), Problem, "cannot be queried"},
		{"entries refused", judgeConntrack(tracked{probe: refused, path: "kernel", set: set}), Problem, "refuses a call's entries"},
		{"entries refused, the daemon decides", judgeConntrack(tracked{probe: refused, path: "auto", queued: true, set: set}), Warning, "every GRE packet"},
		{"entries refused, the daemon translates", judgeConntrack(tracked{probe: refused, path: "queue", queued: true}), OK, ""},
		{"translated", judgeTranslation(tried{}), OK, ""},
		{"not translated", judgeTranslation(tried{err: refused, set: set}), Problem, "does not translate"},
		{"not translated, and need not", judgeTranslation(tried{err: refused, queued: true}), OK, "not needed"},
		{"nothing arrived", judgeTranslation(tried{err: errNothing, set: set}), Warning, "seems not"},
		{"forwards", judgeForwarding(forwards{all: "1", ways: lan}), OK, ""},
		{"forwards not", judgeForwarding(forwards{all: "0", ways: lan}), Problem, "is 0"},
		{"config", judgeConfig(File{Name: "f"}), OK, "f"},
		{"no config", judgeConfig(File{}), OK, "defaults"},
		{"two faults of a config", judgeConfig(File{Err: refused, Mend: "sed -i 3d f", Faults: []string{"f:1: a", "f:3: b"}}), Problem, "2 errors:\nf:1: a\nf:3: b"},
		{"wrong config", judgeConfig(File{Err: refused, Mend: "sed -i 3d f"}), Problem, "operation not permitted"},
		{"rules by nftables", judgeLoading(loading{by: "nft"}), OK, "nftables and the kernel accept"},
		{"rules by iptables, behind", judgeLoading(loading{by: "iptables", failed: []attempt{{name: "nft", failed: refused}}}), OK, "iptables and the kernel accept"},
		{"rules of others", judgeLoading(loading{spared: true}), OK, "they are loaded"},
		{"rules without a match", judgeLoading(loading{by: "nft", refused: refused}), Warning, "nftables loads the daemon's rules, except"},
		{"rules not loaded", judgeLoading(loading{failed: []attempt{{name: "nft", failed: refused}}}), Problem, "cannot be loaded"},
		{"rules in a table of nft's", judgeLoading(loading{failed: []attempt{{name: "iptables", table: "mangle", failed: refused}}}), Problem, "cannot read table mangle"},
		{"counts", judgeAccounting("1"), OK, ""},
		{"counts not", judgeAccounting("0"), Warning, "idle-timeout"},
		{"no helper setting", judgeHelperSetting(helperSetting{}), OK, "only by rule"},
		{"helper setting off", judgeHelperSetting(helperSetting{automatic: "0", loaded: true}), OK, ""},
		{"helper setting on", judgeHelperSetting(helperSetting{automatic: "1", loaded: true}), Problem, "every control connection"},
		{"helper may come", judgeHelperSetting(helperSetting{automatic: "1"}), Warning, "as soon as the module is loaded"},
		{"loose", judgeReversePath(reversePath{defaults: 3, rules: 3}), OK, ""},
		{"strict", judgeReversePath(reversePath{strict: []string{"a"}, defaults: 1}), OK, ""},
		{"strict, two ways", judgeReversePath(reversePath{strict: []string{"a", "b"}, defaults: 2}), Warning, "a, b"},
		{"strict, rules", judgeReversePath(reversePath{strict: []string{"a"}, rules: 1}), Warning, "1 routing rules"},
		{"room", judgeTable(table{74, 100}), OK, "74 of 100"},
		{"filling", judgeTable(table{75, 100}), Warning, "75 of 100"},
		{"full", judgeTable(table{95, 100}), Problem, "95 of 100"},
		{"no limit", judgeTable(table{95, 0}), OK, "without a limit"},
		{"fast path off", judgeFastPath(fastPath{}), OK, "off"},
		{"fast path off and attached", judgeFastPath(fastPath{attached: attached, unload: "pptpalg fastpath unload"}), Warning, "lan tc, wan xdp"},
		{"fast path over data path queue", judgeFastPath(fastPath{wanted: true, queued: true, chosen: chosen, off: "set-key fastpath off"}), Warning, "only with data path kernel"},
		{"fast path nowhere", judgeFastPath(fastPath{wanted: true, chosen: chosen[2:], off: "set-key fastpath off"}), Warning, "no interface can use it: port0 (it is a port of bridge lan)"},
		{"fast path to come", judgeFastPath(fastPath{wanted: true, chosen: chosen}), OK, "will be loaded when the daemon starts: lan by tc"},
		{"fast path missing", judgeFastPath(fastPath{wanted: true, running: true, chosen: chosen, load: "pptpalg fastpath load"}), Warning, "attached to no interface"},
		{"fast path on one of two", judgeFastPath(fastPath{wanted: true, running: true, chosen: chosen, attached: attached[:1], load: "pptpalg fastpath load"}), Warning, "not attached to wan"},
		{"fast path by tc instead of XDP", judgeFastPath(fastPath{wanted: true, running: true, chosen: chosen, attached: withoutXDP(false), load: "pptpalg fastpath load"}), Warning, "wan uses tc, where XDP works"},
		{"fast path where XDP was refused", judgeFastPath(fastPath{wanted: true, running: true, chosen: chosen, attached: withoutXDP(true)}), OK, "wan by tc (no XDP: refused"},
		{"fast path", judgeFastPath(fastPath{wanted: true, running: true, chosen: chosen, attached: attached}), OK, "lan by tc (no XDP: a bridge), wan by xdp (the driver takes and sends); left to the kernel: port0 (it is a port of bridge lan)"},
		{"daemon", judgeDaemon(daemonState{running: true}), OK, ""},
		{"daemon without rules", judgeDaemon(daemonState{running: true, load: "pptpalg rules load", queued: queueing{state: nowhere}}), Problem, "no rule sends"},
		{"daemon without rules for GRE", judgeDaemon(daemonState{running: true, load: "pptpalg rules load", queued: queueing{gre: true}}), Problem, "no rule sends GRE to it"},
		{"rules without daemon", judgeDaemon(daemonState{why: "gone"}), Warning, "gone"},
		{"neither", judgeDaemon(daemonState{why: "gone", queued: queueing{state: nowhere}}), Warning, "gone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wants(t, tt.got, tt.want, tt.found) })
	}
}

// setting0 stands for the command that sets a key.
func setting0(key, value string) string { return "set-key " + key + " " + shell(value) }

// TestDeeds has what the kernel tells of rules of both programs.
func TestDeeds(t *testing.T) {
	const pre, fwd, post = "iptables -t mangle -A PREROUTING ", "iptables -A FORWARD ", "iptables -t nat -A POSTROUTING "
	const nft = "nft add table ip t; nft add chain ip t c '{ type filter hook prerouting priority 0; }'; nft add rule ip t c "
	const nftNAT = "nft add table ip t; nft add chain ip t c '{ type nat hook prerouting priority 0; }'; nft add rule ip t c "
	tests := []struct {
		load string
		want []action
	}{
		{"iptables -t raw -A PREROUTING -p tcp -j CT --notrack", []action{{name: notrack}}},
		{"iptables -t raw -A PREROUTING -i lan -j CT --zone 5", []action{{name: zone, arg: "5"}}},
		{nft + "meta l4proto tcp ct zone set 5", []action{{name: zone, arg: "5"}}},
		{nft + "notrack", []action{{name: notrack}}},
		{pre + "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", []action{{name: restore}}},
		{pre + "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff", nil},
		{nft + "meta l4proto tcp meta mark set ct mark", []action{{name: restore}}},
		{nft + "meta l4proto tcp meta mark set ct mark and 0xff", []action{{name: restore}}},
		{nft + "ct mark set meta mark", nil},
		{nft + "ct mark 5 meta mark set meta mark or 1", []action{{name: mark}}},
		{nft + `iifname \"lan\" meta mark set 5`, []action{{name: mark}}},
		{nft + "meta mark set 0", nil},
		{pre + "-j MARK --set-xmark 0x2/0xffffffff", []action{{name: mark}}},
		{pre + "-j MARK --set-xmark 0x0/0xffffffff", nil},
		{pre + "-j MARK --set-xmark 0x0/0x40000000", []action{{name: mark}}},
		{pre + "-p tcp -j NFQUEUE --queue-num 1723 --queue-bypass", []action{{name: queue, arg: "1723", bypass: true}}},
		{pre + "-p gre -j NFQUEUE --queue-balance 1724:1725", []action{{name: queue, arg: "1724"}}},
		{pre + "-p gre -j NFQUEUE", []action{{name: queue, arg: "0"}}},
		{"iptables -t mangle -N PPTPALG; " + pre + "-p tcp -j PPTPALG", []action{{name: jump, arg: "PPTPALG"}}},
		{fwd + `-m comment --comment "-j MASQUERADE \" redirect" -j DROP`, nil},
		{fwd + "-j REJECT", []action{{name: reject}}},
		{post + "-o wan -j MASQUERADE", []action{{name: masquerade}}},
		{post + "-o wan -j SNAT --to-source 192.0.2.1", []action{{name: snat}}},
		{"iptables -t nat -A PREROUTING -d 192.0.2.1/32 -j NETMAP --to 198.51.100.2/32", []action{{name: netmap}}},
		{"iptables -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080", []action{{name: redirect}}},
		{nftNAT + "tcp dport 1723 dnat to 10.0.0.5:1723", []action{{name: dnat}}},
		{nftNAT + "dnat ip to tcp dport map '{ 1723 : 10.0.0.5 }'", []action{{name: dnat}}},
		{nftNAT + "tcp dport 80 redirect to 8080", []action{{name: redirect}}},
		{nft + "ct status dnat accept", nil},
	}
	p := gateway(t)
	for _, tt := range tests {
		sh(t, p, "nft flush ruleset; "+tt.load)
		var got []action
		for _, c := range rulesetOf(dumped(t, p), "iptables", nil) {
			for _, r := range c.rules {
				got = append(got, r.actions...)
			}
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(action{})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.load, diff)
		}
	}
}

// TestUnknownDeeds has what kernels with helpers, flow tables and queues of nft tell.
func TestUnknownDeeds(t *testing.T) {
	tests := []struct {
		of   netlink.Attribute
		want action
	}{
		{makeExpr("flow_offload"), action{name: offload}},
		{makeExpr("target", attrText(unix.NFTA_TARGET_NAME, "FLOWOFFLOAD")), action{name: offload}},
		{makeExpr("queue", attr(unix.NFTA_QUEUE_NUM, []byte{0x06, 0xbb}), attr(unix.NFTA_QUEUE_FLAGS, []byte{0, 1})), action{name: queue, arg: "1723", bypass: true}},
		{makeExpr("objref", attr32(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_CT_HELPER), attrText(unix.NFTA_OBJREF_IMM_NAME, "pp")), action{name: helper, arg: "pptp"}},
		{makeExpr("target", attrText(unix.NFTA_TARGET_NAME, "CT"), attr(unix.NFTA_TARGET_INFO, append(make([]byte, 12), "pptp"...))), action{name: helper, arg: "pptp"}},
	}
	for _, tt := range tests {
		m := &meaning{home: "t", helpers: map[string]string{"t pp": "pptp"}}
		m.read([]expression{expressionOf(tt.of)})
		if diff := cmp.Diff([]action{tt.want}, m.actions, cmp.AllowUnexported(action{})); diff != "" {
			t.Errorf("%v (-want +got)\n%s", tt.want, diff)
		}
	}
}

// dumped returns what the kernel lists in a namespace.
func dumped(t *testing.T, p *netns.Place) (all []object) {
	t.Helper()
	do(t, p, func() (err error) {
		all, err = dump()
		return err
	})
	return all
}

// TestOffload has what a kernel with flow tables would trace.
func TestOffload(t *testing.T) {
	c := chain{table: "nft inet fw", name: "f", hook: "forward", kind: "filter"}
	flow := event{rule: rule{text: "rule with handle 5", handle: 5}, action: action{name: offload}, chain: c, base: c}
	of := func(events ...[]event) firewall {
		j := journey{role: role{way: way{"lan", "wan"}}, answer: []passed{{}}}
		for _, e := range events {
			j.began = append(j.began, passed{events: e})
		}
		return firewall{ports: []uint16{1723}, clients: map[uint16][]journey{1723: {j}}}
	}
	wants(t, judgeOffload(of([]event{flow})), Problem, "skip the daemon's queue")
	wants(t, judgeOffload(of(nil, []event{flow})), Warning, "may offload")
	wants(t, judgeOffload(of(nil)), OK, "")
}

// TestSetsOfIPSet: rules know them by a number that a copy does not have.
func TestSetsOfIPSet(t *testing.T) {
	in := makeExpr("match", attrText(unix.NFTA_MATCH_NAME, "set"), attr(unix.NFTA_MATCH_INFO, []byte{1, 0, 1, 0, 0, 0, 0, 0}))
	out := makeExpr("match", attrText(unix.NFTA_MATCH_NAME, "set"), attr(unix.NFTA_MATCH_INFO, []byte{1, 0, 1, 1, 0, 0, 0, 0}))
	add := makeExpr("target", attrText(unix.NFTA_TARGET_NAME, "SET"))
	for i, tt := range []struct {
		of   netlink.Attribute
		want []string
		op   uint64
	}{{in, []string{"meta", "cmp"}, unix.NFT_CMP_EQ}, {out, []string{"meta", "cmp"}, unix.NFT_CMP_NEQ}, {add, nil, 0}} {
		o := object{kind: unix.NFT_MSG_NEWRULE, attrs: attributes{nested(unix.NFTA_RULE_EXPRESSIONS, tt.of)}}
		var got []string
		for _, e := range (object{attrs: o.expressions()}).exprs() {
			got = append(got, e.name)
			if op := e.data.number(unix.NFTA_CMP_OP); e.name == "cmp" && op != tt.op {
				t.Errorf("%d: compared by %d", i, op)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%d (-want +got)\n%s", i, diff)
		}
	}
	m := &meaning{}
	m.read([]expression{expressionOf(in)})
	if len(m.asked) != 1 || m.asked[0].field != byMark || m.asked[0].lo != perhapsMark {
		t.Errorf("%+v", m.asked)
	}
}

// TestLiterals: what packets differ by.
func TestLiterals(t *testing.T) {
	p := gateway(t)
	sh(t, p, `nft -f - <<'END'
flush ruleset
table ip t {
	set s { type ipv4_addr . inet_service; flags interval; elements = { 10.0.2.0/24 . 5002, 10.0.3.1-10.0.3.9 . 5003 }; }
	chain c {
		type filter hook forward priority 0
		ip saddr { 10.0.0.5, 10.0.1.0/24 } meta mark and 0xff == 9 tcp dport { 5000, 5001 } accept
		ip saddr . tcp dport @s accept
		ip saddr 10.0.4.4 ip daddr 10.0.4.5 tcp sport 7000 tcp dport 5004 accept
		ip daddr vmap { 10.0.5.0/25 : accept, 10.0.5.128-10.0.6.3 : drop }
		fib daddr type local accept
	}
}
END
iptables -A FORWARD -s 10.0.0.128/25 -p tcp -m multiport --dports 1724,8080 -m mark --mark 0x7/0xff -j DROP
iptables -A FORWARD -d 10.1.0.0/12 -p tcp -m iprange --src-range 10.2.0.1-10.2.0.3 -j DROP
`)
	l := rulesetOf(dumped(t, p), "iptables", nil).literals()
	var got []string
	for _, x := range l.prefixes {
		got = append(got, x.String())
	}
	want := "10.0.0.5/32 10.0.3.1/32 10.0.3.9/32 10.0.4.4/32 10.0.4.5/32 10.0.5.128/32 10.0.6.3/32 10.2.0.1/32 10.2.0.3/32 10.0.0.128/25 10.0.5.0/25 10.0.1.0/24 10.0.2.0/24 10.0.0.0/12"
	if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
		t.Errorf("prefixes (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff("[10.0.4.5/32 10.0.5.128/32 10.0.6.3/32 10.0.5.0/25 10.0.0.0/12] [7 9] [1724 5000 5001 5002 5003 5004 8080]", fmt.Sprint(l.targets, l.marks, l.ports)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestTranslating: which interfaces are outside, by rules.
func TestTranslating(t *testing.T) {
	p := gateway(t)
	for rule, want := range map[string]string{
		"nft add rule ip t c oifname wan masquerade":                           "[wan]",
		"nft add rule ip t c oif lo masquerade":                                "[lo]",
		"nft add rule ip t c oifname '{ wan, ppp0 }' snat to 192.0.2.1":        "[ppp0 wan]",
		"nft add rule ip t c oifname != wan masquerade":                        "[]",
		"nft add rule ip t c 'oifname ppp*' masquerade":                        "[]",
		"nft add rule ip t c oifname wan ip daddr 10.0.0.0/8 masquerade":       "[]",
		"nft add rule ip t c oifname wan ip saddr 10.7.0.0/24 masquerade":      "[]",
		"iptables -t nat -A POSTROUTING -o wan -s 10.8.0.0/24 -j MASQUERADE":   "[wan]",
		"iptables -t nat -A POSTROUTING ! -o wan -s 10.8.0.0/24 -j MASQUERADE": "[]",
	} {
		sh(t, p, "nft flush ruleset; nft add table ip t; nft add chain ip t c '{ type nat hook postrouting priority 0; }'; "+rule)
		n := network{routes: []route{{prefix: netip.MustParsePrefix("10.7.0.0/24"), dev: "wan"}}}
		do(t, p, func() error {
			all, err := dump()
			if got := fmt.Sprint(rulesetOf(all, "iptables", nil).translating(n)); got != want {
				t.Errorf("%s: %s, want %s", rule, got, want)
			}
			return err
		})
	}
}

func FuzzRules(f *testing.F) {
	f.Add("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD ! -p tcp -m x --y \"z\\\" \" -j\n", []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, text string, attrs []byte) {
		var all []object
		for _, kind := range kinds {
			all = append(all, object{kind: kind, family: unix.NFPROTO_IPV4, attrs: read(attrs)})
		}
		copies(all)
		found := rulesetOf(all, "iptables", readLines(text))
		found.literals()
		found.translating(network{})
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
	for addr, own := range map[string]bool{"10.0.0.1": true, "10.0.0.5": false} {
		if n.own(netip.MustParseAddr(addr)) != own {
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
		{"priority":1000,"src":"all","l3mdev":null},{"priority":32766,"src":"all","table":"main"},{"priority":32767,"src":"all","table":"default"}]`)
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
		if got := (rule{words: split(tt.rule)}).forGRE().iptables; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.rule, got, tt.want)
		}
	}
}

// TestShell: what comes out of a rule's comment is not carried out.
func TestShell(t *testing.T) {
	c := chain{table: "iptables filter", name: "FORWARD"}
	r := rule{words: split(`FORWARD -p gre -m comment --comment "$(touch x) it's \"so\"" ! -i lan -j DROP`)}
	want := `iptables -t filter -D FORWARD -p gre -m comment --comment '$(touch x) it'\''s "so"' ! -i lan -j DROP`
	if got := c.without(r); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestOutput(t *testing.T) {
	all := Findings{
		{Check: "rights", Result: OK, Found: "all"},
		{Check: "configuration", Result: Problem, Found: "2 errors:\nf:1: a\nf:3: b", Remedy: "true"},
		{Check: "ip-forward", Result: Problem, Found: "off", Remedy: "sysctl <x>"},
		{Check: "nat", Result: Unchecked, Found: "no right", Remedy: "run as root"},
	}
	var text, js bytes.Buffer
	if err := errors.Join(all.WriteText(&text), all.WriteJSON(&js)); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"ok         rights         all",
		"problem    configuration  2 errors:",
		"                          f:1: a",
		"                          f:3: b",
		"                          -> true",
		"problem    ip-forward     off",
		"                          -> sysctl <x>",
		"unchecked  nat            no right",
		"                          -> run as root",
		"",
	}, "\n")
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	var back []map[string]any
	if err := json.Unmarshal(js.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"schema_version": 1.0, "check": "ip-forward", "result": "problem", "found": "off", "remedy": "sysctl <x>"}, back[2]); diff != "" {
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

// TestLinks recognizes what translates without conntrack by what ip prints of interfaces.
func TestLinks(t *testing.T) {
	for text, want := range map[string]string{
		`[{"ifname":"wan","linkinfo":{"info_kind":"veth"}}]`:                    "",
		`[{"ifname":"wan","linkinfo":{"info_kind":"ip6tnl"}}]`:                  "DS-Lite",
		`[{"ifname":"wan","xdp":{"mode":1,"prog":{"id":7}}}]`:                   "XDP",
		`[{"ifname":"wan"},{"ifname":"cilium_host"}]`:                           "Cilium",
		`[{"ifname":"wan"},{"ifname":"lan","linkinfo":{"info_kind":"ip6tnl"}}]`: "",
		``: "",
	} {
		var n network
		if err := n.readLinks(text); err != nil {
			t.Error(err)
		}
		if got := n.hidden("wan"); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("of %s: %q, want %q", text, got, want)
		}
	}
	if new(network).readLinks("{") == nil {
		t.Error("what is no JSON is read")
	}
}

// TestVRFs: calls come by the members of a VRF, and forward knows them by its device.
func TestVRFs(t *testing.T) {
	var n network
	err := errors.Join(n.readLinks(`[{"ifname":"lan","ifindex":2,"master":"tenant"},{"ifname":"wan","ifindex":3},{"ifname":"lan2","ifindex":5,"master":"tenant"},
		{"ifname":"tenant","ifindex":4,"linkinfo":{"info_kind":"vrf","info_data":{"table":100}}},
		{"ifname":"port","ifindex":6,"master":"wan","linkinfo":{"info_kind":"veth","info_data":{}}}]`),
		n.readRoutes(`[{"dst":"default","dev":"wan"},{"dst":"10.77.0.0/24","dev":"tenant"},{"dst":"10.77.0.0/24","dev":"lan","table":"100"}]`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := n.ways(nil), []way{{"lan", "wan"}, {"lan2", "wan"}}; !slices.Equal(got, want) {
		t.Errorf("ways %v, want %v", got, want)
	}
	for dev, want := range map[string]string{"lan": "tenant", "lan2": "tenant", "wan": "wan", "port": "port"} {
		if got := n.routedBy(dev); got != want {
			t.Errorf("%s is routed by %s, want %s", dev, got, want)
		}
	}
	f := firewall{network: n}.named(fate{event: event{base: chain{hook: "forward"}}, from: "lan", to: "wan"})
	if f.from != "tenant" || f.to != "wan" {
		t.Errorf("from %s to %s", f.from, f.to)
	}
}

// TestVRFsLeak: from outside of a VRF, routes lead to its device or to a member.
func TestVRFsLeak(t *testing.T) {
	tests := []struct{ name, from, to, routes, want string }{
		{"by the device", "lan", "wan", `{"dst":"default","dev":"uplink"}`, "uplink"},
		{"by the member", "lan", "wan", `{"dst":"default","dev":"wan"}`, "wan"},
		{"by the member, in a table", "lan", "wan", `{"dst":"default","dev":"wan","table":"7"}`, "wan"},
		{"by the member, in the VRF's table alone", "lan", "wan", `{"dst":"default","dev":"wan","table":"100"}`, "uplink"},
		{"by the member, in the VRF's table alone, which has a name", "lan", "wan", `{"type":"local","dst":"203.0.113.1","dev":"wan","table":"isp"},{"dst":"default","dev":"wan","table":"isp"}`, "uplink"},
		{"by the member, in another table with a name", "lan", "wan", `{"type":"local","dst":"203.0.113.1","dev":"wan","table":"isp"},{"dst":"default","dev":"wan","table":"office"}`, "wan"},
		{"in the same VRF", "wan2", "wan", `{"dst":"default","dev":"uplink"}`, "wan"},
		{"from another VRF by the device", "guest", "wan", `{"dst":"default","dev":"wan"},{"dst":"default","dev":"uplink","table":"200"}`, "uplink"},
		{"from another VRF by the member", "guest", "wan", `{"dst":"default","dev":"wan","table":"200"}`, "wan"},
		{"to what is in none", "wan", "lan", `{"dst":"10.77.0.0/24","dev":"lan","table":"100"}`, "lan"},
	}
	for _, tt := range tests {
		var n network
		err := errors.Join(n.readRoutes("["+tt.routes+"]"), n.readLinks(`[{"ifname":"lan","ifindex":2},{"ifname":"wan","ifindex":3,"master":"uplink"},
			{"ifname":"wan2","ifindex":4,"master":"uplink"},{"ifname":"guest","ifindex":5,"master":"guests"},
			{"ifname":"uplink","ifindex":6,"linkinfo":{"info_kind":"vrf","info_data":{"table":100}}},
			{"ifname":"guests","ifindex":7,"linkinfo":{"info_kind":"vrf","info_data":{"table":200}}}]`))
		if err != nil {
			t.Fatal(err)
		}
		f := firewall{network: n}.named(fate{event: event{base: chain{hook: "forward"}}, from: tt.from, to: tt.to})
		if f.to != tt.want {
			t.Errorf("%s: to %s, want %s", tt.name, f.to, tt.want)
		}
	}
}

// TestLoadingRemedy: what is to be loaded is what is missing.
func TestLoadingRemedy(t *testing.T) {
	noQueue := attempt{name: "nft", failed: errors.New("nft: the kernel refuses queue (module nft_queue), ct state established (module nft_ct), ct label (module nft_ct)")}
	noTables := attempt{name: "nft", failed: fmt.Errorf("nft: %w", nft.ErrUnsupported)}
	notThere := attempt{name: "iptables", failed: fmt.Errorf("iptables: %w", exec.ErrNotFound)}
	noTarget := attempt{name: "iptables", failed: errors.New("iptables: bad argument")}
	inUse := attempt{name: "iptables", table: "mangle", failed: errors.New("iptables cannot read table mangle")}
	tests := []struct {
		name  string
		facts loading
		want  string
	}{
		{"modules of nft's", loading{failed: []attempt{noQueue}}, "modprobe -a nft_ct nft_queue"},
		{"nft's, or the program", loading{failed: []attempt{noQueue, notThere}}, "modprobe -a nft_ct nft_queue || apt-get install -y iptables"},
		{"no nftables, or the target", loading{failed: []attempt{noTables, noTarget}}, "modprobe -a nf_tables || modprobe -a xt_NFQUEUE xt_conntrack"},
		{"nft's, or the table", loading{failed: []attempt{noQueue, inUse}}, "modprobe -a nft_ct nft_queue || " + renamed("mangle")},
		{"no program", loading{failed: []attempt{notThere}}, "apt-get install -y iptables"},
		{"left out by nft", loading{by: "nft", refused: errors.New("the kernel refuses reject (module nft_reject_ipv4)")}, "modprobe -a nft_reject_ipv4"},
		{"left out by iptables", loading{by: "iptables", refused: errors.New("bad argument")}, "modprobe -a xt_bpf xt_connlabel xt_connmark ipt_REJECT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := judgeLoading(tt.facts)
			if f.Remedy != tt.want {
				t.Errorf("%s, want %s", f.Remedy, tt.want)
			}
			for _, a := range tt.facts.failed {
				if !strings.Contains(f.Found, a.failed.Error()) {
					t.Errorf("%s, want …%v…", f.Found, a.failed)
				}
			}
		})
	}
}
