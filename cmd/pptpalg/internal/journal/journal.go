package journal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/conntrack"
)

// name is the journal's file name in the state directory. Its head is the format's
// version and the kernel table's identity (see Identity).
const (
	name   = "calls.journal"
	format = "pptpalg journal 1 "
)

// slack is how many bytes of outdated records are worth a rewrite.
const slack = 1 << 20

// Journal appends to the file. It is not safe for concurrent use.
type Journal struct {
	dir  string
	head string
	file *os.File
	size int64 // of the file
	live int64 // of the file when it was written anew
	torn bool  // a write failed half way: what is appended behind it would not be read
	buf  []byte
}

// Contents is what a journal remembers.
type Contents struct {
	Calls   []conntrack.Record // in the order of their numbers
	Gone    []Gone             // calls that are over, the oldest first
	Resting []conntrack.Resting
	// Stale are flows that calls no longer need. The kernel may still have their
	// entries, if the daemon died before it deleted them.
	Stale []conntrack.Flow
}

// Gone is a call that is over. Its public Call IDs may still rest.
type Gone struct {
	Record conntrack.Record
	At     time.Time
}

// Open reads what the journal in a directory remembers of the kernel table with an
// identity, and goes on writing it. A directory that another process writes to is
// an error.
func Open(dir, identity string) (*Journal, Contents, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, Contents{}, fmt.Errorf("make state directory: %w: choose another with --state-dir", err)
	}
	j := &Journal{dir: dir, head: format + identity + "\n"}
	if err := j.lock(); err != nil {
		return nil, Contents{}, err
	}
	contents, err := j.recover()
	if err != nil {
		return nil, Contents{}, errors.Join(err, j.file.Close())
	}
	return j, contents, nil
}

// recover reads the file and cuts off what is not whole, so that what is appended
// will be read.
func (j *Journal) recover() (Contents, error) {
	b, err := os.ReadFile(j.path())
	if err != nil {
		return Contents{}, fmt.Errorf("read journal: %w", err)
	}
	contents, whole := j.read(b)
	if whole == 0 {
		return Contents{}, j.Rewrite(nil, nil)
	}
	if err := j.file.Truncate(int64(whole)); err != nil {
		return Contents{}, fmt.Errorf("cut journal: %w", err)
	}
	j.size = int64(whole)
	return contents, nil
}

func (j *Journal) path() string { return filepath.Join(j.dir, name) }

// lock opens the file and locks it for this process.
func (j *Journal) lock() error {
	f, err := os.OpenFile(j.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open journal: %w: choose another directory with --state-dir", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("lock journal %s: another daemon has it: stop it, or choose another --state-dir: %w", j.path(), err), f.Close())
	}
	j.file = f
	return nil
}

// read takes all whole records and returns how many bytes they and the head have. A
// file of another identity has none.
func (j *Journal) read(b []byte) (c Contents, whole int) {
	size := len(b)
	b, ours := bytes.CutPrefix(b, []byte(j.head))
	if !ours {
		return Contents{}, 0
	}
	calls := make(map[uint64]conntrack.Record)
	for len(b) > 0 {
		kind, payload, rest, err := next(b)
		if err != nil {
			break
		}
		b = rest
		c.add(kind, payload, calls)
	}
	byNumber := func(a, b conntrack.Record) int { return cmp.Compare(a.Number, b.Number) }
	c.Calls = slices.SortedFunc(maps.Values(calls), byNumber)
	return c, size - len(b)
}

// add takes in one record. One of a kind or a length that is unknown is left out.
func (c *Contents) add(kind byte, payload []byte, calls map[uint64]conntrack.Record) {
	switch kind {
	case kindKept:
		if r, err := decodeKept(payload); err == nil {
			c.outdate(calls[r.Number], r.Flows())
			calls[r.Number] = r
		}
	case kindGone:
		number, at, err := decodeGone(payload)
		if r, known := calls[number]; err == nil && known {
			c.outdate(r, nil)
			c.Gone = append(c.Gone, Gone{r, at})
			delete(calls, number)
		}
	case kindRest:
		if r, err := decodeRest(payload); err == nil {
			c.Resting = append(c.Resting, r)
		}
	}
}

// outdate takes note of those of a record's flows that are not needed any more.
func (c *Contents) outdate(r conntrack.Record, needed []conntrack.Flow) {
	for _, f := range r.AllFlows() {
		if !slices.Contains(needed, f) {
			c.Stale = append(c.Stale, f)
		}
	}
}

// Append remembers changes, in one write.
func (j *Journal) Append(keeps []conntrack.Keep, now time.Time) error {
	if len(keeps) == 0 {
		return nil
	}
	j.buf = j.buf[:0]
	for _, k := range keeps {
		if k.Gone {
			j.buf = appendGone(j.buf, k.Record.Number, now)
		} else {
			j.buf = appendKept(j.buf, k.Record)
		}
	}
	n, err := j.file.Write(j.buf)
	j.size += int64(n)
	if err != nil {
		j.torn = true
		return fmt.Errorf("append to journal: %w", err)
	}
	return nil
}

// Overgrown reports whether the file should be written anew: most of it is
// outdated, or it is damaged.
func (j *Journal) Overgrown() bool { return j.torn || j.size > 2*j.live+slack }

// Rewrite replaces the file by one that remembers just these calls and IDs. A crash
// leaves either the old file or the new one.
func (j *Journal) Rewrite(calls []conntrack.Record, resting []conntrack.Resting) error {
	b := []byte(j.head)
	for _, r := range calls {
		b = appendKept(b, r)
	}
	for _, r := range resting {
		b = appendRest(b, r)
	}
	f, err := j.replace(b)
	if err != nil {
		return fmt.Errorf("rewrite journal: %w", err)
	}
	old := j.file
	j.file, j.size, j.live, j.torn = f, int64(len(b)), int64(len(b)), false
	return old.Close()
}

// replace writes a locked file of its own and gives it the journal's name.
func (j *Journal) replace(b []byte) (*os.File, error) {
	fresh := j.path() + ".new"
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	err = errors.Join(err, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if err == nil {
		err = os.Rename(fresh, j.path())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(fresh))
	}
	return f, nil
}

// Close lets another process have the journal.
func (j *Journal) Close() error { return j.file.Close() }
