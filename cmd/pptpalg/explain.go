package main

import (
	"net/netip"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
)

func explainCommand(e env) *cobra.Command {
	var o output
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "explain CLIENT",
		Short: "Say why a client's call does not work",
		Long: `Say why the calls of a client or server behind the gateway do not work. It prints the
causes, the most likely one first, each with what to do; then the evidence: the control
connection and its NAT, the last messages with their result and error codes in words,
and each call's GRE both ways.

It asks the running daemon. As root it also checks the gateway, as "pptpalg check" does:
what blocks packets now comes before what was seen earlier. Packets are counted, so that
it can tell which way is blocked, where net.netfilter.nf_conntrack_acct was 1 when the
call was set up, or where the daemon translates (--datapath queue).`,
		Args: takes("CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := netip.ParseAddr(args[0])
			if err != nil || !client.Unmap().Is4() {
				return usagef("%q is not an IPv4 address: give the inside address of a client or server", args[0])
			}
			_ = s.read(cmd) // "pptpalg check" reports a faulty file; the daemon may run with an older one
			report, err := admin.Client{StateDir: s.stateDir}.Explain(cmd.Context(), client)
			if err != nil {
				return err
			}
			weigh(cmd.Context(), s, &report)
			if o.structured() {
				return o.print(cmd.OutOrStdout(), report)
			}
			return report.Text(cmd.OutOrStdout())
		},
	}
	o.addTo(cmd, formText, formJSON, formYAML)
	cmd.Flags().AddFlagSet(s.some("ports", "state-dir"))
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return clientsOf(cmd.Context(), s.stateDir), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}
