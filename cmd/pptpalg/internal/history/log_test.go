package history

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logger is a Log that runs.
type logger struct {
	t      *testing.T
	store  *Store
	path   string
	reopen chan os.Signal
	calls  uint64
}

func startLog(t *testing.T) *logger {
	t.Helper()
	l := &logger{t: t, store: NewStore(2, 2), path: filepath.Join(t.TempDir(), "events"), reopen: make(chan os.Signal)}
	log, err := OpenLog(l.path, l.store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- log.Run(ctx, l.reopen) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(l.store.subscribers) != 0 {
			t.Error("it still listens")
		}
	})
	return l
}

func (l *logger) add() {
	l.calls++
	l.store.Add(from(1, l.calls))
}

// has waits until a file has so many lines, and adds more meanwhile if it is told to.
func (l *logger) has(path string, lines int, more bool) {
	l.t.Helper()
	var text []byte
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if text, _ = os.ReadFile(path); strings.Count(string(text), "\n") >= lines {
			return
		}
		if more {
			l.add()
		}
	}
	l.t.Fatalf("%s has %q, want %d lines", path, text, lines)
}

func TestLog(t *testing.T) {
	l := startLog(t)
	l.add()
	l.has(l.path, 1, false)
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		t.Fatal(err)
	}
	l.reopen <- syscall.SIGHUP
	l.add()
	l.has(l.path, 1, false)
	// Renamed, and nobody says so.
	if err := os.Rename(l.path, l.path+".2"); err != nil {
		t.Fatal(err)
	}
	l.has(l.path, 1, true)
	info, err := os.Stat(l.path)
	if err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("the file is %v, %v: it is nobody else's", info.Mode(), err)
	}
}

// TestLogGoesOn in the old file where there can be no new one.
func TestLogGoesOn(t *testing.T) {
	l := startLog(t)
	l.add()
	l.has(l.path, 1, false)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.Rename(l.path, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.path, 0o755); err != nil {
		t.Fatal(err)
	}
	l.reopen <- syscall.SIGHUP
	l.add()
	l.has(old, 2, false)
}

func TestLogNowhere(t *testing.T) {
	s := NewStore(1, 1)
	if _, err := OpenLog("/nonexistent/events", s, nil); err == nil || len(s.subscribers) != 0 {
		t.Errorf("it is open: %v", err)
	}
}
