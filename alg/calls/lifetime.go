package calls

import (
	"slices"
	"time"

	"pptpalg/alg/pptp"
)

// open enters a call that an end requests under the ID that it was assigned. Every call is
// opened here, whatever message opens it, except those that Resume takes up.
func (c *Control) open(requester, pns Side, a assignment, now time.Time) bool {
	if !a.admitted && c.admit(requester) != NoneRefused {
		c.release(requester, a)
		return false
	}
	c.enlist(requester, requester, pns, a, now)
	return true
}

// enlist enters a call that payer was admitted for.
func (c *Control) enlist(requester, payer, pns Side, a assignment, now time.Time) {
	c.table.admitted--
	call := c.add(Call{number: c.table.nextNumber(), asker: requester, payer: payer, pns: pns, since: sinceOf(now)})
	c.table.attach(call, requester, a, now)
	c.table.note(Opened, call)
}

// add enters a call without legs.
func (c *Control) add(of Call) *Call {
	call := &of
	call.control = c
	if !c.followed {
		call.client = c.client(of.payer)
	}
	c.enter(call)
	return call
}

// attach gives an assigned ID to a leg of a call, and installs its flow. If a call of the
// same connection has the ID, its end has forgotten that call: it is replaced.
func (t *Table) attach(call *Call, s Side, a assignment, now time.Time) {
	if l := &call.legs[s]; l.known && l.own == a.own && l.public == a.public {
		return
	}
	c := call.control
	for _, old := range []*leg{c.leg(s, a.public), c.ownLeg(s, a.own)} {
		if old != nil && old.known && old.call != call {
			t.replace(old, a.public, now)
		}
	}
	t.place(call, s, a)
}

// replace ends the call of a leg. A public ID that the next call inherits does not rest.
func (t *Table) replace(old *leg, public pptp.CallID, now time.Time) {
	if old.call.state != Clearing {
		t.withdrawAll(old.call)
		t.close(old.call, Replaced)
	}
	if old.public == public {
		t.displace(old)
	}
	t.forget(old.call, now)
}

// place enters a leg into the indexes.
func (t *Table) place(call *Call, s Side, a assignment) {
	l := &call.legs[s]
	*l = leg{call: call, own: a.own, public: a.public, side: s, known: true}
	c := call.control
	c.index.add(l)
	c.uses(l, 1)
	t.leaving[c.connection.leaving(s, a.own)]++
	t.hold(l)
	if call.state != Clearing {
		t.enlist(l)
	}
}

// displace undoes place. The leg's public ID is still taken.
func (t *Table) displace(l *leg) {
	c := l.call.control
	if l.call.state != Clearing {
		t.withdraw(l)
	}
	t.unhold(l)
	out := c.connection.leaving(l.side, l.own)
	if t.leaving[out]--; t.leaving[out] == 0 {
		delete(t.leaving, out)
	}
	c.uses(l, -1)
	c.index.remove(l)
	l.known = false
}

// enlist installs the flow of a leg. If the flow of another leg enters alike, the first leg
// keeps it until it ends.
func (t *Table) enlist(l *leg) {
	key := l.entering()
	if t.entering[key] != nil {
		t.behind[key] = append(t.behind[key], l)
		return
	}
	t.entering[key] = l
	t.flows(Install, l)
}

// withdraw removes the flow.
func (t *Table) withdraw(l *leg) {
	key := l.entering()
	next := t.next(key, l)
	switch {
	case t.entering[key] != l:
	case next == nil:
		delete(t.entering, key)
		t.flows(Remove, l)
	default:
		t.entering[key] = next
		if next.flow() != l.flow() {
			t.flows(Remove, l)
			t.flows(Install, next)
		}
	}
}

// next takes a leg off the list of those that wait behind another. If it is the first, it
// returns the one behind it.
func (t *Table) next(key legKey, l *leg) (next *leg) {
	waiting := t.behind[key]
	if len(waiting) == 0 {
		return nil
	}
	at := 0
	if t.entering[key] != l {
		at = slices.Index(waiting, l)
	}
	next = waiting[at]
	if t.behind[key] = slices.Delete(waiting, at, at+1); len(waiting) == 1 {
		delete(t.behind, key)
	}
	return next
}

func (t *Table) flows(kind EventKind, l *leg) {
	t.events = append(t.events, Event{Kind: kind, Flow: l.flow()})
}

// detach takes the ID from a leg; the ID then rests.
func (t *Table) detach(l *leg, now time.Time) {
	if !l.known {
		return
	}
	t.displace(l)
	if c := l.call.control; c.spaced(l.side) && l.public != 0 {
		t.layDown(&rest{key: c.connection.space(l.side), owner: c.connection.address(l.side), id: l.public, until: now.Add(t.cfg.Rest)})
	}
}

// clear removes a call's flows and leaves its IDs.
func (t *Table) clear(call *Call, cause Cause, now time.Time) {
	if call.state == Clearing {
		return
	}
	t.withdrawAll(call)
	t.close(call, cause)
	t.await(call, now)
}

func (t *Table) withdrawAll(call *Call) {
	for s := range call.legs {
		if l := &call.legs[s]; l.known {
			t.withdraw(l)
		}
	}
}

// await lets a call that is being cleared wait for its Call-Disconnect-Notify.
func (t *Table) await(call *Call, now time.Time) {
	t.clearing.push(clearingCall{call, now.Add(clearingTime)})
	call.client.clearing.push(call)
	t.bound(call.client, now)
}

// bound limits the calls that a client is clearing to the number of calls that it may have.
// It ends those that were cleared first.
func (t *Table) bound(cl *client, now time.Time) {
	for call, ok := cl.clearing.first(); ok; call, ok = cl.clearing.first() {
		waits := call.index >= 0 && !call.control.followed
		if waits && cl.clearing.len() <= t.cfg.CallsPerClient {
			return
		}
		if cl.clearing.drop(); waits {
			t.forget(call, now)
		}
	}
}

// close has a call, whose flows are gone, be one that is cleared.
func (t *Table) close(call *Call, cause Cause) {
	call.control.closed(call)
	call.state = Clearing
	call.charge(-1)
	t.events = append(t.events, Event{Kind: Closed, Call: call.record(), Cause: cause})
}

// end removes a call with everything that it has.
func (t *Table) end(call *Call, cause Cause, now time.Time) {
	if call.state != Clearing {
		t.withdrawAll(call)
		t.close(call, cause)
	}
	t.forget(call, now)
}

// forget takes the call out of the table. It may be called twice.
func (t *Table) forget(call *Call, now time.Time) {
	if call.index < 0 {
		return
	}
	t.note(Gone, call)
	for s := range call.legs {
		t.detach(&call.legs[s], now)
	}
	call.control.leave(call)
}
