//go:build !nocluster

package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// percentiles reports how long things took.
func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(took[len(took)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
	}
}

// BenchmarkCommit is one transaction at a time, guarded, over one member of etcd.
func BenchmarkCommit(b *testing.B) {
	s := serve(b)
	store := s.open(s.config())
	own := state.OwnerKey(netip.MustParseAddr("198.51.100.1"))
	m, err := store.Commit(ctx(b), puts(put(own, "me")))
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{1, 16, state.MaxPuts} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var took []time.Duration
			for n := 0; b.Loop(); n++ {
				t := state.Transaction{Guards: []state.Guard{{Key: own, Revision: m.Revision}}}
				for i := range size {
					r := record("198.51.100.1", uint64(n*size+i))
					t.Puts = append(t.Puts, state.Put{Key: key(n*size + i), Value: (&state.Call{Record: r}).Encode()})
				}
				began := time.Now()
				if _, err := store.Commit(context.Background(), t); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			percentiles(b, took)
		})
	}
}

// BenchmarkAppend is what a packet waits for that sets a call up, alone.
func BenchmarkAppend(b *testing.B) {
	s := serve(b)
	owned := make(chan struct{}, 100)
	apply := func(batch cluster.Batch) {
		for _, c := range batch.Changes {
			if c.Kind == state.Owned && c.Mine {
				owned <- struct{}{}
			}
		}
	}
	store := cluster.New(none{}, s.open(s.config()), cluster.Config{Member: state.Member{Name: "a", Life: 1}, Rest: time.Minute, Apply: apply, Log: slog.New(slog.DiscardHandler)})
	running, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(running) }()
	store.Claim(netip.MustParseAddr("198.51.100.1"))
	<-owned
	var took []time.Duration
	for n := uint64(1); b.Loop(); n++ {
		began := time.Now()
		if err := store.Append([]calls.Event{{Kind: calls.SetUp, Call: record("198.51.100.1", n)}}, time.Now()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	percentiles(b, took)
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	if err := store.Close(); err != nil {
		b.Error(err)
	}
}

// BenchmarkLoad is what a newcomer reads: 100,000 calls.
func BenchmarkLoad(b *testing.B) {
	s := serve(b)
	store := s.open(s.config())
	const all = 100_000
	for n := 0; n < all; {
		var t state.Transaction
		for ; n < all && len(t.Puts) < state.MaxPuts; n++ {
			t.Puts = append(t.Puts, state.Put{Key: key(n), Value: (&state.Call{Record: record("198.51.100.1", uint64(n))}).Encode()})
		}
		if _, err := store.Commit(context.Background(), t); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		m := state.NewMirror(state.Owner{Name: "b", Life: 2})
		roster, mark, err := store.Roster(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		m.Begin(mark, roster)
		told := 0
		if err := store.Load(context.Background(), mark, func(items []state.Item) { told += len(m.Load(items)) }); err != nil {
			b.Fatal(err)
		}
		if m.End(mark, false, func(state.CallKey) bool { return false }); told != all {
			b.Fatalf("%d calls", told)
		}
	}
}
