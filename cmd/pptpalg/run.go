package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"pptpalg/alg"
	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/daemon"
	"pptpalg/cmd/pptpalg/internal/notify"
	"pptpalg/conntrack"
	"pptpalg/rules"
)

// defaultQueue is the queue's number: the port that every PPTP administrator knows.
const defaultQueue = 1723

// defaultPorts are the TCP ports of control connections.
var defaultPorts = []uint{1723}

// options are the flags of run.
type options struct {
	ruleOptions
	listen   string
	rules    string
	stateDir string
	logLevel slog.Level

	table       conntrack.Config
	connections int
	idle        time.Duration
	queueLen    int
	queueBuffer int
}

func runCommand(e env) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Edit PPTP on this gateway until SIGTERM or SIGINT",
		Long: `Edit PPTP on this gateway. Without any flag it does the whole job: it binds the
queue, loads its firewall rules, edits control connections, and serves metrics.

On SIGTERM or SIGINT it removes its rules and ends. Calls that are established
stay up where their GRE is translated by the kernel.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), e, o) },
	}
	f := cmd.Flags()
	o.ruleOptions.add(f)
	f.StringVar(&o.listen, "listen", "127.0.0.1:9723", `address and port of the metrics, "" for none`)
	f.StringVar(&o.rules, "rules", "load", `"load" the firewall rules and remove them in the end, or "none"`)
	f.StringVar(&o.stateDir, "state-dir", stateDir(e), "directory of the journal and of the daemon's socket")
	o.limitFlags(f)
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least level to log: debug, info, warn, error")
	return cmd
}

// limitFlags are the flags for sites whose traffic, or whose enemies, are out of the
// ordinary.
func (o *options) limitFlags(f *pflag.FlagSet) {
	def := conntrack.DefaultConfig()
	f.DurationVar(&o.table.Rest, "rest", def.Rest, "how long a freed public Call ID stays unused")
	f.BoolVar(&o.table.Random, "random-ids", false, "draw public Call IDs at random instead of keeping an endpoint's own")
	f.IntVar(&o.table.Calls, "max-calls", def.Calls, "calls at most; a request beyond passes unedited, as for the other limits")
	f.IntVar(&o.table.CallsPerClient, "max-calls-per-client", def.CallsPerClient, "calls requested by one address at most")
	f.IntVar(&o.table.CallsPerSpace, "max-calls-per-space", def.CallsPerSpace, "public Call IDs, in use or resting, of one public address towards one peer at most")
	f.IntVar(&o.table.Requests, "max-requests", def.Requests, "call requests of one address per second at most")
	f.IntVar(&o.connections, "max-connections", alg.DefaultConnections, "control connections on record at most")
	f.DurationVar(&o.idle, "idle-timeout", 0, "end calls without GRE and control messages for so long, 0 for never; needs net.netfilter.nf_conntrack_acct=1")
	f.IntVar(&o.queueLen, "queue-length", nfqueue.DefaultMaxLen, "packets that wait for their verdict at most; the kernel drops those beyond")
	f.IntVar(&o.queueBuffer, "queue-buffer", nfqueue.DefaultReadBuffer, "receive buffer of the queue's socket in bytes")
}

func run(ctx context.Context, e env, o options) (err error) {
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: o.logLevel}))
	cfg, err := o.daemon()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d, err := daemon.Open(cfg, registry, log)
	if err != nil {
		return err
	}
	srv, err := admin.Listen(admin.Config{Listen: o.listen, StateDir: o.stateDir, Healthy: d.Healthy}, registry, d.Calls)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	group.Go(func() error {
		return d.Run(ctx, func() {
			log.Info("editing", "version", cfg.Version, "queue", o.queue, "ports", o.ports, "rules", o.rules, "datapath", d.DataPath(), "metrics", srv.MetricsAddr(), "state_dir", o.stateDir)
			close(ready)
		})
	})
	group.Go(func() error { return srv.Run(ctx) })
	group.Go(func() error { return notify.Run(ctx, notify.Config{Ready: ready, Healthy: d.Healthy, Log: log}) })
	err = group.Wait()
	log.Info("ended", "calls", len(d.Calls()), "datapath", d.DataPath())
	return err
}

// daemon checks the flags.
func (o options) daemon() (daemon.Config, error) {
	loaded, err := o.all()
	if err != nil {
		return daemon.Config{}, err
	}
	cfg := daemon.Config{
		Queue: o.queue, Ports: loaded.Ports, Bypass: loaded.Bypass, DataPath: o.dataPath, Data: loaded.Data, StateDir: o.stateDir, Version: buildVersion(),
		Table: o.table, Connections: o.connections, Idle: o.idle, QueueLen: o.queueLen, QueueBuffer: o.queueBuffer,
	}
	for flag, value := range map[string]int{
		"max-calls": o.table.Calls, "max-calls-per-client": o.table.CallsPerClient, "max-calls-per-space": o.table.CallsPerSpace,
		"max-requests": o.table.Requests, "max-connections": o.connections, "queue-length": o.queueLen, "queue-buffer": o.queueBuffer,
	} {
		if value < 1 {
			return daemon.Config{}, fmt.Errorf("read --%s: %d is less than 1", flag, value)
		}
	}
	switch o.rules {
	case "load":
		cfg.LoadRules = true
	case "none":
	default:
		return daemon.Config{}, fmt.Errorf("read --rules: %q is neither load nor none", o.rules)
	}
	return cfg, nil
}

func portNumbers(given []uint) ([]uint16, error) {
	ports := make([]uint16, len(given))
	for i, p := range given {
		if p > 65535 {
			return nil, fmt.Errorf("read --ports: %d is not a TCP port", p)
		}
		ports[i] = uint16(p)
	}
	if err := (rules.Config{Ports: ports}).Validate(); err != nil {
		return nil, fmt.Errorf("read --ports: %w", err)
	}
	return ports, nil
}
