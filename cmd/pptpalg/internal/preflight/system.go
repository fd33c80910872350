package preflight

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"pptpalg/alg/nfqueue"
)

// capabilities is a set of CAP_ numbers, as /proc/PID/status has it.
type capabilities uint64

func (c capabilities) has(number int) bool { return c>>number&1 == 1 }

func judgeRights(c capabilities) Finding {
	const remedy = "run as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"
	switch {
	case !c.has(unix.CAP_NET_ADMIN):
		return problem(remedy, "CAP_NET_ADMIN is missing: no queue, no conntrack, no firewall rules")
	case !c.has(unix.CAP_NET_RAW):
		return warning(remedy, "CAP_NET_RAW is missing: iptables with the legacy backend needs it")
	}
	return ok("CAP_NET_ADMIN and CAP_NET_RAW")
}

// backend is what is known of iptables.
type backend struct {
	version string // "iptables v1.8.9 (nf_tables)", "" where it is not installed
	legacy  string // the tables that iptables-legacy has filled, separated by spaces
}

func (b backend) nft() bool { return strings.Contains(b.version, "nf_tables") }

func judgeIPTables(b backend) Finding {
	switch {
	case b.version == "":
		return problem("apt-get install iptables", "iptables is not installed: the daemon cannot load its rules")
	case b.nft() && b.legacy != "":
		return warning("iptables-legacy-save, then move its rules to iptables",
			"%s, but iptables-legacy has rules too (%s): both sets are in force", b.version, b.legacy)
	}
	return ok("%s", b.version)
}

// binding is what came of binding a queue that nobody has.
type binding struct{ err error }

func judgeBindable(b binding) Finding {
	if b.err != nil {
		return problem("run as root; if it is the kernel, modprobe nfnetlink_queue", "no queue can be bound: %s", oneLine(b.err.Error()))
	}
	return ok("queues can be bound")
}

// owned is who has the daemon's queue.
type owned struct {
	queue   uint16
	taken   *nfqueue.TakenError // nil: nobody
	running bool                // a daemon answers at the state directory
}

func judgeQueueOwner(o owned) Finding {
	switch {
	case o.taken == nil && o.running:
		return problem("pptpalg check --queue N, with the N of pptpalg run", "the daemon runs, but nobody has queue %d", o.queue)
	case o.taken == nil:
		return ok("queue %d is free", o.queue)
	case o.running:
		return ok("queue %d is the running daemon's", o.queue)
	}
	who := "another program"
	if o.taken.PID != 0 {
		who = fmt.Sprintf("%s (process %d)", o.taken.Command, o.taken.PID)
	}
	return problem("stop that program, or choose another number: pptpalg run --queue N", "queue %d is taken by %s, and no daemon answers", o.queue, who)
}

// tracked is what came of asking conntrack over netlink.
type tracked struct {
	dial  error // opening the interface
	probe error // putting in the two entries of a call, and reading them back
}

func judgeConntrack(t tracked) Finding {
	switch {
	case t.dial != nil:
		return problem("run as root; if it is the kernel, modprobe nf_conntrack_netlink", "conntrack cannot be asked: %s", oneLine(t.dial.Error()))
	case t.probe != nil:
		return warning("pptpalg run --datapath queue", "conntrack does not take a call's entries: %s", oneLine(t.probe.Error()))
	}
	return ok("conntrack takes the two entries of a call")
}

// errNoTrial says that the packets of a call could not be tried.
var errNoTrial = errors.New("try packets in network namespaces of their own")

// tried is what came of a call's packets in namespaces of their own.
type tried struct{ err error }

func judgeTranslation(t tried) Finding {
	if t.err != nil {
		return warning("pptpalg run --datapath queue", "the kernel does not translate GRE by conntrack entries: %s", oneLine(t.err.Error()))
	}
	return ok("the kernel translates address and Call ID of GRE packets, both ways")
}

// setting is the content of a sysctl, "" where the kernel has none of that name.
type setting string

func judgeForwarding(s setting) Finding {
	if s != "1" {
		return problem("sysctl -w net.ipv4.ip_forward=1", "this is no gateway: net.ipv4.ip_forward is %s", s)
	}
	return ok("net.ipv4.ip_forward is 1")
}

func judgeAccounting(s setting) Finding {
	if s != "1" {
		return warning("sysctl -w net.netfilter.nf_conntrack_acct=1",
			"net.netfilter.nf_conntrack_acct is %s: no byte counts of calls, and --idle-timeout ends none", s)
	}
	return ok("net.netfilter.nf_conntrack_acct is 1")
}

// helperSetting is whether the kernel attaches helpers by port, as it could up to Linux
// 5.19.
type helperSetting struct {
	automatic setting
	loaded    bool // its PPTP helper is there as a module
}

func judgeHelperSetting(h helperSetting) Finding {
	const remedy = "sysctl -w net.netfilter.nf_conntrack_helper=0"
	switch {
	case h.automatic == "":
		return ok("the kernel attaches helpers by rule alone")
	case h.automatic == "0":
		return ok("net.netfilter.nf_conntrack_helper is 0")
	case h.loaded:
		return problem(remedy, "the kernel attaches its PPTP helper to every control connection: net.netfilter.nf_conntrack_helper is %s", h.automatic)
	}
	return warning(remedy, "the kernel attaches its PPTP helper, once it is loaded: net.netfilter.nf_conntrack_helper is %s", h.automatic)
}

// reversePath is what makes strict reverse path filtering a danger.
type reversePath struct {
	strict   []string // interfaces where rp_filter is 1
	defaults int      // ways of default routes, in all tables
	rules    int      // routing rules beside the kernel's own three
}

func judgeReversePath(r reversePath) Finding {
	if len(r.strict) == 0 {
		return ok("no interface filters strictly")
	}
	if r.defaults < 2 && r.rules == 0 {
		return ok("strict, with one default route")
	}
	return warning("sysctl -w net.ipv4.conf.all.rp_filter=2",
		"rp_filter is strict on %s, with %d default routes and %d routing rules: packets that come by another way than they go are dropped",
		strings.Join(r.strict, ", "), r.defaults, r.rules)
}

// table is how full conntrack's is.
type table struct {
	count, max int // max 0: no limit
}

// fullness of the table in percent: from where it is a warning, and a problem.
const (
	filling = 75
	full    = 95
)

func judgeTable(t table) Finding {
	if t.max == 0 {
		return ok("%d entries, without a limit", t.count)
	}
	percent := t.count * 100 / t.max
	remedy := fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*t.max)
	switch {
	case percent >= full:
		return problem(remedy, "%d of %d entries in use: new connections are about to be dropped", t.count, t.max)
	case percent >= filling:
		return warning(remedy, "%d of %d entries in use", t.count, t.max)
	}
	return ok("%d of %d entries in use", t.count, t.max)
}

// state is the daemon's.
type state struct {
	running bool
	why     string // not
	rules   bool   // that queue control connections are loaded
}

func judgeDaemon(s state) Finding {
	switch {
	case s.running && s.rules:
		return ok("the daemon runs, and its rules are loaded")
	case s.running:
		return problem("pptpalg rules load, or pptpalg run without --rules none", "the daemon runs, but no rule sends it control connections")
	case s.rules:
		return warning("systemctl start pptpalg", "rules are loaded, but control connections pass unedited: %s", s.why)
	}
	return warning("systemctl start pptpalg", "%s", s.why)
}
