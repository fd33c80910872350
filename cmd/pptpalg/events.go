package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/history"
)

// eventLog is the event log of a running daemon; the zero value is none.
type eventLog struct{ *history.Log }

// openEventLog opens the event log. If path is "", there is none.
func openEventLog(path string, store *history.Store, log *slog.Logger) (eventLog, error) {
	if path == "" {
		return eventLog{}, nil
	}
	l, err := history.OpenLog(path, store, log)
	if err != nil {
		return eventLog{}, fmt.Errorf("%w: choose another file with --event-log", err)
	}
	return eventLog{l}, nil
}

// Run writes the log until ctx is done. On SIGHUP it opens the file again.
func (l eventLog) Run(ctx context.Context) error {
	if l.Log == nil {
		return nil
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	return l.Log.Run(ctx, hangups)
}

// Lost returns how many events were not written.
func (l eventLog) Lost() uint64 {
	if l.Log == nil {
		return 0
	}
	return l.Log.Lost()
}

func eventsCommand(e env) *cobra.Command {
	var asJSON, follow bool
	var dir string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print which calls were opened, translated and closed",
		Long: `Print a line for each call that was opened, translated and closed: when, the addresses
and Call IDs of its ends, and those that the other ends saw. For a call that ended, also
why, after how long, and what it carried each way (packets/bytes, "-" where nothing
counted). A line ends in "approximate" where the counts are incomplete: somebody deleted
an entry that counted, or an earlier daemon translated.

The daemon keeps the last events of each client. "pptpalg run --event-log FILE" writes
a log of all of them.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines := json.NewEncoder(cmd.OutOrStdout())
			return admin.Client{StateDir: dir}.Events(cmd.Context(), follow, func(r history.Record) error {
				if asJSON {
					return lines.Encode(r)
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), r)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, an object on each line")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing events as they happen")
	cmd.Flags().StringVar(&dir, "state-dir", stateDir(e), "directory of the daemon's socket")
	return cmd
}
