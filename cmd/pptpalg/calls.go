package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/admin"
)

func callsCommand(e env) *cobra.Command {
	var asJSON, watch bool
	var dir string
	w := watcher{out: e.stdout, sort: "age"}
	cmd := &cobra.Command{
		Use:   "calls",
		Short: "Print the running daemon's call table",
		Long: `Print the running daemon's call table: once, or repeatedly with --watch, which also
shows each call's rate each way. Each end is address/Call ID, first as the end itself
knows it and then as the other end sees it.

Packets are counted where net.netfilter.nf_conntrack_acct was 1 when the call was set
up, or where the daemon translates (--datapath queue).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				w.calls = admin.Client{StateDir: dir}.Calls
				return w.Run(cmd.Context())
			}
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
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show a live table; if standard output is not a terminal, print one table after the other")
	cmd.Flags().DurationVar(&w.interval, "interval", time.Second, "time between two tables of --watch")
	cmd.Flags().Var(&w.sort, "sort", "order of --watch: "+strings.Join(orders(), ", "))
	cmd.Flags().StringVar(&w.filter, "filter", "", "with --watch, show only calls whose line contains this text")
	cmd.MarkFlagsMutuallyExclusive("watch", "json")
	cmd.Flags().StringVar(&dir, "state-dir", stateDir(e), "directory of the daemon's socket")
	return cmd
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printCalls prints a line per call, with each end as it is and as the other end sees it.
func printCalls(w io.Writer, calls []admin.Call, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	shared := slices.ContainsFunc(calls, func(c admin.Call) bool { return c.Owner != "" })
	fmt.Fprint(t, "PNS\tPUBLIC\tPAC\tPUBLIC\tSTATE\tAGE\t")
	if shared {
		fmt.Fprint(t, "OWNER\t")
	}
	fmt.Fprintln(t, "CONTROL")
	for _, c := range calls {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%v\t",
			end(c.PNS.Address, c.PNS.CallID), end(c.PNS.PublicAddress, c.PNS.PublicCallID),
			end(c.PAC.Address, c.PAC.CallID), end(c.PAC.PublicAddress, c.PAC.PublicCallID),
			c.State, now.Sub(c.Since).Truncate(time.Second))
		if shared {
			fmt.Fprintf(t, "%s\t", starred(c.Owner, c.OwnedHere))
		}
		fmt.Fprintf(t, "%s > %s\n", c.Control.Src, c.Control.Dst)
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
