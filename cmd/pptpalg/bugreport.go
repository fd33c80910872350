package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/bugreport"
)

// reporter makes a report of what this gateway is like.
type reporter struct {
	*settings
	env   env
	keep  bool // addresses stay
	lines int  // of the journal
}

func bugreportCommand(e env) *cobra.Command {
	r := &reporter{settings: newSettings(stateDir(e)), env: e}
	cmd := &cobra.Command{
		Use:   "bugreport [FILE]",
		Short: "Collect what is needed to diagnose a problem into an archive",
		Long: `Write a gzipped tar archive with what is needed to diagnose a problem: version,
configuration, firewall rules, state of kernel and network, the output of check, status,
calls and events, the metrics, and the last lines of the log. The command lists what the
archive contains. The default name is pptpalg-bugreport-DATE.tar.gz in the current
directory; "-" is standard output.

IPv4, IPv6 and hardware addresses are replaced, also within names such as enx001a2b3c4d5e
and 198-51-100-77.isp.example. Within one archive an address always has the same
replacement, and IPv4 addresses that share a prefix have replacements that share one.
Private addresses are replaced by private ones. The machine's name becomes GATEWAY. Other
interface names, other names in the configuration and Call IDs are kept. With
--keep-addresses nothing is replaced. Read the archive before you send it.

The command changes nothing and sends nothing. Run it as root: others cannot read
everything.`,
		Args: takes("[FILE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.fileGiven = cmd.Flags().Changed("config")
			now := time.Now()
			name := "pptpalg-bugreport-" + now.Format("20060102-150405")
			if len(args) == 0 {
				args = []string{name + ".tar.gz"}
			}
			return r.run(cmd, args[0], name, now)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.keep, "keep-addresses", false, "do not replace addresses and the machine's name")
	f.IntVar(&r.lines, "log-lines", 2000, "number of lines of the daemon's log to take from systemd's journal")
	atLeast(f, "log-lines", &r.lines, 0)
	f.AddFlagSet(r.some("state-dir"))
	f.StringVar(&r.file, "config", configFile, `configuration file of the daemon; "" for none. The default file need not exist`)
	return cmd
}

func (r *reporter) run(cmd *cobra.Command, file, dir string, now time.Time) (err error) {
	_ = r.read(cmd) // a faulty file is part of the report
	out, list := cmd.OutOrStdout(), cmd.ErrOrStderr()
	if file != "-" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return usagef("%s already exists: choose another file name", file)
		}
		if err != nil {
			return fmt.Errorf("write report: %w", err)
		}
		defer func() {
			if err = errors.Join(err, f.Close()); err != nil {
				_ = os.Remove(file) // half a report helps nobody
			}
		}()
		out, list = f, cmd.OutOrStdout()
	}
	clean, err := r.cleaner()
	if err != nil {
		return err
	}
	entries, err := bugreport.Archive(cmd.Context(), out, dir, r.parts(), clean, now)
	if err != nil {
		return err
	}
	return r.tell(list, file, entries)
}

// cleaner returns what takes the addresses out of a file.
func (r *reporter) cleaner() (func([]byte) []byte, error) {
	if r.keep {
		return func(text []byte) []byte { return text }, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find the machine's name: %w", err)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	return bugreport.NewDisguise(key, host).Text, nil
}

// tell lists what is in the archive.
func (r *reporter) tell(w io.Writer, file string, entries []bugreport.Entry) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range entries {
		note := ""
		if e.Err != nil {
			note = "; incomplete: " + strings.ReplaceAll(e.Err.Error(), "\n", "; ")
		}
		fmt.Fprintf(t, "%s\t%d\t%s%s\n", e.Name, e.Size, e.What, note)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print what is in the report: %w", err)
	}
	how := "Addresses and the machine's name are replaced."
	if r.keep {
		how = "Addresses are not replaced."
	}
	if file == "-" {
		file = "standard output"
	}
	_, err := fmt.Fprintf(w, "\nWritten to %s. %s Read it before you send it.\n", file, how)
	return err
}

// parts are the files of the report.
func (r *reporter) parts() []bugreport.Part {
	own := func(name, what string, args ...string) bugreport.Part {
		return bugreport.Part{Name: name, What: what, Write: func(ctx context.Context, w io.Writer) error { return r.own(ctx, w, args) }}
	}
	state := []string{"--state-dir", r.stateDir}
	var config []string
	if r.fileGiven {
		config = []string{"--config", r.file}
	}
	with := func(args ...string) []string { return slices.Concat(args, state) }
	both := func(args ...string) []string { return slices.Concat(args, state, config) }
	return []bugreport.Part{
		own("version.txt", "the version", "version"),
		own("status.txt", "pptpalg status", both("status")...),
		own("check.txt", "pptpalg check", both("check")...),
		{Name: "pptpalg.yaml", What: "the configuration file", Write: func(_ context.Context, w io.Writer) error { return copyFile(w, r.file) }},
		{Name: "configuration.txt", What: "every key with its value", Write: func(_ context.Context, w io.Writer) error { return printConfig(w, r.flags, false) }},
		{Name: "command.txt", What: "the command line of the running daemon", Write: r.commandLine},
		own("calls.json", "pptpalg calls", with("calls", "--json")...),
		own("events.json", "pptpalg events", with("events", "--json")...),
		own("fastpath.txt", "pptpalg fastpath status", both("fastpath", "status")...),
		own("cluster.txt", "pptpalg cluster status", with("cluster", "status")...),
		{Name: "metrics.txt", What: "the metrics", Write: admin.Client{StateDir: r.stateDir}.Metrics},
		own("rules.txt", "the rules that the daemon loads", slices.Concat([]string{"rules", "print"}, config)...),
		bugreport.Programs("firewall.txt", "all firewall rules", []string{"nft", "list", "ruleset"}, []string{"iptables-save", "-c"}, []string{"iptables-legacy-save", "-c"}),
		bugreport.Programs("network.txt", "interfaces, routes and their rules", []string{"ip", "-s", "-d", "address"}, []string{"ip", "route", "show", "table", "all"}, []string{"ip", "rule"}),
		{Name: "kernel.txt", What: "the kernel: version, modules, settings, conntrack, queues", Write: kernel},
		bugreport.Programs("log.txt", "the daemon's log", []string{"journalctl", "--unit", "pptpalg", "--no-pager", "--output", "short-iso-precise", "--lines", strconv.Itoa(r.lines)}),
	}
}

// own runs a command of this program. That it exits with another code than 0 is no fault of
// the report.
func (r *reporter) own(ctx context.Context, w io.Writer, args []string) error {
	fmt.Fprintf(w, "$ pptpalg %s\n", strings.Join(args, " "))
	code := execute(ctx, env{args: args, stdout: w, stderr: w, lookup: r.env.lookup})
	if code != 0 {
		fmt.Fprintf(w, "exit code %d\n", code)
	}
	return nil
}

func copyFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = fmt.Fprintln(w, "there is none")
		return err
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}

func (r *reporter) commandLine(ctx context.Context, w io.Writer) error {
	args := runningFlags(ctx, r.stateDir)
	if args == nil {
		return errors.New("no daemon answers")
	}
	_, err := fmt.Fprintln(w, "run", strings.Join(args, " "))
	return err
}

// kernelFiles are what the kernel says of itself, by patterns.
var kernelFiles = []string{
	"/etc/os-release", "/proc/version", "/proc/cmdline", "/proc/uptime", "/proc/meminfo", "/proc/modules",
	"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/*/rp_filter", "/proc/sys/net/ipv4/conf/*/forwarding",
	"/proc/sys/net/netfilter/nf_conntrack_*", "/proc/net/netfilter/*", "/proc/net/stat/nf_conntrack", "/proc/net/snmp",
}

// kernel writes them, each below its name.
func kernel(ctx context.Context, w io.Writer) error {
	var errs []error
	for _, pattern := range kernelFiles {
		files, err := filepath.Glob(pattern)
		errs = append(errs, err)
		slices.Sort(files)
		for _, file := range files {
			if info, err := os.Stat(file); err != nil || info.IsDir() {
				continue
			}
			fmt.Fprintf(w, "%s:\n", file)
			errs = append(errs, copyFile(w, file))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}
