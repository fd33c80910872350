// Package store says what a store is: what survives the daemon's death. It is the second of
// the gateway's three plugs; its sub-packages are the stores that there are.
//
// To add one, write a Store and a function that opens it and returns the Contents, and have
// the gateway call that (gateway.Open).
package store

import (
	"errors"
	"time"

	"pptpalg/alg/calls"
)

// ErrTaken says that another daemon writes to the store.
var ErrTaken = errors.New("another daemon has it: stop it, or choose another --state-dir")

// Store remembers calls. One goroutine at a time may use it, but for Whole. No packet is
// edited later because a call of it takes its time; but a packet that has caused an event
// waits until Append has returned.
type Store interface {
	// Append remembers what the events say of calls. An error may be that of earlier events.
	Append(events []calls.Event, now time.Time) error
	// Rewrite has the store remember just these calls and IDs, which must be all there are.
	Rewrite(all []calls.Record, resting []calls.Resting) error
	// Overgrown reports whether Rewrite would help: most of what is remembered is outdated, or
	// something is missing in it.
	Overgrown() bool
	// Whole reports whether all is remembered that was to be. Any goroutine may call it.
	Whole() bool
	Close() error
}

// Contents is what a store remembers.
type Contents struct {
	Calls   []calls.Record // in the order of their numbers
	Gone    []Gone         // calls that are over, the oldest first
	Resting []calls.Resting
	// Stale are flows that calls no longer need. The kernel may still have their
	// entries, if the daemon died before it deleted them.
	Stale []calls.Flow
}

// Gone is a call that is over. Its public Call IDs may still rest.
type Gone struct {
	Record calls.Record
	At     time.Time
}
