package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// manager is the service manager's end of NOTIFY_SOCKET.
type manager struct {
	path string
	log  lab.Log // a line for each message
}

// listenAsManager opens a socket that every user may send to, as systemd's is.
func listenAsManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "pptpalg-notify") // t.TempDir may be too long for a socket
	must(t, err)
	m := &manager{path: filepath.Join(dir, "notify")}
	must(t, os.Chmod(dir, 0o755))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	must(t, err)
	must(t, os.Chmod(m.path, 0o777))
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.read(conn)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
		os.RemoveAll(dir)
	})
	return m
}

// read takes messages until the socket is closed.
func (m *manager) read(conn *net.UnixConn) {
	b := make([]byte, 4096)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		m.log.Write(append(b[:n:n], '\n'))
	}
}

func (m *manager) messages() []string { return strings.Fields(m.log.String()) }

func (m *manager) count(message string) int {
	n := 0
	for _, got := range m.messages() {
		if got == message {
			n++
		}
	}
	return n
}

// TestNotify: the rules are loaded when READY=1 comes, signs of life follow, and
// STOPPING=1 is the last.
func TestNotify(t *testing.T) {
	g := buildGateway(t, datapath.Auto, masquerade(1))
	m := listenAsManager(t)
	t.Setenv("NOTIFY_SOCKET", m.path)
	t.Setenv("WATCHDOG_USEC", "40000")
	g.launch()
	must(t, lab.Poll(lab.Patience, func() bool { return m.count("READY=1") == 1 }))
	if !g.hasRules() {
		t.Errorf("rules when it was ready: %s", g.rules())
	}
	must(t, lab.Poll(lab.Patience, func() bool { return m.count("WATCHDOG=1") >= 3 }))
	g.stop()
	_ = lab.Poll(lab.Patience, func() bool { return m.count("STOPPING=1") == 1 })
	got := m.messages()
	want := slices.Concat([]string{"READY=1"}, slices.Repeat([]string{"WATCHDOG=1"}, len(got)-2), []string{"STOPPING=1"})
	if !slices.Equal(got, want) {
		t.Errorf("messages %q", got)
	}
}

// TestNotifyWithoutReady: a daemon that cannot start does not say that it is ready.
func TestNotifyWithoutReady(t *testing.T) {
	g := startGateway(t, datapath.Auto, masquerade(1))
	m := listenAsManager(t)
	t.Setenv("NOTIFY_SOCKET", m.path)
	g.launch("--state-dir", filepath.Join(t.TempDir(), "other"), "--listen", "") // the queue is taken
	if err := g.daemon.Wait(lab.Patience); err == nil {
		t.Error("it started")
	}
	if n := m.count("READY=1"); n != 0 {
		t.Errorf("messages %q", m.messages())
	}
}
