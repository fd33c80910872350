package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/gateway"
	"pptpalg/cmd/pptpalg/internal/notify"
	"pptpalg/cmd/pptpalg/internal/status"
)

// defaultQueue is the queue's number: the port that every PPTP administrator knows.
const defaultQueue = 1723

// defaultPorts are the TCP ports of control connections.
var defaultPorts = []uint{1723}

// options are the flags of run.
type options struct {
	ruleOptions
	listen    string
	webConfig string
	page      admin.Show
	rules     string
	eventLog  string
	stateDir  string
	logLevel  slog.Level

	table       calls.Config
	connections int
	idle        time.Duration
	queueLen    int
	queueBuffer int
}

func runCommand(e env) *cobra.Command {
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Edit PPTP on this gateway until SIGTERM or SIGINT",
		Long: `Edit PPTP on this gateway. Without any flag it does the whole job: it binds the
queue, loads its firewall rules, edits control connections, and serves metrics.

Each flag is also a key of the configuration file: see "pptpalg config". SIGHUP has
the file read again; what then differs and needs a restart is logged.

On SIGTERM or SIGINT it removes its rules and ends. Calls that are established
stay up where their GRE is translated by the kernel.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.read(cmd); err != nil {
				return err
			}
			return run(cmd.Context(), e, s)
		},
	}
	s.addTo(cmd, s.flags)
	return cmd
}

// add makes the flags of run that are not the rules'.
func (o *options) add(f *pflag.FlagSet, stateDir string) {
	f.StringVar(&o.listen, "listen", "127.0.0.1:9723", `address and port of the metrics and the status page, "" for none`)
	f.StringVar(&o.webConfig, "web-config", "", `file that says which TLS certificate and passwords --listen has (Prometheus's web configuration), "" for none`)
	f.TextVar(&o.page, "status-page", admin.ShowAuto, `where --listen shows the status page, which tells addresses and Call IDs: "auto" on loopback alone, "on" on any address, "off" nowhere`)
	f.StringVar(&o.rules, "rules", "load", `"load" the firewall rules and remove them in the end, or "none"`)
	f.StringVar(&o.stateDir, "state-dir", stateDir, "directory of the journal and of the daemon's socket")
	f.StringVar(&o.eventLog, "event-log", "", `file to which a line of JSON is added for each call opened, translated and closed; "-" for standard output, "" for none`)
	o.limitFlags(f)
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least level to log: debug, info, warn, error")
	config.Check(f, "listen", o.checkListen)
	config.Want(f, "listen", `ADDRESS:PORT, or "" for none`)
	config.Want(f, "status-page", "auto, on or off")
	config.Check(f, "rules", o.checkRules)
	config.Want(f, "log-level", "debug, info, warn or error")
}

func (o *options) checkListen() error {
	if o.listen == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(o.listen)
	if err != nil {
		return err
	}
	_, err = net.LookupPort("tcp", port)
	return err
}

func (o *options) checkRules() error {
	if o.rules != "load" && o.rules != "none" {
		return fmt.Errorf("%q is neither load nor none", o.rules)
	}
	return nil
}

// limitFlags are the flags for sites whose traffic, or whose enemies, are out of the
// ordinary.
func (o *options) limitFlags(f *pflag.FlagSet) {
	def := calls.DefaultConfig()
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
	for name, value := range map[string]*int{
		"max-calls": &o.table.Calls, "max-calls-per-client": &o.table.CallsPerClient, "max-calls-per-space": &o.table.CallsPerSpace,
		"max-requests": &o.table.Requests, "max-connections": &o.connections, "queue-length": &o.queueLen, "queue-buffer": &o.queueBuffer,
	} {
		atLeast(f, name, value, 1)
	}
	notNegative(f, "rest", &o.table.Rest)
	notNegative(f, "idle-timeout", &o.idle)
}

// atLeast has a flag refuse what is less than least.
func atLeast(f *pflag.FlagSet, name string, value *int, least int) {
	config.Want(f, name, fmt.Sprintf("a whole number, %d or more", least))
	config.Check(f, name, func() error {
		if *value < least {
			return fmt.Errorf("less than %d", least)
		}
		return nil
	})
}

// notNegative has a flag refuse what is less than nothing.
func notNegative(f *pflag.FlagSet, name string, value *time.Duration) {
	config.Check(f, name, func() error {
		if *value < 0 {
			return errors.New("less than 0")
		}
		return nil
	})
}

func run(ctx context.Context, e env, s *settings) error {
	defer surviveBrokenPipes()()
	log := openLog(e.stderr, s.logLevel)
	defer log.close()
	o := s.options
	cfg, err := o.daemon()
	if err != nil {
		return err
	}
	hangups := make(chan os.Signal, 1) // another one while it reads would say no more
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d, err := gateway.Open(cfg, registry, log.Logger)
	if err != nil {
		return err
	}
	events, err := openEventLog(o.eventLog, d.Events(), log.Logger)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	page := status.New(status.Config{
		Version: cfg.Version, DataPath: string(d.DataPath()), Healthy: d.Healthy, Ready: d.Ready, Calls: d.Calls, Traffic: d.Traffic, Gatherer: registry,
	})
	srv, err := admin.Listen(admin.Config{Listen: o.listen, StateDir: o.stateDir, WebConfig: o.webConfig, Log: log.Logger, Healthy: d.Healthy, Explain: d.Explain, Events: d.Events(), Traffic: d.Traffic, Ready: d.Ready, Page: page, Show: o.page}, registry, d.Calls)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	d.Count(gateway.Beside{LogLost: log.lines.Lost, EventsLost: events.Lost, AdminClosed: srv.Crowded})
	group, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	ended := make(chan struct{})
	var failed error // the daemon's
	group.Go(func() error {
		defer close(ended)
		failed = d.Run(ctx, func() {
			log.Info("editing", "version", cfg.Version, "queue", o.queue, "ports", o.ports, "rules", o.rules, "datapath", d.DataPath(), "metrics", srv.MetricsAddr(), "state_dir", o.stateDir)
			close(ready)
		})
		return failed
	})
	group.Go(func() error { return srv.Run(ctx) })
	group.Go(func() error { return events.Run(ctx) })
	group.Go(func() error {
		return (&reloader{running: s, level: log.level, table: d.Reload, log: log.Logger}).Run(ctx, hangups)
	})
	group.Go(func() error {
		return notify.Run(ctx, notify.Config{Ready: ready, Healthy: d.Healthy, Log: log.Logger})
	})
	if err = waitBriefly(group, ended); errors.Is(err, errLeft) {
		log.Warn("ended although something still waits for a disk or a reader")
		err = failed
	}
	log.Info("ended", "calls", len(d.Calls()), "datapath", d.DataPath())
	return err
}

// briefly is how long what runs beside the daemon may go on after that has ended.
const briefly = 2 * time.Second

// errLeft says that something beside the daemon did not end in time.
var errLeft = errors.New("left behind")

// waitBriefly waits until the daemon has ended, and then not much longer for the rest.
func waitBriefly(group *errgroup.Group, ended <-chan struct{}) error {
	all := make(chan error, 1)
	go func() { all <- group.Wait() }()
	<-ended
	select {
	case err := <-all:
		return err
	case <-time.After(briefly):
		return errLeft
	}
}

// daemon returns the daemon's configuration, if the options go together.
func (o *options) daemon() (gateway.Config, error) {
	loaded, err := o.all()
	if err != nil {
		return gateway.Config{}, err
	}
	return gateway.Config{
		Queue: o.queue, Ports: loaded.Ports, Bypass: loaded.Bypass, ResetMark: loaded.ResetMark, LoadRules: o.rules == "load", DataPath: o.dataPath, Data: loaded.Data,
		StateDir: o.stateDir, Version: buildVersion(), Table: o.table, Connections: o.connections, Idle: o.idle, QueueLen: o.queueLen, QueueBuffer: o.queueBuffer,
	}, nil
}
