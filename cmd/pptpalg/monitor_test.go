package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/daemon"
)

// TestMonitoring reads what the daemon takes from the kernel when it is scraped, with a
// call up.
func TestMonitoring(t *testing.T) { overDataPaths(t, testMonitoring) }

func testMonitoring(t *testing.T, path daemon.DataPath) {
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

// TestWebConfigFlag: the metrics need a password, and the daemon is ready.
func TestWebConfigFlag(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	// The password is "secret".
	must(t, os.WriteFile(file, []byte("basic_auth_users:\n  alice: $2a$04$G9yT2drSAwdN5Tzp2fm/Ru8OLP8/fbHeCyDky8.P0rNbFB.ZSuMtm\n"), 0o600))
	g := startGateway(t, daemon.InKernel, masquerade(1), "--web-config", file)
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
func (g *gateway) ready(password string) int {
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
