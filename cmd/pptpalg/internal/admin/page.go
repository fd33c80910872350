package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"
)

// Show says where the status page is shown. It tells addresses and Call IDs, which the
// metrics do not.
type Show string

// Where the page is shown.
const (
	ShowAuto Show = "auto" // where only the gateway's own users can reach it: on loopback
	ShowOn   Show = "on"   // on any listener
	ShowOff  Show = "off"
)

// MarshalText and UnmarshalText are for flags.
func (s Show) MarshalText() ([]byte, error) { return []byte(s), nil }

func (s *Show) UnmarshalText(b []byte) error {
	switch read := Show(b); read {
	case ShowAuto, ShowOn, ShowOff:
		*s = read
		return nil
	}
	return fmt.Errorf("%q is none of %s, %s and %s", b, ShowAuto, ShowOn, ShowOff)
}

// addPage adds the page to the listener of the metrics, or a page of links that says why it is
// not shown.
func (s *Server) addPage(mux *http.ServeMux) {
	switch {
	case s.page == nil:
	case s.show == ShowOn, s.show == ShowAuto && s.onLoopback():
		mux.HandleFunc("GET /", s.servePage)
	default:
		mux.Handle("GET /{$}", landing)
		mux.HandleFunc("GET /api/", hidePage)
	}
}

// onLoopback asks the address that is bound: a name, or none, is not what counts.
func (s *Server) onLoopback() bool {
	a, ok := s.metrics.Addr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	if !s.named(r) {
		http.Error(w, fmt.Sprintf("the status page is not served under the name %q: use an address, localhost, or TLS; a proxy must send such a Host header", r.Host), http.StatusMisdirectedRequest)
		return
	}
	s.page.ServeHTTP(w, r)
}

// named reports whether a request names the listener in a way that no stranger can arrange.
// A web page may point a name of its own at this listener (DNS rebinding), and the browser
// would let it read the answers. It cannot do that with an address, nor with localhost (RFC
// 6761 section 6.3), and this listener has no certificate for its name.
func (s *Server) named(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	host := hostname(r.Host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && (addr.Unmap().IsLoopback() || !s.onLoopback())
}

// hostname is a Host header without its port, and without brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// hidden is why there is no status page.
const hidden = "the status page is not served here: it shows addresses and Call IDs, so off loopback it needs --status-page on"

// landing is in the place of a status page that is not shown.
var landing = func() http.Handler {
	page, err := web.NewLandingPage(web.LandingConfig{
		Name: "pptpalg", Description: "PPTP NAT editor: " + hidden, HeaderColor: "#334155", Profiling: "false",
		Links: []web.LandingLinks{
			{Address: "metrics", Text: "Metrics", Description: "for Prometheus"},
			{Address: "-/healthy", Text: "Health", Description: "200 while packets get their verdicts, else 503 with the reason"},
			{Address: "-/ready", Text: "Readiness", Description: "200 while calls are edited, else 503 with the reason"},
		},
	})
	if err != nil {
		panic(err) // its template is the toolkit's
	}
	return page
}()

func hidePage(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, hidden, http.StatusNotFound)
}
