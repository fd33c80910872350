package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/admin"
)

func callsCommand(e env) *cobra.Command {
	var asJSON bool
	var dir string
	cmd := &cobra.Command{
		Use:   "calls",
		Short: "Print the running daemon's call table",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			calls, err := admin.Client{StateDir: dir}.Calls(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), calls)
			}
			return printCalls(cmd.OutOrStdout(), calls, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&dir, "state-dir", stateDir(e), "directory of the daemon's socket")
	return cmd
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printCalls prints a line per call. An end that is translated is shown with its
// public form behind an arrow.
func printCalls(w io.Writer, calls []admin.Call, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PNS\tPUBLIC\tPAC\tPUBLIC\tSTATE\tAGE\tCONTROL")
	for _, c := range calls {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%v\t%s > %s\n",
			end(c.PNS.Address, c.PNS.CallID), end(c.PNS.PublicAddress, c.PNS.PublicCallID),
			end(c.PAC.Address, c.PAC.CallID), end(c.PAC.PublicAddress, c.PAC.PublicCallID),
			c.State, now.Sub(c.Since).Truncate(time.Second), c.Control.Src, c.Control.Dst)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print calls: %w", err)
	}
	return nil
}

// end shows an end of a call as address/Call ID.
func end(address string, id *pptp.CallID) string {
	if id == nil {
		return address + "/-"
	}
	return address + "/" + id.String()
}
