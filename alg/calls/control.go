package calls

import (
	"slices"
	"time"

	"pptpalg/alg/pptp"
)

// Control is a control connection and the calls on it.
//
// Its methods name the sender of the message they serve. They never look at the type of a
// message or at who opened TCP: the sender's own ID is replaced by its public ID, and the
// receiver's public ID by the receiver's own ID.
type Control struct {
	table      *Table
	connection packed
	live       int32 // how many of calls are not being cleared; these come first
	calls      []*Call
	index      index
	pages      []pagePair    // first bytes that are promised
	followed   bool          // another gateway owns its calls
	local      [2]bool       // ends that are the gateway's own, by Side
	habits     [2]form       // the form of the last Call-Disconnect-Notify that left no doubt, by sender
	pending    [2]assignment // IDs assigned by messages still being read, by Side
}

// pagePair is a promise: on this connection IDs of one end that begin with the byte
// own have public IDs that begin with the byte public.
type pagePair struct {
	side        Side
	own, public byte
	uses        int32 // legs that depend on it
}

// assignment is a public ID that is chosen and not yet given to a call.
type assignment struct {
	own, public pptp.CallID
	ready       bool // both IDs are chosen
	reserved    bool // public is taken in the space
	admitted    bool // a call that will have it counts already
	refused     Refusal
}

// Open adds a control connection to the table.
func (t *Table) Open(c Connection) *Control { return &Control{table: t, connection: pack(c)} }

// Connection returns the connection as it was when it was opened, without its helper, and
// with what conntrack says of its end.
func (c *Control) Connection() Connection { return c.connection.unpack() }

// Same reports whether a connection is the one that was opened, as Connection.Same has it.
func (c *Control) Same(o Connection) bool {
	p := pack(o)
	return c.connection.original == p.original && c.connection.reply == p.reply && c.connection.zone == p.zone && c.connection.way == p.way
}

// SetLocal says that one end is the gateway itself. Its IDs cannot be translated, because
// its address is not. But they lie in the same space as the IDs of the hosts behind the
// gateway's address, so none of these may get them.
func (c *Control) SetLocal(s Side) { c.local[s] = true }

// Dispute records what conntrack says of the connection's end, against the caller's own
// knowledge, for the program that takes up its calls after a restart.
func (c *Control) Dispute(closing bool) {
	if c.connection.closing == closing {
		return
	}
	c.connection.closing = closing
	for _, call := range c.calls {
		c.table.note(Noted, call)
	}
}

// Disputed reports whether conntrack said last that the connection has ended, and was not
// believed.
func (c *Control) Disputed() bool { return c.connection.closing }

// Calls appends to views those calls of the connection that have not ended.
func (c *Control) Calls(views []View) []View {
	for _, call := range c.calls[:c.live] {
		views = append(views, call.view())
	}
	return views
}

// Busy reports whether the connection has calls, including those that are being cleared.
func (c *Control) Busy() bool { return len(c.calls) > 0 }

// Close ends the connection and all its calls. It forgets those of another gateway.
func (c *Control) Close(cause Cause, now time.Time) {
	c.Abandon(Initiator)
	c.Abandon(Responder)
	for c.followed && len(c.calls) > 0 {
		c.table.Forget(c.calls[len(c.calls)-1].number, now, now)
	}
	for len(c.calls) > 0 {
		c.table.end(c.calls[len(c.calls)-1], cause, now)
	}
}

// Living reports whether the connection has a call that has not ended, by its number, and how
// many others.
func (c *Control) Living(number uint64) (others int, found bool) {
	found = slices.ContainsFunc(c.calls[:c.live], func(call *Call) bool { return call.number == number })
	return int(c.live) - 1, found
}

// EndIf ends the calls of the connection for which over returns true.
func (c *Control) EndIf(over func(Record) bool, cause Cause, now time.Time) {
	for i := c.live - 1; i >= 0; i-- { // an ended call's place is taken by the last
		if call := c.calls[i]; over(call.record()) {
			c.table.end(call, cause, now)
		}
	}
}

// Request opens a call that the sender requests under its own ID, which must have been
// assigned. It replaces a call of the sender that has this ID. false means that there is no
// public ID or that a limit is reached; then the table does not have the call.
func (c *Control) Request(sender, pns Side, own pptp.CallID, now time.Time) bool {
	a, ok := c.assigned(sender, own)
	return ok && c.open(sender, pns, a, now)
}

// Repeats reports whether a request is one for a living call of the sender's that the receiver has answered: TCP may
// bring it again. Then the call stays as it is, and what was assigned is given up.
func (c *Control) Repeats(sender Side, own pptp.CallID) bool {
	l := c.ownLeg(sender, own)
	if l == nil || l.call.asker != sender || l.call.state == Requested || l.call.state == Clearing {
		return false
	}
	c.Abandon(sender)
	return true
}

// Reply is the sender's answer to a call that the receiver requested.
type Reply struct {
	PNS       Side
	Own, Peer pptp.CallID // as the sender wrote them
	AnyPeer   bool        // Peer is unknown: the reply is to the only request that is open
	Granted   bool        // result code 1
	Next      State       // of a granted call
	Adopt     bool        // the request may have passed before the connection was watched
}

// Reply grants or refuses a call. The sender's own ID must have been assigned. An answer
// without a request changes nothing.
func (c *Control) Reply(sender Side, r Reply, now time.Time) bool {
	a, assigned := c.assigned(sender, r.Own)
	if !r.Granted {
		c.giveUp(sender, a)
		return c.refuse(sender.Other(), r.Peer, now)
	}
	if !assigned {
		return false
	}
	call := c.asked(sender, r, now)
	if call == nil {
		c.giveUp(sender, a)
		return false
	}
	news := !call.legs[sender].known
	c.table.attach(call, sender, a, now)
	if news {
		c.granted(call, r.Next)
	}
	return true
}

// granted records that both ends of a call have given their IDs.
func (c *Control) granted(call *Call, next State) {
	if call.state != Requested {
		c.table.note(Noted, call) // it was cleared meanwhile
		return
	}
	call.state = next
	c.table.note(Assigned, call)
	if next == Established {
		c.table.note(SetUp, call)
	}
}

// asked returns the call that is granted: one that the other end has requested, and to
// which the sender has not given another ID.
func (c *Control) asked(sender Side, r Reply, now time.Time) *Call {
	if r.AnyPeer {
		return c.waiting(sender)
	}
	l := c.leg(sender.Other(), r.Peer)
	if l == nil {
		return c.adopt(sender.Other(), r, now)
	}
	if answered := &l.call.legs[sender]; l.call.asker == sender || answered.known && answered.own != r.Own {
		return nil
	}
	return l.call
}

// waiting returns the call whose request the sender has not answered, nil if there is none
// or more than one.
func (c *Control) waiting(sender Side) (call *Call) {
	for _, other := range c.calls[:c.live] {
		if other.asker == sender || other.legs[sender].known {
			continue
		}
		if call != nil {
			return nil
		}
		call = other
	}
	return call
}

func (c *Control) refuse(requester Side, public pptp.CallID, now time.Time) bool {
	l := c.leg(requester, public)
	if l == nil || l.call.state != Requested || l.call.asker != requester {
		return false
	}
	c.table.end(l.call, Refused, now)
	return true
}

// adopt opens a call whose request passed before the connection was watched, and so was not
// translated, if no other call has the requester's ID. Only the replier says that there was
// a request. So this has no effect on the calls of other connections, and the call is
// charged to the replier; but a requester that has as many calls as it may have gets no
// more in this way.
func (c *Control) adopt(requester Side, r Reply, now time.Time) *Call {
	replier := requester.Other()
	if !r.Adopt || c.table.leaving[c.connection.leaving(requester, r.Peer)] > 0 || c.full(requester) || c.admit(replier) != NoneRefused {
		return nil
	}
	halfRead := c.take(requester)
	defer func() { c.pending[requester] = halfRead }()
	c.promiseSame(requester, r.Peer.High())
	public, ok := c.Assign(requester, r.Peer, nil)
	a, _ := c.assigned(requester, r.Peer)
	if !ok || public != r.Peer {
		c.release(requester, a)
		c.dismiss(replier)
		return nil
	}
	c.enlist(requester, replier, r.PNS, a, now)
	return c.leg(requester, r.Peer).call
}

// Connected establishes the incoming call that the receiver knows by the ID whose
// public ID is peer.
func (c *Control) Connected(sender Side, peer pptp.CallID) bool {
	l := c.leg(sender.Other(), peer)
	if l == nil {
		return false
	}
	if l.call.state == Answered {
		l.call.state = Established
		c.table.note(SetUp, l.call)
	}
	return true
}

// Meant returns the number of the call that Clear would end for an ID that the sender Owns, or
// Disconnect for one that it Notifies of: 0 if there is none, and for any other field.
func (c *Control) Meant(sender Side, f Field, id, shown pptp.CallID) uint64 {
	var l *leg
	switch f {
	case Owns:
		l = c.ownLeg(sender, id)
	case Notifies:
		l, _ = c.notice(&forward, sender, id, func(out pptp.CallID) bool { return out == shown })
	}
	if l == nil {
		return 0
	}
	return l.call.number
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

// Disconnect ends the call that a Call-Disconnect-Notify of the sender names. shown is what
// Translate made of the ID.
func (c *Control) Disconnect(sender Side, id, shown pptp.CallID, now time.Time) bool {
	l, f := c.notice(&forward, sender, id, func(out pptp.CallID) bool { return out == shown })
	if l == nil {
		return false
	}
	if c.unambiguous(sender, id) {
		c.habits[sender] = f
	}
	c.table.end(l.call, Disconnected, now)
	return true
}

// Stop ends all calls of the connection; their IDs stay translated as after Clear.
func (c *Control) Stop(now time.Time) {
	for c.live > 0 {
		c.table.clear(c.calls[c.live-1], Stopped, now)
	}
}
