package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// shownCall is the n-th call, so many minutes old.
func shownCall(n uint64, minutes int, state string, toPNS *admin.Traffic) admin.Call {
	id := pptp.CallID(n)
	return admin.Call{
		Number: n, State: state, Since: noon.Add(-time.Duration(minutes) * time.Minute), ToPNS: toPNS,
		PNS:     admin.Party{Address: fmt.Sprintf("10.0.0.%d", n), PublicAddress: "192.0.2.1", CallID: &id, PublicCallID: &id},
		PAC:     admin.Party{Address: "203.0.113.9", PublicAddress: "203.0.113.9"},
		Control: admin.Control{Src: fmt.Sprintf("10.0.0.%d:5000", n), Dst: fmt.Sprintf("203.0.113.%d:1723", 100-n)},
	}
}

func TestWatchOrder(t *testing.T) {
	calls := []admin.Call{
		shownCall(1, 5, "requested", &admin.Traffic{Packets: 10, Bytes: 1000}),
		shownCall(2, 9, "established", &admin.Traffic{Packets: 10, Bytes: 9000}),
		shownCall(3, 1, "answered", nil),
	}
	later := []admin.Call{
		shownCall(1, 5, "requested", &admin.Traffic{Packets: 30, Bytes: 41000}),
		shownCall(2, 9, "established", &admin.Traffic{Packets: 12, Bytes: 9200}),
		shownCall(3, 1, "answered", nil),
	}
	for by, want := range map[order]string{"age": "312", "client": "123", "server": "321", "state": "321", "rate": "123"} {
		w := watcher{sort: by}
		w.table(calls, noon)
		var got strings.Builder
		for _, l := range w.table(later, noon.Add(2*time.Second))[1:] {
			got.WriteByte(l[len("10.0.0.")])
		}
		if got.String() != want {
			t.Errorf("by %s: %s, want %s", by, &got, want)
		}
	}
}

func TestWatchRates(t *testing.T) {
	w := watcher{sort: "age", filter: "10.0.0.1"}
	first := w.table([]admin.Call{shownCall(1, 5, "established", &admin.Traffic{Packets: 10, Bytes: 1000}), shownCall(2, 1, "requested", nil)}, noon)
	second := w.table([]admin.Call{shownCall(1, 5, "established", &admin.Traffic{Packets: 30, Bytes: 41000})}, noon.Add(2*time.Second))
	want := []string{
		"PNS         PUBLIC       PAC            PUBLIC         STATE        AGE   TO PNS            TO PAC  PACKETS",
		"10.0.0.1/1  192.0.2.1/1  203.0.113.9/-  203.0.113.9/-  established  5m2s  10 p/s 20kB/s     -       30",
	}
	if len(first) != 2 || !strings.HasSuffix(first[1], "5m0s  -       -       10") {
		t.Errorf("the first table is %q", first)
	}
	for i := range want {
		if strings.Join(strings.Fields(second[i]), " ") != strings.Join(strings.Fields(want[i]), " ") {
			t.Errorf("line %d is %q, want %q", i, second[i], want[i])
		}
	}
	// Counting began anew.
	third := w.table([]admin.Call{shownCall(1, 5, "established", &admin.Traffic{Packets: 1, Bytes: 1})}, noon.Add(3*time.Second))
	if !strings.Contains(third[1], "5m3s  -") {
		t.Errorf("then it is %q", third[1])
	}
}

func TestScreen(t *testing.T) {
	got := screen([]string{"a table", "öäü: of five columns", "c", "d"}, 5, 3)
	want := home + "a tab" + endOfLine + "\r\nöäü: " + endOfLine + "\r\n… 2 m" + endOfLine + endOfScreen
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestShort(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 9999: "9999", 10_000: "10k", 123_456: "123k", 999_900: "1M", 1_234_567: "1.23M", 7_000_000_000_000: "7000G"} {
		if got := short(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

// TestWatchTerminal: a terminal is drawn on in place, and left as it was; where the daemon
// is gone, it is awaited.
func TestWatchTerminal(t *testing.T) {
	master, slave := terminal(t, 60, 10)
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	w := watcher{out: slave, interval: time.Millisecond, sort: "age", calls: func(context.Context) ([]admin.Call, error) {
		if asked++; asked > 2 {
			cancel()
		}
		if asked == 2 {
			return nil, errors.New("no daemon is running")
		}
		return []admin.Call{shownCall(1, 5, "established", nil)}, nil
	}}
	must(t, w.Run(ctx))
	must(t, slave.Close())
	b, _ := io.ReadAll(master) // ends with an error, as the other side is closed
	out := string(b)
	if !strings.HasPrefix(out, enterScreen+home) || !strings.HasSuffix(out, leaveScreen) || strings.Count(out, home) != 2 ||
		!strings.Contains(out, "1 calls") || !strings.Contains(out, "no daemon is running") {
		t.Errorf("%q", out)
	}
}

// terminal opens both sides of a new one.
func terminal(t *testing.T, columns, rows uint16) (master, slave *os.File) {
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

func TestWatchWrong(t *testing.T) {
	for want, args := range map[string][]string{
		`"size" is none of age, client, rate, server, state`: {"calls", "--watch", "--sort", "size"},
		"-1s is not above 0":   {"calls", "--watch", "--interval", "-1s"},
		"no daemon is running": {"calls", "--watch", "--state-dir", "/nonexistent"},
	} {
		if code, _, stderr := pptpalg(t, args...); code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d: %s", args, code, stderr)
		}
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
