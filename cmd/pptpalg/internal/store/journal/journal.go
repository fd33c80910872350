package journal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/record"
)

// name is the journal's file name in the state directory. Its head is the format's
// version and the kernel table's identity (see Identity).
const (
	name   = "calls.journal"
	format = "pptpalg journal 1 "
)

const (
	slack       = 1 << 20 // bytes of outdated records that are worth a rewrite
	mostWaiting = 4 << 20 // bytes of records that wait for a disk which does not answer

	patience      = 100 * time.Millisecond // for the disk to take a change
	distrust      = time.Second            // how long not to wait for a disk that was late
	openPatience  = 5 * time.Second
	closePatience = time.Second
)

// ErrBehind says that the disk does not answer: until it does, changes are only in memory.
var ErrBehind = errors.New("the disk of the state directory does not answer: the journal is behind")

// Journal remembers changes in a file.
//
//	Append, Rewrite ─► memory ─► goroutine ─► file
//	      └── wait for it, for a moment at most ──┘
//
// Append waits until the file has the change. If the disk does not answer in time, the
// journal is behind: then Append no longer waits, and the goroutine writes the changes, in
// order, when the disk is back. In a file system without a disk Append itself writes.
//
// One goroutine at a time may use a Journal, except for Whole.
type Journal struct {
	file   file // the goroutine's; without one, that of the caller of flush
	direct bool // there is no goroutine

	more    chan struct{} // has an item when there may be something to write
	settled chan struct{} // has an item when something was written
	done    chan struct{} // closed when the goroutine has ended
	timer   *time.Timer   // of wait

	mu      sync.Mutex // guards what follows
	fresh   []byte     // is to replace the file's contents; nil for nothing
	waiting []byte     // is to be appended after that
	spare   []byte     // memory for waiting
	asked   uint64     // changes so far
	written uint64     // those that the file has, or has refused
	size    int64      // of the file
	live    int64      // of the file when it was last rewritten
	damaged bool       // the file lacks changes that were to be remembered
	behind  bool       // the disk does not answer
	trust   time.Time  // from when on it is waited for again
	err     error      // of what was written since somebody was told last
	closed  bool
}

// Open reads what the journal in a directory remembers of the kernel table with an
// identity, and goes on writing it. If another process writes to it, the error is store.ErrTaken
// and there is no journal. With any other error there is: it remembers nothing that it could
// not read, and is not Whole until Rewrite finds that the directory can be used.
func Open(dir, identity string) (*Journal, store.Contents, error) {
	j := &Journal{
		file: file{dir: dir, head: format + identity + "\n"},
		more: make(chan struct{}, 1), settled: make(chan struct{}, 1), done: make(chan struct{}),
		timer: time.NewTimer(time.Hour),
	}
	contents, err := j.open()
	if errors.Is(err, store.ErrTaken) {
		return nil, store.Contents{}, err
	}
	return j, contents, err
}

// open waits for the file, unless the disk does not answer: then the goroutine goes on
// waiting, and what it reads in the end comes too late to count.
func (j *Journal) open() (store.Contents, error) {
	var contents store.Contents
	var err error
	opened := make(chan struct{})
	go func() {
		contents, err = j.file.open()
		close(opened)
	}()
	select {
	case <-opened:
		j.size, j.damaged, j.direct = j.file.size, err != nil, j.file.inMemory()
		if !j.direct && !errors.Is(err, store.ErrTaken) {
			go j.serve()
		}
		return contents, err
	case <-time.After(openPatience):
		j.damaged, j.behind = true, true
		go func() {
			<-opened
			j.flush() // nothing as a rule: the disk is back
			j.serve()
		}()
		return store.Contents{}, ErrBehind
	}
}

// Append remembers what events say of calls, in one write. An error may be that of an earlier one.
func (j *Journal) Append(events []calls.Event, now time.Time) error {
	if !slices.ContainsFunc(events, func(e calls.Event) bool { return e.OfCall() }) {
		return nil
	}
	return j.change(func() {
		if len(j.waiting) > mostWaiting {
			j.waiting, j.damaged = j.waiting[:0], true
		}
		j.waiting = appendEvents(j.waiting, events, now)
	})
}

// appendEvents appends a record for each event about a call, but for one that is followed by
// another about the same call: that one says it all.
func appendEvents(b []byte, events []calls.Event, now time.Time) []byte {
	var last *calls.Event
	for i := range events {
		e := &events[i]
		if !e.OfCall() {
			continue
		}
		if last != nil && last.Call.Number != e.Call.Number {
			b = appendEvent(b, last, now)
		}
		last = e
	}
	if last == nil {
		return b
	}
	return appendEvent(b, last, now)
}

func appendEvent(b []byte, e *calls.Event, now time.Time) []byte {
	if e.Kind == calls.Gone {
		return record.AppendGone(b, e.Call.Number, now)
	}
	return record.AppendKept(b, &e.Call)
}

// Rewrite replaces the file by one that remembers just these calls and IDs, which must be all
// there are. An error may be that of an earlier change.
func (j *Journal) Rewrite(all []calls.Record, resting []calls.Resting) error {
	b := make([]byte, 0, len(j.file.head)+len(all)*record.KeptSize+len(resting)*record.RestSize)
	b = append(b, j.file.head...)
	for i := range all {
		b = record.AppendKept(b, &all[i])
	}
	for _, r := range resting {
		b = record.AppendRest(b, r)
	}
	return j.change(func() { j.fresh, j.waiting = b, j.waiting[:0] })
}

// Overgrown reports whether the file should be written anew: most of it is outdated, or
// something is missing in it, and the disk answers.
func (j *Journal) Overgrown() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.behind && (j.damaged || j.size > 2*j.live+slack)
}

// Whole reports whether the file has everything that it should. Any goroutine may call it.
func (j *Journal) Whole() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.behind && !j.damaged
}

// Close writes what is left, if the disk answers, and lets another process have the journal.
func (j *Journal) Close() error {
	if err := j.close(); err != nil {
		return err
	}
	if j.direct {
		return j.file.close()
	}
	j.wake()
	select {
	case <-j.done:
		return j.file.close()
	case <-time.After(closePatience):
		return ErrBehind
	}
}

func (j *Journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return os.ErrClosed
	}
	j.closed = true
	return nil
}

// change takes note of a change, and waits for it if the disk is known to answer.
func (j *Journal) change(note func()) error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return fmt.Errorf("append to journal: %w", os.ErrClosed)
	}
	note()
	j.asked++
	number, waits := j.asked, !j.behind && !time.Now().Before(j.trust)
	j.mu.Unlock()
	if j.direct {
		j.flush()
		return j.failed()
	}
	j.wake()
	if waits && !j.wait(number) {
		return ErrBehind
	}
	return j.failed()
}

func (j *Journal) wake() { signal(j.more) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is on its way
	}
}

// wait reports whether a change was written, or refused, in time.
func (j *Journal) wait(number uint64) bool {
	j.timer.Reset(patience)
	defer j.timer.Stop()
	for !j.has(number, false) {
		select {
		case <-j.settled:
		case <-j.timer.C:
			return j.has(number, true)
		}
	}
	return true
}

// has reports whether a change was written. If it was not and the time for it is over, the
// journal is behind.
func (j *Journal) has(number uint64, over bool) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	done := j.written >= number
	j.behind = j.behind || over && !done
	return done
}

// failed returns the error of what was written since it was asked last.
func (j *Journal) failed() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.err
	j.err = nil
	return err
}

// serve writes until the journal is closed and nothing is left.
func (j *Journal) serve() {
	defer close(j.done)
	for {
		waiting, closed := j.pending()
		switch {
		case waiting:
			j.flush()
		case closed:
			return
		default:
			<-j.more
		}
	}
}

func (j *Journal) pending() (waiting, closed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fresh != nil || len(j.waiting) > 0, j.closed
}

// flush writes all that is to be written, once.
func (j *Journal) flush() {
	fresh, waiting, number := j.take()
	var err error
	if fresh != nil {
		err = j.file.replace(fresh)
	}
	renewed := fresh != nil && err == nil
	if len(waiting) > 0 {
		err = errors.Join(err, j.file.append(waiting))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.spare, j.written, j.size = waiting[:0], number, j.file.size
	if renewed {
		j.live = int64(len(fresh))
	}
	if err != nil {
		j.err, j.damaged = err, true
	}
	if j.behind && j.fresh == nil && len(j.waiting) == 0 {
		j.behind, j.trust = false, time.Now().Add(distrust)
	}
	signal(j.settled)
}

// take hands over what is to be written. Contents that are whole mend what was damaged.
func (j *Journal) take() (fresh, waiting []byte, number uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	fresh, waiting = j.fresh, j.waiting
	j.fresh, j.waiting = nil, j.spare
	j.damaged = j.damaged && fresh == nil
	return fresh, waiting, j.asked
}
