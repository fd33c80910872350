package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/sockets"
)

func callsEndCommand(e env) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "end CALL...",
		Short: "End calls, by their numbers in \"pptpalg calls\"",
		Long: `End calls, by their numbers in "pptpalg calls". The gateway no longer translates the GRE
of these calls. If a control connection has no other call, the connection is ended too,
and both ends get a TCP reset. The resets need root; without root, an end behind this
gateway gets one when it next sends. If the control connection has other calls, it stays
up: PPTP has no message that lets a gateway end one of several calls, so the ends notice
only when PPP times out.

A client that gets the reset usually dials again. To keep it out, block it in the firewall.
All calls of a client, or of a network:

  pptpalg calls end $(pptpalg calls --filter 10.77.0.10/32 --json | jq '.[].number')`,
		Args: someCalls,
		RunE: func(cmd *cobra.Command, args []string) error {
			numbers, err := callNumbers(args)
			if err != nil {
				return err
			}
			var failed error
			for _, number := range numbers {
				done, err := admin.Client{StateDir: dir}.EndCall(cmd.Context(), number)
				if err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "call %d has ended; %s\n", number, told(cmd.Context(), dir, done))
				} else {
					err = fmt.Errorf("end call %d: %w", number, err)
				}
				failed = errors.Join(failed, err)
			}
			return failed
		},
	}
	cmd.Flags().StringVar(&dir, "state-dir", stateDir(e), "directory of the daemon's socket")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var found []cobra.Completion
		for _, r := range live(cmd.Context(), dir) {
			if number := strconv.FormatUint(r.Number, 10); !slices.Contains(args, number) {
				found = append(found, cobra.CompletionWithDesc(number, r.client.Address+" to "+r.server.Address))
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// someCalls is for a command that has one argument or more.
func someCalls(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("CALL is missing")
	}
	return nil
}

// callNumbers reads all before anything is done with one.
func callNumbers(args []string) (numbers []uint64, err error) {
	for _, a := range args {
		number, err := strconv.ParseUint(a, 10, 64)
		if err != nil {
			return nil, usagef(`%q is not the number of a call: see column CALL of "pptpalg calls"`, a)
		}
		numbers = append(numbers, number)
	}
	return numbers, nil
}

// told tells the ends of a call that it has ended, and says who knows.
func told(ctx context.Context, dir string, done admin.EndedCall) string {
	if done.Others > 0 {
		return fmt.Sprintf("its control connection stays up for %s, and the ends notice when PPP times out", number(done.Others, "other call"))
	}
	later := "an end behind this gateway gets a TCP reset when it next sends"
	if !sameNetwork(ctx, dir) {
		return later + " (to reset both ends at once, run this as root in the daemon's network namespace)"
	}
	var failed error
	for _, r := range done.Resets {
		failed = errors.Join(failed, sockets.SendReset(r.Src, r.Dst, r.Sequence))
	}
	switch {
	case errors.Is(failed, fs.ErrPermission):
		return later + " (to reset both ends at once, run this as root)"
	case failed != nil:
		return fmt.Sprintf("%s (%v)", later, failed)
	case len(done.Resets) < 2:
		return later + ": its TCP sequence numbers are not known yet"
	}
	return "both ends were sent a TCP reset"
}
