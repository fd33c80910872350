package check

import (
	"context"
	"slices"

	"pptpalg/cmd/pptpalg/internal/datapath/fast"
	"pptpalg/cmd/pptpalg/internal/export"
	"pptpalg/rules"
)

// Config says what the daemon is, or will be, run with.
type Config struct {
	// Rules has the queues and ports. Its Data is for a daemon that translates GRE,
	// whether this one will or not.
	Rules     rules.Config
	DataPath  string // who translates GRE: kernel, queue, or auto
	Fast      fast.Config
	Loader    string          // who loads the rules, as rules/choice names them
	Listen    string          // address of the metrics, "" for none
	WebConfig string          // file with their TLS and passwords, "" for none
	EventLog  string          // file, "-" for standard output, "" for none
	Exports   []export.Target // collectors of events
	StateDir  string          // directory of the daemon's socket
	Cluster   *Cluster        // nil: the gateway is alone

	File File
	// Set returns the command that has the daemon run with another value for a key of
	// the configuration. It must not be nil.
	Set func(key, value string) string
	// Load is the command that loads the daemon's rules, and LoadFast the one that loads the
	// fast path.
	Load, LoadFast string
}

// File is the configuration file.
type File struct {
	Name string // "" where there is none
	Err  error  // what is wrong with it: then the rest of the configuration is without it
	Mend string // the command that makes it a good one

	Faults []string // what Err says of each fault, where it has several
}

// Run carries out all checks, one after the other, in the network namespace of the
// calling thread: a caller that has moved its thread must have locked it. It takes
// some tenths of a second, and up to five where GRE is not translated and programs answer; in a
// cluster two more, which is how often the others tell the time.
func Run(ctx context.Context, cfg Config) Findings {
	r := newReader(ctx, cfg)
	defer r.close()
	todo := checks
	if cfg.Cluster != nil {
		todo = slices.Concat(checks, clusterChecks)
	}
	all := make(Findings, len(todo))
	for i, c := range todo {
		all[i] = c.find(r)
	}
	return all
}

// check is a row of the table.
type check struct {
	name string
	run  func(*reader) Finding
}

func (c check) find(r *reader) Finding {
	f := c.run(r)
	f.Check, f.Remedy = c.name, carriedOut(f.Remedy)
	return f
}

// of makes a check of its reader and its judge.
func of[T any](name string, read func(*reader) (T, error), judge func(T) Finding) check {
	return check{name: name, run: func(r *reader) Finding {
		facts, err := read(r)
		if err != nil {
			return unchecked(err)
		}
		return judge(facts)
	}}
}

// checks are all checks: first what others need to be carried out.
var checks = []check{
	of("configuration", (*reader).config, judgeConfig),
	of("rights", (*reader).rights, judgeRights),
	of("iptables", (*reader).needed, judgeIPTables),
	of("rules", (*reader).loading, judgeLoading),
	of("nfqueue", (*reader).bindable, judgeBindable),
	of("queue-owner", (*reader).queueOwner, judgeQueueOwner),
	of("conntrack", (*reader).conntrack, judgeConntrack),
	of("gre-translation", (*reader).translation, judgeTranslation),
	of("ip-forward", (*reader).forwarding, judgeForwarding),
	of("nat", (*reader).firewall, judgeNAT),
	of("ports", (*reader).firewall, judgePorts),
	of("firewall-control", (*reader).firewall, judgeControl),
	of("firewall-gre", (*reader).firewall, judgeGRE),
	of("tracking", (*reader).firewall, judgeTracking),
	of("kernel-helper", (*reader).firewall, judgeHelper),
	of("helper-sysctl", (*reader).helperSetting, judgeHelperSetting),
	of("proxy", (*reader).firewall, judgeProxy),
	of("flow-offload", (*reader).firewall, judgeOffload),
	of("multi-wan", (*reader).firewall, judgeMarks),
	of("rp-filter", (*reader).reversePath, judgeReversePath),
	of("conntrack-table", (*reader).table, judgeTable),
	of("accounting", (*reader).accounting, judgeAccounting),
	of("fast-path", (*reader).fastPath, judgeFastPath),
	of("listener", (*reader).listener, judgeListener),
	of("event-log", (*reader).eventLog, judgeEventLog),
	of("collectors", (*reader).collectors, judgeCollectors),
	of("daemon", (*reader).daemon, judgeDaemon),
}
