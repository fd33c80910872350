package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/config"
)

// The remedies of this file are about the daemon's configuration.

// setCommand returns the command that gives a key another value: in the file, if no flag
// wins over that. A file that is wrong comes first.
func (s *judged) setCommand(key, value string) string {
	switch {
	case s.file == "" || s.flags.Lookup(key).Changed:
		return "pptpalg run --" + key + " " + quoted(value)
	case s.mend != "":
		return s.mend
	}
	command := s.editCommand(key, yamlText(s.flags.Lookup(key), value))
	if s.running {
		command += " && systemctl restart pptpalg"
	}
	return command
}

func (s *judged) editCommand(key, value string) string {
	line, file := key+": "+value, quoted(s.file)
	text, err := os.ReadFile(s.file)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("mkdir -p %s && echo %s >> %s", quoted(filepath.Dir(s.file)), quoted(line), file)
	}
	if first, last := s.linesOf(key, line, string(text)); first > 0 {
		return fmt.Sprintf("sed -i %s %s", quoted(fmt.Sprintf("%d,%dc\\%s", first, last, line)), file)
	}
	return fmt.Sprintf("echo %s >> %s", quoted("\n"+line), file)
}

// yamlText writes a flag's value for the file.
func yamlText(f *pflag.Flag, value string) string {
	if _, list := f.Value.(pflag.SliceValue); list {
		return "[" + strings.ReplaceAll(value, ",", ", ") + "]"
	}
	if _, err := strconv.Atoi(value); err == nil {
		return value
	}
	return strconv.Quote(value)
}

// linesOf returns the first and the last line in which a good file gives a key, from 1, or
// 0 if it does not. They are those that another line can stand for.
func (s *judged) linesOf(key, instead, text string) (first, last int) {
	begins := regexp.MustCompile(`^["']?` + regexp.QuoteMeta(key) + `["']?\s*:`)
	lines := strings.Split(text, "\n")
	first = slices.IndexFunc(lines, begins.MatchString) + 1
	for last = first; first > 0 && last <= len(lines); last++ {
		with := slices.Concat(lines[:first-1], []string{instead}, lines[last:])
		_, err := config.Parse(s.file, []byte(strings.Join(with, "\n")), newSettings(s.stateDefault).keys())
		if err == nil {
			return first, last
		}
	}
	return 0, 0
}

// loadCommand returns the command that loads the rules for this daemon.
func (s *judged) loadCommand() string {
	words := []string{"pptpalg rules load"}
	if s.fileGiven {
		words = append(words, "--config "+quoted(s.file))
	}
	s.ruleFlags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			words = append(words, "--"+f.Name+"="+quoted(config.Text(f)))
		}
	})
	return strings.Join(words, " ")
}

// mendFile returns the command that takes out of the configuration file what is wrong,
// line by line, or has a fresh one in its place; and what it says then.
func (s *judged) mendFile(err error) (command string, values []config.Value) {
	name := quoted(s.file)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("mkdir -p %s && pptpalg config --default > %s", quoted(filepath.Dir(s.file)), name), nil
	}
	text, readErr := os.ReadFile(s.file)
	keys := func() config.Table { return newSettings(s.stateDefault).keys() }
	if edits, values := commentOut(s.file, string(text), err, keys); readErr == nil && edits != nil {
		return "sed -i.bad " + strings.Join(edits, " ") + " " + name + " && pptpalg check-config " + name, values
	}
	return fmt.Sprintf("mv %[1]s %[1]s.bad && pptpalg config --default > %[1]s", name), nil
}

// commentOut returns what sed(1) is to do for the faulty lines to be comments, and what
// the file says then; nil if that would not help. keys returns a table with its defaults.
func commentOut(file, text string, err error, keys func() config.Table) (edits []string, values []config.Value) {
	lines := strings.SplitAfter(text, "\n")
	for err != nil {
		var faults config.Errors
		if !errors.As(err, &faults) {
			return nil, nil
		}
		i := faults[0].Line - 1
		if i >= len(lines) || strings.HasPrefix(lines[i], "#") {
			return nil, nil
		}
		lines[i] = "#" + lines[i]
		edits = append(edits, fmt.Sprintf("-e '%ds/^/#/'", i+1))
		values, err = config.Parse(file, []byte(strings.Join(lines, "")), keys())
	}
	return edits, values
}

// plain are words that mean nothing but themselves to a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quoted writes a word as a shell reads it.
func quoted(word string) string {
	if plain.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
