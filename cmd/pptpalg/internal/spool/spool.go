package spool

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// retryPause is how long a Spool waits between two tries if it only has to report lost
// lines.
const retryPause = time.Second

// Spool writes lines to a writer that may block or fail. It is safe for concurrent use.
//
//	Write ─► queue, of bounded size ─► goroutine ─► writer
//
// Lines that find no room in the queue, and lines that the writer refuses, are lost. In their
// place, the next line that can be written says how many.
type Spool struct {
	out  io.Writer
	most int                   // bytes in the queue
	told func(n uint64) []byte // the line that stands for n lost ones

	total   atomic.Uint64 // lines lost so far
	closing chan struct{}
	done    chan struct{} // closed when the goroutine has ended
	more    chan struct{} // has an item when queue or missing may have changed

	mu      sync.Mutex // guards what follows
	queue   []item
	bytes   int    // in the queue
	missing uint64 // lines lost since the last one was queued

	owed uint64 // lost lines that are still to be told; the goroutine's
}

// item is a line with the number of lines that were lost just before it.
type item struct {
	missing uint64
	line    []byte // nil for none
}

// New returns a spool that queues lines of so many bytes in all. out must write a line whole
// or not at all, as a File does. The caller must Close the spool.
func New(out io.Writer, most int, told func(lost uint64) []byte) *Spool {
	s := &Spool{
		out: out, most: most, told: told,
		closing: make(chan struct{}), done: make(chan struct{}), more: make(chan struct{}, 1),
	}
	go s.serve()
	return s
}

// Write queues a line, or several, and keeps a copy. It never waits, and always succeeds.
func (s *Spool) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 && s.bytes+len(line) > s.most {
		s.lose(1)
	} else {
		s.bytes += len(line)
		s.queue = append(s.queue, item{s.missing, slices.Clone(line)})
		s.missing = 0
	}
	s.wake()
	return len(line), nil
}

// Lose counts lines that were lost before they came to the spool.
func (s *Spool) Lose(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose(n)
	s.wake()
}

// Lost returns how many lines were lost so far.
func (s *Spool) Lost() uint64 { return s.total.Load() }

// lose counts; the caller holds mu.
func (s *Spool) lose(n uint64) {
	s.missing += n
	s.total.Add(n)
}

func (s *Spool) wake() {
	select {
	case s.more <- struct{}{}:
	default: // it will look anyhow
	}
}

// ErrStuck says that lines are left because the writer blocks.
var ErrStuck = errors.New("some lines could not be written in time")

// Close writes what is left, for so long at most. With ErrStuck the goroutine still waits for
// the writer, and ends with the process.
func (s *Spool) Close(patience time.Duration) error {
	close(s.closing)
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-s.done:
		return nil
	case <-limit.C:
		return ErrStuck
	}
}

// serve writes until the spool is closed and the queue is empty.
func (s *Spool) serve() {
	defer close(s.done)
	for s.wait() {
		for next, ok := s.take(); ok; next, ok = s.take() {
			s.put(next)
		}
	}
	s.put(item{}) // what is still to be told
}

// wait waits for something to write, and reports false when nothing more will come.
func (s *Spool) wait() bool {
	var again <-chan time.Time
	if s.owed > 0 {
		again = time.After(retryPause)
	}
	select {
	case <-s.more:
		return true
	case <-again:
		s.put(item{})
		return true
	case <-s.closing:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0 || s.missing > 0
}

// take returns the next item, or the lines that were lost behind the last one.
func (s *Spool) take() (next item, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		next, s.missing = item{missing: s.missing}, 0
		return next, next.missing > 0
	}
	next = s.queue[0]
	s.queue[0] = item{}
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil // lest it keep its place in memory
	}
	s.bytes -= len(next.line)
	return next, true
}

// put writes an item, after the line that stands for what was lost before it. The writer may
// block.
func (s *Spool) put(next item) {
	s.owed += next.missing
	if s.owed > 0 && s.emit(s.told(s.owed)) {
		s.owed = 0
	}
	if next.line == nil {
		return
	}
	if s.owed > 0 || !s.emit(next.line) {
		s.owed++
		s.total.Add(1)
	}
}

func (s *Spool) emit(line []byte) bool {
	_, err := s.out.Write(line)
	return err == nil
}

// Say writes text to a writer that may block, and gives up after a while.
func Say(out io.Writer, text string, patience time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.WriteString(out, text) // nobody is left to be told
	}()
	select {
	case <-done:
	case <-time.After(patience):
	}
}
