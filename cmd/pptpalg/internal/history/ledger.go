package history

import (
	"sync"
	"time"

	"pptpalg/alg/calls"
)

// Volume is packets and their bytes, IP headers included.
type Volume struct{ Packets, Bytes uint64 }

func (v *Volume) add(w Volume) {
	v.Packets += w.Packets
	v.Bytes += w.Bytes
}

// odometer adds up what has travelled to one end of a call. An entry that is made again
// counts from 0 again.
type odometer struct {
	now    calls.Traffic // of the entry that is there, as it was last read
	former Volume        // of those before
	broken bool          // of which one may have counted more than was read
}

// read takes in what the entry has counted, and returns by how much that is more.
func (o *odometer) read(t calls.Traffic) Volume {
	if !t.Counted {
		return Volume{}
	}
	if t.Packets < o.now.Packets || t.Bytes < o.now.Bytes {
		o.lose()
	}
	grown := Volume{t.Packets - o.now.Packets, t.Bytes - o.now.Bytes}
	o.now = t
	return grown
}

// lose takes note that the entry is gone, and nobody has read it.
func (o *odometer) lose() {
	if o.now.Counted {
		o.former.add(Volume{o.now.Packets, o.now.Bytes})
		o.now, o.broken = calls.Traffic{}, true
	}
}

// total is what all entries have counted, as far as that was read.
func (o *odometer) total() calls.Traffic {
	return calls.Traffic{
		Packets: o.former.Packets + o.now.Packets, Bytes: o.former.Bytes + o.now.Bytes,
		Counted: o.now.Counted || o.former != Volume{},
	}
}

// Ledger tells what happens to calls, and what each has carried. It is safe for concurrent use.
type Ledger struct {
	store *Store

	mu    sync.Mutex          // guards what follows
	calls map[uint64]*account // that are not Gone, by number
	spare []*account          // of calls that are, for the next ones; mostSpare at most
	late  Volume              // what calls have carried between the last tally and their end
}

// account is what a call has carried.
type account struct {
	ways  [2]odometer // to each side
	begun bool        // what the metrics tell of it begins with this daemon, or has begun
	over  bool        // its end was told
	moved time.Time   // when packets were last seen to be counted; zero if nobody counts
}

// NewLedger returns a ledger that tells a store.
func NewLedger(s *Store) *Ledger { return &Ledger{store: s, calls: make(map[uint64]*account)} }

// Know takes up calls that were there before the daemon, and are no news. afresh says
// that what they carried then was counted by somebody who is gone.
func (l *Ledger) Know(all []calls.Record, afresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range all {
		l.calls[r.Number] = &account{ways: [2]odometer{{broken: afresh}, {broken: afresh}}, over: r.State == calls.Clearing}
	}
}

// told is what the store is told of the call table's events.
var told = map[calls.EventKind]Kind{
	calls.Opened: CallRequested, calls.Assigned: CallTranslated, calls.SetUp: CallEstablished, calls.Closed: CallClosed,
}

// Tell takes in what happened. carried is what flows have carried that are gone from the
// data path since it was called last, as far as that tells.
func (l *Ledger) Tell(events []calls.Event, carried map[calls.Flow]calls.Traffic, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range events {
		e := &events[i]
		if !e.OfCall() {
			continue
		}
		a := l.calls[e.Call.Number]
		switch {
		case e.Kind == calls.Gone:
			delete(l.calls, e.Call.Number)
			l.keep(a)
			continue
		case a == nil && e.Kind == calls.Opened:
			a = l.take()
			l.calls[e.Call.Number] = a
		}
		if kind, tells := told[e.Kind]; tells && a != nil {
			l.tell(a, e, kind, carried, now)
		}
	}
}

func (l *Ledger) tell(a *account, e *calls.Event, kind Kind, carried map[calls.Flow]calls.Traffic, now time.Time) {
	r := &e.Call
	event := Event{Time: now, Kind: kind, Ends: EndsOf(&r.Connection)}
	event.Call = Call{Number: r.Number, PNS: r.PNS, Legs: r.Legs, Since: r.Since}
	if kind == CallClosed {
		a.over = true
		event.Call.Cause = e.Cause
		l.late.add(a.finish(r, carried, &event.Call))
	}
	l.store.Add(&event)
}

// mostSpare is how many calls' memory waits for other calls.
const mostSpare = 64

// take returns the account of a call that is new.
func (l *Ledger) take() *account {
	n := len(l.spare)
	if n == 0 {
		return &account{begun: true}
	}
	a := l.spare[n-1]
	l.spare = l.spare[:n-1]
	*a = account{begun: true}
	return a
}

func (l *Ledger) keep(a *account) {
	if a != nil && len(l.spare) < mostSpare {
		l.spare = append(l.spare, a)
	}
}

// finish tells what the flows of a call have carried that has ended, as far as it is known,
// and returns what that is beyond what the metrics tell.
func (a *account) finish(r *calls.Record, carried map[calls.Flow]calls.Traffic, to *Call) (grown Volume) {
	exact := true
	for side := range a.ways {
		f, flows := r.FlowTo(calls.Side(side))
		if !flows {
			continue
		}
		way := &a.ways[side]
		t, there := carried[f.Unmarked()]
		grown.add(way.read(t))
		exact = exact && there && t.Counted && !way.broken
		to.Traffic[side] = way.total()
	}
	to.Approximate = !exact && (to.Traffic[0].Counted || to.Traffic[1].Counted)
	if !a.begun {
		return Volume{}
	}
	return grown
}

// Moved returns when a call's GRE was last seen to flow; zero if nobody counts it.
func (l *Ledger) Moved(r calls.Record) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.calls[r.Number]; a != nil {
		return a.moved
	}
	return time.Time{}
}
