package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/rules/choice"
)

// judged are the settings of the daemon that check judges.
type judged struct {
	*settings
	running bool   // a daemon runs, perhaps with other settings
	mend    string // the command that fixes the file; "" if it is valid
}

// setup returns the configuration of a daemon that would be started now, with the given
// flags and those of the running daemon.
func (s *settings) setup(ctx context.Context) (check.Config, error) {
	j := &judged{settings: s.given()}
	if args := runningFlags(ctx, s.runningDir()); args != nil {
		j.running = true
		j.adopt(args)
	}
	file, values := j.judgedFile()
	if err := config.Apply(j.flags, values); err != nil {
		return check.Config{}, err
	}
	loaded, err := j.all()
	if err != nil {
		return check.Config{}, err
	}
	loader, err := choice.Parse(j.rules)
	if err != nil {
		return check.Config{}, err
	}
	shared, err := j.checkedCluster()
	if err != nil {
		return check.Config{}, err
	}
	exports, err := parseExports(j.exports)
	if err != nil {
		return check.Config{}, err
	}
	return check.Config{
		Cluster: shared, Exports: exports,
		Rules: loaded, DataPath: string(j.dataPath), Loader: loader,
		Listen: j.listen, WebConfig: j.webConfig, EventLog: j.eventLog, StateDir: j.stateDir,
		File: file, Set: j.setCommand, Load: j.loadCommand(),
		Fast: j.fast.config(""), LoadFast: j.loadFastCommand(),
	}, nil
}

// given returns settings with the flags of the command line of s, and nothing else.
func (s *settings) given() *settings {
	next := newSettings(s.stateDefault)
	next.file, next.fileGiven = s.file, s.fileGiven
	s.flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			next.take(f)
		}
	})
	return next
}

// take copies a flag from another set, as if it were given.
func (s *settings) take(f *pflag.Flag) {
	own := s.flags.Lookup(f.Name)
	own.Changed = config.Replace(own, config.Text(f)) == nil // it was good there
}

// judgedFile reads the configuration file, and says what is wrong with it. The valid values
// count.
func (s *judged) judgedFile() (check.File, []config.Value) {
	values, err := s.values()
	file := check.File{Name: s.file, Err: err}
	if _, missing := os.Stat(s.file); missing != nil && err == nil {
		file.Name = "" // the default one need not be there
	}
	if faults := (config.Errors)(nil); errors.As(err, &faults) {
		for _, f := range faults {
			file.Faults = append(file.Faults, f.Error())
		}
	}
	if err != nil {
		file.Mend, values = s.mendFile(err)
		s.mend = file.Mend
	}
	return file, values
}

// runningDir is the directory of the socket of a running daemon.
func (s *settings) runningDir() string {
	if next, err := s.again(); err == nil {
		return next.stateDir
	}
	return s.stateDir
}

// runningFlags returns the flags of the daemon that answers in a state directory, nil if
// there is none.
func runningFlags(ctx context.Context, dir string) []string {
	pid, err := admin.Client{StateDir: dir}.PID(ctx)
	if err != nil {
		return nil
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	if i := slices.Index(words, "run"); i >= 0 {
		return words[i+1:]
	}
	return nil
}

// adopt takes the flags of a command line as given, except those that s has already. It
// ignores flags that s does not know: they are of another version.
func (s *judged) adopt(args []string) {
	other := newSettings(s.stateDefault)
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.AddFlagSet(other.flags)
	flags.StringVar(&other.file, "config", configFile, "")
	if flags.Parse(args) != nil {
		return
	}
	flags.Visit(func(f *pflag.Flag) {
		own := s.flags.Lookup(f.Name)
		switch {
		case f.Name == "config" && !s.fileGiven:
			s.file, s.fileGiven = other.file, true
		case own != nil && !own.Changed:
			s.take(f)
		}
	})
}
