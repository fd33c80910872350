package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"

	"pptpalg/cmd/pptpalg/internal/schema"
)

// JSON writes the report for programs, one entry at a time: all of it at once takes many
// times the report's memory.
func (r *Report) JSON(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "{\n  \"schema_version\": %d,\n", schema.SchemaVersion)
	writeList(b, "events", r.Events.All())
	writeList(b, "calls", slices.Values(r.Calls))
	writeList(b, "strays", slices.Values(r.Strays))
	fmt.Fprint(b, "  \"totals\": ")
	writeEntry(b, r.Totals, "  ")
	fmt.Fprint(b, "\n}\n")
	if err := b.Flush(); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

func writeList[T any](b *bufio.Writer, name string, all iter.Seq[T]) {
	fmt.Fprintf(b, "  %q: [", name)
	between, end := "\n    ", "],\n"
	for v := range all {
		fmt.Fprint(b, between)
		writeEntry(b, v, "    ")
		between, end = ",\n    ", "\n  ],\n"
	}
	fmt.Fprint(b, end)
}

// writeEntry writes what can always be written: the report has no other values.
func writeEntry(b *bufio.Writer, v any, indent string) {
	text, err := json.MarshalIndent(v, indent, "  ")
	if err != nil {
		panic(err)
	}
	_, _ = b.Write(text) // Flush tells
}

// YAML writes the same as JSON, in YAML, and one entry at a time too.
func (r *Report) YAML(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "schema_version: %d\n", schema.SchemaVersion)
	listYAML(b, "events", r.Events.All())
	listYAML(b, "calls", slices.Values(r.Calls))
	listYAML(b, "strays", slices.Values(r.Strays))
	fmt.Fprint(b, "totals:\n")
	entryYAML(b, r.Totals, "  ", "  ")
	if err := b.Flush(); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

func listYAML[T any](b *bufio.Writer, name string, all iter.Seq[T]) {
	head := name + ":\n"
	for v := range all {
		fmt.Fprint(b, head)
		entryYAML(b, v, "  - ", "    ")
		head = ""
	}
	if head != "" {
		fmt.Fprintf(b, "%s: []\n", name)
	}
}

// entryYAML writes what can always be written, as writeEntry does.
func entryYAML(b *bufio.Writer, v any, first, others string) {
	text, err := schema.YAML(v)
	if err != nil {
		panic(err)
	}
	indent := first
	for line := range bytes.Lines(text) {
		_, _ = b.WriteString(indent) // Flush tells
		_, _ = b.Write(line)
		indent = others
	}
}
