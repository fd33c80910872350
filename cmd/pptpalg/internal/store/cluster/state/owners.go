package state

import (
	"net/netip"
	"slices"
)

// claim is a public address that this gateway has.
//
//	           take                    another's revision
//	claimed ─────────▶ held (a fence) ────────────────────▶ lost: no claim
//	                    │         ▲
//	      in doubt: a   ▼         │ take again
//	      write failed  stale ────┘
//
// A write that failed may still arrive. It must not arrive behind a later one, so the fence
// is renewed first: then the late write's guard does not hold.
type claim struct {
	seen  int64 // the latest known revision of the owner's key; the fence while held
	held  bool  // this gateway is the owner, as far as it knows
	stale bool
	term  uint32 // since when it is held without another in between
	known uint32 // the term whose beginning the watch has told: all that others have written is known
	left  bool   // the gateway has the address no longer; what is pending is written until another takes it
	past  uint32 // terms up to this one were of a store that has lost its data
	again bool   // it has it again: if another has taken it meanwhile, it is taken back
}

// fenced reports whether calls can be written below the address.
func (c *claim) fenced() bool { return c.held && !c.stale }

// open reports whether calls may be written: what others have written is not written over.
func (c *claim) open() bool { return c.fenced() && c.known == c.term }

// owners are the claims of this gateway.
type owners struct {
	me     Owner
	claims map[netip.Addr]*claim
	others map[netip.Addr]bool // that others have taken since they were held; drop clears it
}

// claim takes note that this gateway has a public address.
func (o *owners) claim(public netip.Addr, seen int64) {
	switch c := o.claims[public]; {
	case c == nil:
		o.claims[public] = &claim{seen: seen}
	case c.left:
		c.left, c.stale, c.again = false, true, true // taken anew, for the barrier
	}
}

// yield takes note that it has it no longer. It reports whether nothing can be written any
// more.
func (o *owners) yield(public netip.Addr) (over bool) {
	c := o.claims[public]
	if c != nil && c.held {
		c.left, c.again = true, false
		return false
	}
	delete(o.claims, public)
	return true
}

// has reports whether the gateway has a public address.
func (o *owners) has(public netip.Addr) bool {
	c := o.claims[public]
	return c != nil && !c.left
}

// serves reports whether a term is the one for which the gateway has the address: no later claim
// is to be taken.
func (o *owners) serves(public netip.Addr, term uint32) bool {
	c := o.claims[public]
	return c != nil && c.held && !c.again && !c.left && c.term == term
}

// fence returns the guard of a public address, if it can be written below it.
func (o *owners) fence(public netip.Addr) (Guard, bool) {
	c := o.claims[public]
	if c == nil || !c.open() {
		return Guard{}, false
	}
	return Guard{OwnerKey(public), c.seen}, true
}

// untaken returns claims that must be taken, in order.
func (o *owners) untaken() []netip.Addr {
	var all []netip.Addr
	for public, c := range o.claims {
		if !c.fenced() {
			all = append(all, public)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// unheld returns those public addresses that are claimed, and that this gateway does not own as far as it
// knows.
func (o *owners) unheld(all []netip.Addr) (some []netip.Addr) {
	for _, public := range all {
		if c := o.claims[public]; c != nil && !c.held {
			some = append(some, public)
		}
	}
	return some
}

// take returns the transaction that takes public addresses. Who renews a fence goes on with its
// term: its guard says that no other was in between.
func (o *owners) take(all []netip.Addr) (t Transaction) {
	for _, public := range all {
		c := o.claims[public]
		if !c.held {
			o.me.Term++
			c.term = o.me.Term
		}
		owner := o.me
		owner.Term = c.term
		t.Guards = append(t.Guards, Guard{OwnerKey(public), c.seen})
		t.Puts = append(t.Puts, Put{Key: OwnerKey(public), Value: owner.Encode()})
	}
	return t
}

// took takes note of the revision of a take.
func (o *owners) took(all []netip.Addr, revision int64) {
	for _, public := range all {
		if c := o.claims[public]; c != nil && revision > c.seen {
			*c = claim{seen: revision, held: true, term: c.term, known: c.known, left: c.left}
		}
	}
}

// doubt takes note that a write may arrive late.
func (o *owners) doubt() {
	for _, c := range o.claims {
		c.stale = true
	}
}

// restored takes note that the store is another one: revisions of before mean nothing.
func (o *owners) restored() {
	for public, c := range o.claims {
		if *c = (claim{left: c.left, past: o.me.Term}); c.left {
			delete(o.claims, public)
		}
	}
}

// begin takes note that the watch has told the beginning of a term.
func (o *owners) begin(public netip.Addr, term uint32) {
	if c := o.claims[public]; c != nil {
		c.known = term
	}
}

// saw takes note of who owns a public address at a revision. It reports whether this gateway
// has lost it.
func (o *owners) saw(public netip.Addr, owner Owner, revision int64) (lost bool) {
	c := o.claims[public]
	switch {
	case c == nil || revision <= c.seen:
		return false
	case owner.Is(o.me) && owner.Term > c.past:
		*c = claim{seen: revision, held: true, term: owner.Term, known: c.known, stale: c.again, left: c.left, again: c.again}
		return false
	case c.held:
		o.others[public] = true
		if c.again {
			*c = claim{seen: revision}
			return false
		}
		delete(o.claims, public)
		return true
	}
	c.seen = revision // it is taken from the other
	return false
}

// fenced takes in the owners' keys as they are, when guards did not hold. It returns what was
// lost to others, and whether the store has lost keys.
func (o *owners) fenced(now []Item) (lost []netip.Addr, restored bool) {
	for _, it := range now {
		_, rest := cut(it.Key)
		public, _ := parseAddr(rest)
		c := o.claims[public]
		if c == nil {
			continue
		}
		owner, err := DecodeOwner(it.Value)
		switch {
		case c.left && it.Revision != c.seen && (err != nil || !owner.Is(o.me)):
			o.others[public] = true
			delete(o.claims, public)
		case it.Value == nil || it.Revision < c.seen:
			if c.seen != 0 {
				restored = true
				*c = claim{seen: it.Revision, past: o.me.Term}
			}
		case err != nil:
			c.seen, c.held = it.Revision, false // nobody can be read: it is taken
		case o.saw(public, owner, it.Revision):
			lost = append(lost, public)
		}
	}
	return lost, restored
}

// all returns the public addresses that the gateway has.
func (o *owners) all() (all []netip.Addr) {
	for public, c := range o.claims {
		if !c.left {
			all = append(all, public)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
