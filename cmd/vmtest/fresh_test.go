package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each scene of the walk is known, so that it can be asked for, and each one that is known is a
// function of the walk.
func TestFreshScenes(t *testing.T) {
	known := map[string]bool{}
	for _, d := range debians {
		for _, name := range d.scenes {
			known[name] = true
			if !strings.Contains(walk, "\n"+name+"() {") {
				t.Errorf("the walk has no %s", name)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\s*scene (\w+)$`).FindAllStringSubmatch(walk, -1) {
		if !known[m[1]] {
			t.Errorf("no system has scene %s", m[1])
		}
	}
}

// What is put into the root is complete, and the walk is a shell's.
func TestPrepareFresh(t *testing.T) {
	root, deb := t.TempDir(), filepath.Join(t.TempDir(), "a.deb")
	if err := os.WriteFile(deb, []byte("a package"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "etc/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (fresh{packages: [2]string{deb, deb}}).prepare(root); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(root, "new.deb")); err != nil || string(text) != "a package" {
		t.Errorf("new.deb: %q, %v", text, err)
	}
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(walk)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
