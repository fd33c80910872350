package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"pptpalg/cmd/pptpalg/internal/spool"
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
}

// openLog begins a log. The caller must close it.
func openLog(stderr io.Writer, least slog.Level) *daemonLog {
	l := &daemonLog{level: new(slog.LevelVar)}
	l.level.Set(least)
	l.lines = spool.New(spool.Open(stderr), logQueue, lostLine)
	l.Logger = slog.New(slog.NewTextHandler(l.lines, &slog.HandlerOptions{Level: l.level}))
	return l
}

// lostLine is the line that stands for lines that were lost.
func lostLine(n uint64) []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were lost: nobody read them, or the disk was full", 0)
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
