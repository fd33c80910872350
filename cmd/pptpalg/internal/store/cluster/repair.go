package cluster

import (
	"net/netip"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// Repair compares what the shared store has of this gateway's public addresses with what the gateway
// has, some calls at a time:
//
//	Repair ─► Have, for all of the gateway's calls ─► End
//
// Between two of these, packets pass, and calls begin and end: what is said of them meanwhile counts.
// Nobody appends during one. If an address changes hands meanwhile, all is compared again later.
type Repair struct {
	s       *Store
	moved   uint64 // of the store, when it began
	there   map[state.CallKey]bool
	partial bool // there was too much to write
	rests   bool
}

// mostRepaired is how many calls may wait to be written before a repair leaves the rest to the next
// one.
const mostRepaired = 1 << 16

// Repair begins to compare if the shared store lacks something, or may, and takes it. Else it returns nil.
func (s *Store) Repair() *Repair {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.repairable() {
		return nil
	}
	s.repair = &Repair{s: s, moved: s.moved, there: make(map[state.CallKey]bool), rests: s.writer.Restore()}
	return s.repair
}

// Rests reports whether the store lacks the public IDs that rest, too.
func (r *Repair) Rests() bool { return r.rests }

// Have takes in some of the gateway's calls, as they are.
func (r *Repair) Have(some []calls.Record, now time.Time) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for i := range some {
		c := r.s.call(&some[i])
		key, translated := c.Key()
		if !translated || !r.s.mine(key.Public) {
			continue
		}
		r.there[key] = true
		switch {
		case r.s.mirror.Has(key, c.Encode()):
		case r.s.writer.Pending() >= mostRepaired:
			r.partial = true
		default:
			r.s.writer.Add(&c, false, now)
		}
	}
	signal(r.s.more)
}

// End has what is over deleted, and the IDs written that rest. Whole says whether Have has got all calls
// below a public address: not if the gateway gave it away meanwhile, or is about to, of which the store
// need not know yet. Then all is compared again later.
func (r *Repair) End(resting []calls.Resting, whole func(netip.Addr) bool, now time.Time) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.repair == r {
		s.repair = nil
	}
	if r.partial || r.moved != s.moved || s.loading {
		if r.partial || r.rests {
			s.writer.LackAgain(r.rests)
		}
		s.writer.Suspect()
		return
	}
	for _, public := range s.writer.Claims() {
		switch {
		case !s.mine(public):
		case whole(public):
			r.bury(public, now)
			s.writer.Withdraw(public)
		default:
			s.writer.Suspect()
		}
	}
	for _, rest := range resting {
		r.rest(rest, now)
	}
	signal(s.more)
}

// bury deletes what is over below a public address. The caller holds mu.
func (r *Repair) bury(public netip.Addr, now time.Time) {
	for _, key := range r.s.mirror.Living(public) {
		if !r.there[key] && !r.s.writer.Has(key) {
			r.s.writer.Delete(key, now)
		}
	}
}

// rest writes a public ID that rests, as that of a call that the store does not have any more. The caller
// holds mu.
func (r *Repair) rest(resting calls.Resting, now time.Time) {
	c := state.Rested(resting)
	if of := r.s.cfg.Of; of > 1 {
		c.Place = state.PartOf(resting.Public, calls.Share{Of: of, Mine: resting.ID.Low() & (of - 1)})
	}
	if key, _ := c.Key(); r.rests && resting.Until.After(now) && r.s.mine(key.Public) {
		r.s.writer.Add(c, false, now)
	}
}

// said takes note that something was said of a call while the store is repaired. The caller holds mu.
func (s *Store) said(key state.CallKey) {
	if s.repair != nil {
		s.repair.there[key] = true
	}
}

// Occupied reports whether Repair would begin to compare, but for changes that the gateway is taking in.
func (s *Store) Occupied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applies && s.mendable()
}

// repairable reports whether the shared store lacks something and takes it. The caller holds mu.
func (s *Store) repairable() bool { return !s.applies && s.mendable() }

func (s *Store) mendable() bool {
	reads := s.loading || len(s.reload) > 0
	return s.repair == nil && s.writer.Suspected() && s.loaded && !reads && !s.writer.Breaker.Open() && s.writer.Settled()
}

// mine reports whether all is known that a former owner of a public address has written.
func (s *Store) mine(public netip.Addr) bool {
	return s.writer.Claimed(public) && s.mirror.Owner(public).Owner.Is(s.me())
}
