package alg

import (
	"slices"
	"time"

	"pptpalg/alg/calls"
)

// Gateways that share their calls each know the calls of all of them. Each connection that
// NAT translates belongs to the gateway that has its public address: calls.Connection.Public.
// That gateway edits it, and decides when its calls end. The others follow: they keep the
// calls as they are told, and no segment changes them. A gateway that loses an address does
// not see what passes from then on, and one that gets an address has not seen what passed
// before. So both begin to read its connections anew, as after a restart.

// Owned sets which connections are this gateway's own: those for which owned returns true,
// and those that NAT does not touch. Without it, all are. The answer may change for a public
// address. A segment is edited, or passes, by the new answer at once; but all connections with
// the address must be visited by a Handover before the next audit.
func (e *Editor) Owned(owned func(calls.Connection) bool) { e.owned = owned }

func (e *Editor) owns(c *calls.Connection) bool {
	if e.owned == nil {
		return true
	}
	_, shared := c.Public()
	return !shared || e.owned(*c)
}

// Follow puts on record what the owner of a call says of it: see calls.Control.Follow. first
// is true if its connection had no calls on record: then the kernel may lack the entry of
// the connection. ok is false if the record is refused: the connection is this gateway's, or
// another call has its place. What happens to flows comes with the next events.
func (e *Editor) Follow(r calls.Record, now time.Time) (first, ok bool) {
	r.Connection.Helper, r.Connection.Opening = "", false
	d := e.followed(&r.Connection, now)
	if d == nil {
		return false, false
	}
	first = !d.control.Busy()
	for s, local := range r.Local {
		if local && first {
			d.own(calls.Side(s))
		}
	}
	if ok = d.control.Follow(r, now); !ok && first {
		e.discard(d, now)
	}
	return first && ok, ok
}

// followed returns the record of a connection that another gateway owns, nil if this one
// owns it. Another connection with its tuple has ended.
func (e *Editor) followed(c *calls.Connection, now time.Time) *dialogue {
	if _, shared := c.Public(); !shared {
		return nil
	}
	s, known := e.senders[e.keyOf(c, calls.Initiator)]
	d := s.dialogue
	switch {
	case !known:
	case d.over, d.control.Followed() && !d.control.Same(*c):
		e.discard(d, now)
	case !d.control.Followed():
		return nil
	default:
		e.setApart(d)
		return d
	}
	d = e.newDialogue(*c, now)
	d.control = e.table.Open(*c)
	d.control.Yield(now)
	d.apart = true
	e.apart++
	e.place(d, c)
	return d
}

// setApart takes a connection out of the limits, and out of those that give way.
func (e *Editor) setApart(d *dialogue) {
	if d.apart {
		return
	}
	e.strike(d)
	d.apart = true
	e.apart++
}

// discard takes a connection off the record at once. Its calls must be another gateway's, or
// none.
func (e *Editor) discard(d *dialogue, now time.Time) {
	if !d.over {
		d.control.Close(calls.Expired, now)
		e.strike(d)
		delete(e.late, d)
		d.over = true
	}
	e.remove(d)
}

// Forget takes off the record a call that is gone at its owner since a time: see
// calls.Table.Forget. last is true if its connection, which is returned, has no calls left:
// then it is off the record as well, and the kernel needs its entry no longer than that of
// any silent connection.
func (e *Editor) Forget(number uint64, at, now time.Time) (of calls.Connection, last bool) {
	control := e.table.Forget(number, at, now)
	if control == nil {
		return calls.Connection{}, false
	}
	of = control.Connection()
	if control.Busy() {
		return of, false
	}
	if s := e.senders[e.keyOf(&of, calls.Initiator)]; s.dialogue != nil && s.dialogue.control == control {
		e.discard(s.dialogue, now)
	}
	return of, true
}

// Adopt puts on record a call on a connection of this gateway's, of which the former owner tells late: see
// calls.Control.Adopt. first is true if the connection was not on record: then the kernel may lack its entry.
// ok is false if the record is refused: the connection is another gateway's, or another call has its place.
func (e *Editor) Adopt(r calls.Record, now time.Time) (first, ok bool) {
	if !e.owns(&r.Connection) {
		return false, false
	}
	r.Connection.Helper, r.Connection.Opening = "", false
	k := e.keyOf(&r.Connection, calls.Initiator)
	before := e.senders[k].dialogue
	if !e.Open(r.Connection, now) {
		return false, false
	}
	d := e.senders[k].dialogue
	if first = d != before; first {
		d.unseen = true
		for s, local := range r.Local {
			if local {
				d.own(calls.Side(s))
			}
		}
	}
	ok = d.pass != Untranslated && !d.over && !d.control.Followed() && d.control.Adopt(r, now)
	e.rank(d)
	return first && ok, ok
}

// Retire ends a call on a connection of this gateway's, of which the former owner tells late that it was
// over.
func (e *Editor) Retire(c *calls.Connection, number uint64, now time.Time) {
	d := e.senders[e.keyOf(c, calls.Initiator)].dialogue
	if d != nil && !d.over && !d.control.Followed() && d.control.Has(number) {
		d.control.EndIf(func(r calls.Record) bool { return r.Number == number }, calls.Cleared, now)
	}
}

// Follows reports whether a connection with calls is on record that another gateway owns.
func (e *Editor) Follows(c *calls.Connection) bool {
	d := e.senders[e.keyOf(c, calls.Initiator)].dialogue
	return d != nil && !d.over && d.control.Followed() && d.control.Busy() && d.control.Same(*c)
}

// Has reports whether a connection is on record with a call of a number.
func (e *Editor) Has(c *calls.Connection, number uint64) bool {
	d := e.senders[e.keyOf(c, calls.Initiator)].dialogue
	return d != nil && !d.over && d.control.Has(number)
}

// mine reports whether a connection is this gateway's own, and settles it if it is not on
// record so.
func (e *Editor) mine(d *dialogue, now time.Time) bool {
	if e.owned != nil || d.control.Followed() {
		c := d.control.Connection()
		if e.settle(d, &c, now) {
			d.turned = true
		}
	}
	return !d.control.Followed()
}

// settle has a connection on record as owned or followed, as it is, and reports whether that
// is new.
func (e *Editor) settle(d *dialogue, c *calls.Connection, now time.Time) bool {
	switch owned := e.owns(c); {
	case owned != d.control.Followed():
		return false
	case owned:
		e.rejoin(d, c, now)
	default:
		e.drop(d, c, now)
	}
	return true
}

// conceded is how long an ending may have waited that concede carries out.
const conceded = time.Second

// concede carries out the endings that have begun to wait just now. The next gateway sees that their
// receiver acknowledges them, and does not know what it acknowledges.
func (e *Editor) concede(d *dialogue, now time.Time) {
	waiting := e.late[d]
	if len(waiting) == 0 || d.over {
		return
	}
	t := turn{dialogue: d, now: now}
	for _, w := range waiting {
		if e.since(now)-w.at < conceded && w.call == t.means(w) {
			roles[w.kind].ends(&t, w)
		}
	}
	delete(e.late, d)
}

// drop has another gateway own a connection from now on.
func (e *Editor) drop(d *dialogue, c *calls.Connection, now time.Time) {
	e.concede(d, now)
	if d.over || !d.control.Busy() {
		e.discard(d, now)
		d.control.Yield(now)
		return
	}
	e.setApart(d)
	d.control.Yield(now)
	e.anew(d, c, now)
}

// rejoin has this gateway own a connection from now on. It is read from the next message that
// begins, as after Restore.
func (e *Editor) rejoin(d *dialogue, c *calls.Connection, now time.Time) {
	e.strike(d)
	if d.apart {
		d.apart = false
		e.apart--
	}
	d.control.TakeOver(now)
	e.anew(d, c, now)
	e.enroll(d)
	e.rank(d)
}

// Handover is one walk through connections, as those with a public address, that another gateway
// owns from now on, or this one does. Between two slices the editor may be used for anything
// but an audit.
type Handover struct {
	steps Audit
	of    func(*calls.Connection) bool
}

// Handover begins a walk through the connections for which of returns true.
func (e *Editor) Handover(of func(*calls.Connection) bool) *Handover {
	return &Handover{Audit{ed: e, records: len(e.all)}, of}
}

// Next visits at most so many of the connections on record. It returns those of the address
// that have calls and have a new owner, also if a segment has shown that before, and reports
// whether there are more to visit.
func (h *Handover) Next(most int, now time.Time) (moved []calls.Connection, more bool) {
	e := h.steps.ed
	more = h.steps.walk(&h.steps.records, most, func(d *dialogue) {
		c := d.control.Connection()
		if !h.of(&c) {
			return
		}
		is := e.settle(d, &c, now) || d.turned
		d.turned = false
		if is && d.index != removed && d.control.Busy() {
			moved = append(moved, d.control.Connection())
		}
	})
	return moved, more
}

// Unsure says whether calls may be unknown that the next segments are about, because the former owner
// of their connections has more to tell. Then no reply opens a call whose request was not seen, and a
// segment with a message about an unknown call is dropped, and read anew when it comes again.
func (e *Editor) Unsure(unsure bool) { e.unsure = unsure }

// retract drops the turn's segment if a call is unknown that may be known soon: its direction is as it
// was before.
func (e *Editor) retract(t *turn, before half) {
	if !slices.Contains(t.out.Anomalies, UnknownCall) {
		return
	}
	t.out.Verdict = Drop
	t.halves[t.sender] = before
	read := func(w ending) bool { return w.from == t.sender && w.until.After(t.first) }
	if late := slices.DeleteFunc(e.late[t.dialogue], read); len(late) > 0 {
		e.late[t.dialogue] = late
	} else {
		delete(e.late, t.dialogue)
	}
}

// anew forgets what was seen of a connection, but for what is known of it by other means.
func (e *Editor) anew(d *dialogue, c *calls.Connection, now time.Time) {
	delete(e.late, d)
	fresh := e.newDialogue(*c, now)
	fresh.control, fresh.index, fresh.links, fresh.apart, fresh.unseen = d.control, d.index, d.links, d.apart, true
	if d.pass == Helped {
		fresh.pass = Helped
	}
	*d = *fresh
}
