package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/conntrack"
	"pptpalg/rules"
	"pptpalg/rules/choice"
	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// ruleOptions are the flags that say what is queued where. The daemon and whoever loads
// its rules must give the same ones.
type ruleOptions struct {
	queue    uint16
	ports    []uint
	bypass   string
	dataPath datapath.Name
	data     rules.Data
	label    uint8 // unused; older configuration files have it
	reset    bool
	mark     uint32 // of packets to be answered with a RST
}

func (o *ruleOptions) add(f *pflag.FlagSet) {
	o.dataPath = datapath.Auto
	f.Uint16Var(&o.queue, "queue", defaultQueue, "NFQUEUE number of control connections")
	f.UintSliceVar(&o.ports, "ports", defaultPorts, "TCP ports to which PPTP clients connect, before any DNAT")
	f.StringVar(&o.bypass, "bypass", conntrack.Bypass{Labelled: true, Label: rules.DefaultBypassLabel}.String(), `how the daemon marks connections that need not be queued: "label:N" (conntrack label 0 to 127), "mark:BITS" (of the conntrack mark), or "none"`)
	f.BoolVar(&o.reset, "reset-lost", true, "when a client's control connection was lost, answer its next segment with a RST, so that it dials again at once")
	f.Uint32Var(&o.mark, "reset-mark", rules.DefaultResetMark, "bit of the packet mark that tells the rules which segments to answer with a RST")
	f.TextVar(&o.dataPath, "datapath", o.dataPath, `what translates GRE: "kernel" with conntrack entries, "queue" the daemon itself, "auto" the kernel if a test shows that it can, else the daemon`)
	f.Uint16Var(&o.data.Queue, "gre-queue", 0, "first NFQUEUE number for GRE; 0 means the one after --queue. All --gre flags are for --datapath queue")
	f.IntVar(&o.data.Queues, "gre-queues", 0, "number of GRE queues, each with its own thread; 0 means one per processor")
	f.BoolVar(&o.data.ByCPU, "gre-by-cpu", false, "choose a packet's queue by the processor that receives it instead of by its addresses: for many calls between two addresses")
	f.Uint32Var(&o.data.Mark, "gre-mark", rules.DefaultMark, "bit of the packet mark that the rules use internally, together with the next higher bit: no packet may arrive with either set. 0 means the default bit, without the rules that accept calls' GRE, for a firewall that accepts untracked GRE anyway")
	f.Uint8Var(&o.label, "gre-label", 119, "no effect; accepted for older configuration files")
	config.OneOf(f, "datapath", string(datapath.Auto), string(datapath.Kernel), string(datapath.Queue))
	o.check(f)
}

// check makes the flags refuse values that no queue, port or label can have.
func (o *ruleOptions) check(f *pflag.FlagSet) {
	config.Want(f, "ports", "ports from 1 to 65535, such as 1723 or [1723, 1724]")
	config.Check(f, "ports", func() error {
		_, err := parsePorts(o.ports)
		return err
	})
	config.Check(f, "bypass", func() error {
		if _, err := conntrack.ParseBypass(o.bypass); err != nil {
			return config.ErrUnfit
		}
		return nil
	})
	config.Want(f, "bypass", "none, label:NUMBER with a number from 0 to 127, or mark:BITS with at least one bit, such as mark:0x10")
	config.Want(f, "gre-label", "a whole number from 0 to 127")
	config.Check(f, "gre-label", func() error {
		if o.label > 127 {
			return errors.New("not a label")
		}
		return nil
	})
	atLeast(f, "gre-queues", &o.data.Queues, 0)
}

// all returns what all flags say, those of --datapath queue too, or an error if they do
// not go together.
func (o *ruleOptions) all() (rules.Config, error) {
	ports, err := portNumbers(o.ports)
	if err != nil {
		return rules.Config{}, err
	}
	bypass, err := conntrack.ParseBypass(o.bypass)
	if err != nil {
		return rules.Config{}, fmt.Errorf("read --bypass: %w", err)
	}
	cfg := rules.Config{Queue: o.queue, Ports: ports, Bypass: bypass, Data: o.queues()}
	if o.reset {
		cfg.ResetMark = o.mark
	}
	return cfg, config.Together(o.fits())
}

// queues are those of data path queue.
func (o *ruleOptions) queues() rules.Data {
	data := o.data
	if data.Queue == 0 {
		data.Queue = o.queue + 1
	}
	if data.Queues == 0 {
		data.Queues = runtime.NumCPU()
	}
	return data
}

// fits are the rules by which the flags go together. Each looks at a part of what the
// firewall's rules need.
func (o *ruleOptions) fits() []config.Rule {
	return []config.Rule{
		{Keys: []string{"bypass", "reset-lost", "reset-mark"}, Check: o.checkReset},
		{Keys: []string{"queue", "gre-queue", "gre-queues"}, Check: o.checkQueues},
		{Keys: []string{"queue", "gre-queue", "gre-queues"}, Check: o.spareLock},
		{Keys: []string{"gre-mark"}, Check: o.checkMark},
	}
}

func (o *ruleOptions) checkReset() error {
	bypass, err := conntrack.ParseBypass(o.bypass)
	if err != nil || !o.reset {
		return err
	}
	return rules.Config{Ports: fewPorts, Bypass: bypass, ResetMark: o.mark}.Validate()
}

func (o *ruleOptions) checkQueues() error {
	data := o.queues()
	data.Mark = 0
	return rules.Config{Ports: fewPorts, Queue: o.queue, Data: data}.Validate()
}

func (o *ruleOptions) checkMark() error {
	return rules.Config{Ports: fewPorts, Data: rules.Data{Queue: 1, Queues: 1, Mark: o.data.Mark}}.Validate()
}

// fewPorts are valid ones, for rules of which another part is looked at.
var fewPorts = []uint16{1}

// spareLock refuses the queue number that the daemon needs for itself.
func (o *ruleOptions) spareLock() error {
	data := o.queues()
	first, lock := int(data.Queue), int(nfqueue.Lock)
	if o.queue == nfqueue.Lock || first <= lock && lock < first+data.Queues {
		return fmt.Errorf("queue %d is the daemon's lock: choose other numbers with --queue and --gre-queue", lock)
	}
	return nil
}

func portNumbers(given []uint) ([]uint16, error) {
	ports, err := parsePorts(given)
	if err != nil {
		return nil, usagef("read --ports: %w", err)
	}
	return ports, nil
}

func parsePorts(given []uint) ([]uint16, error) {
	ports := make([]uint16, len(given))
	for i, p := range given {
		if p > 65535 {
			return nil, fmt.Errorf("%d is not a TCP port", p)
		}
		ports[i] = uint16(p)
	}
	if err := (rules.Config{Ports: ports}).Validate(); err != nil {
		return nil, err
	}
	return ports, nil
}

// config returns what is to be loaded, or printed.
func (o *ruleOptions) config() (rules.Config, error) {
	cfg, err := o.all()
	if o.dataPath != datapath.Queue {
		cfg = cfg.ByKernel()
	}
	return cfg, err
}

// decide chooses between the data paths as the daemon does: if it is left open, by
// trying the kernel.
func (o *ruleOptions) decide() error {
	if o.dataPath != datapath.Auto {
		return nil
	}
	c, err := conntrack.Dial()
	if err != nil {
		return err
	}
	o.dataPath = datapath.Kernel
	if c.Probe() != nil {
		o.dataPath = datapath.Queue
	}
	return c.Close()
}

func rulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Print, load or unload the firewall rules",
		Long: `Print, load or unload the firewall rules that send PPTP's control connections to the
daemon. "pptpalg run" loads and unloads them by itself. These commands are for gateways
where something else manages the firewall and the daemon runs with --rules none: give
them the same flags as the daemon, or the same configuration file.`,
	}
	cmd.AddCommand(rulesPrintCommand(), rulesLoadCommand(), rulesUnloadCommand())
	return cmd
}

// ruleFormats are the forms in which rules are printed.
var ruleFormats = map[string]func(rules.Config) (string, error){
	"iptables": func(cfg rules.Config) (string, error) {
		vrfs, err := iptables.VRFs()
		return iptables.Text(cfg, vrfs...), err
	},
	"nft": func(cfg rules.Config) (string, error) { return nft.Text(cfg), nil },
}

func rulesPrintCommand() *cobra.Command {
	s := newSettings("")
	var format string
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the rules as input for iptables-restore --noflush, or nft -f",
		Long: `Print the rules as input for iptables-restore --noflush, or, with --format nft, for
nft -f. The rules of data path queue are printed only if --datapath queue is given:
this command does not try what the kernel can do.

The iptables form has a rule for each VRF that the gateway has now. Only "pptpalg run"
with --rules iptables keeps them up to date: print and load the rules again when a VRF is
added, removed or renamed. The nft form matches VRFs by their kind and needs no update.

The nft form is the table that the daemon loads, "ip pptpalg". If you load it yourself, run
the daemon with --rules none. Loading it again replaces it. With --datapath queue its
first lines name the rules to add to a forward chain that drops by default.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.read(cmd); err != nil {
				return err
			}
			text, known := ruleFormats[format]
			if !known {
				return usagef("read --format: %q is neither iptables nor nft", format)
			}
			cfg, err := s.config()
			if err != nil {
				return usageError{error: err}
			}
			printed, err := text(cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), printed)
			return err
		},
	}
	s.addTo(cmd, s.ruleFlags)
	cmd.Flags().StringVar(&format, "format", "iptables", `the program that will load the rules: "iptables" or "nft"`)
	config.OneOf(cmd.Flags(), "format", "iptables", "nft")
	return cmd
}

func rulesLoadCommand() *cobra.Command {
	s := newSettings("")
	var loader string
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Load the rules, replacing those that are loaded",
		Long: `Load the rules, replacing those that are loaded. With iptables, each VRF that the gateway
has now gets a rule. Only "pptpalg run" with --rules iptables keeps them up to date: load
the rules again when a VRF is added, removed or renamed.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.read(cmd); err != nil {
				return err
			}
			if err := s.decide(); err != nil {
				return err
			}
			cfg, err := s.config()
			if err != nil {
				return usageError{error: err}
			}
			name, err := s.loader(loader)
			if err != nil {
				return err
			}
			done, err := choice.New(name).Load(cmd.Context(), cfg)
			if err == nil && done.Refused != nil {
				cmd.PrintErrf("pptpalg: loaded, except what %s refused: %v\n", done.Backend, done.Refused)
			}
			return err
		},
	}
	s.addTo(cmd, s.ruleFlags)
	cmd.Flags().StringVar(&loader, "rules", "", `how to load them: "auto", "nft" or "iptables"; "" means as in the configuration file, or auto if that does not name one`)
	config.OneOf(cmd.Flags(), "rules", choice.Auto, choice.NFT, choice.IPTables)
	return cmd
}

// loader returns who is to load the rules, by a flag of "rules load" or the file.
func (s *settings) loader(given string) (string, error) {
	if given != "" {
		name, err := choice.Parse(given)
		if err != nil || name == choice.None {
			return "", usagef("read --rules: %q is none of auto, nft, iptables", given)
		}
		return name, nil
	}
	name, err := choice.Parse(s.rules)
	if name == choice.None {
		name = choice.Auto
	}
	return name, err
}

func rulesUnloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unload",
		Short: "Remove the rules",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return choice.New(choice.Auto).Unload(context.WithoutCancel(cmd.Context()))
		},
	}
}
