package alg

import (
	"pptpalg/alg/packet"
	"pptpalg/conntrack"
)

// ReadAll has the editor read the connections that NAT does not touch as well: it
// tells their messages and keeps their calls, and edits nothing.
func (e *Editor) ReadAll() { e.readAll = true }

// CallsOf returns a copy of the calls of the connection whose packets carry a
// tuple in one direction, in no order.
func (e *Editor) CallsOf(t conntrack.Tuple) []conntrack.View {
	s, known := e.senders[keyOf(t.Src, t.Dst)]
	if !known || s.dialogue.over {
		return nil
	}
	return s.dialogue.control.Calls(nil)
}

// Missed tells the editor that the bytes before a sequence number will not be seen:
// whoever looks on has missed them, but their receiver has acknowledged them. The
// tuple is that of the packets that carried them.
func (e *Editor) Missed(t conntrack.Tuple, next packet.Seq) {
	if s, known := e.senders[keyOf(t.Src, t.Dst)]; known {
		s.dialogue.halves[s.side].stream.Skip(next)
	}
}
