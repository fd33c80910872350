package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pptpalg/cmd/pptpalg/internal/store/cluster/etcd"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// The readers of this file look at what a gateway needs that shares its calls with others.

// Cluster is such a gateway.
type Cluster struct {
	Etcd   etcd.Config
	Member state.Member  // this gateway, as it tells others
	Wait   time.Duration // of a control packet for etcd, at most
	Etc    string        // directory of other programs' configuration, /etc
}

// clusterChecks are those of a gateway that shares its calls.
var clusterChecks = []check{
	of("etcd", (*reader).etcd, judgeEtcd),
	of("etcd-latency", (*reader).latency, judgeLatency),
	of("etcd-rights", (*reader).etcdRights, judgeEtcdRights),
	of("cluster-gateways", (*reader).gateways, judgeGateways),
	of("clocks", (*reader).clocks, judgeClocks),
	of("moving-address", (*reader).moving, judgeMoving),
	of("cluster-table", (*reader).clusterTable, judgeClusterTable),
	of("conntrackd", (*reader).conntrackd, judgeConntrackd),
	of("keepalived", (*reader).keepalived, judgeKeepalived),
}

// How long etcd may take to answer a question, and for how long the others are listened to: they
// tell the time every two seconds.
const (
	askTime    = 3 * time.Second
	listenTime = 4 * time.Second
	writes     = 20 // that are timed
)

// asked is what came of asking etcd.
type asked struct {
	store  *etcd.Store
	open   error // the daemon cannot even try
	health etcd.Health
	tool   string // etcdctl with the flags that reach it
}

func (r *reader) askEtcd() asked {
	a := asked{tool: etcdctl(r.cfg.Cluster.Etcd)}
	if a.store, a.open = etcd.Open(r.cfg.Cluster.Etcd); a.open == nil {
		a.health = a.store.Ask(r.ctx, askTime)
	}
	return a
}

// etcdctl returns the command with the flags by which it reaches the same etcd.
func etcdctl(c etcd.Config) string {
	words := []string{"etcdctl", "--endpoints=" + strings.Join(c.Target.Endpoints, ",")}
	if !c.Insecure {
		words = append(words, "--cacert="+c.Files.CA, "--cert="+c.Files.Cert, "--key="+c.Files.Key)
	}
	return shell(words...)
}

// close gives back what the checks have kept.
func (r *reader) close() {
	if r.cfg.Cluster == nil {
		return
	}
	if a := r.etcdOnce(); a.store != nil {
		_ = a.store.Close() // nothing is under way
	}
}

func (r *reader) etcd() (asked, error) {
	a := r.etcdOnce()
	if errors.Is(a.open, os.ErrPermission) {
		return a, a.open
	}
	return a, nil
}

var errNoEtcd = errors.New("etcd does not answer")

// shared returns the store, if etcd can do what it is asked for.
func (r *reader) shared() (*etcd.Store, error) {
	a := r.etcdOnce()
	if a.open != nil || !slices.ContainsFunc(a.health.Endpoints, func(e etcd.Endpoint) bool { return e.Err == nil && e.Leader }) {
		return nil, errNoEtcd
	}
	return a.store, nil
}

// within bounds what etcd is asked for.
func (r *reader) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, d)
}

func (r *reader) latency() (latency, error) {
	store, err := r.shared()
	if err != nil {
		return latency{}, err
	}
	ctx, cancel := r.within(writes * askTime)
	defer cancel()
	l := latency{wait: r.cfg.Cluster.Wait, set: r.cfg.Set}
	l.took, err = store.Time(ctx, r.cfg.Cluster.Member.Name, writes)
	return l, err
}

func (r *reader) etcdRights() (rightsThere, error) {
	store, err := r.shared()
	if err != nil {
		return rightsThere{}, err
	}
	ctx, cancel := r.within(askTime)
	defer cancel()
	t := rightsThere{prefix: store.Prefix(), insecure: r.cfg.Cluster.Etcd.Insecure, tool: r.etcdOnce().tool}
	t.Rights, err = store.Rights(ctx)
	return t, err
}

// roster reads who is up and who owns what.
func (r *reader) roster() (state.Roster, state.Mark, error) {
	store, err := r.shared()
	if err != nil {
		return state.Roster{}, state.Mark{}, err
	}
	ctx, cancel := r.within(askTime)
	defer cancel()
	items, mark, err := store.Roster(ctx)
	return state.ReadRoster(items), mark, err
}

func (r *reader) gateways() (gateways, error) {
	all, _, err := r.roster()
	g := gateways{me: r.cfg.Cluster.Member, running: r.running(), set: r.cfg.Set}
	for _, slot := range sortedKeys(all.Members) {
		g.up = append(g.up, all.Members[slot].Member)
	}
	return g, err
}

// clocks listens to the others, each of which tells the time by its clock.
func (r *reader) clocks() (clocks, error) {
	all, mark, err := r.roster()
	if err != nil {
		return clocks{}, err
	}
	c := clocks{ahead: map[string]time.Duration{}}
	for _, seat := range all.Members {
		if seat.Member.Name != r.cfg.Cluster.Member.Name {
			c.up = append(c.up, seat.Member.Name)
		}
	}
	if slices.Sort(c.up); len(c.up) == 0 {
		return c, nil
	}
	ctx, cancel := r.within(listenTime)
	defer cancel()
	err = r.etcdOnce().store.Watch(ctx, mark, func(items []state.Item) {
		for slot, beat := range state.ReadRoster(items).Beats {
			if name := all.Members[slot].Member.Name; name == beat.Name && !beat.At.IsZero() {
				c.ahead[name] = time.Until(beat.At)
			}
		}
		if c.heardAll() {
			cancel()
		}
	})
	if ctx.Err() != nil {
		err = nil // nobody tells more, or nobody has to
	}
	return c, err
}

// moving finds out how clients' control connections are translated, and which addresses move.
func (r *reader) moving() (moving, error) {
	f, err := r.firewall()
	if err != nil {
		return moving{}, err
	}
	m := moving{firewall: f}
	m.share, _ = state.ParseShare(r.cfg.Cluster.Member.Share) // the daemon has checked it
	if all, _, err := r.roster(); err == nil {
		for public := range all.Owners {
			m.known(public)
		}
	}
	if k, err := r.keepalived(); err == nil {
		for _, a := range k.addresses() {
			m.known(a.String())
		}
	}
	slices.SortFunc(m.addresses, netip.Addr.Compare)
	return m, nil
}

func (m *moving) known(address string) {
	if a, err := netip.ParseAddr(address); err == nil && !slices.Contains(m.addresses, a) {
		m.addresses = append(m.addresses, a)
	}
}

func (r *reader) clusterTable() (clusterTable, error) {
	t, err := r.table()
	if err != nil {
		return clusterTable{}, err
	}
	store, err := r.shared()
	if err != nil {
		return clusterTable{}, err
	}
	ctx, cancel := r.within(askTime)
	defer cancel()
	calls, err := store.Count(ctx)
	return clusterTable{max: t.max, calls: calls}, err
}

func (r *reader) conntrackd() (conntrackd, error) {
	text, file, err := r.configurationOf("conntrackd", "conntrackd/conntrackd.conf", "-C")
	return conntrackd{file: file, blocks: readBlocks(text, "#")}, err
}

func (r *reader) keepalived() (keepalived, error) {
	text, file, err := r.configurationOf("keepalived", "keepalived/keepalived.conf", "-f", "--use-file")
	return keepalived{file: file, blocks: readBlocks(text, "#!")}, err
}

// configurationOf reads the configuration file of a program: what it was started with, if it
// runs in this network namespace, or else its default one. No file is no error.
func (r *reader) configurationOf(program, file string, flags ...string) (text, name string, err error) {
	name = filepath.Join(r.cfg.Cluster.Etc, file)
	if args := running(program); args != nil {
		name = argument(args, name, flags)
	}
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("read configuration of %s: %w", program, err)
	}
	return string(b), name, nil
}

// argument returns what follows one of the flags.
func argument(args []string, otherwise string, flags []string) string {
	for i, a := range args {
		flag, value, joined := strings.Cut(a, "=")
		switch {
		case !slices.Contains(flags, flag):
		case joined:
			return value
		case i+1 < len(args):
			return args[i+1]
		}
	}
	return otherwise
}

// running returns the command line of a program that runs in the network namespace of the
// calling thread, nil if it does not.
func running(program string) []string {
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(name)) != program {
			continue
		}
		there, err := os.Readlink(filepath.Join(dir, "ns/net"))
		line, err2 := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && err2 == nil && there == here && len(line) > 0 {
			return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		}
	}
	return nil
}
