package fast

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/datapath/kernel"
	"pptpalg/conntrack"
)

// world is a kernel and a fast path that write down what is done to them.
type world struct {
	path *Path
	log  []string

	entries  map[calls.Flow]calls.Traffic
	refuses  map[calls.Flow]bool
	counts   bool   // entries do
	meantime func() // runs while the kernel lists its entries
	deleting func() // runs before it deletes one

	flows map[calls.Flow]calls.Traffic
}

func newWorld(counts bool) *world {
	w := &world{entries: make(map[calls.Flow]calls.Traffic), refuses: make(map[calls.Flow]bool), flows: make(map[calls.Flow]calls.Traffic), counts: counts}
	k := kernel.New(w, w, w)
	k.Counting(counts)
	w.path = New(k)
	w.path.use(table{w})
	return w
}

func (w *world) note(what string, f calls.Flow) {
	w.log = append(w.log, fmt.Sprint(what, " ", f.Key))
}

var errRefused = errors.New("refused")

func (w *world) Apply(events []calls.Event) map[int]error { return w.ApplyCounting(events, nil) }

func (w *world) ApplyLate(events []calls.Event) map[int]error { return w.ApplyCounting(events, nil) }

func (w *world) ApplyCounting(events []calls.Event, counted func(calls.Flow, calls.Traffic)) map[int]error {
	failed := make(map[int]error)
	for i, e := range events {
		f := e.Flow.Unmarked()
		switch {
		case e.Kind == calls.Install && w.refuses[f]:
			failed[i] = errRefused
		case e.Kind == calls.Install:
			w.note("create", f)
			w.entries[f] = calls.Traffic{Counted: w.counts}
		case e.Kind == calls.Remove:
			if w.deleting != nil {
				w.deleting()
			}
			w.note("delete", f)
			if t, there := w.entries[f]; there && t.Counted && counted != nil {
				counted(f, t)
			}
			delete(w.entries, f)
		}
	}
	return failed
}

func (w *world) Traffic(into map[calls.Flow]calls.Traffic, _ func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	maps.Copy(into, w.entries)
	if w.meantime != nil {
		w.meantime()
	}
	return nil, nil
}

func (w *world) StandingTraffic(into map[calls.Flow]calls.Traffic, known []calls.Flow) error {
	for _, f := range known {
		if t, there := w.entries[f]; there {
			into[f] = t
		}
	}
	return nil
}

func (w *world) Renew(func(calls.Flow) bool) (int, error) { return 0, nil }

// table is the world's fast path.
type table struct{ w *world }

func (t table) Install(f calls.Flow) error {
	t.w.note("install", f)
	t.w.flows[f] = calls.Traffic{Counted: true}
	return nil
}

func (t table) Remove(f calls.Flow) calls.Traffic {
	got, there := t.w.flows[f]
	if there {
		t.w.note("remove", f)
	}
	delete(t.w.flows, f)
	return got
}

func (t table) Traffic(f calls.Flow) (calls.Traffic, bool) {
	got, there := t.w.flows[f]
	return got, there
}

func (t table) Retain(needed func(calls.Flow) bool) {
	maps.DeleteFunc(t.w.flows, func(f calls.Flow, _ calls.Traffic) bool { return !needed(f) })
}

func (table) Close() error { return nil }

func flow(key pptp.CallID) calls.Flow {
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	return calls.Flow{Src: a("203.0.113.10"), Dst: a("203.0.113.1"), Key: key, NewSrc: a("203.0.113.10"), NewDst: a("10.0.0.2"), NewKey: 7}
}

func install(keys ...pptp.CallID) (events []calls.Event) {
	for _, k := range keys {
		events = append(events, calls.Event{Kind: calls.Install, Flow: flow(k)})
	}
	return events
}

func remove(keys ...pptp.CallID) (events []calls.Event) {
	for _, k := range keys {
		events = append(events, calls.Event{Kind: calls.Remove, Flow: flow(k)})
	}
	return events
}

// TestOrder: an entry comes before its flow, and goes after it.
func TestOrder(t *testing.T) {
	for _, row := range []struct {
		name    string
		there   []calls.Event
		events  []calls.Event
		refuses calls.Flow
		want    []string
		left    []pptp.CallID
	}{
		{"install", nil, install(1, 2), calls.Flow{}, []string{"create 1", "create 2", "install 1", "install 2"}, []pptp.CallID{1, 2}},
		{"remove", install(1, 2), remove(1), calls.Flow{}, []string{"remove 1", "delete 1"}, []pptp.CallID{2}},
		{"both", install(1), slices.Concat(remove(1), install(2)), calls.Flow{}, []string{"remove 1", "delete 1", "create 2", "install 2"}, []pptp.CallID{2}},
		{"again", install(1), slices.Concat(remove(1), install(1)), calls.Flow{}, []string{"remove 1", "delete 1", "create 1", "install 1"}, []pptp.CallID{1}},
		{"for nothing", nil, slices.Concat(install(1), remove(1)), calls.Flow{}, []string{"create 1", "delete 1", "install 1", "remove 1"}, nil},
		{"refused", nil, install(1, 2), flow(1), []string{"create 2", "install 2"}, []pptp.CallID{2}},
		{"refused the second time", install(1), install(1), flow(1), []string{"remove 1"}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, apply := range []func(*Path, []calls.Event) map[int]error{(*Path).Apply, (*Path).ApplyLate} {
				w := newWorld(true)
				w.path.Apply(row.there)
				w.log = nil
				w.refuses[row.refuses] = true
				if failed := apply(w.path, row.events); (len(failed) > 0) != (row.refuses != calls.Flow{}) {
					t.Errorf("failed: %v", failed)
				}
				if diff := cmp.Diff(row.want, w.log); diff != "" {
					t.Error(diff)
				}
				var left []pptp.CallID
				for f := range w.flows {
					left = append(left, f.Key)
				}
				slices.Sort(left)
				if diff := cmp.Diff(row.left, left); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestTraffic adds up what entry and fast path have counted.
func TestTraffic(t *testing.T) {
	for _, row := range []struct {
		name        string
		entry, here calls.Traffic
		counts      bool
		want        calls.Traffic
	}{
		{"both", calls.Traffic{Packets: 2, Bytes: 20, Counted: true}, calls.Traffic{Packets: 5, Bytes: 50, Counted: true}, true, calls.Traffic{Packets: 7, Bytes: 70, Counted: true}},
		{"the entry alone", calls.Traffic{Packets: 2, Bytes: 20, Counted: true}, calls.Traffic{Counted: true}, true, calls.Traffic{Packets: 2, Bytes: 20, Counted: true}},
		{"no accounting", calls.Traffic{}, calls.Traffic{Packets: 5, Bytes: 50, Counted: true}, false, calls.Traffic{Packets: 5, Bytes: 50, Counted: true, AtLeast: true}},
		{"no accounting, nothing here", calls.Traffic{}, calls.Traffic{Counted: true}, false, calls.Traffic{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, f := newWorld(row.counts), flow(1)
			w.path.Apply(install(1))
			w.entries[f], w.flows[f] = row.entry, row.here
			for name, look := range map[string]func(datapath.Flows) error{
				"view":              func(have datapath.Flows) error { _, err := w.path.View(have, nil); return err },
				"snapshot":          func(have datapath.Flows) error { _, err := w.path.Snapshot(have, nil, nil); return err },
				"snapshot of known": func(have datapath.Flows) error { _, err := w.path.Snapshot(have, []calls.Flow{f}, nil); return err },
			} {
				have := make(datapath.Flows)
				if err := look(have); err != nil || have[f] != row.want {
					t.Errorf("%s: %+v, %v, want %+v", name, have[f], err, row.want)
				}
			}
			w.path.Counting(row.counts) // the snapshot reads the setting of this machine
			w.path.Apply(remove(1))
			if got := w.path.Carried(); got[f] != row.want {
				t.Errorf("carried: %+v, want %+v", got[f], row.want)
			}
			if got := w.path.Carried(); len(got) != 0 {
				t.Errorf("carried twice: %+v", got)
			}
			w.path.Apply(install(2))
			if got := w.path.Carried(); len(got) != 0 {
				t.Errorf("carried again: %+v", got)
			}
		})
	}
}

// TestAdopt takes up what an earlier daemon has left: the flows of entries, and no others.
func TestAdopt(t *testing.T) {
	w := newWorld(true)
	w.entries[flow(1)] = calls.Traffic{Counted: true}
	w.entries[flow(2)] = calls.Traffic{Counted: true}
	w.flows[flow(2)] = calls.Traffic{Packets: 9, Counted: true}
	w.flows[flow(3)] = calls.Traffic{Packets: 9, Counted: true}
	snapshot(t, w)
	want := map[calls.Flow]calls.Traffic{flow(1): {Counted: true}, flow(2): {Packets: 9, Counted: true}}
	if diff := cmp.Diff(want, w.flows, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func snapshot(t *testing.T, w *world) {
	t.Helper()
	if _, err := w.path.Snapshot(make(datapath.Flows), nil, nil); err != nil {
		t.Fatal(err)
	}
}

// TestMeantime changes flows while a list of them is being read.
func TestMeantime(t *testing.T) {
	w := newWorld(true)
	w.path.Apply(install(1))
	w.meantime = func() {
		w.path.Apply(remove(1))
		w.path.Apply(install(2))
	}
	snapshot(t, w)
	if _, there := w.flows[flow(1)]; there {
		t.Error("a flow that was removed meanwhile is there again")
	}
	if _, there := w.flows[flow(2)]; !there {
		t.Error("a flow that was installed meanwhile is gone")
	}
	if len(w.path.touched) != 0 {
		t.Errorf("kept: %v", w.path.touched)
	}
}

// TestUse: the fast path is loaded while an entry is being deleted and entries are listed. It
// takes up what is there, and nothing else.
func TestUse(t *testing.T) {
	w := newWorld(true)
	w.path.use(none{})
	w.path.Apply(install(1, 2))
	if len(w.flows) > 0 {
		t.Errorf("without a fast path there are %v", w.flows)
	}
	w.flows[flow(3)] = calls.Traffic{Packets: 9} // of an earlier daemon
	w.deleting = func() {
		w.path.use(table{w})
		snapshot(t, w)
	}
	w.path.Apply(remove(1))
	if _, there := w.flows[flow(2)]; !there || len(w.flows) != 1 {
		t.Errorf("there are %v, want the second flow", w.flows)
	}
}
