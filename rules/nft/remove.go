package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// RemoveChains removes chains of family ip, whatever table they are in, and every jump to them.
// The tables of iptables-nft are nftables', so this takes back what it has loaded, without it.
func (b *Backend) RemoveChains(names ...string) error {
	if _, err := b.tables(); errors.Is(err, ErrUnsupported) {
		return nil
	}
	c, err := b.dial()
	if err != nil {
		return err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return !slices.Contains(names, c.Name) })
	if len(chains) == 0 {
		return nil
	}
	listed, err := b.listRules(unix.NFPROTO_IPV4, nil)
	if err != nil {
		return fmt.Errorf("list nftables rules: %w", err)
	}
	err = b.batch(func(c *nftables.Conn) error {
		for _, m := range listed {
			r := readRule(m.Data)
			if !slices.Contains(names, r.jump) {
				continue
			}
			t := &nftables.Table{Name: r.table, Family: nftables.TableFamilyIPv4}
			if err := c.DelRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: r.chain, Table: t}, Handle: r.handle}); err != nil {
				return err
			}
		}
		for _, chain := range chains {
			c.FlushChain(chain)
			c.DelChain(chain)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove chains of iptables-nft: %w", err)
	}
	return nil
}

// jumpOf returns the chain to which a rule's expressions jump, "" for none.
func jumpOf(expressions []byte) (chain string) {
	each(expressions, func(_ uint16, e []byte) {
		data := find(find(e, unix.NFTA_EXPR_DATA), unix.NFTA_IMMEDIATE_DATA)
		if to := find(find(data, unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN); string(find(e, unix.NFTA_EXPR_NAME)) == "immediate\x00" && len(to) > 0 {
			chain = text(to)
		}
	})
	return chain
}
