package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"
	"unicode/utf8"
)

// report is what a run has found, as Markdown.
type report struct {
	bytes.Buffer
	block   string // of the file that it is for: "" for that of the comparison
	targets []target
}

// target is something that is to hold.
type target struct {
	what      string
	is, limit float64
	atLeast   bool // is must not be less than limit; otherwise not more
	unit      string
}

func (t target) met() bool {
	if t.atLeast {
		return t.is >= t.limit
	}
	return t.is <= t.limit
}

func (r *report) aim(t target) { r.targets = append(r.targets, t) }

func (r *report) heading(level int, text string) {
	fmt.Fprintf(r, "\n%s %s\n\n", strings.Repeat("#", level), text)
}

// table writes rows under a head, columns padded so that it reads as text too.
func (r *report) table(head []string, rows [][]string) {
	width := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(row []string) {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				fmt.Fprintf(r, "| %s%s ", cell, pad)
			} else {
				fmt.Fprintf(r, "| %s%s ", pad, cell)
			}
		}
		fmt.Fprintln(r, "|")
	}
	line(head)
	for i, w := range width {
		if i == 0 {
			fmt.Fprintf(r, "|%s", strings.Repeat("-", w+2))
		} else {
			fmt.Fprintf(r, "|%s:", strings.Repeat("-", w+1))
		}
	}
	fmt.Fprintln(r, "|")
	for _, row := range rows {
		line(row)
	}
}

// summary writes which targets are met.
func (r *report) summary() {
	if len(r.targets) == 0 {
		return
	}
	title := "Targets"
	if r.block != "" {
		title += " of the " + r.block
	}
	r.heading(2, title)
	var rows [][]string
	for _, t := range r.targets {
		if math.IsNaN(t.is) {
			continue // not measured in this run
		}
		sign, met := "≤", "not met"
		if t.atLeast {
			sign = "≥"
		}
		if t.met() {
			met = "met"
		}
		rows = append(rows, []string{t.what, fmt.Sprintf("%s %v%s", sign, t.limit, t.unit), fmt.Sprintf("%.4g%s", t.is, t.unit), met})
	}
	r.table([]string{"", "wanted", "is", ""}, rows)
}

// marks are the lines between which a report stands in a file that has more to say.
func marks(block string) (begin, end string) {
	if block != "" {
		block = ", " + block
	}
	return "<!-- begin: written by make bench" + block + " -->", "<!-- end: written by make bench" + block + " -->"
}

// write puts the report into a file between its marks, in place of the last one. A
// file without marks gets it at its end.
func (r *report) write(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(path, []byte(splice(string(old), r.block, r.String())), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func splice(old, block, report string) string {
	begin, end := marks(block)
	text := begin + "\n\n" + report + "\n" + end
	before, rest, found := strings.Cut(old, begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return strings.TrimLeft(strings.TrimRight(old, "\n")+"\n\n"+text+"\n", "\n")
	}
	return before + text + after
}
