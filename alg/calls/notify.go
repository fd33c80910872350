package calls

import "pptpalg/alg/pptp"

// form is what the ID in a Call-Disconnect-Notify is. Public IDs are chosen so that the
// value tells (see fits), unless the sender later assigns an ID that is a public ID of the
// receiver. If the value fits two calls, it means the one that is being cleared; else the
// form that the sender has used before counts; else the RFC's.
type form uint8

const (
	sendersID   form = iota // the sender's own: by the RFC, and from poptop and mpd
	receiversID             // the receiver's: from accel-ppp
	swappedID               // the receiver's with its bytes exchanged: from accel-ppp up to 1.14

	forms
)

// reading is how an ID is read in one form: whose it is, and what it becomes.
type reading struct {
	leg     func(c *Control, sender Side, id pptp.CallID) *leg
	becomes func(l *leg) pptp.CallID
}

// forward reads what a sender wrote.
var forward = [forms]reading{
	sendersID: {
		leg:     func(c *Control, sender Side, id pptp.CallID) *leg { return c.ownLeg(sender, id) },
		becomes: func(l *leg) pptp.CallID { return l.public },
	},
	receiversID: {
		leg:     func(c *Control, sender Side, id pptp.CallID) *leg { return c.leg(sender.Other(), id) },
		becomes: func(l *leg) pptp.CallID { return l.own },
	},
	swappedID: {
		leg:     func(c *Control, sender Side, id pptp.CallID) *leg { return c.leg(sender.Other(), id.Swap()) },
		becomes: func(l *leg) pptp.CallID { return l.own.Swap() },
	},
}

// backward reads what a receiver gets from a sender whose end is not translated.
var backward = [forms]reading{
	sendersID: forward[sendersID],
	receiversID: {
		leg:     func(c *Control, sender Side, id pptp.CallID) *leg { return c.ownLeg(sender.Other(), id) },
		becomes: func(l *leg) pptp.CallID { return l.public },
	},
	swappedID: {
		leg:     func(c *Control, sender Side, id pptp.CallID) *leg { return c.ownLeg(sender.Other(), id.Swap()) },
		becomes: func(l *leg) pptp.CallID { return l.public.Swap() },
	},
}

// ranked returns the forms in the order in which they are tried for a sender.
func (c *Control) ranked(sender Side) [forms]form {
	switch c.habits[sender] {
	case receiversID:
		return [forms]form{receiversID, sendersID, swappedID}
	case swappedID:
		return [forms]form{swappedID, sendersID, receiversID}
	}
	return [forms]form{sendersID, receiversID, swappedID}
}

// notice finds the leg whose ID is in a Call-Disconnect-Notify, if its translation is one
// that is allowed: nil if there is none.
func (c *Control) notice(rs *[forms]reading, sender Side, id pptp.CallID, may func(pptp.CallID) bool) (found *leg, in form) {
	for _, f := range c.ranked(sender) {
		l := rs[f].leg(c, sender, id)
		if l == nil || !may(rs[f].becomes(l)) {
			continue
		}
		if l.call.state == Clearing {
			return l, f
		}
		if found == nil {
			found, in = l, f
		}
	}
	return found, in
}

// noticed is Translate for the ID of a Call-Disconnect-Notify.
func (c *Control) noticed(rs *[forms]reading, sender Side, id pptp.CallID, sent *byte) (pptp.CallID, bool) {
	l, f := c.notice(rs, sender, id, func(out pptp.CallID) bool { return begins(out, sent) })
	if l == nil {
		return untranslated(id, sent), false
	}
	return rs[f].becomes(l), true
}

// noticedHigh decides by the first byte alone, in the same order. It can be wrong only if
// an end chose an ID that begins like another form.
func (c *Control) noticedHigh(rs *[forms]reading, sender Side, high byte) byte {
	result, found := high, false
	for _, f := range c.ranked(sender) {
		for low := range pptp.CallID(pageSize) {
			l := rs[f].leg(c, sender, pptp.CallID(high)<<8|low)
			if l == nil {
				continue
			}
			if l.call.state == Clearing {
				return rs[f].becomes(l).High()
			}
			if !found {
				result, found = rs[f].becomes(l).High(), true
			}
		}
	}
	return result
}

// unambiguous reports whether an ID that a sender wrote is an ID of a call in one form
// only.
func (c *Control) unambiguous(sender Side, id pptp.CallID) bool {
	fit := 0
	for _, r := range forward {
		if r.leg(c, sender, id) != nil {
			fit++
		}
	}
	return fit == 1
}
