// Package memory is a shared store in memory, for tests: it can fail, be slow, forget and
// lose what it has. It counts and compares as etcd does.
package memory

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// pageSize is how many items a page of Load has.
const pageSize = 100

// ErrDown is the error of a store that fails.
var ErrDown = errors.New("the store is down")

// Memory is a store that several gateways share by Open.
type Memory struct {
	mu        sync.Mutex // guards what follows
	changed   *sync.Cond // of mu, with every change
	mark      state.Mark
	items     map[string]state.Item
	base      map[string]state.Item // as of compacted
	log       [][]state.Item        // by revision, from compacted+1 on
	compacted int64
	late      []state.Transaction // that arrive when they are let
	held      []*held
	commits   int
}

// New returns an empty store.
func New() *Memory {
	m := &Memory{mark: state.Mark{Cluster: 1}, items: make(map[string]state.Item), base: make(map[string]state.Item)}
	m.changed = sync.NewCond(&m.mu)
	return m
}

// Link is one gateway's way to the store. The zero of each fault is none.
type Link struct {
	m *Memory

	mu     sync.Mutex // guards what follows
	faults Faults
	cut    chan struct{} // closed when watches are to end
	set    chan struct{} // closed when the faults change
}

// Faults are what is wrong on a gateway's way to the store.
type Faults struct {
	Err   error         // every answer is this error, and nothing is done
	Late  bool          // of Commit: the error comes, but the change is done by Memory.Arrive
	Delay time.Duration // before anything is done
	Hang  bool          // no answer until the context ends
	Deaf  bool          // watches tell nothing
	Watch error         // that watches end with
}

// Open returns a way to the store.
func (m *Memory) Open() *Link { return &Link{m: m, cut: make(chan struct{}), set: make(chan struct{})} }

var _ cluster.Shared = (*Link)(nil)

// Set has the way be faulty from now on. Watches go on unless Err, Hang or Watch is set.
func (l *Link) Set(f Faults) {
	l.mu.Lock()
	l.faults = f
	close(l.set)
	l.set = make(chan struct{})
	if f.Err != nil || f.Hang || f.Watch != nil {
		close(l.cut)
		l.cut = make(chan struct{})
	}
	l.mu.Unlock()
	l.m.wake()
}

func (l *Link) state() (f Faults, cut, set <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.faults, l.cut, l.set
}

// pass lets what is asked through, or not.
func (l *Link) pass(ctx context.Context) error {
	f, _, set := l.state()
	for f.Hang {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-set:
			f, _, set = l.state()
		}
	}
	if f.Err != nil {
		return f.Err
	}
	if f.Delay > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(f.Delay):
		}
	}
	return ctx.Err()
}

// Commit is part of cluster.Shared.
func (l *Link) Commit(ctx context.Context, t state.Transaction) (state.Mark, error) {
	if f, _, _ := l.state(); f.Late {
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		l.m.late = append(l.m.late, t)
		return state.Mark{}, ErrDown
	}
	if err := l.pass(ctx); err != nil {
		return state.Mark{}, err
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.commits++
	return l.m.commit(t)
}

// commit does a transaction. The caller holds mu.
func (m *Memory) commit(t state.Transaction) (state.Mark, error) {
	fenced := false
	var now []state.Item
	for _, g := range t.Guards {
		it, there := m.items[g.Key]
		if !there {
			it = state.Item{Key: g.Key}
		}
		fenced = fenced || it.Revision != g.Revision
		now = append(now, it)
	}
	switch {
	case fenced:
		return state.Mark{}, &cluster.Fenced{Now: now}
	case len(t.Puts) > state.MaxPuts || len(t.Guards) > state.MaxPuts:
		return state.Mark{}, errors.New("too many operations")
	}
	m.put(t.Puts)
	return m.mark, nil
}

var errTwice = errors.New("a key twice in a transaction")

func (m *Memory) put(puts []state.Put) {
	revision := m.mark.Revision + 1
	var changed []state.Item
	for _, p := range puts {
		if slices.ContainsFunc(changed, func(it state.Item) bool { return it.Key == p.Key }) {
			panic(errTwice)
		}
		it := state.Item{Key: p.Key, Value: slices.Clone(p.Value), Revision: revision}
		if _, there := m.items[p.Key]; p.Value == nil && !there {
			continue
		}
		changed = append(changed, it)
	}
	if len(changed) == 0 {
		return
	}
	apply(m.items, changed)
	m.mark.Revision = revision
	m.log = append(m.log, changed)
	m.changed.Broadcast()
}

func (m *Memory) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed.Broadcast()
}

// section returns the items of calls, or all others, in the order of their keys.
func section(items map[string]state.Item, calls bool) (all []state.Item) {
	for _, key := range slices.Sorted(maps.Keys(items)) {
		if strings.HasPrefix(key, state.CallSection) == calls {
			all = append(all, items[key])
		}
	}
	return all
}

// Roster is part of cluster.Shared.
func (l *Link) Roster(ctx context.Context) ([]state.Item, state.Mark, error) {
	if err := l.pass(ctx); err != nil {
		return nil, state.Mark{}, err
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return section(l.m.items, false), l.m.mark, nil
}

// Load is part of cluster.Shared.
func (l *Link) Load(ctx context.Context, mark state.Mark, page func([]state.Item)) error {
	if err := l.pass(ctx); err != nil {
		return err
	}
	all, err := l.m.at(mark)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(all, pageSize) {
		page(chunk)
	}
	return ctx.Err()
}

// at returns the calls as of a mark.
func (m *Memory) at(mark state.Mark) ([]state.Item, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mark.Revision < m.compacted || mark.Revision > m.mark.Revision {
		return nil, cluster.ErrCompacted
	}
	then := maps.Clone(m.base)
	for _, changed := range m.log[:mark.Revision-m.compacted] {
		apply(then, changed)
	}
	return section(then, true), nil
}

func apply(items map[string]state.Item, changed []state.Item) {
	for _, it := range changed {
		if items[it.Key] = it; it.Value == nil {
			delete(items, it.Key)
		}
	}
}

// Watch is part of cluster.Shared.
func (l *Link) Watch(ctx context.Context, after state.Mark, changed func([]state.Item)) error {
	if err := l.pass(ctx); err != nil {
		return err
	}
	f, cut, _ := l.state()
	if f.Watch != nil {
		return f.Watch
	}
	stop := context.AfterFunc(ctx, l.m.wake)
	defer stop()
	for {
		items, err := l.next(ctx, after, cut)
		if err != nil {
			return err
		}
		after.Revision = items[len(items)-1].Revision
		changed(slices.Clone(items))
	}
}

// next waits for the revision behind a mark.
func (l *Link) next(ctx context.Context, after state.Mark, cut <-chan struct{}) ([]state.Item, error) {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		select {
		case <-cut:
			return nil, ErrDown
		default:
		}
		f, _, _ := l.state()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case f.Deaf:
		case after.Cluster != m.mark.Cluster:
			// as etcd: a watch that is resumed on another store waits for its revision
		case after.Revision < m.compacted:
			return nil, cluster.ErrCompacted
		case after.Revision < m.mark.Revision:
			return m.log[after.Revision-m.compacted], nil
		}
		m.changed.Wait()
	}
}

// held is a member's keys.
type held struct {
	m     *Memory
	since int64 // the revision of its keys
	keys  []string
	lost  chan struct{}
	over  bool
}

// Hold is part of cluster.Shared.
func (l *Link) Hold(ctx context.Context, t state.Transaction, _ time.Duration) (cluster.Held, error) {
	mark, err := l.Commit(ctx, t)
	if err != nil {
		return nil, err
	}
	h := &held{m: l.m, since: mark.Revision, lost: make(chan struct{})}
	for _, p := range t.Puts {
		h.keys = append(h.keys, p.Key)
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.held = append(l.m.held, h)
	return h, nil
}

func (h *held) Lost() <-chan struct{} { return h.lost }

func (h *held) Release(context.Context) error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.end()
	return nil
}

// end deletes the keys. The caller holds mu.
func (h *held) end() {
	if !h.lose() {
		return
	}
	var puts []state.Put
	for _, key := range h.keys {
		if h.m.items[key].Revision == h.since { // else it is another's now
			puts = append(puts, state.Put{Key: key})
		}
	}
	h.m.put(puts)
}

// lose says that the lease is over, and reports whether that is new. The caller holds mu.
func (h *held) lose() bool {
	if h.over {
		return false
	}
	h.over = true
	close(h.lost)
	return true
}

// Close is part of cluster.Shared.
func (l *Link) Close() error { return nil }

// Expire ends the leases of all members.
func (m *Memory) Expire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.held {
		h.end()
	}
	m.held = nil
}

// Compact forgets all revisions up to now.
func (m *Memory) Compact() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.compacted, m.log, m.base = m.mark.Revision, nil, maps.Clone(m.items)
}

// Arrive does the transactions that were late, and returns how many were not fenced.
func (m *Memory) Arrive() (done int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.late {
		if _, err := m.commit(t); err == nil {
			done++
		}
	}
	m.late = nil
	return done
}

// Backup is what a store had.
type Backup struct {
	items    map[string]state.Item
	revision int64
}

// Backup returns what the store has.
func (m *Memory) Backup() Backup {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Backup{maps.Clone(m.items), m.mark.Revision}
}

// Restore has the store be another one, with what a backup has. Members' leases end. The zero
// Backup is an empty store.
func (m *Memory) Restore(b Backup) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items = maps.Clone(b.items)
	if m.items == nil {
		m.items = make(map[string]state.Item)
	}
	m.mark = state.Mark{Cluster: m.mark.Cluster + 1, Revision: b.revision}
	m.compacted, m.log, m.base = b.revision, nil, maps.Clone(m.items)
	for _, h := range m.held {
		h.lose()
	}
	m.held = nil
	m.changed.Broadcast()
}

// Write puts whatever values, as somebody who has the right to.
func (m *Memory) Write(puts ...state.Put) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(puts)
}

// Items returns all that the store has, by key.
func (m *Memory) Items() map[string]state.Item {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.items)
}

// Mark returns the latest revision.
func (m *Memory) Mark() state.Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mark
}

// Commits returns how many transactions there were.
func (m *Memory) Commits() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commits
}
