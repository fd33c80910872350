package status

import (
	"context"
	"embed"
	"encoding/json"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/meter"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Config is what the page is made of. Its functions must be safe to call from any goroutine.
type Config struct {
	Version  string
	DataPath string

	// Healthy and Ready say why the daemon does not do its work, nil if it does. They must
	// not wait.
	Healthy, Ready func(now time.Time) error

	// Calls returns all calls, Traffic what flows have carried, by their Unmarked form.
	Calls    func() []calls.View
	Traffic  func() (map[calls.Flow]calls.Traffic, error)
	Gatherer prometheus.Gatherer // of the daemon's metrics
	Meter    *meter.Meter        // how the calls carry; nil knows nothing

	Cluster *admin.ClusterControl // nil for a gateway alone

	// Explain says why the calls of a client do not work. It limits what viewers cost. Nil is
	// for a page that does not tell.
	Explain func(context.Context, netip.Addr) (explain.Report, error)

	Rules     func() (by string, since time.Time) // who loads the firewall rules, and since when they are there; zero while they are not
	Contested func(now time.Time) bool            // another program keeps removing them; nil for never
	FastPath  string                              // as --fastpath
	Limits    func() Limits                       // nil for none
	LastError func() *LogLine                     // that the daemon has logged; nil for none
}

// Limits are those that a gateway may come near to.
type Limits struct{ Calls, Connections int }

// Page serves the status page and its JSON. It trusts every client.
type Page struct {
	cfg    Config
	mux    *http.ServeMux
	now    func() time.Time
	last   atomic.Pointer[snapshot]
	taking chan struct{} // has an element while a snapshot is being taken
	forget *time.Timer   // drops the last snapshot when there are no viewers
}

//go:embed page
var files embed.FS

// assets are the files of the page, by their path.
var assets = map[string]struct{ file, kind string }{
	"/{$}":        {"index.html", "text/html; charset=utf-8"},
	"/status.css": {"status.css", "text/css; charset=utf-8"},
	"/status.js":  {"status.js", "text/javascript; charset=utf-8"},
	"/icon.svg":   {"icon.svg", "image/svg+xml"},
}

// New returns a page.
func New(cfg Config) *Page {
	p := &Page{cfg: cfg, mux: http.NewServeMux(), now: time.Now, taking: make(chan struct{}, 1)}
	p.forget = time.AfterFunc(rateSpan, func() { p.last.Store(nil) })
	for path, a := range assets {
		body, err := files.ReadFile("page/" + a.file)
		if err != nil {
			panic(err) // it is not in the program
		}
		p.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", a.kind)
			_, _ = w.Write(body) // the client went away
		})
	}
	p.mux.HandleFunc("GET /api/status", p.ServeStatus)
	p.mux.HandleFunc("GET /api/calls", p.serveCalls)
	p.mux.HandleFunc("GET /api/explain", p.serveExplain)
	p.mux.HandleFunc("GET /api/history", p.serveHistory)
	return p
}

// policy lets the page load its own files and nothing else, from nowhere else. Text becomes
// markup nowhere (trusted types).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range map[string]string{
		"Content-Security-Policy":      policy,
		"X-Content-Type-Options":       "nosniff",
		"Cache-Control":                "no-store",
		"Referrer-Policy":              "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cross-Origin-Opener-Policy":   "same-origin",
	} {
		w.Header().Set(name, value)
	}
	p.mux.ServeHTTP(w, r)
}

// patience is how long the answer about health waits for the calls.
const patience = time.Second

// ServeStatus answers with a Status.
func (p *Page) ServeStatus(w http.ResponseWriter, r *http.Request) {
	st := Status{Version: p.cfg.Version, DataPath: p.cfg.DataPath, Now: schema.At(p.now()), Rules: p.rules(), Cluster: p.cluster(), FastPath: p.fastPath(nil)}
	if p.cfg.LastError != nil {
		st.LastError = p.cfg.LastError()
	}
	p.problems(&st)
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	if s := p.latest(ctx); s != nil {
		var most Limits
		if p.cfg.Limits != nil {
			most = p.cfg.Limits()
		}
		st.Sums, st.FastPath = s.sums(most), p.fastPath(s.figures)
		st.Problems = append(st.Problems, s.problems(most)...)
	}
	answer(w, st)
}

func (p *Page) serveCalls(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s := p.latest(r.Context())
	if s == nil {
		return // the client went away
	}
	found, matching := s.find(q)
	l := List{Now: schema.At(p.now()), AsOf: schema.At(s.at), All: len(s.rows), Matching: matching, Offset: q.offset, Calls: make([]Call, len(found))}
	name := p.cfg.Cluster.Namer()
	for i, r := range found {
		l.Calls[i] = r.call()
		name(r.View, &l.Calls[i].Call)
	}
	answer(w, l)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// A reader that went away is the only way for this to fail.
	_ = json.NewEncoder(w).Encode(v)
}
