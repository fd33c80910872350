package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
)

// Which public addresses are here decides whose calls are whose in a cluster. The kernel tells
// of addresses that come and go; the reconciler looks as well. An address that is on no interface, as one
// that is routed to the gateway, is here if a command says so.

// watchAddresses follows the addresses of the gateway's interfaces until ctx is done.
func (g *Gateway) watchAddresses(ctx context.Context) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: 1 << (unix.RTNLGRP_IPV4_IFADDR - 1)})
	if err != nil {
		return fmt.Errorf("listen to addresses: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // ends Receive
	defer stop()
	for {
		g.readdress()
		_, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("listen to addresses: %w", err)
		}
	}
}

// readdress looks which public addresses are here. The caller holds no lock.
func (g *Gateway) readdress() {
	for _, public := range g.readdressed() {
		g.depart(public)
	}
}

// readdressed has the gateway own the public addresses that are here. It returns those that
// are no longer.
func (g *Gateway) readdressed() (left []netip.Addr) {
	s := g.share
	s.looking.Lock()
	defer s.looking.Unlock()
	now := time.Now()
	all, err := g.homes.list()
	if err != nil {
		g.limits.sometimes("addresses", func() { g.log.Warn("addresses are not known", "err", err) })
		return nil
	}
	s.looked = now
	here := make(map[netip.Addr]bool, len(all))
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range all {
		if here[a] = true; !s.here[a] {
			g.arrives(a)
		}
	}
	for a := range s.here {
		if !here[a] && !s.told[a] {
			left = append(left, s.held(a)...)
			g.leaves(a)
		}
	}
	s.here = here
	return left
}

// arrives has the gateway own a public address that has come, unless it does. The caller holds
// mu.
func (g *Gateway) arrives(public netip.Addr) {
	s := g.share
	delete(s.gone, public)
	for _, place := range s.places(public) {
		s.fresh[place] = true
		switch o, other := s.others[place]; {
		case o.unused:
			delete(s.others, place)
		case other && s.taking[place] == nil:
			g.acquire(place)
		}
	}
}

// depart has the calls of an address that has gone followed, until somebody has it. What has
// happened to them before goes to the shared store first.
func (g *Gateway) depart(public netip.Addr) {
	s := g.share
	g.order.Lock()
	g.mu.Lock()
	s.leaving[public]++
	g.mu.Unlock()
	g.yield(public, "")
	s.store.Abandon(public)
	g.order.Unlock()
	s.store.Flush(public) // the next owner knows what has happened to its calls until now
	g.order.Lock()
	defer g.order.Unlock()
	g.left(public)
}

// left has the store write no more below an address that has gone; one that has come back meanwhile
// is taken anew. The caller holds order.
func (g *Gateway) left(public netip.Addr) {
	s := g.share
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.leaving[public]--; s.leaving[public] > 0 {
		return
	}
	delete(s.leaving, public)
	if s.mine[public] {
		return
	}
	s.store.Yield(public)
	if s.taking[public] != nil || s.returned(public) {
		g.acquire(public)
	}
}

// retake has the gateway own an address that has come back before it was noticed that another one
// has taken it, or that it was gone. One that another gateway has taken later stays with that, and the store is told.
func (g *Gateway) retake(public netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.share.returned(public):
		g.acquire(public)
	case g.share.taking[public] == nil: // else it has come back since it was yielded
		g.share.store.Yield(public)
	}
}

// returned reports whether a public address has come here, and this gateway has not taken it
// since. The caller holds mu.
func (s *share) returned(public netip.Addr) bool {
	return s.fresh[public] && s.isHere(public)
}

// comes reports whether a connection that another gateway owns, and of which a packet passes,
// becomes this one's: its public address is here, and if it has parts, its owner is not up. held says
// that the packet must come again: it is not known yet whether the owner is up, or who keeps an address that
// two gateways have.
func (g *Gateway) comes(c *calls.Connection) (ours, held bool) {
	seen := g.refresh(looked)
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.share
	public, _ := s.place(c)
	o, other := s.others[public]
	switch {
	case !other, s.taking[public] != nil: // it became this one's meanwhile, or is about to
		return true, false
	case !s.isHere(public) && !o.since.IsZero() && seen.Before(g.turn.began):
		return false, true // it may have come since
	case !s.isHere(public) && !o.since.IsZero():
		if time.Since(s.left[public]) > late { // else it was on its way here
			g.goesAstray(c, public, o.name)
		}
		return false, false
	case !s.takes(public) && s.store.Up(o.name):
		return false, g.goesAstray(c, public, o.name)
	case s.takes(public) && o.name != "" && !s.fresh[public] && time.Since(o.since) < contested:
		return false, true // unedited it would do harm
	}
	g.acquire(public)
	return true, false
}

// keeps reports whether a public address has not gone just now, also if nobody has noticed that yet. One that went
// longer ago may be taken all the same, for calls of the journal, until another gateway has it. The caller holds no
// lock.
func (g *Gateway) keeps(place netip.Addr) bool {
	all, err := g.homes.list()
	g.mu.Lock()
	defer g.mu.Unlock()
	s, public := g.share, place.Unmap()
	switch {
	case s.told[public], err == nil && slices.Contains(all, public):
		return true
	case s.here[public]:
		return err != nil
	}
	return !s.gone[public] || time.Since(s.left[place]) >= late // or it is one that is on no interface
}

// leaves takes note that a public address is here no longer, though it may have been another gateway's
// already. It is nobody's then, if nobody has used it yet. The caller holds mu.
func (g *Gateway) leaves(public netip.Addr) {
	s := g.share
	s.gone[public] = true
	for _, place := range s.places(public) {
		g.renewLoosened(place)
		s.left[place] = time.Now()
		if _, other := s.others[place]; !other && !s.mine[place] && s.taking[place] == nil {
			s.others[place] = holding{since: s.left[place], unused: true}
		}
	}
}

// underWay reports whether a packet of a connection that another gateway owns was on its way here when
// the address has gone. Unedited it would do harm, and TCP sends it again by the other gateway.
func (g *Gateway) underWay(c *calls.Connection) bool {
	public, _ := g.share.place(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	left, was := g.share.left[public]
	return was && time.Since(left) < late
}

// mayBeTold reports whether this gateway has the public address of a segment's connection from another
// one, since a moment ago. That one may have let a message go that the shared store did not know, as
// one does not answer; and it offers what it knows then. The caller holds mu.
func (g *Gateway) mayBeTold(seg packet.Segment, now time.Time) bool {
	s := g.share
	if now.Sub(s.latest) >= late {
		return false
	}
	c := g.editor.Connection(seg)
	public, _ := s.place(&c)
	return now.Sub(s.taken[public]) < late
}

// refresh has the addresses looked at, unless they were since, and returns when they were.
func (g *Gateway) refresh(since time.Duration) (at time.Time) {
	looked := func() time.Time {
		g.share.looking.Lock()
		defer g.share.looking.Unlock()
		return g.share.looked
	}
	if at = looked(); time.Since(at) < since {
		return at
	}
	g.readdress()
	return looked()
}

// Take says that a public address is on this gateway, and Leave that it is no longer: for addresses
// that are on no interface.
func (g *Gateway) Take(public netip.Addr) error {
	if g.share == nil {
		return errAlone
	}
	g.mu.Lock()
	g.share.told[public] = true
	delete(g.share.gone, public)
	for _, place := range g.share.places(public) {
		g.share.fresh[place] = true
		if !g.share.mine[place] {
			g.acquire(place)
		}
	}
	g.mu.Unlock()
	g.awaitOwners()
	return nil
}

// Leave is the opposite of Take.
func (g *Gateway) Leave(public netip.Addr) error {
	if g.share == nil {
		return errAlone
	}
	g.mu.Lock()
	delete(g.share.told, public)
	g.leaves(public)
	held := g.share.held(public)
	g.mu.Unlock()
	for _, place := range held {
		g.depart(place)
	}
	return nil
}
