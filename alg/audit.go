package alg

import (
	"cmp"
	"slices"
	"time"

	"pptpalg/alg/calls"
)

// Audit is one audit: it compares the connections on record with those that the
// kernel's conntrack has. Each step goes through them a slice at a time, so that a packet
// that comes in between does not wait for long:
//
//	Compare ─► Standing ─► Found, for all of them that conntrack has ─► Missing
//	        ─► Revived, Keep ─► Sweep ─► EndIdle ─► Records
//
// Between two slices the editor may be used for anything except another Audit, which
// ends this one; Editor.Missing and Editor.Sweep begin one too. Connections that are opened
// in between are left out.
type Audit struct {
	ed    *Editor
	asked time.Duration
	pass  uint32
	some  []*dialogue // the connections to compare, if not all

	// How many connections each step still has to visit.
	standing, missing, sweep, idle, records int
}

// Compare begins an audit against what conntrack had at the time asked or later.
func (e *Editor) Compare(asked time.Time) *Audit {
	e.passes++
	n := len(e.all)
	return &Audit{ed: e, asked: e.since(asked), pass: e.passes, standing: n, missing: n, sweep: n, idle: n, records: n}
}

// Look begins an audit of some connections only, given by their original tuples. The
// caller sets Closing for a connection whose entry was closed when it left conntrack's
// table.
func (e *Editor) Look(at []calls.Connection, asked time.Time) *Audit {
	c := e.Compare(asked)
	for i := range at {
		if d := c.record(&at[i]); d != nil && !d.over {
			if d.closing == 0 && at[i].Closing && d.control.Same(at[i]) && !d.control.Followed() {
				d.closing = c.asked
			}
			c.some = append(c.some, d)
		}
	}
	slices.SortFunc(c.some, func(a, b *dialogue) int { return cmp.Compare(a.index, b.index) })
	c.some = slices.Compact(c.some)
	n := len(c.some)
	c.standing, c.missing, c.sweep, c.idle, c.records = n, n, n, n, n
	return c
}

// Doubted returns the connections with a FIN or RST that did not end them: conntrack may
// know more about these. Those whose last one came after settled come again with the next
// call, because conntrack sees a segment after the editor.
func (e *Editor) Doubted(settled time.Time) (all []calls.Connection) {
	at := e.since(settled)
	e.doubted = slices.DeleteFunc(e.doubted, func(d *dialogue) bool {
		if !d.over && !d.control.Followed() {
			all = append(all, d.control.Connection())
		}
		done := d.over || d.doubted < at
		if done {
			d.doubted = 0
		}
		return done
	})
	return all
}

func (e *Editor) doubt(d *dialogue, at time.Duration) {
	switch {
	case d.over:
		return
	case d.doubted == 0:
		e.doubted = append(e.doubted, d)
	}
	d.doubted = max(at, 1)
}

// Len is the number of connections of an audit that was just begun.
func (c *Audit) Len() int { return c.standing }

// Standing appends the living connections to known, and their calls to records. A caller
// that queries conntrack for each of these needs it; one that lists the whole table does not.
func (c *Audit) Standing(most int, known []calls.Connection, records []calls.Record) (_ []calls.Connection, _ []calls.Record, more bool) {
	more = c.walk(&c.standing, most, func(d *dialogue) {
		if !d.over {
			known = append(known, d.control.Connection())
			records = d.control.Records(records)
		}
	})
	return known, records, more
}

// Found records connections that conntrack has: some of them, or all.
func (c *Audit) Found(live []calls.Connection) {
	for i := range live {
		if d := c.record(&live[i]); d != nil {
			d.shown(&live[i], c.pass, c.asked)
		}
	}
}

// record returns the record with the same original tuple as conn.
func (c *Audit) record(conn *calls.Connection) *dialogue {
	s := c.ed.senders[c.ed.keyOf(conn, calls.Initiator)]
	if s.side != calls.Initiator {
		return nil
	}
	return s.dialogue
}

// shown records a conntrack entry with the connection's original tuple. With zones there
// may be several.
func (d *dialogue) shown(c *calls.Connection, pass uint32, asked time.Duration) {
	if d.found != pass {
		d.found, d.alive = pass, false
	}
	if !d.control.Same(*c) {
		return
	}
	if d.control.Followed() {
		d.stands(pass)
		return
	}
	believed := d.believes(c)
	switch {
	case !c.Closing:
		d.closing = 0
	case d.closing == 0:
		d.closing = asked
	}
	if !believed {
		d.control.Dispute(c.Closing)
		d.stands(pass)
	}
}

// stands lets the connection live on.
func (d *dialogue) stands(pass uint32) {
	d.found, d.alive = pass, true
	d.unseen, d.missed = false, false
}

// walk visits at most so many of the connections that a step still has ahead, and reports
// whether there are more. It goes from the last to the first: the place of a removed
// connection is taken by one behind it, which was visited already (and is visited again)
// or is newer than the audit.
func (c *Audit) walk(ahead *int, most int, visit func(*dialogue)) (more bool) {
	for ; *ahead > 0 && most > 0; most-- {
		if c.some != nil {
			*ahead--
			if d := c.some[*ahead]; d.index != removed {
				visit(d)
			}
			continue
		}
		*ahead = min(*ahead, len(c.ed.all)) - 1
		if *ahead >= 0 {
			visit(c.ed.all[*ahead])
		}
	}
	return *ahead > 0
}

// gone reports whether conntrack has no entry of a connection's tuple.
func (c *Audit) gone(d *dialogue) bool {
	return d.found != c.pass && d.opened < c.asked
}

// lacks reports whether conntrack does not have a connection as it was.
func (c *Audit) lacks(d *dialogue) bool {
	return d.opened < c.asked && !(d.found == c.pass && d.alive)
}

// Lost is a control connection that conntrack no longer has, although its end was not
// seen.
type Lost struct {
	Connection calls.Connection
	Calls      []calls.Record
	Unseen     bool // Restore took it up, and nothing of it was seen since: it may have ended before
	Again      bool // the audit before did not find it either
	Shot       bool // a RST was seen that was not believed, and nothing new was said since: it may have ended
	Followed   bool // another gateway owns it: Sweep does not end it, and its owner knows better whether it lives
}

// Witness tells what the editor does not see.
type Witness struct {
	Flowed   func(calls.Record) time.Time // when GRE of a call was last seen to flow; zero if never
	Moved    func(calls.Record) time.Time // the same, or when counting began; zero if nothing counts it
	Homeless func(calls.Connection) bool  // whether the address that NAT gave to an end is gone for good
}

// Missing returns connections with calls that Sweep will end as lost because conntrack has
// no entry of them. Revived and Keep prevent that. It visits at most so many connections;
// more reports whether there are others.
func (c *Audit) Missing(most int, w Witness, now time.Time) (lost []Lost, more bool) {
	at := c.ed.since(now)
	more = c.walk(&c.missing, most, func(d *dialogue) {
		switch {
		case d.over:
		case d.control.Followed():
			if d.control.Busy() && c.lacks(d) {
				lost = append(lost, Lost{Connection: d.control.Connection(), Calls: d.control.Records(nil), Again: d.missed, Followed: true})
				d.missed = true
			}
		case !c.gone(d):
			// The kernel does not delete a revived entry together with its address.
			d.alive = d.alive && !(d.revived && w.Homeless(d.control.Connection()))
		case d.closing > 0 && !d.carries(w, c.ed) || d.silent(at, w, c.ed):
			d.closing = at
		case d.control.Busy():
			lost = append(lost, Lost{Connection: d.control.Connection(), Calls: d.control.Records(nil), Unseen: d.unseen, Again: d.missed, Shot: d.shot})
			d.missed = true
		}
	})
	return lost, more
}

// Revived records that a lost connection has its entry again.
func (c *Audit) Revived(l *Lost) {
	if d := c.record(&l.Connection); d != nil {
		d.revived = true
		d.stands(c.pass)
	}
}

// Keep leaves a lost connection on record without an entry.
func (c *Audit) Keep(l *Lost) {
	if d := c.record(&l.Connection); d != nil {
		d.found, d.alive = c.pass, true
	}
}

// Sweep ends the connections that conntrack no longer has as they were, or has as closed,
// and forgets those that ended long ago. With its last slice it also advances the call
// table's time. The changes are valid until the editor is used again.
func (c *Audit) Sweep(most int, now time.Time) (changes []calls.Event, more bool) {
	at := c.ed.since(now)
	more = c.walk(&c.sweep, most, func(d *dialogue) {
		switch {
		case !c.lacks(d):
		case !d.control.Followed():
			c.ed.end(d, d.ending(), now)
		case !d.control.Busy():
			c.ed.discard(d, now)
		}
	})
	if !more {
		c.ed.forgetBefore(&c.ed.ended, at-linger)
		c.ed.forgetBefore(&c.ed.lost, at-lostLinger)
		c.ed.table.Expire(now)
	}
	return c.ed.table.Events(), more
}

// ending is the cause for a connection that conntrack no longer has as it was.
func (d *dialogue) ending() calls.Cause {
	if d.closing > 0 || !d.control.Busy() {
		return calls.Expired
	}
	return calls.Lost
}

// EndIdle ends the calls on connections that have been silent since a time, if their GRE
// has been silent too, which silent reports. The changes are valid until the editor is used
// again.
func (c *Audit) EndIdle(most int, since time.Time, silent func(calls.Record) bool, now time.Time) (changes []calls.Event, more bool) {
	at := c.ed.since(since)
	more = c.walk(&c.idle, most, func(d *dialogue) {
		if !d.over && !d.control.Followed() && d.heard < at {
			d.control.EndIf(silent, calls.Idle, now)
		}
	})
	return c.ed.table.Events(), more
}

// Records appends to records the calls whose flows are needed, other gateways' among them.
func (c *Audit) Records(most int, records []calls.Record) (_ []calls.Record, more bool) {
	more = c.walk(&c.records, most, func(d *dialogue) {
		if !d.over {
			records = d.control.Records(records)
		}
	})
	return records, more
}

// Sweep is Audit.Sweep in one slice. live is what conntrack had at the time asked or
// later.
func (e *Editor) Sweep(live []calls.Connection, asked, now time.Time) []calls.Event {
	c := e.Compare(asked)
	c.Found(live)
	changes, _ := c.Sweep(len(e.all), now)
	return changes
}
