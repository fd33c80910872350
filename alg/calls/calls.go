package calls

import "pptpalg/alg/pptp"

// The calls of a connection are a slice: the living calls, then those that are being
// cleared. A message that ends all calls visits the living ones only.

// enter adds a living call.
func (c *Control) enter(call *Call) {
	call.index = int32(len(c.calls))
	c.calls = append(c.calls, call)
	c.swap(call.index, c.live)
	c.live++
	if c.index == nil && len(c.calls) > fewCalls {
		c.index = indexOf(c.calls)
	}
}

// closed moves a call behind the living ones.
func (c *Control) closed(call *Call) {
	c.live--
	c.swap(call.index, c.live)
}

// leave removes a call that is being cleared.
func (c *Control) leave(call *Call) {
	last := int32(len(c.calls)) - 1
	c.swap(call.index, last)
	c.calls[last] = nil
	c.calls = c.calls[:last]
	call.index = -1
	if last == 0 {
		c.calls, c.index = nil, nil
	}
}

func (c *Control) swap(i, j int32) {
	c.calls[i], c.calls[j] = c.calls[j], c.calls[i]
	c.calls[i].index, c.calls[j].index = i, j
}

// fewCalls is the number of calls up to which a connection has no index. Nearly all
// connections have one call.
const fewCalls = 8

// index finds the legs of a connection with more calls; it is nil for a connection with
// few.
type index struct{ own, public map[legID]*leg }

type legID struct {
	side Side
	id   pptp.CallID
}

func indexOf(calls []*Call) *index {
	x := &index{make(map[legID]*leg), make(map[legID]*leg)}
	for _, call := range calls {
		for s := range call.legs {
			if l := &call.legs[s]; l.known {
				x.add(l)
			}
		}
	}
	return x
}

func (x *index) add(l *leg) {
	if x != nil {
		x.own[legID{l.side, l.own}] = l
		x.public[legID{l.side, l.public}] = l
	}
}

func (x *index) remove(l *leg) {
	if x != nil {
		delete(x.own, legID{l.side, l.own})
		delete(x.public, legID{l.side, l.public})
	}
}

// leg returns the leg whose public ID the other end uses, nil if there is none on
// this connection.
func (c *Control) leg(s Side, public pptp.CallID) *leg {
	if c.index != nil {
		return c.index.public[legID{s, public}]
	}
	for _, call := range c.calls {
		if l := &call.legs[s]; l.known && l.public == public {
			return l
		}
	}
	return nil
}

// ownLeg returns the leg whose end itself gave it the ID.
func (c *Control) ownLeg(s Side, own pptp.CallID) *leg {
	if c.index != nil {
		return c.index.own[legID{s, own}]
	}
	for _, call := range c.calls {
		if l := &call.legs[s]; l.known && l.own == own {
			return l
		}
	}
	return nil
}
