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
	"pptpalg/cmd/pptpalg/internal/notify"
	"pptpalg/rules/choice"
)

// The remedies in this file are for the daemon's configuration.

// setCommand returns the command that gives a key another value: in the file, unless a flag
// wins over the file. If the file is wrong, the command fixes that first.
func (s *judged) setCommand(key, value string) string {
	switch {
	case s.file == "" || s.flags.Lookup(key).Changed:
		return "pptpalg run --" + key + " " + quoted(value)
	case s.mend != "":
		return s.mend
	}
	command := s.editCommand(key, yamlText(s.flags.Lookup(key), value))
	if s.running {
		command += " && " + notify.Command("restart")
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

// linesOf returns the first and the last line, from 1, that give a key in a valid file, or
// 0 if it does not have the key. One other line can replace them.
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
	if f := s.flags.Lookup("rules"); f.Changed && s.rules != choice.None {
		words = append(words, "--rules="+quoted(s.rules))
	}
	return strings.Join(words, " ")
}

// loadFastCommand returns the command that loads the fast path for this daemon.
func (s *judged) loadFastCommand() string {
	words := []string{"pptpalg fastpath load"}
	if s.fileGiven {
		words = append(words, "--config "+quoted(s.file))
	}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed && strings.HasPrefix(f.Name, "fastpath") {
			words = append(words, "--"+f.Name+"="+quoted(config.Text(f)))
		}
	})
	return strings.Join(words, " ")
}

// mendFile returns the command that fixes the configuration file: it comments out the wrong
// lines, or replaces the file with a fresh one. It also returns the values that the fixed
// file gives.
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

// commentOut returns the edits for sed(1) that comment out the faulty lines, and the values
// that the file gives then; nil if that would not help. keys returns a table with its
// defaults.
func commentOut(file, text string, err error, keys func() config.Table) (edits []string, values []config.Value) {
	lines := strings.SplitAfter(text, "\n")
	for err != nil {
		var faults config.Errors
		if !errors.As(err, &faults) {
			return nil, nil
		}
		i := faults[0].Line - 1 // a fault without a line comes first
		if i < 0 || i >= len(lines) || strings.HasPrefix(lines[i], "#") {
			return nil, nil
		}
		lines[i] = "#" + lines[i]
		edits = append(edits, fmt.Sprintf("-e '%ds/^/#/'", i+1))
		values, err = config.Parse(file, []byte(strings.Join(lines, "")), keys())
	}
	return edits, values
}

// plain matches words that a shell takes literally.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quoted quotes a word for a shell.
func quoted(word string) string {
	if plain.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
