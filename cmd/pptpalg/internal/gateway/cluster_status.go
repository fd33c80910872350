package gateway

import (
	"maps"
	"net/netip"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
)

// ClusterStatus is how a gateway of a cluster does.
type ClusterStatus struct {
	Name      string
	Whole     bool // all was applied once that the shared store had
	Store     cluster.Status
	Addresses map[netip.Addr]PublicAddress // or parts of them: see state.PartOf
	Astray    []Astray
}

// PublicAddress is a public address of a cluster.
type PublicAddress struct {
	Owner string // by the shared store, "" for nobody
	Mine  bool   // this gateway edits its connections
	Here  bool   // it is on an interface, or a command has said so
	Calls int
}

// Shares reports whether the gateway is in a cluster. The other methods for clusters are for
// those that are.
func (g *Gateway) Shares() bool { return g.share != nil }

// Cluster returns how a gateway of a cluster does. Any goroutine may call it.
func (g *Gateway) Cluster() ClusterStatus {
	s := g.share
	st := ClusterStatus{Name: s.name, Whole: s.isWhole(), Store: s.store.Status(), Addresses: make(map[netip.Addr]PublicAddress)}
	for public, h := range st.Store.Owners {
		st.Addresses[public] = PublicAddress{Owner: h.Owner.Name}
	}
	for _, v := range g.views() {
		if public, shared := s.placeOf(&v); shared {
			a := st.Addresses[public]
			a.Calls++
			st.Addresses[public] = a
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	st.Astray = s.strayed(time.Now())
	for public := range s.mine {
		if _, known := st.Addresses[public]; !known { // the store does not have it yet
			st.Addresses[public] = PublicAddress{}
		}
	}
	for public, a := range st.Addresses {
		_, other := s.others[public]
		a.Mine, a.Here = s.mine[public] && !other, s.isHere(public)
		st.Addresses[public] = a
	}
	return st
}

// placeOf returns the part of its public address that a call is of.
func (s *share) placeOf(v *calls.View) (netip.Addr, bool) {
	return s.place(&calls.Connection{Original: v.Control, Reply: v.Reply})
}

// Owners returns a function that says which gateway owns a call, and whether that is this
// one. Both may be called from any goroutine.
func (g *Gateway) Owners() func(*calls.View) (owner string, here bool) {
	g.mu.Lock()
	others := maps.Clone(g.share.others)
	g.mu.Unlock()
	return func(v *calls.View) (string, bool) {
		public, shared := g.share.placeOf(v)
		o, other := others[public]
		switch {
		case !shared || !other:
			return g.share.name, true
		case o.name == "":
			return "-", false
		}
		return o.name, false
	}
}
