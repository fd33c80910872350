package iptables

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/conntrack"
	"pptpalg/rules"
)

// These tests load real tables, in namespaces of their own.

// jumpsIn returns the lines of a listing that lead to Chain.
func jumpsIn(list string) []string {
	var lines []string
	for _, r := range parse(list) {
		if r.jumpsTo(Chain) {
			lines = append(lines, r.text)
		}
	}
	return lines
}

// chainIn returns the rules of Chain in a listing, in Text's spelling.
func chainIn(list string) []string {
	var lines []string
	for _, r := range parse(list) {
		if r.appendsTo(Chain) {
			text := strings.Replace(r.text, "--ctproto 6", "--ctproto tcp", 1)
			lines = append(lines, quotedLabel.ReplaceAllString(text, "$1$2"))
		}
	}
	return lines
}

// quotedLabel is how the listings spell a label, which may have a name.
var quotedLabel = regexp.MustCompile(`(--label )"(\d+)"`)

// checkLoaded checks that the table has cfg's rules, once.
func checkLoaded(t *testing.T, list string, cfg rules.Config) {
	t.Helper()
	if diff := cmp.Diff(jumps(onePort), jumpsIn(list)); diff != "" {
		t.Errorf("jumps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(control(cfg), chainIn(list)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func mustLoad(t *testing.T, f *Firewall, cfg rules.Config) {
	t.Helper()
	got, err := f.Load(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rules.Outcome{Config: cfg}, got); diff != "" {
		t.Fatalf("outcome (-want +got):\n%s", diff)
	}
}

func mustUnload(t *testing.T, f *Firewall) {
	t.Helper()
	if err := f.Unload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func checkPresent(t *testing.T, f *Firewall, cfg rules.Config, want bool) {
	t.Helper()
	if got, err := f.Present(t.Context(), cfg); err != nil || got != want {
		t.Fatalf("Present = %v, %v, want %v", got, err, want)
	}
}

func TestKernelLoadUnload(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		checkPresent(t, f, onePort, false)
		other := rules.Config{Queue: 0, Ports: []uint16{1, 65535}}
		for _, cfg := range []rules.Config{onePort, onePort, other, {Queue: 65535, Ports: []uint16{1723}, AllSegments: true},
			{Queue: 1, Ports: []uint16{1, 2}, Bypass: conntrack.Bypass{Label: 118, Labelled: true}}, {Queue: 1, Ports: []uint16{1}, Bypass: conntrack.Bypass{Mark: 0x20000000}}} {
			mustLoad(t, f, cfg)
			checkPresent(t, f, cfg, true)
			checkLoaded(t, ns.list(t, command), cfg)
		}
		for range 2 {
			mustUnload(t, f)
			checkPresent(t, f, onePort, false)
			if strings.Contains(ns.list(t, command), Chain) {
				t.Fatalf("left behind:\n%s", ns.list(t, command))
			}
		}
	})
}

// What Text returns can be loaded by hand, once.
func TestKernelLoadByHand(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		ns.Run(t, Text(onePort), command+"-restore", "--noflush")
		checkLoaded(t, ns.list(t, command), onePort)
		ns.Run(t, "", "sh", "-c", "! "+command+"-restore --noflush < testdata/print.rules 2>/dev/null")
		checkLoaded(t, ns.list(t, command), onePort)
		ns.restore(t, command, read(t, "unload.rules"))
		checkPresent(t, ns.firewall(command), onePort, false)
	})
}

// richTable is an administrator's table with much that resembles our rules.
const richTable = `*mangle
:PREROUTING ACCEPT [10:1000]
:POSTROUTING DROP [3:300]
:PPTPALG2 - [0:0]
:pptpalg - [0:0]
:uplink - [0:0]
[5:500] -A PREROUTING -j CONNMARK --restore-mark
[4:400] -A PREROUTING -m mark ! --mark 0x0 -j ACCEPT
[3:300] -A PREROUTING -i ppp+ -p tcp -m comment --comment "say \"-j PPTPALG\" \\ it's" -j uplink
-A PREROUTING ! -i lo -p tcp -j PPTPALG2
-A PREROUTING ! -i lo -p tcp -j PPTPALG2
-A FORWARD -o ppp0 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -m comment --comment PPTPALG -j ACCEPT
-A OUTPUT -p tcp -m tcp --dport 1723 -m comment --comment "\" -j PPTPALG" -j MARK --set-xmark 0x2/0xff
-A OUTPUT -p tcp -m conntrack --ctproto tcp --ctorigdstport 1723 -j NFQUEUE --queue-num 1723 --queue-bypass
-A OUTPUT -p tcp -m comment --comment "-j" -g pptpalg
-A POSTROUTING -m ttl --ttl-lt 5 -j TTL --ttl-set 64
-A uplink -s 192.0.2.0/24 -p tcp -m multiport --dports 1723,22 -j MARK --set-xmark 0x2/0xffffffff
-A uplink -j CONNMARK --save-mark
COMMIT
*filter
:FORWARD DROP [7:700]
-A FORWARD -p gre -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE
COMMIT
`

var (
	savedAt       = regexp.MustCompile(`(?m)^#.*\n`)
	policyCounter = regexp.MustCompile(`(?m)^(:.*) \[\d+:\d+\]$`)
)

// save returns all tables with the counters of their rules. Those of policies are
// left out: the legacy backend sets them to zero with every change of the table.
func (ns namespace) save(t *testing.T, command string) string {
	t.Helper()
	text := savedAt.ReplaceAllString(ns.Run(t, "", command+"-save", "-c"), "")
	return policyCounter.ReplaceAllString(text, "$1")
}

func TestKernelLeavesOthersAlone(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		ns.Run(t, richTable, command+"-restore", "--counters")
		before := ns.save(t, command)
		if !strings.Contains(before, `[3:300] -A PREROUTING -i ppp+`) {
			t.Fatalf("table not as meant:\n%s", before)
		}
		mustUnload(t, f)
		mustLoad(t, f, onePort)
		mustLoad(t, f, rules.Config{Queue: 5, Ports: []uint16{1, 2, 3}})
		var others []string
		for line := range strings.Lines(ns.save(t, command)) {
			if !regexp.MustCompile(`^:PPTPALG |-A PPTPALG |-j PPTPALG\n`).MatchString(line) {
				others = append(others, line)
			}
		}
		if diff := cmp.Diff(before, strings.Join(others, "")); diff != "" {
			t.Errorf("loaded: rules of others (-want +got):\n%s", diff)
		}
		mustUnload(t, f)
		if diff := cmp.Diff(before, ns.save(t, command)); diff != "" {
			t.Errorf("unloaded (-want +got):\n%s", diff)
		}
	})
}

// Jumps that somebody added, doubled or moved are ours all the same, and loading
// puts them last again.
func TestKernelCleansUp(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		mustLoad(t, f, onePort)
		ns.restore(t, command, `*mangle
:user - [0:0]
-A PREROUTING -j MARK --set-mark 1
-A PREROUTING ! -i lo -p tcp -j PPTPALG
-I OUTPUT -p tcp -m comment --comment "old \"quoted\" \\ jump" -j PPTPALG
-I FORWARD -g PPTPALG
-A user -i ppp0 -j PPTPALG
-A user -m comment --comment "-j PPTPALG"
COMMIT
`)
		mustLoad(t, f, onePort)
		list := ns.list(t, command)
		checkLoaded(t, list, onePort)
		if mark := strings.Index(list, "MARK"); mark < 0 || mark > strings.Index(list, jumps(onePort)[0]) {
			t.Errorf("the jump is not last:\n%s", list)
		}
		ns.restore(t, command, "*mangle\n-F PREROUTING\n-A user -j PPTPALG\nCOMMIT\n")
		checkPresent(t, f, onePort, false)
		mustUnload(t, f)
		if got := strings.Count(ns.list(t, command), "PPTPALG"); got != 1 { // the comment
			t.Errorf("left behind:\n%s", ns.list(t, command))
		}
	})
}

// However many load at once, one of them wins whole.
func TestKernelConcurrentLoads(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		for round := range 3 {
			loadAtOnce(t, ns, command)
			list := ns.list(t, command)
			if got, want := len(chainIn(list)), len(control(onePort)); got != want {
				t.Fatalf("round %d: %d rules, want %d:\n%s", round, got, want, list)
			}
			if diff := cmp.Diff(jumps(onePort), jumpsIn(list)); diff != "" {
				t.Fatalf("round %d: jumps (-want +got):\n%s", round, diff)
			}
			ns.restore(t, command, "*mangle\n-F PREROUTING\n-F OUTPUT\nCOMMIT\n") // the chain alone
		}
		mustUnload(t, ns.firewall(command))
	})
}

func loadAtOnce(t *testing.T, ns namespace, command string) {
	t.Helper()
	var all sync.WaitGroup
	for i := range uint16(6) {
		all.Go(func() {
			f := ns.firewall(command)
			if i == 3 {
				if err := f.Unload(t.Context()); err != nil {
					t.Errorf("loader %d: %v", i, err)
				}
			}
			cfg := rules.Config{Queue: i, Ports: []uint16{1000 + i}}
			if got, err := f.Load(t.Context(), cfg); err != nil || got.Refused != nil {
				t.Errorf("loader %d: %+v, %v", i, got, err)
			}
		})
	}
	all.Wait()
}

// extensionsWithout returns a directory with iptables' extensions but some.
func extensionsWithout(t *testing.T, names ...string) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil || len(found) == 0 {
		t.Fatalf("find iptables' extensions: %v", err)
	}
	dir := t.TempDir()
	for _, path := range found {
		if base := filepath.Base(path); !slices.Contains(names, base) {
			if err := os.Symlink(path, filepath.Join(dir, base)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestKernelTooBig(t *testing.T) {
	cfg := onePort
	cfg.TooBig = true
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		before := ns.list(t, command)
		for range 2 {
			mustLoad(t, f, cfg)
			checkPresent(t, f, cfg, true)
			if diff := cmp.Diff(jumps(cfg), jumpsIn(ns.list(t, command))); diff != "" {
				t.Fatalf("jumps (-want +got):\n%s", diff)
			}
		}
		mustLoad(t, f, onePort)
		checkLoaded(t, ns.list(t, command), onePort)
		checkPresent(t, f, cfg, false)
		mustLoad(t, f, cfg)
		mustUnload(t, f)
		if got := ns.list(t, command); got != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", got, before)
		}
	})
}

func TestKernelFallsBack(t *testing.T) {
	byLabel, byMark := onePort, onePort
	byLabel.Bypass = conntrack.Bypass{Label: rules.DefaultBypassLabel, Labelled: true}
	byMark.Bypass = conntrack.Bypass{Mark: 0x20000000}
	tooBig := onePort
	tooBig.TooBig = true
	all := rules.Config{Queue: onePort.Queue, Ports: onePort.Ports, AllSegments: true}
	allByLabel := byLabel
	allByLabel.AllSegments = true
	rows := []struct {
		name    string
		lacking []string
		asked   rules.Config
		want    rules.Config
	}{
		{"no bpf", []string{"libxt_bpf.so"}, onePort, all},
		{"no bpf, left alone by label", []string{"libxt_bpf.so"}, byLabel, allByLabel},
		{"no connlabel", []string{"libxt_connlabel.so"}, byLabel, onePort},
		{"no connlabel, all segments", []string{"libxt_connlabel.so"}, allByLabel, all},
		{"no connmark", []string{"libxt_connmark.so"}, byMark, onePort},
		{"no u32", []string{"libxt_u32.so"}, tooBig, onePort},
		{"neither", []string{"libxt_connlabel.so", "libxt_bpf.so"}, byLabel, all},
	}
	eachBackend(t, func(t *testing.T, command string) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				ns := newNamespace(t)
				t.Setenv("XTABLES_LIBDIR", extensionsWithout(t, row.lacking...))
				got, err := ns.firewall(command).Load(t.Context(), row.asked)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(row.want, got.Config); diff != "" || got.Refused == nil {
					t.Errorf("refused %v, config (-want +got):\n%s", got.Refused, diff)
				}
				checkLoaded(t, ns.list(t, command), row.want)
			})
		}
	})
}

// Comments only decorate: without them everything is loaded, and nothing is said.
func TestKernelWithoutComments(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		t.Setenv("XTABLES_LIBDIR", extensionsWithout(t, "libxt_comment.so"))
		mustLoad(t, ns.firewall(command), onePort)
		checkPresent(t, ns.firewall(command), onePort, true)
		if list := ns.list(t, command); strings.Contains(list, "comment") || !strings.Contains(list, "--bytecode") {
			t.Errorf("loaded:\n%s", list)
		}
	})
}

// A rule that neither form can have is an error, and nothing is changed.
func TestKernelRefuses(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		before := ns.list(t, command)
		t.Setenv("XTABLES_LIBDIR", extensionsWithout(t, "libxt_NFQUEUE.so"))
		if got, err := ns.firewall(command).Load(t.Context(), onePort); err == nil {
			t.Fatalf("loaded %+v", got)
		} else if !strings.Contains(err.Error(), "--queue-num") {
			t.Errorf("error %v does not say what is missing", err)
		}
		if diff := cmp.Diff(before, ns.list(t, command)); diff != "" {
			t.Errorf("table (-want +got):\n%s", diff)
		}
	})
}

func TestKernelWithoutRights(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		as := fmt.Sprintf("setpriv --reuid 65534 --clear-groups %s -w 10 -t mangle -S", command)
		_, err := ns.firewall("").Run(t.Context(), "", "sh", "-c", as)
		if err == nil || !deniedText.MatchString(err.Error()) {
			t.Errorf("error %v, want one that deniedText knows", err)
		}
	})
}
