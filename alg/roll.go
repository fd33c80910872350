package alg

import (
	"net/netip"
	"time"

	"pptpalg/alg/calls"
)

// roll is the living connections in the order in which they give way when too many are on
// record: first those that have not finished the Start exchange, then those without calls,
// the oldest of each first. A connection with calls never gives way.
type roll struct {
	which   int // of dialogue.links
	waiting list
	started list
}

// The rolls that a connection stands in.
const (
	everyones = iota
	origins   // those with one initiator
	rolls
)

// list is a list of dialogues through one of their links.
type list struct{ first, last *dialogue }

type neighbours struct{ before, behind *dialogue }

func (r *roll) of(d *dialogue) *list {
	if d.started {
		return &r.started
	}
	return &r.waiting
}

func (r *roll) add(d *dialogue) {
	l := r.of(d)
	d.links[r.which] = neighbours{before: l.last}
	if l.last == nil {
		l.first = d
	} else {
		l.last.links[r.which].behind = d
	}
	l.last = d
}

func (r *roll) remove(d *dialogue) {
	l, at := r.of(d), d.links[r.which]
	if at.before == nil {
		l.first = at.behind
	} else {
		at.before.links[r.which].behind = at.behind
	}
	if at.behind == nil {
		l.last = at.before
	} else {
		at.behind.links[r.which].before = at.before
	}
	d.links[r.which] = neighbours{}
}

// mostTried bounds the search for a connection without calls. The search moves connections
// with calls to the end, so that the next one begins behind them.
const mostTried = 64

// gives returns the connection that gives way, or nil.
func (r *roll) gives() *dialogue {
	for _, l := range []*list{&r.waiting, &r.started} {
		for range mostTried {
			d := l.first
			if d == nil {
				break
			}
			if !d.control.Busy() {
				return d
			}
			r.remove(d)
			r.add(d)
		}
	}
	return nil
}

// origin is the connections of one initiator.
type origin struct {
	roll
	live int
}

// initiator is who opens connections: an address, in the zone of its packets.
type initiator struct {
	addr netip.Addr
	zone uint16
}

func initiatorOf(c *calls.Connection) initiator {
	return initiator{c.Original.Src.Addr(), c.ZoneOf(calls.Initiator)}
}

func (d *dialogue) initiator() initiator {
	c := d.control.Connection()
	return initiatorOf(&c)
}

// enroll enters a living connection.
func (e *Editor) enroll(d *dialogue) {
	a := d.initiator()
	o := e.origins[a]
	if o == nil {
		o = &origin{roll: roll{which: origins}}
		e.origins[a] = o
	}
	o.live++
	e.everyone.add(d)
	o.add(d)
}

// strike undoes enroll.
func (e *Editor) strike(d *dialogue) {
	if d.apart {
		return
	}
	a := d.initiator()
	o := e.origins[a]
	e.everyone.remove(d)
	o.remove(d)
	if o.live--; o.live == 0 {
		delete(e.origins, a)
	}
}

// rank records whether the connection has finished the Start exchange. A connection that
// was joined later counts as if it had.
func (e *Editor) rank(d *dialogue) {
	if d.started || d.over || d.apart || d.halves[0].reader.first != 0 || d.halves[1].reader.first != 0 {
		return
	}
	o := e.origins[d.initiator()]
	e.everyone.remove(d)
	o.remove(d)
	d.started = true
	e.everyone.add(d)
	o.add(d)
}

// share is the maximum number of connections of one initiator on record, so that others
// find room whatever one initiator does.
func (e *Editor) share() int { return max(1, e.most/2) }

// makeRoom makes room for a connection of an initiator, and reports false if it cannot. A
// connection that gave way is put on record again, without its beginning, when a segment of
// it comes and there is room.
func (e *Editor) makeRoom(by initiator, now time.Time) bool {
	if o := e.origins[by]; o != nil && o.live >= e.share() && !e.evict(&o.roll, now) {
		return false
	}
	return len(e.all)-e.apart < e.most || e.forget() || e.evict(&e.everyone, now)
}

func (e *Editor) evict(r *roll, now time.Time) bool {
	d := r.gives()
	if d == nil {
		return false
	}
	e.evicted++
	e.end(d, calls.Expired, now)
	e.remove(d)
	return true
}

// Evicted returns how many connections have given way since the editor began.
func (e *Editor) Evicted() uint64 { return e.evicted }
