package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/check"
)

// codeError is an error with its own exit code.
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
	if wrong := (usageError{}); errors.As(err, &wrong) {
		return usageCode
	}
	return 1
}

func checkCommand(e env) *cobra.Command {
	var o output
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check this gateway for what keeps PPTP from working",
		Long: `Check this gateway for what keeps PPTP from working, before the first call: the
configuration file, rights, NFQUEUE, conntrack, whether this kernel really translates
GRE, forwarding, NAT, firewall rules that drop a call's GRE or its control connection,
the kernel's own helper, proxies on port 1723, room in the conntrack table, the fast
path, the collectors of events, and the daemon. With --cluster also: etcd, its latency and
this gateway's rights there, the other gateways' settings and clocks, masquerading, room
for the calls of all gateways, and the configuration of conntrackd and keepalived. It
prints a line for each check, and below each problem the command that fixes it.

It changes nothing on the gateway (in etcd it writes one key and deletes it) and does not
affect other traffic: it sends its test packets and loads rules only in network namespaces
of its own, which end with the command. To test the firewall, it copies the rules of
iptables and nft into such a namespace and sends a call's packets through the copy,
between the interfaces that routes and NAT show to be inside and outside, and through
DNAT to a server. This needs root and ip(8).

It uses the settings that "pptpalg run" would start with: the configuration file, and the
flags, which override the file. If a daemon is running, its flags are used as if they were
given here.

Results: ok; warning, for what may be intended or cannot be decided; problem; and
unchecked, for what could not be read, for example without root.

Exit code: 0 if every result is ok or warning, 1 if there is a problem, 2 if there is no
problem but something is unchecked, or if the command line is wrong.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.fileGiven = cmd.Flags().Changed("config")
			cfg, err := s.setup(cmd.Context())
			if err != nil {
				return usageError{error: err} // faults of the file are findings
			}
			found := check.Run(cmd.Context(), cfg)
			if err := printFindings(cmd.OutOrStdout(), found, &o); err != nil {
				return err
			}
			return verdict(found)
		},
	}
	s.addTo(cmd, s.flags)
	o.addTo(cmd, formText, formJSON, formYAML)
	return cmd
}

// printFindings prints them for people, or as an array for programs.
func printFindings(w io.Writer, found check.Findings, o *output) error {
	switch {
	case !o.structured():
		return found.WriteText(w)
	case o.form == formYAML:
		return printYAML(w, found)
	}
	return found.WriteJSON(w)
}

// verdict returns nil where the exit code is to be 0.
func verdict(found check.Findings) error {
	code := found.Code()
	if code == 0 {
		return nil
	}
	return codeError{code: code, text: fmt.Sprintf("check: %s, %d unchecked, %s",
		number(found.Count(check.Problem), "problem"), found.Count(check.Unchecked), number(found.Count(check.Warning), "warning"))}
}

// number is "1 problem", or "2 problems".
func number(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
