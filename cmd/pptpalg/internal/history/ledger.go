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
	now     Volume // of the entry that is there, as it was last read
	former  Volume // of those before
	counted bool   // now was read
	broken  bool   // one of those before may have counted more than was read
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
	o.now, o.counted = Volume{t.Packets, t.Bytes}, true
	return grown
}

// lose records that the entry is gone and was not read.
func (o *odometer) lose() {
	if o.counted {
		o.former.add(o.now)
		o.now, o.counted, o.broken = Volume{}, false, true
	}
}

// total is what all entries have counted, as far as that was read.
func (o *odometer) total() calls.Traffic {
	return calls.Traffic{
		Packets: o.former.Packets + o.now.Packets, Bytes: o.former.Bytes + o.now.Bytes,
		Counted: o.counted || o.former != Volume{},
	}
}

// Ledger passes on what happens to calls, and counts what each has carried. It is safe for
// concurrent use.
type Ledger struct {
	store *Store

	mu    sync.Mutex          // guards what follows
	start time.Time           // just before the first tally
	calls map[uint64]*account // that are not Gone, by number
	spare []*account          // of calls that are, for the next ones; mostSpare at most
	late  Volume              // what calls have carried between the last tally and their end
}

// account is what a call has carried. Times are since Ledger.start.
type account struct {
	ways   [2]odometer   // to each side
	moved  time.Duration // when packets were last seen to be counted, or counting began; 0 if not all are counted
	flowed time.Duration // when packets were last seen to be counted; 0 if never
	begun  bool          // what the metrics tell of it begins with this daemon, or has begun
	over   bool          // its end was told
}

// NewLedger returns a ledger that adds events to a store.
func NewLedger(s *Store) *Ledger { return &Ledger{store: s, calls: make(map[uint64]*account)} }

// Know takes up calls of an earlier daemon, without events. afresh says that the earlier
// daemon's counts of them are lost.
func (l *Ledger) Know(all []calls.Record, afresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.calls) == 0 {
		l.calls = make(map[uint64]*account, len(all))
	}
	for i := range all {
		l.calls[all[i].Number] = known(&all[i], afresh)
	}
}

// known is the account of a call of which others have told.
func known(r *calls.Record, afresh bool) *account {
	return &account{ways: [2]odometer{{broken: afresh}, {broken: afresh}}, over: r.State == calls.Clearing}
}

// Doubt says that one of a call's ends may have been sent more than is counted now.
func (l *Ledger) Doubt(number uint64, to calls.Side) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.calls[number]; a != nil {
		a.ways[to].broken = true
	}
}

// Doubtful reports whether what is counted of a call towards an end may be too little.
func (l *Ledger) Doubtful(number uint64, to calls.Side) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.calls[number]
	return a != nil && a.ways[to].broken
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
func (l *Ledger) Moved(r calls.Record) time.Time {
	return l.time(r.Number, func(a *account) time.Duration { return a.moved })
}

// Flowed returns when a call's GRE was last seen to flow; zero if never.
func (l *Ledger) Flowed(r calls.Record) time.Time {
	return l.time(r.Number, func(a *account) time.Duration { return a.flowed })
}

// time returns a time of what is known of a call.
func (l *Ledger) time(number uint64, of func(*account) time.Duration) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.calls[number]
	if a == nil || of(a) == 0 {
		return time.Time{}
	}
	return l.start.Add(of(a))
}

// since is now as accounts have it. The caller holds mu.
func (l *Ledger) since(now time.Time) time.Duration {
	if l.start.IsZero() {
		l.start = now.Add(-1)
	}
	return now.Sub(l.start)
}
