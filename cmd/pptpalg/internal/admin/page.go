package admin

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
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
		mux.HandleFunc("GET /{$}", serveLanding)
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
const landing = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pptpalg</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }
</style>
</head>
<body>
<h1>pptpalg</h1>
<p>PPTP NAT editor: ` + hidden + `</p>
<ul>
<li><a href="/metrics">Metrics</a>: for Prometheus</li>
<li><a href="/-/healthy">Health</a>: 200 while packets get their verdicts, else 503 with the reason</li>
<li><a href="/-/ready">Readiness</a>: 200 while calls are edited, else 503 with the reason</li>
</ul>
</body>
</html>
`

func serveLanding(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, landing) // the reader may be gone
}

func hidePage(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, hidden, http.StatusNotFound)
}
