package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// errReload ends a watch because all is to be read again.
var errReload = errors.New("the whole store is read again")

// follow reads all, then what changes. Whatever is missed is found by reading all again.
func (s *Store) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.loadAll(ctx); err != nil {
			if ctx.Err() == nil && !errors.Is(err, ErrCompacted) {
				s.failed("read the shared store", err)
				pause(ctx, retryEvery)
			}
			continue
		}
		for err := error(nil); !errors.Is(err, ErrCompacted) && !errors.Is(err, errReload) && ctx.Err() == nil; {
			if err != nil {
				s.cannotHear(err)
				pause(ctx, retryEvery)
			}
			err = s.watch(ctx)
		}
	}
	return nil
}

// loadAll reads all that the shared store has.
func (s *Store) loadAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	roster, mark, err := s.shared.Roster(ctx)
	if err != nil {
		return err
	}
	restored := false
	s.apply(func() (changes []state.Change) {
		s.counts.reloads++
		s.loading = true
		if changes, restored = s.mirror.Begin(mark, roster); restored {
			s.moved++
			s.writer.Restored()
		}
		return s.owned(changes)
	})
	if restored {
		s.cfg.Log.Warn("the shared store has lost data: this gateway writes all its calls again")
		signal(s.more)
	}
	page := func(items []state.Item) {
		s.apply(func() []state.Change { return s.mirror.Load(items) })
	}
	if err := s.shared.Load(ctx, mark, page); err != nil {
		return err
	}
	s.apply(func() []state.Change {
		s.loaded, s.loading = true, false
		return s.owned(s.mirror.End(mark, restored, s.writer.Untold())) // a barrier counts when the calls are known
	})
	signal(s.more)
	s.cfg.Apply(Batch{Whole: true})
	return nil
}

// watch takes in what changes, until all is to be read again.
func (s *Store) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	reload := make(chan bool, 1)
	go func() { reload <- s.outdated(ctx); cancel() }()
	s.mu.Lock()
	mark := s.mirror.Mark()
	s.mu.Unlock()
	err := s.shared.Watch(ctx, mark, func(items []state.Item) {
		s.apply(func() []state.Change { return s.owned(s.mirror.Update(items)) })
	})
	cancel()
	if <-reload {
		return errReload
	}
	return err
}

// outdated waits until all is to be read again, and reports whether it is.
func (s *Store) outdated(ctx context.Context) bool {
	s.mu.Lock()
	doubts := s.mirror.Doubts()
	s.mu.Unlock()
	var doubt <-chan time.Time
	if doubts > 0 {
		doubt = time.After(doubtTime)
	}
	select {
	case <-s.reload:
		return true
	case <-doubt:
		return true
	case <-ctx.Done():
		return false
	}
}

// owned tells the writer who owns what. When the gateway is told that it has lost an address, or
// was without it for a time, all is read again, for what it has believed meanwhile.
func (s *Store) owned(changes []state.Change) []state.Change {
	for i := range changes {
		c := &changes[i]
		if c.Kind != state.Owned {
			continue
		}
		s.moved++
		holding := s.mirror.Owner(c.Public)
		signal(s.more) // there may be something to offer
		if s.writer.Saw(c.Public, holding.Owner, holding.Revision) {
			s.cfg.Log.Warn("another gateway has taken the public address: its calls are followed from now on", "public", state.NameOf(c.Public), "owner", c.Owner)
		}
		if c.From.Is(s.me()) && !c.Mine {
			s.writer.Lost(c.Public)
			s.lost = true
		}
		if c.Mine {
			s.writer.Begin(c.Public, c.To.Term)
			signal(s.more)
		}
		switch {
		case !c.Mine || c.From.Is(s.me()):
		case c.From == state.Owner{} || c.From.Name == s.me().Name:
			s.writer.Lack() // this gateway may know more of an earlier time
		default:
			s.writer.Suspect() // it may have refused a call, or not be told yet what it has itself done before
		}
	}
	s.mirror.Doubt(s.writer.Dropped()...)
	return changes
}

// apply has the gateway take in what the mirror finds.
func (s *Store) apply(find func() []state.Change) {
	s.mu.Lock()
	changes := s.writer.News(find())
	s.deaf = false
	s.hears(time.Now())
	s.evict()
	s.counts.applied += uint64(len(changes))
	for i := range changes {
		if c := &changes[i]; c.Kind != state.Owned {
			s.said(state.CallKey{Public: c.Public, Number: c.Call.Record.Number})
		}
	}
	s.applies = len(changes) > 0
	s.mu.Unlock()
	for chunk := range slices.Chunk(changes, mostChanges) {
		s.cfg.Apply(Batch{Changes: chunk})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applies = false
	if s.lost {
		s.lost = false
		signal(s.reload)
	}
}

// cannotHear takes note that the watch has ended, until it tells something again.
func (s *Store) cannotHear(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.last, s.deaf = err, true
}

// note keeps an error for Status.
func (s *Store) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.last = err
}
