package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"pptpalg/cmd/pptpalg/internal/history"
)

// fake serves answers by their paths, as a daemon of another version might.
func fake(t *testing.T, answers map[string]string) Client {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, answer := range answers {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) })
	}
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return Client{StateDir: dir}
}

// TestOtherVersion: a daemon that answers in another way than this program's own is recognised.
func TestOtherVersion(t *testing.T) {
	status := func(ctx context.Context, c Client) error {
		var st struct{ Ready bool }
		return c.Status(ctx, &st)
	}
	calls := func(ctx context.Context, c Client) error { _, err := c.Calls(ctx); return err }
	explain := func(ctx context.Context, c Client) error {
		_, err := c.Explain(ctx, netip.MustParseAddr("10.0.0.1"))
		return err
	}
	all := func(ctx context.Context, c Client) error { _, err := c.ExplainAll(ctx); return err }
	events := func(ctx context.Context, c Client) error {
		return c.Events(ctx, false, func(history.Record) error { return nil })
	}
	end := func(ctx context.Context, c Client) error { _, err := c.EndCall(ctx, 1); return err }
	const told = `{"schema_version":1,"version":"v9"}`
	for _, tt := range []struct {
		name    string
		ask     func(context.Context, Client) error
		answers map[string]string
		want    string // "" for success
	}{
		{"the same", status, map[string]string{"/status": told}, ""},
		{"no calls", calls, map[string]string{"/calls": "[]\n"}, ""},
		{"calls", calls, map[string]string{"/calls": `[{"number":1}]`}, ""},
		{"a later status", status, map[string]string{"/status": `{"schema_version":9,"version":"v9"}`}, "(v9)"},
		{"no status", status, nil, "another version: restart it"},
		{"no explanations", explain, map[string]string{"/status": told}, "(v9)"},
		{"calls in an object", calls, map[string]string{"/calls": `{"calls":[]}`, "/status": told}, "(v9)"},
		{"later explanations", all, map[string]string{"/explain/all": `[{"schema_version":2}]`}, "another version: "},
		{"later events", events, map[string]string{"/events": `{"schema_version":2,"event":"opened"}`, "/status": told}, "(v9)"},
		{"cannot end calls", end, map[string]string{"/status": told}, "(v9)"},
		{"cannot end calls, but ask for them", end, map[string]string{"/calls/end": "", "/status": told}, "(v9)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.ask(t.Context(), fake(t, tt.answers))
			if tt.want == "" && err == nil {
				return
			}
			if tt.want == "" || !errors.Is(err, ErrOtherVersion) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestNoSocket: a state directory that can have no socket is named.
func TestNoSocket(t *testing.T) {
	long := "/tmp/" + strings.Repeat("x", 100)
	for dir, want := range map[string]string{
		"/etc/passwd": "no daemon is running: --state-dir: /etc/passwd is not a directory",
		long:          long + "/control.sock is too long for a socket: 107 bytes at most",
	} {
		_, err := Client{StateDir: dir}.Calls(t.Context())
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
