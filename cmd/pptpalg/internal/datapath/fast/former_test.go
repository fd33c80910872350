package fast

import (
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestFormer: what a flow has carried by a fast path that is gone is a part of its traffic, until its
// entry goes or is created again.
func TestFormer(t *testing.T) {
	for _, row := range []struct {
		name   string
		counts bool // entries do
		events []calls.Event
		shown  calls.Traffic // by Snapshot and View, the zero value for no flow
		left   calls.Traffic // by Carried
	}{
		{"it is shown", true, nil, calls.Traffic{Packets: 111, Bytes: 1110, Counted: true}, calls.Traffic{}},
		{"nothing counts any more", false, nil, calls.Traffic{Packets: 110, Bytes: 1100, Counted: true, AtLeast: true}, calls.Traffic{}},
		{"it ends", true, remove(1), calls.Traffic{}, calls.Traffic{Packets: 111, Bytes: 1110, Counted: true}},
		{"it ends uncounted", false, remove(1), calls.Traffic{}, calls.Traffic{Packets: 110, Bytes: 1100, Counted: true, AtLeast: true}},
		{"its entry is created again", true, install(1), calls.Traffic{Counted: true}, calls.Traffic{}},
		{"another one ends", true, remove(2), calls.Traffic{Packets: 111, Bytes: 1110, Counted: true}, calls.Traffic{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(row.counts)
			w.path.Apply(install(1, 2))
			w.path.Carried()
			for range 2 { // two calls have the flow
				w.path.Traits().Former.Keep(flow(1), calls.Traffic{Packets: 100, Bytes: 1000, Counted: true})
			}
			if row.counts {
				w.entries[flow(1)] = calls.Traffic{Packets: 1, Bytes: 10, Counted: true}
			}
			w.flows[flow(1)] = calls.Traffic{Packets: 10, Bytes: 100, Counted: true}
			if len(row.events) > 0 {
				w.path.Apply(row.events)
			}
			for name, list := range map[string]func(datapath.Flows) error{
				"View":     func(have datapath.Flows) error { _, err := w.path.View(have, nil); return err },
				"Snapshot": func(have datapath.Flows) error { _, err := w.path.Snapshot(have, nil, nil); return err },
				"known": func(have datapath.Flows) error {
					_, err := w.path.Snapshot(have, []calls.Flow{flow(1)}, nil)
					return err
				},
			} {
				have := make(datapath.Flows)
				if err := list(have); err != nil || have[flow(1)] != row.shown {
					t.Errorf("%s shows %+v, want %+v: %v", name, have[flow(1)], row.shown, err)
				}
			}
			if got := w.path.Carried()[flow(1)]; got != row.left {
				t.Errorf("it has carried %+v, want %+v", got, row.left)
			}
		})
	}
}
