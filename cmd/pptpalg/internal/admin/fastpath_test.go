package admin

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFastPath: the daemon tells what it wants. That none runs is another answer than that it
// does not tell.
func TestFastPath(t *testing.T) {
	want := FastPath{Mode: "tc", Interfaces: []string{"eth0", "ppp0"}, Dir: "/run/bpf"}
	tells, silent := t.TempDir(), t.TempDir()
	run(t, Config{StateDir: tells, FastPath: &want})
	run(t, Config{StateDir: silent})
	got, err := Client{StateDir: tells}.FastPath(t.Context())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	if _, err := (Client{StateDir: silent}).FastPath(t.Context()); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("a daemon that does not tell: %v", err)
	}
	if _, err := (Client{StateDir: t.TempDir()}).FastPath(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no daemon: %v", err)
	}
}
