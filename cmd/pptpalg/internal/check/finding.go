package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"text/tabwriter"

	"pptpalg/cmd/pptpalg/internal/schema"
)

// Result is what a check came to.
type Result uint8

// The results. Warning is for what may be meant so, or cannot be decided here.
const (
	OK Result = iota
	Warning
	Problem
	Unchecked // the facts could not be read
)

func (r Result) String() string {
	switch r {
	case OK:
		return "ok"
	case Warning:
		return "warning"
	case Problem:
		return "problem"
	case Unchecked:
		return "unchecked"
	}
	return fmt.Sprintf("unknown(%d)", uint8(r))
}

// MarshalText writes the result as String does.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Finding is what one check says.
type Finding struct {
	SchemaVersion schema.Version `json:"schema_version"`
	Check         string         `json:"check"`
	Result        Result         `json:"result"`
	Found         string         `json:"found"`
	Remedy        string         `json:"remedy"` // a command, for a warning perhaps what to do; "" where nothing is to be done

	form string // Found before it was filled in: one for each thing that can be wrong
}

func ok(format string, args ...any) Finding {
	return Finding{Found: fmt.Sprintf(format, args...)}
}

func warning(remedy, format string, args ...any) Finding {
	return Finding{Result: Warning, Remedy: remedy, Found: fmt.Sprintf(format, args...), form: format}
}

func problem(remedy, format string, args ...any) Finding {
	return Finding{Result: Problem, Remedy: remedy, Found: fmt.Sprintf(format, args...), form: format}
}

func unchecked(err error) Finding {
	return Finding{Result: Unchecked, Found: oneLine(err.Error()), Remedy: remedyOf(err)}
}

// denied is what programs say without rights, and their errno.
var denied = regexp.MustCompile(`(?i)must be root|permission denied|operation not permitted`)

func remedyOf(err error) string {
	var program notInstalled
	switch {
	case denied.MatchString(err.Error()):
		return "sudo pptpalg check"
	case errors.As(err, &program):
		return program.install()
	}
	return "fix what this line says, then run the check again"
}

// notInstalled is a program that is not installed.
type notInstalled string

func (m notInstalled) Error() string { return fmt.Sprintf("find %s: %v", string(m), exec.ErrNotFound) }
func (notInstalled) Unwrap() error   { return exec.ErrNotFound }

// install returns the command that installs it.
func (m notInstalled) install() string {
	from := "iptables" // with its relatives
	switch m {
	case "ip":
		from = "iproute2"
	case "nft":
		from = "nftables"
	}
	return "apt-get install -y " + from
}

// byProgram is a remedy that a program carries out which need not be installed.
var byProgram = regexp.MustCompile(`^(?:{ )?(ip|nft|iptables|iptables-legacy) `)

// carriedOut returns a remedy with what installs its program, where that is missing.
func carriedOut(remedy string) string {
	by := byProgram.FindStringSubmatch(remedy)
	if by == nil {
		return remedy
	}
	var program notInstalled
	if _, err := find(by[1]); !errors.As(err, &program) {
		return remedy
	}
	return program.install() + " && " + remedy
}

// oneLine keeps what programs say from breaking the table.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Findings are what all checks say, in the order in which they build on each other.
type Findings []Finding

// Count returns how many findings have the result.
func (all Findings) Count(r Result) int {
	n := 0
	for _, f := range all {
		if f.Result == r {
			n++
		}
	}
	return n
}

// Code returns the exit code for scripts: 1 where there is a problem, 2 where there
// is none but something could not be checked, else 0.
func (all Findings) Code() int {
	switch {
	case all.Count(Problem) > 0:
		return 1
	case all.Count(Unchecked) > 0:
		return 2
	}
	return 0
}

// WriteText writes the findings for people: a line for each, or more where what was found has
// lines, and below it the command that fixes it.
func (all Findings) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range all {
		fmt.Fprintf(t, "%v\t%s\t%s\n", f.Result, f.Check, strings.ReplaceAll(f.Found, "\n", "\n\t\t"))
		if f.Remedy != "" {
			fmt.Fprintf(t, "\t\t-> %s\n", f.Remedy)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print findings: %w", err)
	}
	return nil
}

// WriteJSON writes the findings as an array.
func (all Findings) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(all); err != nil {
		return fmt.Errorf("print findings: %w", err)
	}
	return nil
}
