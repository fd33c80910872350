package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/history"
)

// TestStuckReaders: nobody reads standard output and error any more, and both pipes are full.
// Control connections do not notice, and the daemon ends, and takes its rules away.
func TestStuckReaders(t *testing.T) {
	overDataPaths(t, func(t *testing.T, path datapath.Name) {
		g := buildGateway(t, path, masquerade(2))
		g.launchInto(fullPipe(t), fullPipe(t), "--event-log", "-", "--max-requests", "2", "--log-level", "debug")
		g.serveAndEnd()
	})
}

// TestGoneReaders: the other ends of both pipes are closed.
func TestGoneReaders(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(2))
	g.launchInto(gonePipe(t), gonePipe(t), "--event-log", "-", "--max-requests", "2")
	if err := lab.Poll(lab.Patience, func() bool { return g.metric(`pptpalg_log_lines_lost_total{log="daemon"}`) != "0" }); err != nil {
		t.Error("no line is counted as lost")
	}
	g.serveAndEnd()
}

// TestCannotStartWithStuckReaders: what cannot start ends all the same.
func TestCannotStartWithStuckReaders(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(1))
	first := g.daemon
	g.launchProgram(fullPipe(t), fullPipe(t))
	if err := g.daemon.Wait(lab.Patience); err == nil || !strings.Contains(err.Error(), "exit status") {
		t.Errorf("a second daemon ended with %v", err)
	}
	g.daemon = first
	g.stop()
}

// launchInto starts a daemon and waits until it edits.
func (g *testGateway) launchInto(stdout, stderr *os.File, args ...string) {
	g.t.Helper()
	g.launchProgram(stdout, stderr, args...)
	if err := lab.Poll(lab.Patience, func() bool { return g.get("/-/ready") == http.StatusOK }); err != nil {
		g.t.Fatal("it is not ready")
	}
}

func (g *testGateway) launchProgram(stdout, stderr *os.File, args ...string) {
	g.t.Helper()
	args = append([]string{"run", "--state-dir", g.state, "--datapath", string(g.path)}, args...)
	cmd, err := g.Gateway.Command(context.Background(), os.Args[0], args...)
	must(g.t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	g.daemon, err = g.Gateway.Start(cmd)
	must(g.t, err)
}

// serveAndEnd has one client cause many log lines; another one's call works, and then the
// daemon ends.
func (g *testGateway) serveAndEnd() {
	g.t.Helper()
	g.server(lab.Behaviour{})
	loud, quiet := g.client(0), g.client(1)
	for i := range 20 {
		must(g.t, loud.Send(lab.NewOutgoingCallRequest(pptp.CallID(100+i))))
	}
	call := callOn(g.t, quiet, 7)
	exchange(g.t, call)
	must(g.t, quiet.Send(lab.NewEchoRequest(9)))
	_, err := quiet.Expect(lab.EchoReply, lab.Patience)
	must(g.t, err)
	must(g.t, call.Clear())
	must(g.t, g.daemon.Signal(syscall.SIGTERM))
	if err := g.daemon.Wait(lab.Patience); err != nil {
		g.t.Errorf("it ended with %v", err)
	}
	if rules := g.rules(); g.hasRules() {
		g.t.Errorf("left behind:\n%s", rules)
	}
}

// get asks --listen for something, and returns the status, 0 if nobody answers.
func (g *testGateway) get(what string) int {
	g.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.Gateway.Dial(ctx, netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9723"))
	}}
	resp, err := (&http.Client{Transport: transport, Timeout: lab.Patience}).Get("http://127.0.0.1:9723" + what)
	if err != nil {
		return 0
	}
	must(g.t, resp.Body.Close())
	return resp.StatusCode
}

// fullPipe returns the writing end of a pipe that is full and that nobody reads.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	t.Cleanup(func() { unix.Close(p[0]) })
	for _, n := range []int{4096, 1} {
		var err error
		for err == nil {
			_, err = unix.Write(p[1], make([]byte, n))
		}
		if !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	must(t, unix.SetNonblock(p[1], false))
	w := os.NewFile(uintptr(p[1]), "full pipe")
	t.Cleanup(func() { w.Close() })
	return w
}

func gonePipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	must(t, r.Close())
	t.Cleanup(func() { w.Close() })
	return w
}

func (g *testGateway) readEvents(file string) []history.Record {
	g.t.Helper()
	b, err := os.ReadFile(file)
	must(g.t, err)
	return records(g.t, string(b))
}

// TestEventLogOnAFullDisk: lines for which there is no room are counted, and what the file has
// are whole lines, at any time.
func TestEventLogOnAFullDisk(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	disk := smallDisk(t, "64k")
	file := filepath.Join(disk, "events.log")
	g.start("--event-log", file)
	g.server(lab.Behaviour{})
	c := g.client(0)
	own := pptp.CallID(1000)
	opened := func(n int) {
		for range n {
			own++
			call := callOn(t, c, own)
			must(t, call.Clear())
			_, err := c.Expect(lab.CallDisconnectNotify, lab.Patience)
			must(t, err)
		}
	}
	opened(3)
	must(t, lab.Poll(lab.Patience, func() bool { return len(g.readEvents(file)) == 3*3 })) // opened, translated, closed
	fill := fillDisk(t, disk)
	opened(12) // more than the page at the file's end has room for
	lost := `pptpalg_log_lines_lost_total{log="events"}`
	if err := lab.Poll(lab.Patience, func() bool { return g.metric(lost) != "0" }); err != nil {
		t.Errorf("nothing is counted as lost:\n%v", g.readEvents(file))
	}
	if text, err := os.ReadFile(file); err != nil || !strings.HasSuffix(string(text), "\n") {
		t.Errorf("%v, the file is torn: %q", err, text)
	}
	must(t, os.Remove(fill))
	opened(1)
	var missing uint64
	err := lab.Poll(lab.Patience, func() bool {
		missing = 0
		all := g.readEvents(file)
		for _, e := range all {
			missing += e.Lost
		}
		return missing > 0 && all[len(all)-1].Event == "closed"
	})
	if err != nil || fmt.Sprint(missing) != g.metric(lost) {
		t.Errorf("%v: %d lines are told as lost, %s counted:\n%v", err, missing, g.metric(lost), g.readEvents(file))
	}
	g.stop()
}

func smallDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	must(t, unix.Mount("none", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// fillDisk writes a file as large as there is room for.
func fillDisk(t *testing.T, disk string) (path string) {
	t.Helper()
	path = filepath.Join(disk, "fill")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return path
}
