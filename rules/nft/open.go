package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// An accept in our table does not overrule a drop in another one. So where the calls' GRE is
// to be accepted (rules.Data), rules that do so are put first in the firewall's own chains:
// all base chains of families ip and inet that filter what is forwarded, delivered or sent.
// OpenerComment tells that they are ours.
const OpenerComment = "pptpalg: GRE of calls"

// opener accepts packets of a protocol that conntrack does not track.
type opener struct{ protocol byte }

var openers = []opener{{unix.IPPROTO_GRE}, {unix.IPPROTO_ICMP}}

// exprs returns the rule for a chain. iptables-nft reads its own chains, and would give up on a
// table with a match that is not one of iptables'.
func (o opener) exprs(c *nftables.Chain) []expr.Any {
	is := untracked.exprs
	if ofIPTables(c) {
		any4 := make([]byte, 4)
		base := xt.ConntrackMtinfoBase{
			OrigSrcAddr: any4, OrigSrcMask: any4, OrigDstAddr: any4, OrigDstMask: any4,
			ReplSrcAddr: any4, ReplSrcMask: any4, ReplDstAddr: any4, ReplDstMask: any4, MatchFlags: uint16(xt.ConntrackState),
		}
		info := &xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{ConntrackMtinfoBase: base, StateMask: xtUntracked}}
		is = []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: info}}
	}
	match := upper(o.protocol)
	if c.Table.Family == nftables.TableFamilyINet {
		match = append([]expr.Any{meta(expr.MetaKeyNFPROTO), equal([]byte{unix.NFPROTO_IPV4})}, match...)
	}
	return slices.Concat(match, is, accept.exprs)
}

// xtUntracked is XT_CONNTRACK_STATE_UNTRACKED of linux/netfilter/xt_conntrack.h.
const xtUntracked = 1 << 8

// ofIPTables reports whether a chain is one of those that iptables-nft makes.
func ofIPTables(c *nftables.Chain) bool {
	return c.Table.Family == nftables.TableFamilyIPv4 && c.Name == strings.ToUpper(c.Name) &&
		slices.Contains([]string{"raw", "mangle", "nat", "filter", "security"}, c.Table.Name)
}

// doors returns the firewall's own chains that may drop GRE.
func (b *Backend) doors() ([]*nftables.Chain, error) {
	c, err := b.dial()
	if err != nil {
		return nil, err
	}
	var all []*nftables.Chain
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		found, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		all = append(all, slices.DeleteFunc(found, func(f *nftables.Chain) bool { return !isDoor(f) })...)
	}
	return all, nil
}

func isDoor(c *nftables.Chain) bool {
	if c.Hooknum == nil || c.Priority == nil || c.Type != nftables.ChainTypeFilter || ofOurs(c.Table) {
		return false
	}
	between := *c.Priority > manglePriority // what filters earlier, filters before the calls' packets are known
	return between && slices.Contains([]nftables.ChainHook{*nftables.ChainHookForward, *nftables.ChainHookInput, *nftables.ChainHookOutput}, *c.Hooknum)
}

// place names a chain.
func placeOf(c *nftables.Chain) string {
	return fmt.Sprintf("%d %s %s", c.Table.Family, c.Table.Name, c.Name)
}

// open has all doors accept the calls' GRE. An error names those that nobody may change; they
// are not tried again.
func (b *Backend) open() error {
	doors, err := b.doors()
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	have, err := b.opened()
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	var errs []error
	for _, d := range doors {
		if have[placeOf(d)].good() || b.isLocked(placeOf(d)) {
			continue
		}
		err := b.batch(func(c *nftables.Conn) error {
			for _, handle := range have[placeOf(d)].handles {
				if err := c.DelRule(&nftables.Rule{Table: d.Table, Chain: d, Handle: handle}); err != nil {
					return err
				}
			}
			for _, o := range openers {
				comment := userdata.AppendString(nil, userdata.TypeComment, OpenerComment)
				c.InsertRule(&nftables.Rule{Table: d.Table, Chain: d, Exprs: o.exprs(d), UserData: comment})
			}
			return nil
		})
		if err != nil {
			b.lock(placeOf(d))
			errs = append(errs, fmt.Errorf("accept the calls' GRE in chain %s of table %s: %w", d.Name, d.Table.Name, err))
		}
	}
	return errors.Join(errs...)
}

// isOpen reports whether all doors are open that can be. A rule that others have put before ours
// counts only if it may take a packet that ours would accept: programs put many there that do not.
func (b *Backend) isOpen() (bool, error) {
	doors, err := b.doors()
	if err != nil {
		return false, err
	}
	have, err := b.opened()
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(doors, func(d *nftables.Chain) bool {
		return !have[placeOf(d)].good() && !b.isLocked(placeOf(d))
	}), nil
}

// shut removes the rules that open has added.
func (b *Backend) shut() error {
	have, err := b.opened()
	if err != nil || len(have) == 0 {
		return err
	}
	doors, err := b.doors()
	if err != nil {
		return err
	}
	return b.batch(func(c *nftables.Conn) error {
		for _, d := range doors {
			for _, handle := range have[placeOf(d)].handles {
				if err := c.DelRule(&nftables.Rule{Table: d.Table, Chain: d, Handle: handle}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// opening is what a chain has of the rules that open adds.
type opening struct {
	handles []uint64
	taken   bool // a rule of others that may take calls' packets has been seen
	late    bool // and it comes before one of ours
}

func (o opening) good() bool { return len(o.handles) == len(openers) && !o.late }

// opened returns what chains have of these rules, by their place.
func (b *Backend) opened() (map[string]opening, error) {
	have := make(map[string]opening)
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		listed, err := b.listRules(byte(family), nil)
		if err != nil {
			return nil, err
		}
		for _, m := range listed { // in the order of each chain
			r := readRule(m.Data)
			at := placeOf(&nftables.Chain{Name: r.chain, Table: &nftables.Table{Name: r.table, Family: family}})
			o := have[at]
			if r.comment == OpenerComment {
				o.handles, o.late = append(o.handles, r.handle), o.late || o.taken
			} else {
				o.taken = o.taken || mayTake(r.expressions)
			}
			have[at] = o
		}
	}
	return have, nil
}

func (b *Backend) isLocked(place string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.locked[place]
}

func (b *Backend) lock(place string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.locked == nil {
		b.locked = make(map[string]bool)
	}
	b.locked[place] = true
}
