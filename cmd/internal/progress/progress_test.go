package progress

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSteps(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := newSteps(&out, 3, func() time.Time { return now })
	wait := func(d time.Duration) { now = now.Add(d) }
	s.remind() // before the first step there is nothing to say
	s.Next("build")
	wait(29 * time.Second)
	s.remind() // too early
	wait(time.Second)
	s.remind()
	fmt.Fprintln(s, "round 1 of 2")
	wait(29 * time.Second)
	s.remind() // the line of the step's own was heard
	wait(time.Hour)
	s.Next("measure")
	want := `[1/3 0:00] build
[1/3 0:30] still: build
[1/3 0:30] round 1 of 2
[2/3 1:00:59] measure
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStart: the work may end at any time, also before its first step.
func TestStart(t *testing.T) {
	var out bytes.Buffer
	s := Start(&out, 1)
	s.Next("only")
	s.Done()
	if out.String() != "[1/1 0:00] only\n" {
		t.Errorf("got %q", out.String())
	}
	Start(&out, 1).Done()
}
