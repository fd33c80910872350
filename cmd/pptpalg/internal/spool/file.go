package spool

import (
	"io"
	"os"
	"slices"
)

// File writes lines to a writer. A line that a full disk cuts short is taken back where the
// writer is a regular file, and finished later elsewhere. The zero value has no writer.
type File struct {
	out  io.Writer
	rest []byte // what is still to be written of a line that was cut short
}

// Open returns a File that goes on behind what w has. If that ends in the middle of a line, as
// a crash may leave it, the first line is put on a line of its own.
func Open(w io.Writer) *File {
	f := &File{out: w}
	if regular, size := size(w); size > 0 {
		last := make([]byte, 1)
		if _, err := regular.ReadAt(last, size-1); err == nil && last[0] != '\n' {
			f.rest = []byte("\n")
		}
	}
	return f
}

// Write writes a line. With an error nothing of it is left in a regular file, and nothing of
// it will be written later.
func (f *File) Write(line []byte) (int, error) {
	if err := f.finish(); err != nil {
		return 0, err
	}
	n, err := f.out.Write(line)
	if err == nil || n == 0 || f.takeBack(n) {
		return n, err
	}
	f.rest = slices.Clone(line[n:])
	return len(line), nil
}

// finish writes what is left of the last line.
func (f *File) finish() error {
	if len(f.rest) == 0 {
		return nil
	}
	n, err := f.out.Write(f.rest)
	f.rest = f.rest[n:]
	return err
}

// takeBack removes the last n bytes that were written, if nobody has written since.
func (f *File) takeBack(n int) bool {
	regular, size := size(f.out)
	if regular == nil {
		return false
	}
	at, err := regular.Seek(0, io.SeekCurrent)
	if err != nil || at != size {
		return false
	}
	if regular.Truncate(size-int64(n)) != nil {
		return false
	}
	_, err = regular.Seek(size-int64(n), io.SeekStart)
	return err == nil
}

// size returns the size of a regular file, nil if w is none.
func size(w io.Writer) (*os.File, int64) {
	f, ok := w.(*os.File)
	if !ok {
		return nil, 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0
	}
	return f, info.Size()
}
