package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/promise"
	"pptpalg/cmd/pptpalg/internal/meter"
)

// get asks a page and returns what it answered.
func get(t testing.TB, p *Page, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	name, _, _ := strings.Cut(path, "?")
	if name, api := strings.CutPrefix(name, "/api/"); api && w.Code == http.StatusOK {
		must(t, promise.Check("api-"+name, w.Body.Bytes()))
	}
	return w
}

func decode[T any](t testing.TB, w *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s: %s", w.Code, w.Header(), w.Body)
	}
	must(t, json.Unmarshal(w.Body.Bytes(), &v))
	return v
}

// TestHeaders: every answer may be read by its own page alone, and kept by nobody.
func TestHeaders(t *testing.T) {
	p := New(office().config())
	for path, want := range map[string]struct {
		status int
		kind   string
	}{
		"/":                   {200, "text/html; charset=utf-8"},
		"/status.css":         {200, "text/css; charset=utf-8"},
		"/status.js":          {200, "text/javascript; charset=utf-8"},
		"/icon.svg":           {200, "image/svg+xml"},
		"/api/status":         {200, "application/json"},
		"/api/calls":          {200, "application/json"},
		"/api/calls?limit=0":  {400, "text/plain; charset=utf-8"},
		"/page/":              {404, "text/plain; charset=utf-8"},
		"/index.html":         {404, "text/plain; charset=utf-8"},
		"/api/calls/":         {404, "text/plain; charset=utf-8"},
		"/%2e%2e/%2e%2e/page": {404, "text/plain; charset=utf-8"},
	} {
		w := get(t, p, path)
		h := w.Header()
		if w.Code != want.status || h.Get("Content-Type") != want.kind {
			t.Errorf("%s: %d %s", path, w.Code, h.Get("Content-Type"))
		}
		if h.Get("Content-Security-Policy") != policy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Access-Control-Allow-Origin") != "" ||
			h.Get("Cross-Origin-Resource-Policy") != "same-origin" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, h)
		}
		if want.status == http.StatusOK && h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: may be kept", path)
		}
	}
}

func TestMethods(t *testing.T) {
	s := serve(t, office().config())
	for _, path := range []string{"/", "/api/status", "/api/calls"} {
		resp, err := http.Post(s.URL+path, "text/plain", strings.NewReader("x"))
		must(t, err)
		must(t, resp.Body.Close())
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d, allowed %q", path, resp.StatusCode, resp.Header.Get("Allow"))
		}
		resp, err = http.Head(s.URL + path)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, errors.Join(err, resp.Body.Close()))
		if resp.StatusCode != http.StatusOK || len(body) > 0 {
			t.Errorf("HEAD %s: %d, %d bytes", path, resp.StatusCode, len(body))
		}
	}
}

// TestPolicyHolds: the page has nothing inline, and names nothing elsewhere.
func TestPolicyHolds(t *testing.T) {
	p := New(office().config())
	for _, path := range []string{"/", "/status.css", "/status.js"} {
		body := get(t, p, path).Body.String()
		for _, forbidden := range []string{"http:", "https:", "<style", " style=", "onclick", "innerHTML", "outerHTML", "insertAdjacent", "eval(", "@import", "url("} {
			if strings.Contains(body, forbidden) {
				t.Errorf("%s has %s", path, forbidden)
			}
		}
	}
}

// clients returns the clients of a list.
func clients(l List) string {
	var all []string
	for _, c := range l.Calls {
		all = append(all, strings.TrimPrefix(c.PNS.Address, "10.20."))
	}
	return strings.Join(all, " ")
}

func TestQuery(t *testing.T) {
	f := office()
	p := New(f.config())
	now := time.Now()
	p.now = func() time.Time { return now }
	get(t, p, "/api/calls") // the first look, for the rates
	f.busy()
	now = now.Add(2 * time.Second)
	tests := []struct {
		query    string
		matching int
		clients  string
	}{
		{"limit=3", 10, "4.90 4.13 4.12"},
		{"limit=3&sort=-age", 10, "1.14 1.15 1.22"},
		{"limit=3&offset=8", 10, "1.15 1.14"},
		{"limit=3&offset=10", 10, ""},
		{"limit=3&sort=number", 10, "1.14 1.15 1.22"},
		{"limit=3&sort=client", 10, "1.14 1.15 1.22"},
		{"limit=3&sort=-client", 10, "4.90 4.13 4.12"},
		{"limit=3&sort=call_id", 10, "1.14 1.15 1.22"},
		{"limit=3&sort=-public", 10, "3.118 3.101 4.12"},
		{"limit=3&sort=server", 10, "3.101 3.118 4.12"},
		{"limit=3&sort=-server_id", 10, "4.13 4.12 3.118"},
		{"limit=3&sort=state", 10, "4.90 4.13 1.14"},
		{"limit=3&sort=rate", 10, "3.101 4.12 1.14"},
		{"limit=3&sort=to_client", 10, "3.101 4.12 1.14"},
		{"limit=3&sort=-to_server", 10, "4.90 4.13 3.7"},
		{"filter=10.20.4.", 3, "4.90 4.13 4.12"},
		{"filter=10.20.4.0/24", 3, "4.90 4.13 4.12"},
		{"filter=192.0.2.0/24+ESTABLISHED", 3, "4.12 3.118 3.101"},
		{"filter=+4.12+", 1, "4.12"},
		{"filter=198.51.100.7/255", 1, "1.40"},
		{"filter=10.20.1.40/7", 1, "1.40"},
		{"filter=10.20.1.40/32", 1, "1.40"},
		{"filter=%3Cscript%3E", 0, ""},
		{"filter=10.20.4.0/24&sort=client&limit=1&offset=1", 3, "4.13"},
	}
	for _, tt := range tests {
		l := decode[List](t, get(t, p, "/api/calls?"+tt.query))
		if l.All != 10 || l.Matching != tt.matching || clients(l) != tt.clients {
			t.Errorf("%s: %d of %d match: %s; want %d: %s", tt.query, l.Matching, l.All, clients(l), tt.matching, tt.clients)
		}
	}
}

func TestQueryRefused(t *testing.T) {
	p := New(newFake().config())
	for query, want := range map[string]string{
		"sort=size":    `sort: "size" is none of age, call_id, client, `,
		"sort=--age":   `sort: "-age" is none of`,
		"limit=0":      `limit: "0" is not a number from 1 to 1000`,
		"limit=1001":   `limit: "1001" is not a number`,
		"limit=all":    `limit: "all" is not a number`,
		"offset=-1":    `offset: "-1" is not a number`,
		"offset=1e999": `offset: "1e999" is not a number`,
		"filter=" + strings.Repeat("x", mostFilter+1): "filter: longer than 200 bytes",
	} {
		if w := get(t, p, "/api/calls?"+query); w.Code != http.StatusBadRequest || !strings.HasPrefix(w.Body.String(), want) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

// TestCall has the shape of "pptpalg calls --json", and tells which end is the client.
func TestCall(t *testing.T) {
	f := newFake()
	f.add(person{"10.20.1.40", "203.0.113.50", 7, 255, 24, calls.Established, time.Hour})
	f.add(person{"10.20.1.41", "203.0.113.50", 7, 256, 25, calls.Requested, time.Hour})
	// The server is inside, and calls: its client is the PAC.
	f.calls[1].PNS, f.calls[1].PAC = f.calls[1].PAC, f.calls[1].PNS
	p := New(f.config())
	now := time.Now()
	p.now = func() time.Time { return now }
	f.carry(0, 900, 90)
	get(t, p, "/api/calls")
	f.carry(0, 1800, 180)
	now = now.Add(2 * time.Second)
	var l struct {
		Calls []map[string]any `json:"calls"`
	}
	must(t, json.Unmarshal(get(t, p, "/api/calls?sort=client").Body.Bytes(), &l))
	want := map[string]any{
		"number": 1.0, "state": "established", "client": "pns", "since": l.Calls[0]["since"],
		"pns":     map[string]any{"address": "10.20.1.40", "public_address": "198.51.100.7", "call_id": 7.0, "public_call_id": 255.0},
		"pac":     map[string]any{"address": "203.0.113.50", "public_address": "203.0.113.50", "call_id": 24.0, "public_call_id": 24.0},
		"control": map[string]any{"src": "10.20.1.40:1025", "dst": "203.0.113.50:1723"},
		"to_pns":  map[string]any{"packets": 3.0, "bytes": 2700.0}, "to_pac": map[string]any{"packets": 2.0, "bytes": 270.0},
		"carries": "unknown", "to_pns_rate": map[string]any{"packets": 1.0, "bytes": 900.0}, "to_pac_rate": map[string]any{"packets": 1.0, "bytes": 90.0},
	}
	if diff := cmp.Diff(want, l.Calls[0]); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if c := l.Calls[1]; c["client"] != "pac" || c["to_pns"] != nil || c["to_pac_rate"] != nil {
		t.Errorf("the other: %v", c)
	}
}

// TestText: what a name of the daemon's is made of stays text, in the JSON too.
func TestText(t *testing.T) {
	f := newFake()
	f.stuck = errors.New("</script><b>&")
	body := get(t, New(f.config()), "/api/status").Body.String()
	if strings.ContainsAny(body, "<>&") {
		t.Error(body)
	}
}

func TestStatus(t *testing.T) {
	f := office()
	cfg := f.config()
	cfg.Gatherer = f.officeMetrics()
	p := New(cfg)
	now := time.Now()
	p.now = func() time.Time { return now }
	st := decode[Status](t, get(t, p, "/api/status"))
	if st.Version != "v0.9.1" || st.DataPath != "kernel" || !st.Ready || !st.Healthy || len(st.Problems) != 0 || st.Sums.Rate != nil {
		t.Errorf("%+v", st)
	}
	if diff := cmp.Diff(Count{All: 10, Requested: 1, Answered: 1, Established: 8, Counted: 8}, st.Sums.Calls); diff != "" {
		t.Errorf("calls (-want +got)\n%s", diff)
	}
	if s := st.Sums; s.CallIDSpace != 0.0213 || s.CallIDsResting != 4 || s.Connections != 10 || s.Untouched != 2 || s.Opened != 184 || s.Refused != 3 || s.Unedited != 0 {
		t.Errorf("%+v", s)
	}
	f.busy()
	now = now.Add(2 * time.Second)
	if st = decode[Status](t, get(t, p, "/api/status")); st.Sums.Rate == nil || st.Sums.Rate.Bytes != 1_359_399 {
		t.Errorf("the rate is %+v", st.Sums.Rate)
	}
	// Nobody looked for long: that is no rate of now.
	now = now.Add(2 * time.Minute)
	if st = decode[Status](t, get(t, p, "/api/status")); st.Sums.Rate != nil {
		t.Errorf("the rate is %+v", st.Sums.Rate)
	}
}

// TestContestedRules: that another program keeps removing the rules is a problem also while they
// are there, and is told once.
func TestContestedRules(t *testing.T) {
	for _, tt := range []struct {
		name    string
		started error
		want    []string
	}{
		{"there", nil, []string{Contested}},
		{"gone", errors.New("missing: another program keeps removing them"), []string{"missing: another program keeps removing them"}},
		{"another reason", errors.New("no cluster"), []string{"no cluster", Contested}},
	} {
		f := office()
		f.started = tt.started
		cfg := f.config()
		cfg.Rules = func() (string, time.Time) { return "nft", time.Time{} }
		cfg.Contested = func(time.Time) bool { return true }
		st := decode[Status](t, get(t, New(cfg), "/api/status"))
		if diff := cmp.Diff(tt.want, st.Problems); diff != "" || !st.Rules.Contested {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
}

// TestRateUnasked: who is the first to ask for long gets the rate that the meter has seen.
func TestRateUnasked(t *testing.T) {
	f := office()
	cfg := f.config()
	cfg.Meter = meter.New(meter.Source{})
	p := New(cfg)
	now := time.Now()
	p.now = func() time.Time { return now }
	look := func() {
		carried, _ := f.traffic()
		cfg.Meter.Observe(now, f.views(), carried)
	}
	look()
	f.busy()
	now = now.Add(meter.Step)
	look()
	now = now.Add(meter.Step / 2)
	if rate := decode[Status](t, get(t, p, "/api/status")).Sums.Rate; rate == nil || rate.Bytes != 135_936 || rate.Packets != 151 {
		t.Errorf("the rate is %+v", rate)
	}
	f.calls = nil
	now = now.Add(time.Second)
	if rate := decode[Status](t, get(t, p, "/api/status")).Sums.Rate; rate != nil {
		t.Errorf("without calls the rate is %+v", rate)
	}
}

// TestProblems are said in words.
func TestProblems(t *testing.T) {
	tests := []struct {
		name    string
		metrics map[string]float64
		stuck   error
		started error
		ready   bool
		healthy bool
		want    []string
	}{
		{"none", nil, nil, nil, true, true, []string{}},
		{"starting", nil, nil, errors.New("it is starting"), false, true, []string{"it is starting"}},
		{"stuck", nil, errors.New("it is stuck"), errors.New("it is stuck"), false, false, []string{"it is stuck"}},
		{"entries", map[string]float64{"conntrack_entries_missing": 3}, nil, nil, true, true, []string{"3 GRE entries of calls are missing in the kernel; the daemon tries to create them again every two seconds"}},
		{"space", map[string]float64{"call_id_space_used_ratio": 0.85}, nil, nil, true, true, []string{"85 % of the Call IDs of one public address are taken towards one server: spread the clients over more public addresses"}},
		{"table", map[string]float64{"conntrack_table_entries": 95, "conntrack_table_limit": 100}, nil, nil, true, true, []string{"the kernel's conntrack table is 95 % full: raise net.netfilter.nf_conntrack_max"}},
		{"room", map[string]float64{"conntrack_table_entries": 90, "conntrack_table_limit": 100, "call_id_space_used_ratio": 0.8}, nil, nil, true, true, []string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			f.stuck, f.started = tt.stuck, tt.started
			reg := prometheus.NewRegistry()
			for name, v := range tt.metrics {
				g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pptpalg_" + name})
				g.Set(v)
				reg.MustRegister(g)
			}
			cfg := f.config()
			cfg.Gatherer = reg
			st := decode[Status](t, get(t, New(cfg), "/api/status"))
			if diff := cmp.Diff(tt.want, st.Problems); diff != "" || st.Ready != tt.ready || st.Healthy != tt.healthy {
				t.Errorf("ready %v, healthy %v (-want +got)\n%s", st.Ready, st.Healthy, diff)
			}
		})
	}
}

// TestNotes: what is counted and should not be is said, whichever label it is counted by.
func TestNotes(t *testing.T) {
	reg := prometheus.NewRegistry()
	anomalies := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pptpalg_anomalies_total"}, []string{"kind"})
	anomalies.WithLabelValues("limit_client").Add(2)
	anomalies.WithLabelValues("limit_rate").Add(3)
	anomalies.WithLabelValues("resynced").Add(7)
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pptpalg_packets_total"}, []string{"verdict", "reason"})
	packets.WithLabelValues("accept", "kernel_helper").Add(4)
	packets.WithLabelValues("accept", "read").Add(9)
	reg.MustRegister(anomalies, packets)
	f := read(reg)
	var got []uint64
	for _, n := range f.notes() {
		got = append(got, n.Count)
	}
	if diff := cmp.Diff([]uint64{5, 4}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestFiguresExist: the page reads no metric that the daemon does not have. METRICS.md is
// held against the daemon elsewhere.
func TestFiguresExist(t *testing.T) {
	page, err := os.ReadFile("../../../../deploy/prometheus/METRICS.md")
	must(t, err)
	var names []string
	for _, n := range noted {
		names = append(names, n.names...)
	}
	for _, file := range []string{"status.go", "figures.go"} {
		source, err := os.ReadFile(file)
		must(t, err)
		for _, call := range regexp.MustCompile(`f\.(?:sum|count)\("([^"]+)"`).FindAllSubmatch(source, -1) {
			names = append(names, string(call[1]))
		}
	}
	if len(names) < 20 {
		t.Errorf("only %q are found", names)
	}
	for _, name := range names {
		metric, label, _ := strings.Cut(name, "/")
		if !bytes.Contains(page, []byte("`pptpalg_"+metric+"`")) || !regexp.MustCompile(`\b`+label+`\b`).Match(page) {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestShared: however many look, the daemon is asked once a second, and less often where it
// takes long.
func TestShared(t *testing.T) {
	f := office()
	p := New(f.config())
	now := time.Now()
	p.now = func() time.Time { return now }
	looks := func(paths ...string) int {
		before := f.looked
		for _, path := range paths {
			get(t, p, path)
		}
		return f.looked - before
	}
	if n := looks("/api/status", "/api/calls", "/api/calls?sort=rate"); n != 1 {
		t.Errorf("asked %d times for the first look", n)
	}
	now = now.Add(fresh - 1)
	if n := looks("/api/status", "/api/calls"); n != 0 {
		t.Errorf("asked %d times within a second", n)
	}
	now = now.Add(1)
	if n := looks("/api/status", "/api/calls"); n != 1 {
		t.Errorf("asked %d times after a second", n)
	}
	now = now.Add(fresh)
	views := p.cfg.Calls
	p.cfg.Calls = func() []calls.View { now = now.Add(time.Second); return views() } // it takes long
	looks("/api/calls")
	now = now.Add((share-1)*time.Second - 1)
	if n := looks("/api/calls", "/api/status"); n != 0 {
		t.Errorf("asked %d times though it takes long", n)
	}
	now = now.Add(1)
	if n := looks("/api/calls", "/api/status"); n != 1 {
		t.Errorf("asked %d times in the end", n)
	}
}

// TestStuckDaemon: one viewer waits for it, the others see what was known, and how it is.
func TestStuckDaemon(t *testing.T) {
	f := office()
	p := New(f.config())
	var mu sync.Mutex // guards now
	now := time.Now()
	p.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	get(t, p, "/api/status")
	f.mu.Lock()
	f.hold, f.stuck = make(chan struct{}), errors.New("the packet loop is stuck")
	looked := f.looked
	f.mu.Unlock()
	mu.Lock()
	now = now.Add(10 * time.Second)
	mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		get(t, p, "/api/calls")
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		waits := f.looked > looked
		f.mu.Unlock()
		if waits {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody asks the daemon")
		}
	}
	st := decode[Status](t, get(t, p, "/api/status"))
	if st.Healthy || len(st.Problems) != 1 || st.Sums == nil || st.Now.Sub(st.Sums.AsOf.Time) != 10*time.Second {
		t.Errorf("%+v", st)
	}
	if l := decode[List](t, get(t, p, "/api/calls")); len(l.Calls) != 10 {
		t.Errorf("%d calls", len(l.Calls))
	}
	close(f.hold)
	<-done
}

// TestStuckFromTheStart: health is told without calls.
func TestStuckFromTheStart(t *testing.T) {
	f := newFake()
	f.stuck = errors.New("the packet loop is stuck")
	p := New(f.config())
	p.taking <- struct{}{} // somebody waits for the calls
	if st := decode[Status](t, get(t, p, "/api/status")); st.Healthy || len(st.Problems) != 1 || st.Sums != nil {
		t.Errorf("%+v", st)
	}
}

// TestUncounted: calls are shown where the kernel does not tell what they carry.
func TestUncounted(t *testing.T) {
	f := office()
	f.carried = nil
	l := decode[List](t, get(t, New(f.config()), "/api/calls?"+url.Values{"filter": {"established"}}.Encode()))
	if len(l.Calls) != 8 || l.Calls[0].ToPNS != nil {
		t.Errorf("%+v", l)
	}
}

// BenchmarkStatus states what viewers of 50,000 calls cost: a look at all of them, and what each
// viewer is answered from it. What the daemon and the kernel take to tell their calls is beside.
func BenchmarkStatus(b *testing.B) {
	f := newFake()
	f.crowd(50_000)
	p := New(f.config())
	carried := f.carried
	p.cfg.Calls = func() []calls.View { return append([]calls.View(nil), f.calls...) }
	p.cfg.Traffic = func() (map[calls.Flow]calls.Traffic, error) { return carried, nil }
	first := p.take(nil)
	b.Run("look", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.take(first)
		}
	})
	for _, query := range []string{"", "?sort=rate", "?sort=-client&offset=25000", "?filter=10.64.7."} {
		b.Run("calls"+query, func(b *testing.B) {
			p.last.Store(first)
			first.until = time.Now().Add(time.Hour)
			bytes := 0
			for b.Loop() {
				bytes = get(b, p, "/api/calls"+query).Body.Len()
			}
			b.ReportMetric(float64(bytes), "B/answer")
		})
	}
	b.Run("order", func(b *testing.B) {
		for b.Loop() {
			clear(first.orders)
			first.order("rate")
		}
	})
}
