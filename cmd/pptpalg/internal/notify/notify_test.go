package notify

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMessages(t *testing.T) {
	tests := []struct {
		name     string
		watchdog time.Duration
		readyAt  time.Duration // 0: never
		sickAt   time.Duration // 0: never
		sendErr  error
		want     []string // with the second at which each is sent
		log      string
	}{
		{"never ready", 10 * time.Second, 0, 0, nil, []string{"21s STOPPING=1"}, ""},
		{"no watchdog", 0, 2 * time.Second, 0, nil, []string{"2s READY=1", "21s STOPPING=1"}, ""},
		{
			"watchdog", 10 * time.Second, 2 * time.Second, 0, nil,
			[]string{"2s READY=1", "7s WATCHDOG=1", "12s WATCHDOG=1", "17s WATCHDOG=1", "21s STOPPING=1"}, "",
		},
		{
			"sick", 10 * time.Second, 2 * time.Second, 10 * time.Second, nil,
			[]string{"2s READY=1", "7s WATCHDOG=1", "21s STOPPING=1"}, `the daemon is stuck and does not notify the service manager, which will kill it" err=fever`,
		},
		{
			"manager gone", 0, 2 * time.Second, 0, errors.New("connection refused"),
			[]string{"2s READY=1", "21s STOPPING=1"}, `level=WARN msg="tell service manager" state="READY=1" err="connection refused"`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				ready := make(chan struct{})
				begin := time.Now()
				var got []string
				m := manager{
					Config: Config{
						Ready: ready, Log: slog.New(slog.NewTextHandler(&log, nil)),
						Healthy: func(now time.Time) error {
							if tt.sickAt != 0 && now.Sub(begin) >= tt.sickAt {
								return errors.New("fever")
							}
							return nil
						},
					},
					watchdog: tt.watchdog,
					send: func(state string) error {
						got = append(got, time.Since(begin).String()+" "+state)
						return tt.sendErr
					},
				}
				if tt.readyAt != 0 {
					time.AfterFunc(tt.readyAt, func() { close(ready) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 21*time.Second)
				defer cancel()
				m.run(ctx)
				if !slices.Equal(got, tt.want) {
					t.Errorf("sent %q, want %q", got, tt.want)
				}
				if !strings.Contains(log.String(), tt.log) || (tt.log == "") != (log.Len() == 0) {
					t.Errorf("logged %q, want %q", log.String(), tt.log)
				}
			})
		})
	}
}

func TestEnvironment(t *testing.T) {
	tests := []struct {
		name, usec, want string
	}{
		{"no manager", "", ""},
		{"not a time", "soon", "read watchdog time of the service manager: error converting WATCHDOG_USEC"},
		{"no time", "0", "read watchdog time of the service manager: error WATCHDOG_USEC must be a positive number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", "")
			t.Setenv("WATCHDOG_USEC", tt.usec)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := Run(ctx, Config{Log: slog.New(slog.DiscardHandler)})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
