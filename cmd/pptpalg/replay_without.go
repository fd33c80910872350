//go:build noreplay

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

var errNoReplay = errors.New("this pptpalg is built without replay (build tag noreplay): take the capture to a machine with a full build")

func replayCommand() *cobra.Command {
	return &cobra.Command{
		Use: "replay FILE|-", Short: "Explain the PPTP in a capture (not in this build)", DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error { return errNoReplay },
	}
}
