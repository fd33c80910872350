package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// TestEvents has two clients with one Call ID, one of which ends its call: by the command,
// to a follower, and in the file, also after it was renamed.
func TestEvents(t *testing.T) { overDataPaths(t, testEvents) }

func testEvents(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(2))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	file := filepath.Join(t.TempDir(), "events.log")
	g.start("--event-log", file)
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	exchange(t, calls...)
	followed := g.follow()
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

// TestExactCounts: what a call carried is in its last line to the byte, however it ended,
// and in the metrics.
func TestExactCounts(t *testing.T) { overDataPaths(t, testExactCounts) }

func testExactCounts(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	first := pptp.CallID(1)
	if path == datapath.Kernel {
		first = 0 // and the client's, too: then one entry has both counts
	}
	s := g.server(lab.Behaviour{NextID: lab.Counting(first), Answer: func(lab.CallRecord, []byte) []byte { return nil }})
	const up, down = 40, 70
	var upBytes, downBytes uint64
	ends := []func(*lab.Call) error{(*lab.Call).Clear, func(c *lab.Call) error { return c.Client().Close() }}
	for i, end := range ends {
		call := callOn(t, g.client(0), pptp.CallID(7*i))
		upBytes, downBytes = 0, 0
		for j := range up {
			payload := make([]byte, 10*i+j)
			must(t, call.Send(payload))
			upBytes += greLen(payload)
		}
		for j := range down {
			payload := make([]byte, 100+j)
			must(t, s.Send(i, payload))
			downBytes += greLen(payload)
			_, err := call.Recv(lab.Patience)
			must(t, err)
		}
		must(t, lab.Poll(lab.Patience, func() bool { return len(s.Calls()[i].Received) == up }))
		must(t, end(call))
		c := g.wantRecords(3 * (i + 1))[3*i+2].CallRecord
		want := [2]history.Count{{Packets: down, Bytes: downBytes}, {Packets: up, Bytes: upBytes}}
		if c.ToClient == nil || c.ToServer == nil || [2]history.Count{*c.ToClient, *c.ToServer} != want || c.Approximate {
			t.Errorf("%s: it carried %v and %v, approximately: %v; want %v", c.Reason, c.ToClient, c.ToServer, c.Approximate, want)
		}
	}
	told := strconv.Itoa(len(ends) * (up + down))
	if err := lab.Poll(lab.Patience, func() bool { return g.metric("pptpalg_calls_gre_packets_total") == told }); err != nil {
		t.Errorf("the metrics tell of %s packets, want %s", g.metric("pptpalg_calls_gre_packets_total"), told)
	}
}

// greLen is the length of a packet with a sequence number: IPv4, enhanced GRE and payload.
func greLen(payload []byte) uint64 { return 20 + 12 + uint64(len(payload)) }

// TestApproximateCounts: what was counted of an entry that somebody deleted is not the whole.
func TestApproximateCounts(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	must(t, lab.Poll(lab.Patience, func() bool { return g.metric("pptpalg_calls_gre_packets_total") == "6" }))
	g.conntrack("-D", "-p", "gre")
	g.wantEntries(2)
	exchange(t, call)
	must(t, call.Clear())
	c := g.wantRecords(3)[2].CallRecord
	if !c.Approximate || c.ToClient == nil || c.ToClient.Packets < 4 || c.ToClient.Packets > 6 {
		t.Errorf("it carried %v and %v, approximately: %v", c.ToClient, c.ToServer, c.Approximate)
	}
}

// wantRecords waits until "pptpalg events" has so many lines.
func (g *testGateway) wantRecords(n int) (all []history.Record) {
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

func (g *testGateway) wantLines(file string, n int) {
	g.t.Helper()
	var all []history.Record
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

func records(t *testing.T, lines string) (all []history.Record) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var r history.Record
		decode(t, line, &r)
		keeps(t, "event", line)
		all = append(all, r)
	}
	return all
}

// follower is "pptpalg events --follow".
type follower struct{ out lab.Log }

func (g *testGateway) follow() *follower {
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

// TestEventsOfFiles asks a log who had a public address and Call ID.
func TestEventsOfFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events.json")
	must(t, os.WriteFile(file, []byte(`{"time":"2026-01-02T12:00:00.000Z","event":"opened","call":1,"client":"10.0.0.1:1000","client_public":"192.0.2.1:1000","server":"203.0.113.1:1723","server_public":"203.0.113.1:1723","pns":"client","client_call_id":7,"client_public_call_id":7,"server_call_id":null,"server_public_call_id":null}
{"time":"2026-01-02T12:00:01.000Z","event":"opened","call":2,"client":"10.0.0.2:1000","client_public":"192.0.2.1:1001","server":"203.0.113.1:1723","server_public":"203.0.113.1:1723","pns":"client","client_call_id":7,"client_public_call_id":255,"server_call_id":null,"server_public_call_id":null}
{"time":"2026-01-02T12:00:09.000Z","event":"closed","call":2,"client":"10.0.0.2:1000","client_public":"192.0.2.1:1001","server":"203.0.113.1:1723","server_public":"203.0.113.1:1723","pns":"client","client_call_id":7,"client_public_call_id":255,"server_call_id":9,"server_public_call_id":9,"opened":"2026-01-02T12:00:01.000Z","seconds":8,"reason":"cleared","to_client":null,"to_server":null}
`), 0o600))
	for _, tt := range []struct {
		args string
		want []string // call and event of each line
	}{
		{"", []string{"opened call=1", "opened call=2", "closed call=2"}},
		{"--public 192.0.2.1/255", []string{"opened call=2", "closed call=2"}},
		{"--public 192.0.2.1/255 --at 2026-01-02T12:00:05Z", []string{"opened call=2", "closed call=2"}},
		{"--public 192.0.2.1/255 --at 2026-01-02T12:00:10Z", nil},
		{"--client 10.0.0.1 --at 2026-01-02T12:00:10Z", []string{"opened call=1"}},
		{"--since 2026-01-02T12:00:01Z --until 2026-01-02T12:00:02Z", []string{"opened call=2"}},
		{"--server 203.0.113.2", nil},
	} {
		code, stdout, stderr := pptpalg(t, append([]string{"events", "--file", file}, strings.Fields(tt.args)...)...)
		var got []string
		for line := range strings.Lines(stdout) {
			got = append(got, strings.Join(strings.Fields(line)[1:3], " "))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || code != 0 {
			t.Errorf("events %s: exit %d: %s(-want +got)\n%s", tt.args, code, stderr, diff)
		}
	}
	_, stdout, _ := pptpalg(t, "events", "--file", file, "-o", "yaml")
	if documents := strings.Split(stdout, "---\n"); len(documents) != 4 || !strings.HasPrefix(documents[3], "schema_version: 1\ntime: \"2026-01-02T12:00:09.000Z\"\nevent: closed\n") {
		t.Errorf("as YAML:\n%s", stdout)
	}
	for args, want := range map[string]string{
		"--public x":                            `"x" is not an IPv4 address`,
		"--client fade::1":                      `"fade::1" is not an IPv4 address`,
		"--client fe80::1/7":                    `"fe80::1" is not an IPv4 address`,
		"--since 2h --until 3h":                 `--until: "3h" is not after --since "2h"`,
		"--since 2h --until 2999-01-01 --at 1h": "cannot be used together",
		"--since 2999-01-01":                    `--since: "2999-01-01" is in the future`,
		"--at 2999-01-01":                       `--at: "2999-01-01" is in the future`,
		"--since --2h":                          `--since: "--2h" is not valid`,
		"--at noon":                             `--at: "noon" is not valid; use a time such as`,
		"--follow --at 1h":                      "--at and --follow cannot be used together",
	} {
		if code, _, stderr := pptpalg(t, append([]string{"events"}, strings.Fields(args)...)...); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("events %s: exit %d: %s", args, code, stderr)
		}
	}
}

// TestEventsUnknown: a daemon that cannot know says so, beside what it knows.
func TestEventsUnknown(t *testing.T) {
	started := time.Now().Add(-time.Hour).UTC()
	opened := fmt.Sprintf(`{"schema_version":1,"time":%q,"event":"opened","call":1,"client":"10.0.0.1:1000","client_public":"192.0.2.1:1000","server":"203.0.113.1:1723","server_public":"203.0.113.1:1723","pns":"client","client_call_id":7,"client_public_call_id":7,"server_call_id":null,"server_public_call_id":null}`, schema.At(started.Add(time.Minute)))
	dir := answers(t, map[string]string{
		"/status": fmt.Sprintf(`{"schema_version":1,"sums":{"started":%q}}`, schema.At(started)),
		"/events": opened + "\n",
	})
	early := "the daemon remembers no event from before " + schema.At(started).String() + ", when it was started: --file FILE reads an event log\n"
	nothing := "no event found: the daemon remembers the last 32 events of each client since " + schema.At(started).String()
	network := "--client 192.168.77.0/24 is the address 192.168.77.0 with Call ID 24, not a network\n"
	for _, tt := range []struct {
		args  string
		lines int
		want  []string // on standard error; nil for nothing there
	}{
		{"", 1, nil},
		{"--since 30m", 0, []string{nothing}},
		{"--since 2h", 1, []string{early}},
		{"--client 10.0.0.1 --at 5m", 1, nil},
		{"--client 10.0.0.1 --at 2h", 0, []string{early}},
		{"--client 10.0.0.2", 0, []string{nothing}},
		{"--client 192.168.77.0/24", 0, []string{nothing, network}},
		{"--client 10.0.0.1/24", 0, []string{nothing}},
	} {
		code, stdout, stderr := pptpalg(t, append([]string{"events", "--state-dir", dir}, strings.Fields(tt.args)...)...)
		if code != 0 || strings.Count(stdout, "\n") != tt.lines || strings.Count(stderr, "\n") != len(tt.want) {
			t.Errorf("events %s: exit %d, %q, %q", tt.args, code, stdout, stderr)
		}
		for _, want := range tt.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("events %s: %q, want %q", tt.args, stderr, want)
			}
		}
	}
}

// answers serves what a daemon answers, by paths, and returns its state directory.
func answers(t *testing.T, by map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer, ok := by[r.URL.Path]; ok {
			_, _ = w.Write([]byte(answer))
			return
		}
		http.NotFound(w, r)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return dir
}

func TestEventLine(t *testing.T) {
	id := pptp.CallID(7)
	public := pptp.CallID(8)
	r := history.Record{Time: schema.At(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), Event: "closed", CallRecord: &history.CallRecord{
		Call: 4, Client: netip.MustParseAddrPort("10.0.0.1:5"), ClientPublic: netip.MustParseAddrPort("192.0.2.1:5"),
		Server: netip.MustParseAddrPort("203.0.113.1:1723"), ServerPublic: netip.MustParseAddrPort("203.0.113.1:1723"),
		ClientCallID: &id, ClientPublicCallID: &public,
		Closing: &history.Closing{Reason: "finished", Seconds: 1.5, ToClient: &history.Count{Packets: 1, Bytes: 50}, Approximate: true},
	}}
	want := "2026-01-02T03:04:05.000Z closed call=4 client=10.0.0.1:5/7 public=192.0.2.1:5/8 server=203.0.113.1:1723/- reason=finished seconds=1.500 to_client=1/50 to_server=- approximate"
	if r.String() != want {
		t.Errorf("got  %s\nwant %s", r, want)
	}
	var b bytes.Buffer
	must(t, json.NewEncoder(&b).Encode(r))
	var back history.Record
	decode(t, b.String(), &back)
	if back.String() != want {
		t.Errorf("from JSON: %s", back)
	}
	if lost := history.NewLost(3, r.Time.Time).String(); lost != "2026-01-02T03:04:05.000Z lost events=3" {
		t.Errorf("lost: %s", lost)
	}
}
