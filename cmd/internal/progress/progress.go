// Package progress says how far long work has come: a plain line for each step, with its number, the number of
// all steps and the time that has passed, on terminals and in logs alike. A step that takes long says so again.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// quiet is after how long without a line a step is named again.
const quiet = 30 * time.Second

// Steps is work of several steps. It may be used by several goroutines.
type Steps struct {
	w   io.Writer
	all int
	now func() time.Time
	end chan struct{}

	mu          sync.Mutex // guards what follows, and writes to w
	began, last time.Time
	at          int
	what        string
}

// Start begins work of so many steps. Each line goes to w. Done ends it.
func Start(w io.Writer, steps int) *Steps {
	s := newSteps(w, steps, time.Now)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-s.end:
				return
			case <-tick.C:
				s.remind()
			}
		}
	}()
	return s
}

func newSteps(w io.Writer, steps int, now func() time.Time) *Steps {
	return &Steps{w: w, all: steps, now: now, end: make(chan struct{}), began: now(), last: now()}
}

// Next begins the next step.
func (s *Steps) Next(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at++
	s.what = what
	s.line(what)
}

// Write writes a line of the step's own, with the step's number and the time before it, as log.SetOutput wants it.
func (s *Steps) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = s.now()
	if _, err := fmt.Fprintf(s.w, "%s %s", s.mark(), line); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Done ends the work. Nothing is written any more after it.
func (s *Steps) Done() { close(s.end) }

// remind names the step again if nothing was written for long.
func (s *Steps) remind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at > 0 && s.now().Sub(s.last) >= quiet {
		s.line("still: " + s.what)
	}
}

func (s *Steps) line(text string) {
	s.last = s.now()
	fmt.Fprintf(s.w, "%s %s\n", s.mark(), text)
}

func (s *Steps) mark() string { return Mark(s.at, s.all, s.now().Sub(s.began)) }

// Mark says where work stands: "[2/8 3:20]".
func Mark(at, all int, passed time.Duration) string {
	return fmt.Sprintf("[%d/%d %s]", at, all, Clock(passed))
}

// Clock is a duration as minutes and seconds, and hours if there are any: "3:20", "1:03:20".
func Clock(d time.Duration) string {
	s := int(d.Seconds())
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}
