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
	l.Logger = slog.New(&lastError{Handler: slog.NewTextHandler(l.lines, &slog.HandlerOptions{Level: l.level}), last: &l.last})
	return l
}

// lastError remembers the last error that is logged, with all that its line has.
type lastError struct {
	slog.Handler
	last  *atomic.Pointer[status.LogLine]
	given string // the attributes of the logger, as sentence writes them
	group string // of attributes to come, with a dot behind it; "" for none
}

func (h *lastError) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		h.last.Store(&status.LogLine{Time: schema.At(r.Time), Text: h.sentence(r)})
	}
	return h.Handler.Handle(ctx, r)
}

// sentence is a log line without its time and level.
func (h *lastError) sentence(r slog.Record) string {
	text := r.Message + h.given
	r.Attrs(func(a slog.Attr) bool {
		text += h.word(a)
		return true
	})
	return text
}

// word is an attribute with a space before it. A stack is too long for a sentence.
func (h *lastError) word(a slog.Attr) string {
	if a.Key == "stack" {
		return ""
	}
	return fmt.Sprintf(" %s%s=%v", h.group, a.Key, a.Value)
}

func (h *lastError) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.Handler = h.Handler.WithAttrs(attrs)
	for _, a := range attrs {
		next.given += h.word(a)
	}
	return &next
}

func (h *lastError) WithGroup(name string) slog.Handler {
	next := *h
	next.Handler = h.Handler.WithGroup(name)
	next.group += name + "."
	return &next
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
