package nft

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/rules"
)

// answerTime bounds how long a request waits for the kernel. It answers some batches with
// fewer messages than were asked for.
const answerTime = 5 * time.Second

// Backend is the rules.Backend that loads the rules by netlink. It runs no program, and needs
// CAP_NET_ADMIN only. The zero value is ready.
type Backend struct {
	// NetNS is the network namespace, as a file; 0 is the caller's own.
	NetNS int

	mu     sync.Mutex
	locked map[string]bool // chains of the firewall's that nobody may change; guarded by mu
}

// Name is what --rules calls the backend.
func (b *Backend) Name() string { return Name }

// Name is what --rules calls the backend.
const Name = "nft"

// ErrUnsupported says that the kernel has no nftables.
var ErrUnsupported = errors.New("the kernel has no nftables (module nf_tables)")

// Load loads cfg's rules in one atomic step, replacing those of ours that were loaded before.
// If the kernel lacks something that cfg can do without, it loads the rest and says so. On an
// error nothing has changed. Where the calls' GRE is to be accepted, rules in the firewall's own
// chains follow; an error of theirs is told and fails nothing.
func (b *Backend) Load(_ context.Context, cfg rules.Config) (rules.Outcome, error) {
	if err := cfg.Validate(); err != nil {
		return rules.Outcome{}, err
	}
	done, err := b.load(cfg)
	if err != nil {
		return rules.Outcome{}, err
	}
	if wantsOpen(cfg) {
		err = b.open()
	} else {
		err = b.shut()
	}
	done.Refused = errors.Join(done.Refused, err)
	return done, nil
}

func wantsOpen(cfg rules.Config) bool { return cfg.Data.Queues > 0 && cfg.Data.Mark != 0 }

func (b *Backend) load(cfg rules.Config) (rules.Outcome, error) {
	first := b.replace(chains(cfg))
	if first == nil {
		return rules.Outcome{Config: cfg}, nil
	}
	if errors.Is(first, os.ErrPermission) || errors.Is(first, ErrUnsupported) {
		return rules.Outcome{}, fmt.Errorf("load nftables rules: %w", first)
	}
	queues := queue(cfg.Queue, 1, expr.QueueFlagBypass)
	own, target := b.takes(queues), b.takes(queues.byTarget())
	if !own && !target {
		return rules.Outcome{}, b.why(cfg, first) // nothing works without
	}
	for _, f := range lesser(cfg) {
		if !own {
			f.chains = byTarget(f.chains)
		}
		if b.replace(f.chains) == nil {
			done := rules.Outcome{Config: f.cfg}
			if !same(cfg, f.cfg) {
				done.Refused = b.why(cfg, first)
			}
			return done, nil
		}
	}
	return rules.Outcome{}, b.why(cfg, first)
}

// why returns an error that says more than the kernel's, if it can. It takes a second: each
// phrase is tried alone.
func (b *Backend) why(cfg rules.Config, err error) error {
	if missing := b.missing(cfg); missing != nil {
		err = missing
	}
	return fmt.Errorf("load nftables rules: %w", err)
}

// same reports whether all that was asked for is loaded, in another form perhaps.
func same(asked, loaded rules.Config) bool {
	asked.Ports, loaded.Ports = nil, nil // as they were
	return reflect.DeepEqual(asked, loaded)
}

// byTarget returns chains that queue by iptables' target.
func byTarget(all []chain) []chain {
	for i := range all {
		made := make([]rule, len(all[i].rules))
		for j, r := range all[i].rules {
			for _, p := range r {
				if p.comment != "" && len(made[j]) > 0 && made[j][len(made[j])-1].comment != "" {
					continue // a rule has one comment
				}
				made[j] = append(made[j], p.byTarget())
			}
		}
		all[i].rules = made
	}
	return all
}

// form is one way to have the rules.
type form struct {
	cfg    rules.Config
	chains []chain
}

// lesser returns what to load if the kernel lacks something that cfg has, best first.
func lesser(cfg rules.Config) []form {
	silent := cfg
	silent.ResetMark = 0
	asked := slices.Concat([]rules.Config{cfg}, cfg.Lesser(), []rules.Config{silent}, silent.Lesser())
	var all []form
	for i := range variants(chains(cfg)) {
		for _, c := range asked {
			all = append(all, form{c, variants(chains(c))[i]})
		}
	}
	return all
}

// variants returns the chains as they are to be, and without what older kernels do not take:
// those before 5.6 do not know an interface's kind, and those before 4.18 have one program
// translate, which may be iptables-legacy.
func variants(all []chain) [][]chain {
	return [][]chain{all, withoutVRF(all), withoutNAT(all), withoutNAT(withoutVRF(all))}
}

// withoutVRF returns chains without the rules about VRFs.
func withoutVRF(all []chain) []chain {
	all = slices.Clone(all)
	for i := range all {
		all[i].rules = slices.DeleteFunc(slices.Clone(all[i].rules), func(r rule) bool { return r[0].words == fromVRF.words })
	}
	return all
}

func withoutNAT(all []chain) []chain {
	return slices.DeleteFunc(slices.Clone(all), func(c chain) bool { return c.at == translating })
}

// Unload removes the table. Without one it does nothing. The rules go first, so that those who
// read queues can still answer for what waits: with the chains the kernel drops it.
func (b *Backend) Unload(ctx context.Context) error {
	present, err := b.chains()
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	if err == nil {
		err = b.shut()
	}
	if err == nil && len(present) > 0 {
		err = b.batch(func(c *nftables.Conn) error {
			for _, p := range present {
				c.FlushChain(p)
			}
			return nil
		})
	}
	if err == nil {
		err = b.remove(ctx)
	}
	if err != nil {
		return fmt.Errorf("unload nftables rules: %w", err)
	}
	return nil
}

func (b *Backend) remove(ctx context.Context) error {
	found, err := b.tables()
	if err != nil || !slices.ContainsFunc(found, ofOurs) {
		return err
	}
	awaitQueues(ctx)
	return b.batch(func(c *nftables.Conn) error {
		c.AddTable(table())
		c.DelTable(table())
		return nil
	})
}

// Present reports whether all of cfg's rules are loaded: each chain at its place, with as
// many rules as it is to have, and those in the firewall's own chains, before others.
func (b *Backend) Present(_ context.Context, cfg rules.Config) (bool, error) {
	there, err := false, error(nil)
	for _, wanted := range variants(chains(cfg)) {
		if !there && err == nil {
			there, err = b.present(wanted)
		}
	}
	if err == nil && there && wantsOpen(cfg) {
		there, err = b.isOpen()
	}
	if errors.Is(err, ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables rules: %w", err)
	}
	return there, nil
}

func (b *Backend) present(wanted []chain) (bool, error) {
	found, err := b.chains()
	if err != nil || len(found) == 0 {
		return false, err
	}
	counts, err := b.counts()
	if err != nil {
		return false, err
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(found, w.is) || counts[w.name] != len(w.rules) {
			return false, nil
		}
	}
	return true, nil
}

// counts returns how many rules the chains of the table have. The library's GetRules fails
// on expressions that it does not know.
func (b *Backend) counts() (map[string]int, error) {
	ofTable, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(Table + "\x00")}})
	if err != nil {
		return nil, err
	}
	listed, err := b.listRules(unix.NFPROTO_IPV4, ofTable)
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int)
	for _, m := range listed {
		if r := readRule(m.Data); r.table == Table { // kernels before 4.12 list all tables
			counts[r.chain]++
		}
	}
	return counts, nil
}

// RulesOfOthers reports whether a table of iptables' has rules in its own chains that are not
// our jumps.
func (b *Backend) RulesOfOthers(table string) bool {
	ofTable, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(table + "\x00")}})
	if err != nil {
		return false
	}
	listed, _ := b.listRules(unix.NFPROTO_IPV4, ofTable) // without nftables, or such a table, there are none
	return slices.ContainsFunc(listed, func(m netlink.Message) bool {
		r := readRule(m.Data)
		return r.table == table && r.chain == strings.ToUpper(r.chain) && !strings.HasPrefix(r.chain, "PPTPALG") && !strings.HasPrefix(r.jump, "PPTPALG")
	})
}

// listRules returns the kernel's messages about rules.
func (b *Backend) listRules(family byte, filter []byte) ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: b.NetNS})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, filter...),
	})
}

// listed is what is read of a rule that the kernel lists.
type listed struct {
	table, chain, comment string
	jump                  string // the chain to which it jumps, "" for none
	handle                uint64
	expressions           []byte // a list
}

// readRule reads a rule; four bytes of nfgenmsg come first. What is no rule is empty.
func readRule(data []byte) (r listed) {
	if len(data) < 4 {
		return listed{}
	}
	each(data[4:], func(typ uint16, b []byte) {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			r.table = text(b)
		case unix.NFTA_RULE_CHAIN:
			r.chain = text(b)
		case unix.NFTA_RULE_HANDLE:
			if len(b) == 8 {
				r.handle = binary.BigEndian.Uint64(b)
			}
		case unix.NFTA_RULE_USERDATA:
			r.comment = cmp.Or(r.comment, comment(b))
		case unix.NFTA_RULE_EXPRESSIONS:
			r.jump, r.expressions, r.comment = jumpOf(b), b, cmp.Or(r.comment, commentMatch(b))
		}
	})
	return r
}

// text returns a string of the kernel's, without its zero.
func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// comment returns the comment in what a program has left with a rule: elements of a type, a
// length and the data.
func comment(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		if userdata.Type(data[0]) == userdata.TypeComment {
			return strings.TrimRight(string(data[2:2+data[1]]), "\x00")
		}
		data = data[2+data[1]:]
	}
	return ""
}

// commentMatch returns the comment in a match of iptables' among a rule's expressions: that is
// where iptables-nft-restore puts it.
func commentMatch(expressions []byte) (found string) {
	each(expressions, func(_ uint16, e []byte) {
		data := find(e, unix.NFTA_EXPR_DATA)
		if text(find(e, unix.NFTA_EXPR_NAME)) == "match" && text(find(data, unix.NFTA_MATCH_NAME)) == "comment" {
			found, _, _ = strings.Cut(string(find(data, unix.NFTA_MATCH_INFO)), "\x00")
		}
	})
	return found
}

// is reports whether a chain of the kernel's is at the place; nil is none.
func (p *place) is(f *nftables.Chain) bool {
	if p == nil || f.Hooknum == nil || f.Priority == nil {
		return p == nil && f.Hooknum == nil
	}
	return *f.Hooknum == *p.hook && *f.Priority == p.priority
}

// is reports whether a chain of the kernel's is this one. Its rules may be others.
func (c *chain) is(f *nftables.Chain) bool { return f.Name == c.name && c.at.is(f) }

func table() *nftables.Table {
	return &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}
}

func ofOurs(t *nftables.Table) bool {
	return t.Name == Table && t.Family == nftables.TableFamilyIPv4
}

// replace has the table hold these chains and nothing else. A base chain that stays at its place
// is not deleted: with any hook that goes, the kernel drops what waits in every queue
// (nf_queue_nf_hook_drop).
func (b *Backend) replace(all []chain) error {
	present, err := b.chains()
	if err != nil {
		return err
	}
	return b.batch(func(c *nftables.Conn) error {
		t := c.AddTable(table())
		for _, p := range present {
			c.FlushChain(p)
		}
		for _, p := range present {
			if !slices.ContainsFunc(all, func(w chain) bool { return w.is(p) }) {
				c.DelChain(p)
			}
		}
		return add(c, t, all)
	})
}

// chains returns the chains of the table.
func (b *Backend) chains() ([]*nftables.Chain, error) {
	if _, err := b.tables(); err != nil {
		return nil, err
	}
	c, err := b.dial()
	if err != nil {
		return nil, err
	}
	found, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	return slices.DeleteFunc(found, func(f *nftables.Chain) bool { return !ofOurs(f.Table) }), err
}

// add adds chains to a table, and then their rules, which jump from one to another.
func add(c *nftables.Conn, t *nftables.Table, all []chain) error {
	for _, ch := range all {
		added := &nftables.Chain{Name: ch.name, Table: t}
		if ch.at != nil {
			policy := nftables.ChainPolicyAccept
			added.Type, added.Hooknum, added.Priority, added.Policy = ch.at.kind, ch.at.hook, &ch.at.priority, &policy
		}
		c.AddChain(added)
	}
	for _, ch := range all {
		for _, r := range ch.rules {
			if err := addRule(c, t, ch.name, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func addRule(c *nftables.Conn, t *nftables.Table, chain string, r rule) error {
	added := &nftables.Rule{Table: t, Chain: &nftables.Chain{Name: chain, Table: t}}
	for _, p := range r {
		added.Exprs = append(added.Exprs, p.exprs...)
		if p.oneOf != nil {
			lookup, err := oneOf(c, t, p.oneOf)
			if err != nil {
				return err
			}
			added.Exprs = append(added.Exprs, lookup)
		}
		if p.comment != "" {
			added.UserData = userdata.AppendString(added.UserData, userdata.TypeComment, p.comment)
		}
	}
	c.AddRule(added)
	return nil
}

// sets counts the sets that were made. The library's own count is not safe for goroutines.
var sets atomic.Uint32

// oneOf adds a set of ICMP's types, and returns the match on it.
func oneOf(c *nftables.Conn, t *nftables.Table, values []byte) (expr.Any, error) {
	set := &nftables.Set{
		ID: sets.Add(1), Name: "__set%d", // the kernel puts a number there
		Table: t, Anonymous: true, Constant: true, KeyType: nftables.TypeICMPType,
	}
	elements := make([]nftables.SetElement, len(values))
	for i, v := range values {
		elements[i].Key = []byte{v}
	}
	if err := c.AddSet(set, elements); err != nil {
		return nil, err
	}
	return &expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID}, nil
}

// dial returns a connection for one task.
func (b *Backend) dial() (*nftables.Conn, error) {
	bounded := func(c *netlink.Conn) error { return c.SetReadDeadline(time.Now().Add(answerTime)) }
	return nftables.New(nftables.WithNetNSFd(b.NetNS), nftables.WithSockOptions(bounded))
}

// batch sends what fill adds as one transaction.
func (b *Backend) batch(fill func(*nftables.Conn) error) error {
	c, err := b.dial()
	if err != nil {
		return err
	}
	if err := fill(c); err != nil {
		return err
	}
	return c.Flush()
}

// tables lists the tables of family ip. It is the first request of every task: a kernel
// without nftables answers it.
func (b *Backend) tables() ([]*nftables.Table, error) {
	c, err := b.dial()
	if err != nil {
		return nil, err
	}
	found, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return found, err
}

// trialTable is a table that exists within one transaction only. Its chains have no hooks, so
// no packet meets it.
const trialTable = "pptpalg-trial"

// missing tries each part of the rules alone, and returns an error that names those that the
// kernel refuses; nil if it refuses none.
func (b *Backend) missing(cfg rules.Config) error {
	var refused []string
	for _, ch := range chains(cfg) {
		for _, r := range ch.rules {
			for _, p := range r {
				if text := p.needs(); !slices.Contains(refused, text) && !b.takes(p) {
					refused = append(refused, text)
				}
			}
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("the kernel refuses %s", strings.Join(refused, ", "))
}

// takes reports whether the kernel takes a phrase alone.
func (b *Backend) takes(p phrase) bool {
	return b.batch(func(c *nftables.Conn) error {
		t := c.AddTable(&nftables.Table{Name: trialTable, Family: nftables.TableFamilyIPv4})
		for _, name := range []string{"trial", p.target()} {
			if name != "" {
				c.AddChain(&nftables.Chain{Name: name, Table: t})
			}
		}
		err := addRule(c, t, "trial", rule{p})
		c.DelTable(t)
		return err
	}) == nil
}

// target returns the chain to which a phrase jumps, "" for none.
func (p phrase) target() string {
	for _, e := range p.exprs {
		if v, ok := e.(*expr.Verdict); ok {
			return v.Chain
		}
	}
	return ""
}

// needs names what a phrase needs of the kernel: the words, and a module.
func (p phrase) needs() string {
	for _, e := range p.exprs {
		switch e.(type) {
		case *expr.Queue:
			return "queue (module nft_queue)"
		case *expr.Reject:
			return "reject (module nft_reject_ipv4)"
		case *expr.Ct, *expr.Notrack:
			return strings.Join(strings.Fields(p.words)[:min(2, len(strings.Fields(p.words)))], " ") + " (module nft_ct)"
		}
	}
	return p.words
}
