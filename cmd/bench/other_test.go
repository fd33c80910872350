package main

import (
	"testing"

	"pptpalg/cmd/bench/internal/inject"
)

// TestRouters has every router deliver what is no call's.
func TestRouters(t *testing.T) {
	needRoot(t)
	for _, c := range routers() {
		t.Run(c.name, func(t *testing.T) { deliver(t, c, 10, inject.MinSize) })
	}
}

// TestFilled has a fast path without a daemon forward made-up calls.
func TestFilled(t *testing.T) {
	needRoot(t)
	for _, c := range filled(contenders(programs{})) {
		t.Run(c.name, func(t *testing.T) { deliver(t, c, 2000, inject.MinSize) })
	}
}

// TestPrograms runs each program of the fast path by itself.
func TestPrograms(t *testing.T) {
	needRoot(t)
	all, err := otherRun{repeat: 1000}.programs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if len(a.by) != len(hooks) {
			t.Errorf("%s: %v, want all of %v", a.packet, a.by, hooks)
		}
	}
	if len(all) == 0 {
		t.Error("there is nothing")
	}
}
