package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/daemon"
	"pptpalg/rules"
)

// defaultQueue is the queue's number: the port that every PPTP administrator knows.
const defaultQueue = 1723

// defaultPorts are the TCP ports of control connections.
var defaultPorts = []uint{1723}

// options are the flags of run.
type options struct {
	queue    uint16
	ports    []uint
	listen   string
	rules    string
	stateDir string
	logLevel slog.Level
}

func runCommand(e env) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Edit PPTP on this gateway until SIGTERM or SIGINT",
		Long: `Edit PPTP on this gateway. Without any flag it does the whole job: it binds the
queue, loads its firewall rules, edits control connections, and serves metrics.

On SIGTERM or SIGINT it removes its rules and ends. Calls that are established
stay up: their GRE is translated by the kernel.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), e, o) },
	}
	f := cmd.Flags()
	f.Uint16Var(&o.queue, "queue", defaultQueue, "NFQUEUE number to take packets from")
	f.UintSliceVar(&o.ports, "ports", defaultPorts, "TCP ports to which PPTP clients connect, before any DNAT")
	f.StringVar(&o.listen, "listen", "127.0.0.1:9723", `address and port of the metrics, "" for none`)
	f.StringVar(&o.rules, "rules", "load", `"load" the firewall rules and remove them in the end, or "none"`)
	f.StringVar(&o.stateDir, "state-dir", stateDir(e), "directory of the daemon's socket")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least level to log: debug, info, warn, error")
	return cmd
}

func run(ctx context.Context, e env, o options) (err error) {
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: o.logLevel}))
	cfg, err := o.daemon()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		log.Debug("not root: CAP_NET_ADMIN is needed")
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d, err := daemon.Open(cfg, registry, log)
	if err != nil {
		return err
	}
	srv, err := admin.Listen(admin.Config{Listen: o.listen, StateDir: o.stateDir}, registry, d.Calls)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return d.Run(ctx, func() {
			log.Info("editing", "version", cfg.Version, "queue", o.queue, "ports", o.ports, "rules", o.rules, "metrics", srv.MetricsAddr(), "state_dir", o.stateDir)
		})
	})
	group.Go(func() error { return srv.Run(ctx) })
	err = group.Wait()
	log.Info("ended; calls that live keep their GRE translations in the kernel", "calls", len(d.Calls()))
	return err
}

// daemon checks the flags.
func (o options) daemon() (daemon.Config, error) {
	cfg := daemon.Config{Queue: o.queue, Version: buildVersion()}
	switch o.rules {
	case "load":
		cfg.LoadRules = true
	case "none":
	default:
		return daemon.Config{}, fmt.Errorf("read --rules: %q is neither load nor none", o.rules)
	}
	ports, err := portNumbers(o.ports)
	cfg.Ports = ports
	return cfg, err
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
