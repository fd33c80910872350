package admin

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
)

// TestIdleClients: whatever number of clients connect and say nothing, the server has no more
// than its share of descriptors, and the next client is answered at once.
func TestIdleClients(t *testing.T) {
	dir := t.TempDir()
	s := run(t, Config{Listen: "127.0.0.1:0", StateDir: dir})
	for network, address := range map[string]string{"tcp": s.MetricsAddr().String(), "unix": filepath.Join(dir, socketName)} {
		t.Run(network, func(t *testing.T) {
			var idle []net.Conn
			defer func() {
				for _, c := range idle {
					c.Close()
				}
			}()
			before := openFiles(t)
			for i := range 3 * mostConnections {
				c, err := net.Dial(network, address)
				if err != nil {
					t.Fatal(err)
				}
				idle = append(idle, c)
				if i%3 == 0 { // some have asked, and keep the connection
					ask(t, c)
				}
			}
			if n := openFiles(t) - before - len(idle); n > mostConnections+1 { // one is closed for the last
				t.Errorf("the server has %d connections", n)
			}
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ask(t, c)
		})
	}
	if s.Crowded() == 0 {
		t.Error("no connection is counted as closed for another")
	}
}

// ask asks for something that is not there.
func ask(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	if n, err := c.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 404") {
		t.Fatalf("answered %q, %v", b[:n], err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestManyViewersOneLook: those who ask at the same time share a look, and nobody sees one that
// began before he asked.
func TestManyViewersOneLook(t *testing.T) {
	var looks atomic.Int64
	goOn := make(chan struct{})
	s := shared[int64]{look: func() int64 {
		n := looks.Add(1)
		<-goOn
		return n
	}}
	first := s.ask()
	for looks.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	next := s.ask()
	for range 200 {
		if s.ask() != next || next == first {
			t.Fatal("a viewer does not share the next look")
		}
	}
	close(goOn)
	<-next.done
	if first.value != 1 || next.value != 2 || looks.Load() != 2 {
		t.Errorf("looks %d and %d, of %d", first.value, next.value, looks.Load())
	}
}

func TestViewerLeaves(t *testing.T) {
	goOn := make(chan struct{})
	s := shared[int]{look: func() int { <-goOn; return 1 }}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := s.get(ctx); ok {
		t.Error("he got something")
	}
	close(goOn)
	if n, ok := s.get(t.Context()); !ok || n != 1 {
		t.Error("the next one got nothing")
	}
}

// TestRest: looking leaves most of the time to others.
func TestRest(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{0: 0, time.Millisecond: 9 * time.Millisecond, time.Second: longestRest} {
		if got := rest(took); got != want {
			t.Errorf("%v after a look of %v, want %v", got, took, want)
		}
	}
}

// TestNoStateDirectory: without a socket the server answers on Listen, and opens the socket
// when it can.
func TestNoStateDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "in the way")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(file, "state")
	s, err := Listen(Config{Listen: "127.0.0.1:0", StateDir: dir, Log: slog.New(slog.DiscardHandler)}, prometheus.NewRegistry(), func() []calls.View { return nil })
	if err != nil {
		t.Fatal(err)
	}
	runs(t, s)
	if status, _ := get(t, "http://"+s.MetricsAddr().String()+"/-/ready"); status != http.StatusOK {
		t.Errorf("answers %d", status)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(3 * socketPause); ; time.Sleep(10 * time.Millisecond) {
		_, err := Client{dir}.Calls(t.Context())
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if _, err := Listen(Config{StateDir: dir}, prometheus.NewRegistry(), nil); err == nil {
		t.Error("a second server has the socket too")
	}
}
