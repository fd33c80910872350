package conntrack

import (
	"time"

	"pptpalg/alg/pptp"
)

// Control is a control connection and the calls on it.
//
// Its methods name the sender of the message they serve. They never look at the
// type of a message or at who opened TCP: the sender's own ID goes to its public
// form, the receiver's comes back from its public form to its own.
type Control struct {
	table      *Table
	connection packed
	calls      []*Call
	pages      []pagePair    // first bytes that are promised
	local      [2]bool       // ends that are the gateway's own, by Side
	pending    [2]assignment // IDs assigned by messages still being read, by Side
}

// pagePair is a promise: on this connection IDs of one end that begin with the byte
// own have public forms that begin with the byte public.
type pagePair struct {
	side        Side
	own, public byte
}

// assignment is a public form that was chosen and not yet given to a call.
type assignment struct {
	own, public pptp.CallID
	ready       bool // both IDs are chosen
	reserved    bool // public is taken in the space
	refused     Refusal
}

// Open adds a control connection to the table.
func (t *Table) Open(c Connection) *Control { return &Control{table: t, connection: pack(c)} }

// Connection returns what was known of the connection when it was opened, but for its
// helper.
func (c *Control) Connection() Connection { return c.connection.unpack() }

// Same reports whether a connection is the one that was opened, as Connection.Same has it.
func (c *Control) Same(o Connection) bool {
	p := pack(o)
	return c.connection.original == p.original && c.connection.reply == p.reply && c.connection.zone == p.zone
}

// SetLocal says that one end is the gateway itself. Its IDs cannot be translated,
// as no address of it is, but they lie in the same space as those of the hosts
// behind the gateway's address and must not be given to one of these.
func (c *Control) SetLocal(s Side) { c.local[s] = true }

// Calls appends to views those calls of the connection that have not ended.
func (c *Control) Calls(views []View) []View {
	for _, call := range c.calls {
		if call.state != Clearing {
			views = append(views, call.view())
		}
	}
	return views
}

// Close ends the connection and all its calls.
func (c *Control) Close(cause Cause, now time.Time) {
	c.Abandon(Initiator)
	c.Abandon(Responder)
	for len(c.calls) > 0 {
		c.table.end(c.calls[len(c.calls)-1], cause, now)
	}
}

// EndIf ends those calls of the connection for which over holds.
func (c *Control) EndIf(over func(Record) bool, cause Cause, now time.Time) {
	for i := len(c.calls) - 1; i >= 0; i-- { // an ended call's place is taken by the last
		if call := c.calls[i]; call.state != Clearing && over(call.record()) {
			c.table.end(call, cause, now)
		}
	}
}

// Request opens a call that the sender asks for under its own ID, which must have
// been assigned. It replaces a call of the sender that has this ID. false means
// that no public form could be had, and that the call is none of the table's.
func (c *Control) Request(sender, pns Side, own pptp.CallID, now time.Time) bool {
	a, ok := c.assigned(sender, own)
	if !ok {
		return false
	}
	call := c.add(sender, pns, now)
	c.table.note(Change{Kind: Opened, Call: call.number})
	c.table.attach(call, sender, a, now)
	return true
}

// add enters a call without legs.
func (c *Control) add(requester, pns Side, since time.Time) *Call {
	c.table.opened++
	call := &Call{control: c, index: int32(len(c.calls)), number: c.table.opened, pns: pns, since: since}
	call.client = c.table.client(c.connection.address(requester))
	call.client.calls++
	c.calls = append(c.calls, call)
	c.table.calls++
	return call
}

// Reply is what the sender answers to a call that the receiver requested.
type Reply struct {
	PNS       Side
	Own, Peer pptp.CallID // as the sender wrote them
	Granted   bool        // result code 1
	Next      State       // of a granted call
}

// Reply grants or refuses a call. The sender's own ID must have been assigned.
//
// A grant of a call whose request was not seen opens it here, if the receiver's
// public ID is free: a request that was not seen was not translated either.
func (c *Control) Reply(sender Side, r Reply, now time.Time) bool {
	a, assigned := c.assigned(sender, r.Own)
	if !r.Granted {
		c.release(sender, a)
		return c.refuse(sender.Other(), r.Peer, now)
	}
	if !assigned {
		return false
	}
	if c.leg(sender.Other(), r.Peer) == nil && !c.adopt(sender.Other(), r, now) {
		c.release(sender, a)
		return false
	}
	call := c.leg(sender.Other(), r.Peer).call
	if l := &call.legs[sender]; l.known && l.own != r.Own {
		c.table.detach(l, now)
	}
	if call.state != Clearing {
		call.state = r.Next
		c.table.touch(call)
	}
	c.table.attach(call, sender, a, now)
	return true
}

func (c *Control) refuse(requester Side, public pptp.CallID, now time.Time) bool {
	l := c.leg(requester, public)
	if l == nil || l.call.state != Requested {
		return false
	}
	c.table.end(l.call, Refused, now)
	return true
}

// adopt opens a call whose request passed before the connection was watched.
func (c *Control) adopt(requester Side, r Reply, now time.Time) bool {
	halfRead := c.pending[requester]
	c.pending[requester] = assignment{}
	defer func() { c.pending[requester] = halfRead }()
	c.promiseSame(requester, r.Peer.High())
	if public, ok := c.Assign(requester, r.Peer, nil); !ok || public != r.Peer {
		c.Abandon(requester)
		return false
	}
	return c.Request(requester, r.PNS, r.Peer, now)
}

// Connected establishes the incoming call that the receiver knows by the ID whose
// public form is peer.
func (c *Control) Connected(sender Side, peer pptp.CallID) bool {
	l := c.leg(sender.Other(), peer)
	if l == nil {
		return false
	}
	if l.call.state == Answered {
		l.call.state = Established
		c.table.touch(l.call)
	}
	return true
}

// Clear ends the call that the sender knows by its own ID. The IDs stay
// translated until Disconnect, Close, or a minute has passed.
func (c *Control) Clear(sender Side, own pptp.CallID, now time.Time) bool {
	l := c.ownLeg(sender, own)
	if l == nil {
		return false
	}
	c.table.clear(l.call, Cleared, now)
	return true
}

// Disconnect ends the call that a Call-Disconnect-Notify of the sender speaks of.
func (c *Control) Disconnect(sender Side, id pptp.CallID, now time.Time) bool {
	l, _ := c.notified(sender, id, nil)
	if l == nil {
		return false
	}
	c.table.end(l.call, Disconnected, now)
	return true
}

// Stop ends all calls of the connection; their IDs stay translated as after Clear.
func (c *Control) Stop(now time.Time) {
	for _, call := range c.calls {
		c.table.clear(call, Stopped, now)
	}
}

// leg returns the leg whose public ID the other end uses, nil if there is none on
// this connection.
func (c *Control) leg(s Side, public pptp.CallID) *leg {
	l := c.table.entering[c.connection.entering(s, public)]
	if l == nil || l.call.control != c {
		return nil
	}
	return l
}

// ownLeg returns the leg to which its endpoint itself gave the ID.
func (c *Control) ownLeg(s Side, own pptp.CallID) *leg {
	l := c.table.leaving[c.connection.leaving(s, own)]
	if l == nil || l.call.control != c {
		return nil
	}
	return l
}
