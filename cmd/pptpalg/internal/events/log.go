package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/time/rate"
)

// logBuffer is how many events wait for the log's file at most.
const logBuffer = 4096

// lookPause is how often the log looks whether its file was renamed.
const lookPause = time.Second

// Log writes the translation log to a file, a Record as JSON on each line.
type Log struct {
	path   string
	file   *os.File
	sub    *Subscription
	log    *slog.Logger
	looked time.Time // when it was last looked whether the file was renamed

	complain rate.Sometimes
}

// OpenLog opens a file to add to, which is made for its owner and group if it is not
// there, and begins to listen. "-" is standard output. The caller must call Run or Close.
func OpenLog(path string, store *Store, log *slog.Logger) (*Log, error) {
	l := &Log{path: path, log: log, file: os.Stdout, complain: rate.Sometimes{First: 5, Interval: 10 * time.Second}}
	if path != "-" {
		var err error
		if l.file, err = appendTo(path); err != nil {
			return nil, fmt.Errorf("open event log: %w", err)
		}
	}
	l.sub = store.Subscribe(logBuffer, Logged...)
	return l, nil
}

func appendTo(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
}

// Run writes until ctx is done, and then what is left. At a signal of reopen, or when the
// file was renamed, it goes on in a new one. What goes wrong is logged and ends nothing.
func (l *Log) Run(ctx context.Context, reopen <-chan os.Signal) error {
	defer l.Close()
	for {
		select {
		case e := <-l.sub.events:
			l.write(e)
		case <-reopen:
			l.reopen()
		case <-ctx.Done():
			for len(l.sub.events) > 0 {
				l.write(<-l.sub.events)
			}
			return nil
		}
	}
}

func (l *Log) write(e Event) {
	if now := time.Now(); now.Sub(l.looked) >= lookPause {
		l.looked = now
		l.look()
	}
	if lost := l.sub.missed(); lost > 0 {
		l.put(NewLost(lost, time.Now()))
	}
	l.put(NewRecord(e))
}

func (l *Log) put(r Record) {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = l.file.Write(append(line, '\n'))
	}
	if err != nil {
		l.complain.Do(func() { l.log.Error("event log: lines are lost", "err", err) })
	}
}

// look goes on in a new file if the name has gone to another, or to none.
func (l *Log) look() {
	if l.path == "-" {
		return
	}
	named, err := os.Stat(l.path)
	if open, openErr := l.file.Stat(); err == nil && openErr == nil && os.SameFile(named, open) {
		return
	}
	l.reopen()
}

// reopen keeps to the old file if there can be no new one.
func (l *Log) reopen() {
	if l.path == "-" {
		return
	}
	f, err := appendTo(l.path)
	if err != nil {
		l.complain.Do(func() { l.log.Error("event log: it goes on in the old file", "err", err) })
		return
	}
	_ = l.file.Close() // what was written is written
	l.file = f
}

// Close ends a log.
func (l *Log) Close() error {
	l.sub.Close()
	if l.path == "-" {
		return nil
	}
	return l.file.Close()
}
