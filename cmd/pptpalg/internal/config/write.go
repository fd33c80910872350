package config

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// width is of a comment's lines, in bytes.
const width = 90

// Write writes every flag with its value as a file that Read reads back, each under its
// help. With commented, the values are comments too: a file to be filled in.
func Write(w io.Writer, flags *pflag.FlagSet, commented bool) error {
	mark := ""
	if commented {
		mark = "#"
	}
	var out strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		fmt.Fprintf(&out, "\n%s%s%s: %s\n", comment(f.Usage), mark, f.Name, valueYAML(f))
	})
	if _, err := io.WriteString(w, out.String()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// comment returns text as lines that begin with "# ".
func comment(text string) string {
	var lines strings.Builder
	line := "#"
	for _, word := range strings.Fields(text) {
		if line != "#" && len(line)+1+len(word) > width {
			lines.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return lines.String() + line + "\n"
}

func valueYAML(f *pflag.Flag) string {
	s, list := f.Value.(pflag.SliceValue)
	if !list {
		return scalarYAML(f.Value.Type(), f.Value.String())
	}
	var elements []string
	for _, element := range s.GetSlice() {
		elements = append(elements, scalarYAML(f.Value.Type(), element))
	}
	return "[" + strings.Join(elements, ", ") + "]"
}

// scalarYAML returns a value on one line. Numbers and truths look like a text's content
// to the YAML package, which would quote them.
func scalarYAML(kind, text string) string {
	if kind == "bool" || kind == "float64" || strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint") {
		return text
	}
	b, err := yaml.Marshal(text)
	if strings.ContainsFunc(text, unprintable) || !utf8.ValidString(text) {
		b, err = yaml.Marshal(&yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Value: strings.ToValidUTF8(text, "\uFFFD")})
	}
	if err != nil {
		return "" // a text always has a quoted form
	}
	return strings.TrimSuffix(string(b), "\n")
}

// unprintable is what only a quoted form with escapes is sure to keep on one line:
// YAML has five characters that end a line.
func unprintable(r rune) bool { return !unicode.IsPrint(r) }
