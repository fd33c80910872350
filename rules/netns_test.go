package rules

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that talks to the kernel, or fails it where none may be
// skipped.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// eachBackend runs a test with both backends of iptables.
func eachBackend(t *testing.T, test func(t *testing.T, command string)) {
	needRoot(t)
	for _, command := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(command, func(t *testing.T) { test(t, command) })
	}
}

// namespace is the name of a network namespace made for one test.
type namespace string

var namespaces atomic.Int32

// newNamespace makes an empty one that ends with the test; lo is up.
func newNamespace(t *testing.T) namespace {
	t.Helper()
	ns := namespace(fmt.Sprintf("pptpalg-rules-%d-%d", os.Getpid(), namespaces.Add(1)))
	command(t, "", "ip", "netns", "add", string(ns))
	t.Cleanup(func() { command(t, "", "ip", "netns", "del", string(ns)) })
	ns.ip(t, "link set lo up")
	return ns
}

// command runs a command and returns its output.
func command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.Command(name, args...)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, stderr.String())
	}
	return stdout.String()
}

// run runs a command inside the namespace.
func (ns namespace) run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	return command(t, stdin, "ip", append([]string{"netns", "exec", string(ns), name}, args...)...)
}

func (ns namespace) ip(t *testing.T, line string) {
	t.Helper()
	command(t, "", "ip", append([]string{"-n", string(ns)}, strings.Fields(line)...)...)
}

// restore loads a table, keeping what is not in text.
func (ns namespace) restore(t *testing.T, command, text string) {
	t.Helper()
	ns.run(t, text, command+"-restore", "--noflush", "-w", "10")
}

func (ns namespace) list(t *testing.T, command string) string {
	t.Helper()
	return ns.run(t, "", command, "-w", "10", "-t", "mangle", "-S")
}

// firewall returns one that works inside the namespace.
func (ns namespace) firewall(command string) *Firewall {
	return &Firewall{Command: command, Run: func(ctx context.Context, stdin, name string, args ...string) (string, error) {
		return execute(ctx, stdin, "ip", append([]string{"netns", "exec", string(ns), name}, args...)...)
	}}
}

// counters returns the packet counters of all rules with a comment, by comment.
func (ns namespace) counters(t *testing.T, command, table string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for line := range strings.Lines(ns.run(t, "", command, "-w", "10", "-t", table, "-nvxL")) {
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

// do runs f inside the namespace. Sockets that f opens stay there.
func (ns namespace) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := ns.enter()
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("in %s: %v", ns, err)
	}
}

func (ns namespace) enter() error {
	file, err := os.Open("/run/netns/" + string(ns))
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}

// wire connects two namespaces. Each end is a name and an address with its
// prefix. Segments are not merged on it, so that packets can be counted.
func wire(t *testing.T, a namespace, aName, aAddr string, b namespace, bName, bAddr string) {
	t.Helper()
	a.ip(t, "link add "+aName+" type veth peer name "+bName+" netns "+string(b))
	for _, end := range []struct {
		ns         namespace
		name, addr string
	}{{a, aName, aAddr}, {b, bName, bAddr}} {
		end.ns.ip(t, "addr add "+end.addr+" dev "+end.name)
		end.ns.ip(t, "link set "+end.name+" gso_max_segs 1")
		end.ns.ip(t, "link set "+end.name+" up")
	}
}

// eventually polls until ok, or fails with what describe says.
func eventually(t *testing.T, ok func() bool, describe func() string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timed out: " + describe())
		}
	}
}
