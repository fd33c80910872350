package state

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/calls"
)

// Writer decides what is written to the shared store. One transaction at a time is under way:
//
//	Append ─► Add ─┐             ┌─► done: the breaker closes
//	Claim ─────────┴─► Next ─► transaction
//	                             └─► Done: fenced or failed: what was not written comes again
type Writer struct {
	Breaker Breaker

	rest    time.Duration // of public IDs
	owners  owners
	batch   batch
	flight  []entry // under way
	lacking bool    // the store lacks something that is not pending
	suspect bool    // it may
	rests   bool    // it lacks IDs that rest, too
	dropped []CallKey
	offers  []offer // calls that the store lacks, below public addresses that others have taken
	refused bool    // something was given up that a packet waits for
	fenced  uint64
}

// NewWriter returns a writer that has no public addresses.
func NewWriter(me Owner, rest time.Duration) *Writer {
	return &Writer{rest: rest, owners: owners{me: me, claims: make(map[netip.Addr]*claim), others: make(map[netip.Addr]bool)}}
}

// SetRest changes how long public IDs rest.
func (w *Writer) SetRest(rest time.Duration) { w.rest = rest }

// Work is a transaction that is to be done.
type Work struct {
	Transaction Transaction
	Take        []netip.Addr // what it takes; nil if it writes calls
	Anew        []netip.Addr // what of that others may own
}

// Claim takes note that this gateway has a public address. Seen is the revision at which its
// owner's key is known.
func (w *Writer) Claim(public netip.Addr, seen int64) { w.owners.claim(public, seen) }

// Yield takes note that it has it no longer. What is pending is written unless another takes
// the address first.
func (w *Writer) Yield(public netip.Addr) {
	if w.owners.yield(public) {
		w.drop()
	}
}

// Abandon takes note that it has a public address no longer, if it has not taken it yet.
func (w *Writer) Abandon(public netip.Addr) {
	if len(w.owners.unheld([]netip.Addr{public})) > 0 {
		w.Yield(public)
	}
}

// Claims returns the public addresses that are claimed.
func (w *Writer) Claims() []netip.Addr { return w.owners.all() }

// Claimed reports whether a public address is.
func (w *Writer) Claimed(public netip.Addr) bool { return w.owners.has(public) }

// Serves reports whether a term in which this gateway owns a public address is the one for which
// it has claimed it last. One that another gateway has ended meanwhile is not, nor one before the
// address was yielded.
func (w *Writer) Serves(public netip.Addr, term uint32) bool { return w.owners.serves(public, term) }

// Hurry has everything written at once that can be.
func (w *Writer) Hurry(now time.Time) {
	w.Breaker.Hurry(now)
	w.batch.hurry()
}

// Settled reports whether all claims are taken.
func (w *Writer) Settled() bool { return len(w.owners.untaken()) == 0 }

// drop gives up what is below public addresses that this gateway does not have, or that others
// have had meanwhile. What is under way there is fenced.
func (w *Writer) drop() {
	lost := func(k CallKey) bool { return w.owners.claims[k.Public] == nil || w.owners.others[k.Public] }
	for _, e := range w.batch.drop(lost) {
		w.give(e)
	}
	w.flight = slices.DeleteFunc(w.flight, func(e entry) bool {
		if lost(e.key) {
			w.give(e)
		}
		return lost(e.key)
	})
	clear(w.owners.others)
}

// give gives up what was to be written of a call. It is offered to the next owner, unless the packet
// that says so still waits: it must not go on then.
func (w *Writer) give(e entry) {
	w.dropped = append(w.dropped, e.key)
	w.refused = w.refused || e.urgent
	if !e.urgent && e.put.Value != nil && len(w.offers) < mostOffers {
		w.offers = append(w.offers, offer{entry: e})
	}
}

// mostOffers is how many calls may wait to be offered.
const mostOffers = 1 << 12

// offer is what is to be offered.
type offer struct {
	entry
	met int64 // the revision of the owner's key at which it was offered in vain
	at  int64 // the revision of what the store knows of the call; 0 for nothing
}

// exceeds reports whether what is offered of a call tells more than what the store has: the reply to its
// request, say.
func (o *offer) exceeds(it Item) bool {
	has, err := DecodeCall(o.key, it.Value)
	return err == nil && o.entry.exceeds(&has)
}

func (e *entry) exceeds(has *Call) bool {
	more, err := DecodeCall(e.key, e.put.Value)
	return err == nil && !has.Gone && has.Record.State < calls.Established && has.Record.State < more.Record.State
}

// Offer is a transaction that offers calls.
type Offer struct {
	Transaction Transaction
	offers      []offer
}

// mostOffered is how many calls are offered at once: each may have a guard, as has the owner.
const mostOffered = MaxPuts - 1

// Offer returns a transaction that writes what the store lacks below a public address that another gateway owns:
// calls, replies to the requests of calls, and ends of calls. They happened before that gateway had the address,
// and while the store did not answer. Each is offered once, unless it is to be Offered again. What is below an
// address that this gateway is about to take from the other one is not offered.
func (w *Writer) Offer(owner func(netip.Addr) Holding) (o Offer, ok bool) {
	var rest []offer
	taken := make(map[CallKey]bool)
	for _, e := range w.offers {
		h := owner(e.key.Public)
		same := len(o.offers) == 0 || o.offers[0].key.Public == e.key.Public
		if h.Owner == (Owner{}) || h.Owner.Is(w.owners.me) || w.Claimed(e.key.Public) || h.Revision == e.met || !same || taken[e.key] || len(o.offers) == mostOffered {
			rest = append(rest, e)
			continue
		}
		if len(o.offers) == 0 {
			o.Transaction.Guards = []Guard{{OwnerKey(e.key.Public), h.Revision}}
		}
		e.met, taken[e.key] = h.Revision, true
		o.offers = append(o.offers, e)
	}
	w.offers = rest
	slices.SortStableFunc(o.offers, func(a, b offer) int { return cmp.Compare(b.put.Keep, a.put.Keep) }) // an ID may be a later call's
	for _, e := range o.offers {
		o.Transaction.Puts = append(o.Transaction.Puts, e.put)
		if e.put.Keep == 0 {
			o.Transaction.Guards = append(o.Transaction.Guards, Guard{e.put.Key, e.at})
		}
	}
	return o, len(o.offers) > 0
}

// Offered takes in the guards' keys as they are, if a guard of an offer did not hold. If the owner has
// taken its address anew meanwhile, the calls are offered again, when the watch has told of that. Else
// those are that are not in the store, or of which it has less, from before the owner had the address. The
// others are Dropped.
func (w *Writer) Offered(o Offer, now []Item) (again bool) {
	key := OwnerKey(o.offers[0].key.Public)
	renewed := slices.ContainsFunc(now, func(it Item) bool { return it.Key == key && it.Revision != o.offers[0].met })
	has := make(map[string]Item)
	for _, it := range now {
		has[it.Key] = it
	}
	for _, e := range o.offers {
		it := has[e.put.Key]
		switch {
		case len(now) == 0, len(w.offers) >= mostOffers:
			w.dropped = append(w.dropped, e.key)
			continue
		case renewed:
		case it.Revision == e.at:
			e.met = 0
		case it.Revision != 0 && it.Revision < e.met && e.exceeds(it):
			e.met, e.at = 0, it.Revision
		default:
			w.dropped = append(w.dropped, e.key)
			continue
		}
		w.offers = append(w.offers, e)
		again = true
	}
	return again
}

// Withdraw gives up what is to be offered below a public address that this gateway owns again: all was compared
// there.
func (w *Writer) Withdraw(public netip.Addr) {
	w.offers = slices.DeleteFunc(w.offers, func(o offer) bool { return o.key.Public == public })
}

// Release takes note that no packet waits any more for what was to be written, and reports whether
// something was given up meanwhile that one waited for.
func (w *Writer) Release() (refused bool) {
	refused, w.refused = w.refused, false
	w.batch.calm()
	for i := range w.flight {
		w.flight[i].urgent = false
	}
	return refused
}

// News removes the changes that are older than what this gateway knows and has yet to write or offer: that a call is
// over, or was answered.
func (w *Writer) News(changes []Change) []Change {
	if len(changes) == 0 {
		return nil
	}
	known := w.known()
	return slices.DeleteFunc(changes, func(c Change) bool {
		e, ok := known(CallKey{c.Public, c.Call.Record.Number})
		return ok && c.Kind == Kept && (e.put.Keep > 0 || e.exceeds(&c.Call))
	})
}

// Untold reports of calls whether the store is yet to be told of them.
func (w *Writer) Untold() func(CallKey) bool {
	known := w.known()
	return func(k CallKey) bool { e, ok := known(k); return ok && e.put.Keep == 0 }
}

// known returns what is to be written or offered, by call.
func (w *Writer) known() func(CallKey) (entry, bool) {
	under := make(map[CallKey]entry, len(w.offers)+len(w.flight))
	for _, o := range w.offers {
		under[o.key] = o.entry
	}
	for _, e := range w.flight {
		under[e.key] = e
	}
	return func(k CallKey) (e entry, ok bool) {
		if e, ok = w.batch.pending[k]; !ok {
			e, ok = under[k]
		}
		return e, ok
	}
}

// Dropped hands over the calls of which the store was to know something when another gateway
// took their public address, and will not. The store's word counts for them, unless this gateway gets
// the address back first: then the store lacks them.
func (w *Writer) Dropped() []CallKey {
	dropped := w.dropped
	w.dropped = nil
	w.suspect = w.suspect || len(dropped) > 0
	return dropped
}

// Add takes in what is to be written of a call, and whether a packet waits for it. It reports
// whether waiting can help. Calls of public addresses that are not claimed are left out; that one of them is
// over is offered to who has the address.
func (w *Writer) Add(c *Call, urgent bool, now time.Time) (waits bool) {
	return w.add(c, urgent, false, now)
}

// Open is Add for a call that begins.
func (w *Writer) Open(c *Call, urgent bool, now time.Time) (waits bool) {
	return w.add(c, urgent, true, now)
}

func (w *Writer) add(c *Call, urgent, untold bool, now time.Time) (waits bool) {
	key, translated := c.Key()
	if !translated {
		return false
	}
	if !w.Claimed(key.Public) {
		if c.Gone {
			w.give(entry{key: key, put: Put{Key: key.String(), Value: c.Encode(), Keep: w.rest}})
		}
		return false
	}
	_, held := w.owners.fence(key.Public)
	urgent = urgent && held && !w.Breaker.Open()
	e := entry{key: key, put: Put{Key: key.String(), Value: c.Encode()}, urgent: urgent, untold: untold}
	if c.Gone {
		e.put.Keep, e.until = w.rest, c.At.Add(w.rest)
	}
	w.pend(e, now)
	return urgent
}

// Delete has a call's key deleted.
func (w *Writer) Delete(key CallKey, now time.Time) {
	w.pend(entry{key: key, put: Put{Key: key.String()}}, now)
}

func (w *Writer) pend(e entry, now time.Time) {
	w.offers = slices.DeleteFunc(w.offers, func(o offer) bool { return o.key == e.key })
	if !w.batch.add(e, now) {
		w.LackAgain(true)
	}
}

// Pending returns how many calls are to be written.
func (w *Writer) Pending() int { return len(w.batch.pending) + len(w.flight) }

// Urgent reports whether something that a packet waits for is not written.
func (w *Writer) Urgent() bool {
	return len(w.batch.urgent) > 0 || slices.ContainsFunc(w.flight, func(e entry) bool { return e.urgent })
}

// Owes reports whether something below a public address is to be written, or is being written.
func (w *Writer) Owes(public netip.Addr) bool {
	for key := range w.batch.pending {
		if key.Public == public {
			return true
		}
	}
	return slices.ContainsFunc(w.flight, func(e entry) bool { return e.key.Public == public })
}

// Has reports whether a call is to be written, or is being written.
func (w *Writer) Has(key CallKey) bool {
	_, pending := w.batch.pending[key]
	return pending || slices.ContainsFunc(w.flight, func(e entry) bool { return e.key == key })
}

// Lacking reports whether the store lacks what nobody knows any more but the call table.
func (w *Writer) Lacking() bool { return w.lacking }

// Lack takes note that the store lacks something.
func (w *Writer) Lack() { w.lacking = true }

// Suspect takes note that the store may have something else than it should.
func (w *Writer) Suspect() { w.suspect = true }

// Suspected reports whether the store lacks something, or may.
func (w *Writer) Suspected() bool { return w.lacking || w.suspect }

// LackAgain takes note that the store lacks what Restore was to bring it.
func (w *Writer) LackAgain(rests bool) { w.lacking, w.rests = true, w.rests || rests }

// Restore takes note that the store is to lack nothing any more. It reports whether it lacks the IDs
// that rest, too.
func (w *Writer) Restore() (rests bool) {
	rests = w.rests
	w.lacking, w.suspect, w.rests = false, false, false
	return rests
}

// Fenced returns how often a guard did not hold because another gateway has taken a public
// address.
func (w *Writer) Fenced() uint64 { return w.fenced }

// Next returns what is to be done now. If there is nothing, it returns when to ask again;
// zero says that only a change can bring something. While the breaker is open, what comes is
// a probe, even if it is an empty transaction.
func (w *Writer) Next(now time.Time) (_ Work, ok bool, again time.Time) {
	if until := w.Breaker.Until(); now.Before(until) {
		return Work{}, false, until
	}
	if untaken := w.owners.untaken(); len(untaken) > 0 {
		untaken = untaken[:min(len(untaken), MaxPuts)]
		anew := w.owners.unheld(untaken)
		return Work{Transaction: w.owners.take(untaken), Take: untaken, Anew: anew}, true, now
	}
	ready, again := w.batch.ready(now)
	if !ready && !w.Breaker.Open() {
		return Work{}, false, again
	}
	work := w.write(now)
	if len(w.flight) == 0 && !w.Breaker.Open() {
		return Work{}, false, w.batch.ripe() // what is due waits for the watch
	}
	return work, true, now
}

func (w *Writer) write(now time.Time) (work Work) {
	guarded := make(map[netip.Addr]bool)
	can := func(k CallKey) bool { _, ok := w.owners.fence(k.Public); return ok }
	for _, e := range w.batch.take(MaxPuts, now, can) {
		public := e.key.Public
		if guard, _ := w.owners.fence(public); !guarded[public] {
			guarded[public] = true
			work.Transaction.Guards = append(work.Transaction.Guards, guard)
		}
		w.flight = append(w.flight, e)
		work.Transaction.Puts = append(work.Transaction.Puts, e.put)
	}
	return work
}

// Outcome is what became of a transaction.
type Outcome struct {
	Mark   Mark   // if it was done
	Fenced []Item // the owners' keys as they are, if a guard did not hold
	Failed bool   // it was not done, or is in doubt
	Slept  bool   // and the store is not to blame: packets go on waiting
}

// Result is what follows from an outcome.
type Result struct {
	Lost     []netip.Addr // public addresses that others have taken
	Restored bool         // the store has lost data
}

// Done takes in what became of the work.
func (w *Writer) Done(work Work, o Outcome, now time.Time) (r Result) {
	flight := w.flight
	w.flight = nil
	switch {
	case o.Failed:
		if !o.Slept {
			w.Breaker.Failed(now)
		}
		w.owners.doubt()
	case o.Fenced != nil:
		w.Breaker.Worked()
		r.Lost, r.Restored = w.owners.fenced(o.Fenced)
	default:
		w.Breaker.Worked()
		w.owners.took(work.Take, o.Mark.Revision)
		return Result{}
	}
	if !w.batch.back(flight, o.Fenced != nil || o.Slept, now) {
		w.LackAgain(true)
	}
	w.fenced += uint64(len(r.Lost))
	w.drop()
	return r
}

// Saw takes note of who owns a public address at a revision, and reports whether this gateway
// has lost it.
func (w *Writer) Saw(public netip.Addr, owner Owner, revision int64) (lost bool) {
	if lost = w.owners.saw(public, owner, revision); lost {
		w.fenced++
	}
	w.drop()
	return lost
}

// Begin takes note that all is known that others have written below a public address before
// this gateway's term: it may write there.
func (w *Writer) Begin(public netip.Addr, term uint32) { w.owners.begin(public, term) }

// Lost takes note that the gateway is told that it has lost a public address. What it has done
// since, because it did not know, is given up.
func (w *Writer) Lost(public netip.Addr) {
	w.owners.others[public] = true
	w.drop()
}

// Restored takes note that the store has lost data: all claims are taken again, and all calls
// written.
func (w *Writer) Restored() {
	w.owners.restored()
	w.lacking, w.rests = true, true
}
