package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const namespaces = "/run/netns" // where ip(8) keeps named namespaces

// Host is one network namespace of the lab. Its methods may be called from any
// goroutine until the Network is closed. Sockets opened by them stay in the
// namespace whichever goroutine uses them.
type Host struct {
	Name      string     // "gw", "in0", "out1"
	Addr      netip.Addr // of eth0; the gateway's is its public one
	Namespace string     // as in `ip netns exec`
	Multipath bool       // Listen and Dial speak Multipath TCP, where the kernel can

	ns  *os.File // keeps the namespace at hand for setns(2)
	dir string   // the network's directory for files
}

func (h *Host) String() string { return fmt.Sprintf("%s (%v)", h.Name, h.Addr) }

func (h *Host) path() string { return filepath.Join(namespaces, h.Namespace) }

func (h *Host) open() error {
	f, err := os.Open(h.path())
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	h.ns = f
	return nil
}

func (h *Host) close() error {
	if h.ns != nil {
		h.ns.Close() // a second Close reports what nobody needs to know
	}
	return removeNamespace(h.path())
}

// Do runs f on an operating system thread that is inside the namespace and
// returns its error. What f starts in other goroutines is not inside.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("function did not return")
		defer func() { done <- err }()
		err = h.enter(f)
	}()
	return <-done
}

// enter leaves the thread locked where the way back fails, or where f ends its
// goroutine: the runtime then throws the thread away with the goroutine.
func (h *Host) enter(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace of %s: %w", h.Name, err)
	}
	result := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err == nil {
		runtime.UnlockOSThread()
	}
	return result
}

// Listen opens a TCP listener.
func (h *Host) Listen(at netip.AddrPort) (*net.TCPListener, error) {
	var l net.Listener
	err := h.Do(func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(h.Multipath) // Go's default is not what a PPTP server speaks
		l, err = config.Listen(context.Background(), "tcp4", at.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", h.Name, err)
	}
	return l.(*net.TCPListener), nil
}

// Dial opens a TCP connection. A from without an address or with port 0 leaves
// that part to the kernel.
func (h *Host) Dial(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
	var c net.Conn
	err := h.Do(func() (err error) {
		var d net.Dialer
		d.SetMultipathTCP(h.Multipath)
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
		c, err = d.DialContext(ctx, "tcp4", to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.Name, err)
	}
	return c.(*net.TCPConn), nil
}

// Socket opens a socket as socket(2) does, close-on-exec and known to Go's
// poller, so that deadlines of the File work.
func (h *Host) Socket(domain, kind, protocol int) (*os.File, error) {
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open socket in %s: %w", h.Name, err)
	}
	return os.NewFile(uintptr(fd), "socket in "+h.Name), nil
}

func sysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

// SetSysctl writes a setting, named as in sysctl(8). Only settings below "net"
// belong to a namespace.
func (h *Host) SetSysctl(name, value string) error {
	err := h.Do(func() error { return os.WriteFile(sysctlPath(name), []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("set %s in %s: %w", name, h.Name, err)
	}
	return nil
}

// Sysctl reads a setting, without the newline.
func (h *Host) Sysctl(name string) (string, error) {
	var value []byte
	err := h.Do(func() (err error) {
		value, err = os.ReadFile(sysctlPath(name))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("get %s in %s: %w", name, h.Name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// IPBatch runs ip commands, one per line, each without the word "ip".
func (h *Host) IPBatch(ctx context.Context, lines string) error {
	return batch(ctx, h.Namespace, lines)
}

// IPTables runs iptables with these arguments.
func (h *Host) IPTables(ctx context.Context, args ...string) error {
	_, err := h.Run(ctx, "iptables", append([]string{"-w"}, args...)...)
	return err
}

// IPTablesRestore loads rules, keeping those of tables that it does not name.
func (h *Host) IPTablesRestore(ctx context.Context, rules string) error {
	return h.restore(ctx, rules)
}

// IPTablesAdd loads rules beside all that there are.
func (h *Host) IPTablesAdd(ctx context.Context, rules string) error {
	return h.restore(ctx, rules, "--noflush")
}

func (h *Host) restore(ctx context.Context, rules string, args ...string) error {
	cmd, err := h.Command(ctx, "iptables-restore", append([]string{"-w"}, args...)...)
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(rules)
	_, err = h.output(cmd)
	return err
}
