package datapath

import (
	"sync"

	"pptpalg/alg/calls"
)

// Former is what flows have carried that nothing in the kernel counts any more: the fast path of
// an earlier daemon has, and it was unloaded. It is a part of a flow's traffic until the
// flow's entry is deleted or created again. Any goroutine may use it; the zero value
// is empty.
type Former struct {
	mu  sync.Mutex
	all Flows // unmarked; nil for none
}

// Keep says what a flow has carried. Two calls may have the same flow, and both say so.
func (f *Former) Keep(flow calls.Flow, t calls.Traffic) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = make(Flows)
	}
	f.all[flow.Unmarked()] = t
}

// Of returns what a flow has carried.
func (f *Former) Of(flow calls.Flow) calls.Traffic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[flow.Unmarked()]
}

// AddTo adds it to what flows have carried since.
func (f *Former) AddTo(have Flows) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) == 0 {
		return
	}
	for flow, since := range have {
		if t, there := f.all[flow]; there {
			have[flow] = Sum(since, t)
		}
	}
}

// Follow forgets the flows of events whose entries are deleted or created, and tells removed what those
// have carried that were deleted.
func (f *Former) Follow(events []calls.Event, removed func(calls.Flow, calls.Traffic)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := 0; i < len(events) && len(f.all) > 0; i++ {
		e := &events[i]
		flow := e.Flow.Unmarked()
		t, there := f.all[flow]
		if !there || e.Kind != calls.Install && e.Kind != calls.Remove {
			continue
		}
		delete(f.all, flow)
		if e.Kind == calls.Remove {
			removed(flow, t)
		}
	}
}

// Sum adds what has been counted elsewhere to what an entry has counted.
func Sum(entry, elsewhere calls.Traffic) calls.Traffic {
	entry.Packets += elsewhere.Packets
	entry.Bytes += elsewhere.Bytes
	if elsewhere.Packets > 0 && !entry.Counted {
		entry.Counted, entry.AtLeast = true, true
	}
	return entry
}
