package conntrack

import "time"

// attach gives an assigned ID to a leg of a call, and its GRE a way. Whatever had
// the place of the new flow in the kernel's table is a call that its endpoint has
// forgotten: it is replaced.
func (t *Table) attach(call *Call, s Side, a assignment, now time.Time) {
	c := call.control
	l := &call.legs[s]
	if l.known && l.own == a.own && l.public == a.public {
		return
	}
	*l = leg{call: call, own: a.own, public: a.public, side: s, known: true}
	t.touch(call)
	in, out := c.connection.entering(s, a.public), c.connection.leaving(s, a.own)
	for _, old := range []*leg{t.entering[in], t.leaving[out]} {
		if old != nil && old.call != call {
			t.replace(old, l, now)
		}
	}
	t.entering[in], t.leaving[out] = l, l
	if call.state != Clearing && c.connection.translated() {
		t.note(Change{Kind: Install, Flow: l.flow()})
	}
}

// replace ends the call of a leg whose place a new leg takes. A public ID that the
// new leg inherits does not rest.
func (t *Table) replace(old, by *leg, now time.Time) {
	if !old.known {
		return // ended already, by the other index
	}
	inherits := old.call.control == by.call.control && old.side == by.side && old.public == by.public
	if inherits {
		delete(t.entering, old.call.control.connection.entering(old.side, old.public))
		delete(t.leaving, old.call.control.connection.leaving(old.side, old.own))
		old.known = false
	}
	t.end(old.call, Replaced, now)
}

// detach takes a leg's ID away from it.
func (t *Table) detach(l *leg, now time.Time) {
	if !l.known {
		return
	}
	c := &l.call.control.connection
	if l.call.state != Clearing && c.translated() {
		t.note(Change{Kind: Remove, Flow: l.flow()})
	}
	delete(t.entering, c.entering(l.side, l.public))
	delete(t.leaving, c.leaving(l.side, l.own))
	l.known = false
	if l.call.control.spaced(l.side) {
		t.resting.push(restingID{c.space(l.side), l.public, now.Add(t.cfg.Rest)})
	}
}

// clear takes a call's GRE away and leaves its IDs.
func (t *Table) clear(call *Call, cause Cause, now time.Time) {
	if call.state == Clearing {
		return
	}
	for s := range call.legs {
		if l := &call.legs[s]; l.known && call.control.connection.translated() {
			t.note(Change{Kind: Remove, Flow: l.flow()})
		}
	}
	t.count(call, cause)
	t.clearing.push(clearingCall{call, now.Add(clearingTime)})
}

// count closes a call for those who count.
func (t *Table) count(call *Call, cause Cause) {
	call.state = Clearing
	t.touch(call)
	t.calls--
	call.client.calls--
	t.note(Change{Kind: Closed, Call: call.number, Cause: cause})
}

// end removes a call with all it has.
func (t *Table) end(call *Call, cause Cause, now time.Time) {
	alive := call.state != Clearing
	t.forget(call, now)
	if alive {
		t.count(call, cause)
	}
}

// forget takes the call out of the table. It may be asked twice.
func (t *Table) forget(call *Call, now time.Time) {
	for s := range call.legs {
		t.detach(&call.legs[s], now)
	}
	c := call.control
	if call.index < 0 {
		return
	}
	last := len(c.calls) - 1
	c.calls[call.index] = c.calls[last]
	c.calls[call.index].index = call.index
	c.calls[last] = nil
	c.calls = c.calls[:last]
	call.index = -1
	t.touch(call)
}
