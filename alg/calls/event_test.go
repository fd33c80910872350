package calls

import "testing"

// TestOfCall: an event is about a call of this gateway, unless it has a flow to install or to
// remove, or is about a call of another gateway.
func TestOfCall(t *testing.T) {
	for k := range EventKind(len(eventNames)) {
		e, other := Event{Kind: k}, k == Install || k == Remove || k == Followed || k == Forgotten
		if e.OfCall() == other {
			t.Errorf("%v is about a call: %v", k, e.OfCall())
		}
	}
}
