package preflight

import "context"

// Config says what the daemon is, or will be, run with.
type Config struct {
	Queue    uint16   // NFQUEUE number of control connections
	Ports    []uint16 // TCP ports of control connections, one at least
	StateDir string   // directory of the daemon's socket
}

// Run carries out all checks, one after the other, in the network namespace of the
// calling thread: a caller that has moved its thread must have locked it. It takes
// some tenths of a second, and up to five where GRE is not translated and programs answer.
func Run(ctx context.Context, cfg Config) Findings {
	r := newReader(ctx, cfg)
	all := make(Findings, len(checks))
	for i, c := range checks {
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
	f.Check = c.name
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
	of("rights", (*reader).rights, judgeRights),
	of("iptables", (*reader).iptables, judgeIPTables),
	of("nfqueue", (*reader).bindable, judgeBindable),
	of("queue-owner", (*reader).queueOwner, judgeQueueOwner),
	of("conntrack", (*reader).conntrack, judgeConntrack),
	of("gre-translation", (*reader).translation, judgeTranslation),
	of("ip-forward", (*reader).forwarding, judgeForwarding),
	of("nat", (*reader).firewall, judgeNAT),
	of("firewall-control", (*reader).firewall, judgeControl),
	of("firewall-gre", (*reader).firewall, judgeGRE),
	of("tracking", (*reader).firewall, judgeTracking),
	of("kernel-helper", (*reader).firewall, judgeHelper),
	of("helper-sysctl", (*reader).helperSetting, judgeHelperSetting),
	of("proxy", (*reader).firewall, judgeProxy),
	of("flow-offload", (*reader).firewall, judgeOffload),
	of("rp-filter", (*reader).reversePath, judgeReversePath),
	of("conntrack-table", (*reader).table, judgeTable),
	of("accounting", (*reader).accounting, judgeAccounting),
	of("daemon", (*reader).daemon, judgeDaemon),
}
