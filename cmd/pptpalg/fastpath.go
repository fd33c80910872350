package main

import (
	"errors"
	"fmt"
	"io"
	"os/user"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/fast"
)

// fastOptions are the flags of the fast path.
type fastOptions struct {
	mode       ports.Mode
	interfaces []string
	interval   time.Duration
	flows      uint32
	dir        string
}

// Limits of --fastpath-interval. Clocks of the fast path tick every few milliseconds.
const (
	shortestInterval = 100 * time.Millisecond
	longestInterval  = time.Minute
)

func (o *fastOptions) add(f *pflag.FlagSet) {
	f.TextVar(&o.mode, "fastpath", ports.Off, `forward calls' GRE with BPF programs ahead of the kernel's network stack, in the way in which the kernel forwarded a recent packet: "auto" uses XDP where it works and tc elsewhere, "xdp" uses only XDP, "tc" only tc, "off" neither. Needs --datapath kernel`)
	f.StringSliceVar(&o.interfaces, "fastpath-interfaces", nil, "interfaces of the fast path; an empty list means all that can be used")
	f.DurationVar(&o.interval, "fastpath-interval", fastpath.DefaultInterval, "how long the fast path repeats a decision of the kernel before it sends one packet through the kernel again")
	f.Uint32Var(&o.flows, "fastpath-flows", fastpath.DefaultFlows, "maximum number of GRE flows on the fast path, two for each call; memory for twice as many is allocated, 64 bytes each. The kernel forwards flows beyond it")
	f.StringVar(&o.dir, "fastpath-dir", fastpath.DefaultDir, "mount point of the BPF file system that keeps the fast path loaded when the daemon exits")
	config.OneOf(f, "fastpath", string(ports.Off), string(ports.Auto), string(ports.XDP), string(ports.TC))
	config.Want(f, "fastpath-interfaces", "a list of interfaces, such as [eth0, ppp0]")
	config.Want(f, "fastpath-interval", "a time from 100ms to 1m")
	config.Check(f, "fastpath-interval", func() error {
		if o.interval < shortestInterval || o.interval > longestInterval {
			return fmt.Errorf("not from %v to %v", shortestInterval, longestInterval)
		}
		return nil
	})
	config.Check(f, "fastpath-flows", func() error {
		if o.flows == 0 || o.flows > mostFlows {
			return fmt.Errorf("not from 1 to %d", mostFlows)
		}
		return nil
	})
	config.Check(f, "fastpath-dir", func() error {
		if !filepath.IsAbs(o.dir) {
			return errors.New("not an absolute path")
		}
		return nil
	})
}

// mostFlows is of --fastpath-flows: half a GiB.
const mostFlows = 1 << 22

// requestFile is the file in the state directory that the daemon writes where the fast path is
// to be loaded and the daemon may not. A path unit of systemd watches it.
const requestFile = "fastpath-request"

// config returns what the flags say. A directory for requests is for the daemon only.
func (o *fastOptions) config(stateDir string) fast.Config {
	c := fast.Config{Mode: o.mode, Only: o.interfaces, Interval: o.interval, Flows: o.flows, Dir: o.dir, Group: -1}
	if stateDir != "" {
		c.Request = filepath.Join(stateDir, requestFile)
	}
	return c
}

// told is what the daemon tells of the fast path that it wants.
func (o *fastOptions) told(by datapath.Name) *admin.FastPath {
	mode := o.mode
	if by == datapath.Queue {
		mode = ports.Off
	}
	return &admin.FastPath{Mode: string(mode), Interfaces: o.interfaces, Dir: o.dir}
}

func fastpathCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fastpath",
		Short: "Load, unload or show the fast path",
		Long: `Load, unload or show the fast path: BPF programs on the gateway's interfaces, which
forward calls' GRE as the kernel forwarded a recent packet of the same flow.

"pptpalg run" loads it by itself if it runs as root and --fastpath is not off. These
commands are for gateways where the daemon has no right to do that. Give them the same
flags as the daemon, or the same configuration file.`,
	}
	cmd.AddCommand(fastpathLoadCommand(e), fastpathUnloadCommand(e), fastpathStatusCommand(e))
	return cmd
}

func fastpathLoadCommand(e env) *cobra.Command {
	s := newSettings(stateDir(e))
	var group string
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Load the fast path, or update the loaded one",
		Long: `Load the fast path: attach its programs to the interfaces that --fastpath and
--fastpath-interfaces name, and pin them, so that a daemon without root's rights can use
them. If it is already loaded, replace the programs and attach new interfaces, without
losing a packet. With --fastpath off or --datapath queue, unload it.

It needs root. It accepts all flags of "pptpalg run", and ignores most of them.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.read(cmd); err != nil {
				return err
			}
			c := s.fast.config("")
			if !c.Wanted() || s.dataPath == datapath.Queue {
				return fastpath.Unload(c.Dir)
			}
			var err error
			if c.Group, err = groupNumber(group); err != nil {
				return err
			}
			done, err := c.Load()
			if err != nil {
				return err
			}
			return loadedText(cmd.OutOrStdout(), done)
		},
	}
	s.addTo(cmd, s.flags)
	cmd.Flags().StringVar(&group, "group", "", `group that may use the pinned maps, by name or number; "" is the daemon's group, pptpalg, if it exists`)
	return cmd
}

// daemonGroup is the group of the daemon's user in the packages.
const daemonGroup = "pptpalg"

// groupNumber returns the number of a group, -1 if none is given and there is no group for the
// daemon.
func groupNumber(given string) (int, error) {
	if n, err := strconv.ParseUint(given, 10, 31); err == nil {
		return int(n), nil
	}
	name := given
	if name == "" {
		name = daemonGroup
	}
	g, err := user.LookupGroup(name)
	switch unknown := user.UnknownGroupError(""); {
	case errors.As(err, &unknown) && given == "":
		return -1, nil
	case errors.As(err, &unknown):
		return 0, usagef("--group: this system has no group %q", given)
	case err != nil:
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

func loadedText(w io.Writer, done fastpath.Loaded) error {
	if done.Why != "" {
		fmt.Fprintf(w, "the kernel forwards the flows that were on the fast path until the daemon has entered them again: %s\n", done.Why)
	}
	return portsText(w, done.Ports)
}

func portsText(w io.Writer, all []fastpath.Attached) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", a.Name, fast.How(a.Port), a.Why)
	}
	return t.Flush()
}

func fastpathUnloadCommand(e env) *cobra.Command {
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "unload",
		Short: "Unload the fast path",
		Long: `Unload the fast path: detach its programs from all interfaces of this network
namespace. The kernel then forwards all packets; no call ends. A running daemon does not
load it again. If it is not loaded, do nothing. It needs root.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.read(cmd); err != nil {
				return err
			}
			return fastpath.Unload(s.fast.dir)
		},
	}
	s.addTo(cmd, s.flags)
	return cmd
}
