// Package store defines what a store is: what keeps calls beyond the daemon's death. It is
// the second of the gateway's three plugs; its sub-packages are the stores.
//
// To add one, write a Store and a function that opens it and returns the Contents, and let
// the gateway call that function (gateway.Open).
package store

import (
	"errors"
	"time"

	"pptpalg/alg/calls"
)

// ErrTaken says that another daemon writes to the store.
var ErrTaken = errors.New("another daemon has it: stop it, or choose another --state-dir")

// ErrElsewhere says that calls are another gateway's by now, and that it does not know what has
// happened to them: no packet that says so may go on.
var ErrElsewhere = errors.New("another gateway has the calls")

// Store remembers calls. One goroutine at a time may use it; any goroutine may call Whole.
// A slow store delays no editing, but a packet that has caused an event waits until Append
// has returned.
type Store interface {
	// Append remembers what the events say of calls. An error may be that of earlier events,
	// but ErrElsewhere is of these.
	Append(events []calls.Event, now time.Time) error
	// Rewrite replaces what the store remembers by these calls and IDs, which must be all
	// of them.
	Rewrite(all []calls.Record, resting []calls.Resting) error
	// Overgrown reports whether Rewrite would help: most of what is remembered is outdated, or
	// something is missing in it.
	Overgrown() bool
	// Whole reports whether the store remembers everything that it should. Any goroutine
	// may call it.
	Whole() bool
	Close() error
}

// Contents is what a store remembers.
type Contents struct {
	Calls   []calls.Record // in the order of their numbers
	Gone    []Gone         // calls that have ended, the oldest first
	Resting []calls.Resting
	// Stale are flows that calls no longer need. The kernel may still have their
	// entries, if the daemon died before it deleted them.
	Stale []calls.Flow
}

// Gone is a call that has ended. Its public IDs may still rest.
type Gone struct {
	Record calls.Record
	At     time.Time
}
