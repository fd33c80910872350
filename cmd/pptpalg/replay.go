//go:build !noreplay

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/replay"
)

// replayOptions are the flags of replay.
type replayOptions struct {
	output
	nat   []string
	ports []uint
	write string
}

func replayCommand() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay FILE|-",
		Short: "Explain the PPTP in a capture (pcap, pcapng)",
		Long:  replayHelp,
		Args:  takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer context.AfterFunc(cmd.Context(), func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })() // a second signal ends the program
			return o.replay(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args[0])
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.nat, "nat", nil, "CLIENT-NET=PUBLIC: hosts of the network are translated to the public address (repeatable)")
	f.UintSliceVar(&o.ports, "ports", defaultPorts, "TCP ports to which PPTP clients connect")
	f.StringVar(&o.write, "write", "", "write the packets, as they are outside the NAT, to this pcap file")
	o.addTo(cmd, formText, formJSON, formYAML)
	return cmd
}

// stdin is the name of standard input as a capture.
const stdin = "-"

// replay prints what a capture has. For a broken one it prints what could be read.
func (o replayOptions) replay(ctx context.Context, w, messages io.Writer, name string) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	in := os.Stdin
	if name != stdin {
		if in, err = os.Open(name); err != nil {
			return err // it names the file and what was done to it
		}
		defer in.Close()
	} else if isTerminal(in) {
		return errors.New("replay: standard input is a terminal, not a capture")
	}
	// What is kept of a capture is all that it grows by, so collect garbage early.
	defer debug.SetGCPercent(debug.SetGCPercent(25))
	report, err := o.run(watch(ctx, in, messages), in, cfg)
	if err != nil {
		err = fmt.Errorf("replay %s: %w", name, err)
	}
	if report == nil || errors.Is(err, replay.ErrNoCapture) {
		return err
	}
	form := map[string]func(io.Writer) error{formText: report.Text, formJSON: report.JSON, formYAML: report.YAML}[o.chosen()]
	return errors.Join(form(w), err)
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
			return cfg, usagef("read --nat: %w", err)
		}
		for _, other := range cfg.NAT {
			if n.Net == other.Net {
				return cfg, usagef("read --nat: %v is given twice", n.Net)
			}
		}
		cfg.NAT = append(cfg.NAT, n)
	}
	return cfg, nil
}

func (o replayOptions) run(watched *progress, in *os.File, cfg replay.Config) (*replay.Report, error) {
	defer watched.done()
	if o.write == "" {
		return replay.Run(watched, nil, cfg)
	}
	out, err := create(o.write, in)
	if err != nil {
		return nil, err
	}
	report, err := replay.Run(watched, out, cfg)
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

const replayHelp = `Explain a capture of PPTP: read a pcap or pcapng file through the same editor that
runs on the gateway, but without a kernel, and print

  - a line per control message, and per TCP event that matters: the seconds since
    the first packet, the packet's number, sender and receiver, the message, the
    sender's own Call ID, the Peer's Call ID, and the result code in RFC 2637's words;
  - the calls: both ends, their Call IDs, the state that each call reached, how, when
    and by whom it ended, and the GRE packets and bytes to either end;
  - GRE that belongs to no call, by addresses and Call ID;
  - how many packets were read, and how many were not, and what those are.

FILE may be - for standard input. On a terminal, a large file gets a progress bar. A
signal stops the reading, and what was read by then is printed.

Capture with tcpdump -s 0 'tcp port 1723 or proto gre', on one interface: with -i any
each packet appears more than once, and is shown as a retransmission. The link types
Ethernet, Linux cooked (both versions), raw IP, BSD loopback, PPP and Cisco HDLC can be
read, with VLANs, PPPoE, MPLS, and IPv4 inside IPv6, IPv4 or GRE. IP fragments are
counted and not reassembled. If a file is broken, everything before the fault is printed,
and the error names the packet.

What was not captured (tcpdump -s 68) is shown as "?", or as a number of bytes, and
messages are read as far as they were captured. A reply whose Peer's Call ID is unknown is
assigned to the only open request, if there is exactly one. A call whose result code is
unknown is not shown as established. An IP total length of 0, as in segments that a
network card will split (TSO), means that the packet extends to the end of the frame.

Without --nat nothing is translated. --nat CLIENT-NET=PUBLIC says that the capture was
made inside a NAT, and prints what the Call IDs are outside: "7 → 255". Hosts of
CLIENT-NET have the address PUBLIC there. If CLIENT-NET is a single host's address, this
also covers connections from outside to that host (port forwarding). The longest
matching network counts.

--write writes the control connections and the GRE to a pcap file as they pass outside:
addresses, ports, Call IDs and checksums are those of that side. All other packets are
left out. A connection that has ended, or was never answered, releases its port after two
minutes, or when 4096 others have ended since.

A segment that arrives out of order is read when the bytes before it have arrived, or when
the receiver acknowledges it although the capture lacks them.

Example, two clients that chose the same Call ID (… stands for lines left out):

  $ pptpalg replay lan.pcap --nat 10.77.0.0/24=203.0.113.1
  TIME      PACKET  DIRECTION                             MESSAGE                           CALL ID  PEER'S   RESULT
  …
  1.008191  8       10.77.0.10:38138 > 203.0.113.10:1723  Outgoing-Call-Request             7        -        -
  1.011231  9       203.0.113.10:1723 > 10.77.0.10:38138  Outgoing-Call-Reply               0        7        1 (connected)
  …
  2.032941  19      10.77.0.11:53354 > 203.0.113.10:1723  Outgoing-Call-Request             7 → 255  -        -
  2.033862  20      203.0.113.10:1723 > 10.77.0.11:53354  Outgoing-Call-Reply               128      7 → 255  1 (connected)
  2.050858  27      10.77.0.10:38138 > 203.0.113.10:1723  Call-Clear-Request                7        -        -
  …
  2.066531  31      10.77.0.11:53354 > 203.0.113.10:1723  Call-Clear-Request                7 → 255  -        -
  …

  Call 1 on 10.77.0.10:38138 > 203.0.113.10:1723
    PNS  10.77.0.10 → 203.0.113.1  Call ID 7  GRE to it: 2 packets, 130 bytes
    PAC  203.0.113.10              Call ID 0  GRE to it: 1 packet, 39 bytes
    requested at 1.008191 (packet 8), established; ended at 2.050858 (packet 27): cleared, Call-Clear-Request, by 10.77.0.10

  Call 2 on 10.77.0.11:53354 > 203.0.113.10:1723
    PNS  10.77.0.11 → 203.0.113.1  Call ID 7 → 255  GRE to it: 2 packets, 130 bytes
    PAC  203.0.113.10              Call ID 128      GRE to it: 1 packet, 39 bytes
    requested at 2.032941 (packet 19), established; ended at 2.066531 (packet 31): cleared, Call-Clear-Request, by 10.77.0.11

  34 packets: 28 of control connections, 6 GRE, 0 other`
