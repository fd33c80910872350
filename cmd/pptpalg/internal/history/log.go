package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"pptpalg/cmd/pptpalg/internal/spool"
)

const (
	logBuffer  = 1024                   // events that wait to become lines
	logQueue   = 2 << 20                // bytes of lines that wait for the file: some 4,000 lines
	lookPause  = time.Second            // between two looks whether the file was renamed
	closePause = 500 * time.Millisecond // for the last lines, when the daemon ends
)

// Log writes the translation log to a file, a Record as JSON on each line. Nothing waits
// for the file: events that it does not take are counted, and a line says how many there
// were.
type Log struct {
	sub   *Subscription
	lines *spool.Spool
	file  *logFile
}

// OpenLog opens a file to add to, which is made for its owner and group if it is not
// there, and begins to listen. "-" is standard output. The caller must call Run or Close.
func OpenLog(path string, store *Store, log *slog.Logger) (*Log, error) {
	f := &logFile{path: path, log: log, file: os.Stdout, complain: rate.Sometimes{First: 5, Interval: 10 * time.Second}}
	if path != "-" {
		var err error
		if f.file, err = appendTo(path); err != nil {
			return nil, fmt.Errorf("open event log: %w", err)
		}
	}
	f.lines = spool.Open(f.file)
	return &Log{
		sub: store.Subscribe(logBuffer, Logged...), file: f,
		lines: spool.New(f, logQueue, func(lost uint64) []byte { return line(NewLost(lost, time.Now())) }),
	}, nil
}

// appendTo opens a file for appending, and for reading its end. It does not wait for a
// reader of a named pipe.
func appendTo(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
}

func line(r Record) []byte {
	b, _ := json.Marshal(r) // a Record has nothing that JSON cannot say
	return append(b, '\n')
}

// Run writes until ctx is done, and then briefly what is left. At a signal of reopen, or
// when the file was renamed, it continues in a new file. It logs errors and goes on.
func (l *Log) Run(ctx context.Context, reopen <-chan os.Signal) error {
	for {
		select {
		case e := <-l.sub.events:
			l.write(e)
		case <-reopen:
			l.file.renamed.Store(true)
			_, _ = l.lines.Write([]byte{}) // nothing, but to the new file
		case <-ctx.Done():
			for len(l.sub.events) > 0 {
				l.write(<-l.sub.events)
			}
			l.miss()
			return l.Close()
		}
	}
}

func (l *Log) write(e *Event) {
	l.miss()
	_, _ = l.lines.Write(line(NewRecord(*e))) // it never fails
}

// miss counts events that did not become lines.
func (l *Log) miss() {
	if lost := l.sub.missed(); lost > 0 {
		l.lines.Lose(lost)
	}
}

// Lost returns how many events were not written.
func (l *Log) Lost() uint64 { return l.lines.Lost() }

// Close ends a log. Lines that the file does not take are lost.
func (l *Log) Close() error {
	l.sub.Close()
	err := l.lines.Close(closePause)
	if errors.Is(err, spool.ErrStuck) {
		l.file.log.Error("event log", "err", err)
		return nil // the file is still in use
	}
	if l.file.path == "-" {
		return err
	}
	return errors.Join(err, l.file.file.Close())
}

// logFile is the file of a Log, under whatever name. All but renamed is the spool's goroutine's.
type logFile struct {
	path   string
	log    *slog.Logger
	file   *os.File
	lines  *spool.File
	looked time.Time // when it was last looked whether the file was renamed

	renamed  atomic.Bool // somebody says that it was
	complain rate.Sometimes
}

func (f *logFile) Write(line []byte) (int, error) {
	if f.path != "-" && f.stale() {
		f.reopen()
	}
	n, err := f.lines.Write(line)
	if err != nil {
		f.complain.Do(func() { f.log.Error("event log: lines were lost", "err", err) })
	}
	return n, err
}

// stale reports whether the name belongs to another file now, or to none.
func (f *logFile) stale() bool {
	if f.renamed.Swap(false) {
		return true
	}
	now := time.Now()
	if now.Sub(f.looked) < lookPause {
		return false
	}
	f.looked = now
	named, err := os.Stat(f.path)
	open, openErr := f.file.Stat()
	return err != nil || openErr != nil || !os.SameFile(named, open)
}

// reopen keeps the old file if it cannot open a new one.
func (f *logFile) reopen() {
	file, err := appendTo(f.path)
	if err != nil {
		f.complain.Do(func() { f.log.Error("event log: still writing to the old file", "err", err) })
		return
	}
	_, _ = f.lines.Write(nil) // the rest of a line that the disk had no room for, if there is now
	_ = f.file.Close()        // what was written is written
	f.file, f.lines = file, spool.Open(file)
}
