package history

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// The default bounds of a Store: some ten megabytes when it is full.
const (
	DefaultClients   = 1024
	DefaultPerClient = 32
)

// Store keeps the last events of each client, and hands events on to subscribers. It is
// safe for concurrent use.
type Store struct {
	clients, perClient int

	mu          sync.Mutex // guards what follows
	rings       map[netip.Addr]*ring
	latest      *ring // of a circle: before it is the one that was used longest ago
	subscribers []*Subscription
	wanted      uint16 // the kinds that any subscriber wants, as bits
	seq         uint64 // of the latest event
}

// ring is the last events of one client.
type ring struct {
	client     netip.Addr
	prev, next *ring
	events     []Event
	oldest     int // of a full ring
}

// NewStore returns a store of so many clients and events of each, both at least 1.
func NewStore(clients, perClient int) *Store {
	return &Store{clients: max(clients, 1), perClient: max(perClient, 1), rings: make(map[netip.Addr]*ring)}
}

// Add numbers an event and keeps a copy of it. A new client takes the place of the client
// whose last event is the oldest.
func (s *Store) Add(e *Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	e.Seq = s.seq
	e.inside(func(a netip.Addr) { s.ring(a).add(e, s.perClient) })
	if s.wanted&(1<<e.Kind) == 0 {
		return
	}
	shared := *e // e is the caller's
	for _, sub := range s.subscribers {
		sub.offer(&shared)
	}
}

// Of returns a copy of a client's last events, the oldest first.
func (s *Store) Of(client netip.Addr) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rings[client]
	if r == nil {
		return nil
	}
	all := make([]Event, 0, len(r.events))
	return append(append(all, r.events[r.oldest:]...), r.events[:r.oldest]...)
}

// Clients returns the addresses that have events, in no order.
func (s *Store) Clients() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.rings))
}

// Kept returns a copy of all kept events of some kinds, the oldest first. Events may be
// added meanwhile: none waits for longer than copying one client's events takes.
func (s *Store) Kept(of ...Kind) []Event {
	s.mu.Lock()
	clients := slices.Collect(maps.Keys(s.rings))
	s.mu.Unlock()
	wanted := bits(of)
	var all []Event
	for _, client := range clients {
		for _, e := range s.Of(client) {
			if wanted&(1<<e.Kind) != 0 {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) })
	// Where NAT translates both ends, both have it.
	return slices.CompactFunc(all, func(a, b Event) bool { return a.Seq == b.Seq })
}

// bits is a set of kinds; all of them if none is named.
func bits(of []Kind) (set uint16) {
	for _, k := range of {
		set |= 1 << k
	}
	if len(of) == 0 {
		set = 1<<kinds - 1
	}
	return set
}

// ring returns a client's, which becomes the latest.
func (s *Store) ring(client netip.Addr) *ring {
	if s.latest != nil && s.latest.client == client {
		return s.latest
	}
	r := s.rings[client]
	switch {
	case r != nil:
		r.unlink()
	case len(s.rings) < s.clients:
		r = &ring{client: client, events: make([]Event, 0, s.perClient)}
		s.rings[client] = r
	default:
		r = s.reuse(client)
	}
	s.lead(r)
	return r
}

// reuse takes the ring that was used longest ago for another client.
func (s *Store) reuse(client netip.Addr) *ring {
	r := s.latest.prev
	r.unlink()
	if r == s.latest {
		s.latest = nil
	}
	delete(s.rings, r.client)
	r.client, r.events, r.oldest = client, r.events[:0], 0
	s.rings[client] = r
	return r
}

// lead puts a ring before the latest.
func (s *Store) lead(r *ring) {
	r.prev, r.next = r, r
	if s.latest != nil {
		r.prev, r.next = s.latest.prev, s.latest
		r.prev.next, r.next.prev = r, r
	}
	s.latest = r
}

func (r *ring) unlink() { r.prev.next, r.next.prev = r.next, r.prev }

func (r *ring) add(e *Event, most int) {
	if len(r.events) < most {
		r.events = append(r.events, *e)
		return
	}
	r.events[r.oldest] = *e
	r.oldest = (r.oldest + 1) % most
}

// Subscription is a follower's. One goroutine may use it.
type Subscription struct {
	store  *Store
	events chan *Event // shared by all subscribers
	kinds  uint16
	lost   uint64 // since Next returned last; guarded by Store.mu
}

// Subscribe passes on events of some kinds from now on, all kinds if none is named. Up to
// buffer of them wait; further ones are lost. The caller must Close it.
func (s *Store) Subscribe(buffer int, of ...Kind) *Subscription {
	sub := &Subscription{store: s, events: make(chan *Event, buffer), kinds: bits(of)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribers = append(s.subscribers, sub)
	s.wanted |= sub.kinds
	return sub
}

// offer is Add's; the caller holds Store.mu.
func (sub *Subscription) offer(e *Event) {
	if sub.kinds&(1<<e.Kind) == 0 {
		return
	}
	select {
	case sub.events <- e:
	default:
		sub.lost++
	}
}

// Next waits for an event. lost is how many did not fit since the last call. The error is
// that of ctx.
func (sub *Subscription) Next(ctx context.Context) (e Event, lost uint64, err error) {
	var next *Event
	select {
	case next = <-sub.events:
	case <-ctx.Done():
		// What waits already is still to be had.
		select {
		case next = <-sub.events:
		default:
			return Event{}, 0, ctx.Err()
		}
	}
	return *next, sub.missed(), nil
}

// missed returns how many events did not fit since the last call.
func (sub *Subscription) missed() (lost uint64) {
	sub.store.mu.Lock()
	defer sub.store.mu.Unlock()
	lost, sub.lost = sub.lost, 0
	return lost
}

// Idle reports whether no event waits.
func (sub *Subscription) Idle() bool { return len(sub.events) == 0 }

// Close ends the subscription.
func (sub *Subscription) Close() {
	s := sub.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = 0
	left := s.subscribers[:0]
	for _, other := range s.subscribers {
		if other != sub {
			left = append(left, other)
			s.wanted |= other.kinds
		}
	}
	clear(s.subscribers[len(left):])
	s.subscribers = left
}
