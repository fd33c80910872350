package gateway

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/notify"
)

func TestHealthy(t *testing.T) {
	begin := time.Now()
	tests := []struct {
		name  string
		task  func(*pulse) *task
		ended bool
		after time.Duration
		want  string // "" for healthy
	}{
		{"packet in hand", packetTask, false, packetTime, ""},
		{"packet stuck", packetTask, false, packetTime + 2*time.Second, "the packet loop is stuck: a packet has waited 7s for its verdict"},
		{"packet done", packetTask, true, time.Hour, ""},
		{"comparison under way", sweepTask, false, sweepTime, ""},
		{"comparison stuck", sweepTask, false, sweepTime + time.Second, "the audit is stuck since 1m1s"},
		{"comparison done", sweepTask, true, time.Hour, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := new(Gateway)
			task := tt.task(&d.pulse)
			task.begin(begin)
			if tt.ended {
				task.end()
			}
			got := ""
			if err := d.Healthy(begin.Add(tt.after)); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func packetTask(p *pulse) *task { return &p.packet }
func sweepTask(p *pulse) *task  { return &p.sweep }

func TestPanicIsNoHang(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.metrics.packets = nil // what counts packets panics
	func() {
		defer func() { _ = recover() }()
		r.packet(new(nfqueue.Packet))
	}()
	if err := r.Healthy(time.Now().Add(time.Hour)); err == nil {
		t.Error("a packet in hand is not told")
	}
	r.settle()
	r.released()
	if err := r.Healthy(time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
}

// TestHungHandlerSilencesTheWatchdog has a handler hang from second 12 to 27, on a
// clock of the test's own, and signs of life due every five seconds.
func TestHungHandlerSilencesTheWatchdog(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "10000000")
	t.Setenv("WATCHDOG_PID", "")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var log strings.Builder
	synctest.Test(t, func(t *testing.T) { hang(t, slog.New(slog.NewTextHandler(&log, nil))) })
	want := []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"} // 5, 10, 15, 30
	if got := received(t, l, len(want)); !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
	if n := strings.Count(log.String(), "the packet loop is stuck"); n != 2 { // 20, 25
		t.Errorf("%d complaints, want 2: %s", n, log.String())
	}
}

func hang(t *testing.T, log *slog.Logger) {
	d := new(Gateway)
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	close(ready)
	go func() {
		if err := notify.Run(ctx, notify.Config{Ready: ready, Healthy: d.Healthy, Log: log}); err != nil {
			t.Error(err)
		}
	}()
	time.Sleep(12 * time.Second)
	d.pulse.packet.begin(time.Now())
	time.Sleep(15 * time.Second)
	d.pulse.packet.end()
	time.Sleep(4 * time.Second)
	cancel()
}

// received takes so many messages, and one more if it is there.
func received(t *testing.T, l *net.UnixConn, n int) []string {
	t.Helper()
	var all []string
	b := make([]byte, 64)
	for i := range n + 1 {
		wait := 15 * time.Second
		if i == n {
			wait = time.Millisecond
		}
		if err := l.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		size, err := l.Read(b)
		if err != nil {
			return all
		}
		all = append(all, string(b[:size]))
	}
	return all
}
