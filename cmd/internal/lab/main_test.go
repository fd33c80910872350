package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary act as pppd and as a run that gets killed, and
// looks in the end for goroutines and namespaces left behind.
func TestMain(m *testing.M) {
	if StandIn() || abandonLab() {
		return
	}
	goleak.VerifyTestMain(namespaceCheck{m})
}

type namespaceCheck struct{ m *testing.M }

func (c namespaceCheck) Run() int {
	code := c.m.Run()
	name, err := ownName(0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, dir := range []string{namespaces, os.TempDir()} {
		left, _ := filepath.Glob(filepath.Join(dir, name[:len(name)-1]+"*"))
		if len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left behind: %v\n", left)
			return 1
		}
	}
	return code
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("needs root to make network namespaces")
	}
	t.Skip("needs root to make network namespaces")
}

// needPrograms skips like needRoot where the programs are not installed.
func needPrograms(t *testing.T, programs ...string) {
	t.Helper()
	err := Need(programs...)
	if err == nil {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func build(t *testing.T, o Options) *Network {
	t.Helper()
	needRoot(t)
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, n)
	return n
}

func closeAfter(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 2*Patience)
	t.Cleanup(cancel)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
