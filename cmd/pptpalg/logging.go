package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"pptpalg/cmd/pptpalg/internal/schema"
	"pptpalg/cmd/pptpalg/internal/spool"
	"pptpalg/cmd/pptpalg/internal/status"
)

const (
	// logQueue is the maximum number of bytes of log lines that wait for standard error:
	// some 1,500 lines.
	logQueue = 256 << 10
	// lastWords is how long an ending process waits for a reader of its last lines.
	lastWords = 500 * time.Millisecond
)

// daemonLog is the log of a running daemon. Logging does not wait for the reader of
// standard error.
type daemonLog struct {
	*slog.Logger
	lines *spool.Spool
	level *slog.LevelVar
	last  atomic.Pointer[status.LogLine] // the last error; nil before the first
}

// openLog begins a log. The caller must close it.
func openLog(stderr io.Writer, least slog.Level) *daemonLog {
	l := &daemonLog{level: new(slog.LevelVar)}
	l.level.Set(least)
	l.lines = spool.New(spool.Open(stderr), logQueue, lostLine)
	l.Logger = slog.New(&lastError{slog.NewTextHandler(l.lines, &slog.HandlerOptions{Level: l.level}), &l.last})
	return l
}

// lastError remembers the last error that is logged.
type lastError struct {
	slog.Handler
	last *atomic.Pointer[status.LogLine]
}

func (h *lastError) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		h.last.Store(&status.LogLine{Time: schema.At(r.Time), Text: sentence(r)})
	}
	return h.Handler.Handle(ctx, r)
}

// sentence is a log line without its time and level.
func sentence(r slog.Record) string {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "stack" {
			return true
		}
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	return text
}

func (h *lastError) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &lastError{h.Handler.WithAttrs(attrs), h.last}
}

func (h *lastError) WithGroup(name string) slog.Handler {
	return &lastError{h.Handler.WithGroup(name), h.last}
}

// lostLine is the line that stands for lines that were lost.
func lostLine(n uint64) []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were lost: they were not read in time, or the disk was full", 0)
	r.Add("lines", n)
	_ = slog.NewTextHandler(&b, nil).Handle(context.Background(), r) // a buffer takes everything
	return b.Bytes()
}

// close writes what is left, if somebody reads it.
func (l *daemonLog) close() { _ = l.lines.Close(lastWords) } // there is nobody to tell

// surviveBrokenPipes makes writes to a closed standard output or error fail, instead of
// killing the process. It does not affect the programs that the process starts.
func surviveBrokenPipes() (stop func()) {
	unread := make(chan os.Signal, 1)
	signal.Notify(unread, syscall.SIGPIPE)
	return func() { signal.Stop(unread) }
}
