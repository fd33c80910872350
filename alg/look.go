package alg

import (
	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
)

// ReadAll makes the editor also read connections that NAT does not touch: it returns their
// messages and keeps their calls, and edits nothing. Otherwise it reads only those of them
// that are the gateway's own.
func (e *Editor) ReadAll() { e.readAll = true }

// CallsOf returns a copy of the calls of the connection whose packets carry the tuple in
// one direction, in no order.
func (e *Editor) CallsOf(t calls.Tuple) []calls.View {
	s, known := e.senders[keyOf(t.Src, t.Dst)]
	if !known || s.dialogue.over {
		return nil
	}
	return s.dialogue.control.Calls(nil)
}

// Missed tells the editor that it will not see the bytes before a sequence number: the
// capture lacks them, but their receiver has acknowledged them. The tuple is that of the
// packets that carried them.
func (e *Editor) Missed(t calls.Tuple, next packet.Seq) {
	if s, known := e.senders[keyOf(t.Src, t.Dst)]; known {
		s.dialogue.halves[s.side].stream.Skip(next)
	}
}

// Listing is one walk through the calls, a slice of connections at a time, so that a packet
// that comes in between does not wait for long. Between two slices the editor may be used
// for anything. Calls on connections that are opened in between are left out. A call may
// come twice if a connection is forgotten in between.
type Listing struct{ steps Audit }

// List begins a walk through the calls.
func (e *Editor) List() *Listing {
	return &Listing{Audit{ed: e, records: len(e.all)}}
}

// Next appends the calls of at most so many connections to views, and reports whether
// there are more.
func (l *Listing) Next(most int, views []calls.View) (_ []calls.View, more bool) {
	more = l.steps.walk(&l.steps.records, most, func(d *dialogue) {
		if !d.over {
			views = d.control.Calls(views)
		}
	})
	return views, more
}
