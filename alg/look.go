package alg

import (
	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
)

// ReadAll has the editor read the connections that NAT does not touch as well: it
// tells their messages and keeps their calls, and edits nothing.
func (e *Editor) ReadAll() { e.readAll = true }

// CallsOf returns a copy of the calls of the connection whose packets carry a
// tuple in one direction, in no order.
func (e *Editor) CallsOf(t calls.Tuple) []calls.View {
	s, known := e.senders[keyOf(t.Src, t.Dst)]
	if !known || s.dialogue.over {
		return nil
	}
	return s.dialogue.control.Calls(nil)
}

// Missed tells the editor that the bytes before a sequence number will not be seen:
// whoever looks on has missed them, but their receiver has acknowledged them. The
// tuple is that of the packets that carried them.
func (e *Editor) Missed(t calls.Tuple, next packet.Seq) {
	if s, known := e.senders[keyOf(t.Src, t.Dst)]; known {
		s.dialogue.halves[s.side].stream.Skip(next)
	}
}

// Listing is one walk through the calls, a slice of connections at a time, so that a packet
// that comes meanwhile need not wait for long. Between two slices the editor may be used
// in every way. Calls on connections that are opened meanwhile are left out. A call may
// come twice where a connection is forgotten meanwhile.
type Listing struct{ steps Comparison }

// List begins a walk through the calls.
func (e *Editor) List() *Listing {
	return &Listing{Comparison{ed: e, records: len(e.all)}}
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
