package iptables

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"

	"pptpalg/rules"
	"pptpalg/rules/internal/follow"
	"pptpalg/rules/nft"
)

const (
	// lockWait is how long iptables waits for the xtables lock, in seconds.
	lockWait = "10"
	// attempts is how often the table is read again because others changed it.
	attempts = 20
	// pauseStep is by how much the longest pause grows from attempt to attempt.
	pauseStep = 5 * time.Millisecond
	// killWait is how long a killed iptables may hold its pipes open.
	killWait = 2 * time.Second
)

// Runner runs a command to its end with the given standard input and returns its standard
// output. Its error has what the command wrote to standard error.
type Runner func(ctx context.Context, stdin, name string, args ...string) (stdout string, err error)

// Firewall is the Backend that loads and unloads the rules with iptables. The zero value is
// ready and uses the system's iptables. It has no state and no lock: any number of goroutines
// and processes may load and unload at once, and the last one wins completely.
type Firewall struct {
	// Command is the iptables to run, a name or a path; "" means iptables. The command with
	// "-restore" added must exist too (for example iptables-legacy and
	// iptables-legacy-restore).
	Command string
	// Run runs the commands; nil runs real ones.
	Run Runner
	// NetNS is a file of the network namespace that the kernel is asked about; 0 is the caller's
	// own. It is to be the one in which Run runs.
	NetNS int

	dial func() (*netlink.Conn, error)       // of dialLinks; nil dials
	hear func(context.Context, func()) error // watchVRFs; nil listens
}

// Name is what --rules calls the Firewall.
const Name = "iptables"

// Name is what --rules calls it.
func (f *Firewall) Name() string { return Name }

// Load loads cfg's rules, replacing any rules of ours that were loaded before, with the
// jumps where they belong. If a rule is refused, it loads the next best and says so.
//
// The rules for control connections change in one atomic step; on an error they stay as
// they were. The rules of cfg.Data change before, in one step for each table, and GRE is
// queued from the last step on; on an error none of them is left. Without cfg.Data.Queues,
// older rules of this kind are removed after the change. The same is true for
// cfg.ResetMark.
//
// Errors wrap os.ErrPermission when rights are missing and exec.ErrNotFound when
// iptables is.
func (f *Firewall) Load(ctx context.Context, cfg rules.Config) (rules.Outcome, error) {
	if err := cfg.Validate(); err != nil {
		return rules.Outcome{}, err
	}
	vrfs, err := f.vrfs()
	if err != nil {
		return rules.Outcome{}, fmt.Errorf("load firewall rules: %w", err)
	}
	if err := f.loadData(ctx, cfg.Data, vrfs); err != nil {
		err = fmt.Errorf("load firewall rules of the data path: %w", err)
		return rules.Outcome{}, f.giveUp(ctx, cfg, err)
	}
	refusedReset := f.loadReset(ctx, &cfg)
	refused, err := f.loadControl(ctx, &cfg, vrfs)
	if err != nil {
		err = fmt.Errorf("load firewall rules: %w", err)
		return rules.Outcome{}, f.giveUp(ctx, cfg, err)
	}
	return rules.Outcome{Config: cfg, Refused: errors.Join(refusedReset, refused)}, nil
}

// giveUp removes the other rules, not those for control connections, after err, and returns
// err.
func (f *Firewall) giveUp(ctx context.Context, cfg rules.Config, err error) error {
	ctx = context.WithoutCancel(ctx)
	for _, e := range extras {
		if e.wanted(cfg) {
			err = errors.Join(err, f.unloadExtra(ctx, e))
		}
	}
	return err
}

// loadReset loads the rule that answers segments with a RST. Everything else works without
// it, so an error does not fail Load: then cfg.ResetMark is 0, and refused says why.
func (f *Firewall) loadReset(ctx context.Context, cfg *rules.Config) (refused error) {
	if cfg.ResetMark == 0 {
		return nil
	}
	text := func(current map[string]string) string { return loadParts(ResetChain, resetParts(*cfg), current) }
	if refused = f.change(ctx, resetTables, text); refused != nil {
		cfg.ResetMark = 0
	}
	return refused
}

// loadControl loads the rules for control connections, or the best lesser ones that are not
// refused, and puts these into cfg. refused says why.
func (f *Firewall) loadControl(ctx context.Context, cfg *rules.Config, vrfs []VRF) (refused, err error) {
	load := func(c rules.Config, spell func(string) string) error {
		return f.load(ctx, c, spelled(control(c, vrfs...), spell))
	}
	err = load(*cfg, remarked)
	if !isRefused(err) {
		return nil, err
	}
	// What the messages say of a missing match differs between iptables'
	// backends and versions, so try instead of reading them.
	lesser := cfg.Lesser()
	for _, l := range lesser {
		if load(l, remarked) == nil {
			*cfg = l
			return err, nil
		}
	}
	if load(*cfg, plain) == nil {
		return nil, nil // nothing but comments is missing
	}
	for _, l := range lesser {
		if load(l, plain) == nil {
			*cfg = l
			return err, nil
		}
	}
	return nil, err // the first cause
}

// remarked and plain spell rules with their comments, and without: a kernel with few modules may
// have no xt_comment.
func remarked(text string) string { return text }
func plain(text string) string    { return commentMatch.ReplaceAllString(text, "") }

var commentMatch = regexp.MustCompile(` -m comment --comment "[^"]*"`)

// loadData loads the rules of the data path.
func (f *Firewall) loadData(ctx context.Context, d rules.Data, vrfs []VRF) error {
	if d.Queues == 0 {
		return nil
	}
	return f.change(ctx, dataTables, func(current map[string]string) string { return loadText(d, current, vrfs...) })
}

// isRefused reports whether iptables or the kernel refused a rule of ours.
func isRefused(err error) bool {
	var failed *restoreError
	return errors.As(err, &failed) && failed.refused()
}

func (f *Firewall) load(ctx context.Context, cfg rules.Config, lines []string) error {
	return f.changeControl(ctx, cfg, func(current string) string { return loadControlText(current, lines, jumps(cfg)) })
}

// Unload removes all rules of ours; without any it does nothing. It removes those for
// control connections in one atomic step, then the others in one step for each table.
// Errors are as for Load.
func (f *Firewall) Unload(ctx context.Context) error {
	if err := f.changeControl(ctx, rules.Config{}, UnloadText); err != nil {
		return fmt.Errorf("unload firewall rules: %w", err)
	}
	return nil
}

// extra is other rules than those for control connections, in a chain of their own.
type extra struct {
	chain  string
	tables []string
	wanted func(rules.Config) bool
}

var extras = []extra{
	{DataChain, dataTables, func(c rules.Config) bool { return c.Data.Queues > 0 }},
	{ResetChain, resetTables, func(c rules.Config) bool { return c.ResetMark != 0 }},
}

// changeControl changes the rules for control connections, and removes other rules that are
// not in cfg and that an earlier run may have left.
func (f *Firewall) changeControl(ctx context.Context, cfg rules.Config, text func(current string) string) error {
	var listed string
	err := f.change(ctx, []string{"mangle"}, func(current map[string]string) string {
		listed = current["mangle"]
		return text(listed)
	})
	for _, e := range extras {
		if err == nil && !e.wanted(cfg) && declared(e.chain, listed) {
			err = f.unloadExtra(ctx, e)
		}
	}
	return err
}

func (f *Firewall) unloadExtra(ctx context.Context, e extra) error {
	return f.change(ctx, e.tables, func(current map[string]string) string { return unloadParts(e.chain, e.tables, current) })
}

// Present reports whether all of cfg's rules are loaded: in each table, our chain with as
// many rules as it is to have, those about VRFs not counted, and the jumps to it, those of the data
// path before rules that may keep packets from them. Errors are as for Load.
func (f *Firewall) Present(ctx context.Context, cfg rules.Config) (bool, error) {
	for _, w := range wanted(cfg) {
		current, err := f.list(ctx, w.table)
		if err != nil {
			return false, fmt.Errorf("look for firewall rules: %w", err)
		}
		if !w.in(current) {
			return false, nil
		}
	}
	return true, nil
}

// Watch calls changed when rules of iptables may have changed. It also keeps the rules about VRFs
// up to date, and returns an error when it cannot.
func (f *Firewall) Watch(ctx context.Context, changed func()) error {
	vrfs, others := make(chan struct{}, 1), make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.watchRules(ctx, func() { changed(); tell(others) }) })
	group.Go(func() error { return f.watchVRFs(ctx, func() { tell(vrfs) }) })
	group.Go(func() error { return f.keepVRFs(ctx, vrfs, others) })
	return group.Wait()
}

// watchRules calls changed when rules may have changed. The kernel tells of changes by
// iptables-nft. Of those by iptables-legacy it does not: the size of each table is looked at
// every so often.
func (f *Firewall) watchRules(ctx context.Context, changed func()) error {
	if version, err := f.run(ctx, "", f.command(), "-V"); err != nil || strings.Contains(version, "nf_tables") {
		return follow.NFTables(ctx, f.NetNS, changed)
	}
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookInterval):
		}
		if now, err := legacyInfo(); err != nil || now != last {
			changed() // without rights to look, the rules are listed each time
			last = now
		}
	}
}

// lookInterval is how often the tables of iptables-legacy are looked at.
const lookInterval = 300 * time.Millisecond

// HasLegacyTable reports whether iptables-legacy has a table in this network namespace.
func HasLegacyTable(name string) bool {
	legacy, _ := legacyTables() // what only root may know, only root may change
	return slices.Contains(legacy, name)
}

// Forget removes the rules that iptables has loaded, for a daemon that does not load by it. It
// runs iptables only where the kernel says that iptables-legacy has rules of ours: a daemon
// without rights may run no program.
func (f *Firewall) Forget(ctx context.Context) error {
	err := new(nft.Backend).RemoveChains(Chain, DataChain, ResetChain)
	if there, _ := legacyHas(Chain); there { // what only root may know, only root may change
		unload := (&Firewall{Command: "iptables-legacy", Run: f.Run}).Unload(ctx)
		if errors.Is(unload, exec.ErrNotFound) { // an old system, with nothing else
			unload = f.Unload(ctx)
		}
		err = errors.Join(err, unload)
	}
	return err
}

// change applies what text makes of the current tables, and starts again if others changed
// our rules in between.
func (f *Firewall) change(ctx context.Context, tables []string, text func(current map[string]string) string) error {
	for attempt := 1; ; attempt++ {
		current, err := f.listAll(ctx, tables)
		if err != nil {
			return err
		}
		wanted := text(current)
		if wanted == "" {
			return nil
		}
		err = f.restore(ctx, tables, wanted)
		var failed *restoreError
		if !errors.As(err, &failed) || !failed.raced() || attempt == attempts {
			return err
		}
		if err := pause(ctx, time.Duration(attempt)*pauseStep); err != nil {
			return err
		}
	}
}

// pause waits for a random time up to longest, so that two loaders do not collide again.
func pause(ctx context.Context, longest time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(longest)):
		return nil
	}
}

func (f *Firewall) command() string { return cmp.Or(f.Command, "iptables") }

// list returns a table's rules as "iptables -S" prints them.
func (f *Firewall) list(ctx context.Context, table string) (string, error) {
	out, err := f.run(ctx, "", f.command(), "-w", lockWait, "-t", table, "-S")
	if err != nil {
		return "", fmt.Errorf("list table %s: %w", table, err)
	}
	return out, nil
}

func (f *Firewall) listAll(ctx context.Context, tables []string) (map[string]string, error) {
	current := make(map[string]string)
	for _, table := range tables {
		out, err := f.list(ctx, table)
		if err != nil {
			return nil, err
		}
		current[table] = out
	}
	return current, nil
}

// restore applies transactions. An error of iptables is a *restoreError.
func (f *Firewall) restore(ctx context.Context, tables []string, text string) error {
	_, err := f.run(ctx, text, f.command()+"-restore", "--noflush", "-w", lockWait)
	if err == nil {
		return nil
	}
	return fmt.Errorf("change table %s: %w", strings.Join(tables, ", "), &restoreError{line: failedLine(err.Error(), text), err: err})
}

// run runs a command, and adds a hint to the most common error.
func (f *Firewall) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	run := f.Run
	if run == nil {
		run = execute
	}
	out, err := run(ctx, stdin, name, args...)
	if err != nil && deniedText.MatchString(err.Error()) {
		return "", fmt.Errorf("%w: %w (run as root, or with CAP_NET_ADMIN and CAP_NET_RAW)", os.ErrPermission, err)
	}
	return out, err
}

// deniedText is what iptables says without rights: nft, legacy, and legacy that
// may not open /run/xtables.lock.
var deniedText = regexp.MustCompile(`must be root|Permission denied|Operation not permitted`)

// restoreError is the refusal of a transaction by iptables-restore.
type restoreError struct {
	line string // of the transaction, that was refused; "" if not told
	err  error
}

func (e *restoreError) Error() string {
	if e.line == "" {
		return e.err.Error()
	}
	return fmt.Sprintf("%v (at %.40q)", e.err, e.line)
}

func (e *restoreError) Unwrap() error { return e.err }

// raced reports whether the transaction did not fit the table, see LoadText. An error where a
// rule is inserted into a chain of ours means that the chain was gone. One at COMMIT means that
// the nft backend met another change and did not find what it had read (for a rule that the
// kernel refuses, it reports that rule's line), or that the legacy kernel interface returned
// EAGAIN because another program took no lock.
func (e *restoreError) raced() bool {
	switch verb, _, _ := strings.Cut(e.line, " "); verb {
	case "-D", "-F", "-X", "-N":
		return true
	case "-I":
		chain := strings.Fields(e.line)[1]
		return chain == Chain || chain == DataChain
	case "COMMIT":
		return racedText.MatchString(e.err.Error())
	}
	return false
}

var racedText = regexp.MustCompile(`\(nf_tables\)|Resource temporarily unavailable`)

// refused reports whether a rule of our chains was refused. The legacy backend passes all
// rules to the kernel at once, at COMMIT.
func (e *restoreError) refused() bool {
	if e.raced() || errors.Is(e.err, os.ErrPermission) {
		return false
	}
	return strings.HasPrefix(e.line, "-A "+Chain+" ") || strings.HasPrefix(e.line, "-A "+DataChain+" ") || e.line == "COMMIT"
}

// lineNumber finds the line in what iptables-restore says: "line 9 failed"
// (legacy), "line 9: RULE_APPEND failed" (nft), "Error occurred at line: 9"
// (either, for an option or an extension it does not know).
var lineNumber = regexp.MustCompile(`\bline:? (\d+)`)

// failedLine returns the line of text that message names, "" for none.
func failedLine(message, text string) string {
	m := lineNumber.FindStringSubmatch(message)
	if m == nil {
		return ""
	}
	lines := strings.Split(text, "\n")
	n, err := strconv.Atoi(m[1])
	if err != nil || n < 1 || n > len(lines) {
		return ""
	}
	return lines[n-1]
}

// execute is the real Runner.
func execute(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, path, args...)
	c.Env = append(os.Environ(), "LC_ALL=C") // strerror in English: deniedText reads it
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	c.WaitDelay = killWait
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("run %s: %w: %s", strings.Join(c.Args, " "), err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return stdout.String(), nil
}

// sbin is where iptables is if PATH is an ordinary user's.
var sbin = []string{"/usr/sbin", "/sbin"}

// find returns the path of a command. Its error wraps exec.ErrNotFound.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if filepath.Base(name) == name {
		for _, dir := range sbin {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("find %s (PATH=%s, and %s): %w (hint: apt-get install iptables)",
		name, os.Getenv("PATH"), strings.Join(sbin, ", "), exec.ErrNotFound)
}
