//go:build !nocluster

package etcd

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/internal/netns"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// server is one member of etcd, in a network namespace of its own.
type server struct {
	t     testing.TB
	place *netns.Place
	dir   string
	args  []string
	cmd   *exec.Cmd
}

// need skips where something is missing, unless everything is to be tested.
func need(t testing.TB, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatalf("%s, and PPTPALG_NO_SKIP is set", what)
	}
	t.Skip(what)
}

// serve runs etcd until the test ends.
func serve(t testing.TB, args ...string) *server {
	t.Helper()
	need(t, os.Geteuid() == 0, "not root: no network namespace")
	_, err := exec.LookPath("etcd")
	need(t, err == nil, "etcd is not there: Debian has it in etcd-server")
	place, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(place.Close)
	dir, err := lab.MemoryDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, place: place, dir: dir, args: args}
	s.do(exec.Command("ip", "link", "set", "lo", "up").Run)
	s.start()
	t.Cleanup(func() { s.stop(unix.SIGKILL) })
	return s
}

func (s *server) do(f func() error) {
	s.t.Helper()
	if err := s.place.Do(f); err != nil {
		s.t.Fatal(err)
	}
}

const (
	clientAddr = "127.0.0.1:2379"
	peerAddr   = "http://127.0.0.1:2380"
)

// start has etcd answer at clientAddr.
func (s *server) start() {
	s.t.Helper()
	args := append([]string{
		"--name", "one", "--data-dir", filepath.Join(s.dir, "data"), "--unsafe-no-fsync", "--logger", "zap", "--log-level", "error",
		"--listen-peer-urls", peerAddr, "--initial-advertise-peer-urls", peerAddr, "--initial-cluster", "one=" + peerAddr,
		"--heartbeat-interval", "50", "--election-timeout", "300",
	}, s.args...)
	if len(s.args) == 0 {
		args = append(args, "--listen-client-urls", "http://"+clientAddr, "--advertise-client-urls", "http://"+clientAddr)
	}
	s.cmd = exec.Command("etcd", args...)
	s.cmd.Stderr = os.Stderr
	s.do(s.cmd.Start)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := s.dial(context.Background(), clientAddr)
		if err == nil {
			_ = c.Close() // it was a question
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
}

// stop ends etcd. A Go program that is stopped by SIGTERM leaves time for nothing here.
func (s *server) stop(with unix.Signal) {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Signal(with) // it may have ended
		_ = s.cmd.Wait()               // as it was told to
	}
}

// empty has etcd begin anew, without anything.
func (s *server) empty() {
	s.t.Helper()
	s.stop(unix.SIGKILL)
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		s.t.Fatal(err)
	}
	s.start()
}

// dial connects within the namespace.
func (s *server) dial(ctx context.Context, addr string) (c net.Conn, err error) {
	err = s.place.Do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp4", addr)
		return err
	})
	return c, err
}

func (s *server) config() Config {
	s.t.Helper()
	target, err := ParseTarget(Scheme + clientAddr)
	if err != nil {
		s.t.Fatal(err)
	}
	return Config{Target: target, Insecure: true, dial: s.dial}
}

// open returns a store, once etcd answers.
func (s *server) open(cfg Config) *Store {
	s.t.Helper()
	store, err := Open(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = store.Close() }) // some tests have closed it
	return store
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func key(n int) string { return fmt.Sprintf("%sc6336401/%016x", state.CallSection, n) }
