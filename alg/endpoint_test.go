package alg

import (
	"bytes"
	"encoding/binary"
	"slices"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// talk is a call as both ends know it.
type talk struct {
	line     *line
	asker    calls.Side
	incoming bool
	own      [2]pptp.CallID // by end: the ID that it gave
	has      [2]bool        // it gave one
	sees     [2]pptp.CallID // by end: the other's ID
	heard    [2]bool        // it was told
	free     [2]bool        // it may give its ID to another call
	notified int            // where in what the PAC said the notify ends

	answered, connected, cleared bool
	over                         bool // what crosses the message that ends the call may go astray
}

func (c *talk) pns() calls.Side {
	if c.incoming {
		return c.asker.Other()
	}
	return c.asker
}

// speak has an end say something that it may say now.
func (l *line) speak(me calls.Side) {
	say := []func(){func() { l.say(me, nil, pptp.EchoRequest, 0, 0, 0) }}
	if id, ok := l.newID(me); ok {
		say = append(say, func() { l.ask(me, id, false) }, func() { l.ask(me, id, true) })
	}
	for _, c := range l.world.talks {
		if c.line == l && !c.over {
			say = append(say, c.may(me)...)
		}
	}
	say[rapid.IntRange(0, len(say)-1).Draw(l.world.rt, "what")]()
}

// may lists what an end may say of a call.
func (c *talk) may(me calls.Side) (say []func()) {
	l, pac := c.line, c.pns().Other()
	if me != c.asker && c.heard[me] && !c.answered {
		if id, ok := l.newID(me); ok {
			say = append(say, func() { c.answer(me, id) }, func() { c.answer(me, id) })
		}
		say = append(say, func() { c.refuse(me) })
	}
	if me == c.pns() && c.has[me] && !c.cleared {
		say = append(say, func() { c.clear(me) })
	}
	if !c.has[0] || !c.has[1] || !c.heard[me] {
		return say
	}
	say = append(say, func() { l.say(me, c, pptp.SetLinkInfo, 0, c.sees[me], 0) })
	if me == pac {
		say = append(say,
			func() { l.say(me, c, pptp.WANErrorNotify, 0, c.sees[me], 0) })
		if kinds := c.decidable(me); len(kinds) > 0 {
			say = append(say, func() { c.notify(me, kinds) })
		}
	}
	if me == pac && c.incoming && !c.connected {
		say = append(say, func() { c.connected = true; l.say(me, c, pptp.IncomingCallConnected, 0, c.sees[me], 0) })
	}
	return say
}

// newID draws an ID that the end's host uses for nothing else.
func (l *line) newID(me calls.Side) (pptp.CallID, bool) {
	if !l.conn.Endpoint(me).Translated() {
		l.world.calls++
		return l.world.calls, true
	}
	all := []pptp.CallID{0, 7, 8, 255, 0x0700, 0x0107, 0x0701, 0x1234, 0xff07}
	free := slices.DeleteFunc(all, func(id pptp.CallID) bool {
		return slices.ContainsFunc(l.world.talks, func(c *talk) bool {
			for s := range c.own {
				host := c.line.conn.Endpoint(calls.Side(s)).Address
				if c.has[s] && c.own[s] == id && host == l.conn.Endpoint(me).Address && !c.leaves(s, l) {
					return true
				}
			}
			return false
		})
	})
	if len(free) == 0 {
		return 0, false
	}
	return rapid.SampledFrom(free).Draw(l.world.rt, "own ID"), true
}

// leaves reports whether a call has left an end's ID to others on a line. On another
// line than its own that is when the gateway has seen that it is over: what is said
// there may be faster.
func (c *talk) leaves(s int, l *line) bool {
	return c.free[s] && (c.line == l || c.line.ways[c.pns().Other()].watched >= c.notified)
}

func (l *line) ask(me calls.Side, id pptp.CallID, incoming bool) {
	c := &talk{line: l, asker: me, incoming: incoming}
	c.own[me], c.has[me] = id, true
	l.world.talks = append(l.world.talks, c)
	typ := pptp.OutgoingCallRequest
	if incoming {
		typ = pptp.IncomingCallRequest
	}
	l.say(me, c, typ, id, 0, 0)
}

func (c *talk) reply() pptp.Type {
	if c.incoming {
		return pptp.IncomingCallReply
	}
	return pptp.OutgoingCallReply
}

func (c *talk) answer(me calls.Side, id pptp.CallID) {
	c.answered, c.own[me], c.has[me] = true, id, true
	c.line.say(me, c, c.reply(), id, c.sees[me], pptp.ResultOK)
}

func (c *talk) refuse(me calls.Side) {
	c.answered, c.over = true, true
	c.line.say(me, c, c.reply(), 0, c.sees[me], 2)
}

func (c *talk) clear(me calls.Side) {
	c.cleared = true
	c.line.say(me, c, pptp.CallClearRequest, c.own[me], 0, 0)
}

// notifies are the IDs that a PAC may write into the notify that ends the call: its own, or the
// PNS's, or that with its bytes swapped.
func (c *talk) notifies(me calls.Side) [3]pptp.CallID {
	return [...]pptp.CallID{c.own[me], c.sees[me], c.sees[me].Swap()}
}

// decidable returns which of these tell by their first byte alone whose they are: that may be
// all that a segment has of one. Any call with an ID that begins like it may be the one that is
// being cleared when the notify arrives, and then is taken to be meant.
func (c *talk) decidable(me calls.Side) (kinds []byte) {
	for kind, id := range c.notifies(me) {
		alone := true
		for _, o := range c.line.world.talks {
			for form, other := range o.notifies(me) {
				known := form == 0 && o.has[me] || form > 0 && o.heard[me]
				if o.line == c.line && known && other.High() == id.High() && (form != kind || kind == 2 && o != c) {
					alone = false
				}
			}
		}
		if alone {
			kinds = append(kinds, byte(kind))
		}
	}
	return kinds
}

// notify ends the call.
func (c *talk) notify(me calls.Side, kinds []byte) {
	c.over, c.free[me] = true, true
	kind := rapid.SampledFrom(kinds).Draw(c.line.world.rt, "form")
	c.line.say(me, c, pptp.CallDisconnectNotify, c.notifies(me)[kind], 0, kind)
	c.notified = len(c.line.ways[me].said)
}

// say adds a message to what an end wants to be sent. Its last two bytes, which
// nobody reads, tell which call it means.
func (l *line) say(me calls.Side, c *talk, typ pptp.Type, own, peer pptp.CallID, result byte) {
	b := message(typ, own, peer, result)
	binary.BigEndian.PutUint16(b[len(b)-2:], uint16(slices.Index(l.world.talks, c)))
	l.ways[me].said = append(l.ways[me].said, b...)
}

// take has an end take a message, which its sender wrote as said.
func (l *line) take(me calls.Side, m, said pptp.Message) {
	l.checkRest(m, said)
	n := int(binary.BigEndian.Uint16(m[len(m)-2:]))
	if n >= len(l.world.talks) {
		return // it means no call
	}
	c := l.world.talks[n]
	if c.over && m.Type() != pptp.CallDisconnectNotify && m.Type() != c.reply() {
		return
	}
	layout, _ := m.Type().Layout()
	if layout.Peer != 0 && m.CallID(layout.Peer) != c.own[me] {
		l.world.rt.Fatalf("%v: %v gets %v of its call %v as %v", l.conn.Original, me, m.Type(), c.own[me], m.CallID(layout.Peer))
	}
	c.takes(me, m, m.CallID(layout.Own))
}

// checkRest checks that nothing but Call IDs has changed.
func (l *line) checkRest(m, said pptp.Message) {
	a, b := bytes.Clone(m), bytes.Clone(said)
	layout, _ := said.Type().Layout()
	for _, field := range []int{layout.Own, layout.Peer} {
		if field != 0 {
			clear(a[field : field+2])
			clear(b[field : field+2])
		}
	}
	if !bytes.Equal(a, b) {
		l.world.rt.Fatalf("%v arrives as % x", said.Type(), m)
	}
}

func (c *talk) takes(me calls.Side, m pptp.Message, id pptp.CallID) {
	switch m.Type() {
	case pptp.OutgoingCallRequest, pptp.IncomingCallRequest:
		c.learn(me, id)
	case pptp.OutgoingCallReply, pptp.IncomingCallReply:
		if result, _ := m.Result(); result != pptp.ResultOK {
			c.free[me] = true
			return
		}
		c.learn(me, id)
	case pptp.CallClearRequest:
		c.want(me, m, id, c.sees[me])
	case pptp.CallDisconnectNotify:
		kind, _ := m.Result()
		want := [...]pptp.CallID{c.sees[me], c.own[me], c.own[me].Swap()}[kind]
		if id != want && c.mistakable(me, id) {
			want, c.cleared = id, true // the gateway still has it, so that a later call may inherit its ID
		}
		c.want(me, m, id, want)
		c.free[me] = true
	}
}

// mistakable reports whether the notify that ends the call may be taken for that of another
// call, which its end has asked for and cleared after it was said, and before it came.
func (c *talk) mistakable(me calls.Side, id pptp.CallID) bool {
	return slices.ContainsFunc(c.line.world.talks, func(o *talk) bool {
		return o != c && o.line == c.line && o.cleared && o.has[me] && (o.own[me].High() == id.High() || o.own[me].Low() == id.High())
	})
}

func (c *talk) want(me calls.Side, m pptp.Message, got, want pptp.CallID) {
	if got != want {
		c.line.world.rt.Fatalf("%v: %v gets %v for call %v, want %v", c.line.conn.Original, me, m.Type(), got, want)
	}
}

// learn has an end be told by which ID the other knows the call: from now on it may
// send GRE with it.
func (c *talk) learn(me calls.Side, id pptp.CallID) {
	c.sees[me], c.heard[me] = id, true
	rt, conn := c.line.world.rt, c.line.conn
	to, from := conn.Endpoint(me.Other()), conn.Endpoint(me)
	if to.Translated() {
		t := tag{from.Address, to.Public, id}
		if other := c.line.world.numbers[t]; other != nil && !c.mayInherit(me.Other(), other) || id == 0 {
			rt.Fatalf("%v is told ID %v, which is 0 or another call's", me, id)
		}
		c.line.world.numbers[t] = c
	} else if id != c.own[me.Other()] {
		rt.Fatalf("the ID %v of an end that is not translated became %v", c.own[me.Other()], id)
	}
	if c.over || c.cleared {
		return
	}
	want := calls.Flow{
		Src: from.Address, Dst: to.Public, Key: id,
		NewSrc: from.Public, NewDst: to.Address, NewKey: c.own[me.Other()],
	}
	if got := c.line.world.kernel.in[enters(want)]; got != want {
		rt.Fatalf("GRE to call %v goes as %v, want %v", id, got, want)
	}
}

// mayInherit reports whether a call may have the public ID that an end had for
// another: it gave both the same ID on one connection, and has cleared the other.
func (c *talk) mayInherit(end calls.Side, from *talk) bool {
	return c == from || c.line == from.line && c.own[end] == from.own[end] && from.cleared
}
