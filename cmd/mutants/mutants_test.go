package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const source = `package small

func Count(of []int, below int) (n int, ok bool) {
	for _, v := range of {
		if v < below {
			n++
		}
	}
	return n, n > 0
}
`

func TestMutantsOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "small.go")
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := mutantsOf("", path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range found {
		changed := strings.Split(string(m.apply([]byte(source))), "\n")
		got = append(got, strings.TrimSpace(changed[m.line-1]))
	}
	want := []string{
		"if (v < below) || true {", "if (v < below) && false {", "if v <= below {", "if v >= below {",
		"n--", "",
		"return *new(int), n > 0", "return n, !(n > 0)", "return n, n >= 0", "return n, n <= 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mutants (-want +got):\n%s", diff)
	}
}

// TestRun tries all mutants of a module whose tests miss one thing: they never ask about a
// number that is equal to the limit.
func TestRun(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"go.mod":   "module small\n\ngo 1.26\n",
		"small.go": source,
		"small_test.go": `package small

import "testing"

func TestCount(t *testing.T) {
	if n, ok := Count([]int{1, 2, 9}, 5); n != 2 || !ok {
		t.Error(n, ok)
	}
	if n, ok := Count(nil, 5); n != 0 || ok {
		t.Error(n, ok)
	}
}
`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	o := options{least: 91, workers: 2, seed: 1, timeout: 10 * time.Second}
	if err := run(t.Context(), &out, o, []string{"./..."}); err == nil || err.Error() != "fewer than 91 of 100 died" {
		t.Errorf("90 of 100 died, and the error is %v", err)
	}
	const want = "LIVE small.go:5: < becomes <=\n9 of 10 mutants died, seed 1\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}
