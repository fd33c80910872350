package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// tone is how a cell is to be taken, which a terminal shows by colour.
type tone uint8

const (
	plainTone tone = iota
	goodTone
	warnTone
	badTone
	headTone
)

// colours are the tones in ECMA-48 (SGR). They are from the eight colours that every
// terminal shows in a way that its user can read.
var colours = [...]string{plainTone: "", goodTone: "\x1b[32m", warnTone: "\x1b[33m", badTone: "\x1b[31m", headTone: "\x1b[1m"}

const plainAgain = "\x1b[0m"

// cell is a cell of a table.
type cell struct {
	text string
	tone tone
}

// table is lines of cells under headings.
type table struct {
	heads []string
	rows  [][]cell
	// spare has the columns that a narrow terminal may do without, the first to go first.
	spare []int
}

// gap stands between two columns.
const gap = "  "

// lines lays a table out. Width is the terminal's, 0 for no limit: spare columns are left out
// until a line fits, and what is still too long is cut.
func (t *table) lines(width int, coloured bool) []string {
	widths := t.widths()
	left := make([]bool, len(widths))
	for _, c := range t.spare {
		if width == 0 || total(widths, left) <= width {
			break
		}
		left[c] = true
	}
	head := make([]cell, len(t.heads))
	for i, h := range t.heads {
		head[i] = cell{h, headTone}
	}
	all := make([]string, 0, 1+len(t.rows))
	for _, row := range append([][]cell{head}, t.rows...) {
		all = append(all, joined(row, widths, left, width, coloured))
	}
	return all
}

func (t *table) widths() []int {
	widths := make([]int, len(t.heads))
	for i, h := range t.heads {
		widths[i] = utf8.RuneCountInString(h)
	}
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	return widths
}

// total is the length of a line without the columns that are left out.
func total(widths []int, left []bool) int {
	sum := -len(gap)
	for i, w := range widths {
		if !left[i] {
			sum += len(gap) + w
		}
	}
	return sum
}

// joined is a line of a table. Colours take no room.
func joined(row []cell, widths []int, left []bool, width int, coloured bool) string {
	var b strings.Builder
	used, pending := 0, 0
	for i, c := range row {
		if left[i] {
			continue
		}
		text := c.text
		if width > 0 {
			text = cut(text, max(0, width-used-pending))
		}
		if text != "" {
			b.WriteString(strings.Repeat(" ", pending))
			used, pending = used+pending, 0
		}
		colour := ""
		if coloured && text != "" {
			colour = colours[c.tone]
		}
		b.WriteString(colour + text)
		if colour != "" {
			b.WriteString(plainAgain)
		}
		n := utf8.RuneCountInString(text)
		used += n
		pending += widths[i] - n + len(gap)
	}
	return b.String()
}

// cut is the beginning of a text that has room.
func cut(text string, room int) string {
	if r := []rune(text); len(r) > room {
		return string(r[:room])
	}
	return text
}

// print writes a table for a terminal, or for whatever out is.
func (t *table) print(out io.Writer, term terminal) error {
	_, err := io.WriteString(out, strings.Join(t.lines(term.columns, term.coloured), "\n")+"\n")
	return err
}
