package calls

import (
	"slices"
	"time"

	"pptpalg/alg/pptp"
)

// Gateways that share their calls each have the calls of all of them in their tables, and the
// flows in their data paths. So another gateway can go on with a call whose gateway dies. A
// public address has one owner at a time, and so have the calls on connections that NAT gives
// this address: the owner alone opens and ends them. The others follow: to a followed call
// happens what its owner says, and nothing else.

// holding is a public ID in its space.
type holding struct {
	spaceKey
	id pptp.CallID
}

// holding returns where the public ID of a leg lies, false if it is one that its end has
// chosen.
func (c *Control) holding(s Side, public pptp.CallID) (holding, bool) {
	return holding{c.connection.space(s), public}, c.spaced(s) && public != 0
}

// Followed reports whether another gateway owns the connection's calls.
func (c *Control) Followed() bool { return c.followed }

// Has reports whether the connection has a call of a number.
func (c *Control) Has(number uint64) bool {
	return c.numbered(number) != nil
}

// Followed returns how many calls of other gateways are requested, answered or established.
func (t *Table) Followed() int { return t.foreign }

// Yield has another gateway own the connection and its calls from now on. The connection does
// not count as Opening any more: what passes of its beginning passes there. If a followed call
// has the number of one of its calls, that one is forgotten.
func (c *Control) Yield(now time.Time) {
	if c.followed {
		return
	}
	c.Abandon(Initiator)
	c.Abandon(Responder)
	for i, call := range c.calls {
		if int32(i) < c.live {
			call.charge(-1)
		}
		call.client = nil
	}
	c.followed, c.connection.opening = true, false
	for i, call := range c.calls {
		if int32(i) < c.live {
			call.charge(1)
		}
		c.table.Forget(call.number, now, now)
		c.table.follow(call)
		c.table.note(Followed, call)
	}
}

// TakeOver has this gateway own the connection and its calls from now on. They count as if
// they had been opened here, whatever the limits are.
func (c *Control) TakeOver(now time.Time) {
	if !c.followed {
		return
	}
	all := slices.Clone(c.calls) // a limit may end calls that are being cleared
	for _, call := range all {
		c.table.unfollow(call)
	}
	c.table.foreign -= int(c.live)
	c.followed = false
	for _, call := range all {
		call.client = c.client(call.payer)
		c.table.note(TakenOver, call)
		if call.state == Clearing {
			c.table.await(call, now)
		} else {
			call.charge(1)
		}
	}
}

// follow enters a call and its public IDs into the indexes of followed ones.
func (t *Table) follow(call *Call) {
	t.followed[call.number] = call
	for s := range call.legs {
		t.hold(&call.legs[s])
	}
}

// unfollow undoes follow.
func (t *Table) unfollow(call *Call) {
	delete(t.followed, call.number)
	for s := range call.legs {
		t.unhold(&call.legs[s])
	}
}

func (t *Table) hold(l *leg) {
	if !l.known || !l.call.control.followed {
		return
	}
	if h, lies := l.call.control.holding(l.side, l.public); lies {
		t.holders[h] = l
	}
}

func (t *Table) unhold(l *leg) {
	if !l.known || !l.call.control.followed {
		return
	}
	if h, lies := l.call.control.holding(l.side, l.public); lies && t.holders[h] == l {
		delete(t.holders, h)
	}
}

// Follow records what the owner of a call says of it. It replaces whatever is known of the
// call. Another followed call that has one of its IDs has ended, though its owner has not said
// so yet: it is forgotten, and the ID does not rest. But owners may write late that a call is
// being cleared: then it is the record's call that is forgotten. Flows that go on as they were
// are not told. No limit counts.
//
// Follow reports false, and changes nothing, if the connection is not followed, or if an ID
// is in use by a call of this gateway, or reserved.
func (c *Control) Follow(r Record, now time.Time) bool {
	t := c.table
	inWay, free := c.inWay(&r)
	if !free {
		return false
	}
	if slices.ContainsFunc(inWay, r.after) {
		t.Forget(r.Number, now, now)
		return true
	}
	from := len(t.events)
	heirs := c.heirs(&r)
	for _, h := range heirs {
		if sp := t.spaces[h.spaceKey]; sp != nil && t.holders[h] == nil {
			t.rouse(sp, h.id)
		}
	}
	for _, old := range inWay {
		if old.index < 0 {
			continue // it was named twice
		}
		if old.number != r.Number {
			t.note(Forgotten, old)
		}
		t.forsake(old, heirs, now)
	}
	c.connection.mark, c.connection.closing = r.Connection.Mark, r.Connection.Closing
	call := c.enterRecord(&r)
	t.followed[r.Number] = call
	t.note(Followed, call)
	t.settle(from)
	return true
}

// Adopt puts a call on record of which the connection's former owner tells late, or puts it right if that one
// has told no more than that it was requested, or answered. A request that passed there and then came here again,
// by TCP, is one call: the former owner's, which its receiver knows. Adopt reports false, and changes nothing, if
// the connection knows as much, or if another call has one of its IDs.
func (c *Control) Adopt(r Record, now time.Time) bool {
	t := c.table
	old := c.numbered(r.Number)
	if old != nil && (old.state >= Established || old.state >= r.State) {
		return false
	}
	again := c.repetition(&r)
	for s, l := range r.Legs {
		if s := Side(s); l.Known && !old.has(s, l) && !c.free(s, l, again) && !c.restsAlone(s, l, again) {
			return false
		}
	}
	from, heirs := len(t.events), c.heirs(&r)
	if old != nil {
		t.forsake(old, heirs, now)
	}
	if again != nil {
		t.replace(&again.legs[r.Asker], r.Legs[r.Asker].Public, now)
	}
	for _, h := range heirs {
		if sp := t.spaces[h.spaceKey]; sp != nil {
			t.rouse(sp, h.id)
		}
	}
	call := c.enterRecord(&r)
	if call.state == Clearing {
		t.await(call, now)
	}
	t.note(TakenOver, call)
	t.settle(from)
	return true
}

// numbered returns the call of a number, nil if the connection has none.
func (c *Control) numbered(number uint64) *Call {
	if i := slices.IndexFunc(c.calls, func(call *Call) bool { return call.number == number }); i >= 0 {
		return c.calls[i]
	}
	return nil
}

// has reports whether a call, which may be nil, has a leg with these IDs.
func (call *Call) has(s Side, l LegRecord) bool {
	return call != nil && call.legs[s].known && call.legs[s].own == l.Own && call.legs[s].public == l.Public
}

// heirs returns the public IDs that a record's call is about to have.
func (c *Control) heirs(r *Record) (all [2]holding) {
	for s, l := range r.Legs {
		if h, lies := c.holding(Side(s), l.Public); l.Known && lies {
			all[s] = h
		}
	}
	return all
}

// repetition returns the call that was requested by the same words as a record's, and is not answered; nil if there
// is none.
func (c *Control) repetition(r *Record) *Call {
	asked := r.Legs[r.Asker]
	l := c.ownLeg(r.Asker, asked.Own)
	if !asked.Known || l == nil || l.call.number == r.Number || l.call.state != Requested || l.call.asker != r.Asker {
		return nil
	}
	return l.call
}

// restsAlone reports whether the public ID of a leg rests, and no call but one has the leg's IDs.
func (c *Control) restsAlone(s Side, l LegRecord, but *Call) bool {
	h, lies := c.holding(s, l.Public)
	if !lies || !c.leg(s, l.Public).goes(but) || !c.ownLeg(s, l.Own).goes(but) {
		return false
	}
	sp := c.table.spaces[h.spaceKey]
	return sp != nil && sp.rests(h.id) != nil
}

// after reports whether a call that has one of the record's IDs came after the record's. Of
// two calls of one slot, the number tells.
func (r *Record) after(call *Call) bool {
	return call.number != r.Number &&
		(r.State == Clearing || call.number>>slotShift == r.Number>>slotShift && call.number > r.Number)
}

// inWay returns the followed calls that have the number of a record or one of its IDs, and
// false if something else has one of them.
func (c *Control) inWay(r *Record) (all []*Call, free bool) {
	t := c.table
	if !c.followed {
		return nil, false
	}
	if call := t.followed[r.Number]; call != nil {
		all = append(all, call)
	}
	for i, l := range r.Legs {
		s := Side(i)
		if !l.Known {
			continue
		}
		for _, other := range []*leg{c.leg(s, l.Public), c.ownLeg(s, l.Own)} {
			if other != nil {
				all = append(all, other.call)
			}
		}
		h, lies := c.holding(s, l.Public)
		if !lies {
			continue
		}
		if other := t.holders[h]; other != nil {
			all = append(all, other.call)
		} else if sp := t.spaces[h.spaceKey]; sp != nil && sp.has(h.id) && sp.rests(h.id) == nil {
			return nil, false
		}
	}
	return all, true
}

// Forget removes a followed call that is gone at its owner since a time, from which on its
// public IDs rest. It returns the call's connection, or nil if there is no such call.
func (t *Table) Forget(number uint64, at, now time.Time) *Control {
	t.numbered(number)
	call := t.followed[number]
	if call == nil {
		return nil
	}
	if at.After(now) {
		at = now // the owner's clock is ahead
	}
	t.note(Forgotten, call)
	t.forsake(call, [2]holding{}, at)
	return call.control
}

// forsake takes a followed call out of the table. Its public IDs rest from a time on, but for
// those that have heirs.
func (t *Table) forsake(call *Call, heirs [2]holding, at time.Time) {
	c := call.control
	for s := range call.legs {
		l := &call.legs[s]
		if h, lies := c.holding(l.side, l.public); l.known && lies && slices.Contains(heirs[:], h) {
			t.displace(l)
		} else {
			t.detach(l, at)
		}
	}
	delete(t.followed, call.number)
	if call.state != Clearing {
		call.charge(-1)
		c.closed(call)
	}
	c.leave(call)
}

// charge counts a living call, or, with -1, uncounts it.
func (call *Call) charge(n int) {
	t := call.control.table
	if call.control.followed {
		t.foreign += n
		return
	}
	t.calls += n
	call.client.calls += n
}

// settle leaves out of the events from an index on the flows that are removed and then
// installed as they were.
func (t *Table) settle(from int) {
	some := t.events[from:]
	for i := 0; i < len(some); i++ {
		if some[i].Kind != Remove {
			continue
		}
		key, rest := keyOf(some[i].Flow), some[i+1:]
		next := slices.IndexFunc(rest, func(e Event) bool { return e.Kind <= Remove && keyOf(e.Flow) == key })
		if next >= 0 && rest[next].Kind == Install && rest[next].Flow == some[i].Flow {
			some = slices.Delete(some, i+1+next, i+2+next)
			some = slices.Delete(some, i, i+1)
			i--
		}
	}
	t.events = t.events[:from+len(some)]
}
