package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestReport: each line is what go says, or how long nothing is said.
func TestReport(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := newReport(&out, 4, func() time.Time { return now })
	for _, said := range []string{
		"31s", // compiling
		`{"Action":"start","Package":"pptpalg/a"}`,
		`{"Action":"run","Package":"pptpalg/a","Test":"TestA"}`,
		`{"Action":"output","Package":"pptpalg/a","Test":"TestA","Output":"=== RUN   TestA\n"}`,
		`{"Action":"output","Package":"pptpalg/a","Test":"TestA","Output":"    a_test.go:5: heard by nobody\n"}`,
		"29s",
		"1s",
		`{"Action":"pass","Package":"pptpalg/a","Test":"TestA","Elapsed":30}`,
		`{"Action":"output","Package":"pptpalg/a","Output":"PASS\n"}`,
		`{"Action":"pass","Package":"pptpalg/a","Elapsed":30.1}`,
		"9s", // not yet
		`{"Action":"start","Package":"pptpalg/none"}`,
		`{"Action":"output","Package":"pptpalg/none","Output":"?   \tpptpalg/none\t[no test files]\n"}`,
		`{"Action":"skip","Package":"pptpalg/none","Elapsed":0}`,
		"1s",
		"no event",
		`{"Action":"start","Package":"pptpalg/b"}`,
		`{"Action":"run","Package":"pptpalg/b","Test":"TestB"}`,
		`{"Action":"run","Package":"pptpalg/b","Test":"TestB/good"}`,
		`{"Action":"output","Package":"pptpalg/b","Test":"TestB/good","Output":"    b_test.go:5: good\n"}`,
		`{"Action":"pass","Package":"pptpalg/b","Test":"TestB/good"}`,
		`{"Action":"run","Package":"pptpalg/b","Test":"TestB/bad"}`,
		`{"Action":"output","Package":"pptpalg/b","Test":"TestB/bad","Output":"    b_test.go:6: bad\n"}`,
		`{"Action":"fail","Package":"pptpalg/b","Test":"TestB/bad"}`,
		`{"Action":"fail","Package":"pptpalg/b","Test":"TestB"}`,
		`{"Action":"run","Package":"pptpalg/b","Test":"TestNone"}`,
		`{"Action":"skip","Package":"pptpalg/b","Test":"TestNone"}`,
		`{"Action":"run","Package":"pptpalg/b","Test":"TestCut"}`,
		`{"Action":"output","Package":"pptpalg/b","Test":"TestCut","Output":"panic: time is over\n"}`,
		`{"Action":"output","Package":"pptpalg/b","Output":"FAIL\tpptpalg/b\t1.0s\n"}`,
		`{"Action":"fail","Package":"pptpalg/b","Elapsed":1}`,
		`{"ImportPath":"pptpalg/c [pptpalg/c.test]","Action":"build-output","Output":"c.go:3: undefined: c\n"}`,
		`{"ImportPath":"pptpalg/c [pptpalg/c.test]","Action":"build-fail"}`,
		`{"Action":"output","Package":"pptpalg/c","Output":"FAIL\tpptpalg/c [build failed]\n"}`,
		`{"Action":"fail","Package":"pptpalg/c","FailedBuild":"pptpalg/c [pptpalg/c.test]"}`,
	} {
		if d, err := time.ParseDuration(said); err == nil {
			now = now.Add(d)
			r.remind()
			continue
		}
		r.line([]byte(said + "\n"))
	}
	r.end()
	want := `[0/4 0:31] running building
[0/4 1:01] running a TestA (0:30)
[2/4 1:11] ok a 30.1 s
no event
    b_test.go:6: bad
panic: time is over
FAIL	pptpalg/b	1.0s
[3/4 1:11] FAIL b: TestB/bad, TestCut
c.go:3: undefined: c
FAIL	pptpalg/c [build failed]
[4/4 1:11] FAIL c
[4/4 1:11] FAIL in 2 of 4 packages:
	b: TestB/bad, TestCut
	c
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRun: go itself, over packages of each kind.
func TestRun(t *testing.T) {
	goProgram, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":          "module example\n\ngo 1.26\n",
		"good/x_test.go":  "package x\nimport \"testing\"\nfunc TestGood(t *testing.T) { t.Log(\"unheard\") }\n",
		"none/x.go":       "package x\n",
		"bad/x_test.go":   "package x\nimport \"testing\"\nfunc TestBad(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Error(\"seen\") }) }\nfunc TestFine(t *testing.T) { t.Log(\"unheard\") }\n",
		"panic/x_test.go": "package x\nimport \"testing\"\nfunc TestPanic(t *testing.T) { panic(\"at the disco\") }\n",
		"late/x_test.go":  "package x\nimport (\n\"testing\"\n\"time\"\n)\nfunc TestLate(t *testing.T) { time.Sleep(time.Hour) }\n",
		"wrong/x_test.go": "package x\nimport \"testing\"\nfunc TestWrong(t *testing.T) { undefined() }\n",
		"vet/x_test.go":   "package x\nimport \"testing\"\nfunc TestVet(t *testing.T) { t.Errorf(\"%d\", \"x\") }\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, tt := range []struct {
		packages string
		code     int
		has      []string
	}{
		{"./good ./none", 0, []string{"[2/2 ", "] ok example/good ", " 1 tests passed"}},
		{"./...", 1, []string{
			"x_test.go:3: seen", "--- FAIL: TestBad/sub", "FAIL example/bad: TestBad/sub",
			"panic: at the disco", "FAIL example/panic: TestPanic",
			"test timed out after", "FAIL example/late: TestLate",
			"undefined: undefined", "FAIL example/wrong",
			"Errorf format %d has arg", "FAIL example/vet",
			"FAIL in 5 of 7 packages:",
		}},
	} {
		var out bytes.Buffer
		code, err := run(&out, goProgram, append([]string{"-count=1", "-timeout=5s"}, strings.Fields(tt.packages)...))
		if code != tt.code || err != nil {
			t.Errorf("%s: exit %d, %v", tt.packages, code, err)
		}
		for _, has := range tt.has {
			if !strings.Contains(out.String(), has) {
				t.Errorf("%s: there is no %q", tt.packages, has)
			}
		}
		if strings.Contains(out.String(), "unheard") || strings.ContainsAny(out.String(), "\r\x1b") {
			t.Errorf("%s: said what is not to be said", tt.packages)
		}
		if t.Failed() {
			fmt.Println(out.String())
		}
	}
}
