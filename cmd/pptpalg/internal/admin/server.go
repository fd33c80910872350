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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"pptpalg/conntrack"
)

// socketName is the socket's name in the state directory.
const socketName = "control.sock"

// headerTime bounds how long a client may take to ask.
const headerTime = 5 * time.Second

// stopTime bounds how long answers under way may take when the server stops.
const stopTime = time.Second

// Config says where to listen.
type Config struct {
	Listen   string // TCP address of the metrics, "" for none
	StateDir string // directory of the unix socket; it is made if it is missing

	// Healthy says what keeps the daemon from its work, nil if nothing does. It must
	// be safe to call from any goroutine. Nil means that nothing ever does.
	Healthy func(now time.Time) error
}

// Server answers for a daemon.
type Server struct {
	metrics, control net.Listener
	gatherer         prometheus.Gatherer
	calls            func() []conntrack.View
	healthy          func(now time.Time) error
}

// Listen opens the listeners, so that a port or a socket that is taken is found
// before the daemon touches a packet. calls must be safe to call from any
// goroutine. The caller must call Run or Close.
func Listen(cfg Config, g prometheus.Gatherer, calls func() []conntrack.View) (*Server, error) {
	s := &Server{gatherer: g, calls: calls, healthy: cfg.Healthy}
	var err error
	if cfg.Listen != "" {
		if s.metrics, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("listen for metrics: %w: choose another address with --listen", err)
		}
	}
	if s.control, err = listenControl(cfg.StateDir); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// listenControl opens the socket for root and the daemon's group. A socket that a
// killed daemon left behind is taken over; one that answers is another daemon's.
func listenControl(dir string) (net.Listener, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make state directory: %w: choose another with --state-dir", err)
	}
	path := filepath.Join(dir, socketName)
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: another daemon answers there: stop it, or choose another --state-dir", path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w: choose another directory with --state-dir", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("set rights of socket: %w", err), l.Close())
	}
	return l, nil
}

// Close gives up a server that was not run.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.metrics, s.control} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// MetricsAddr returns the address of the metrics, nil without them.
func (s *Server) MetricsAddr() net.Addr {
	if s.metrics == nil {
		return nil
	}
	return s.metrics.Addr()
}

// Run answers until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if s.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.gatherer, promhttp.HandlerOpts{}))
		mux.HandleFunc("GET /-/healthy", s.serveHealth)
		group.Go(func() error { return serve(ctx, s.metrics, mux) })
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /calls", s.serveCalls)
	group.Go(func() error { return serve(ctx, s.control, mux) })
	return group.Wait()
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if s.healthy != nil {
		if err := s.healthy(time.Now()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "healthy")
}

func (s *Server) serveCalls(w http.ResponseWriter, _ *http.Request) {
	views := s.calls()
	calls := make([]Call, len(views))
	for i, v := range views {
		calls[i] = newCall(v)
	}
	w.Header().Set("Content-Type", "application/json")
	// A reader that went away is the only way for this to fail.
	_ = json.NewEncoder(w).Encode(calls)
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: headerTime}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopping, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		stopped <- errors.Join(srv.Shutdown(stopping), srv.Close())
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %v: %w", l.Addr(), err)
	}
	err := <-stopped
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // a client that would not finish was cut off
	}
	return err
}
