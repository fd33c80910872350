package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// silence is how long nothing may arrive for a test to believe that nothing will.
const silence = 300 * time.Millisecond

// testGateway is a lab whose gateway runs pptpalg.
type testGateway struct {
	*lab.Network
	t      *testing.T
	path   datapath.Name
	state  string
	daemon *lab.Process
	log    *lab.Log
	bpf    string // directory of the fast path; "" where there is none
}

// masquerade is the network of most tests: clients behind one public address, and
// a firewall that lets in only what belongs to connections from inside.
func masquerade(inside int) lab.Options {
	return lab.Options{Inside: inside, Outside: 1, Masquerade: true, Firewall: true}
}

// overDataPaths runs a test over both data paths, and over data path kernel with the fast path,
// at the same time: what calls carry, and what becomes of them, is the same. Other tests run
// beside it: they all wait most of the time.
func overDataPaths(t *testing.T, test func(*testing.T, datapath.Name)) {
	t.Parallel()
	overDataPathsInTurn(t, func(t *testing.T, path datapath.Name) {
		t.Parallel()
		test(t, path)
	})
}

// overDataPathsInTurn is for tests that need the machine for themselves. With -short it is
// only the path with more goroutines: that is for the race detector, beside a run of
// all without it.
func overDataPathsInTurn(t *testing.T, test func(*testing.T, datapath.Name)) {
	t.Run(string(datapath.Queue), func(t *testing.T) { test(t, datapath.Queue) })
	if testing.Short() {
		return
	}
	t.Run(string(datapath.Kernel), func(t *testing.T) { test(t, datapath.Kernel) })
	t.Run(fastSubtest, func(t *testing.T) { test(t, datapath.Kernel) })
}

// startGateway builds a network and starts the daemon on its gateway.
func startGateway(t *testing.T, path datapath.Name, o lab.Options, args ...string) *testGateway {
	t.Helper()
	g := buildGateway(t, path, o)
	g.start(args...)
	return g
}

func buildGateway(t *testing.T, path datapath.Name, o lab.Options) *testGateway {
	t.Helper()
	needRoot(t)
	n, err := lab.New(o)
	must(t, err)
	closeAfter(t, n)
	g := &testGateway{Network: n, t: t, path: path, state: filepath.Join(memoryDir(t), "state"), log: new(lab.Log)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last daemon: %s", g.log)
		}
	})
	return g
}

// memoryDir returns a directory that lasts as long as the test, and does not wait for a disk.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := lab.MemoryDir()
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// start starts the daemon and waits until it edits.
func (g *testGateway) start(args ...string) {
	g.t.Helper()
	g.launch(args...)
	if err := g.log.WaitFor("msg=started", lab.Patience); err != nil {
		g.t.Fatalf("start daemon: %v: %s", err, g.log)
	}
}

func (g *testGateway) launch(args ...string) {
	g.t.Helper()
	args = slices.Concat([]string{"run", "--state-dir", g.state, "--datapath", string(g.path)}, g.fastFlags(), args)
	cmd, err := g.Gateway.Command(context.Background(), os.Args[0], args...)
	must(g.t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	g.log = new(lab.Log)
	cmd.Stderr = g.log
	g.daemon, err = g.Gateway.Start(cmd)
	must(g.t, err)
}

// stop ends the daemon with SIGTERM.
func (g *testGateway) stop() {
	g.t.Helper()
	must(g.t, g.daemon.Signal(syscall.SIGTERM))
	if err := g.daemon.Wait(lab.Patience); err != nil {
		g.t.Fatalf("stop daemon: %v: %s", err, g.log)
	}
}

// kill ends it with SIGKILL.
func (g *testGateway) kill() {
	g.t.Helper()
	must(g.t, g.daemon.Kill())
}

// calls asks the daemon for its table.
func (g *testGateway) calls() []admin.Call {
	g.t.Helper()
	calls, err := admin.Client{StateDir: g.state}.Calls(g.t.Context())
	must(g.t, err)
	return calls
}

// wantCalls waits until the daemon has so many calls. If a killed daemon took a client's RST
// with it, the server's keepalive finds that out, after 15 s.
func (g *testGateway) wantCalls(n int) []admin.Call {
	g.t.Helper()
	if err := lab.Poll(3*lab.Patience, func() bool { return len(g.calls()) == n }); err != nil {
		g.t.Fatalf("calls: %v: %+v, want %d", err, g.calls(), n)
	}
	return g.calls()
}

// entries lists the kernel's GRE entries.
func (g *testGateway) entries() string {
	g.t.Helper()
	out, err := g.Gateway.Run(g.t.Context(), "conntrack", "-L", "-p", "gre")
	must(g.t, err)
	return out.Stdout
}

// wantEntries waits for so many GRE entries in the kernel, or flows in the daemon.
func (g *testGateway) wantEntries(n int) {
	g.t.Helper()
	if g.path == datapath.Queue {
		g.wantFlows(n)
		return
	}
	count := func() int { return strings.Count(g.entries(), "gre") }
	if err := lab.Poll(lab.Patience, func() bool { return count() == n }); err != nil {
		g.t.Errorf("conntrack has %d GRE entries, want %d:\n%s", count(), n, g.entries())
	}
}

// wantFlows waits for so many flows in the daemon. GRE makes entries in the kernel
// there too, but they are ordinary.
func (g *testGateway) wantFlows(n int) {
	g.t.Helper()
	count := func() string { return g.metric("pptpalg_gre_flows") }
	if err := lab.Poll(lab.Patience, func() bool { return count() == strconv.Itoa(n) }); err != nil {
		g.t.Errorf("the daemon has %s GRE flows, want %d", count(), n)
	}
}

// metric returns the value that the daemon's /metrics shows for a series.
func (g *testGateway) metric(series string) string {
	g.t.Helper()
	for line := range strings.Lines(g.metrics()) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			return value
		}
	}
	return ""
}

// number returns the value of a series, 0 if there is none.
func (g *testGateway) number(series string) float64 {
	g.t.Helper()
	value := g.metric(series)
	if value == "" {
		return 0
	}
	n, err := strconv.ParseFloat(value, 64)
	must(g.t, err)
	return n
}

func (g *testGateway) metrics() string {
	g.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.Gateway.Dial(ctx, netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9723"))
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://127.0.0.1:9723/metrics")
	must(g.t, err)
	defer resp.Body.Close()
	var b strings.Builder
	_, err = fmt.Fprint(&b, readAll(g.t, resp))
	must(g.t, err)
	return b.String()
}

func (g *testGateway) server(b lab.Behaviour) *lab.Server {
	g.t.Helper()
	return serverOn(g.t, g.Outside[0], b)
}

func serverOn(t *testing.T, h *lab.Host, b lab.Behaviour) *lab.Server {
	t.Helper()
	s, err := lab.StartServer(h, b)
	must(t, err)
	closeAfter(t, s)
	return s
}

// client dials the first outside host from the i-th inside host.
func (g *testGateway) client(i int) *lab.Client {
	g.t.Helper()
	return clientOn(g.t, g.Inside[i], g.Outside[0].Addr)
}

func clientOn(t *testing.T, h *lab.Host, server netip.Addr) *lab.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	c, err := lab.StartClient(ctx, h, server)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() }) // most have ended in one way or another
	return c
}

func callOn(t *testing.T, c *lab.Client, own pptp.CallID) *lab.Call {
	t.Helper()
	call, err := c.Call(own)
	must(t, err)
	return call
}

// exchange has every call carry packets both ways, in turn.
func exchange(t *testing.T, calls ...*lab.Call) {
	t.Helper()
	for i := range 3 {
		for j, c := range calls {
			must(t, c.Exchange(fmt.Appendf(nil, "call %d, packet %d", j, i), lab.Patience))
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	err := lab.Need("iptables", "ip", "conntrack", "pptp", "pptpd")
	if os.Geteuid() != 0 {
		err = errors.New("needs root to make network namespaces")
	}
	if err == nil {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func closeAfter(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}
