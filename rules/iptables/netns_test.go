package iptables

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"pptpalg/rules/internal/trial"
)

// eachBackend runs a test with both backends of iptables.
func eachBackend(t *testing.T, test func(t *testing.T, command string)) {
	trial.NeedRoot(t)
	for _, command := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(command, func(t *testing.T) { test(t, command) })
	}
}

// namespace is a network namespace made for one test.
type namespace struct{ trial.Namespace }

func newNamespace(t *testing.T) namespace { return namespace{trial.NewNamespace(t)} }

// wire connects two namespaces, see trial.Wire.
func wire(t *testing.T, a namespace, aName, aAddr string, b namespace, bName, bAddr string) {
	t.Helper()
	trial.Wire(t, a.Namespace, aName, aAddr, b.Namespace, bName, bAddr)
}

// restore loads a table, keeping what is not in text.
func (ns namespace) restore(t *testing.T, command, text string) {
	t.Helper()
	ns.Run(t, text, command+"-restore", "--noflush", "-w", "10")
}

func (ns namespace) list(t *testing.T, command string) string {
	t.Helper()
	return ns.Run(t, "", command, "-w", "10", "-t", "mangle", "-S")
}

// firewall returns one that works inside the namespace.
func (ns namespace) firewall(command string) *Firewall {
	return &Firewall{Command: command, Run: func(ctx context.Context, stdin, name string, args ...string) (string, error) {
		return execute(ctx, stdin, "ip", append([]string{"netns", "exec", string(ns.Namespace), name}, args...)...)
	}}
}

// counters returns the packet counters of all rules with a comment, by comment.
func (ns namespace) counters(t *testing.T, command, table string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for line := range strings.Lines(ns.Run(t, "", command, "-w", "10", "-t", table, "-nvxL")) {
		fields := strings.Fields(line)
		_, comment, found := strings.Cut(line, "/* ")
		if !found {
			continue
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil {
			t.Fatalf("counter in %q: %v", line, err)
		}
		comment, _, _ = strings.Cut(comment, " */")
		count[comment] += n
	}
	return count
}
