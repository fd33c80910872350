package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/pptpalg/internal/store"
)

// file is the journal's file. Its methods wait for the disk; one goroutine at a time may use
// it.
type file struct {
	dir  string
	head string
	f    *os.File // nil while it cannot be written to
	size int64    // of f
	torn bool     // a write failed half way: what is appended behind it would not be read
}

func (f *file) path() string { return filepath.Join(f.dir, name) }

// open locks the file and reads it. What it can read counts even if it cannot be written to.
func (f *file) open() (store.Contents, error) {
	if err := os.MkdirAll(f.dir, 0o750); err != nil {
		return store.Contents{}, fmt.Errorf("make state directory: %w: choose another with --state-dir", err)
	}
	opened, err := os.OpenFile(f.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		contents, readErr := f.openToRead()
		return contents, errors.Join(fmt.Errorf("open journal: %w: choose another directory with --state-dir", err), readErr)
	}
	if err := lock(opened); err != nil {
		return store.Contents{}, errors.Join(err, opened.Close())
	}
	f.f = opened
	return f.recover()
}

// openToRead is for a file that cannot be opened for writing.
func (f *file) openToRead() (store.Contents, error) {
	opened, err := os.Open(f.path())
	if err != nil {
		return store.Contents{}, nil // the error for writing says it all
	}
	defer opened.Close()
	if err := lock(opened); err != nil {
		return store.Contents{}, err
	}
	b, err := os.ReadFile(f.path())
	contents, _ := read(f.head, b)
	return contents, err
}

// lock locks an open file for this process.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock journal %s: %w", f.Name(), store.ErrTaken)
	}
	if err != nil {
		return fmt.Errorf("lock journal %s: %w", f.Name(), err)
	}
	return nil
}

// recover reads the file and cuts off what is not whole, so that what is appended
// will be read.
func (f *file) recover() (store.Contents, error) {
	b, err := os.ReadFile(f.path())
	if err != nil {
		f.torn = true
		return store.Contents{}, fmt.Errorf("read journal: %w", err)
	}
	contents, whole := read(f.head, b)
	if whole == 0 {
		f.torn = true // until it is replaced
		return store.Contents{}, f.replace([]byte(f.head))
	}
	f.size = int64(whole)
	if whole == len(b) {
		return contents, nil
	}
	if err := f.f.Truncate(f.size); err != nil {
		f.torn = true
		return contents, fmt.Errorf("cut journal: %w", err)
	}
	return contents, nil
}

var errNoFile = errors.New("append to journal: there is none until the state directory works")

// append adds records, all or none.
func (f *file) append(b []byte) error {
	switch {
	case f.f == nil:
		return errNoFile
	case f.torn:
		return errors.New("append to journal: it is damaged until it is rewritten")
	}
	n, err := f.f.Write(b)
	if err == nil {
		f.size += int64(n)
		return nil
	}
	if n > 0 {
		f.torn = f.f.Truncate(f.size) != nil
	}
	return fmt.Errorf("append to journal: %w", err)
}

// replace gives the file other contents. A crash leaves either the old file or the new one.
func (f *file) replace(b []byte) error {
	if err := f.makeReady(); err != nil {
		return fmt.Errorf("rewrite journal: %w", err)
	}
	fresh, err := f.write(b)
	if err != nil {
		return fmt.Errorf("rewrite journal: %w", err)
	}
	old := f.f
	f.f, f.size, f.torn = fresh, int64(len(b)), false
	return old.Close()
}

// makeReady makes and locks the file where that could not be done before. What another daemon
// has written meanwhile is its own.
func (f *file) makeReady() error {
	if f.f != nil {
		return nil
	}
	if err := os.MkdirAll(f.dir, 0o750); err != nil {
		return err
	}
	opened, err := os.OpenFile(f.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	if err := lock(opened); err != nil {
		return errors.Join(err, opened.Close())
	}
	f.f, f.torn = opened, true
	return nil
}

// write writes a locked file of its own and gives it the journal's name.
func (f *file) write(b []byte) (*os.File, error) {
	name := f.path() + ".new"
	fresh, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	_, err = fresh.Write(b)
	err = errors.Join(err, lock(fresh))
	if err == nil {
		err = os.Rename(name, f.path())
	}
	if err != nil {
		return nil, errors.Join(err, fresh.Close(), os.Remove(name))
	}
	return fresh, nil
}

// close lets another process have the journal.
func (f *file) close() error {
	if f.f == nil {
		return nil
	}
	return f.f.Close()
}

// inMemory reports whether the file is on a file system without a disk, where a write waits
// for nothing.
func (f *file) inMemory() bool {
	if f.f == nil {
		return false
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.f.Fd()), &fs); err != nil {
		return false
	}
	kind := uint32(fs.Type) // int32 on some machines, which RAMFS_MAGIC overflows
	return kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC
}
