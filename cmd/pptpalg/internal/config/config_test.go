package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

// sample has a flag of every type, and rules for some of them.
type sample struct {
	flags *pflag.FlagSet
	low   uint16
	high  uint16
	count int
	here  error // of the machine, whatever the file says
}

func newSample() *sample {
	s := &sample{flags: pflag.NewFlagSet("sample", pflag.ContinueOnError)}
	f := s.flags
	f.SortFlags = false
	f.Uint16Var(&s.low, "low", 5, "the lower one")
	f.Uint16Var(&s.high, "high", 9, "the higher one")
	f.IntVar(&s.count, "max-count", 3, "how many at most")
	Want(f, "max-count", "a whole number, 1 or more")
	Check(f, "max-count", func() error {
		if s.count < 1 {
			return errors.New("less than 1")
		}
		return nil
	})
	f.Bool("random-ids", false, "draw them")
	f.Duration("rest", 2*time.Minute, "how long")
	f.UintSlice("ports", []uint{1, 2}, "where")
	f.Uint8("label", 0, "a bit")
	f.Uint32("mark", 0, "bits")
	f.String("listen", "", "address")
	f.TextVar(new(slog.LevelVar), "log-level", new(slog.LevelVar), strings.Repeat("many words of help ", 20))
	OneOf(f, "log-level", "debug", "info", "warn", "error")
	Check(f, "ports", func() error {
		if ports, err := f.GetUintSlice("ports"); err == nil && len(ports) > 4 {
			return errors.New("more than 4")
		}
		return nil
	})
	return s
}

func (s *sample) table() Table {
	return Table{Flags: s.flags, Rules: []Rule{
		{[]string{"low", "high"}, func() error {
			if s.low > s.high {
				return fmt.Errorf("%d is above %d", s.low, s.high)
			}
			return nil
		}},
		{[]string{"high", "max-count"}, func() error {
			if s.count > 4*int(s.high) {
				return fmt.Errorf("%d do not fit below %d", s.count, s.high)
			}
			return nil
		}},
		{[]string{"listen"}, func() error {
			if listen, err := s.flags.GetString("listen"); err == nil && listen == "nowhere" {
				return errors.New("no such place")
			}
			return nil
		}},
		{[]string{"rest"}, func() error { return s.here }},
	}}
}

// values are the flags' as text.
func (s *sample) values() map[string]string {
	texts := make(map[string]string)
	s.flags.VisitAll(func(f *pflag.Flag) { texts[f.Name] = Text(f) })
	return texts
}

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		file string
		want []Value
	}{
		{"nothing", "", nil},
		{"only a comment", "# low: 1\n", nil},
		{"an empty document", "---\n", nil},
		{"a key", "low: 1\n", []Value{{"low", "1", 1}}},
		{"lines count", "# first\n\nlow: 1 # why\nhigh: 2\n", []Value{{"low", "1", 3}, {"high", "2", 4}}},
		{"one document that is begun and ended", "---\nlow: 1\n...\n", []Value{{"low", "1", 2}}},
		{"Windows' ends of lines", "low: 1\r\nhigh: 2\r\n", []Value{{"low", "1", 1}, {"high", "2", 2}}},
		{"a number in hexadecimal", "mark: 0x40\n", []Value{{"mark", "0x40", 1}}},
		{"a list", "ports: [3, 4]\n", []Value{{"ports", "3,4", 1}}},
		{"a list of lines", "ports:\n  - 3\n  - 4\nlow: 1\n", []Value{{"ports", "3,4", 1}, {"low", "1", 4}}},
		{"a list as on a command line", "ports: 3,4\n", []Value{{"ports", "3,4", 1}}},
		{"a list of one", "ports: 3\n", []Value{{"ports", "3", 1}}},
		{"quoted", "rest: '90s'\nlisten: \"\"\n", []Value{{"rest", "90s", 1}, {"listen", "", 2}}},
		{"a rule is for the whole file", "low: 20\nhigh: 30\n", []Value{{"low", "20", 1}, {"high", "30", 2}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSample()
			got, err := Parse("f", []byte(tt.file), s.table())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			for _, v := range tt.want {
				if got := newSampleWith(t, v.Key, v.Text); got != Text(s.flags.Lookup(v.Key)) {
					t.Errorf("%s is set to %s, want %s", v.Key, Text(s.flags.Lookup(v.Key)), got)
				}
			}
		})
	}
}

// newSampleWith returns what a command line makes of a value.
func newSampleWith(t *testing.T, key, text string) string {
	t.Helper()
	s := newSample()
	if err := s.flags.Set(key, text); err != nil {
		t.Fatal(err)
	}
	return Text(s.flags.Lookup(key))
}

func TestFaults(t *testing.T) {
	const number16 = "; use a whole number from 0 to 65535"
	tests := []struct {
		name string
		file string
		want []string // without the file's name
	}{
		{"unknown key", "low: 1\nwhatever: 2\n", []string{`2: unknown key "whatever"; "pptpalg config" lists the keys`}},
		{"a letter too few", "hgh: 1\n", []string{`1: unknown key "hgh"; did you mean "high"?`}},
		{"underscore and capitals", "Max_Count: 1\n", []string{`1: unknown key "Max_Count"; did you mean "max-count"?`}},
		{"the beginning of a key", "\nrandom: true\n", []string{`2: unknown key "random"; did you mean "random-ids"?`}},
		{"a merge", "<<: {low: 1}\n", []string{`1: unknown key "<<"; "pptpalg config" lists the keys`}},
		{"a list for a key", "[low]: 1\n", []string{`1: unknown key ""; "pptpalg config" lists the keys`}},
		{"twice", "low: 1\nhigh: 2\n\nlow: 1\n", []string{"4: low: given twice, first in line 1"}},
		{"no number", "low: few\n", []string{`1: low: "few" is not valid` + number16}},
		{"too large", "low: 70000\n", []string{`1: low: "70000" is not valid` + number16}},
		{"negative", "low: -1\n", []string{`1: low: "-1" is not valid` + number16}},
		{"refused by a check", "max-count: 0\n", []string{`1: max-count: "0" is not valid: less than 1; use a whole number, 1 or more`}},
		{"a list refused by a check", "ports: [1, 2, 3, 4, 5]\n", []string{`1: ports: "1,2,3,4,5" is not valid: more than 4; use a list of whole numbers, such as [1, 2]`}},
		{"no unit", "rest: 90\n", []string{`1: rest: "90" is not valid; use a duration with its unit, such as 300ms, 90s, 2m or 1h30m`}},
		{"unknown unit", "rest: 2min\n", []string{`1: rest: "2min" is not valid; use a duration with its unit, such as 300ms, 90s, 2m or 1h30m`}},
		{"yes", "random-ids: yes\n", []string{`1: random-ids: "yes" is not valid; use true or false`}},
		{"a choice", "log-level: loud\n", []string{`1: log-level: "loud" is not valid; use debug, info, warn or error`}},
		{"no value", "low:\nhigh: 3\n", []string{`1: low: has no value (write "" for an empty text)` + number16}},
		{"no value before the end", "# x\n? low", []string{`2: low: has no value (write "" for an empty text)` + number16}},
		{"null", "low: ~\n", []string{`1: low: has no value (write "" for an empty text)` + number16}},
		{"no value for a text", "listen:\n", []string{`1: listen: has no value (write "" for an empty text)`}},
		{"a list for one value", "low:\n  - 1\n", []string{"2: low: a list, but a single value is expected" + number16}},
		{"keys for one value", "low:\n  high: 1\n", []string{"2: low: has nested values, but a single value is expected" + number16}},
		{"a list in a list", "ports: [1, [2]]\n", []string{"1: ports: has nested values, but a single value is expected; use a list of whole numbers, such as [1, 2]"}},
		{"an empty list", "ports: []\n", []string{`1: ports: "" is not valid; use a list of whole numbers, such as [1, 2]`}},
		{"a word in a list", "ports: [1, two]\n", []string{`1: ports: "1,two" is not valid; use a list of whole numbers, such as [1, 2]`}},
		{"an alias", "low: &a 1\nhigh: *a\n", []string{"2: high: a YAML alias; write the value itself" + number16}},
		{"a tag", "low: !!int 1\n", []string{"1: low: has a YAML tag, which is not allowed here" + number16}},
		{"a tag on a list", "ports: !!set [1]\n", []string{"1: ports: has a YAML tag, which is not allowed here; use a list of whole numbers, such as [1, 2]"}},
		{"a list of all", "\n- low: 1\n", []string{`2: not a list of keys; write lines of the form "key: value"`}},
		{"a word", "low\n", []string{`1: not a list of keys; write lines of the form "key: value"`}},
		{"an equals sign", "high: 1\nlow = 1\n", []string{"2: not YAML: could not find expected ':'"}},
		{"two colons", "high: 1\nlow: 1: 2\n", []string{"2: not YAML: mapping values are not allowed in this context"}},
		{"a list without an end", "high: 1\nports: [1,\nlow: 1\n", []string{"2: not YAML: did not find expected ',' or ']'"}},
		{"a text without an end", "high: 1\nlow: 2\nlisten: \"a\nrest: 1s\n", []string{"3: not YAML: found unexpected end of stream"}},
		{"a tab", "high: 1\nlow:\n\t- 1\n", []string{"3: not YAML: found character that cannot start any token"}},
		{"fault in the first line", "{\n", []string{"1: not YAML: did not find expected node content"}},
		{"no text at all", "low: 1\nhigh: \x01\n", []string{"2: not YAML: control characters are not allowed"}},
		{"a second document", "low: 1\n---\nlow: 2\n", []string{"2: not YAML: a second YAML document begins; only one is allowed"}},
		{"a rule broken by one key", "# x\nrest: 1s\nlow: 10\nlabel: 3\n", []string{"3: 10 is above 9"}},
		{"a rule broken by two keys", "low: 8\nhigh: 7\nrest: 1s\n", []string{"2: 8 is above 7"}},
		{"the line of a key that a rule is about", "rest: 1s\nhigh: 7\nlow: 8\nlabel: 1\n", []string{"3: 8 is above 7"}},
		{"two rules", "high: 4\nlisten: nowhere\n", []string{"1: 5 is above 4", "2: no such place"}},
		{"two rules, one key of which is to blame", "max-count: 19\nhigh: 4\nlow: 3\n", []string{"2: 19 do not fit below 4"}},
		{"three rules", "listen: nowhere\nlow: 8\nhigh: 7\nmax-count: 29\n", []string{"1: no such place", "3: 8 is above 7", "4: 29 do not fit below 7"}},
		{"a rule beside another key's fault", "rest: 90\nlow: 10\n", []string{`1: rest: "90" is not valid; use a duration with its unit, such as 300ms, 90s, 2m or 1h30m`, "2: 10 is above 9"}},
		{"a rule about a key that has a fault", "low: few\nhigh: 4\n", []string{`1: low: "few" is not valid` + number16}},
		{"a rule about a key that is misspelt", "low: 10\nhigg: 20\n", []string{`2: unknown key "higg"; did you mean "high"?`}},
		{"a rule about a key that is given twice", "high: 20\nhigh: 2\nlisten: nowhere\n", []string{"2: high: given twice, first in line 1", "3: no such place"}},
		{"all of them", "low: few\nhihg: 1\nrest: 1\nrandom-ids: false\nrest: 2s\n", []string{
			`1: low: "few" is not valid` + number16,
			`2: unknown key "hihg"; did you mean "high"?`,
			`3: rest: "1" is not valid; use a duration with its unit, such as 300ms, 90s, 2m or 1h30m`,
			"5: rest: given twice, first in line 3",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			values, err := Parse("f", []byte(tt.file), newSample().table())
			if values != nil || err == nil {
				t.Fatalf("values %v, error %v", values, err)
			}
			want := "f:" + strings.Join(tt.want, "\nf:")
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFaultOfNoLine: what no key of the file is about has no line.
func TestFaultOfNoLine(t *testing.T) {
	s := newSample()
	s.here = errors.New("not on this machine")
	_, err := Parse("f", []byte("low: 10\n"), s.table())
	if err == nil || err.Error() != "f: not on this machine\nf:1: 10 is above 9" {
		t.Errorf("%v", err)
	}
}

// TestBlameTakesNothing: the flags keep what the file gives them, whoever is to blame.
func TestBlameTakesNothing(t *testing.T) {
	s := newSample()
	if _, err := Parse("f", []byte("low: 10\nports: [7, 8]\nhigh: 6\n"), s.table()); err == nil {
		t.Fatal("10 is not above 6")
	}
	if s.low != 10 || s.high != 6 || Text(s.flags.Lookup("ports")) != "7,8" {
		t.Errorf("low %d, high %d", s.low, s.high)
	}
}

func TestRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "c.yaml")
	if _, err := Read(name, newSample().table()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("low: few\n")
	if _, err := Read(name, newSample().table()); err == nil || !strings.HasPrefix(err.Error(), name+":1: low: ") {
		t.Errorf("a wrong file: %v", err)
	}
	write(strings.Repeat("#", maxSize))
	if _, err := Read(name, newSample().table()); err != nil {
		t.Errorf("the largest file: %v", err)
	}
	write(strings.Repeat("#", maxSize+1))
	if _, err := Read(name, newSample().table()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a file that is too large: %v", err)
	}
}

func TestCommandLineWins(t *testing.T) {
	s := newSample()
	if err := s.flags.Parse([]string{"--low", "7", "--ports", "8"}); err != nil {
		t.Fatal(err)
	}
	values := []Value{{"low", "1", 1}, {"high", "20", 2}, {"ports", "3,4", 3}, {"rest", "1s", 4}, {"of another command", "1", 5}}
	if err := Apply(s.flags, values); err != nil {
		t.Fatal(err)
	}
	got := s.values()
	for key, want := range map[string]string{"low": "7", "high": "20", "ports": "8", "rest": "1s"} {
		if got[key] != want {
			t.Errorf("%s is %s, want %s", key, got[key], want)
		}
	}
	if s.flags.Changed("high") {
		t.Error("a value of the file counts as one of the command line")
	}
}

// random returns a text that a flag accepts.
func random(t *rapid.T, f *pflag.Flag) string {
	number := func(bits int) string { return fmt.Sprint(rapid.Uint64Range(0, 1<<bits-1).Draw(t, f.Name)) }
	switch f.Value.Type() {
	case "bool":
		return fmt.Sprint(rapid.Bool().Draw(t, f.Name))
	case "duration":
		return time.Duration(rapid.Int64().Draw(t, f.Name)).String()
	case "int":
		return fmt.Sprint(rapid.IntRange(1, math.MaxInt).Draw(t, f.Name))
	case "uint8":
		return number(8)
	case "uint16":
		return number(16)
	case "uint32":
		return number(32)
	case "uintSlice":
		ports := rapid.SliceOfN(rapid.Uint16(), 1, 4).Draw(t, f.Name)
		return strings.ReplaceAll(strings.Trim(fmt.Sprint(ports), "[]"), " ", ",")
	case "string":
		return rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"null", "~", "", "true", "1", "0x1", "a: b", "# a", "- a", "\n", "a\nb\n", " a ", "é", "\u2028", "\ufeff", "'", `"`, "127.0.0.1:9723"})).Draw(t, f.Name)
	}
	return rapid.SampledFrom([]string{"debug", "INFO", "warn", "ERROR", "error+3"}).Draw(t, f.Name)
}

// TestWrittenIsReadBack: what is written of any values sets them again.
func TestWrittenIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSample()
		s.flags.VisitAll(func(f *pflag.Flag) {
			if rapid.Bool().Draw(t, "set "+f.Name) {
				if err := f.Value.Set(random(t, f)); err != nil {
					t.Fatal(err)
				}
			}
		})
		var file, commented bytes.Buffer
		if err := errors.Join(Write(&file, s.flags, false), Write(&commented, s.flags, true)); err != nil {
			t.Fatal(err)
		}
		read := newSample()
		any := Table{Flags: read.flags}
		if _, err := Parse("f", file.Bytes(), any); err != nil {
			t.Fatalf("%v of\n%s", err, &file)
		}
		if diff := cmp.Diff(s.values(), read.values()); diff != "" {
			t.Fatalf("%s of\n%s", diff, &file)
		}
		if values, err := Parse("f", commented.Bytes(), any); err != nil || len(values) != 0 {
			t.Fatalf("commented out: %v, %v of\n%s", values, err, &commented)
		}
	})
}

func TestWrite(t *testing.T) {
	f := pflag.NewFlagSet("few", pflag.ContinueOnError)
	f.SortFlags = false
	f.UintSlice("ports", []uint{1, 2}, "where")
	f.String("listen", "", strings.Repeat("word ", 20))
	for commented, want := range map[bool]string{
		false: "\n# where\nports: [1, 2]\n\n# word word word word word word word word word word word word word word word word word\n# word word word\nlisten: \"\"\n",
		true:  "\n# where\n#ports: [1, 2]\n\n# word word word word word word word word word word word word word word word word word\n# word word word\n#listen: \"\"\n",
	} {
		var got bytes.Buffer
		if err := Write(&got, f, commented); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Error(diff)
		}
	}
}

// FuzzParse: a file is either read, and then sets each key that it has once, or has
// faults with lines that are in it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "low: 1\nhigh: 2\n", "ports: [1, 2]\n", "low: *a\n", "{\n", "--- \n--- \n", "? low\n: 1\n", "low: |\n  1\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		values, err := Parse("f", b, newSample().table())
		var faults Errors
		if err != nil && (!errors.As(err, &faults) || len(faults) == 0) {
			t.Fatalf("%v", err)
		}
		for _, fault := range faults {
			if fault.Line < 1 || fault.Line > 1+bytes.Count(b, []byte("\n"))+bytes.Count(b, []byte("\r"))+bytes.Count(b, []byte("\u2028"))+bytes.Count(b, []byte("\u2029"))+bytes.Count(b, []byte("\u0085")) {
				t.Errorf("a fault in line %d", fault.Line)
			}
		}
		seen := make(map[string]bool)
		for _, v := range values {
			if seen[v.Key] {
				t.Errorf("%s is set twice", v.Key)
			}
			seen[v.Key] = true
		}
	})
}
