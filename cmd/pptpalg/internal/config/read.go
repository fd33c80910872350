package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxSize is of a file, in bytes. One with every key and its help has a quarter of that.
const maxSize = 16 << 10

// Table is what a file may set.
type Table struct {
	Flags *pflag.FlagSet // each flag is a key
	Rules []Rule         // hold for several flags together; all defaults keep them
}

// Rule says whether the values of some keys go together.
type Rule struct {
	Keys  []string // all that Check looks at
	Check func() error
}

// Together says which of the rules are not kept, each in a line.
func Together(rules []Rule) error {
	var errs []error
	for _, r := range rules {
		errs = append(errs, r.Check())
	}
	return errors.Join(errs...)
}

// Value is what a file says of a key.
type Value struct {
	Key  string
	Text string // as Value.Set reads it
	Line int
}

// Read reads the file of that name into t, whose flags must have their defaults, and
// returns what it says. Faults of its content are Errors, all that there are.
func Read(name string, t Table) ([]Value, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err // it names the file and what was done to it
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", name, maxSize)
	}
	return Parse(name, b, t)
}

// Parse is Read of a file's content. The name is for errors.
func Parse(name string, b []byte, t Table) ([]Value, error) {
	p := parser{file: name, table: t, lines: make(map[string]int), unsure: make(map[string]bool)}
	root, err := document(b)
	switch {
	case errors.Is(err, io.EOF): // nothing but comments
	case err != nil:
		p.fail(brokenLine(b), "not YAML: %s", plain(err))
	default:
		p.mapping(root)
		p.together()
	}
	if len(p.faults) > 0 {
		slices.SortStableFunc(p.faults, func(a, b Error) int { return a.Line - b.Line })
		return nil, p.faults
	}
	return p.values, nil
}

// document returns the root of the only document of b. io.EOF is for none.
func document(b []byte) (*yaml.Node, error) {
	var doc, next yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	switch err := d.Decode(&next); {
	case err == nil:
		return nil, errors.New("a second YAML document begins; only one is allowed")
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return doc.Content[0], nil
}

// brokenLine returns the line that begins what is not YAML: the one after the most
// lines that are. The line that the YAML package names is often another, or missing.
func brokenLine(b []byte) int {
	lines := slices.Collect(bytes.Lines(b))
	for n := len(lines) - 1; n > 0; n-- {
		if _, err := document(bytes.Join(lines[:n], nil)); err == nil || errors.Is(err, io.EOF) {
			return n + 1
		}
	}
	return 1
}

var origin = regexp.MustCompile(`^yaml: (line \d+: )?`)

// plain returns the text of an error without what the file's name and line replace.
func plain(err error) string { return origin.ReplaceAllString(err.Error(), "") }

// parser reads a file's keys into the table.
type parser struct {
	file   string
	table  Table
	lines  map[string]int  // where each key is
	unsure map[string]bool // keys whose value is not known, because of a fault
	values []Value
	faults Errors
}

func (p *parser) fail(line int, format string, args ...any) {
	p.faults = append(p.faults, Error{p.file, line, fmt.Sprintf(format, args...)})
}

func (p *parser) mapping(root *yaml.Node) {
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return
	}
	if root.Kind != yaml.MappingNode {
		p.fail(root.Line, "not a list of keys; write lines of the form \"key: value\"")
		return
	}
	for i := 0; i < len(root.Content); i += 2 {
		p.pair(root.Content[i], root.Content[i+1])
	}
}

func (p *parser) pair(key, value *yaml.Node) {
	flag := p.table.Flags.Lookup(key.Value)
	if key.Kind != yaml.ScalarNode || flag == nil {
		p.unsure[Nearest(key.Value, p.table.Flags)] = true
		p.fail(key.Line, "%s", unknownKey(key.Value, p.table.Flags))
		return
	}
	if first, twice := p.lines[flag.Name]; twice {
		p.unsure[flag.Name] = true
		p.fail(key.Line, "%s: given twice, first in line %d", flag.Name, first)
		return
	}
	p.lines[flag.Name] = key.Line
	text, line, fault := set(flag, key, value)
	if fault != "" {
		p.unsure[flag.Name] = true
		p.fail(line, "%s", fault)
		return
	}
	p.values = append(p.values, Value{flag.Name, text, key.Line})
}

// set gives a flag its value. It returns the value's text, or what is wrong in which line.
func set(flag *pflag.Flag, key, value *yaml.Node) (text string, line int, fault string) {
	text, fault = valueText(flag, value)
	if fault != "" {
		return "", lineOf(key, value), flag.Name + ": " + fault + hint(flag)
	}
	if err := flag.Value.Set(text); err != nil {
		return "", value.Line, WrongValue(flag, text, err)
	}
	return text, 0, ""
}

// lineOf returns where a value is. One that is not there has a place behind the end.
func lineOf(key, value *yaml.Node) int {
	if value.Kind == yaml.ScalarNode && value.Value == "" {
		return key.Line
	}
	return value.Line
}

// valueText returns what a flag is to be set to, or what is wrong with the form of its
// value. A list may also be written as on a command line.
func valueText(f *pflag.Flag, n *yaml.Node) (text, fault string) {
	if n.Kind != yaml.SequenceNode {
		return scalarText(n)
	}
	if _, list := f.Value.(pflag.SliceValue); !list {
		return "", "a list, but a single value is expected"
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return "", "has a YAML tag, which is not allowed here"
	}
	elements := make([]string, len(n.Content))
	for i, element := range n.Content {
		if elements[i], fault = scalarText(element); fault != "" {
			return "", fault
		}
	}
	return strings.Join(elements, ","), ""
}

func scalarText(n *yaml.Node) (text, fault string) {
	switch {
	case n.Kind == yaml.AliasNode:
		return "", "a YAML alias; write the value itself"
	case n.Kind != yaml.ScalarNode:
		return "", "has nested values, but a single value is expected"
	case n.Style&yaml.TaggedStyle != 0:
		return "", "has a YAML tag, which is not allowed here"
	case n.ShortTag() == "!!null":
		return "", `has no value (write "" for an empty text)`
	}
	return n.Value, ""
}

// together asks each rule whether the values go together. A rule about a key whose value is
// not known waits until that is fixed.
func (p *parser) together() {
	for _, r := range p.table.Rules {
		if slices.ContainsFunc(r.Keys, func(key string) bool { return p.unsure[key] }) {
			continue
		}
		if err := r.Check(); err != nil {
			p.fail(p.blamed(r), "%v", err)
		}
	}
}

// blamed returns the line of the key after which a rule was never kept again: it takes the
// values back, the last one first, until it is. They are as before when it returns.
func (p *parser) blamed(r Rule) int {
	line := 0
	for _, v := range slices.Backward(p.values) {
		if !slices.Contains(r.Keys, v.Key) {
			continue
		}
		f := p.table.Flags.Lookup(v.Key)
		defer keep(f)()
		restore(f)
		if line = v.Line; r.Check() == nil {
			break
		}
	}
	return line
}

// keep returns what gives a flag the value again that it has now.
func keep(f *pflag.Flag) (again func()) {
	// The value was good before.
	if s, list := f.Value.(pflag.SliceValue); list {
		all := s.GetSlice()
		return func() { _ = s.Replace(all) }
	}
	text := f.Value.String()
	return func() { _ = f.Value.Set(text) }
}

// restore gives a flag its default value.
func restore(f *pflag.Flag) {
	// The default was good when the flag was made.
	_ = Replace(f, strings.Trim(f.DefValue, "[]"))
}

// Apply sets the flags that the command line has not set.
func Apply(flags *pflag.FlagSet, values []Value) error {
	for _, v := range values {
		f := flags.Lookup(v.Key)
		if f == nil || f.Changed {
			continue
		}
		if err := f.Value.Set(v.Text); err != nil {
			return fmt.Errorf("set %s: %w", v.Key, err)
		}
	}
	return nil
}
