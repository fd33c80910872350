package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestHealthy(t *testing.T) {
	tests := []struct {
		name    string
		healthy func(time.Time) error
		status  int
		body    string
	}{
		{"nobody says", nil, http.StatusOK, "healthy\n"},
		{"healthy", func(time.Time) error { return nil }, http.StatusOK, "healthy\n"},
		{"stuck", func(time.Time) error { return errors.New("the packet loop is stuck") }, http.StatusServiceUnavailable, "the packet loop is stuck\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := run(t, Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), Healthy: tt.healthy})
			status, body := get(t, "http://"+s.MetricsAddr().String()+"/-/healthy")
			if status != tt.status || body != tt.body {
				t.Errorf("answers %d %q, want %d %q", status, body, tt.status, tt.body)
			}
		})
	}
}

// TestRightsOfTheSocket: for root and the daemon's group.
func TestRightsOfTheSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	run(t, Config{StateDir: dir})
	for path, want := range map[string]os.FileMode{
		dir:                            0o750 | os.ModeDir,
		filepath.Join(dir, socketName): 0o660 | os.ModeSocket,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s is %v, want %v", path, info.Mode(), want)
		}
	}
}

// run has a server answer until the test ends.
func run(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Listen(cfg, prometheus.NewRegistry(), nil)
	if err != nil {
		t.Fatal(err)
	}
	runs(t, s)
	return s
}

func runs(t *testing.T, s *Server) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
