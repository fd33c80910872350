package alg

import (
	"net/netip"
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
// and those that NAT does not touch. Without it, all are. When the answer changes for a
// public address, the caller must call Drop or Rejoin before it uses the editor otherwise.
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
	d = newDialogue(*c, e.since(now))
	d.control = e.table.Open(*c)
	d.control.Yield()
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

// Follows reports whether a connection with calls is on record that another gateway owns.
func (e *Editor) Follows(c *calls.Connection) bool {
	d := e.senders[e.keyOf(c, calls.Initiator)].dialogue
	return d != nil && !d.over && d.control.Followed() && d.control.Busy() && d.control.Same(*c)
}

// Drop has another gateway own the connections with a public address from now on. It returns
// those with calls, which are followed now. What was seen of their streams is forgotten.
func (e *Editor) Drop(public netip.Addr, now time.Time) (dropped []calls.Connection) {
	e.having(public, func(d *dialogue, c calls.Connection) {
		switch {
		case d.control.Followed():
		case d.over, !d.control.Busy():
			e.discard(d, now)
		default:
			e.setApart(d)
			d.control.Yield()
			e.anew(d, &c, now)
			dropped = append(dropped, d.control.Connection())
		}
	})
	return dropped
}

// Rejoin has this gateway own the connections with a public address from now on. It returns
// those with calls. They are read from the next message that begins, as after Restore.
func (e *Editor) Rejoin(public netip.Addr, now time.Time) (joined []calls.Connection) {
	e.having(public, func(d *dialogue, c calls.Connection) {
		if !d.control.Followed() {
			return
		}
		if d.control.Busy() {
			joined = append(joined, c)
		}
		e.strike(d)
		if d.apart {
			d.apart = false
			e.apart--
		}
		d.control.TakeOver(now)
		e.anew(d, &c, now)
		e.enroll(d)
		e.rank(d)
	})
	return joined
}

// having visits the connections with a public address. visit may remove the one that it is
// given.
func (e *Editor) having(public netip.Addr, visit func(*dialogue, calls.Connection)) {
	for i := len(e.all) - 1; i >= 0; i-- { // the place of a removed one is taken by one that was visited
		d := e.all[i]
		c := d.control.Connection()
		if p, shared := c.Public(); shared && p == public {
			visit(d, c)
		}
	}
}

// anew forgets what was seen of a connection, but for what is known of it by other means.
func (e *Editor) anew(d *dialogue, c *calls.Connection, now time.Time) {
	delete(e.late, d)
	fresh := newDialogue(*c, e.since(now))
	fresh.control, fresh.index, fresh.links, fresh.apart, fresh.unseen = d.control, d.index, d.links, d.apart, true
	if d.pass == Helped {
		fresh.pass = Helped
	}
	*d = *fresh
}
