package cluster

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

const (
	beatEvery  = 2 * time.Second
	memberTTL  = 5 * time.Second // how long a gateway that has died is shown as up
	retryEvery = time.Second
	doubtTime  = 30 * time.Second // that owners have to write again what the store has lost
)

// Run writes, follows and is a member until the context ends. It returns nil then.
func (s *Store) Run(ctx context.Context) error {
	s.setRunning(true)
	defer s.setRunning(false)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.write(ctx) })
	group.Go(func() error { return s.follow(ctx) })
	group.Go(func() error { return s.attend(ctx) })
	return group.Wait()
}

func (s *Store) setRunning(running bool) {
	s.mu.Lock()
	s.running = running
	s.mu.Unlock()
	signal(s.settled)
}

// write does one transaction after the other.
func (s *Store) write(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		work, ok, again := s.next(time.Now())
		switch {
		case ok && !s.keeps(work.work.Anew):
			pause(ctx, noticed)
			continue
		case ok:
			s.do(ctx, work)
			continue
		}
		if s.offer(ctx) {
			continue
		}
		wait := time.Hour
		if !again.IsZero() {
			wait = time.Until(again)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-s.more:
		case <-timer.C:
		}
	}
	return nil
}

// noticed is how long the gateway takes to notice that a public address has gone.
const noticed = 5 * time.Millisecond

// keeps reports whether the gateway still has public addresses that it is about to take. One that has
// gone is not claimed for long any more.
func (s *Store) keeps(all []netip.Addr) bool {
	return !slices.ContainsFunc(all, func(public netip.Addr) bool { return !s.cfg.Keeps(public) })
}

// offer offers calls to the gateway that has taken their public address, if there are any to offer. What
// may have been done is not tried twice: nobody knows then what that gateway has made of it.
func (s *Store) offer(ctx context.Context) bool {
	s.mu.Lock()
	if s.writer.Breaker.Open() {
		s.mu.Unlock()
		return false
	}
	o, ok := s.writer.Offer(s.mirror.Owner)
	s.mu.Unlock()
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if _, err := s.shared.Commit(ctx, o.Transaction); err != nil && !s.again(o, err) {
		s.cfg.Log.Warn("calls that were not written in time cannot be offered to the gateway that now has their public address", "calls", len(o.Transaction.Puts), "first", o.Transaction.Puts[0].Key, "err", err)
	}
	return true
}

// again reports whether an offer that was not taken will be made again. If not, the store's word counts.
func (s *Store) again(o state.Offer, err error) (again bool) {
	var now []state.Item
	if fenced := (*Fenced)(nil); errors.As(err, &fenced) {
		now = fenced.Now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again = s.writer.Offered(o, now)
	s.giveUp()
	return again
}

// attempt is a transaction, and what was known before it.
type attempt struct {
	work   state.Work
	before state.Mark
}

// next returns what is to be done. Nothing is before all was read: who takes a public address
// must know from whom, and what was written under it until then.
func (s *Store) next(now time.Time) (attempt, bool, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		return attempt{}, false, time.Time{}
	}
	work, ok, again := s.writer.Next(now)
	return attempt{work, s.mirror.Mark()}, ok, again
}

// writeNow writes some of what is pending, unless the shared store does not answer. It
// reports whether there may be more.
func (s *Store) writeNow(ctx context.Context) bool {
	if status := s.Status(); status.Pending == 0 || status.Broken {
		return false
	}
	work, ok, _ := s.next(time.Now().Add(time.Second)) // nothing lingers
	if ok {
		s.do(ctx, work)
	}
	return ok
}

// do does a transaction. One that has begun is not given up because the daemon stops.
func (s *Store) do(ctx context.Context, a attempt) {
	most := max(commitTimeout, 2*s.cfg.Wait)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	defer cancel()
	began := time.Now()
	mark, err := s.shared.Commit(ctx, a.work.Transaction)
	if err == nil && a.before.Lost(mark) && a.before != (state.Mark{}) {
		signal(s.reload)
	}
	s.done(a.work, mark, err, time.Since(began) > most+slept)
}

// slept is how much longer than it may something has taken if the daemon has not run meanwhile, as
// after SIGSTOP. That says nothing of the shared store; and others may have taken everything over.
const slept = 250 * time.Millisecond

func (s *Store) done(work state.Work, mark state.Mark, err error, slept bool) {
	var fenced *Fenced
	outcome := state.Outcome{Mark: mark}
	if errors.As(err, &fenced) {
		outcome.Fenced = fenced.Now
	} else if err != nil {
		outcome.Failed, outcome.Slept = true, slept
	}
	s.mu.Lock()
	was := s.writer.Breaker.Open()
	result := s.writer.Done(work, outcome, time.Now())
	s.late = false
	s.giveUp()
	if result.Restored || len(result.Lost) > 0 {
		s.moved++
	}
	s.counts.commits++
	if err == nil {
		s.knows(mark)
	}
	if outcome.Failed {
		s.counts.failures++
		s.counts.last = err
	}
	is := s.writer.Breaker.Open()
	s.mu.Unlock()
	signal(s.settled)
	if result.Restored {
		signal(s.reload)
	}
	s.tell(was, is, err)
	for _, public := range result.Lost {
		s.cfg.Log.Warn("another gateway has taken the public address: its calls are followed from now on", "public", state.NameOf(public))
	}
}

// tell logs what has become of the breaker.
func (s *Store) tell(was, is bool, err error) {
	switch {
	case is && !was:
		s.cfg.Log.Warn("the shared store does not answer: calls go on without it", "err", err)
	case was && !is:
		s.cfg.Log.Info("the shared store answers again")
	}
}

// attend keeps the gateway among the members.
func (s *Store) attend(ctx context.Context) error {
	for ctx.Err() == nil {
		held, err := s.join(ctx)
		if err != nil {
			s.failed("join the cluster", err)
			pause(ctx, retryEvery)
			continue
		}
		s.stay(ctx, held)
	}
	return nil
}

// stay waits until the gateway is no member any more. The beats meanwhile come back by the watch: so
// it is known how far the gateway lags, also if nobody writes anything else.
func (s *Store) stay(ctx context.Context, held Held) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		select {
		case <-held.Lost():
			s.left()
			return
		case <-s.evicted:
			s.cfg.Log.Error("another gateway has the same name: give each gateway its own", "name", s.cfg.Member.Name)
			s.release(ctx, held)
			return
		case <-s.changed: // it joins again
			s.release(ctx, held)
			return
		case <-ctx.Done():
			s.release(ctx, held)
			return
		case <-beat.C:
			s.beat(ctx)
		}
	}
}

func (s *Store) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	if mark, err := s.shared.Commit(ctx, s.had()); err != nil {
		s.note(err)
	} else {
		s.mu.Lock()
		s.knows(mark)
		s.mu.Unlock()
	}
}

// had says that the gateway has its slot, or had it last.
func (s *Store) had() state.Transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	beat := state.Beat{Name: s.cfg.Member.Name, At: time.Now()}
	return state.Transaction{Puts: []state.Put{{Key: state.SlotKey(s.slot), Value: beat.Encode()}}}
}

// knows takes note of a revision that the watch is to tell. The caller holds mu.
func (s *Store) knows(mark state.Mark) {
	if mark.Cluster != s.latest.Cluster || mark.Revision > s.latest.Revision {
		s.latest = mark
	}
	s.hears(time.Now())
}

// hears takes note of how far the watch has come. The caller holds mu.
func (s *Store) hears(now time.Time) {
	at := s.mirror.Mark()
	switch {
	case at.Cluster != s.latest.Cluster || at.Revision >= s.latest.Revision:
		s.behind = time.Time{}
	case s.behind.IsZero():
		s.behind = now
	}
}

func (s *Store) release(ctx context.Context, held Held) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = held.Release(ctx) // it disappears by itself if the store does not answer
}

// errFull says that there is no slot left.
var errFull = errors.New("all slots of the cluster are taken")

// join takes a slot.
func (s *Store) join(ctx context.Context) (Held, error) {
	ctx, cancel := context.WithTimeout(ctx, memberTTL)
	defer cancel()
	for {
		items, _, err := s.shared.Roster(ctx)
		if err != nil {
			return nil, err
		}
		roster := state.ReadRoster(items)
		slot, guard, ok := roster.Seat(s.seatOf())
		if !ok {
			return nil, errFull
		}
		held, err := s.seat(ctx, slot, guard)
		var fenced *Fenced
		if errors.As(err, &fenced) {
			continue // another was faster
		}
		return held, err
	}
}

// seatOf returns what Roster.Seat asks. Who has lost its slot to another gateway of its name
// takes another one.
func (s *Store) seatOf() (name string, has int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.double {
		return "", -1
	}
	return s.cfg.Member.Name, s.slot
}

// evict takes note that another gateway, of the same name, has the slot. The caller holds mu.
func (s *Store) evict() {
	m, up := s.mirror.Member(s.slot)
	if s.joined && up && m.Life > s.cfg.Member.Life {
		s.joined, s.double = false, true
		signal(s.evicted)
	}
}

func (s *Store) seat(ctx context.Context, slot int, guard state.Guard) (Held, error) {
	s.mu.Lock()
	me := s.cfg.Member
	s.mu.Unlock()
	value, err := me.Encode()
	if err != nil {
		return nil, err
	}
	t := state.Transaction{Guards: []state.Guard{guard}, Puts: []state.Put{{Key: guard.Key, Value: value}}}
	held, err := s.shared.Hold(ctx, t, memberTTL)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.slot = slot
	s.mirror.Number(uint8(slot) + 1)
	s.mu.Unlock()
	if _, err := s.shared.Commit(ctx, s.had()); err != nil {
		s.release(ctx, held)
		return nil, err
	}
	s.cfg.Joined(slot)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined = true
	return held, nil
}

// left takes note that the gateway is not shown as up any more. Packets go on waiting: the owners' keys say
// who owns what, and transactions tell whether the store answers. Perhaps it has lost everything: all is
// read again.
func (s *Store) left() {
	s.mu.Lock()
	s.joined, s.counts.last = false, errLeft
	s.mu.Unlock()
	s.cfg.Log.Warn("this gateway's lease in the shared store is gone: it is shown as down until it joins again")
	signal(s.reload)
}

var errLeft = errors.New("the lease is gone")

// failed takes note that the shared store does not answer.
func (s *Store) failed(what string, err error) {
	s.mu.Lock()
	was := s.writer.Breaker.Open()
	if !was {
		s.writer.Breaker.Failed(time.Now())
	}
	s.counts.last = err
	s.mu.Unlock()
	signal(s.more)
	s.tell(was, true, errors.Join(errors.New(what), err))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
