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

// odometer adds up what has travelled to one end of a call. An entry that is created again
// counts from 0.
type odometer struct {
	now    calls.Traffic // of the entry that is there, as it was last read
	former Volume        // of those before
	broken bool          // of which one may have counted more than was read
}

// read records what the entry has counted, and returns the increase.
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

// lose records that the entry is gone and was not read.
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

// Ledger passes on what happens to calls, and counts what each has carried. It is safe for
// concurrent use.
type Ledger struct {
	store *Store

	mu    sync.Mutex          // guards what follows
	calls map[uint64]*account // that are not Gone, by number
	spare []*account          // of calls that are, for the next ones; mostSpare at most
	late  Volume              // what calls have carried between the last tally and their end
}

// account is what a call has carried.
type account struct {
	ways   [2]odometer // to each side
	begun  bool        // what the metrics tell of it begins with this daemon, or has begun
	over   bool        // its end was told
	moved  time.Time   // when packets were last seen to be counted, or counting began; zero if not all are counted
	flowed time.Time   // when packets were last seen to be counted; zero if never
}

// NewLedger returns a ledger that adds events to a store.
func NewLedger(s *Store) *Ledger { return &Ledger{store: s, calls: make(map[uint64]*account)} }

// Know takes up calls of an earlier daemon, without events. afresh says that the earlier
// daemon's counts of them are lost.
func (l *Ledger) Know(all []calls.Record, afresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range all {
		l.calls[all[i].Number] = known(&all[i], afresh)
	}
}

// known is the account of a call of which others have told.
func known(r *calls.Record, afresh bool) *account {
	return &account{ways: [2]odometer{{broken: afresh}, {broken: afresh}}, over: r.State == calls.Clearing}
}

// told maps the call table's events to the store's.
var told = map[calls.EventKind]Kind{
	calls.Opened: CallRequested, calls.Assigned: CallTranslated, calls.SetUp: CallEstablished, calls.Closed: CallClosed,
}

// Tell takes events. carried is what the flows have carried that the data path has removed
// since the last call, as far as it was counted.
func (l *Ledger) Tell(events []calls.Event, carried map[calls.Flow]calls.Traffic, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range events {
		e := &events[i]
		switch e.Kind {
		case calls.Followed, calls.Forgotten: // another gateway tells of it
			delete(l.calls, e.Call.Number)
		case calls.TakenOver:
			l.calls[e.Call.Number] = known(&e.Call, true)
		}
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

// take returns the account for a new call.
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

// finish sets what the flows of an ended call have carried, as far as that is known, and
// returns how much of it the metrics do not have yet.
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
		exact = exact && there && t.Counted && !t.AtLeast && !way.broken
		to.Traffic[side] = way.total()
	}
	to.Approximate = !exact && (to.Traffic[0].Counted || to.Traffic[1].Counted)
	if !a.begun {
		return Volume{}
	}
	return grown
}

// Moved returns when a call's GRE was last seen to flow or, if it was not since then, when
// counting began; zero if nothing counts it, or not all of it.
func (l *Ledger) Moved(r calls.Record) time.Time { return l.account(r).moved }

// Flowed returns when a call's GRE was last seen to flow; zero if never.
func (l *Ledger) Flowed(r calls.Record) time.Time { return l.account(r).flowed }

// account returns a copy of what is known of a call.
func (l *Ledger) account(r calls.Record) account {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.calls[r.Number]; a != nil {
		return *a
	}
	return account{}
}
