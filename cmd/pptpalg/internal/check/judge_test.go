package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/nfqueue"
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

// TestDeeds has rules in the words of both programs, those among them that this kernel
// cannot load.
func TestDeeds(t *testing.T) {
	tests := []struct {
		rule string
		want []action
	}{
		{"-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j FLOWOFFLOAD", []action{{name: offload}}},
		{"meta l4proto tcp flow add @ft", []action{{name: offload}}},
		{"-A PREROUTING -p tcp -j CT --notrack", []action{{name: notrack}}},
		{"-A PREROUTING -i lan -j CT --zone 5", []action{{name: zone, arg: "5"}}},
		{"meta l4proto tcp ct zone set 5", []action{{name: zone, arg: "5"}}},
		{"-A PREROUTING -p tcp -m tcp --dport 1723 -j CT --helper pptp", []action{{name: helper, arg: "pptp"}}},
		{`tcp dport 1723 ct helper set "pp"`, []action{{name: helper, arg: "pptp"}}},
		{"-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", []action{{name: restore}}},
		{"-A PREROUTING -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff", nil},
		{"meta l4proto tcp meta mark set ct mark", []action{{name: restore}}},
		{"iifname \"lan\" meta mark set 0x00000005", []action{{name: mark}}},
		{"meta mark set 0x00000000", nil},
		{"-A PREROUTING -j MARK --set-xmark 0x2/0xffffffff", []action{{name: mark}}},
		{"-A PREROUTING -j MARK --set-xmark 0x0/0xffffffff", nil},
		{"-A PREROUTING -j MARK --set-xmark 0x0/0x40000000", []action{{name: mark}}},
		{"-A PPTPALG -p tcp -j NFQUEUE --queue-num 1723 --queue-bypass", []action{{name: queue, arg: "1723", bypass: true}}},
		{"-A PPTPALG-GRE -p gre -j NFQUEUE --queue-balance 1724:1725", []action{{name: queue, arg: "1724"}}},
		{"queue flags bypass to 1723", []action{{name: queue, arg: "1723", bypass: true}}},
		{"queue flags bypass,fanout to 1724-1725", []action{{name: queue, arg: "1724", bypass: true}}},
		{"queue num 1723 bypass", []action{{name: queue, arg: "1723", bypass: true}}},
		{"-A PREROUTING -p tcp -j PPTPALG", []action{{name: jump, arg: "PPTPALG"}}},
		{`-A FORWARD -m comment --comment "-j MASQUERADE \" redirect" -j DROP`, nil},
		{`oifname "wan" masquerade comment "!fw4: redirect"`, []action{{name: masquerade}}},
		{"tcp dport 1723 dnat to 10.0.0.5:1723", []action{{name: dnat}}},
		{"dnat ip to tcp dport map @servers", []action{{name: dnat}}},
		{"-A PREROUTING -d 192.0.2.1/32 -j NETMAP --to 198.51.100.2/32", []action{{name: netmap}}},
		{"ct status dnat accept", nil},
		{"meta l4proto tcp reject with tcp reset", []action{{name: reject}}},
	}
	for _, tt := range tests {
		r := rule{said: tt.rule}
		r.read(map[string]string{"ip h pp": "pptp"}, "ip h")
		if diff := cmp.Diff(tt.want, r.actions, cmp.AllowUnexported(action{})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.rule, diff)
		}
	}
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
	wants(t, judgeOffload(of([]event{flow})), Problem, "skip the queue")
	wants(t, judgeOffload(of(nil, []event{flow})), Warning, "may be offloaded")
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
	if l := readLiterals("-A FORWARD -m set --match-set bad src -j DROP"); !slices.Equal(l.marks, []uint32{perhapsMark}) {
		t.Errorf("%x", l.marks)
	}
}

// TestLiterals: what packets differ by.
func TestLiterals(t *testing.T) {
	l := readLiterals(`-A FORWARD -s 10.0.0.128/25 -p tcp -m multiport --dports 1724,8080 -m mark --mark 0x7/0xff -j DROP
		ip saddr { 10.0.0.5, 10.0.1.0/24 } meta mark and 0xff == 0x00000009 tcp dport { 5000, 5001 } accept
			elements = { 1726 : 10.0.0.6 . 1723 }
`)
	want := literals{
		prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32"), netip.MustParsePrefix("10.0.0.6/32"), netip.MustParsePrefix("10.0.0.128/25"), netip.MustParsePrefix("10.0.1.0/24")},
		targets:  []netip.Addr{netip.MustParseAddr("10.0.0.6")},
		marks:    []uint32{7, 9}, ports: []uint16{1723, 1724, 1726, 5000, 5001, 8080},
	}
	if diff := cmp.Diff(want, l, cmp.AllowUnexported(literals{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzRules(f *testing.F) {
	f.Add("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD ! -p tcp -m x --y \"z\\\" \" -j\n", []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, text string, attrs []byte) {
		lines := readLines(text)
		readLiterals(text)
		translating(text, network{})
		var all []object
		for _, kind := range dumped {
			all = append(all, object{kind: kind, family: unix.NFPROTO_IPV4, attrs: read(attrs)})
		}
		copies(all)
		rulesetOf(all, "iptables", lines, handles(text))
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
