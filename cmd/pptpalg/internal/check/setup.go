package check

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pptpalg/cmd/pptpalg/internal/notify"
	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// The judges of this file look at what the daemon is, or will be, run with.

func judgeConfig(f File) Finding {
	switch {
	case len(f.Faults) > 1:
		return problem(f.Mend, "the daemon would not start: its configuration has %d errors:\n%s", len(f.Faults), strings.Join(f.Faults, "\n"))
	case f.Err != nil:
		return problem(f.Mend, "the daemon would not start with its configuration: %s", oneLine(f.Err.Error()))
	case f.Name == "":
		return ok("no configuration file; flags and defaults apply")
	}
	return ok("%s", f.Name)
}

// backend is what is known of iptables.
type backend struct {
	version string // "iptables v1.8.9 (nf_tables)", "" where it is not installed
	legacy  string // the tables that iptables-legacy has filled, separated by spaces
	spared  string // why the daemon does not need it, "" where it does
}

func (b backend) nft() bool { return strings.Contains(b.version, "nf_tables") }

func judgeIPTables(b backend) Finding {
	switch {
	case b.version == "" && b.spared != "":
		return ok("not installed, and not needed: %s", b.spared)
	case b.version == "":
		return problem("apt-get install -y iptables", "iptables is not installed: the daemon cannot load its rules")
	case b.nft() && b.legacy != "":
		return warning("iptables-legacy-save, then move its rules to iptables",
			"%s, but iptables-legacy has rules too (%s): both sets are in force", b.version, b.legacy)
	}
	return ok("%s", b.version)
}

// loading is what comes of loading the daemon's rules.
type loading struct {
	spared  bool      // somebody else has loaded them
	by      string    // the backend that takes them, "" for none
	refused error     // what had to be left out
	failed  []attempt // of those that come before
}

// attempt is what comes of loading them by one backend.
type attempt struct {
	name            string
	table           string // that iptables refuses to list, because of nft's own rules in it
	failed, refused error
}

func judgeLoading(l loading) Finding {
	switch {
	case l.spared:
		return ok("the daemon does not load them (--rules none), but they are loaded")
	case l.by == "" && len(l.failed) == 1 && l.failed[0].table != "":
		table := l.failed[0].table
		return problem(renamed(table),
			"iptables cannot read table %s, which has native nft rules, so the daemon cannot load its rules there. Rename that table, also in the file that creates it", table)
	case l.by == "":
		return problem(remedies(l.failed), "the daemon's rules cannot be loaded: %s", failures(l.failed))
	case l.refused != nil:
		return warning(modprobe(l.refused, lesserModules[l.by]), "%s loads the daemon's rules, except what it refuses: %s", programOf(l.by), oneLine(l.refused.Error()))
	}
	return ok("%s and the kernel accept the daemon's rules", programOf(l.by))
}

// programOf names a backend for people.
func programOf(backend string) string {
	if backend == nft.Name {
		return "nftables"
	}
	return backend
}

// failures says what each backend lacks.
func failures(all []attempt) string {
	var found []string
	for _, a := range all {
		found = append(found, oneLine(a.failed.Error()))
	}
	return strings.Join(found, "; ")
}

// remedies returns a command that gives one of the backends what it lacks: the first, or
// else the next.
func remedies(all []attempt) string {
	var found []string
	for _, a := range all {
		found = append(found, a.remedy())
	}
	return strings.Join(found, " || ")
}

func (a attempt) remedy() string {
	switch {
	case a.table != "":
		return renamed(a.table)
	case errors.Is(a.failed, exec.ErrNotFound):
		return "apt-get install -y iptables"
	}
	return modprobe(a.failed, neededModules[a.name])
}

// Modules by backend, where an error names none: of what the rules cannot do without, and of
// what they can.
var (
	neededModules = map[string][]string{nft.Name: {"nf_tables", "nft_queue", "nft_ct"}, iptables.Name: {"xt_NFQUEUE", "xt_conntrack"}}
	lesserModules = map[string][]string{nft.Name: {"nft_ct", "nft_reject_ipv4"}, iptables.Name: {"xt_bpf", "xt_connlabel", "xt_connmark", "ipt_REJECT"}}
)

// moduleNamed is how the error of the nft backend names what the kernel lacks.
var moduleNamed = regexp.MustCompile(`\(module (\w+)\)`)

// modprobe returns the command that loads the modules which an error names, or those that are
// given where it names none.
func modprobe(err error, otherwise []string) string {
	var named []string
	for _, m := range moduleNamed.FindAllStringSubmatch(err.Error(), -1) {
		named = append(named, m[1])
	}
	if named = unique(named); len(named) == 0 {
		named = otherwise
	}
	return "modprobe -a " + strings.Join(named, " ")
}

// renamed returns the command that gives a table of nft's another name, in one step.
func renamed(table string) string {
	return fmt.Sprintf("{ nft -s list table ip %[1]s | sed '1,2s/^table ip %[1]s /table ip own-%[1]s /'; echo delete table ip %[1]s; } | nft -f -", table)
}

// owned is who has the daemon's queues.
type owned struct {
	numbers []uint16 // of the queues that the daemon has, or will have
	taken   *takenBy // the first that is taken; nil: none is
	running bool     // a daemon answers at the state directory
	free    uint16   // a number from which on queues are free
	set     func(key, value string) string
}

// takenBy is another program.
type takenBy struct {
	queue   uint16
	pid     int // 0: not known
	command string
	key     string // of the configuration, that chooses the number
}

func judgeQueueOwner(o owned) Finding {
	switch {
	case o.taken == nil && o.running:
		return problem(notify.Command("restart"), "the daemon runs, but queue %s is not bound: the daemon was started with another number", span16(o.numbers))
	case o.taken == nil:
		return ok("queue %s is free", span16(o.numbers))
	case o.running:
		return ok("queue %s is bound by the running daemon", span16(o.numbers))
	}
	who := "another program"
	if o.taken.pid != 0 {
		who = fmt.Sprintf("%s (process %d)", o.taken.command, o.taken.pid)
	}
	return problem(o.set(o.taken.key, fmt.Sprint(o.free)), "queue %d is bound by %s, and no daemon answers", o.taken.queue, who)
}

// span16 writes numbers that follow each other.
func span16(numbers []uint16) string {
	if len(numbers) == 1 {
		return fmt.Sprint(numbers[0])
	}
	return fmt.Sprintf("%d, %d-%d", numbers[0], numbers[1], slices.Max(numbers))
}

// listening is what comes of opening the listener of the metrics.
type listening struct {
	addr    string // "" for none
	running bool   // a daemon answers at the state directory, and has it
	err     error
	web     error // reading the file with TLS and passwords
	free    string
	set     func(key, value string) string
}

func judgeListener(l listening) Finding {
	switch {
	case l.addr == "":
		return ok("off: --listen is empty")
	case l.web != nil:
		return problem(l.set("listen", ""), "the daemon would not start: --web-config: %s", oneLine(l.web.Error()))
	case l.running:
		return ok("in use by the running daemon")
	case l.err != nil:
		return problem(l.set("listen", l.free), "the daemon would not start: %s", oneLine(l.err.Error()))
	}
	return ok("%s is free", l.addr)
}

// logged is where events are to be written.
type logged struct {
	file string // "" or "-" for none
	err  error  // its directory
}

func judgeEventLog(l logged) Finding {
	switch {
	case l.file == "" || l.file == "-":
		return ok("off: --event-log is empty")
	case l.err != nil:
		return problem(shell("mkdir", "-p", filepath.Dir(l.file)), "the daemon would not start: the directory of the event log does not exist: %s", oneLine(l.err.Error()))
	}
	return ok("%s", l.file)
}

// daemonState is the daemon's.
type daemonState struct {
	running bool
	why     string // not
	queued  queueing
	load    string // the command that loads its rules
}

func judgeDaemon(s daemonState) Finding {
	q := s.queued
	switch {
	case !s.running && q.state == nowhere:
		return warning(notify.Command("start"), "%s", s.why)
	case !s.running:
		return warning(notify.Command("start"), "rules are loaded, but control connections pass unedited: %s", s.why)
	case q.state == nowhere:
		return problem(s.load, "the daemon runs, but no rule sends it control connections")
	case q.state == elsewhere:
		return problem(s.load, "the daemon runs, but its rules send control connections to queue %s", q.event.arg)
	case q.state == missing:
		return problem(s.load, "the daemon runs, but no rule sends it control connections to TCP port %d", q.port)
	case q.state == preceded:
		return problem(q.first(), "the daemon runs, but %s keeps control connections from its rules", q.event.where())
	case q.gre:
		return problem(s.load, "the daemon runs and should translate GRE, but no rule sends GRE to it")
	}
	return ok("the daemon runs, and its rules are loaded")
}
