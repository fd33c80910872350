package conntrack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	oracle "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// needRoot skips a test that makes network namespaces, unless PPTPALG_NO_SKIP
// says that a skip is a failure.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	t.Skip("this test makes network namespaces: needs root")
}

// namespace is a network namespace and a thread that lives in it. The namespace
// goes with the thread, and the thread with the test.
type namespace struct {
	tid   int
	calls chan func()
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	needRoot(t)
	n := &namespace{calls: make(chan func())}
	ready := make(chan error)
	go n.live(ready)
	if err := <-ready; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { close(n.calls) })
	n.run(t, "ip link set lo up")
	return n
}

// live never unlocks its thread, so that it ends with the goroutine.
func (n *namespace) live(ready chan<- error) {
	runtime.LockOSThread()
	n.tid = unix.Gettid()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for call := range n.calls {
		call()
	}
}

// do calls f in the namespace. Sockets that f makes stay in it; what f starts as
// a goroutine does not.
func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// try runs a command line, split at spaces, in the namespace.
func (n *namespace) try(line string) (out string, err error) {
	n.do(func() {
		args := strings.Fields(line)
		var stderr strings.Builder
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stderr = &stderr
		var b []byte
		if b, err = cmd.Output(); err != nil {
			err = fmt.Errorf("%s: %w\n%s", line, err, stderr.String())
		}
		out = string(b)
	})
	return out, err
}

// run is try for commands that must succeed.
func (n *namespace) run(t testing.TB, lines ...string) (out string) {
	t.Helper()
	for _, line := range lines {
		o, err := n.try(line)
		if err != nil {
			t.Fatal(err)
		}
		out += o
	}
	return out
}

// dial opens a Conn to the namespace's conntrack.
func (n *namespace) dial(t testing.TB) *Conn {
	t.Helper()
	var c *Conn
	var err error
	n.do(func() { c, err = Dial() })
	if err != nil {
		t.Fatal(err)
	}
	// A socket that replaces one belongs to the namespace too, and not to the
	// one that the test runs in.
	c.dial = func() (s socket, err error) {
		n.do(func() { s, err = dialKernel() })
		return s, err
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// oracle opens another implementation's connection to the same conntrack.
func (n *namespace) oracle(t testing.TB) *oracle.Conn {
	t.Helper()
	var c *oracle.Conn
	var err error
	n.do(func() { c, err = oracle.Dial(nil) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// connect makes a veth pair from n to another namespace. Names belong to their
// namespace, so each end is called after where it leads.
func (n *namespace) connect(t testing.TB, name string, to *namespace, toName string) {
	t.Helper()
	n.run(t, "ip link add "+name+" type veth peer name "+toName+" netns "+strconv.Itoa(to.tid))
}

// network is the topology of the tests with packets:
//
//	client 10.0.0.2 ── 10.0.0.1 gateway 192.0.2.1 ── 192.0.2.2 server
//
// The client routes everything through the gateway; the server knows only its
// own network, so it answers nobody whose address was not translated.
type network struct {
	client, gateway, server *namespace
}

const (
	clientAddr = "10.0.0.2"
	insideAddr = "10.0.0.1"
	publicAddr = "192.0.2.1"
	serverAddr = "192.0.2.2"
)

func newNetwork(t testing.TB) network {
	t.Helper()
	n := network{client: newNamespace(t), gateway: newNamespace(t), server: newNamespace(t)}
	n.gateway.connect(t, "client", n.client, "gateway")
	n.gateway.connect(t, "server", n.server, "gateway")
	n.gateway.run(t,
		"ip addr add "+insideAddr+"/24 dev client", "ip link set client up",
		"ip addr add "+publicAddr+"/24 dev server", "ip link set server up",
		"sysctl -qw net.ipv4.ip_forward=1")
	n.client.run(t,
		"ip addr add "+clientAddr+"/24 dev gateway", "ip link set gateway up",
		"ip route add default via "+insideAddr)
	n.server.run(t,
		"ip addr add "+serverAddr+"/24 dev gateway", "ip link set gateway up")
	return n
}

// poll waits until ok is true.
func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Rights and capabilities belong to a thread, so a thread can be made that has
// none and ends with the test.
func TestDialWithoutRights(t *testing.T) {
	needRoot(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- fmt.Errorf("drop capabilities: %w", err)
			return
		}
		_, err := Dial()
		done <- err
	}()
	err := <-done
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("Dial() = %v, want EPERM with a hint at CAP_NET_ADMIN", err)
	}
}
