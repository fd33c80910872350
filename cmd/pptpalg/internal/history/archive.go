package history

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// longestLine is of a log file, in bytes. A Record has under a thousand.
const longestLine = 64 << 10

// ReadFiles calls show with each record that log files have, file by file, the oldest file
// first. It skips a line that a crash has cut short, and returns how many there were.
func ReadFiles(files []string, show func(Record) error) (broken int, err error) {
	logs, err := openAll(files)
	defer func() {
		for _, l := range logs {
			err = errors.Join(err, l.file.Close())
		}
	}()
	if err != nil {
		return 0, err
	}
	for _, l := range logs {
		n, err := l.read(show)
		if broken += n; err != nil {
			return broken, err
		}
	}
	return broken, nil
}

// Rotated returns a log file and those that logrotate has made of it, FILE.1, FILE.2.gz or
// FILE-20260102.gz, as far as they are there.
func Rotated(file string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("read event log: %w", err)
	}
	var all []string
	base := filepath.Base(file)
	for _, e := range entries {
		if e.Type().IsRegular() && rotated(base, e.Name()) {
			all = append(all, filepath.Join(filepath.Dir(file), e.Name()))
		}
	}
	if len(all) == 0 {
		all = []string{file} // opening it says what is wrong
	}
	return all, nil
}

// rotated reports whether name is base, or base with a number or a date behind it.
func rotated(base, name string) bool {
	stem, ext := strings.TrimSuffix(base, filepath.Ext(base)), filepath.Ext(base)
	name = strings.TrimSuffix(name, packing(name))
	for _, begin := range []string{base, stem} { // logrotate's "extension" puts the number before it
		if behind, ok := strings.CutPrefix(name, begin); ok && strings.Trim(strings.TrimSuffix(behind, ext), ".-0123456789") == "" {
			return begin == base || strings.HasSuffix(behind, ext)
		}
	}
	return false
}

// packings are the ends of names of compressed files. Only gzip's can be read.
var packings = []string{".gz", ".xz", ".zst", ".bz2", ".lz4"}

// packing returns the one that a name has, "" for none.
func packing(name string) string {
	if ext := filepath.Ext(name); slices.Contains(packings, ext) {
		return ext
	}
	return ""
}

// archive is a log file that is being read.
type archive struct {
	name  string
	file  *os.File
	lines *bufio.Reader
	begin time.Time // of its first record
}

// openAll opens files, the one with the oldest record first.
func openAll(files []string) (all []*archive, err error) {
	for _, name := range files {
		a, err := openArchive(name)
		if a != nil {
			all = append(all, a)
		}
		if err != nil {
			return all, fmt.Errorf("read event log: %w", err)
		}
	}
	slices.SortStableFunc(all, func(a, b *archive) int { return cmp.Compare(a.begin.UnixNano(), b.begin.UnixNano()) })
	return all, nil
}

// openArchive opens a file, "-" for standard input. A non-nil archive must be closed.
func openArchive(name string) (a *archive, err error) {
	file := os.Stdin
	if name != "-" {
		if file, err = os.Open(name); err != nil {
			return nil, err
		}
	}
	a = &archive{name: name, file: file, lines: bufio.NewReaderSize(file, longestLine)}
	switch packing(name) {
	case "":
	case ".gz":
		unzipped, err := gzip.NewReader(a.lines)
		if err != nil {
			return a, fmt.Errorf("%s: %w", name, err)
		}
		a.lines = bufio.NewReaderSize(unzipped, longestLine)
	default:
		return a, fmt.Errorf("%s: only gzip can be read: uncompress it into a pipe, and read that with --file -", name)
	}
	if name == "-" {
		return a, nil // it may come slowly
	}
	first, _ := a.lines.Peek(longestLine) // an error comes again with reading
	var r Record
	if line, _, _ := bytes.Cut(first, []byte("\n")); json.Unmarshal(line, &r) == nil {
		a.begin = r.Time.Time
	}
	return a, nil
}

func (a *archive) read(show func(Record) error) (broken int, err error) {
	lines := bufio.NewScanner(a.lines)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		var r Record
		if json.Unmarshal(lines.Bytes(), &r) != nil || r.Event == "" {
			broken++
			continue
		}
		if err := show(r); err != nil {
			return broken, err
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return broken, fmt.Errorf("read event log %s: %w", a.name, err)
	}
	return broken, nil
}
