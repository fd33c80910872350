package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/daemon"
	"pptpalg/conntrack/ctnetlink"
	"pptpalg/rules"
)

// ruleOptions are the flags that say what is queued where: the daemon and those who
// load its rules must agree on them.
type ruleOptions struct {
	queue    uint16
	ports    []uint
	bypass   string
	dataPath daemon.DataPath
	data     rules.Data
}

func (o *ruleOptions) add(f *pflag.FlagSet) {
	o.dataPath = daemon.Auto
	f.Uint16Var(&o.queue, "queue", defaultQueue, "NFQUEUE number of control connections")
	f.UintSliceVar(&o.ports, "ports", defaultPorts, "TCP ports to which PPTP clients connect, before any DNAT")
	f.StringVar(&o.bypass, "bypass", rules.Bypass{Labelled: true, Label: rules.DefaultBypassLabel}.String(), `how the kernel is told not to queue a connection any more that is let alone: "label:N" (conntrack label 0 to 127), "mark:BITS" (of the conntrack mark), or "none"`)
	f.TextVar(&o.dataPath, "datapath", o.dataPath, `who translates GRE: "kernel" by conntrack entries, "queue" for the daemon, "auto" for the kernel if it can`)
	f.Uint16Var(&o.data.Queue, "gre-queue", 0, "first NFQUEUE number of GRE, for --datapath queue, as the flags that begin alike; 0 is the one after --queue")
	f.IntVar(&o.data.Queues, "gre-queues", runtime.NumCPU(), "number of GRE queues, each with a thread")
	f.BoolVar(&o.data.ByCPU, "gre-by-cpu", false, "choose a packet's queue by the processor that it arrives at, instead of by its addresses")
	f.Uint32Var(&o.data.Mark, "gre-mark", rules.DefaultMark, "bit of the packet mark by which a call's packets are told, to be accepted in FORWARD; 0 if the firewall lets GRE pass anyway")
	f.Uint8Var(&o.data.Label, "gre-label", rules.DefaultLabel, "conntrack label, 0 to 127, that they get for it")
}

// all checks the flags, and returns them with those of --datapath queue.
func (o *ruleOptions) all() (rules.Config, error) {
	ports, err := portNumbers(o.ports)
	if err != nil {
		return rules.Config{}, err
	}
	bypass, err := rules.ParseBypass(o.bypass)
	if err != nil {
		return rules.Config{}, fmt.Errorf("read --bypass: %w", err)
	}
	if o.data.Queues < 1 {
		return rules.Config{}, fmt.Errorf("read --gre-queues: %d is less than 1", o.data.Queues)
	}
	cfg := rules.Config{Queue: o.queue, Ports: ports, Bypass: bypass, Data: o.data}
	if cfg.Data.Queue == 0 {
		cfg.Data.Queue = o.queue + 1
	}
	return cfg, cfg.Validate()
}

// config returns what is to be loaded, or printed.
func (o *ruleOptions) config() (rules.Config, error) {
	cfg, err := o.all()
	if o.dataPath != daemon.InDaemon {
		cfg.Data = rules.Data{}
	}
	return cfg, err
}

// decide has the kernel tried if the data path is left to it, as the daemon does.
func (o *ruleOptions) decide() error {
	if o.dataPath != daemon.Auto {
		return nil
	}
	c, err := ctnetlink.Dial()
	if err != nil {
		return err
	}
	o.dataPath = daemon.InKernel
	if c.Probe() != nil {
		o.dataPath = daemon.InDaemon
	}
	return c.Close()
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
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the rules as input for iptables-restore --noflush",
		Long: `Print the rules as input for iptables-restore --noflush. Those of --datapath queue
are printed if it is given: the kernel is not asked what it can do.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config()
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), cfg.Text())
			return err
		},
	}
	o.add(cmd.Flags())
	return cmd
}

func rulesLoadCommand() *cobra.Command {
	var o ruleOptions
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Load the rules, in place of those that are loaded",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.decide(); err != nil {
				return err
			}
			cfg, err := o.config()
			if err != nil {
				return err
			}
			done, err := new(rules.Firewall).Load(cmd.Context(), cfg)
			if err == nil && done.Refused != nil {
				cmd.PrintErrf("pptpalg: loaded without what iptables refused: %v\n", done.Refused)
			}
			return err
		},
	}
	o.add(cmd.Flags())
	return cmd
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
