package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Error is a fault of a file.
type Error struct {
	File string
	Line int // from 1
	Text string
}

// Error returns "file:line: text".
func (e Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text) }

// Errors are the faults of a file, in the order of their lines.
type Errors []Error

// Error returns a line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, fault := range e {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// wrongValue says why a flag cannot have a value, and which it can.
func wrongValue(f *pflag.Flag, text string, err error) string {
	if number := (*strconv.NumError)(nil); errors.As(err, &number) {
		err = number.Err // the rest of its text is in Go's terms
	}
	return fmt.Sprintf("%s: %q is wrong: %v%s", f.Name, text, err, hint(f))
}

func hint(f *pflag.Flag) string {
	if w := want(f); w != "" {
		return "; give " + w
	}
	return ""
}

// unknownKey names the key that was perhaps meant.
func unknownKey(key string, flags *pflag.FlagSet) string {
	if near := nearest(key, flags); near != "" {
		return fmt.Sprintf("unknown key %q; did you mean %q?", key, near)
	}
	return fmt.Sprintf(`unknown key %q; "pptpalg config" lists the keys`, key)
}

// nearest returns the flag whose name takes the fewest letters to be changed, if half
// of it can stay; else the first one that begins like key, or "".
func nearest(key string, flags *pflag.FlagSet) string {
	key = strings.ReplaceAll(strings.ToLower(key), "_", "-")
	found, least := "", 0
	flags.VisitAll(func(f *pflag.Flag) {
		if d := distance(key, f.Name); 2*d <= len(f.Name) && (found == "" || d < least) {
			found, least = f.Name, d
		}
	})
	if found != "" || len(key) < 3 {
		return found
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if found == "" && strings.HasPrefix(f.Name, key) {
			found = f.Name
		}
	})
	return found
}

// distance is how many letters must be put in, taken out or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
