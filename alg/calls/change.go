package calls

import "fmt"

// ChangeKind is what happened to the table.
type ChangeKind uint8

// The kinds of change. Install must have been done in the data path before the
// packet that caused it is let go; the receiver may answer with GRE at once.
const (
	Install   ChangeKind = iota // Flow is to be translated from now on
	Remove                      // Flow is no longer to be translated
	Opened                      // a call was requested
	Closed                      // a call ended, for Cause
	Kept                        // Record is what a restart must find of a call
	Forgotten                   // a restart must not find the call of Record any more
)

var changeNames = [...]string{"install", "remove", "opened", "closed"}

func (k ChangeKind) String() string {
	if int(k) < len(changeNames) {
		return changeNames[k]
	}
	return fmt.Sprintf("unknown(%d)", uint8(k))
}

// Change is one step that the table took. Those that a packet caused are to be
// carried out in their order.
type Change struct {
	Kind  ChangeKind
	Flow  Flow   // of Install and Remove
	Call  uint64 // of Opened and Closed: the call's number, see View
	Cause Cause  // of Closed
}
