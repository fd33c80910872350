package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/conntrack/ctnetlink"
	"pptpalg/rules"
)

// reader reads the facts of the calling thread's network namespace. /proc/self would
// be the namespace of the process's first thread.
type reader struct {
	ctx context.Context
	cfg Config

	// What several checks look at is read once.
	firewallOnce func() (firewall, error)
	answers      func() error // nil: a daemon answers
}

func newReader(ctx context.Context, cfg Config) *reader {
	r := &reader{ctx: ctx, cfg: cfg}
	r.firewallOnce = sync.OnceValues(r.readFirewall)
	r.answers = sync.OnceValue(r.askDaemon)
	return r
}

func (r *reader) rights() (capabilities, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, fmt.Errorf("read rights: %w", err)
	}
	_, rest, _ := strings.Cut(string(status), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("read rights: %w", err)
	}
	return capabilities(set), nil
}

func (r *reader) iptables() (backend, error) {
	version, err := r.command("iptables", "-V")
	if errors.Is(err, exec.ErrNotFound) {
		return backend{}, nil
	}
	if err != nil {
		return backend{}, err
	}
	return backend{version: oneLine(version), legacy: legacyTables()}, nil
}

// legacyTables lists the tables that iptables-legacy has made.
func legacyTables() string {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if err != nil {
		return "" // a kernel without it, or no right to know
	}
	return oneLine(string(names))
}

// bindable binds the highest number that nobody has: no rule sends packets there.
func (r *reader) bindable() (binding, error) {
	taken, err := queueOwners()
	if err != nil {
		return binding{}, err
	}
	number := uint16(65535)
	for taken[number] {
		number--
	}
	q, err := nfqueue.Open(nfqueue.Config{Queue: number}, func(*nfqueue.Packet) nfqueue.Verdict { return nfqueue.Accept })
	if err != nil {
		return binding{err}, nil
	}
	return binding{}, q.Close()
}

// queueOwners returns the numbers of the queues that are bound (nfqnl seq_show: queue
// number first).
func queueOwners() (map[uint16]bool, error) {
	b, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // then binding says so
	}
	if err != nil {
		return nil, fmt.Errorf("read queues: %w", err)
	}
	taken := map[uint16]bool{}
	for line := range strings.Lines(string(b)) {
		if words := strings.Fields(line); len(words) > 0 {
			taken[port(words[0], 0)] = true
		}
	}
	return taken, nil
}

// queueOwner asks for a queue that is taken, for the refusal tells whose it is.
func (r *reader) queueOwner() (owned, error) {
	o := owned{queue: r.cfg.Queue, running: r.answers() == nil}
	taken, err := queueOwners()
	if err != nil || !taken[r.cfg.Queue] {
		return o, err
	}
	q, err := nfqueue.Open(nfqueue.Config{Queue: r.cfg.Queue}, func(*nfqueue.Packet) nfqueue.Verdict { return nfqueue.Accept })
	if err == nil {
		return o, q.Close() // it was just given up
	}
	if !errors.As(err, &o.taken) {
		return o, err
	}
	return o, nil
}

func (r *reader) conntrack() (tracked, error) {
	c, err := ctnetlink.Dial()
	if err != nil {
		return tracked{dial: err}, nil
	}
	return tracked{probe: c.Probe()}, c.Close()
}

func (r *reader) translation() (tried, error) {
	err := tryTranslation(r.ctx, natRule)
	if errors.Is(err, errNoTrial) {
		return tried{}, err
	}
	return tried{err}, nil
}

func (r *reader) forwarding() (setting, error) { return readSetting("net/ipv4/ip_forward") }

func (r *reader) accounting() (setting, error) {
	s, err := readSetting("net/netfilter/nf_conntrack_acct")
	if err == nil && s == "" {
		err = errors.New("read net.netfilter.nf_conntrack_acct: conntrack is not loaded")
	}
	return s, err
}

func (r *reader) helperSetting() (helperSetting, error) {
	s, err := readSetting("net/netfilter/nf_conntrack_helper")
	_, missing := os.Stat("/sys/module/nf_conntrack_pptp")
	return helperSetting{automatic: s, loaded: missing == nil}, err
}

// readSetting reads a sysctl by its path below /proc/sys.
func readSetting(path string) (setting, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", path))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read setting: %w", err)
	}
	return setting(strings.TrimSpace(string(b))), nil
}

func readNumber(path string) (int, error) {
	s, err := readSetting(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(s))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}

func (r *reader) table() (table, error) {
	count, err := readNumber("net/netfilter/nf_conntrack_count")
	if err != nil {
		return table{}, err
	}
	limit, err := readNumber("net/netfilter/nf_conntrack_max")
	return table{count: count, max: limit}, err
}

func (r *reader) reversePath() (reversePath, error) {
	strict, err := strictInterfaces()
	if err != nil {
		return reversePath{}, err
	}
	routes, err := r.command("ip", "-4", "route", "show", "table", "all")
	if err != nil {
		return reversePath{}, err
	}
	policies, err := r.command("ip", "-4", "rule", "show")
	return reversePath{strict: strict, defaults: defaultRoutes(routes), rules: extraRules(policies)}, err
}

// strictInterfaces lists those whose filter is strict: the higher of its own setting
// and that of all counts, and 2 is loose.
func strictInterfaces() ([]string, error) {
	const base = "net/ipv4/conf"
	all, err := readNumber(base + "/all/rp_filter")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join("/proc/sys", base))
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var strict []string
	for _, e := range entries {
		if name := e.Name(); name != "all" && name != "default" && name != "lo" {
			own, err := readNumber(base + "/" + name + "/rp_filter")
			if err == nil && max(own, all) == 1 { // an interface may go meanwhile
				strict = append(strict, name)
			}
		}
	}
	return strict, nil
}

// defaultRoutes counts ways out: a route with several has a line for each.
func defaultRoutes(text string) int {
	n, within := 0, false
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "default":
			within = len(words) == 1 || words[1] == "proto" || words[1] == "table"
			if !within {
				n++
			}
		case words[0] == "nexthop" && within:
			n++
		default:
			within = false
		}
	}
	return n
}

// extraRules counts routing rules beyond those for tables local, main and default.
func extraRules(text string) int {
	n := 0
	for line := range strings.Lines(text) {
		priority, _, found := strings.Cut(line, ":")
		if found && priority != "0" && priority != "32766" && priority != "32767" {
			n++
		}
	}
	return n
}

func (r *reader) firewall() (firewall, error) { return r.firewallOnce() }

// readFirewall reads the rules of iptables, of its other backend where it has some, and of
// nft where that is installed.
func (r *reader) readFirewall() (firewall, error) {
	b, err := r.iptables()
	if err != nil {
		return firewall{}, err
	}
	f := firewall{ports: r.cfg.Ports}
	for _, program := range b.programs() {
		text, err := r.command(program + "-save")
		if err != nil {
			return firewall{}, err
		}
		f.rules = append(f.rules, parseIPTables(program, text)...)
	}
	native, err := r.readNFT(b)
	f.rules = append(f.rules, native...)
	return f, err
}

// programs are those whose rules are in force.
func (b backend) programs() []string {
	switch {
	case b.version == "":
		return nil
	case b.nft() && b.legacy != "":
		return []string{"iptables", "iptables-legacy"}
	}
	return []string{"iptables"}
}

// readNFT reads the rules that are nft's own: none where it is not installed, or the
// kernel has no nf_tables, and iptables has told its own.
func (r *reader) readNFT(b backend) (ruleset, error) {
	text, err := r.command("nft", "-j", "list", "ruleset")
	switch {
	case err == nil:
		return parseNFT(text, b.nft())
	case b.version != "" && errors.Is(err, exec.ErrNotFound):
		return nil, nil
	case b.version != "" && !b.nft() && unsupported.MatchString(err.Error()):
		return nil, nil
	}
	return nil, err
}

// unsupported is what nft says to a kernel without nf_tables.
var unsupported = regexp.MustCompile(`(?i)not supported`)

// daemon reads whether it runs, and whether control connections come to it.
func (r *reader) daemon() (state, error) {
	loaded, err := new(rules.Firewall).Loaded(r.ctx)
	if err != nil {
		return state{}, err
	}
	s := state{running: true, rules: loaded}
	if err := r.answers(); err != nil {
		s.running, s.why = false, err.Error()
	}
	return s, nil
}

func (r *reader) askDaemon() error {
	ctx, cancel := context.WithTimeout(r.ctx, commandTime)
	defer cancel()
	_, err := admin.Client{StateDir: r.cfg.StateDir}.Calls(ctx)
	return err
}

// commandTime bounds how long a program, or the daemon, may take to answer.
const commandTime = 10 * time.Second

func (r *reader) command(name string, args ...string) (string, error) {
	return command(r.ctx, "", name, args...)
}

// command runs a program in the namespace of the calling thread and returns what it
// prints. The error wraps exec.ErrNotFound where it is not installed.
func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, path, args...)
	c.Env = append(os.Environ(), "LC_ALL=C")
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("run %s: %w: %s", name, err, oneLine(stderr.String()))
	}
	return stdout.String(), nil
}

// find looks where programs of root are, too: the PATH may be a user's.
func find(name string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", name, exec.ErrNotFound)
}
