package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/schema"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// shownCall is the n-th call, so many minutes old.
func shownCall(n uint64, minutes int, state string, toPNS *admin.Traffic) admin.Call {
	id := pptp.CallID(n)
	return admin.Call{
		Number: n, State: state, Since: schema.At(noon.Add(-time.Duration(minutes) * time.Minute)), ToPNS: toPNS,
		PNS:     admin.Party{Address: fmt.Sprintf("10.0.0.%d", n), PublicAddress: "192.0.2.1", CallID: &id, PublicCallID: &id},
		PAC:     admin.Party{Address: "203.0.113.9", PublicAddress: "203.0.113.9"},
		Control: admin.Control{Src: fmt.Sprintf("10.0.0.%d:5000", n), Dst: fmt.Sprintf("203.0.113.%d:1723", 100-n)},
	}
}

// shownCalls are three calls, and what they are two seconds later.
func shownCalls() (calls, later []admin.Call) {
	calls = []admin.Call{
		shownCall(1, 5, "requested", &admin.Traffic{Packets: 10, Bytes: 1000}),
		shownCall(2, 9, "established", &admin.Traffic{Packets: 10, Bytes: 9000}),
		shownCall(3, 1, "answered", nil),
	}
	return calls, []admin.Call{
		shownCall(1, 5, "requested", &admin.Traffic{Packets: 30, Bytes: 41000}),
		shownCall(2, 9, "established", &admin.Traffic{Packets: 12, Bytes: 9200}),
		shownCall(3, 1, "answered", nil),
	}
}

func TestCallOrder(t *testing.T) {
	calls, later := shownCalls()
	for by, want := range map[order]string{"": "312", "age": "312", "-age": "213", "client": "123", "server": "321", "state": "321", "rate": "123", "-rate": "321", "number": "123"} {
		w := watcher{sort: by}
		w.table(calls, noon)
		var got strings.Builder
		for _, r := range w.table(later, noon.Add(2*time.Second)).rows {
			got.WriteString(r[0].text)
		}
		if got.String() != want {
			t.Errorf("by %q: %s, want %s", by, &got, want)
		}
	}
}

func TestCallFilter(t *testing.T) {
	calls, _ := shownCalls()
	for filter, want := range map[string]string{
		"": "123", "10.0.0.2": "2", "10.0.0.2/31": "23", "10.0.0.2/2": "2", "ANSWERED": "3", "203.0.113.9 requested": "1",
		"203.0.113.97:1723": "3", "10.0.0.2 answered": "", "10.0.0.1/31": "",
	} {
		w := watcher{filter: filter}
		var got strings.Builder
		for _, r := range w.chosen(rowsOf(calls), "number") {
			fmt.Fprint(&got, r.Number)
		}
		if got.String() != want {
			t.Errorf("%q shows %q, want %q", filter, &got, want)
		}
	}
}

// TestCallFromThePAC: the client is who opened the control connection, whatever its part in
// the call.
func TestCallFromThePAC(t *testing.T) {
	c := shownCall(1, 5, "established", &admin.Traffic{Packets: 1, Bytes: 10})
	c.PNS, c.PAC = c.PAC, c.PNS
	line := callTable(rowsOf([]admin.Call{c}), noon, callColumns{}).lines(0, false)[1]
	if want := "1     10.0.0.1/1  192.0.2.1/1  203.0.113.9/-  established  5m   -          1p 10B"; line != want {
		t.Errorf("got  %q\nwant %q", line, want)
	}
}

func TestWatchRates(t *testing.T) {
	w := watcher{filter: "10.0.0.1"}
	first := w.table([]admin.Call{shownCall(1, 5, "established", &admin.Traffic{Packets: 10, Bytes: 1000}), shownCall(2, 1, "requested", nil)}, noon).lines(0, false)
	second := w.table([]admin.Call{shownCall(1, 5, "established", &admin.Traffic{Packets: 30, Bytes: 41000})}, noon.Add(2*time.Second)).lines(0, false)
	want := []string{
		"CALL  CLIENT      PUBLIC       SERVER         STATE        AGE   TO CLIENT      TO SERVER",
		"1     10.0.0.1/1  192.0.2.1/1  203.0.113.9/-  established  5m2s  10p/s 20kB/s  -",
	}
	if len(first) != 2 || !strings.HasSuffix(first[1], "5m   -          -") {
		t.Errorf("the first table is %q", first)
	}
	for i := range want {
		if strings.Join(strings.Fields(second[i]), " ") != strings.Join(strings.Fields(want[i]), " ") {
			t.Errorf("line %d is %q, want %q", i, second[i], want[i])
		}
	}
	// Counting began anew.
	third := w.table([]admin.Call{shownCall(1, 5, "established", &admin.Traffic{Packets: 1, Bytes: 1})}, noon.Add(3*time.Second)).lines(0, false)
	if !strings.Contains(third[1], "5m3s  -") {
		t.Errorf("then it is %q", third[1])
	}
}

// TestNarrowTable: columns go in an order of their own; what says which call it is and how it
// does stays.
func TestNarrowTable(t *testing.T) {
	rows := rowsOf([]admin.Call{shownCall(1, 5, "established", &admin.Traffic{Packets: 10, Bytes: 1000})})
	for width, want := range map[int]string{
		0:   "CALL CLIENT PUBLIC SERVER PUBLIC STATE AGE TO CLIENT TO SERVER CONTROL",
		110: "CALL CLIENT PUBLIC SERVER PUBLIC STATE AGE TO CLIENT TO SERVER",
		95:  "CALL CLIENT PUBLIC SERVER STATE AGE TO CLIENT TO SERVER",
		80:  "CALL CLIENT SERVER STATE AGE TO CLIENT TO SERVER",
		70:  "CALL CLIENT SERVER STATE TO CLIENT TO SERVER",
		50:  "CALL CLIENT SERVER STATE",
		40:  "CALL CLIENT STATE",
		20:  "CALL CLIENT ST",
	} {
		lines := callTable(rows, noon, callColumns{wide: true}).lines(width, false)
		if got := strings.Join(strings.Fields(lines[0]), " "); got != want {
			t.Errorf("%d columns show %q, want %q", width, got, want)
		}
		for _, l := range lines {
			if width > 0 && len(l) > width {
				t.Errorf("%q is longer than %d", l, width)
			}
		}
	}
	coloured := callTable(rows, noon, callColumns{}).lines(0, true)[1]
	if !strings.Contains(coloured, "  \x1b[32mestablished\x1b[0m  5m") {
		t.Errorf("in colour: %q", coloured)
	}
}

// TestRatesOnce: an order by rate needs two looks, also where one table is printed.
func TestRatesOnce(t *testing.T) {
	calls, later := shownCalls()
	for by, want := range map[order]string{"rate": "123", "-rate": "321", "": "123"} {
		asked := 0
		w := watcher{sort: by, interval: 10 * time.Millisecond, calls: func(context.Context) ([]admin.Call, error) {
			asked++
			return [][]admin.Call{calls, later}[asked-1], nil
		}}
		rows, err := w.once(t.Context())
		must(t, err)
		var got strings.Builder
		for _, r := range rows {
			fmt.Fprint(&got, r.Number)
		}
		if got.String() != want || (asked == 2) != w.byRate() {
			t.Errorf("by %q: %s, want %s; asked %d times", by, &got, want, asked)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := watcher{sort: "rate", interval: time.Hour, calls: func(context.Context) ([]admin.Call, error) { return calls, nil }}
	if _, err := w.once(ctx); err == nil {
		t.Error("interrupted, it reports success")
	}
}

func TestScreen(t *testing.T) {
	got := screen([]string{"a table", "b", "c", "d"}, 3)
	want := home + "a table" + endOfLine + "\r\nb" + endOfLine + "\r\n… 2 more" + endOfLine + endOfScreen
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestScaled(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 9999: "9999", 10_000: "10k", 123_456: "123k", 999_900: "1M", 1_234_567: "1.23M", 7_000_000_000_000: "7000G"} {
		if got := scaled(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

// TestWatchTerminal: a terminal is drawn on in place, and left as it was; where the daemon
// is gone, it is awaited.
func TestWatchTerminal(t *testing.T) {
	master, slave := pty(t, 60, 10)
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	w := watcher{out: slave, lookup: withTerm("xterm"), interval: time.Millisecond, calls: func(context.Context) ([]admin.Call, error) {
		if asked++; asked > 2 {
			cancel()
		}
		if asked == 2 {
			return nil, admin.ErrNotRunning
		}
		return []admin.Call{shownCall(1, 5, "established", nil)}, nil
	}}
	must(t, w.Run(ctx))
	must(t, slave.Close())
	b, _ := io.ReadAll(master) // ends with an error, as the other side is closed
	out := string(b)
	if !strings.HasPrefix(out, enterScreen+home) || !strings.HasSuffix(out, leaveScreen) || strings.Count(out, home) != 2 ||
		!strings.Contains(out, "1 call ") || !strings.Contains(out, "   NO DAEMON   ") || strings.Contains(out, "0 calls") {
		t.Errorf("%q", out)
	}
}

// withTerm is an environment with TERM alone.
func withTerm(kind string) func(string) (string, bool) {
	return func(key string) (string, bool) {
		if key != "TERM" {
			return "", false
		}
		return kind, true
	}
}

// TestWatchDumbTerminal: a terminal that cannot be drawn on gets one table after another, and
// no control sequence.
func TestWatchDumbTerminal(t *testing.T) {
	for _, kind := range []string{"dumb", ""} {
		master, slave := pty(t, 60, 10)
		ctx, cancel := context.WithCancel(t.Context())
		asked := 0
		w := watcher{out: slave, lookup: withTerm(kind), interval: time.Millisecond, calls: func(context.Context) ([]admin.Call, error) {
			if asked++; asked > 2 {
				cancel()
			}
			return []admin.Call{shownCall(1, 5, "established", nil)}, nil
		}}
		must(t, w.Run(ctx))
		must(t, slave.Close())
		b, _ := io.ReadAll(master) // ends with an error, as the other side is closed
		if out := string(b); strings.Contains(out, "\x1b") || strings.Count(out, "10.0.0.1/1") != 2 {
			t.Errorf("TERM=%s: %q", kind, out)
		}
	}
}

// pty opens both sides of a new terminal.
func pty(t *testing.T, columns, rows uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { _ = master.Close() })
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}))
	return master, slave
}

// TestTrouble: calls that do not carry are in the title, and below the table, in words.
func TestTrouble(t *testing.T) {
	calls, _ := shownCalls()
	if got := trouble(rowsOf(calls)); got != "" {
		t.Errorf("without any: %q", got)
	}
	calls[1].Carries, calls[1].NoneTo = "one_way", "pns"
	if got, want := trouble(rowsOf(calls)), "\n1 call carries traffic one way only: \"pptpalg explain 10.0.0.2\" says why\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := new(watcher).title(calls, nil, noon); !strings.Contains(got, "   3 calls, 1 NOT CARRYING   ") {
		t.Errorf("the title is %q", got)
	}
	calls[0].Carries = "silent"
	if got := trouble(rowsOf(calls)); !strings.Contains(got, "2 calls carry traffic one way only, or none: ") {
		t.Errorf("with two: %q", got)
	}
	cell := callTable(rowsOf(calls), noon, callColumns{}).rows[1][4]
	if cell.text != "one-way" || cell.tone != badTone {
		t.Errorf("its state is %+v", cell)
	}
}

// TestTerminalColours: NO_COLOR and a dumb terminal have none.
func TestTerminalColours(t *testing.T) {
	_, slave := pty(t, 60, 10)
	for given, want := range map[string]bool{"": true, "TERM=dumb": false, "TERM=": false, "NO_COLOR=1": false, "NO_COLOR=": true} {
		name, value, _ := strings.Cut(given, "=")
		term := terminalOf(slave, func(key string) (string, bool) {
			if key != name {
				return withTerm("xterm")(key)
			}
			return value, true
		})
		if term.coloured != want || term.columns != 60 || term.rows != 10 {
			t.Errorf("%q: %+v", given, term)
		}
	}
}

// TestWatchQuits: q ends the live table of a process on a terminal of its own, and the
// terminal is as it was.
func TestWatchQuits(t *testing.T) {
	master, slave := pty(t, 80, 24)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, "calls", "--watch", "--interval", "20ms", "--state-dir", t.TempDir())
	cmd.Env = append(os.Environ(), asProgram+"=1", "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	shown := new(lab.Log)
	go func() { _, _ = io.Copy(shown, master) }()
	must(t, shown.WaitFor("NO DAEMON", lab.Patience))
	_, err = master.WriteString("xq")
	must(t, err)
	must(t, cmd.Wait())
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the terminal (-before +after)\n%s", diff)
	}
}

func TestWatchWrong(t *testing.T) {
	for want, args := range map[string][]string{
		"--sort: \"size\" is not valid; use age, client, number, rate, server or state": {"calls", "--watch", "--sort", "size"},
		"-1s is not greater than 0":                         {"calls", "--watch", "--interval", "-1s"},
		"0s is not greater than 0":                          {"calls", "--interval", "0s"},
		"--json and --watch cannot be used together":        {"calls", "--watch", "--json"},
		"--output json and --watch cannot be used together": {"calls", "--watch", "-o", "json"},
		"--output yaml and --watch cannot be used together": {"calls", "-w", "-o", "yaml"},
	} {
		if code, _, stderr := pptpalg(t, args...); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d: %s", args, code, stderr)
		}
	}
	if code, _, stderr := pptpalg(t, "calls", "--watch", "--state-dir", "/nonexistent"); code != 1 || !strings.Contains(stderr, "no daemon is running") {
		t.Errorf("without a daemon: exit %d: %s", code, stderr)
	}
}

// TestCallsAreCounted over both data paths: in the table, and in the live one.
func TestCallsAreCounted(t *testing.T) { overDataPaths(t, testCallsAreCounted) }

func testCallsAreCounted(t *testing.T, path datapath.Name) {
	g := buildGateway(t, path, masquerade(1))
	must(t, g.Gateway.SetSysctl("net.netfilter.nf_conntrack_acct", "1"))
	g.start()
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	must(t, call.Send([]byte("one more")))
	_, err := call.Recv(lab.Patience)
	must(t, err)
	c := g.calls()[0]
	if c.ToPNS == nil || c.ToPAC == nil || c.ToPNS.Packets != 4 || c.ToPAC.Packets != 4 || c.ToPAC.Bytes == 0 {
		t.Errorf("to PNS %+v, to PAC %+v, want 4 packets", c.ToPNS, c.ToPAC)
	}
	if _, stdout, _ := pptpalg(t, "calls", "--sort", "rate", "--interval", "100ms", "--state-dir", g.state); !strings.Contains(stdout, "p/s ") {
		t.Errorf("by rate:\n%s", stdout)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := new(lab.Log)
	done := make(chan int)
	go func() {
		done <- execute(ctx, env{
			args:   []string{"calls", "--watch", "--interval", "10ms", "--state-dir", g.state},
			stdout: out, stderr: out, lookup: func(string) (string, bool) { return "", false },
		})
	}()
	must(t, out.WaitFor("p/s", lab.Patience))
	cancel()
	if code := <-done; code != 0 || !strings.Contains(out.String(), "10.77.0.10/7") {
		t.Errorf("exit %d: %s", code, out)
	}
}
