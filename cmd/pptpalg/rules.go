package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"pptpalg/rules"
)

// ruleOptions are the flags of the rules commands that write rules.
type ruleOptions struct {
	queue uint16
	ports []uint
}

func (o *ruleOptions) add(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Uint16Var(&o.queue, "queue", defaultQueue, "NFQUEUE number to send packets to")
	cmd.Flags().UintSliceVar(&o.ports, "ports", defaultPorts, "TCP ports to which PPTP clients connect, before any DNAT")
	return cmd
}

func (o *ruleOptions) config() (rules.Config, error) {
	ports, err := portNumbers(o.ports)
	return rules.Config{Queue: o.queue, Ports: ports}, err
}

func rulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Print, load or unload the firewall rules",
		Long: `The firewall rules that send PPTP's control connections to the daemon. "pptpalg run"
loads and unloads them by itself; these commands are for gateways whose
firewall is managed by something else.`,
	}
	cmd.AddCommand(rulesPrintCommand(), rulesLoadCommand(), rulesUnloadCommand())
	return cmd
}

func rulesPrintCommand() *cobra.Command {
	var o ruleOptions
	return o.add(&cobra.Command{
		Use:   "print",
		Short: "Print the rules as input for iptables-restore --noflush",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config()
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), cfg.Text())
			return err
		},
	})
}

func rulesLoadCommand() *cobra.Command {
	var o ruleOptions
	return o.add(&cobra.Command{
		Use:   "load",
		Short: "Load the rules, in place of those that are loaded",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config()
			if err != nil {
				return err
			}
			done, err := new(rules.Firewall).Load(cmd.Context(), cfg)
			if err == nil && done.Refused != nil {
				cmd.PrintErrf("pptpalg: every segment is queued, pure acknowledgements too: %v\n", done.Refused)
			}
			return err
		},
	})
}

func rulesUnloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unload",
		Short: "Remove the rules",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return new(rules.Firewall).Unload(context.WithoutCancel(cmd.Context()))
		},
	}
}
