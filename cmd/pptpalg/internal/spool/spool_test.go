package spool

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reader is a writer whose reader may stop reading, or be gone.
type reader struct {
	mu      sync.Mutex
	lines   []string
	gone    bool
	stopped chan struct{} // closed when it reads on; nil while it reads
}

func (r *reader) Write(b []byte) (int, error) {
	r.mu.Lock()
	stopped := r.stopped
	r.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return 0, io.ErrClosedPipe
	}
	r.lines = append(r.lines, string(b))
	return len(b), nil
}

func (r *reader) read() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, " ")
}

func (r *reader) stop() (goOn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = make(chan struct{})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		close(r.stopped)
		r.stopped = nil
	}
}

func (r *reader) leave(gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = gone
}

func lost(n uint64) []byte { return fmt.Appendf(nil, "lost%d", n) }

func say(t *testing.T, s *Spool, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if n, err := s.Write([]byte(l)); n != len(l) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
}

func wantRead(t *testing.T, r *reader, want string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); r.read() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("read %q, want %q", r.read(), want)
		}
	}
}

func closed(t *testing.T, s *Spool) {
	t.Helper()
	if err := s.Close(5 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestWritesInOrder(t *testing.T) {
	r := new(reader)
	s := New(r, 100, lost)
	say(t, s, "a", "b", "c")
	closed(t, s)
	if r.read() != "a b c" || s.Lost() != 0 {
		t.Errorf("read %q, lost %d", r.read(), s.Lost())
	}
}

// TestReaderStops: nobody waits for a reader that has stopped, and where lines are missing is
// said in their place.
func TestReaderStops(t *testing.T) {
	r := new(reader)
	s := New(r, 4, lost)
	goOn := r.stop()
	say(t, s, "a")
	for end := time.Now().Add(5 * time.Second); s.queued() > 0 && time.Now().Before(end); { // it is in hand
		runtime.Gosched()
	}
	say(t, s, "bb", "cc", "dd", "ee")
	s.Lose(3)
	if s.Lost() != 5 {
		t.Errorf("lost %d, want 5", s.Lost())
	}
	goOn()
	wantRead(t, r, "a bb cc lost5") // said though nothing more comes
	say(t, s, "ff")
	closed(t, s)
	wantRead(t, r, "a bb cc lost5 ff")
}

func (s *Spool) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

func TestReaderIsGone(t *testing.T) {
	r := new(reader)
	s := New(r, 100, lost)
	r.leave(true)
	say(t, s, "a", "b")
	for end := time.Now().Add(5 * time.Second); s.Lost() < 2 && time.Now().Before(end); {
		runtime.Gosched()
	}
	r.leave(false)
	wantRead(t, r, "lost2") // it tries by itself
	say(t, s, "c")
	closed(t, s)
	wantRead(t, r, "lost2 c")
}

// TestCloseDoesNotWait: who ends does so although the reader has stopped.
func TestCloseDoesNotWait(t *testing.T) {
	r := new(reader)
	s := New(r, 100, lost)
	goOn := r.stop()
	say(t, s, "a", "b")
	if err := s.Close(time.Millisecond); !errors.Is(err, ErrStuck) {
		t.Errorf("closed with %v", err)
	}
	goOn()
	<-s.done
	Say(r, "c", 5*time.Second)
	wantRead(t, r, "a b c")
	goOn = r.stop()
	Say(r, "d", time.Millisecond)
	goOn()
	wantRead(t, r, "a b c d")
}

// TestLongLine: a line longer than the queue finds room in an empty one.
func TestLongLine(t *testing.T) {
	r := new(reader)
	s := New(r, 4, lost)
	say(t, s, "a long line")
	closed(t, s)
	wantRead(t, r, "a long line")
}

// TestEveryLineIsWrittenOrCounted, in order, whatever the reader does meanwhile.
func TestEveryLineIsWrittenOrCounted(t *testing.T) {
	const lines = 3000
	r := new(reader)
	s := New(r, 64, lost)
	for i := range lines {
		switch rand.N(20) {
		case 0:
			r.leave(true)
		case 1:
			r.leave(false)
		case 2:
			runtime.Gosched()
		}
		say(t, s, fmt.Sprint(i))
	}
	r.leave(false)
	closed(t, s)
	next := 0
	for _, l := range r.lines {
		var n int
		if _, err := fmt.Sscanf(l, "lost%d", &n); err == nil {
			next += n
			continue
		}
		if l != fmt.Sprint(next) {
			t.Fatalf("line %q where %d was to come", l, next)
		}
		next++
	}
	if next != lines {
		t.Errorf("%d lines are written or counted, of %d", next, lines)
	}
}

// smallDisk returns an open file on a file system of 8 KiB, and fills that but for some bytes.
func smallDisk(t *testing.T, left int) (log *os.File, free func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a file system in a namespace of its own")
	}
	type opened struct {
		log, filler *os.File
		err         error
	}
	done := make(chan opened)
	dir := t.TempDir()
	go func() {
		runtime.LockOSThread() // the namespace goes with the thread, and the files stay
		var o opened
		o.err = errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", dir, "tmpfs", 0, "size=8k"))
		if o.err == nil {
			o.log, o.err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
		}
		if o.err == nil {
			o.filler, o.err = os.Create(filepath.Join(dir, "filler"))
		}
		done <- o
	}()
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	t.Cleanup(func() { o.log.Close(); o.filler.Close() })
	if _, err := o.log.Write([]byte(strings.Repeat("x", 4096-left-1) + "\n")); err != nil { // of its first page
		t.Fatal(err)
	}
	_, _ = o.filler.Write(make([]byte, 8192)) // as much as there is room for
	return o.log, func() {
		if err := o.filler.Truncate(0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk: a line that found no room leaves nothing behind, and a line tells of it when
// there is room again.
func TestFullDisk(t *testing.T) {
	log, free := smallDisk(t, 10)
	s := New(Open(log), 100, func(n uint64) []byte { return fmt.Appendf(nil, "lost %d\n", n) })
	say(t, s, "fits\n", "is cut short\n", "has no room\n")
	for end := time.Now().Add(5 * time.Second); s.Lost() < 2 && time.Now().Before(end); {
		runtime.Gosched()
	}
	wantTail(t, log, "fits\n")
	free()
	say(t, s, "goes on\n")
	closed(t, s)
	wantTail(t, log, "fits\nlost 2\ngoes on\n")
}

func wantTail(t *testing.T, log *os.File, want string) {
	t.Helper()
	info, err := log.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := log.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, tail, _ := strings.Cut(string(b), "\n"); tail != want {
		t.Errorf("the file ends in %q, want %q", tail, want)
	}
}

// dribble takes some bytes at a time, and then refuses once.
type dribble struct {
	strings.Builder
	room int
}

func (d *dribble) Write(b []byte) (int, error) {
	n := min(d.room, len(b))
	d.room -= n
	d.Builder.Write(b[:n])
	if n < len(b) {
		return n, unix.EAGAIN
	}
	return n, nil
}

// TestFinishesLater: what cannot be taken back is finished before anything else.
func TestFinishesLater(t *testing.T) {
	d := &dribble{room: 5}
	f := Open(d)
	steps := []struct {
		room int
		line string
		ok   bool
		want string
	}{
		{5, "one\n", true, "one\n"},
		{0, "", true, "one\n"},
		{1, "two\n", true, "one\nt"},
		{2, "three\n", false, "one\ntwo"},
		{0, "four\n", false, "one\ntwo"},
		{100, "five\n", true, "one\ntwo\nfive\n"},
	}
	for _, s := range steps {
		d.room = s.room
		_, err := f.Write([]byte(s.line))
		if (err == nil) != s.ok || d.String() != s.want {
			t.Errorf("%q: %v, written %q, want %q", s.line, err, d, s.want)
		}
	}
}

// TestOpenBehindACut: a line that a crash has cut short stays on a line of its own.
func TestOpenBehindACut(t *testing.T) {
	for before, want := range map[string]string{"": "new\n", "old\n": "old\nnew\n", "ol": "ol\nnew\n"} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		if _, err := Open(log).Write([]byte("new\n")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); string(b) != want || err != nil {
			t.Errorf("behind %q: %q, %v", before, b, err)
		}
	}
}
