package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
)

func explainCommand(e env) *cobra.Command {
	var asJSON bool
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "explain CLIENT",
		Short: "Say why a client's call does not work",
		Long: `Say why the calls of an inside address do not work, be it a client or a server: the
causes, the most likely one first, each with what to do; then what they were seen from:
the control connection and its NAT, the last messages with their result and error
codes, and each call's GRE both ways.

It asks the running daemon. Root has the gateway looked at too, as "pptpalg check" does:
what keeps packets away at present stands first. GRE is counted where
net.netfilter.nf_conntrack_acct was 1 when the call was set up, or where the daemon
translates (--datapath queue).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("read CLIENT: %w: give the inside address of a client or server", err)
			}
			_ = s.read(cmd) // a file with faults is for "pptpalg check" to tell; the daemon may run well by an older one
			report, err := admin.Client{StateDir: s.stateDir}.Explain(cmd.Context(), client)
			if err != nil {
				return err
			}
			weigh(cmd.Context(), s, &report)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), report)
			}
			return report.Text(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().AddFlagSet(s.some("ports", "state-dir"))
	return cmd
}
