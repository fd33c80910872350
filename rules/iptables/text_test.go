package iptables

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/conntrack"
	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var onePort = rules.Config{Queue: 1723, Ports: []uint16{1723}}

// The listings are what "iptables -t mangle -S" of either backend prints.
func TestTexts(t *testing.T) {
	empty, loaded, crowded := read(t, "empty.list"), read(t, "loaded.list"), read(t, "crowded.list")
	twoPorts := rules.Config{Queue: 7, Ports: []uint16{1723, 11723}}
	rows := []struct{ golden, got string }{
		{"print.rules", Text(onePort)},
		{"print-two-ports.rules", Text(twoPorts)},
		{"print-all-segments.rules", Text(rules.Config{Ports: []uint16{1723}, AllSegments: true})},
		{"print-label.rules", Text(rules.Config{Ports: []uint16{1723}, Bypass: conntrack.Bypass{Label: 118, Labelled: true}})},
		{"print-mark.rules", Text(rules.Config{Ports: []uint16{1723}, Bypass: conntrack.Bypass{Mark: 0x20000000}})},
		{"print-too-big.rules", Text(rules.Config{Queue: 1723, Ports: []uint16{1723}, TooBig: true})},
		{"print.rules", LoadText(empty, onePort)},
		{"reload.rules", LoadText(loaded, onePort)},
		{"reload-crowded.rules", LoadText(crowded, twoPorts)},
		{"unload.rules", UnloadText(loaded)},
		{"unload-crowded.rules", UnloadText(crowded)},
		{"unload-chain-only.rules", UnloadText(empty + "-N PPTPALG\n")},
	}
	for _, row := range rows {
		trial.Golden(t, row.golden, row.got)
	}
}

func TestUnloadTextNothing(t *testing.T) {
	for _, current := range []string{"", read(t, "empty.list"), read(t, "resembling.list")} {
		if got := UnloadText(current); got != "" {
			t.Errorf("UnloadText(%q) = %q, want nothing", current, got)
		}
	}
}

func TestRemoval(t *testing.T) {
	rows := []struct {
		name, current string
		want          []string
	}{
		{"chain", "-N PPTPALG", []string{"-F PPTPALG", "-X PPTPALG"}},
		{"chain of another", "-N PPTPALG2\n-N XPPTPALG\n", nil},
		{"jump", "-A OUTPUT -j PPTPALG\n", []string{"-D OUTPUT -j PPTPALG"}},
		{"goto", "-A FORWARD -p tcp -g PPTPALG\n", []string{"-D FORWARD -p tcp -g PPTPALG"}},
		{"jump of a user's chain", "-A ppp-in -i ppp0 -j PPTPALG\n", []string{"-D ppp-in -i ppp0 -j PPTPALG"}},
		{"twice", "-A OUTPUT -j PPTPALG\n-A OUTPUT -j PPTPALG\n", []string{"-D OUTPUT -j PPTPALG", "-D OUTPUT -j PPTPALG"}},
		{"with a comment", `-A OUTPUT -m comment --comment "a \"b\" -j" -j PPTPALG`, []string{`-D OUTPUT -m comment --comment "a \"b\" -j" -j PPTPALG`}},
		{"comment of several lines", "-A OUTPUT -m comment --comment \"a\nb\" -j PPTPALG\n", []string{"-D OUTPUT -m comment --comment \"a\nb\" -j PPTPALG"}},
		{"rule of ours", "-A PPTPALG -j NFQUEUE --queue-num 1723\n", nil},
		{"other target", "-A OUTPUT -j PPTPALG2\n-A OUTPUT -j pptpalg\n", nil},
		{"words in a comment", `-A OUTPUT -m comment --comment "x -j PPTPALG"` + "\n", nil},
		{"name as comment", "-A OUTPUT -m comment --comment PPTPALG\n", nil},
		{"escaped quote before the words", `-A OUTPUT -m comment --comment "\" -j PPTPALG"` + "\n", nil},
		{"line in a comment", "-A OUTPUT -m comment --comment \"\n-A OUTPUT -j PPTPALG\n\" -j ACCEPT\n", nil},
		{"set name", "-A OUTPUT -m set --match-set PPTPALG src -j ACCEPT\n", nil},
		{"open quote", `-A OUTPUT -m comment --comment "-j PPTPALG`, nil},
		{"open quote after the name", `-A OUTPUT -j PPTPALG"`, nil},
		{"quotes before the verb", `""-A OUTPUT -j PPTPALG`, nil},
		{"backslash at the end", `-A OUTPUT -m comment --comment "\`, nil},
		{"policy and warning", "# Warning: iptables-legacy tables present\n-P OUTPUT ACCEPT\n\n", nil},
	}
	for _, row := range rows {
		if diff := cmp.Diff(row.want, removal(row.current)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
}

func TestPresentIn(t *testing.T) {
	loaded := read(t, "loaded.list")
	without := func(part string) string {
		lines := slices.DeleteFunc(strings.SplitAfter(loaded, "\n"), func(l string) bool { return strings.Contains(l, part) })
		return strings.Join(lines, "")
	}
	rows := []struct {
		name, current string
		want          bool
	}{
		{"loaded", loaded, true},
		{"nothing", "", false},
		{"others only", read(t, "resembling.list"), false},
		{"no jump from PREROUTING", without("-A PREROUTING"), false},
		{"no jump from OUTPUT", without("-A OUTPUT"), false},
		{"chain flushed", without("-A PPTPALG"), false},
		{"a rule of the chain deleted", without("-i lo"), false},
		{"a jump twice", loaded + "-A OUTPUT -p tcp -j PPTPALG\n", true},
	}
	for _, row := range rows {
		if got := wanted(onePort)[0].in(row.current); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

// A transaction never names a rule that is not ours, whatever the table holds.
func FuzzLoadText(f *testing.F) {
	for _, name := range []string{"empty.list", "loaded.list", "crowded.list", "resembling.list"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	tail := strings.TrimPrefix(Text(onePort), "*mangle\n")
	f.Fuzz(func(t *testing.T, current string) {
		head, found := strings.CutSuffix(LoadText(current, onePort), tail)
		if !found || !strings.HasPrefix(head, "*mangle\n") {
			t.Fatalf("not the usual beginning and end: %q", head)
		}
		for _, r := range parse(strings.TrimPrefix(head, "*mangle\n")) {
			chain := r.text == "-F PPTPALG" || r.text == "-X PPTPALG"
			jump := r.words[0] == "-D" && r.words[len(r.words)-1] == Chain
			if !chain && !jump {
				t.Fatalf("%q is not ours", r.text)
			}
		}
	})
}
