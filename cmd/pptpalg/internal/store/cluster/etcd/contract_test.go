//go:build !nocluster

package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/memory"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
)

// shared is a shared store under test.
type shared struct {
	open    func() cluster.Shared
	compact func(t *testing.T, at state.Mark)
}

// TestContract: what gateways rely on holds for the shared store of tests and for etcd.
func TestContract(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) shared{
		"memory": func(*testing.T) shared {
			m := memory.New()
			return shared{func() cluster.Shared { return m.Open() }, func(*testing.T, state.Mark) { m.Compact() }}
		},
		"etcd": func(t *testing.T) shared {
			s := serve(t)
			return shared{func() cluster.Shared { return s.open(s.config()) }, func(t *testing.T, at state.Mark) {
				if _, err := s.open(s.config()).client.Compact(ctx(t), at.Revision); err != nil {
					t.Fatal(err)
				}
			}}
		},
		"etcd with a role": func(t *testing.T) shared {
			r := serveRoles(t)
			return shared{func() cluster.Shared { return r.as("gw-a") }, func(t *testing.T, at state.Mark) {
				if _, err := r.as("root").client.Compact(ctx(t), at.Revision); err != nil {
					t.Fatal(err)
				}
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			for _, tt := range []struct {
				name string
				run  func(*testing.T, shared)
			}{
				{"commit", testCommit}, {"guards", testGuards}, {"large", testLarge}, {"load", testLoad}, {"watch", testWatch},
				{"compacted", testCompacted}, {"hold", testHold}, {"keep", testKeep}, {"empty value", testEmptyValue}, {"cancelled", testCancelled},
			} {
				t.Run(tt.name, func(t *testing.T) { tt.run(t, s) })
			}
		})
	}
}

func commit(t *testing.T, s cluster.Shared, tx state.Transaction) state.Mark {
	t.Helper()
	m, err := s.Commit(ctx(t), tx)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func put(key, value string) state.Put { return state.Put{Key: key, Value: []byte(value)} }

func puts(all ...state.Put) state.Transaction { return state.Transaction{Puts: all} }

// now returns what the store has.
func now(t *testing.T, s cluster.Shared) (map[string]string, state.Mark) {
	t.Helper()
	roster, mark, err := s.Roster(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	take := func(items []state.Item) {
		for _, it := range items {
			all[it.Key] = string(it.Value)
		}
	}
	take(roster)
	if err := s.Load(ctx(t), mark, take); err != nil {
		t.Fatal(err)
	}
	return all, mark
}

func testCommit(t *testing.T, s shared) {
	a := s.open()
	_, before := now(t, a)
	first := commit(t, a, puts(put(key(1), "x"), put("own/c6336401", "me"), put("gw/0", "g"), put("slot/0", "s")))
	second := commit(t, a, puts(put(key(1), "y"), put(key(2), "z"), state.Put{Key: "gw/0"}))
	if first.Revision != before.Revision+1 || second.Revision != first.Revision+1 || first.Cluster != before.Cluster {
		t.Errorf("marks %v, %v, %v", before, first, second)
	}
	if same := commit(t, s.open(), puts()); same != second {
		t.Errorf("a probe says %v after %v", same, second)
	}
	got, mark := now(t, s.open())
	want := map[string]string{key(1): "y", key(2): "z", "own/c6336401": "me", "slot/0": "s"}
	if diff := cmp.Diff(want, got); diff != "" || mark != second {
		t.Errorf("as of %v, want %v (-want +got):\n%s", mark, second, diff)
	}
}

func testGuards(t *testing.T, s shared) {
	a := s.open()
	own, other := "own/c6336402", "own/c6336403"
	took := commit(t, a, state.Transaction{Guards: []state.Guard{{Key: own}}, Puts: []state.Put{put(own, "a")}})
	guard := state.Guard{Key: own, Revision: took.Revision}
	commit(t, a, state.Transaction{Guards: []state.Guard{guard, {Key: other}}, Puts: []state.Put{put(key(3), "x")}})
	again := commit(t, a, puts(put(own, "b")))
	_, err := a.Commit(ctx(t), state.Transaction{Guards: []state.Guard{{Key: other}, guard}, Puts: []state.Put{put(key(3), "late")}})
	var fenced *cluster.Fenced
	if !errors.As(err, &fenced) {
		t.Fatalf("a late write gets %v", err)
	}
	want := []state.Item{{Key: other}, {Key: own, Value: []byte("b"), Revision: again.Revision}}
	if diff := cmp.Diff(want, fenced.Now); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all, _ := now(t, a); all[key(3)] != "x" {
		t.Errorf("the late write has left %q", all[key(3)])
	}
}

func testLarge(t *testing.T, s shared) {
	a := s.open()
	var tx state.Transaction
	for n := range state.MaxPuts {
		own := fmt.Sprintf("own/c0a8%04x", n)
		tx.Guards = append(tx.Guards, state.Guard{Key: own})
		tx.Puts = append(tx.Puts, put(own, "me"))
	}
	commit(t, a, tx)
	_, err := a.Commit(ctx(t), tx)
	var fenced *cluster.Fenced
	if !errors.As(err, &fenced) || len(fenced.Now) != state.MaxPuts {
		t.Errorf("the same again gets %v", err)
	}
}

func testLoad(t *testing.T, s shared) {
	a := s.open()
	for n := 0; n < 500; n += 100 {
		var tx state.Transaction
		for i := range 100 {
			tx.Puts = append(tx.Puts, put(key(1000+n+i), "x"))
		}
		commit(t, a, tx)
	}
	_, mark, err := a.Roster(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, a, puts(put(key(1000), "later"), put(key(2000), "later")))
	seen := map[string]int{}
	err = a.Load(ctx(t), mark, func(items []state.Item) {
		for _, it := range items {
			if seen[it.Key]++; string(it.Value) == "later" || it.Revision > mark.Revision {
				t.Errorf("%v as of %v", it, mark)
			}
		}
	})
	for n := range 500 {
		if seen[key(1000+n)] != 1 {
			t.Errorf("%s comes %d times", key(1000+n), seen[key(1000+n)])
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// watched follows a store until as much has come as is wanted, or an error.
func watched(t *testing.T, s cluster.Shared, after state.Mark, want int) ([]state.Item, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx(t))
	defer cancel()
	var got []state.Item
	err := s.Watch(ctx, after, func(items []state.Item) {
		if got = append(got, slices.Clone(items)...); len(got) >= want {
			cancel()
		}
	})
	return got, err
}

func testWatch(t *testing.T, s shared) {
	a, b := s.open(), s.open()
	_, before := now(t, a)
	first := commit(t, a, puts(put(key(11), "x"), put(key(12), "x")))
	second := commit(t, a, puts(put(key(11), "y")))
	done := make(chan state.Mark)
	go func() {
		m, err := a.Commit(context.Background(), puts(state.Put{Key: key(12)}))
		if err != nil {
			t.Error(err)
		}
		done <- m
	}()
	got, err := watched(t, b, before, 4)
	third := <-done
	want := []state.Item{
		{Key: key(11), Value: []byte("x"), Revision: first.Revision}, {Key: key(12), Value: []byte("x"), Revision: first.Revision},
		{Key: key(11), Value: []byte("y"), Revision: second.Revision}, {Key: key(12), Revision: third.Revision},
	}
	if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func testCompacted(t *testing.T, s shared) {
	a := s.open()
	_, before := now(t, a)
	commit(t, a, puts(put(key(13), "x")))
	at := commit(t, a, puts(put(key(13), "y")))
	s.compact(t, at)
	if _, err := watched(t, a, before, 1); !errors.Is(err, cluster.ErrCompacted) {
		t.Errorf("a watch from before gets %v", err)
	}
	if err := a.Load(ctx(t), before, func([]state.Item) {}); !errors.Is(err, cluster.ErrCompacted) {
		t.Errorf("a load of before gets %v", err)
	}
	if all, mark := now(t, a); all[key(13)] != "y" || mark != at {
		t.Errorf("%v as of %v", all[key(13)], mark)
	}
	next := commit(t, a, puts(put(key(13), "z")))
	if got, _ := watched(t, a, at, 1); len(got) != 1 || got[0].Revision != next.Revision {
		t.Errorf("a watch from the compacted revision on gets %v", got)
	}
}

func testHold(t *testing.T, s shared) {
	a, b := s.open(), s.open()
	seat := state.Transaction{Guards: []state.Guard{{Key: "gw/7"}}, Puts: []state.Put{put("gw/7", "a")}}
	held, err := a.Hold(ctx(t), seat, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var fenced *cluster.Fenced
	if _, err := b.Hold(ctx(t), seat, 5*time.Second); !errors.As(err, &fenced) {
		t.Errorf("another gets %v", err)
	}
	select {
	case <-held.Lost():
		t.Error("it is lost")
	default:
	}
	if err := held.Release(ctx(t)); err != nil {
		t.Error(err)
	}
	<-held.Lost()
	if all, _ := now(t, b); all["gw/7"] != "" {
		t.Errorf("gw/7 is %q", all["gw/7"])
	}
	if held, err = b.Hold(ctx(t), seat, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := held.Release(ctx(t)); err != nil {
		t.Error(err)
	}
}

// testKeep: what is kept for a time is there like anything else. That it disappears takes too
// long for a test.
func testKeep(t *testing.T, s shared) {
	a := s.open()
	commit(t, a, puts(state.Put{Key: key(21), Value: []byte("x"), Keep: time.Minute}, put(key(22), "y")))
	commit(t, a, puts(state.Put{Key: key(23), Value: []byte("z"), Keep: time.Minute}))
	if all, _ := now(t, a); all[key(21)]+all[key(22)]+all[key(23)] != "xyz" {
		t.Errorf("%v", all)
	}
}

// testEmptyValue: a key with an empty value is there.
func testEmptyValue(t *testing.T, s shared) {
	a := s.open()
	_, before := now(t, a)
	commit(t, a, puts(state.Put{Key: key(31), Value: []byte{}}))
	if got, _ := watched(t, a, before, 1); len(got) != 1 || got[0].Value == nil {
		t.Errorf("%v", got)
	}
	if all, _ := now(t, a); all[key(31)] != "" {
		t.Errorf("%v", all)
	} else if _, there := all[key(31)]; !there {
		t.Error("it is not there")
	}
}

func testCancelled(t *testing.T, s shared) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	a := s.open()
	if _, err := a.Commit(over, puts(put(key(41), "x"))); err == nil {
		t.Error("a commit that nobody waits for succeeds")
	}
	if err := a.Watch(over, state.Mark{}, func([]state.Item) {}); err == nil {
		t.Error("a watch that nobody waits for succeeds")
	}
}
