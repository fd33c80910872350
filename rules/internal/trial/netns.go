package trial

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedRoot skips a test that talks to the kernel, or fails it where none may be
// skipped.
func NeedRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// Namespace is the name of a network namespace made for one test.
type Namespace string

var namespaces atomic.Int32

// NewNamespace makes an empty one that ends with the test; lo is up.
func NewNamespace(t *testing.T) Namespace {
	t.Helper()
	ns := Namespace(fmt.Sprintf("pptpalg-rules-%d-%d", os.Getpid(), namespaces.Add(1)))
	Command(t, "", "ip", "netns", "add", string(ns))
	t.Cleanup(func() { Command(t, "", "ip", "netns", "del", string(ns)) })
	ns.IP(t, "link set lo up")
	return ns
}

// Command runs a command and returns its output.
func Command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.Command(name, args...)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, stderr.String())
	}
	return stdout.String()
}

// Run runs a command inside the namespace.
func (ns Namespace) Run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	return Command(t, stdin, "ip", append([]string{"netns", "exec", string(ns), name}, args...)...)
}

func (ns Namespace) IP(t *testing.T, line string) {
	t.Helper()
	Command(t, "", "ip", append([]string{"-n", string(ns)}, strings.Fields(line)...)...)
}

// Do runs f inside the namespace. Sockets that f opens stay there.
func (ns Namespace) Do(t *testing.T, f func() error) {
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

func (ns Namespace) enter() error {
	file, err := os.Open("/run/netns/" + string(ns))
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}

// Wire connects two namespaces. Each end is a name and an address with its
// prefix. Segments are not merged on it, so that packets can be counted.
func Wire(t *testing.T, a Namespace, aName, aAddr string, b Namespace, bName, bAddr string) {
	t.Helper()
	a.IP(t, "link add "+aName+" type veth peer name "+bName+" netns "+string(b))
	for _, end := range []struct {
		ns         Namespace
		name, addr string
	}{{a, aName, aAddr}, {b, bName, bAddr}} {
		end.ns.IP(t, "addr add "+end.addr+" dev "+end.name)
		end.ns.IP(t, "link set "+end.name+" gso_max_segs 1")
		end.ns.IP(t, "link set "+end.name+" up")
	}
}

// Eventually polls until ok, or fails with what describe says.
func Eventually(t *testing.T, ok func() bool, describe func() string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timed out: " + describe())
		}
	}
}
