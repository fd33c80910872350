// Package choice chooses who loads the firewall rules, and sees to it that nobody else's
// rules of ours are left beside them: a packet that two backends queue would be edited twice.
package choice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"pptpalg/rules"
	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// Names of who loads the rules.
const (
	Auto     = "auto"     // nftables where the kernel can, else iptables
	NFT      = "nft"      // nftables, by netlink
	IPTables = "iptables" // the programs
	None     = "none"     // the administrator
)

// Names are all of them.
var Names = []string{Auto, NFT, IPTables, None}

// load is what Auto was called before there was a choice.
const load = "load"

// Parse returns the name that text gives.
func Parse(text string) (string, error) {
	switch {
	case text == load:
		return Auto, nil
	case slices.Contains(Names, text):
		return text, nil
	}
	return "", fmt.Errorf("%q is none of %s", text, strings.Join(Names, ", "))
}

// New returns the backend of a name, as Parse returns it.
func New(name string) rules.Backend {
	byNetlink, byProgram := new(nft.Backend), new(iptables.Firewall)
	switch name {
	case NFT:
		return &chooser{name: name, order: []rules.Backend{byNetlink}, rest: []rules.Backend{byProgram}}
	case IPTables:
		return &chooser{name: name, order: []rules.Backend{byProgram}, rest: []rules.Backend{byNetlink}}
	case Auto:
		return &chooser{name: name, order: []rules.Backend{byNetlink, byProgram}}
	}
	return new(administrator)
}

// chooser loads rules by the first backend that can.
type chooser struct {
	name        string
	order, rest []rules.Backend

	mu     sync.Mutex
	chosen rules.Backend // who has loaded the rules; nil before; guarded by mu
}

func (c *chooser) choose(b rules.Backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chosen = b
}

func (c *chooser) choice() rules.Backend {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.chosen
}

func (c *chooser) Name() string { return c.name }

// Load loads the rules by the first backend that can, and then removes those of all others.
// Once it has chosen, it loads by the same one again.
func (c *chooser) Load(ctx context.Context, cfg rules.Config) (rules.Outcome, error) {
	var refused error
	for _, b := range c.preferred(cfg) {
		done, err := b.Load(ctx, cfg)
		if err == nil {
			c.choose(b)
			done.Backend = b.Name()
			return done, c.unloadAll(ctx, b)
		}
		refused = errors.Join(refused, fmt.Errorf("%s: %w", b.Name(), err))
		if errors.Is(err, os.ErrPermission) {
			break // nobody else has more rights
		}
	}
	return rules.Outcome{}, refused
}

// preferred returns the backends in the order in which they are tried. iptables comes first
// where the calls' GRE has to be accepted in the firewall's own chains and these are
// iptables-legacy's, which nftables does not reach, or has to be kept from rules in table raw.
func (c *chooser) preferred(cfg rules.Config) []rules.Backend {
	if b := c.choice(); b != nil {
		return []rules.Backend{b}
	}
	order := slices.Clone(c.order)
	if cfg.Data.Queues > 0 && rulesInRaw() || len(nft.ForwardRules(cfg.Data)) > 0 && iptables.HasLegacyTable("filter") {
		slices.Reverse(order)
	}
	return order
}

// rulesInRaw reports whether iptables' table raw has rules of others. Docker's drop what comes
// for a container from elsewhere, and a call's packet has its new destination there. Only an
// accept of iptables' keeps the packet from them.
func rulesInRaw() bool {
	return iptables.HasLegacyTable("raw") || new(nft.Backend).RulesOfOthers("raw")
}

// Order returns the names of the backends that New's tries to load cfg by, in the calling
// thread's network namespace: none for None.
func Order(name string, cfg rules.Config) []string {
	c, chooses := New(name).(*chooser)
	if !chooses {
		return nil
	}
	var names []string
	for _, b := range c.preferred(cfg) {
		names = append(names, b.Name())
	}
	return names
}

// Unload removes the rules of all backends.
func (c *chooser) Unload(ctx context.Context) error { return c.unloadAll(ctx, nil) }

// unloadAll removes the rules of all backends but one.
func (c *chooser) unloadAll(ctx context.Context, but rules.Backend) error {
	var errs []error
	for _, b := range slices.Concat(c.order, c.rest) {
		switch f, forgets := b.(interface{ Forget(context.Context) error }); {
		case b == but:
		case forgets && c.choice() != b:
			errs = append(errs, f.Forget(ctx))
		default:
			errs = append(errs, b.Unload(ctx))
		}
	}
	return errors.Join(errs...)
}

// Present asks who has loaded the rules; before that, everybody.
func (c *chooser) Present(ctx context.Context, cfg rules.Config) (bool, error) {
	if b := c.choice(); b != nil {
		return b.Present(ctx, cfg)
	}
	var errs []error
	for _, b := range c.order {
		there, err := b.Present(ctx, cfg)
		if there {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, errors.Join(errs...)
}

// Watch watches what has loaded the rules.
func (c *chooser) Watch(ctx context.Context, changed func()) error {
	b := c.choice()
	if b == nil {
		return errors.New("watch firewall rules: none are loaded")
	}
	return b.Watch(ctx, changed)
}
