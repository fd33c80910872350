package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/cmd/internal/netns"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/sockets"
	"pptpalg/cmd/pptpalg/internal/webconfig"
	"pptpalg/conntrack"
	"pptpalg/rules"
	"pptpalg/rules/choice"
	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// reader reads the facts of the calling thread's network namespace. /proc/self would
// be the namespace of the process's first thread.
type reader struct {
	ctx context.Context
	cfg Config

	judgeTime time.Duration // bounds how long the kernel may take to judge the firewall

	// What several checks look at is read once.
	firewallOnce func() (firewall, error)
	networkOnce  func() (network, error)
	askedOnce    func() tracked
	loadingOnce  func() (loading, error)
	etcdOnce     func() asked
	answers      func() error // nil: a daemon answers
}

func newReader(ctx context.Context, cfg Config) *reader {
	r := &reader{ctx: ctx, cfg: cfg, judgeTime: commandTime}
	r.firewallOnce = sync.OnceValues(r.readFirewall)
	r.networkOnce = sync.OnceValues(r.readNetwork)
	r.loadingOnce = sync.OnceValues(r.tryAll)
	r.askedOnce = sync.OnceValue(r.askConntrack)
	r.answers = sync.OnceValue(r.askDaemon)
	r.etcdOnce = sync.OnceValue(r.askEtcd)
	return r
}

// running reports whether a daemon answers.
func (r *reader) running() bool { return r.answers() == nil }

// queued reports whether the daemon will translate GRE: it decides by the same probe.
func (r *reader) queued() bool {
	return r.cfg.DataPath == "queue" || r.cfg.DataPath == "auto" && r.askedOnce().probe != nil
}

// config passes on what others have found. A file that may not be read is not a wrong
// one.
func (r *reader) config() (File, error) {
	if f := r.cfg.File; !errors.Is(f.Err, os.ErrPermission) {
		return f, nil
	}
	return File{}, r.cfg.File.Err
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

// needed is iptables, and where it is not installed, who loads the rules without it.
func (r *reader) needed() (backend, error) {
	b, err := r.iptables()
	if err != nil || b.version != "" {
		return b, err
	}
	if !r.loads() {
		b.spared = "for --rules none"
		return b, nil
	}
	l, err := r.loading()
	if l.by == nft.Name {
		b.spared = "the rules are loaded by nftables"
	}
	return b, err
}

// loads reports whether the daemon loads the rules, or somebody else does.
func (r *reader) loads() bool { return r.cfg.Loader != choice.None }

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
	if errors.Is(err, os.ErrPermission) {
		return binding{}, err
	}
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

// queueOwner asks for queues that are taken, for the refusal tells whose they are.
func (r *reader) queueOwner() (owned, error) {
	o := owned{numbers: []uint16{r.cfg.Rules.Queue}, running: r.running(), set: r.cfg.Set}
	data := r.cfg.Rules.Data
	if r.queued() {
		for i := range data.Queues {
			o.numbers = append(o.numbers, data.Queue+uint16(i))
		}
	}
	taken, err := queueOwners()
	if err != nil {
		return o, err
	}
	for i, number := range o.numbers {
		if o.taken == nil && taken[number] {
			o.taken, err = ask(number)
			if o.taken != nil && i > 0 {
				o.taken.key = "gre-queue"
			}
		}
	}
	o.free = free(taken, o.numbers)
	return o, err
}

// ask tells who has a queue, nil if nobody has it any more.
func ask(number uint16) (*takenBy, error) {
	q, err := nfqueue.Open(nfqueue.Config{Queue: number}, func(*nfqueue.Packet) nfqueue.Verdict { return nfqueue.Accept })
	if err == nil {
		return nil, q.Close()
	}
	var by *nfqueue.TakenError
	if !errors.As(err, &by) {
		return nil, err
	}
	return &takenBy{queue: number, pid: by.PID, command: by.Command, key: "queue"}, nil
}

// free returns the first of as many consecutive queues as numbers, of which none is taken
// or among numbers: above these if possible, else from 0 on.
func free(taken map[uint16]bool, numbers []uint16) uint16 {
	above := int(slices.Max(numbers)) + 1
	for i := range queues {
		first := (above + i) % queues
		if first+len(numbers) <= queues && allFree(taken, numbers, first) {
			return uint16(first)
		}
	}
	return 0
}

const queues = 1 << 16

func allFree(taken map[uint16]bool, own []uint16, first int) bool {
	for i := range own {
		if n := uint16(first + i); taken[n] || n == nfqueue.Lock || slices.Contains(own, n) {
			return false
		}
	}
	return true
}

func (r *reader) conntrack() (tracked, error) {
	t := r.askedOnce()
	if errors.Is(t.dial, os.ErrPermission) {
		return t, t.dial
	}
	if errors.Is(t.probe, os.ErrPermission) {
		return t, t.probe
	}
	return t, nil
}

func (r *reader) askConntrack() tracked {
	t := tracked{path: r.cfg.DataPath, set: r.cfg.Set}
	c, err := conntrack.Dial()
	if err != nil {
		t.dial = err
	} else {
		live, _ := c.Connections(r.cfg.Rules.Ports) // if it fails, the probe does
		t.blind = slices.ContainsFunc(live, func(c calls.Connection) bool { return c.Zone != 0 }) && !tellsZones()
		t.probe = errors.Join(c.Probe(), c.Close())
	}
	t.queued = t.path == "queue" || t.path == "auto" && t.probe != nil
	return t
}

// tellsZones reports whether the kernel can attach a packet's conntrack entry to its queued
// message, with its zone.
func tellsZones() bool {
	symbols, err := os.ReadFile("/proc/kallsyms")
	return err == nil && bytes.Contains(symbols, []byte("ctnetlink_glue_build"))
}

func (r *reader) translation() (tried, error) {
	err := tryTranslation(r.ctx, trialFlows)
	if errors.Is(err, errNoTrial) {
		return tried{}, err
	}
	return tried{err: err, queued: r.queued(), set: r.cfg.Set}, nil
}

// loading says which backend loads the daemon's rules.
func (r *reader) loading() (loading, error) { return r.loadingOnce() }

// tryAll tries the backends one after the other, as the daemon does. Where it does not load
// the rules, somebody else does, in whatever form.
func (r *reader) tryAll() (loading, error) {
	cfg, loader := r.cfg.Rules, r.cfg.Loader
	if !r.queued() {
		cfg = cfg.ByKernel()
	}
	if !r.loads() {
		if done, err := r.othersLoaded(); err != nil || done {
			return loading{spared: done}, err
		}
		loader = choice.Auto
	}
	var l loading
	for _, name := range choice.Order(loader, cfg) {
		a, err := r.try(name, cfg)
		if err == nil && errors.Is(a.failed, os.ErrPermission) {
			err = a.failed // nobody else has more rights
		}
		if err != nil {
			return loading{}, err
		}
		if a.failed == nil {
			l.by, l.refused = name, a.refused
			return l, nil
		}
		l.failed = append(l.failed, a)
	}
	return l, nil
}

// othersLoaded reports whether rules are loaded already that queue control connections.
func (r *reader) othersLoaded() (bool, error) {
	f, err := r.firewall()
	if err != nil {
		return false, err
	}
	return f.queueing(r.cfg.Rules.Queue, r.cfg.Rules.Data).state != nowhere, nil
}

// try has one backend load the daemon's rules in a namespace that ends with it. What iptables
// cannot do beside the rules of others is asked here.
func (r *reader) try(name string, cfg rules.Config) (attempt, error) {
	var reset error
	if name == iptables.Name {
		if _, err := find("iptables"); err != nil {
			return attempt{name: name, failed: err}, nil
		}
		if table := r.refusedTable(cfg); table != "" {
			return attempt{name: name, table: table, failed: fmt.Errorf("iptables cannot read table %s, which has native nft rules", table)}, nil
		}
		reset = r.resetRefused(&cfg)
	}
	a, err := r.tryLoading(name, cfg)
	a.refused = errors.Join(reset, a.refused)
	return a, err
}

// refusedTable returns the first table that the daemon's rules need, and that iptables refuses
// to list; "" for none.
func (r *reader) refusedTable(cfg rules.Config) string {
	tables := []string{"mangle"}
	if cfg.Data.Queues > 0 {
		tables = append(tables, "raw", "filter")
	}
	for _, name := range tables {
		if r.refuses(name) {
			return name
		}
	}
	return ""
}

// refuses says whether iptables refuses to list a table.
func (r *reader) refuses(table string) bool {
	_, err := r.command("iptables", "-w", "5", "-t", table, "-S")
	return err != nil && incompatible.MatchString(err.Error())
}

// resetRefused returns an error, and takes the rule that answers segments with a RST out of
// cfg, if table filter does not take it.
func (r *reader) resetRefused(cfg *rules.Config) error {
	if cfg.ResetMark == 0 || !r.refuses("filter") {
		return nil
	}
	cfg.ResetMark = 0
	return errors.New("iptables cannot read table filter, which has native nft rules (--reset-lost)")
}

// incompatible is what iptables says to a table with rules of nft's own.
var incompatible = regexp.MustCompile(`incompatible|Parsing nftables rule failed`)

func (r *reader) tryLoading(name string, cfg rules.Config) (a attempt, err error) {
	p, err := netns.New()
	if err != nil {
		return attempt{}, fmt.Errorf("make network namespace: %w", err)
	}
	defer p.Close()
	_ = p.Do(func() error {
		done, err := choice.New(name).Load(r.ctx, cfg)
		a = attempt{name: name, failed: err, refused: done.Refused}
		return nil
	})
	return a, nil
}

func (r *reader) forwarding() (forwards, error) {
	f := forwards{by: map[string]setting{}}
	var err error
	if f.all, err = readSetting("net/ipv4/ip_forward"); err != nil {
		return f, err
	}
	w, err := r.firewall()
	if err != nil {
		f.ways = []way{{}} // without the rules it is not known which interfaces count
		return f, nil
	}
	f.ways = w.ways
	for _, w := range f.ways {
		for _, dev := range []string{w.inside, w.outside} {
			if s, err := readSetting("net/ipv4/conf/" + dev + "/forwarding"); dev != "" && err == nil && s != "" {
				f.by[dev] = s
			}
		}
	}
	return f, nil
}

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
	n, err := r.network()
	return reversePath{strict: strict, defaults: n.defaults(), rules: len(n.rules)}, err
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

func (r *reader) network() (network, error) { return r.networkOnce() }

func (r *reader) readNetwork() (network, error) {
	routes, err := r.command("ip", "-json", "-4", "route", "show", "table", "all")
	if err != nil {
		return network{}, err
	}
	policies, err := r.command("ip", "-json", "-4", "rule", "show")
	if err != nil {
		return network{}, err
	}
	links, err := r.command("ip", "-json", "-details", "link", "show")
	if err != nil {
		return network{}, err
	}
	var n network
	if err := errors.Join(n.readRoutes(routes), n.readLinks(links)); err != nil {
		return network{}, err
	}
	if n.rules, err = readRules(policies); err != nil {
		return network{}, err
	}
	n.policies, err = dumpPolicies()
	return n, err
}

func (r *reader) firewall() (firewall, error) { return r.firewallOnce() }

// readFirewall has the kernel judge copies of the rules of iptables, of its other backend
// where it has some, and of nft; on the ways between the interfaces where calls pass.
func (r *reader) readFirewall() (firewall, error) {
	n, err := r.network()
	if err != nil {
		return firewall{}, err
	}
	bound, err := queueOwners()
	if err != nil {
		return firewall{}, err
	}
	_, absent := find("iptables")
	f := firewall{
		network: n, noIPTables: absent != nil, ports: r.cfg.Rules.Ports, set: r.cfg.Set, reload: r.cfg.Load, bound: bound,
		gre: greRules{queued: r.queued(), load: r.loads(), data: r.cfg.Rules.Data},
	}
	if err := r.judge(&f); err != nil {
		return firewall{}, fmt.Errorf("not checked: %w", err)
	}
	return f, nil
}

// judge copies the rules into namespaces of their own, one for each backend, and keeps what
// becomes of packets there.
func (r *reader) judge(f *firewall) error {
	ctx, cancel := context.WithTimeout(r.ctx, r.judgeTime)
	defer cancel()
	err := r.judgeWithin(ctx, f)
	if ctx.Err() != nil && r.ctx.Err() == nil {
		return fmt.Errorf("there are too many rules and interfaces to send packets through them all within %v", r.judgeTime)
	}
	return err
}

func (r *reader) judgeWithin(ctx context.Context, f *firewall) error {
	layers, err := r.layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		f.rules = append(f.rules, l.rules...)
	}
	t := f.travellers()
	s := t.surroundings(layers)
	s.bound, s.queued = f.bound, f.gre.queued
	native, err := r.native(f.gre)
	if err != nil {
		return err
	}
	for _, l := range layers {
		s.native, s.accepts = native, f.gre.accepts() && !(native && l.legacy)
		x, err := newScratch(ctx, s, l)
		if err != nil {
			return err
		}
		defer x.close()
		t.scratches = append(t.scratches, x)
	}
	return t.travel(f)
}

// native reports whether nftables will accept the GRE of calls in the firewall's chains.
func (r *reader) native(g greRules) (bool, error) {
	if !g.accepts() {
		return false, nil
	}
	l, err := r.loading()
	return l.by == nft.Name, err
}

// layer is the rules of one backend.
type layer struct {
	objects []object
	rules   ruleset
	legacy  bool // they are in force outside of nf_tables
}

// layers are all rules that are in force.
func (r *reader) layers() ([]layer, error) {
	all, err := dump()
	if err != nil {
		return nil, err
	}
	b, err := r.iptables()
	if err != nil {
		return nil, err
	}
	var found []layer
	lines := map[string][]string{}
	for _, program := range b.programs() {
		text, err := r.save(program)
		if err != nil {
			return nil, err
		}
		if program == "iptables" && b.nft() {
			lines = readLines(text)
			continue
		}
		l, err := r.legacy(program, text)
		if err != nil {
			return nil, err
		}
		found = append(found, l)
	}
	if len(all) > 0 || len(found) == 0 {
		found = append([]layer{{objects: all, rules: rulesetOf(all, "iptables", lines)}}, found...)
	}
	return found, nil
}

// legacy has the rules of iptables-legacy loaded by the other backend, whose packets the
// kernel traces.
func (r *reader) legacy(program, text string) (l layer, err error) {
	p, err := netns.New()
	if err != nil {
		return layer{}, fmt.Errorf("make network namespace: %w", err)
	}
	defer p.Close()
	err = p.Do(func() error {
		if _, err := command(r.ctx, text, "iptables-nft-restore"); err != nil {
			return err
		}
		l.objects, err = dump()
		return err
	})
	l.rules, l.legacy = rulesetOf(l.objects, program, readLines(text)), true
	return l, err
}

// save returns the rules of iptables. A table of which it cannot read a rule is left out,
// for nft to tell.
func (r *reader) save(program string) (string, error) {
	text, err := r.command(program + "-save")
	if err == nil || !incompatible.MatchString(err.Error()) {
		return text, err
	}
	var all strings.Builder
	for _, name := range xtables {
		if text, err := r.command(program+"-save", "-t", name); err == nil {
			all.WriteString(text)
		}
	}
	return all.String(), nil
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

// daemon reads whether it runs, and whether control connections come to it.
func (r *reader) daemon() (daemonState, error) {
	f, err := r.firewall()
	if err != nil {
		return daemonState{}, err
	}
	s := daemonState{running: true, queued: f.queueing(r.cfg.Rules.Queue, r.cfg.Rules.Data), load: r.cfg.Load}
	err = r.answers()
	if errors.Is(err, os.ErrPermission) {
		return daemonState{}, err
	}
	if err != nil {
		s.running, s.why = false, err.Error()
	}
	return s, nil
}

// listener opens that of the metrics for an instant, if no daemon has it.
func (r *reader) listener() (listening, error) {
	l := listening{addr: r.cfg.Listen, running: r.running(), set: r.cfg.Set}
	if l.addr == "" {
		return l, nil
	}
	l.web = webconfig.Validate(r.cfg.WebConfig)
	if errors.Is(l.web, os.ErrPermission) {
		return l, l.web
	}
	if l.running {
		return l, nil
	}
	if l.err = r.listen(l.addr); errors.Is(l.err, os.ErrPermission) {
		return l, l.err
	}
	if l.err != nil && errors.Is(r.answers(), os.ErrPermission) {
		return l, r.answers() // it may be the daemon's
	}
	if l.err != nil {
		l.err, l.free = sockets.Plain(l.err), r.freeListener()
	}
	return l, nil
}

func (r *reader) listen(addr string) error {
	l, err := new(net.ListenConfig).Listen(r.ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// freeListener returns an address of this host that nobody listens on.
func (r *reader) freeListener() string {
	const first, last = 9723, 9800
	for number := first; number <= last; number++ {
		if addr := fmt.Sprintf("127.0.0.1:%d", number); r.listen(addr) == nil {
			return addr
		}
	}
	return ""
}

func (r *reader) eventLog() (logged, error) {
	l := logged{file: r.cfg.EventLog}
	if l.file == "" || l.file == "-" {
		return l, nil
	}
	_, l.err = os.Stat(filepath.Dir(l.file))
	if errors.Is(l.err, os.ErrPermission) {
		return l, l.err
	}
	return l, nil
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
	return "", notInstalled(name)
}

// port reads one; what is left out is def.
func port(s string, def uint16) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return def
	}
	return uint16(n)
}
