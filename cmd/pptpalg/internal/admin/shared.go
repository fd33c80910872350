package admin

import (
	"context"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus"
)

// The bounds of what looking at the daemon costs it, whatever the number of viewers: one look
// at a time, after which there is none for share-1 times as long as it took, but longestRest
// at most.
const (
	share       = 10
	longestRest = 2 * time.Second
)

// shared is a look that costs something, for many viewers. Each of them sees the outcome of a
// look that began after he asked for it; those who ask meanwhile share the next one.
type shared[T any] struct {
	look func() T

	mu      sync.Mutex // guards what follows
	next    *outcome[T]
	looking bool
}

type outcome[T any] struct {
	value T
	done  chan struct{} // closed when there is a value
}

// get returns false if ctx was done first.
func (s *shared[T]) get(ctx context.Context) (value T, ok bool) {
	o := s.ask()
	select {
	case <-o.done:
		return o.value, true
	case <-ctx.Done():
		return value, false
	}
}

func (s *shared[T]) ask() *outcome[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &outcome[T]{done: make(chan struct{})}
	}
	if !s.looking {
		s.looking = true
		s.serve()
	}
	return s.next
}

// serve begins the next look. The caller holds mu.
func (s *shared[T]) serve() {
	o := s.next
	go func() {
		s.mu.Lock()
		s.next = nil // who asks from now on wants another one
		s.mu.Unlock()
		began := time.Now()
		o.value = s.look()
		close(o.done)
		time.AfterFunc(rest(time.Since(began)), s.rested)
	}()
}

func (s *shared[T]) rested() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking = s.next != nil; s.looking {
		s.serve()
	}
}

// rest is how long nobody looks after a look that took so long.
func rest(took time.Duration) time.Duration { return min((share-1)*took, longestRest) }

// pace has one piece of work done at a time, with a rest behind each as shared has it.
type pace struct {
	turn chan struct{} // has an element while nobody works or rests
}

func newPace() *pace {
	p := &pace{turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// do waits for its turn and works. It returns the error of ctx if that was done first.
func (p *pace) do(ctx context.Context, work func() error) error {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	defer func() { time.AfterFunc(rest(time.Since(began)), func() { p.turn <- struct{}{} }) }()
	return work()
}

// sharedGatherer has all who scrape at the same time share what is gathered.
type sharedGatherer struct{ shared[gathered] }

type gathered struct {
	families []*dto.MetricFamily
	err      error
}

func shareGatherer(g prometheus.Gatherer) *sharedGatherer {
	return &sharedGatherer{shared[gathered]{look: func() (all gathered) {
		all.families, all.err = g.Gather()
		return all
	}}}
}

// Gather implements prometheus.Gatherer. What it returns must not be changed.
func (s *sharedGatherer) Gather() ([]*dto.MetricFamily, error) {
	all, _ := s.get(context.Background())
	return all.families, all.err
}
