package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/gateway"
)

// configFile is read if it exists and no other file is given.
const configFile = "/etc/pptpalg/pptpalg.yaml"

// settings are the options of run, and where they come from: a flag wins over the file, and
// the file over the default.
type settings struct {
	options
	stateDefault string
	flags        *pflag.FlagSet // one for each option; Changed if the command line has it
	ruleFlags    *pflag.FlagSet // those that the rules need
	file         string         // the configuration file; "" for none
	fileGiven    bool           // so it must exist
}

// newSettings returns the defaults.
func newSettings(stateDir string) *settings {
	s := &settings{stateDefault: stateDir, file: configFile}
	s.ruleFlags = pflag.NewFlagSet("rules", pflag.ContinueOnError)
	s.flags = pflag.NewFlagSet("run", pflag.ContinueOnError)
	s.ruleFlags.SortFlags, s.flags.SortFlags = false, false
	s.ruleOptions.add(s.ruleFlags)
	s.flags.AddFlagSet(s.ruleFlags)
	s.options.add(s.flags, stateDir)
	return s
}

// addTo gives a command flags of s, and --config.
func (s *settings) addTo(cmd *cobra.Command, flags *pflag.FlagSet) {
	cmd.Flags().AddFlagSet(flags)
	cmd.Flags().StringVar(&s.file, "config", configFile, `configuration file; "" for none. The default file need not exist`)
}

// read sets the options that the command line has not given from the configuration file.
// The whole file must be valid, including keys that a flag wins over.
func (s *settings) read(cmd *cobra.Command) error {
	s.fileGiven = cmd.Flags().Changed("config")
	values, err := s.values()
	if err != nil {
		return err
	}
	return config.Apply(s.flags, values)
}

func (s *settings) values() ([]config.Value, error) {
	if s.file == "" {
		return nil, nil
	}
	alone := newSettings(s.stateDefault)
	values, err := config.Read(s.file, alone.keys())
	if errors.Is(err, fs.ErrNotExist) && !s.fileGiven {
		return nil, nil
	}
	return values, err
}

func (s *settings) keys() config.Table {
	return config.Table{Flags: s.flags, Rules: s.fits()}
}

// again returns the settings that the program would have if it were started now with the
// same command line.
func (s *settings) again() (*settings, error) {
	next := newSettings(s.stateDefault)
	next.file, next.fileGiven = s.file, s.fileGiven
	values, err := next.values()
	if err != nil {
		return nil, err
	}
	var given []config.Value
	s.flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			given = append(given, config.Value{Key: f.Name, Text: config.Text(f)})
			next.flags.Lookup(f.Name).Changed = true
		}
	})
	if err := config.Apply(next.flags, values); err != nil {
		return nil, err
	}
	for _, v := range given {
		if err := next.flags.Lookup(v.Key).Value.Set(v.Text); err != nil {
			return nil, err
		}
	}
	_, err = next.daemon()
	return next, err
}

// The options that may change while calls are up. Those of the call table change only if
// the daemon accepts them.
var (
	liveOptions  = []string{"log-level"}
	tableOptions = []string{"max-calls", "max-calls-per-client", "max-calls-per-space", "max-requests", "rest", "idle-timeout"}
)

// reloader applies a changed configuration file at a signal.
type reloader struct {
	running *settings
	level   *slog.LevelVar
	// table makes the daemon apply tableOptions from a configuration that is otherwise
	// the running one. It is nil if the daemon cannot.
	table func(gateway.Config) error
	log   *slog.Logger
	last  atomic.Pointer[gateway.Reload] // what the metrics tell
}

// begun returns a reloader for the settings with which the daemon was started.
func begun(s *settings, log *daemonLog, table func(gateway.Config) error, now time.Time) *reloader {
	r := &reloader{running: s, level: log.level, table: table, log: log.Logger}
	r.last.Store(&gateway.Reload{Good: true, At: now})
	return r
}

// Run reloads at each signal until ctx is done.
func (r *reloader) Run(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
			r.reload()
		}
	}
}

// reload applies what it can. If anything is wrong, nothing changes.
func (r *reloader) reload() {
	next, err := r.running.again()
	if err != nil {
		r.refuse(err)
		return
	}
	applied, pending, err := r.merge(next)
	if err == nil {
		err = r.apply(next, applied)
	}
	if err != nil {
		r.refuse(err)
		return
	}
	r.running = next
	r.last.Store(&gateway.Reload{Good: true, At: time.Now(), Pending: len(pending)})
	r.log.Info("configuration reloaded", "applied", applied)
	if len(pending) > 0 {
		r.log.Warn("configuration needs a restart", "keys", pending)
	}
}

// merge names the keys that differ in next, and resets in next those that cannot be
// applied.
func (r *reloader) merge(next *settings) (applied, pending []string, err error) {
	next.flags.VisitAll(func(f *pflag.Flag) {
		running := config.Text(r.running.flags.Lookup(f.Name))
		switch {
		case config.Text(f) == running:
		case r.live(f.Name):
			applied = append(applied, f.Name)
		default:
			pending = append(pending, f.Name)
			err = errors.Join(err, config.Replace(f, running))
		}
	})
	return applied, pending, err
}

func (r *reloader) live(key string) bool {
	return slices.Contains(liveOptions, key) || r.table != nil && slices.Contains(tableOptions, key)
}

func (r *reloader) apply(next *settings, applied []string) error {
	cfg, err := next.daemon()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(applied, func(key string) bool { return slices.Contains(tableOptions, key) }) {
		if err := r.table(cfg); err != nil {
			return err
		}
	}
	r.level.Set(next.logLevel)
	return nil
}

// refuse logs why nothing changes, one line for each fault of the file.
func (r *reloader) refuse(err error) {
	last := *r.last.Load()
	last.Good = false
	r.last.Store(&last)
	var faults config.Errors
	if !errors.As(err, &faults) {
		r.log.Error("configuration not reloaded", "err", err)
		return
	}
	for _, fault := range faults {
		r.log.Error("configuration not reloaded", "err", fault)
	}
}

func configCommand(e env) *cobra.Command {
	var file string
	var blank bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print every configuration key with its default",
		Long: `Print every key of the configuration file with its help and its default value, or
with the value that --config FILE gives it. The output is itself a configuration file.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := newSettings(stateDir(e))
			if file != "" {
				if _, err := config.Read(file, s.keys()); err != nil {
					return err
				}
			}
			return printConfig(cmd.OutOrStdout(), s.flags, blank)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "print the values of this file")
	cmd.Flags().BoolVar(&blank, "default", false, "print a template with all keys commented out")
	cmd.MarkFlagsMutuallyExclusive("config", "default")
	return cmd
}

const configHead = `# Configuration of pptpalg, read by "pptpalg run", "pptpalg rules" and "pptpalg
# fastpath". Each key is also a flag of "pptpalg run", which overrides this file. "pptpalg check-config" checks it.
`

func printConfig(w io.Writer, flags *pflag.FlagSet, blank bool) error {
	if _, err := io.WriteString(w, configHead); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return config.Write(w, flags, blank)
}

func checkConfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check-config [FILE]",
		Short: "Check a configuration file",
		Long: `Check a configuration file. Print "ok", or one line for each error, with the file's
name, the line number, and what is allowed. If keys do not go together, the line is that
of one of them. Without FILE, check
` + configFile + `, if it exists.`,
		Args: takes("[FILE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := newSettings("")
			if s.fileGiven = len(args) > 0; s.fileGiven {
				s.file = args[0]
			}
			if _, err := s.values(); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		},
	}
}
