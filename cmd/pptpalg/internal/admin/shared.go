package admin

import (
	"context"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus"
)

// The limits on the cost of viewers, whatever their number: one read at a time, and then
// none for share-1 times as long as it took, but at most longestRest.
const (
	share       = 10
	longestRest = 2 * time.Second
)

// shared is an expensive read for many viewers. Each viewer gets the result of a read that
// began after its request; requests in the meantime share the next read.
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

// serve begins the next read. The caller holds mu.
func (s *shared[T]) serve() {
	o := s.next
	go func() {
		s.mu.Lock()
		s.next = nil // later requests get another one
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

// rest is the pause after a read that took so long.
func rest(took time.Duration) time.Duration { return min((share-1)*took, longestRest) }

// pace does one piece of work at a time, with a pause after each, as shared does.
type pace struct {
	turn chan struct{} // has an element while no work or pause is under way
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

// sharedGatherer shares one result among all scrapes at the same time.
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
