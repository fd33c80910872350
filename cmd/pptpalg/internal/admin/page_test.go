package admin

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// somePage answers everything.
var somePage = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "the page, "+r.URL.Path)
})

// TestShow: addresses are told where nobody but the gateway's own users can ask, unless it
// was said otherwise.
func TestShow(t *testing.T) {
	tests := []struct {
		listen string
		show   Show
		page   http.Handler
		status int
		body   string
	}{
		{"127.0.0.1:0", ShowAuto, somePage, 200, "the page, /"},
		{"[::1]:0", ShowAuto, somePage, 200, "the page, /"},
		{"localhost:0", ShowAuto, somePage, 200, "the page, /"},
		{"0.0.0.0:0", ShowAuto, somePage, 200, `<a href="/metrics">Metrics</a>`},
		{":0", ShowAuto, somePage, 200, `<a href="/metrics">Metrics</a>`},
		{":0", ShowOn, somePage, 200, "the page, /"},
		{"127.0.0.1:0", ShowOn, somePage, 200, "the page, /"},
		{":0", ShowOff, somePage, 200, `<a href="/metrics">Metrics</a>`},
		{"127.0.0.1:0", ShowOff, somePage, 200, `<a href="/metrics">Metrics</a>`},
		{"127.0.0.1:0", ShowOn, nil, 404, "404 page not found"},
	}
	for _, tt := range tests {
		t.Run(string(tt.show)+" on "+tt.listen, func(t *testing.T) {
			s := run(t, Config{Listen: tt.listen, StateDir: t.TempDir(), Page: tt.page, Show: tt.show})
			url := "http://" + net.JoinHostPort("localhost", port(t, s))
			if tt.listen == "[::1]:0" {
				url = "http://" + s.MetricsAddr().String()
			}
			if status, body := get(t, url+"/"); status != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("answers %d %q, want %d %q", status, body, tt.status, tt.body)
			}
			want := http.StatusOK
			if !strings.HasPrefix(tt.body, "the page") {
				want = http.StatusNotFound
			}
			if status, _ := get(t, url+"/api/calls"); status != want {
				t.Errorf("the calls are answered %d, want %d", status, want)
			}
			if status, body := get(t, url+"/-/healthy"); status != http.StatusOK || body != "healthy\n" {
				t.Errorf("the probe answers %d %q", status, body)
			}
		})
	}
}

// TestOpenMetrics: a scraper that asks for OpenMetrics gets it.
func TestOpenMetrics(t *testing.T) {
	s := run(t, Config{Listen: "127.0.0.1:0", StateDir: t.TempDir()})
	for accept, want := range map[string]string{
		"": "text/plain; version=0.0.4", "text/plain": "text/plain; version=0.0.4",
		"application/openmetrics-text; version=1.0.0": "application/openmetrics-text; version=1.0.0",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.MetricsAddr().String()+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, want) || strings.HasSuffix(string(body), "# EOF\n") != strings.Contains(want, "openmetrics") {
			t.Errorf("for %q: %s\n%s", accept, got, body)
		}
	}
}

func port(t *testing.T, s *Server) string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.MetricsAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestPageAndMethods: the page takes nothing away from the metrics and the probes.
func TestPageAndMethods(t *testing.T) {
	s := run(t, Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), Page: somePage, Show: ShowAuto})
	for _, path := range []string{"/", "/api/calls", "/metrics", "/-/ready"} {
		resp, err := http.Post("http://"+s.MetricsAddr().String()+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s is answered %d", path, resp.StatusCode)
		}
	}
}

// TestHost: a page on the web that points its own name at the listener (DNS rebinding) is
// told nothing.
func TestHost(t *testing.T) {
	tests := []struct {
		host               string
		loopback, anywhere bool // whether it is answered by a listener there
	}{
		{"127.0.0.1:9723", true, true},
		{"127.0.0.1", true, true},
		{"127.1.2.3:80", true, true},
		{"[::1]:9723", true, true},
		{"[::1]", true, true},
		{"[::ffff:127.0.0.1]:1", true, true},
		{"localhost", true, true},
		{"LocalHost.:8080", true, true},
		{"gateway.localhost:9723", true, true},
		{"192.0.2.1:9723", false, true}, // a proxy is before the listener
		{"0.0.0.0:9723", false, true},
		{"evil.example:9723", false, false},
		{"evil.example", false, false},
		{"localhost.evil.example:9723", false, false},
		{"127.0.0.1.evil.example", false, false},
		{"2130706433", false, false},
		{"127.1", false, false},
		{"", false, false},
	}
	for listen, answered := range map[string]func(i int) bool{
		"127.0.0.1:0": func(i int) bool { return tests[i].loopback },
		"0.0.0.0:0":   func(i int) bool { return tests[i].anywhere },
	} {
		s := run(t, Config{Listen: listen, StateDir: t.TempDir(), Page: somePage, Show: ShowOn})
		for i, tt := range tests {
			want := http.StatusMisdirectedRequest
			if answered(i) {
				want = http.StatusOK
			}
			if got := statusAs(t, s, tt.host); got != want {
				t.Errorf("%s, asked as %q: %d, want %d", listen, tt.host, got, want)
			}
		}
	}
}

// statusAs asks a server for the page by a Host header, or by none, as HTTP/1.0 does.
func statusAs(t *testing.T, s *Server, host string) int {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := "GET / HTTP/1.0\r\n\r\n"
	if host != "" {
		request = "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// TestPageWithWebConfig: the page needs the password, and over TLS may be asked for by
// name.
func TestPageWithWebConfig(t *testing.T) {
	path, roots := webConfig(t, useTLS+users)
	s := run(t, Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), WebConfig: path, Page: somePage, Show: ShowAuto})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}, DisableKeepAlives: true}
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.MetricsAddr().String())
	}
	client := &http.Client{Transport: transport}
	for password, want := range map[string]int{"": 401, "wrong": 401, "secret": 200} {
		for _, page := range []string{"/", "/api/calls", "/api/status"} {
			if got := status(t, client, "https://gateway.example"+page, password); got != want {
				t.Errorf("%s by password %q: %d, want %d", page, password, got, want)
			}
		}
	}
}

func TestShowText(t *testing.T) {
	for _, text := range []string{"auto", "on", "off"} {
		var s Show
		if err := s.UnmarshalText([]byte(text)); err != nil || string(s) != text {
			t.Errorf("%s is read as %s, %v", text, s, err)
		}
	}
	var s Show
	if err := s.UnmarshalText([]byte("yes")); err == nil || s != "" {
		t.Errorf("yes is read as %q, %v", s, err)
	}
}
