package check

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilities is a set of CAP_ numbers, as /proc/PID/status has it.
type capabilities uint64

func (c capabilities) has(number int) bool { return c>>number&1 == 1 }

func judgeRights(c capabilities) Finding {
	const remedy = "sudo pptpalg check"
	switch {
	case !c.has(unix.CAP_NET_ADMIN):
		return problem(remedy, "CAP_NET_ADMIN is missing: no queue, no conntrack, no firewall rules")
	case !c.has(unix.CAP_NET_RAW):
		return warning(remedy, "CAP_NET_RAW is missing: iptables with the legacy backend needs it")
	}
	return ok("CAP_NET_ADMIN and CAP_NET_RAW")
}

// binding is what came of binding a queue that nobody has.
type binding struct{ err error }

func judgeBindable(b binding) Finding {
	if b.err != nil {
		return problem("modprobe nfnetlink_queue", "no queue can be bound: %s", oneLine(b.err.Error()))
	}
	return ok("queues can be bound")
}

// tracked is what came of asking conntrack over netlink.
type tracked struct {
	dial   error // opening the interface
	probe  error // putting in the two entries of a call, and reading them back
	path   string
	queued bool // the daemon will translate
	set    func(key, value string) string
	blind  bool // control connections are in zones, and the kernel does not tell the zones of packets
}

func judgeConntrack(t tracked) Finding {
	switch {
	case t.dial != nil:
		return problem("modprobe nf_conntrack_netlink", "conntrack cannot be asked: %s", oneLine(t.dial.Error()))
	case t.probe != nil && t.queued && t.path != "auto":
		return ok("conntrack can be asked; the daemon translates")
	case t.probe != nil && t.queued:
		return warning(t.set("datapath", "queue"), "conntrack does not take a call's entries, so that every GRE packet will visit the daemon: %s", oneLine(t.probe.Error()))
	case t.probe != nil:
		return problem(t.set("datapath", "queue"), "conntrack does not take a call's entries: %s", oneLine(t.probe.Error()))
	case t.blind:
		return warning("boot a kernel with CONFIG_NETFILTER_NETLINK_GLUE_CT",
			"control connections are in conntrack zones, and the kernel does not tell the zones of packets: clients with the same address and port in two zones are taken for one")
	}
	return ok("conntrack takes the two entries of a call")
}

// What trials of a call's packets end with, beside failure: it could not be carried out;
// and nothing arrived, which a busy machine can be the reason of.
var (
	errNoTrial = errors.New("try packets in network namespaces of their own")
	errNothing = errors.New("nothing arrived")
)

// tried is what came of a call's packets in namespaces of their own.
type tried struct {
	err    error
	queued bool // the daemon will translate
	set    func(key, value string) string
}

func judgeTranslation(t tried) Finding {
	switch {
	case t.err != nil && t.queued:
		return ok("the kernel does not, and need not: the daemon translates")
	case errors.Is(t.err, errNothing):
		return warning(t.set("datapath", "queue"), "the kernel seems not to translate GRE by conntrack entries: %s", oneLine(t.err.Error()))
	case t.err != nil:
		return problem(t.set("datapath", "queue"), "the kernel does not translate GRE by conntrack entries: %s", oneLine(t.err.Error()))
	}
	return ok("the kernel translates address and Call ID of GRE packets, both ways")
}

// setting is the content of a sysctl, "" where the kernel has none of that name.
type setting string

// forwards is whether packets go on from where they arrive: the setting of the interface
// decides, and writing the one for all sets it for each.
type forwards struct {
	all  setting
	ways []way
	by   map[string]setting // interface
}

func judgeForwarding(f forwards) Finding {
	var closed []string
	for _, w := range f.ways {
		shut := f.shut(w)
		if len(shut) == 0 {
			return ok("packets are forwarded%s", between(w.inside, w.outside))
		}
		closed = append(closed, shut...)
	}
	if f.all != "1" {
		return problem("sysctl -w net.ipv4.ip_forward=1", "IP forwarding is off: net.ipv4.ip_forward is %s", f.all)
	}
	words := []string{"sysctl", "-w"}
	for _, dev := range unique(closed) {
		words = append(words, "net/ipv4/conf/"+dev+"/forwarding=1")
	}
	return problem(shell(words...), "what arrives by %s is not forwarded: its own setting says so", strings.Join(unique(closed), ", "))
}

// shut lists the interfaces of a way from where nothing goes on.
func (f forwards) shut(w way) []string {
	var all []string
	for _, dev := range []string{w.inside, w.outside} {
		s, known := f.by[dev]
		if !known {
			s = f.all
		}
		if s != "1" {
			all = append(all, dev)
		}
	}
	return all
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
