package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestIdleHTTPClients: clients that connect and say nothing leave the daemon the descriptors
// that it needs, however few it may have.
func TestIdleHTTPClients(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	g.startProgram("sh", "-c", `ulimit -n 256 && exec "$0" "$@"`, os.Args[0], "run", "--state-dir", g.state)
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	for range 1000 {
		c, err := g.Gateway.Dial(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9723"))
		must(t, err)
		defer c.Close()
	}
	if g.get("/-/ready") != http.StatusOK {
		t.Error("it does not answer")
	}
	g.wantCalls(1)
	exchange(t, call)
	g.stop()
	if rules := g.rules(); g.hasRules() {
		t.Errorf("left behind:\n%s", rules)
	}
}

// TestManyWatchers: neither packets nor repairs wait for those who look on, some of whom do not
// read what they asked for.
func TestManyWatchers(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(2))
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	ctx, cancel := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	for range 100 {
		c, err := net.Dial("unix", filepath.Join(g.state, "control.sock"))
		must(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET /events?follow=1 HTTP/1.1\r\nHost: pptpalg\r\n\r\n")
		must(t, err)
	}
	for range 100 {
		watchers.Go(func() {
			for ctx.Err() == nil {
				_, _ = admin.Client{StateDir: g.state}.Calls(ctx)
				_, _ = admin.Client{StateDir: g.state}.Explain(ctx, g.Inside[0].Addr)
			}
		})
	}
	for range 3 {
		_, err := g.Gateway.Run(t.Context(), "conntrack", "-D", "-p", "gre")
		must(t, err)
		if err := lab.Poll(lab.Patience, func() bool { return strings.Count(g.entries(), "gre") == 2 }); err != nil {
			t.Fatal("the entries were not made again")
		}
		exchange(t, call)
	}
	exchange(t, callOn(t, g.client(1), 7))
	cancel()
	watchers.Wait()
	g.stop()
}

// startProgram starts the daemon by another program, and waits until it edits.
func (g *testGateway) startProgram(name string, args ...string) {
	g.t.Helper()
	cmd, err := g.Gateway.Command(context.Background(), name, args...)
	must(g.t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	g.log = new(lab.Log)
	cmd.Stderr = g.log
	g.daemon, err = g.Gateway.Start(cmd)
	must(g.t, err)
	must(g.t, g.log.WaitFor("msg=started", lab.Patience))
}
