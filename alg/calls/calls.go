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
type index map[legID]*leg

// legID is one of the two IDs by which a leg is looked up.
type legID struct {
	side   Side
	public bool // what the other end uses, else what the endpoint itself gave
	id     pptp.CallID
}

func (l *leg) ids() [2]legID { return [2]legID{{l.side, false, l.own}, {l.side, true, l.public}} }

func indexOf(calls []*Call) index {
	x := make(index)
	for _, call := range calls {
		for s := range call.legs {
			if l := &call.legs[s]; l.known {
				x.add(l)
			}
		}
	}
	return x
}

func (x index) add(l *leg) {
	if x == nil {
		return
	}
	for _, id := range l.ids() {
		x[id] = l
	}
}

func (x index) remove(l *leg) {
	for _, id := range l.ids() {
		delete(x, id)
	}
}

// leg returns the leg whose public ID the other end uses, nil if there is none on
// this connection.
func (c *Control) leg(s Side, public pptp.CallID) *leg { return c.find(legID{s, true, public}) }

// ownLeg returns the leg whose end itself gave it the ID.
func (c *Control) ownLeg(s Side, own pptp.CallID) *leg { return c.find(legID{s, false, own}) }

func (c *Control) find(id legID) *leg {
	if c.index != nil {
		return c.index[id]
	}
	for _, call := range c.calls {
		l := &call.legs[id.side]
		if l.known && (l.own == id.id && !id.public || l.public == id.id && id.public) {
			return l
		}
	}
	return nil
}
