package alg

import "pptpalg/conntrack"

// ReadAll has the editor read the connections that NAT does not touch as well: it
// tells their messages and keeps their calls, and edits nothing.
func (e *Editor) ReadAll() { e.readAll = true }

// CallsOf returns a copy of the calls of the connection whose packets carry a
// tuple in one direction, in no order.
func (e *Editor) CallsOf(t conntrack.Tuple) []conntrack.View {
	s, known := e.senders[keyOf(t.Src, t.Dst)]
	if !known || s.dialogue.control == nil {
		return nil
	}
	return s.dialogue.control.Calls(nil)
}
