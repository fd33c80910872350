package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"pptpalg/cmd/pptpalg/internal/notify"
)

// Client asks a running daemon.
type Client struct {
	StateDir string // of the daemon
}

// Calls returns the daemon's call table, the oldest call first. The error says so
// if no daemon runs.
func (c Client) Calls(ctx context.Context) ([]Call, error) {
	body, err := c.get(ctx, "/calls")
	if err != nil {
		return nil, err
	}
	var calls []Call
	if err := c.read(ctx, body, &calls); err != nil {
		return nil, fmt.Errorf("read the daemon's calls: %w", err)
	}
	return calls, nil
}

// Status decodes into st how the daemon does: a status.Status.
func (c Client) Status(ctx context.Context, st any) error {
	body, err := c.get(ctx, "/status")
	if err != nil {
		return err
	}
	if err := c.read(ctx, body, st); err != nil {
		return fmt.Errorf("read the daemon's status: %w", err)
	}
	return nil
}

// Metrics writes the daemon's metrics as text.
func (c Client) Metrics(ctx context.Context, w io.Writer) error {
	body, err := c.get(ctx, "/metrics")
	if err != nil {
		return err
	}
	if _, err = io.Copy(w, body); err != nil {
		err = fmt.Errorf("read the daemon's metrics: %w", err)
	}
	return errors.Join(err, body.Close())
}

// get sends a request on the socket. The caller must close the answer.
func (c Client) get(ctx context.Context, what string) (io.ReadCloser, error) {
	return c.ask(ctx, http.MethodGet, what)
}

func (c Client) ask(ctx context.Context, method, what string) (io.ReadCloser, error) {
	path := filepath.Join(c.StateDir, socketName)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true, // the connection ends with the answer
	}
	if err := c.suspended(ctx); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://pptpalg"+what, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, unreachable(path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	if resp.StatusCode == http.StatusNotFound && strings.HasPrefix(what, clusterPath) {
		return nil, errors.Join(errAlone, resp.Body.Close())
	}
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // as much as there is
	why = bytes.TrimSpace(why)
	if unserved(resp.StatusCode, why) {
		return nil, errors.Join(c.otherVersion(ctx, what), resp.Body.Close())
	}
	if resp.StatusCode == http.StatusConflict || resp.StatusCode == http.StatusNotFound && len(why) > 0 && method == http.MethodPost {
		return nil, errors.Join(errors.New(string(why)), resp.Body.Close()) // its own words
	}
	return nil, errors.Join(fmt.Errorf("ask daemon: it replied %s: %s", resp.Status, why), resp.Body.Close())
}

// clusterPath is served by a gateway of a cluster only.
const clusterPath = "/cluster"

var errAlone = errors.New("the running daemon is not part of a cluster: see --cluster")

// ErrNotRunning is that no daemon answers.
var ErrNotRunning = errors.New("no daemon is running")

// unreachable says why the socket cannot be connected to, or does not answer. What net/http puts
// before the cause is left out.
func unreachable(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: cannot connect to %s: start it with \"%s\" or \"pptpalg run\", or name its --state-dir", ErrNotRunning, path, notify.Command("start"))
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("ask daemon at %s: %w: run as root or as a member of the daemon's group", path, os.ErrPermission)
	case errors.Is(err, syscall.ENOTDIR):
		return NoSocket(fmt.Sprintf("%s is not a directory", filepath.Dir(path)))
	case errors.Is(err, syscall.EINVAL) && len(path) > longestPath:
		return NoSocket(fmt.Sprintf("%s is too long for a socket: %d bytes at most", path, longestPath))
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	if inner := (*url.Error)(nil); errors.As(err, &inner) {
		err = inner.Err
	}
	return fmt.Errorf("ask daemon at %s: %w", path, err)
}

// longestPath is that of a socket (sun_path in unix(7)), without the zero at its end.
const longestPath = 107

// NoSocket is an ErrNotRunning because the state directory cannot have a socket; it says why.
type NoSocket string

func (n NoSocket) Error() string {
	return fmt.Sprintf("%v: --state-dir: %s", ErrNotRunning, string(n))
}

func (n NoSocket) Unwrap() error { return ErrNotRunning }
