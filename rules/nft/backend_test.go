package nft

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"

	"pptpalg/conntrack"
	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

// in returns a backend for a namespace.
func in(t *testing.T, ns trial.Namespace) *Backend {
	t.Helper()
	f, err := os.Open("/run/netns/" + string(ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &Backend{NetNS: int(f.Fd())}
}

// counted returns chains that count what they would queue, as trial.Counting does.
func counted(all []chain) []chain {
	for _, c := range all {
		for _, r := range c.rules {
			for i, p := range r {
				if len(p.exprs) == 1 {
					if _, queues := p.exprs[0].(*expr.Queue); queues {
						r[i] = phrase{words: "counter", exprs: []expr.Any{&expr.Counter{}}}
					}
				}
			}
		}
	}
	return all
}

// What netlink loads is what nft makes of the text.
func TestKernelSameAsText(t *testing.T) {
	trial.NeedRoot(t)
	for name, cfg := range nftRows {
		t.Run(name, func(t *testing.T) {
			byText, byNetlink := trial.NewNamespace(t), trial.NewNamespace(t)
			byText.Run(t, trial.Counting(Text(cfg)), "nft", "-f", "-")
			want := byText.Run(t, "", "nft", "list", "ruleset")
			b := in(t, byNetlink)
			for range 2 { // the second load replaces the first
				if err := b.replace(counted(chains(cfg))); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, byNetlink.Run(t, "", "nft", "list", "ruleset")); diff != "" {
					t.Errorf("by netlink (-by text +by netlink):\n%s", diff)
				}
			}
			if want, got := code(t, byText), code(t, byNetlink); want != got {
				t.Errorf("the kernel runs other expressions (-by text +by netlink):\n%s", cmp.Diff(want, got))
			}
			if err := b.Unload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := byNetlink.Run(t, "", "nft", "list", "ruleset"); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}

// code returns the expressions of a table, as nft shows them for debugging.
func code(t *testing.T, ns trial.Namespace) string {
	t.Helper()
	listed := ns.Run(t, "", "nft", "--debug=netlink", "list", "table", "ip", Table)
	var lines []string
	for line := range strings.Lines(listed) {
		if strings.HasPrefix(line, "  [ ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// All rules have to be there, at their places.
func TestKernelPresent(t *testing.T) {
	trial.NeedRoot(t)
	cfg := rules.Config{Queue: 1723, Ports: []uint16{1723, 1724}, ResetMark: rules.DefaultResetMark, TooBig: true}
	rows := []struct {
		name, change string
		want         bool
	}{
		{"loaded", "list ruleset", true},
		{"others change", "add table ip other", true},
		{"flushed", "flush ruleset", false},
		{"table removed", "delete table ip pptpalg", false},
		{"table emptied", "flush table ip pptpalg", false},
		{"a chain emptied", "flush chain ip pptpalg control", false},
		{"a rule more", "add rule ip pptpalg prerouting counter", false},
		{"a table of the name elsewhere", "flush ruleset; add table inet pptpalg", false},
	}
	for _, row := range rows {
		ns := trial.NewNamespace(t)
		b := in(t, ns)
		if err := b.replace(counted(chains(cfg))); err != nil {
			t.Fatal(err)
		}
		ns.Run(t, row.change, "nft", "-f", "-")
		if got, err := b.Present(t.Context(), cfg); got != row.want || err != nil {
			t.Errorf("%s: Present = %v, %v, want %v", row.name, got, err, row.want)
		}
	}
}

// What iptables-nft has loaded goes, and nothing else.
func TestKernelRemoveChains(t *testing.T) {
	trial.NeedRoot(t)
	ns := trial.NewNamespace(t)
	b := in(t, ns)
	if err := b.RemoveChains("PPTPALG"); err != nil {
		t.Errorf("without any table: %v", err)
	}
	others := "*mangle\n:own - [0:0]\n-A PREROUTING -p udp -j own\n-A own -j ACCEPT\nCOMMIT\n*raw\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n"
	ns.Run(t, others, "iptables-nft-restore")
	before := ns.Run(t, "", "iptables-nft-save")
	ours := "*mangle\n:PPTPALG - [0:0]\n-A PREROUTING -p tcp -j PPTPALG\n-I OUTPUT -p tcp -g PPTPALG\n-A own -j PPTPALG\n-A PPTPALG -j RETURN\nCOMMIT\n" +
		"*raw\n:PPTPALG-GRE - [0:0]\n-A OUTPUT -p gre -j PPTPALG-GRE\nCOMMIT\n"
	ns.Run(t, ours, "iptables-nft-restore", "--noflush")
	if err := b.RemoveChains("PPTPALG", "PPTPALG-GRE"); err != nil {
		t.Fatal(err)
	}
	dated := func(text string) string {
		return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.HasPrefix(l, "#") }), "\n")
	}
	if diff := cmp.Diff(dated(before), dated(ns.Run(t, "", "iptables-nft-save"))); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

// The kernel tells of changes, those by iptables-nft too.
func TestKernelWatch(t *testing.T) {
	trial.NeedRoot(t)
	ns := trial.NewNamespace(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed, ended := make(chan struct{}, 1000), make(chan error, 1)
	b := in(t, ns)
	go func() { ended <- b.Watch(ctx, func() { changed <- struct{}{} }) }()
	for _, command := range [][]string{{"nft", "add table ip a"}, {"nft", "flush ruleset"}, {"iptables-nft", "-t", "mangle", "-N", "X"}, {"iptables-nft", "-t", "mangle", "-F"}} {
		trial.Eventually(t, func() bool { // the watch may begin late
			ns.Run(t, "", command[0], command[1:]...)
			if command[1] == "-t" {
				ns.Run(t, "", "iptables-nft", "-t", "mangle", "-X")
			}
			select {
			case <-changed:
				return true
			default:
				return false
			}
		}, func() string { return "no event of " + strings.Join(command, " ") })
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What the kernel refuses is named; this one may have all, or lack nft_queue.
func TestKernelLoad(t *testing.T) {
	trial.NeedRoot(t)
	ns := trial.NewNamespace(t)
	b := in(t, ns)
	cfg := rules.Config{Queue: 1723, Ports: []uint16{1723}, ResetMark: rules.DefaultResetMark,
		Bypass: conntrack.Bypass{Labelled: true, Label: rules.DefaultBypassLabel}}
	done, err := b.Load(t.Context(), cfg)
	there, presentErr := b.Present(t.Context(), done.Config)
	switch {
	case presentErr != nil:
		t.Error(presentErr)
	case err == nil && !there:
		t.Error("loaded, and not present")
	case err != nil && !strings.Contains(err.Error(), "the kernel refuses queue (module nft_queue)"):
		t.Errorf("error %v does not say what is missing", err)
	case err != nil && ns.Run(t, "", "nft", "list", "ruleset") != "":
		t.Error("something is left of what was refused")
	}
	if err := b.Unload(t.Context()); err != nil {
		t.Error(err)
	}
}
