package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/spool"
)

// version is set by the linker (-X main.version). If it is not, the module's build
// information is used.
var version string

// env is everything of its process that the command line touches.
type env struct {
	args           []string
	stdout, stderr io.Writer
	lookup         func(key string) (string, bool) // environment variables
}

// execute runs the command line and returns the exit code: 0, or another (see exitCode)
// with the reason on standard error.
func execute(ctx context.Context, e env) int {
	root := &cobra.Command{
		Use:   "pptpalg",
		Short: "PPTP NAT editor: any number of PPTP calls behind one public address",
		Long: `pptpalg runs on a Linux gateway. It follows PPTP control connections, translates the
Call IDs in them, and makes the kernel translate the calls' GRE packets. So any number
of clients and servers can share one public address.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       versionText(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.InitDefaultVersionFlag()
	root.AddCommand(runCommand(e), statusCommand(e), callsCommand(e), explainCommand(e), eventsCommand(e), configCommand(e), checkConfigCommand(), checkCommand(e), replayCommand(), rulesCommand(), fastpathCommand(e), clusterCommand(e), bugreportCommand(e), manCommand(e), versionCommand())
	root.SetArgs(oneWord(e.args))
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.InitDefaultHelpCmd() // now, so that line judges what follows it
	root.InitDefaultCompletionCmd(e.args...)
	line := newLine(root)
	err := line.unknown(e.args)
	if err == nil {
		ran, failed := root.ExecuteContextC(ctx)
		err = line.fault(ran, failed)
	}
	if err != nil {
		spool.Say(e.stderr, reason(err)+"\n", briefly)
		return exitCode(err)
	}
	return 0
}

// reason is the text shown for an error. Faults of a file begin with the file's name, as
// editors expect.
func reason(err error) string {
	if faults := (config.Errors)(nil); errors.As(err, &faults) {
		return faults.Error()
	}
	text := "pptpalg: " + err.Error()
	if wrong := (usageError{}); errors.As(err, &wrong) && wrong.command != "" {
		text = strings.TrimRight(text, "\n") + fmt.Sprintf("\nSee \"%s --help\".", wrong.command)
	}
	return text
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionText())
			return err
		},
	}
}

func versionText() string { return fmt.Sprintf("pptpalg %s (%s)", buildVersion(), runtime.Version()) }

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// stateDir is the directory of the daemon's socket: systemd's RUNTIME_DIRECTORY if it is
// set, else /run/pptpalg.
func stateDir(e env) string {
	if dir, ok := e.lookup("RUNTIME_DIRECTORY"); ok && dir != "" {
		return dir
	}
	return "/run/pptpalg"
}
