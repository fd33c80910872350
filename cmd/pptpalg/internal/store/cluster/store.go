package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// Config is what a gateway wants of its store. Apply, Joined, Keeps, Waits and Waited may be nil.
type Config struct {
	Member state.Member  // this gateway; its slot is found when it joins
	Of     uint8         // how many parts public addresses have; 0 for one
	Seat   int           // the slot that it had last, plus 1; 0 for none that is known
	Wait   time.Duration // for the shared store, at most; 0 means 250 ms
	Rest   time.Duration // how long a public ID rests
	// Apply takes in what others have done, in order, from one goroutine. The store holds no
	// lock meanwhile. Nobody calls Repair's methods while a call of Apply alters the call table.
	Apply func(Batch)
	// Joined is told the slot that the gateway has from now on. It is another one than before
	// only if another gateway has taken that meanwhile.
	Joined func(slot int)
	// Keeps reports whether the gateway still has a public address, as it is now. It is asked before that is
	// taken from others, when it is known who owns it: a gateway that has slept takes nothing that has moved
	// meanwhile.
	Keeps func(public netip.Addr) bool
	// Waits reports whether a packet waits for what is appended.
	Waits func() bool
	// Waited is told how long a packet has waited.
	Waited func(time.Duration)
	Log    *slog.Logger
}

// Batch is what others have done, and what has become of public addresses.
type Batch struct {
	Changes []state.Change
	// Whole says that with it all is applied that the shared store had when it was read: the
	// gateway is up to date, but for what happens now.
	Whole bool
}

// mostChanges is how many changes a batch may have.
const mostChanges = 1000

const (
	defaultWait   = 250 * time.Millisecond
	commitTimeout = time.Second // then a transaction is in doubt
	loadTimeout   = 30 * time.Second
	closeTimeout  = time.Second
)

// Store remembers calls in the journal and in the shared store. Its methods are those of
// store.Store; Run does the work beside it.
type Store struct {
	local  store.Store
	shared Shared
	cfg    Config

	more     chan struct{} // has an item when there may be something to write
	settled  chan struct{} // has an item when something was written
	reload   chan struct{} // has an item when all is to be read again
	evicted  chan struct{} // has an item when another has the slot
	changed  chan struct{} // has an item when the others are to be told something else of this gateway
	settling *time.Timer   // of await

	mu      sync.Mutex // guards what follows
	writer  *state.Writer
	mirror  *state.Mirror
	loaded  bool // the mirror had all once
	loading bool // the mirror is being compared with all
	applies bool // the gateway takes in what the mirror has already
	running bool // somebody writes
	lost    bool // the gateway is being told that it has lost a public address
	late    bool // what is being written was waited for in vain
	slot    int
	joined  bool
	double  bool       // another gateway has the same name
	latest  state.Mark // the latest revision that this gateway has written
	behind  time.Time  // since when the watch has not told of it; zero if it has
	deaf    bool       // the watch has ended, and has told nothing since
	repair  *Repair    // under way; nil for none
	moved   uint64     // counts when public addresses change hands
	counts  counts
}

type counts struct {
	commits, failures, reloads, applied uint64
	last                                error // that a transaction or the watch has ended with
}

var _ store.Store = (*Store)(nil)

// New returns a store over the gateway's own and the shared one. It closes both.
func New(local store.Store, shared Shared, cfg Config) *Store {
	if cfg.Wait == 0 {
		cfg.Wait = defaultWait
	}
	if cfg.Apply == nil {
		cfg.Apply = func(Batch) {}
	}
	if cfg.Joined == nil {
		cfg.Joined = func(int) {}
	}
	if cfg.Keeps == nil {
		cfg.Keeps = func(netip.Addr) bool { return true }
	}
	if cfg.Waits == nil {
		cfg.Waits = func() bool { return false }
	}
	if cfg.Waited == nil {
		cfg.Waited = func(time.Duration) {}
	}
	cfg.Member.Formats = state.Formats()
	me := state.Owner{Name: cfg.Member.Name, Life: cfg.Member.Life}
	return &Store{
		local: local, shared: shared, cfg: cfg,
		more: make(chan struct{}, 1), settled: make(chan struct{}, 1), reload: make(chan struct{}, 1), evicted: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		settling: time.NewTimer(time.Hour), slot: cfg.Seat - 1,
		writer: state.NewWriter(me, cfg.Rest), mirror: state.NewMirror(me),
	}
}

// Claim says that this gateway has a public address and owns its calls. The store takes it as
// soon as it can; Change Owned and Mine says that it has, and that all that the former owner
// has written was applied before. While the shared store does not answer, that does not come.
func (s *Store) Claim(public netip.Addr) {
	s.mu.Lock()
	s.moved++
	s.writer.Claim(public, s.mirror.Owner(public).Revision)
	s.mu.Unlock()
	signal(s.more)
}

// Abandon says that this gateway has a public address no longer that it was about to own.
func (s *Store) Abandon(public netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writer.Abandon(public)
}

// SetRest changes how long public IDs rest, and tells the other gateways.
func (s *Store) SetRest(rest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Member.Rest != rest {
		s.writer.SetRest(rest)
		s.cfg.Member.Rest = rest
		signal(s.changed)
	}
}

// Serves reports whether a change that is Owned and Mine is of the latest Claim. Another one comes
// late, and says nothing any more: one that does will follow.
func (s *Store) Serves(c *state.Change) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writer.Serves(c.Public, c.To.Term)
}

// Flush waits until all is written of a public address that this gateway is about to yield, for
// Config.Wait at the most: also if the shared store has not answered, for who writes later than that
// may be fenced.
func (s *Store) Flush(public netip.Addr) {
	s.mu.Lock()
	s.writer.Hurry(time.Now())
	s.mu.Unlock()
	signal(s.more)
	late := time.NewTimer(s.cfg.Wait)
	defer late.Stop()
	look := time.NewTicker(time.Millisecond) // settled is for packets
	defer look.Stop()
	for s.owes(public) {
		select {
		case <-look.C:
		case <-late.C:
			return
		}
	}
}

func (s *Store) owes(public netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running && s.writer.Owes(public)
}

// Yield says that this gateway has a public address no longer.
func (s *Store) Yield(public netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved++
	s.writer.Yield(public)
	s.giveUp()
}

// giveUp has the store's word count for calls of which it is not told, and reports whether there are any. The caller
// holds mu.
func (s *Store) giveUp() bool {
	dropped := s.writer.Dropped()
	if len(dropped) == 0 {
		return false
	}
	s.mirror.Doubt(dropped...)
	signal(s.reload)
	return true
}

// Append remembers what the events say of calls: in the journal first. Then it waits until the
// shared store knows that a call was requested, answered or set up, or is over. That it is being cleared
// is written behind. The error is the journal's, or store.ErrElsewhere if another gateway has taken
// the public address of one of these calls first: Status tells of the shared store otherwise.
func (s *Store) Append(events []calls.Event, now time.Time) error {
	err := s.local.Append(events, now)
	wait, refused := s.share(events, now)
	if wait {
		began := time.Now()
		s.await()
		s.cfg.Waited(time.Since(began))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writer.Release() || refused {
		err = errors.Join(err, store.ErrElsewhere)
	}
	return err
}

// waitsFor reports whether a packet waits until others know of an event. That a call is over, only its last
// message waits for: what time ends, another gateway ends as well.
func (s *Store) waitsFor(k calls.EventKind) bool {
	return k == calls.Opened || k == calls.Assigned || k == calls.SetUp || k == calls.Gone && s.cfg.Waits()
}

// share hands events over to the writer and reports whether to wait for it, and whether they are
// of a call of another gateway. Of several events of a call the last says it all. Calls that were
// taken over are as the store has them.
func (s *Store) share(events []calls.Event, now time.Time) (wait, refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range events {
		if e := &events[i]; e.OfCall() && e.Kind != calls.TakenOver {
			c := s.call(&e.Call)
			c.Gone, c.At = e.Kind == calls.Gone, now
			if key, translated := c.Key(); translated {
				s.said(key)
			}
			refused = s.doubt(e) || refused
			add := s.writer.Add
			if e.Kind == calls.Opened {
				add = s.writer.Open
			}
			wait = add(&c, s.waitsFor(e.Kind), time.Now()) || wait
		}
	}
	if s.writer.Pending() > 0 {
		signal(s.more)
	}
	if s.giveUp() {
		signal(s.more) // they are offered
	}
	return wait && s.running && !s.late, refused
}

// doubt takes note of what a packet has done to a call of another gateway, because this one
// did not know yet that it has lost the public address. It reports whether there is such.
func (s *Store) doubt(e *calls.Event) bool {
	public, translated := s.place(&e.Call.Connection)
	if !translated || !s.waitsFor(e.Kind) || s.writer.Claimed(public) || s.mirror.Owner(public) == (state.Holding{}) {
		return false
	}
	s.mirror.Doubt(state.CallKey{Public: public, Number: e.Call.Number})
	s.writer.Suspect() // if the address comes back first
	return true
}

// await waits until all is written that a packet waits for, or has failed, or took too long. If the
// daemon has slept meanwhile, the time begins anew.
func (s *Store) await() {
	began := time.Now()
	s.settling.Reset(s.cfg.Wait)
	defer s.settling.Stop()
	for s.waiting(false) {
		select {
		case <-s.settled:
		case <-s.settling.C:
			if time.Since(began) <= s.cfg.Wait+slept {
				s.waiting(true)
				return
			}
			began = time.Now()
			s.settling.Reset(s.cfg.Wait)
		}
	}
}

// waiting reports whether something is not written that a packet waits for. If it is and the
// time for it is over, nobody waits for it again.
func (s *Store) waiting(over bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := s.running && !s.writer.Breaker.Open() && s.writer.Urgent()
	if waits && over {
		s.late = true
		s.writer.Breaker.Slow(time.Now())
	}
	return waits
}

// Decline has the shared store forget a call that was offered to this gateway and that it does not take.
func (s *Store) Decline(c *state.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := state.CallKey{Public: c.Public, Number: c.Call.Record.Number}
	if s.mine(key.Public) && !s.writer.Has(key) {
		s.said(key)
		s.writer.Delete(key, time.Now())
		signal(s.more)
	}
}

// Rewrite replaces what the journal remembers.
func (s *Store) Rewrite(all []calls.Record, resting []calls.Resting) error {
	return s.local.Rewrite(all, resting)
}

// place returns the part of its public address that a connection is of.
func (s *Store) place(c *calls.Connection) (netip.Addr, bool) { return state.PlaceOf(c, s.cfg.Of) }

// call returns a call as it is to be written.
func (s *Store) call(r *calls.Record) state.Call {
	c := state.Call{Record: *r}
	if s.cfg.Of > 1 {
		c.Place, _ = s.place(&r.Connection)
	}
	return c
}

// Up reports whether a gateway of a name is up, as far as the shared store has told.
func (s *Store) Up(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot := range state.Slots {
		if m, up := s.mirror.Member(slot); up && m.Name == name {
			return true
		}
	}
	return false
}

func (s *Store) me() state.Owner {
	return state.Owner{Name: s.cfg.Member.Name, Life: s.cfg.Member.Life}
}

// Overgrown reports whether Rewrite would help. What the shared store lacks is written by Repair.
func (s *Store) Overgrown() bool { return s.local.Overgrown() }

// Whole reports whether both stores have everything that they should, or soon will. Any
// goroutine may call it.
func (s *Store) Whole() bool { return s.local.Whole() && !s.Status().Degraded }

// Close writes what is left, if the shared store answers, and closes both. Run has returned.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for ctx.Err() == nil && s.writeNow(ctx) {
	}
	return errors.Join(s.local.Close(), s.shared.Close())
}

// Status is how the store does.
type Status struct {
	Degraded    bool  // packets do not wait for the shared store, or it lacks something, or it is not heard
	Broken      bool  // it does not answer
	Loaded      bool  // all that the shared store has was applied once
	Slot        int   // the gateway's, also while it is not Joined; -1 before it was
	Joined      bool  // the gateway is among the members
	Pending     int   // calls that are to be written
	Followed    int   // calls that the shared store has, resting ones included
	Revision    int64 // up to which others' changes are applied
	Latest      int64 // that is known; Revision is behind it while the gateway lags
	Owners      map[netip.Addr]state.Holding
	Claims      []netip.Addr // the addresses that this gateway has
	Members     map[int]state.Member
	Lag         time.Duration // for how long the shared store has not told what it has
	Commits     uint64
	Failures    uint64
	Fenced      uint64 // public addresses that others have taken
	Reloads     uint64 // how often all was read
	Applied     uint64 // changes of others
	Strange     uint64 // items of the shared store that make no sense
	Unknown     uint64 // items of a kind that this release does not know
	SameName    bool   // another gateway has the name of this one: its calls are numbered from another slot
	LastFailure error  // nil if all went well so far
}

// Status returns how the store does. Any goroutine may call it.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	lag := s.lag(time.Now())
	return Status{
		Broken:   s.writer.Breaker.Open(),
		Degraded: s.writer.Breaker.Open() || s.writer.Lacking() || s.repair != nil || !s.loaded || s.deaf || lag >= LongLag,
		Lag:      lag,
		Loaded:   s.loaded, Slot: s.slot, Joined: s.joined,
		Pending: s.writer.Pending(), Followed: s.mirror.Followed(), Revision: s.mirror.Mark().Revision,
		Owners: s.mirror.Owners(), Claims: s.writer.Claims(), Members: s.mirror.Members(),
		Commits: s.counts.commits, Failures: s.counts.failures, Fenced: s.writer.Fenced(),
		Reloads: s.counts.reloads, Applied: s.counts.applied,
		Strange: s.mirror.Strange(), Unknown: s.mirror.Unknown(), LastFailure: s.counts.last,
		Latest: max(s.latest.Revision, s.mirror.Mark().Revision), SameName: s.double,
	}
}

// LongLag is a lag that is none of a moment.
const LongLag = 5 * time.Second

// lag is how long the gateway has not heard what it is known to have missed. The caller holds mu.
func (s *Store) lag(now time.Time) time.Duration {
	if s.behind.IsZero() {
		return 0
	}
	return now.Sub(s.behind)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is on its way
	}
}
