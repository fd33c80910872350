package alg

import (
	"time"

	"pptpalg/alg/calls"
)

// Steps of a Audit in one slice, as Sweep is.

// Missing is Audit.Missing in one slice. live is what conntrack had at a time not
// before asked.
func (e *Editor) Missing(live []calls.Connection, asked time.Time) []Lost {
	c := e.Compare(asked)
	c.Found(live)
	lost, _ := c.Missing(len(e.all), nobody, asked)
	return lost
}

// nobody has seen GRE flow, or an address go.
var nobody = Witness{
	Flowed:   func(calls.Record) time.Time { return time.Time{} },
	Moved:    func(calls.Record) time.Time { return time.Time{} },
	Homeless: func(calls.Connection) bool { return false },
}

// EndIdle is Audit.EndIdle in one slice.
func (e *Editor) EndIdle(since time.Time, silent func(calls.Record) bool, now time.Time) []calls.Event {
	c := Audit{ed: e, idle: len(e.all)}
	changes, _ := c.EndIdle(len(e.all), since, silent, now)
	return changes
}
