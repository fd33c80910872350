package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/meter"
	"pptpalg/cmd/pptpalg/internal/sockets"
	"pptpalg/cmd/pptpalg/internal/webconfig"
)

// socketName is the socket's name in the state directory.
const socketName = "control.sock"

// The time that a client may take: to send a request, to send another one, and on Listen to
// read the answer. Readers of the socket are the gateway's own users, and may take longer.
const (
	headerTime = 5 * time.Second
	idleTime   = 30 * time.Second
	answerTime = 30 * time.Second
)

// socketPause is how long the server waits between two tries to open its socket.
const socketPause = 2 * time.Second

// stopTime bounds how long answers under way may take when the server stops.
const stopTime = time.Second

// Config says where to listen.
type Config struct {
	Listen   string // TCP address of the metrics, "" for none
	StateDir string // directory of the unix socket; it is made if it is missing

	// WebConfig is a web configuration file of Prometheus's exporter-toolkit: TLS and
	// basic authentication for all that is served on Listen. It is read again for each
	// connection. "" is for neither.
	WebConfig string
	// Log takes what goes wrong with single connections over WebConfig. Nil is for silence.
	Log *slog.Logger

	// Healthy says what keeps the daemon from its work, nil if nothing does. It must
	// be safe to call from any goroutine. Nil means that nothing ever does.
	Healthy func(now time.Time) error

	// Ready says why the daemon does not do its work yet, or any more, nil if it does.
	// The rest is as for Healthy.
	Ready func(now time.Time) error

	// Explain, and the other functions for the unix socket only, must be safe to call from
	// any goroutine. A nil one is not served.
	Explain    func(ctx context.Context, client netip.Addr) (explain.Report, error)
	ExplainAll func(ctx context.Context) ([]explain.Report, error)
	Events     *history.Store
	// Traffic returns what flows have carried, by their Unmarked form.
	Traffic func() (map[calls.Flow]calls.Traffic, error)
	// EndCall ends a call by its number.
	EndCall func(number uint64) (alg.Ended, error)
	// Meter says how calls carry, and is told what they have carried. Nil knows nothing.
	Meter *meter.Meter
	// FastPath is told on the unix socket. Nil is not.
	FastPath *FastPath
	// Cluster answers commands on the unix socket. Nil is for a gateway alone.
	Cluster *ClusterControl

	// Status answers on the unix socket how the daemon does.
	Status http.HandlerFunc

	// Page answers on Listen all other requests than those for metrics and probes, as Show
	// says. Nil is for no page.
	Page http.Handler
	Show Show
}

// Server answers for a daemon.
type Server struct {
	metrics, control net.Listener // control is nil while there can be no socket
	stateDir         string
	gatherer         *sharedGatherer
	views            func() []calls.View
	calls            shared[[]byte] // as JSON
	healthy, ready   func(now time.Time) error
	webConfig        string
	log              *slog.Logger
	explain          func(context.Context, netip.Addr) (explain.Report, error)
	explainAll       func(context.Context) ([]explain.Report, error)
	explaining       *pace
	end              func(uint64) (alg.Ended, error)
	events           *history.Store
	traffic          func() (map[calls.Flow]calls.Traffic, error)
	meter            *meter.Meter
	fastPath         *FastPath
	cluster          *ClusterControl
	status           http.HandlerFunc
	page             http.Handler
	show             Show
	crowded          atomic.Uint64 // connections that were closed for others
}

// Listen opens the listeners, so that it fails for a taken port or socket before the daemon
// touches a packet. If the state directory cannot have a socket because room or rights are
// missing, it logs that, and Run keeps trying. all must be safe to call from any goroutine.
// The caller must call Run or Close.
func Listen(cfg Config, g prometheus.Gatherer, all func() []calls.View) (*Server, error) {
	s := &Server{stateDir: cfg.StateDir, gatherer: shareGatherer(g), views: all, healthy: cfg.Healthy, ready: cfg.Ready, webConfig: cfg.WebConfig, log: cfg.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.calls.look = s.callsJSON
	s.explain, s.events, s.traffic, s.end = cfg.Explain, cfg.Events, cfg.Traffic, cfg.EndCall
	s.meter, s.explainAll = cfg.Meter, cfg.ExplainAll
	s.fastPath, s.explaining = cfg.FastPath, newPace()
	s.status = cfg.Status
	s.page, s.show, s.cluster = cfg.Page, cfg.Show, cfg.Cluster
	if cfg.Listen != "" {
		if err := webconfig.Validate(cfg.WebConfig); err != nil {
			return nil, fmt.Errorf("read web configuration %s: %w: fix the file, or remove --web-config", cfg.WebConfig, err)
		}
		l, err := net.Listen("tcp", cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen for metrics: %w: choose another address with --listen", sockets.Plain(err))
		}
		s.metrics = s.bound(l)
	}
	control, err := listenControl(cfg.StateDir)
	switch {
	case errors.Is(err, errTaken):
		return nil, errors.Join(err, s.Close())
	case err != nil:
		s.log.Error("commands cannot reach the daemon until the state directory works", "err", err)
	default:
		s.control = s.bound(control)
	}
	return s, nil
}

func (s *Server) bound(l net.Listener) net.Listener {
	return bound(l, connectionLimit(), func() { s.crowded.Add(1) })
}

// Crowded returns how many connections were closed because there were too many.
func (s *Server) Crowded() uint64 { return s.crowded.Load() }

// errTaken says that another daemon has the socket.
var errTaken = errors.New("another daemon answers there")

// listenControl opens the socket for root and the daemon's group. A socket that a
// killed daemon left behind is taken over; one that answers is another daemon's.
func listenControl(dir string) (net.Listener, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make state directory: %w: choose another with --state-dir", err)
	}
	path := filepath.Join(dir, socketName)
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w: stop it, or choose another --state-dir", path, errTaken), c.Close())
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
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
		mux.HandleFunc("GET /-/healthy", probe("healthy", s.healthy))
		mux.HandleFunc("GET /-/ready", probe("ready", s.ready))
		s.addPage(mux)
		srv := s.server(mux)
		srv.WriteTimeout = answerTime
		group.Go(func() error { return serve(ctx, s.metrics, srv, s.answer) })
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.gatherer, promhttp.HandlerOpts{})) // where Listen has none, or wants a password
	mux.HandleFunc("GET /calls", s.serveCalls)
	if s.status != nil {
		mux.HandleFunc("GET /status", s.status)
	}
	if s.end != nil {
		mux.HandleFunc("POST /calls/end", s.serveEnd)
	}
	if s.explain != nil {
		mux.HandleFunc("GET /explain", s.serveExplain)
		mux.HandleFunc("GET /explain/all", s.serveExplainAll)
	}
	if s.events != nil {
		mux.HandleFunc("GET /events", s.serveEvents(ctx))
	}
	if s.fastPath != nil {
		mux.HandleFunc("GET /fastpath", s.serveFastPath)
	}
	if s.cluster != nil {
		s.cluster.addTo(mux)
	}
	group.Go(func() error {
		if s.control == nil && !s.awaitSocket(ctx) {
			return nil
		}
		return serve(ctx, s.control, s.server(mux), (*http.Server).Serve)
	})
	return group.Wait()
}

// awaitSocket opens the socket as soon as that can be done. It reports false if ctx is done
// first.
func (s *Server) awaitSocket(ctx context.Context) bool {
	for again := time.Tick(socketPause); ; {
		select {
		case <-ctx.Done():
			return false
		case <-again:
		}
		if l, err := listenControl(s.stateDir); err == nil {
			s.log.Info("the state directory works: commands can reach the daemon", "socket", l.Addr())
			s.control = s.bound(l)
			return true
		}
	}
}

func (s *Server) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what strangers do
	}
}

// probe replies 200, or 503 with the reason. A nil ask means 200.
func probe(well string, ask func(time.Time) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if ask != nil {
			if err := ask(time.Now()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, well)
	}
}

// answer serves on the listener of the metrics, as the web configuration says.
func (s *Server) answer(srv *http.Server, l net.Listener) error {
	if s.webConfig == "" {
		return srv.Serve(l)
	}
	return webconfig.Serve(l, srv, s.webConfig, s.log)
}

func (s *Server) serveCalls(w http.ResponseWriter, r *http.Request) {
	all, ok := s.calls.get(r.Context())
	if !ok {
		return // the client went away
	}
	w.Header().Set("Content-Type", "application/json")
	// A reader that went away is the only way for this to fail.
	_, _ = w.Write(all)
}

func (s *Server) callsJSON() []byte {
	began := time.Now()
	views := s.views()
	var carried map[calls.Flow]calls.Traffic
	if s.traffic != nil && len(views) > 0 {
		carried, _ = s.traffic() // without it the calls are shown uncounted
	}
	s.meter.Observe(began, views, carried)
	all, name := make([]Call, len(views)), s.cluster.Namer()
	for i := range views {
		toPNS, toPAC := Carried(&views[i], carried)
		all[i] = NewCall(&views[i], toPNS, toPAC, s.meter.Of(views[i].Number))
		name(&views[i], &all[i])
	}
	b, _ := json.Marshal(all) // a Call has nothing that JSON cannot say
	return append(b, '\n')
}

func serve(ctx context.Context, l net.Listener, srv *http.Server, answer func(*http.Server, net.Listener) error) error {
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopping, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		stopped <- errors.Join(srv.Shutdown(stopping), srv.Close())
	}()
	if err := answer(srv, l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %v: %w", l.Addr(), err)
	}
	err := <-stopped
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // a client that would not finish was cut off
	}
	return err
}
