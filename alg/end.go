package alg

import (
	"errors"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
)

// Reasons why a call cannot be ended.
var (
	ErrNoCall    = errors.New("there is no such call")
	ErrElsewhere = errors.New("another gateway owns the call")
)

// Ended is what became of a call that EndCall has ended.
type Ended struct {
	Connection calls.Connection
	// Others is how many calls the control connection goes on with. With none it has ended too.
	Others int
	// Next has by sender the sequence number of the next byte, which a RST in the sender's name
	// must have. Placed says where it is known.
	Next   [2]packet.Seq
	Placed [2]bool
}

// EndCall ends a call by its number, with cause calls.Operator. If the control connection has
// no other call, it ends with it: its ends do not know that yet, and what they send is answered
// as on a lost connection. The changes are valid until the editor is used again.
func (e *Editor) EndCall(number uint64, now time.Time) (done Ended, changes []calls.Event, err error) {
	for _, d := range e.all {
		others, found := d.control.Living(number)
		switch {
		case !found || d.over:
			continue
		case d.control.Followed():
			return done, nil, ErrElsewhere
		}
		done.Connection, done.Others = d.control.Connection(), others
		for s := range d.halves {
			done.Next[s], done.Placed[s] = d.halves[s].stream.Next(), d.halves[s].stream.Joined()
		}
		if others > 0 {
			d.control.EndIf(func(r calls.Record) bool { return r.Number == number }, calls.Operator, now)
		} else {
			e.end(d, calls.Operator, now)
		}
		return done, e.table.Events(), nil
	}
	return done, nil, ErrNoCall
}
