package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/config"
)

// usageCode is the exit code for a command line that is wrong. It differs from that of work
// that fails, and from that of a problem that check finds.
const usageCode = 2

// usageError is a command line that is wrong.
type usageError struct {
	error
	command string // whose help says what is right; "" where that helps nobody
}

func (e usageError) Unwrap() error { return e.error }

// usagef is for what only the command itself finds wrong.
func usagef(format string, args ...any) error {
	return usageError{error: fmt.Errorf(format, args...)}
}

// line runs a command line. Whatever goes wrong before a command begins its work is the
// command line's fault.
type line struct {
	root  *cobra.Command
	begun bool
}

func newLine(root *cobra.Command) *line {
	l := &line{root: root}
	root.SetFlagErrorFunc(flagFault)
	for _, cmd := range root.Commands() {
		l.follow(cmd)
	}
	return l
}

// follow notes when a command, or one below it, begins its work.
func (l *line) follow(cmd *cobra.Command) {
	completeFlags(cmd)
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			l.begun = true
			return work(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		l.follow(sub)
	}
}

// fault returns the error of a run as it is to be shown.
func (l *line) fault(ran *cobra.Command, err error) error {
	if err == nil || l.begun {
		return err
	}
	return usageError{together(err), ran.CommandPath()}
}

// exclusive is how cobra ends its words about flags that exclude each other.
var exclusive = regexp.MustCompile(`\[([^\[\]]+)\] were all set$`)

// together says in plain words which flags exclude each other. Any other error is returned as
// it is.
func together(err error) error {
	set := exclusive.FindStringSubmatch(err.Error())
	if set == nil {
		return err
	}
	flags := "--" + strings.ReplaceAll(set[1], " ", " and --")
	return fmt.Errorf("%s cannot be used together", flags)
}

// unknown returns an error where a group of commands is given something that is none of
// them, or help is asked for what is none. Cobra would print the group's help and report success.
func (l *line) unknown(args []string) error {
	asked := len(args) > 0 && args[0] == "help"
	if asked {
		args = args[1:]
	}
	group, rest, err := l.root.Find(args)
	if err != nil && asked {
		return usageError{err, l.root.CommandPath()}
	}
	if err != nil || group.Runnable() && !asked || len(rest) == 0 || strings.HasPrefix(rest[0], "-") {
		return nil // cobra has a word for it, or there is nothing wrong
	}
	text := fmt.Sprintf("unknown command %q for %q", rest[0], group.CommandPath())
	group.SuggestionsMinimumDistance = 2 // as cobra has it for the first word
	if near := group.SuggestionsFor(rest[0]); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %q?", near[0])
	}
	return usageError{errors.New(text), group.CommandPath()}
}

// flagFault says in plain words what is wrong with a flag.
func flagFault(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &value):
		return errors.New("--" + config.WrongValue(value.GetFlag(), value.GetValue(), value.Unwrap()))
	case errors.As(err, &missing):
		return errors.New(config.Missing(missing.GetFlag()))
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		text := "unknown flag --" + unknown.GetSpecifiedName()
		if near := config.Nearest(unknown.GetSpecifiedName(), cmd.Flags()); near != "" {
			text += "; did you mean --" + near + "?"
		}
		return errors.New(text)
	}
	return err
}

// takes says which arguments a command has, by their names in its help. The last one may be
// in brackets, which says that it may be left out.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) > len(names) && len(names) == 0:
			return fmt.Errorf("unexpected argument %q: this command takes none", args[0])
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q after %s", args[len(names)], strings.Join(names, " "))
		case slices.Contains(args, ""):
			return fmt.Errorf("%s is empty", strings.Trim(names[slices.Index(args, "")], "[]"))
		case len(args) < len(names) && !strings.HasPrefix(names[len(args)], "["):
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		return nil
	}
}

// Flags whose values are files or directories, which the shell completes.
var (
	fileFlags = []string{"config", "web-config", "event-log", "file", "cluster-cert", "cluster-key", "cluster-ca", "write"}
	dirFlags  = []string{"state-dir", "fastpath-dir"}
)

// oneWord has the shell complete a reversed order, --sort -a: cobra takes what begins with a
// minus for a flag, unless it is one word with the flag before it.
func oneWord(args []string) []string {
	n := len(args)
	if n < 3 || args[0] != cobra.ShellCompRequestCmd && args[0] != cobra.ShellCompNoDescRequestCmd {
		return args
	}
	if args[n-2] != "--sort" || !strings.HasPrefix(args[n-1], "-") {
		return args
	}
	return append(slices.Clone(args[:n-2]), args[n-2]+"="+args[n-1])
}

// completeFlags tells the shell the values of a command's flags.
func completeFlags(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		// The error says that the flag has a function of its own.
		_ = cmd.RegisterFlagCompletionFunc(f.Name, flagValues(f))
	})
}

func flagValues(f *pflag.Flag) cobra.CompletionFunc {
	for _, name := range fileFlags {
		if f.Name == name {
			return cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
		}
	}
	for _, name := range dirFlags {
		if f.Name == name {
			return cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
		}
	}
	values := config.Values(f)
	if f.Value.Type() == "bool" {
		values = []string{"true", "false"}
	}
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)
}
