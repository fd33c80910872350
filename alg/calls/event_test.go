package calls

import "testing"

// TestOfCall: an event is about a call, or it has a flow to install or to remove.
func TestOfCall(t *testing.T) {
	for k := range EventKind(len(eventNames)) {
		e, flow := Event{Kind: k}, k == Install || k == Remove
		if e.OfCall() == flow {
			t.Errorf("%v is about a call: %v", k, e.OfCall())
		}
	}
}
