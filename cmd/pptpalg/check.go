package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/check"
)

// codeError is an error that has an exit code of its own.
type codeError struct {
	code int
	text string
}

func (e codeError) Error() string { return e.text }

// exitCode returns the exit code for an error that ends the program.
func exitCode(err error) int {
	var own codeError
	if errors.As(err, &own) {
		return own.code
	}
	return 1
}

func checkCommand(e env) *cobra.Command {
	var asJSON bool
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at what may keep PPTP from working on this gateway",
		Long: `Look at what may keep PPTP from working on this gateway: configuration, rights,
kernel, settings, firewall, and the daemon. A line for each, and below it the command
that mends what is wrong. Nothing is changed, and no packet of others is touched: GRE
is tried with packets of its own, and rules are loaded, in network namespaces that end
with the command.

What is judged is the daemon as "pptpalg run" would start it: by the configuration
file, and by flags, which win over it. Flags of a daemon that runs already count as
if they were given.

Results: ok; warning, for what may be meant so or cannot be decided; problem; and
unchecked, for what could not be read, as without root.

Exit code: 0 if all is ok or a warning, 1 if there is a problem (or the command
line is wrong), 2 if there is none but something could not be checked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.fileGiven = cmd.Flags().Changed("config")
			cfg, err := s.setup(cmd.Context())
			if err != nil {
				return err
			}
			found := check.Run(cmd.Context(), cfg)
			write := found.WriteText
			if asJSON {
				write = found.WriteJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			return verdict(found)
		},
	}
	s.addTo(cmd, s.flags)
	cmd.Flags().BoolVar(&asJSON, "json", false, `print JSON: an array of {check, result, found, remedy}`)
	return cmd
}

// verdict returns nil where the exit code is to be 0.
func verdict(found check.Findings) error {
	code := found.Code()
	if code == 0 {
		return nil
	}
	return codeError{code: code, text: fmt.Sprintf("check: problems %d, unchecked %d, warnings %d",
		found.Count(check.Problem), found.Count(check.Unchecked), found.Count(check.Warning))}
}
