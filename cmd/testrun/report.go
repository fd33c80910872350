package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"pptpalg/cmd/internal/progress"
)

const (
	seldom = 10 * time.Second // between two lines about what has passed
	quiet  = 30 * time.Second // after which it is told what runs
)

// event is one of "go test -json" (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Output      string
	FailedBuild string
	Elapsed     float64 // seconds
}

// report follows what go says.
type report struct {
	w   io.Writer
	all int // packages
	now func() time.Time

	began, last    time.Time
	done           int
	tests, skipped int
	running        map[string]*pack
	builds         map[string]string // what the compiler said, by the package
	passed         []string          // not told yet
	failed         []string          // packages, with their tests
}

// pack is a package whose tests run.
type pack struct {
	began  time.Time
	said   []event             // the output that counts if the package fails
	open   map[string]struct{} // tests that have not ended
	failed []string
	latest string // the test that began last
}

func newReport(w io.Writer, packages int, now func() time.Time) *report {
	return &report{w: w, all: packages, now: now, began: now(), last: now(), running: make(map[string]*pack), builds: make(map[string]string)}
}

// follow reads lines until there are no more, and tells now and then what runs.
func (r *report) follow(lines <-chan []byte, tick <-chan time.Time) {
	for {
		select {
		case line, more := <-lines:
			if !more {
				return
			}
			r.line(line)
		case <-tick:
			r.remind()
		}
	}
}

// line takes a line. What is no event is passed on.
func (r *report) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		r.w.Write(line)
		return
	}
	switch {
	case e.Action == "build-output":
		r.builds[e.ImportPath] += e.Output
	case e.Package == "":
	case e.Test == "":
		r.ofPackage(e)
	default:
		r.ofTest(e)
	}
}

func (r *report) pack(e event) *pack {
	p := r.running[e.Package]
	if p == nil {
		p = &pack{began: r.now(), open: make(map[string]struct{})}
		r.running[e.Package] = p
	}
	return p
}

func (r *report) ofTest(e event) {
	p := r.pack(e)
	switch e.Action {
	case "run":
		p.open[e.Test], p.latest = struct{}{}, e.Test
	case "output":
		if !framing(e.Output) {
			p.said = append(p.said, e)
		}
	case "pass", "skip", "fail":
		delete(p.open, e.Test)
		r.tests++
		switch e.Action {
		case "skip":
			r.skipped++
			p.forget(e.Test)
		case "pass":
			p.forget(e.Test)
		case "fail":
			p.failed = append(p.failed, e.Test)
		}
	}
}

// framing reports whether a line only says that a test begins or goes on.
func framing(line string) bool {
	return strings.HasPrefix(line, "=== RUN ") || strings.HasPrefix(line, "=== PAUSE ") || strings.HasPrefix(line, "=== CONT ") || strings.HasPrefix(line, "=== NAME ")
}

// forget drops what a test that did not fail has said, unless it is of a data race: that may be no test's own.
func (p *pack) forget(test string) {
	if slices.ContainsFunc(p.said, func(e event) bool { return e.Test == test && strings.Contains(e.Output, "WARNING: DATA RACE") }) {
		return
	}
	p.said = slices.DeleteFunc(p.said, func(e event) bool { return e.Test == test })
}

func (r *report) ofPackage(e event) {
	p := r.pack(e)
	switch e.Action {
	case "output":
		p.said = append(p.said, e)
	case "pass", "skip", "fail":
		r.done++
		delete(r.running, e.Package)
		if e.Action == "fail" {
			r.fail(e, p)
			return
		}
		if e.Action == "pass" && (p.latest != "" || e.Elapsed > 0) {
			r.passed = append(r.passed, fmt.Sprintf("%s %.1f s", short(e.Package), e.Elapsed))
		}
		if r.now().Sub(r.last) >= seldom {
			r.tell()
		}
	}
}

// fail prints what a package that failed has said, and then that it failed.
func (r *report) fail(e event, p *pack) {
	r.tell()
	fmt.Fprint(r.w, r.builds[e.FailedBuild])
	delete(r.builds, e.FailedBuild) // it is said once, for however many packages
	for _, said := range p.said {
		fmt.Fprint(r.w, said.Output)
	}
	p.failed = append(p.failed, slices.Sorted(maps.Keys(p.open))...) // those that a panic or the end of time has cut short
	tests := leaves(p.failed)
	name := short(e.Package)
	if len(tests) > 0 {
		name += ": " + strings.Join(tests, ", ")
	}
	r.failed = append(r.failed, name)
	r.print("FAIL " + name)
}

// leaves are the tests that are not only the parents of others.
func leaves(tests []string) []string {
	return slices.DeleteFunc(slices.Clone(tests), func(t string) bool {
		return slices.ContainsFunc(tests, func(other string) bool { return strings.HasPrefix(other, t+"/") })
	})
}

// tell says what has passed since it was said last.
func (r *report) tell() {
	if len(r.passed) > 0 {
		r.print("ok " + strings.Join(r.passed, ", "))
		r.passed = nil
	}
}

// remind says what has passed, or what runs if nothing was said for long.
func (r *report) remind() {
	since := r.now().Sub(r.last)
	if since >= seldom && len(r.passed) > 0 {
		r.tell()
		return
	}
	if since < quiet {
		return
	}
	var names []string
	for _, name := range slices.SortedFunc(maps.Keys(r.running), func(a, b string) int {
		return cmp.Or(r.running[a].began.Compare(r.running[b].began), strings.Compare(a, b))
	}) {
		p := r.running[name]
		text := short(name)
		if p.latest != "" {
			text += " " + p.latest
		}
		names = append(names, fmt.Sprintf("%s (%s)", text, progress.Clock(r.now().Sub(p.began))))
	}
	if names == nil {
		names = []string{"building"}
	}
	r.print("running " + strings.Join(names, ", "))
}

// end says how it came out.
func (r *report) end() {
	r.tell()
	text := fmt.Sprintf("%d tests passed", r.tests-r.skipped)
	if r.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", r.skipped)
	}
	if len(r.failed) > 0 {
		text = fmt.Sprintf("FAIL in %d of %d packages:\n\t%s", len(r.failed), r.all, strings.Join(r.failed, "\n\t"))
	}
	r.print(text)
}

func (r *report) print(text string) {
	r.last = r.now()
	fmt.Fprintf(r.w, "%s %s\n", progress.Mark(r.done, r.all, r.now().Sub(r.began)), text)
}

// short is a package's name without the module's.
func short(name string) string { return strings.TrimPrefix(name, "pptpalg/") }
