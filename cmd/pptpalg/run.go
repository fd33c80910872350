package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
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
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/gateway"
	"pptpalg/cmd/pptpalg/internal/meter"
	"pptpalg/cmd/pptpalg/internal/notify"
	"pptpalg/cmd/pptpalg/internal/status"
	"pptpalg/rules/choice"
)

// defaultQueue is the queue's number. It is PPTP's port, which every administrator knows.
const defaultQueue = 1723

// defaultPorts are the TCP ports of control connections.
var defaultPorts = []uint{1723}

// options are the flags of run.
type options struct {
	ruleOptions
	fast      fastOptions
	cluster   clusterOptions
	listen    string
	webConfig string
	page      admin.Show
	rules     string
	untouched string // what becomes of calls that NAT does not touch
	eventLog  string
	exports   []string
	stateDir  string
	logLevel  slog.Level

	table       calls.Config
	randomIDs   bool
	connections int
	idle        time.Duration
	events      bool
	queueLen    int
	queueBuffer int
}

func runCommand(e env) *cobra.Command {
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Edit PPTP on this gateway until SIGTERM or SIGINT",
		Long: `Edit PPTP on this gateway: bind the queue, load the firewall rules, edit control
connections, and serve metrics. No flag is required.

Each flag is also a key of the configuration file: see "pptpalg config". On SIGHUP the
daemon reads the file again. It applies the limits on calls, rest, idle-timeout and
log-level at once, without losing a call, and logs which other changed keys need a
restart. A file with errors changes nothing.

On SIGTERM or SIGINT the daemon removes its rules and exits. Established calls stay up
where the kernel translates their GRE (--datapath kernel).

A network namespace has one daemon: a second one exits and says which one runs. Queue
number 61723 is the lock, so --queue and --gre-queue cannot use it.

A call with its control connection takes about 1 KiB of memory: 100 MiB for 100,000
calls.`,
		Args: takes(),
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

// add defines the flags of run that the rules do not share.
func (o *options) add(f *pflag.FlagSet, stateDir string) {
	f.StringVar(&o.listen, "listen", "127.0.0.1:9723", `address and port of the metrics and the status page; "" for none`)
	f.StringVar(&o.webConfig, "web-config", "", `web configuration file of Prometheus's exporter-toolkit, with the TLS certificate and the passwords of --listen; "" for none`)
	f.TextVar(&o.page, "status-page", admin.ShowAuto, `where --listen serves the status page, which shows addresses and Call IDs: "auto" on loopback only, "on" on any address, "off" nowhere`)
	f.StringVar(&o.rules, "rules", choice.Auto, `how the daemon loads its firewall rules and removes them when it exits: "nft" by netlink, without any program, "iptables" with the iptables programs, "auto" as nft if the kernel supports it, else as iptables; "none" leaves the rules to the administrator`)
	f.StringVar(&o.stateDir, "state-dir", stateDir, "directory of the journal and of the daemon's socket")
	f.StringVar(&o.eventLog, "event-log", "", `file to which the daemon appends a JSON line for each call that is opened, translated or closed; "-" for standard output, "" for none`)
	f.StringSliceVar(&o.exports, "export", nil, `collectors that get each event of the event log: syslog+udp://HOST[:PORT], syslog+tcp://, syslog+tls://, ipfix+udp://, ipfix+tcp://, ipfix+tls://, or journald; options follow as ?NAME=VALUE&NAME=VALUE`)
	f.StringVar(&o.untouched, "untranslated", "follow", `calls that NAT does not change, such as those of a routed network or of the gateway itself: "follow" them, so that the firewall sees their GRE as ESTABLISHED, or "leave" them alone, except the gateway's own`)
	o.fast.add(f)
	o.cluster.add(f)
	o.limitFlags(f)
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "minimum log level: debug, info, warn, error")
	config.Check(f, "listen", o.checkListen)
	config.Want(f, "listen", `ADDRESS:PORT, or "" for none`)
	config.OneOf(f, "status-page", "auto", "on", "off")
	config.Check(f, "rules", o.checkRules)
	config.OneOf(f, "rules", choice.Names...)
	config.OneOf(f, "untranslated", "follow", "leave")
	config.Want(f, "export", `a list of collectors, such as [journald, "syslog+tls://log.example.net?ca=/etc/pptpalg/ca.pem"]`)
	config.Check(f, "export", func() error {
		_, err := parseExports(o.exports)
		return err
	})
	config.Check(f, "untranslated", o.checkUntouched)
	config.OneOf(f, "log-level", "debug", "info", "warn", "error")
}

func (o *options) checkListen() error {
	if o.listen == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(o.listen)
	if err != nil {
		return config.ErrUnfit
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return config.ErrUnfit
	}
	return nil
}

func (o *options) checkRules() error {
	if _, err := choice.Parse(o.rules); err != nil {
		return config.ErrUnfit
	}
	return nil
}

func (o *options) checkUntouched() error {
	if o.untouched != "follow" && o.untouched != "leave" {
		return config.ErrUnfit
	}
	return nil
}

// limitFlags defines the flags for sites with unusual traffic, or with enemies.
func (o *options) limitFlags(f *pflag.FlagSet) {
	def := calls.DefaultConfig()
	f.DurationVar(&o.table.Rest, "rest", def.Rest, "how long a freed public Call ID is not used again; if no other is free, the one that was freed first is used")
	f.BoolVar(&o.randomIDs, "random-ids", false, "choose public Call IDs at random instead of keeping an end's own ID if it is free")
	f.IntVar(&o.table.Calls, "max-calls", def.Calls, "maximum number of calls; requests beyond it pass unedited, and are counted and logged, as for the other limits")
	f.IntVar(&o.table.CallsPerClient, "max-calls-per-client", def.CallsPerClient, "maximum number of calls requested by one address")
	f.IntVar(&o.table.CallsPerSpace, "max-calls-per-space", def.CallsPerSpace, "maximum number of public Call IDs, in use or resting, of one public address towards one peer")
	f.IntVar(&o.table.Requests, "max-requests", def.Requests, "maximum number of call requests per second from one address")
	f.IntVar(&o.connections, "max-connections", alg.DefaultConnections, "maximum number of control connections that are tracked, at most half of them for one client; connections without calls are dropped first")
	f.DurationVar(&o.idle, "idle-timeout", 0, "end calls without GRE and control messages for this long, 0 for never; set net.netfilter.nf_conntrack_acct=1 before the calls are set up")
	f.BoolVar(&o.events, "conntrack-events", true, "listen to conntrack's events, so that entries that others delete are created again at once; without it the daemon audits every two seconds, and other connections cost the kernel less")
	f.IntVar(&o.queueLen, "queue-length", nfqueue.DefaultMaxLen, "maximum number of packets that wait for a verdict in each queue; the kernel drops those beyond it, and TCP sends them again")
	f.IntVar(&o.queueBuffer, "queue-buffer", nfqueue.DefaultReadBuffer, "receive buffer of each queue's socket, in bytes")
	for name, value := range map[string]*int{
		"max-calls": &o.table.Calls, "max-calls-per-client": &o.table.CallsPerClient, "max-calls-per-space": &o.table.CallsPerSpace,
		"max-requests": &o.table.Requests, "max-connections": &o.connections, "queue-length": &o.queueLen, "queue-buffer": &o.queueBuffer,
	} {
		atLeast(f, name, value, 1)
	}
	notNegative(f, "rest", &o.table.Rest)
	notNegative(f, "idle-timeout", &o.idle)
}

// atLeast makes a flag refuse values below least.
func atLeast(f *pflag.FlagSet, name string, value *int, least int) {
	config.Want(f, name, fmt.Sprintf("a whole number, %d or more", least))
	config.Check(f, name, func() error {
		if *value < least {
			return fmt.Errorf("less than %d", least)
		}
		return nil
	})
}

// notNegative makes a flag refuse negative values.
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
		return usageError{error: err} // the file alone was valid
	}
	hangups := make(chan os.Signal, 1) // a second signal while the file is read adds nothing
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if cfg.Cluster, err = o.openCluster(); err != nil {
		return err
	}
	d, err := gateway.Open(cfg, registry, log.Logger)
	if err != nil {
		return err
	}
	events, err := openEventLog(o.eventLog, d.Events(), log.Logger)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	exports, err := openExports(o.exports, d.Events(), log.Logger)
	if err != nil {
		return errors.Join(err, events.close(), d.Close())
	}
	shares := clusterControl(d)
	measured := meter.New(meter.Source{Calls: d.SomeCalls, Traffic: d.Traffic})
	d.Metered(func(at time.Time, carried map[calls.Flow]calls.Traffic) {
		measured.ObserveAll(at, d.SomeCalls(), carried)
	})
	d.Witness(func(f *explain.Facts) { witness(measured, f) })
	page := status.New(status.Config{
		Version: cfg.Version, DataPath: string(d.DataPath()), Healthy: d.Healthy, Ready: d.Ready, Calls: d.Calls, Traffic: d.Traffic, Gatherer: registry, Cluster: shares, Meter: measured,
		Explain:  admin.Paced(d.Explain),
		Rules:    func() (string, time.Time) { return d.RulesBy(), d.RulesSince() },
		FastPath: o.fast.told(d.DataPath()).Mode, LastError: log.last.Load, Contested: d.RulesContested,
		Limits: func() status.Limits {
			calls, connections := d.Limits()
			return status.Limits{Calls: calls, Connections: connections}
		},
	})
	srv, err := admin.Listen(admin.Config{Listen: o.listen, StateDir: o.stateDir, WebConfig: o.webConfig, Log: log.Logger, Healthy: d.Healthy, Explain: d.Explain, ExplainAll: d.ExplainAll, EndCall: d.EndCall, Events: d.Events(), Traffic: d.Traffic, FastPath: o.fast.told(d.DataPath()), Ready: d.Ready, Page: page, Status: page.ServeStatus, Show: o.page, Cluster: shares, Meter: measured}, registry, d.Calls)
	if err != nil {
		exports.close()
		return errors.Join(err, events.close(), d.Close())
	}
	reload := begun(s, log, d.Reload, time.Now())
	d.Count(gateway.Beside{
		LogLost: log.lines.Lost, EventsLost: events.Lost, AdminClosed: srv.Crowded, Exports: exports.state,
		OneWay: func() uint64 { return uint64(measured.Count(meter.OneWay)) },
		Silent: func() uint64 { return uint64(measured.Count(meter.Silent)) },
		Reload: func() gateway.Reload { return *reload.last.Load() },
	})
	group, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	ended := make(chan struct{})
	var failed error // the daemon's
	group.Go(func() error {
		defer close(ended)
		failed = d.Run(ctx, func() {
			log.Info("started", "version", cfg.Version, "queue", o.queue, "ports", o.ports, "rules", d.RulesBy(), "datapath", d.DataPath(), "metrics", srv.MetricsAddr(), "state_dir", o.stateDir)
			close(ready)
		})
		return failed
	})
	group.Go(func() error { return srv.Run(ctx) })
	group.Go(func() error { return events.Run(ctx) })
	group.Go(func() error { return exports.run(ctx) })
	group.Go(func() error { return measured.Run(ctx) })
	group.Go(func() error { return reload.Run(ctx, hangups) })
	group.Go(func() error {
		return notify.Run(ctx, notify.Config{Ready: ready, Healthy: d.Healthy, Log: log.Logger})
	})
	if err = waitBriefly(group, ended); errors.Is(err, errLeft) {
		log.Warn("exiting although output still waits for a disk or a reader")
		err = failed
	}
	log.Info("stopped", "calls", len(d.Calls()), "datapath", d.DataPath())
	return err
}

// anywhere is an address to which only a default route leads: it is for documents (RFC 5737).
var anywhere = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// witness adds to the facts of a client what the meter has seen.
func witness(m *meter.Meter, f *explain.Facts) {
	for i := range f.Calls {
		c := &f.Calls[i]
		if how := m.Of(c.Number); how.Kind == meter.OneWay {
			c.Stuck = explain.Stuck{ToClient: how.ToPNS == (c.PNS.Address == f.Client), Since: how.Since, Carried: how.Carried}
		}
	}
	if f.Many {
		return
	}
	f.TooBig.Packets, f.TooBig.Last = m.TooBig()
	f.Astray.Packets, f.Astray.Last = m.Astray()
	peer := f.Peer()
	if !peer.IsValid() {
		peer = anywhere
	}
	f.Outside.Name, f.Outside.MTU = meter.WayTo(peer)
	f.Inside.Name, f.Inside.MTU = meter.WayTo(f.Client)
}

// briefly is how long the tasks beside the daemon may go on after the daemon has ended.
const briefly = 2 * time.Second

// errLeft says that a task beside the daemon did not end in time.
var errLeft = errors.New("left behind")

// waitBriefly waits until the daemon has ended, and then only briefly for the other tasks.
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

// fits are the rules by which the options go together.
func (o *options) fits() []config.Rule {
	return slices.Concat(o.ruleOptions.fits(), o.cluster.fits())
}

// daemon returns the daemon's configuration, or an error if the options do not go together.
func (o *options) daemon() (gateway.Config, error) {
	loaded, err := o.all()
	if err = errors.Join(err, config.Together(o.cluster.fits())); err != nil {
		return gateway.Config{}, err
	}
	loader, err := choice.Parse(o.rules)
	if err != nil {
		return gateway.Config{}, err
	}
	table := o.table
	if o.randomIDs {
		table.Random = rand.Uint32 // the runtime's, seeded by the kernel
	}
	return gateway.Config{
		Queue: o.queue, Ports: loaded.Ports, Bypass: loaded.Bypass, ResetMark: loaded.ResetMark, Rules: loader, DataPath: o.dataPath, Fast: o.fast.config(o.stateDir), Data: loaded.Data, Follow: o.untouched == "follow",
		Events: o.events, StateDir: o.stateDir, Version: buildVersion(), Table: table, Connections: o.connections, Idle: o.idle, QueueLen: o.queueLen, QueueBuffer: o.queueBuffer,
	}, nil
}
