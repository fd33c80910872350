package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Error is a fault of a file.
type Error struct {
	File string
	Line int // from 1; 0 where no key of the file is concerned
	Text string
}

// Error returns "file:line: text", or "file: text".
func (e Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Text)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text)
}

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

// ErrUnfit is for a check that has nothing to add to the hint.
var ErrUnfit = errors.New("not a valid value")

// WrongValue says why a flag cannot have a value, and which it can.
func WrongValue(f *pflag.Flag, text string, err error) string {
	why := ": " + err.Error()
	if errors.Is(err, ErrUnfit) || fromLibrary(f, err) {
		why = ""
	}
	return fmt.Sprintf("%s: %q is not valid%s%s", f.Name, text, why, hint(f))
}

// fromLibrary reports whether an error is one of Go's own for a value that cannot be read.
// Its words are for programmers, and the hint says it better.
func fromLibrary(f *pflag.Flag, err error) bool {
	var own fault
	if errors.As(err, &own) {
		return false
	}
	return wants[f.Value.Type()] != "" || len(Values(f)) > 0
}

// fault is what a check says.
type fault struct{ error }

func (f fault) Unwrap() error { return f.error }

// Missing says that a flag was given without a value, and which it can have.
func Missing(f *pflag.Flag) string { return "--" + f.Name + " needs a value" + hint(f) }

func hint(f *pflag.Flag) string {
	if w := want(f); w != "" {
		return "; use " + w
	}
	return ""
}

// unknownKey names the key that was perhaps meant.
func unknownKey(key string, flags *pflag.FlagSet) string {
	if near := Nearest(key, flags); near != "" {
		return fmt.Sprintf("unknown key %q; did you mean %q?", key, near)
	}
	return fmt.Sprintf(`unknown key %q; "pptpalg config" lists the keys`, key)
}

// Nearest returns the flag whose name takes the fewest letters to be changed, if half
// of it can stay; else the first one that begins like key, or "".
func Nearest(key string, flags *pflag.FlagSet) string {
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
