package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
)

// Client asks a running daemon.
type Client struct {
	StateDir string // of the daemon
}

// Calls returns the daemon's call table, the oldest call first. The error says so
// if no daemon runs.
func (c Client) Calls(ctx context.Context) ([]Call, error) {
	path := filepath.Join(c.StateDir, socketName)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pptpalg/calls", nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, explain(path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask daemon for its calls: it answered %s", resp.Status)
	}
	var calls []Call
	if err := json.NewDecoder(resp.Body).Decode(&calls); err != nil {
		return nil, fmt.Errorf("read the daemon's calls: %w", err)
	}
	return calls, nil
}

func explain(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon is running: nobody answers at %s: start it with \"pptpalg run\", or name its --state-dir", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("ask daemon at %s: %w: run as root or as a member of the daemon's group", path, os.ErrPermission)
	}
	return fmt.Errorf("ask daemon: %w", err)
}
