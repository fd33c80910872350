package main

import (
	"log/slog"
	"strings"
	"testing"
)

// TestLastError: what status tells of the last error has all that the log line has, such as
// which of several collectors it is about.
func TestLastError(t *testing.T) {
	for _, tt := range []struct {
		name string
		log  func(*slog.Logger)
		want string
	}{
		{"none", func(l *slog.Logger) { l.Warn("slow") }, ""},
		{"plain", func(l *slog.Logger) { l.Error("broken", "err", "full") }, "broken err=full"},
		{"of one of several", func(l *slog.Logger) { l.With("collector", "syslog+tcp://h:1").Error("broken", "err", "full") }, "broken collector=syslog+tcp://h:1 err=full"},
		{"of a part of one", func(l *slog.Logger) { l.With("a", 1).With("b", 2).Error("broken", "c", 3) }, "broken a=1 b=2 c=3"},
		{"siblings", func(l *slog.Logger) {
			one := l.With("a", 1)
			two := one.With("b", 2)
			_ = one.With("b", 3)
			two.Error("broken")
		}, "broken a=1 b=2"},
		{"grouped", func(l *slog.Logger) { l.With("a", 1).WithGroup("g").With("b", 2).Error("broken", "c", 3) }, "broken a=1 g.b=2 g.c=3"},
		{"without the stack", func(l *slog.Logger) { l.With("stack", "x").Error("broken", "stack", "y", "a", 1) }, "broken a=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := openLog(new(strings.Builder), slog.LevelInfo)
			defer l.close()
			tt.log(l.Logger)
			got := ""
			if last := l.last.Load(); last != nil {
				got = last.Text
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
