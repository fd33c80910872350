package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/daemon"
	"pptpalg/cmd/pptpalg/internal/events"
)

// TestEvents has two clients with one Call ID, one of which ends its call: by the command,
// to a follower, and in the file, also after it was renamed.
func TestEvents(t *testing.T) { overDataPaths(t, testEvents) }

func testEvents(t *testing.T, path daemon.DataPath) {
	g := buildGateway(t, path, masquerade(2))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	file := filepath.Join(t.TempDir(), "events.log")
	g.start("--event-log", file)
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	exchange(t, calls...)
	followed := g.follow()
	if path == daemon.InKernel {
		g.wantMeasured()
	}
	must(t, calls[1].Clear())
	closed := g.wantRecords(5)[4]
	c := closed.CallRecord
	if closed.Event != "closed" || c.Reason != "cleared" || c.Client.Addr() != g.Inside[1].Addr || c.ClientPublic.Addr() != lab.GatewayPublic ||
		*c.ClientCallID != 7 || *c.ClientPublicCallID == 7 || *c.ServerCallID != calls[1].Peer || c.Opened.IsZero() {
		t.Errorf("the last line is %v", closed)
	}
	if c.ToClient == nil || c.ToServer == nil || c.ToClient.Packets != 3 || c.ToServer.Packets != 3 || c.ToClient.Bytes < 3*28 {
		t.Errorf("it carried %v and %v, want 3 packets each way", c.ToClient, c.ToServer)
	}
	if _, err := followed.until(5); err != nil {
		t.Errorf("followed %v: %s", err, followed.out.String())
	}
	g.wantLines(file, 5)

	must(t, os.Rename(file, file+".1"))
	must(t, g.daemon.Signal(syscall.SIGHUP))
	exists := func() bool { _, err := os.Stat(file); return err == nil }
	must(t, lab.Poll(lab.Patience, exists))
	must(t, calls[0].Clear())
	g.wantLines(file, 1)
	g.wantLines(file+".1", 5)
	g.stop()
}

// wantMeasured waits until a comparison has seen what calls have carried.
func (g *gateway) wantMeasured() {
	g.t.Helper()
	seen := func() bool { return g.metric("pptpalg_calls_gre_packets_total") == "12" }
	must(g.t, lab.Poll(lab.Patience, seen))
}

// wantRecords waits until "pptpalg events" has so many lines.
func (g *gateway) wantRecords(n int) (all []events.Record) {
	g.t.Helper()
	err := lab.Poll(lab.Patience, func() bool {
		code, stdout, stderr := pptpalg(g.t, "events", "--json", "--state-dir", g.state)
		if code != 0 {
			g.t.Fatalf("exit %d: %s", code, stderr)
		}
		all = records(g.t, stdout)
		return len(all) == n
	})
	if err != nil {
		g.t.Fatalf("events: %v: %v", err, all)
	}
	_, stdout, _ := pptpalg(g.t, "events", "--state-dir", g.state)
	if lines := strings.Count(stdout, "\n"); lines != n || !strings.Contains(stdout, " opened call=1 client=10.77.0.10:") {
		g.t.Errorf("as text:\n%s", stdout)
	}
	return all
}

func (g *gateway) wantLines(file string, n int) {
	g.t.Helper()
	var all []events.Record
	err := lab.Poll(lab.Patience, func() bool {
		b, err := os.ReadFile(file)
		must(g.t, err)
		all = records(g.t, string(b))
		return len(all) == n
	})
	if err != nil {
		g.t.Errorf("%s has %v, want %d", file, all, n)
	}
}

func records(t *testing.T, lines string) (all []events.Record) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var r events.Record
		decode(t, line, &r)
		all = append(all, r)
	}
	return all
}

// follower is "pptpalg events --follow".
type follower struct{ out lab.Log }

func (g *gateway) follow() *follower {
	f := new(follower)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		execute(ctx, env{
			args:   []string{"events", "--follow", "--json", "--state-dir", g.state},
			stdout: &f.out, stderr: &f.out, lookup: func(string) (string, bool) { return "", false },
		})
	}()
	g.t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

func (f *follower) until(n int) (string, error) {
	err := lab.Poll(lab.Patience, func() bool { return strings.Count(f.out.String(), "\n") == n })
	return f.out.String(), err
}

func TestEventLine(t *testing.T) {
	id := pptp.CallID(7)
	public := pptp.CallID(8)
	r := events.Record{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Event: "closed", CallRecord: &events.CallRecord{
		Call: 4, Client: netip.MustParseAddrPort("10.0.0.1:5"), ClientPublic: netip.MustParseAddrPort("192.0.2.1:5"),
		Server: netip.MustParseAddrPort("203.0.113.1:1723"), ServerPublic: netip.MustParseAddrPort("203.0.113.1:1723"),
		ClientCallID: &id, ClientPublicCallID: &public,
		Closing: &events.Closing{Reason: "finished", Seconds: 1.5, ToClient: &events.Count{Packets: 1, Bytes: 50}},
	}}
	want := "2026-01-02T03:04:05.000Z closed call=4 client=10.0.0.1:5/7 public=192.0.2.1:5/8 server=203.0.113.1:1723/- reason=finished seconds=1.500 to_client=1/50 to_server=-"
	if r.String() != want {
		t.Errorf("got  %s\nwant %s", r, want)
	}
	var b bytes.Buffer
	must(t, json.NewEncoder(&b).Encode(r))
	var back events.Record
	decode(t, b.String(), &back)
	if back.String() != want {
		t.Errorf("from JSON: %s", back)
	}
	if lost := events.NewLost(3, r.Time).String(); lost != "2026-01-02T03:04:05.000Z lost events=3" {
		t.Errorf("lost: %s", lost)
	}
}
