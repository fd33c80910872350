package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// Several gateways may have one public address at the same time, behind a router that spreads packets
// over them. Each owns a part of the address: see state.PartOf. GRE may pass any of them, for all have all
// entries. A control connection must pass the gateway that owns its part, in both directions. One that
// comes to another gateway is astray, unless its owner is not up any more: then its part is taken over.

// place returns the part of its public address that a connection is of.
func (s *share) place(c *calls.Connection) (netip.Addr, bool) {
	return state.PlaceOf(c, s.part.Of)
}

// places returns what this gateway owns of a public address that it has: the part that is its own, and
// what is of no part.
func (s *share) places(public netip.Addr) []netip.Addr {
	if s.part.Of <= 1 {
		return []netip.Addr{public}
	}
	return []netip.Addr{public, state.PartOf(public, s.part)}
}

// takes reports whether a place is among places.
func (s *share) takes(place netip.Addr) bool {
	return slices.Contains(s.places(place.Unmap()), place)
}

// isHere reports whether the address of a place is here. The caller holds mu.
func (s *share) isHere(place netip.Addr) bool {
	public := place.Unmap()
	return s.here[public] || s.told[public]
}

// held returns the places of a public address that this gateway owns, or is about to. The caller holds
// mu.
func (s *share) held(public netip.Addr) (all []netip.Addr) {
	for place := range s.mine {
		if place.Unmap() == public {
			all = append(all, place)
		}
	}
	for place := range s.taking {
		if place.Unmap() == public && !s.mine[place] {
			all = append(all, place)
		}
	}
	return all
}

// unlike returns what another gateway has otherwise than this one can do with.
func (s *share) unlike(m *state.Member) error {
	theirs, _ := state.ParseShare(m.Share)
	switch {
	case m.Name == s.name:
	case max(theirs.Of, 1) != max(s.part.Of, 1):
		return fmt.Errorf("gateway %s has --cluster-share %q: all gateways need the same number of parts", m.Name, m.Share)
	case s.part.Of > 1 && theirs.Mine == s.part.Mine:
		return fmt.Errorf("gateway %s has --cluster-share %q, too: each gateway needs a part of its own", m.Name, m.Share)
	}
	return nil
}

// Astray is a control connection of another gateway of which packets pass this one.
type Astray struct {
	Connection calls.Tuple
	Public     netip.Addr
	Owner      string
	Last       time.Time // when the last packet came
}

type astray struct {
	Astray
	since time.Time
}

const (
	mostAstray = 64 // are remembered
	astrayTime = time.Minute
	// heldTime is for how long packets of a connection that is astray must come again: until it is
	// known that its owner has died.
	heldTime = 6 * time.Second
)

// goesAstray takes note of a packet of a connection of another gateway, and reports whether that may have
// died. The caller holds mu.
func (g *Gateway) goesAstray(c *calls.Connection, public netip.Addr, owner string) (held bool) {
	s, now := g.share, time.Now()
	a := s.astray[c.Original]
	if a == nil || now.Sub(a.Last) > astrayTime {
		s.metrics.astray.Inc()
		g.limits.sometimes("elsewhere", func() {
			g.log.Warn("a control connection of another gateway passes through this one, which does not edit it: route both of its directions through its owner",
				"connection", c.Original, "public", state.NameOf(public), "owner", owner)
		})
		maps.DeleteFunc(s.astray, func(_ calls.Tuple, old *astray) bool { return now.Sub(old.Last) > astrayTime })
		a = &astray{Astray{c.Original, public, owner, now}, now}
		if len(s.astray) < mostAstray {
			s.astray[c.Original] = a
		}
	}
	a.Owner, a.Last = owner, now
	return now.Sub(a.since) < heldTime
}

// strayed returns the connections that are astray, the latest first. The caller holds mu.
func (s *share) strayed(now time.Time) (all []Astray) {
	for _, a := range s.astray {
		if now.Sub(a.Last) <= astrayTime {
			all = append(all, a.Astray)
		}
	}
	slices.SortFunc(all, func(a, b Astray) int { return b.Last.Compare(a.Last) })
	return all
}
