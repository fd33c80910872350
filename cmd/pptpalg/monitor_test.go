package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/internal/monitor"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestMonitoring reads what the daemon takes from the kernel when it is scraped, with a
// call up.
func TestMonitoring(t *testing.T) { overDataPaths(t, testMonitoring) }

func testMonitoring(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	g.server(lab.Behaviour{})
	exchange(t, callOn(t, g.client(0), 7))
	for _, tt := range []struct {
		series      string
		least, most float64
	}{
		{"pptpalg_ready", 1, 1},
		{"pptpalg_healthy", 1, 1},
		{`pptpalg_queue_waiting{queue="control"}`, 0, 0},
		{`pptpalg_queue_waiting{queue="gre"}`, 0, 0},
		{"pptpalg_conntrack_table_entries", 1, 100},
		{"pptpalg_conntrack_table_limit", 1000, 1e9},
		{"pptpalg_call_id_space_used_ratio", 1.0 / 65536, 3.0 / 65535},
		{"pptpalg_calls_counted", 1, 1},
		{"pptpalg_calls_gre_packets_total", 6, 6},
		{"pptpalg_calls_gre_bytes_total", 6 * 28, 6 * 100},
	} {
		within := func() bool {
			v, err := strconv.ParseFloat(g.metric(tt.series), 64)
			return err == nil && v >= tt.least && v <= tt.most
		}
		if err := lab.Poll(lab.Patience, within); err != nil {
			t.Errorf("%s is %q, want %v to %v", tt.series, g.metric(tt.series), tt.least, tt.most)
		}
	}
}

// TestMonitoringTheKernelHelper: what the alert looks at is there from the start, and
// grows when the kernel's own helper edits a connection.
func TestMonitoringTheKernelHelper(t *testing.T) {
	g := buildGateway(t, datapath.Auto, masquerade(1))
	must(t, g.AttachKernelHelper(t.Context()))
	g.start()
	g.server(lab.Behaviour{})
	grown := regexp.MustCompile(`^increase\((\w+)\{(\w+="\w+")\}\[\w+\]\) > 0$`).FindStringSubmatch(alertExpr(t, "PptpalgKernelHelper"))
	if grown == nil {
		t.Fatal("the alert is of another shape")
	}
	count := func() (sum float64, series int) {
		for line := range strings.Lines(g.metrics()) {
			selected, value, _ := strings.Cut(line, "} ")
			if name, labels, _ := strings.Cut(selected, "{"); name == grown[1] && slices.Contains(strings.Split(labels, ","), grown[2]) {
				v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				must(t, err)
				sum, series = sum+v, series+1
			}
		}
		return sum, series
	}
	if sum, series := count(); sum != 0 || series == 0 {
		t.Errorf("before: %v in %d series", sum, series)
	}
	exchange(t, callOn(t, g.client(0), 7))
	if err := lab.Poll(lab.Patience, func() bool { sum, _ := count(); return sum > 0 }); err != nil {
		t.Errorf("the alert does not fire: %v", err)
	}
}

// alertExpr returns an alert's expression.
func alertExpr(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../deploy/prometheus/pptpalg.rules.yml")
	must(t, err)
	all, err := monitor.ReadAlerts(b)
	must(t, err)
	i := slices.IndexFunc(all, func(a monitor.Alert) bool { return a.Name == name })
	if i < 0 {
		t.Fatalf("there is no alert %s", name)
	}
	return all[i].Expr
}

// listed is within which time the daemon lists all that the kernel has: 20 s, but longer where
// the machine is busy.
const listed = 2 * time.Minute

// TestUnmatchedGRE has a server send under a Call ID that nobody has.
func TestUnmatchedGRE(t *testing.T) { overDataPaths(t, testUnmatchedGRE) }

func testUnmatchedGRE(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_gre_timeout", strconv.Itoa(int(2*listed/time.Second))))
	g.start()
	s := g.server(lab.Behaviour{Answer: func(lab.CallRecord, []byte) []byte { return nil }})
	call := callOn(t, g.client(0), 7)
	must(t, call.Send([]byte("nobody answers rightly")))
	const packets = 5
	for range packets {
		must(t, s.GRE.Send(lab.Packet{Dst: lab.GatewayPublic, CallID: 4711, Payload: []byte("to nobody")}))
	}
	flows := map[datapath.Name]string{datapath.Kernel: "1", datapath.Queue: "0"}[path]
	counted := func() bool {
		n, err := strconv.Atoi(g.metric(`pptpalg_gre_packets_total{reason="no_flow"}`))
		return err == nil && n >= packets && g.metric("pptpalg_gre_unmatched_flows") == flows
	}
	if err := lab.Poll(listed, counted); err != nil {
		t.Errorf("%s packets of %s flows, want %d of %s", g.metric(`pptpalg_gre_packets_total{reason="no_flow"}`), g.metric("pptpalg_gre_unmatched_flows"), packets, flows)
	}
	_, stdout, _ := g.explain()
	want := map[datapath.Name]string{datapath.Kernel: "1. GRE comes from 203.0.113.10 to 203.0.113.1 for Call ID 4711, which no call has (", datapath.Queue: "GRE has arrived that belongs to no call ("}[path]
	if !strings.Contains(stdout, want) {
		t.Errorf("it explains: %s", stdout)
	}
}

// TestWebConfigFlag: the metrics need a password, and the daemon is ready.
func TestWebConfigFlag(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	// The password is "secret".
	must(t, os.WriteFile(file, []byte("basic_auth_users:\n  alice: $2a$04$G9yT2drSAwdN5Tzp2fm/Ru8OLP8/fbHeCyDky8.P0rNbFB.ZSuMtm\n"), 0o600))
	g := startGateway(t, datapath.Kernel, masquerade(1), "--web-config", file)
	for password, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, "secret": http.StatusOK} {
		if got := g.ready(password); got != want {
			t.Errorf("ready, by password %q: %d, want %d", password, got, want)
		}
	}
	g.stop()
	must(t, os.WriteFile(file, []byte("basic_auth_users: {alice: secret}\n"), 0o600))
	g.launch("--web-config", file)
	must(t, g.log.WaitFor("read web configuration "+file, lab.Patience))
	if err := g.daemon.Wait(lab.Patience); err == nil {
		t.Error("it ends well")
	}
}

// ready asks for /-/ready, as alice.
func (g *testGateway) ready(password string) int {
	g.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.Gateway.Dial(ctx, netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9723"))
	}}
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, "http://127.0.0.1:9723/-/ready", nil)
	must(g.t, err)
	if password != "" {
		req.SetBasicAuth("alice", password)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	must(g.t, err)
	must(g.t, resp.Body.Close())
	return resp.StatusCode
}
