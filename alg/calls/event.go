package calls

import "fmt"

// EventKind is what happened to the table.
type EventKind uint8

// The kinds of events. The data path must have done an Install before the packet that
// caused it is released, because the receiver may answer with GRE at once.
const (
	Install   EventKind = iota // Flow must be translated from now on
	Remove                     // Flow must no longer be translated
	Opened                     // a call was requested
	Assigned                   // both ends have given it their Call IDs
	SetUp                      // the last message that sets it up has passed
	Closed                     // it ended, for Cause; its IDs are translated until it is Gone
	Gone                       // nothing is left of it
	Noted                      // what a restart should find of it has changed
	TakenOver                  // another gateway owned it, and this one does from now on
	Followed                   // another gateway owns it, and what is known of it has changed
	Forgotten                  // another gateway owned it, and nothing is left of it
)

var eventNames = [...]string{"install", "remove", "opened", "assigned", "set up", "closed", "gone", "noted", "taken over", "followed", "forgotten"}

func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("unknown(%d)", uint8(k))
}

// Event is one thing that happened to a call or its flows. Store, data path and history
// take the same events, in order.
type Event struct {
	Kind  EventKind
	Flow  Flow   // of Install and Remove
	Call  Record // of the others: the call as it is then
	Cause Cause  // of Closed
}

// OfCall reports whether it is about a call of this gateway. Other events are about flows,
// or about the calls of other gateways, which neither store nor history take.
func (e *Event) OfCall() bool { return e.Kind > Remove && e.Kind < Followed }
