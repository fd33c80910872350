package iptables

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/rules"
)

// call is a command line and its standard input.
type call struct{ Line, Stdin string }

// script is a Runner that answers from a list and keeps what it was asked.
type script struct {
	calls   []call
	answers []answer // one for each call; the last one stays
}

type answer struct {
	stdout string
	err    error
}

func (s *script) run(_ context.Context, stdin, name string, args ...string) (string, error) {
	a := s.answers[min(len(s.calls), len(s.answers)-1)]
	s.calls = append(s.calls, call{strings.Join(append([]string{name}, args...), " "), stdin})
	return a.stdout, a.err
}

func says(text string) error { return errors.New("run iptables-restore: exit status 1: " + text) }

func TestFirewallCommandLines(t *testing.T) {
	loaded := read(t, "loaded.list")
	s := &script{answers: []answer{{stdout: loaded}, {}, {stdout: loaded}, {}, {stdout: loaded}}}
	f := &Firewall{Command: "iptables-legacy", Run: s.run}
	if got, err := f.Load(t.Context(), onePort); err != nil || got.Refused != nil {
		t.Fatalf("Load = %+v, %v", got, err)
	}
	if err := f.Unload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Present(t.Context(), onePort); err != nil || !got {
		t.Fatalf("Present = %v, %v", got, err)
	}
	list, restore := "iptables-legacy -w 10 -t mangle -S", "iptables-legacy-restore --noflush -w 10"
	want := []call{
		{list, ""}, {restore, read(t, "reload.rules")},
		{list, ""}, {restore, read(t, "unload.rules")},
		{list, ""},
	}
	if diff := cmp.Diff(want, s.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestUnloadNothing(t *testing.T) {
	s := &script{answers: []answer{{stdout: read(t, "empty.list")}}}
	if err := (&Firewall{Run: s.run}).Unload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]call{{"iptables -w 10 -t mangle -S", ""}}, s.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// The messages are those of iptables 1.8.9, either backend.
func TestLoadReadsAgain(t *testing.T) {
	loaded := read(t, "loaded.list")
	for name, message := range map[string]string{
		"jump gone, legacy":   "iptables-restore: line 2 failed",
		"jump gone, nft":      "iptables-nft-restore: line 2 failed: Bad rule (does a matching rule exist in that chain?).",
		"jump gone, late nft": "iptables-nft-restore v1.8.9 (nf_tables): line 3: RULE_DELETE failed (No such file or directory): rule in chain OUTPUT",
		"jump added, nft":     "iptables-nft-restore v1.8.9 (nf_tables): line 5: CHAIN_DEL failed (Device or resource busy): chain PPTPALG line 6: CHAIN_USER_ADD failed (File exists): chain PPTPALG",
		"chain added, nft":    "iptables-nft-restore: line 6 failed: Chain already exists.",
		"chain gone, nft":     "iptables-nft-restore v1.8.9 (nf_tables): Chain 'PPTPALG' does not exist Error occurred at line: 12 Try `iptables-nft-restore -h' or 'iptables-nft-restore --help' for more information.",
		"EAGAIN, legacy":      "iptables-restore: line 12 failed: Resource temporarily unavailable.",
	} {
		s := &script{answers: []answer{{stdout: loaded}, {err: says(message)}, {}, {}}}
		if _, err := (&Firewall{Run: s.run}).Load(t.Context(), onePort); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(s.calls) != 4 || s.calls[3].Stdin != read(t, "print.rules") {
			t.Errorf("%s: second attempt is not for the table as it is then: %+v", name, s.calls)
		}
	}
}

func TestLoadGivesUp(t *testing.T) {
	s := &script{}
	for range attempts {
		s.answers = append(s.answers, answer{}, answer{err: says("iptables-restore: line 2 failed")})
	}
	_, err := (&Firewall{Run: s.run}).Load(t.Context(), onePort)
	if err == nil || !strings.Contains(err.Error(), `line 2 failed (at "-N PPTPALG")`) {
		t.Errorf("error %v", err)
	}
	if len(s.calls) != 2*attempts {
		t.Errorf("%d calls, want %d", len(s.calls), 2*attempts)
	}
}

func TestLoadFallsBack(t *testing.T) {
	for name, message := range map[string]string{
		"kernel lacks it, nft":    "iptables-nft-restore v1.8.9 (nf_tables): line 4: RULE_APPEND failed (No such file or directory): rule in chain PPTPALG",
		"kernel lacks it, legacy": "iptables-restore: line 8 failed",
		"iptables lacks it":       "iptables-restore v1.8.9 (legacy): Couldn't load match `bpf':No such file or directory Error occurred at line: 4",
	} {
		s := &script{answers: []answer{{}, {err: says(message)}, {}, {}}}
		got, err := (&Firewall{Run: s.run}).Load(t.Context(), onePort)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !got.Config.AllSegments || got.Refused == nil || !strings.Contains(got.Refused.Error(), message) {
			t.Errorf("%s: outcome %+v", name, got)
		}
		want := Text(rules.Config{Queue: 1723, Ports: []uint16{1723}, AllSegments: true})
		if s.calls[3].Stdin != want {
			t.Errorf("%s: fell back to %s", name, s.calls[3].Stdin)
		}
	}
}

// When the rules without xt_bpf are refused as well, and those without comments, the first error
// is returned.
func TestLoadRefused(t *testing.T) {
	later := answer{err: says("line 3 failed: later")}
	s := &script{answers: []answer{{}, {err: says("line 3 failed: first")}, {}, later, {}, later, {}, later}}
	_, err := (&Firewall{Run: s.run}).Load(t.Context(), onePort)
	if err == nil || !strings.Contains(err.Error(), "first") {
		t.Errorf("error %v, want the first", err)
	}
	s = &script{answers: []answer{{}, {err: says("line 3 failed")}, {}, later}}
	if _, err := (&Firewall{Run: s.run}).Load(t.Context(), rules.Config{Ports: []uint16{1}, AllSegments: true}); err == nil || len(s.calls) != 4 {
		t.Errorf("error %v after %d calls, want one after 4", err, len(s.calls))
	}
}

func TestFirewallErrors(t *testing.T) {
	rows := []struct {
		name    string
		answers []answer
		is      error
		part    string
	}{
		{"no rights, nft", []answer{{err: says("Could not fetch rule set generation id: Permission denied (you must be root)")}}, os.ErrPermission, "CAP_NET_ADMIN"},
		{"no rights, lock", []answer{{err: says("Fatal: can't open lock file /run/xtables.lock: Permission denied")}}, os.ErrPermission, "xtables.lock"},
		{"rights lost", []answer{{}, {err: says("line 6 failed: Operation not permitted")}}, os.ErrPermission, "line 6"},
		{"no table", []answer{{err: says("can't initialize iptables table `mangle': Table does not exist")}}, nil, "list table mangle"},
		{"no line told", []answer{{}, {err: says("killed")}}, nil, "change table mangle"},
		{"a line beyond the end", []answer{{}, {err: says("line 99 failed")}}, nil, "change table mangle"},
	}
	for _, row := range rows {
		s := &script{answers: row.answers}
		_, err := (&Firewall{Run: s.run}).Load(t.Context(), onePort)
		if err == nil || !strings.HasPrefix(err.Error(), "load firewall rules: ") || !strings.Contains(err.Error(), row.part) {
			t.Errorf("%s: error %v", row.name, err)
		}
		if row.is != nil && !errors.Is(err, row.is) {
			t.Errorf("%s: %v is not %v", row.name, err, row.is)
		}
		if len(s.calls) != len(row.answers) {
			t.Errorf("%s: %d calls, want %d", row.name, len(s.calls), len(row.answers))
		}
	}
}

func TestLoadInvalid(t *testing.T) {
	s := &script{}
	if _, err := (&Firewall{Run: s.run}).Load(t.Context(), rules.Config{}); err == nil || len(s.calls) > 0 {
		t.Errorf("error %v after %d calls, want one before any", err, len(s.calls))
	}
}

func TestLoadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &script{answers: []answer{{}, {err: says("line 2 failed")}}}
	if _, err := (&Firewall{Run: s.run}).Load(ctx, onePort); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestExecute(t *testing.T) {
	out, err := execute(t.Context(), "in", "cat")
	if err != nil || out != "in" {
		t.Errorf("cat = %q, %v", out, err)
	}
	_, err = execute(t.Context(), "", "sh", "-c", "echo one >&2; echo two >&2; exit 3")
	if err == nil || !strings.HasSuffix(err.Error(), "exit status 3: one two") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = execute(ctx, "", "cat"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestIptablesMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := (&Firewall{Command: "iptables-of-no-one"}).Present(t.Context(), onePort)
	if !errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("error %v, want exec.ErrNotFound", err)
	}
	for _, part := range []string{"look for firewall rules", "find iptables-of-no-one", "PATH=" + os.Getenv("PATH"), "/usr/sbin", "apt-get install iptables"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
