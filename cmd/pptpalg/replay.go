package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/replay"
)

// replayOptions are the flags of replay.
type replayOptions struct {
	nat    []string
	ports  []uint
	write  string
	asJSON bool
}

func replayCommand() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Explain the PPTP in a capture (pcap, pcapng)",
		Long:  replayHelp,
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return o.replay(cmd.OutOrStdout(), args[0]) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.nat, "nat", nil, "CLIENT-NET=PUBLIC: hosts of the network are translated to the public address (repeatable)")
	f.UintSliceVar(&o.ports, "ports", defaultPorts, "TCP ports to which PPTP clients connect")
	f.StringVar(&o.write, "write", "", "write the packets as they are outside the NAT to this pcap file")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	return cmd
}

// replay prints what a capture says. Of a broken one it prints what could be read.
func (o replayOptions) replay(w io.Writer, name string) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	in, err := os.Open(name)
	if err != nil {
		return err // it names the file and what was done to it
	}
	defer in.Close()
	report, err := o.run(in, cfg)
	if err != nil {
		err = fmt.Errorf("replay %s: %w", name, err)
	}
	if report == nil {
		return err
	}
	if o.asJSON {
		return errors.Join(printJSON(w, report), err)
	}
	return errors.Join(report.Text(w), err)
}

func (o replayOptions) config() (replay.Config, error) {
	ports, err := portNumbers(o.ports)
	if err != nil {
		return replay.Config{}, err
	}
	cfg := replay.Config{Ports: ports}
	for _, s := range o.nat {
		n, err := replay.ParseNAT(s)
		if err != nil {
			return cfg, fmt.Errorf("read --nat: %w", err)
		}
		for _, other := range cfg.NAT {
			if n.Net == other.Net {
				return cfg, fmt.Errorf("read --nat: %v is given twice", n.Net)
			}
		}
		cfg.NAT = append(cfg.NAT, n)
	}
	return cfg, nil
}

func (o replayOptions) run(in *os.File, cfg replay.Config) (*replay.Report, error) {
	if o.write == "" {
		return replay.Run(in, nil, cfg)
	}
	out, err := create(o.write, in)
	if err != nil {
		return nil, err
	}
	report, err := replay.Run(in, out, cfg)
	return report, errors.Join(err, out.Close())
}

// create makes the file to write, unless it is the capture itself.
func create(name string, in *os.File) (*os.File, error) {
	capture, err := in.Stat()
	if err != nil {
		return nil, err
	}
	if there, err := os.Stat(name); err == nil && os.SameFile(capture, there) {
		return nil, errors.New("write: the file is the capture itself")
	}
	return os.Create(name)
}

const replayHelp = `HELP
`
