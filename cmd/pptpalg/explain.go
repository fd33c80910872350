package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/explain"
)

func explainCommand(e env) *cobra.Command {
	var o output
	var all bool
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "explain CLIENT | --all",
		Short: "Explain why a client's call does not work",
		Long: `Explain why the calls of a client or server behind the gateway do not work. It prints the
causes, the most likely one first, each with what to do; then the evidence: the control
connection and its NAT, the last messages with their result and error codes in words,
and each call's GRE both ways.

It asks the running daemon. As root it also checks the gateway, as "pptpalg check" does,
and lists what blocks packets now before what was seen earlier. To tell which direction is
blocked, it needs packet counts: net.netfilter.nf_conntrack_acct must have been 1 when the
call was set up, or the daemon must translate GRE (--datapath queue).

With --all it lists every client that has trouble now or had it in the last hour, the worst
first, each with its most likely cause. Exit code 1 means that there is such a client.

If no daemon runs, that is the first cause, and the exit code is 3.`,
		Args: takes("[CLIENT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_ = s.read(cmd) // "pptpalg check" reports a faulty file; the daemon may run with an older one
			switch {
			case all && len(args) > 0:
				return usagef("give a CLIENT or --all, not both")
			case all:
				return explainAll(cmd, s, &o)
			case len(args) == 0:
				return usagef("CLIENT is missing: give the inside address of a client or server, or --all")
			}
			return explainOne(cmd, s, &o, args[0])
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list every client that has trouble, the worst first")
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

func explainOne(cmd *cobra.Command, s *settings, o *output, address string) error {
	client, err := netip.ParseAddr(address)
	if err != nil || !client.Unmap().Is4() {
		return usagef("%q is not an IPv4 address: give the inside address of a client or server", address)
	}
	var report explain.Report
	away, err := answering(cmd.Context(), answerTime, func(ctx context.Context) (err error) {
		report, err = admin.Client{StateDir: s.stateDir}.Explain(ctx, client)
		return err
	})
	if err != nil {
		return err
	}
	if away != nil {
		report = explainAbsent(cmd.Context(), s, client, away)
	} else {
		weigh(cmd.Context(), s, &report)
	}
	if o.structured() {
		err = o.print(cmd.OutOrStdout(), report)
	} else {
		err = report.Text(cmd.OutOrStdout())
	}
	if err == nil && away != nil {
		err = away.verdict("explain")
	}
	return err
}

// explainAll lists the clients that have trouble.
func explainAll(cmd *cobra.Command, s *settings, o *output) error {
	var all []explain.Report
	away, err := answering(cmd.Context(), answersTime, func(ctx context.Context) (err error) {
		all, err = admin.Client{StateDir: s.stateDir}.ExplainAll(ctx)
		return err
	})
	switch {
	case err != nil:
		return err
	case away != nil && o.structured():
		err = o.print(cmd.OutOrStdout(), []explain.Report{})
		return cmp.Or(err, away.verdict("explain"))
	case away != nil:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n   → %s\n", away.Text, away.Advice)
		return cmp.Or(err, away.verdict("explain"))
	}
	reports := make([]*explain.Report, len(all))
	for i := range all {
		reports[i] = &all[i]
	}
	weigh(cmd.Context(), s, reports...)
	if o.structured() {
		err = o.print(cmd.OutOrStdout(), all)
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), troubles(all))
	}
	if err != nil || len(all) == 0 {
		return err
	}
	return codeError{code: 1, text: "explain: " + number(len(all), "client") + " with trouble"}
}

// troubles has the first cause for each client.
func troubles(all []explain.Report) string {
	if len(all) == 0 {
		return "no client has trouble\n"
	}
	var b strings.Builder
	for _, r := range all {
		seen := "now"
		if c := r.Control; c != nil && c.Over && !c.Last.IsZero() {
			seen = explain.Age(r.Now.Sub(c.Last.Time)) + " ago"
		}
		fmt.Fprintf(&b, "%v (%s): %s (%s)\n   → %s\n", r.Client, seen, r.Causes[0].Text, r.Causes[0].Code, r.Causes[0].Advice)
	}
	b.WriteString("\n\"pptpalg explain CLIENT\" shows the details of one client\n")
	return b.String()
}
