package calls

import (
	"time"

	"pptpalg/alg/pptp"
)

// clearingTime is how long the IDs of a cleared call are still translated: time
// for the Call-Disconnect-Notify. Many servers never send it.
const clearingTime = time.Minute

// Table is the call table. It is not safe for concurrent use.
type Table struct {
	cfg    Config
	now    time.Time // of the last Tick
	spaces map[spaceKey]*space
	crowd  crowd // of spaces

	// The legs whose flows are translated, by where these enter the gateway (sender's
	// address, receiver's public address, public ID): the first of those that enter alike,
	// and those behind it. There are others only if a peer gives one ID to two connections
	// of one host.
	entering map[legKey]*leg
	behind   map[legKey][]*leg
	// How many legs' GRE leaves alike (receiver's address, sender's public address, own ID).
	leaving map[legKey]int32

	followed map[uint64]*Call // calls of other gateways, by number
	holders  map[holding]*leg // of these, by their public IDs
	foreign  int              // of these, those that are not being cleared

	clients  map[clientKey]*client // who requests calls
	calls    int                   // neither clearing nor ended; with those admitted
	admitted int                   // and not open yet
	opened   map[uint8]uint64      // by slot: the highest number of a call, without the slot
	resting  restHeap
	clearing queue[clearingCall]
	events   []Event
}

type spaceKey struct {
	public, peer [4]byte
	zone         uint16
}

type legKey struct {
	a, b [4]byte
	id   pptp.CallID
	zone uint16
}

type clearingCall struct {
	call  *Call
	until time.Time
}

// New returns an empty table.
func New(cfg Config) *Table {
	return &Table{
		cfg:      cfg,
		spaces:   make(map[spaceKey]*space),
		entering: make(map[legKey]*leg),
		behind:   make(map[legKey][]*leg),
		leaving:  make(map[legKey]int32),
		followed: make(map[uint64]*Call),
		holders:  make(map[holding]*leg),
		clients:  make(map[clientKey]*client),
		opened:   make(map[uint8]uint64),
	}
}

// SetConfig changes all of the configuration except Random, Slot and Share. Calls beyond a
// lower limit stay up, and resting IDs keep their time: the new values count for new calls
// and IDs.
func (t *Table) SetConfig(cfg Config) {
	cfg.Random, cfg.Slot, cfg.Share = t.cfg.Random, t.cfg.Slot, t.cfg.Share
	t.cfg = cfg
}

// Tick advances the table's time, for the limits on rates.
func (t *Table) Tick(now time.Time) { t.now = now }

// Calls returns how many calls of this gateway are requested, answered or established.
func (t *Table) Calls() int { return t.calls - t.admitted }

// Events returns what happened since the last call of Events, oldest first. The slice is
// valid until the table is used again.
func (t *Table) Events() []Event {
	events := t.events
	t.events = reuse(t.events)
	return events
}

// few is the capacity that is kept between packets. After a restart, or when all calls end
// at once, there are as many changes as calls; room for those would stay for ever.
const few = 1024

func reuse[T any](s []T) []T {
	if cap(s) > few {
		return nil
	}
	return s[:0]
}

// Expire frees the IDs that have rested, and ends the calls whose clearing was not
// answered.
func (t *Table) Expire(now time.Time) {
	for c, ok := t.clearing.first(); ok && !now.Before(c.until); c, ok = t.clearing.first() {
		t.clearing.drop()
		if c.call.state == Clearing && !c.call.control.followed {
			t.forget(c.call, now)
		}
	}
	for len(t.resting) > 0 && !now.Before(t.resting[0].until) {
		t.wake(t.resting[0])
	}
	t.forgetClients(now)
}

func (t *Table) free(k spaceKey, id pptp.CallID) {
	s := t.spaces[k]
	if s == nil {
		return
	}
	if s.release(id); s.taken == 0 {
		delete(t.spaces, k)
	}
}

func (t *Table) space(k spaceKey) *space {
	s := t.spaces[k]
	if s == nil {
		s = newSpace(&t.crowd, t.cfg.Share)
		t.spaces[k] = s
	}
	return s
}

func (t *Table) note(kind EventKind, c *Call) {
	t.events = append(t.events, Event{Kind: kind, Call: c.record()})
}

// space names the space in which the public IDs of an end lie. Its zone is that of the
// packets that carry them.
func (p *packed) space(s Side) spaceKey {
	return spaceKey{p.public(s), p.address(s.Other()), p.zoneOf(s.Other())}
}

// entering is how the leg's flow enters the gateway.
func (l *leg) entering() legKey {
	p := &l.call.control.connection
	return legKey{p.address(l.side.Other()), p.public(l.side), l.public, p.zoneOf(l.side.Other())}
}

// leaving is how the leg's flow leaves, with the zone of the network that it goes to.
func (p *packed) leaving(s Side, own pptp.CallID) legKey {
	return legKey{p.address(s), p.public(s.Other()), own, p.zoneOf(s)}
}
