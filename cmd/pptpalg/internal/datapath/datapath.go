// Package datapath defines what a data path is: who translates the GRE packets of calls. It
// is the first of the gateway's three plugs; its sub-packages are the data paths.
//
// To add one, write a Path, give it a Name, and let the gateway choose it
// (gateway.choosePath).
package datapath

import (
	"context"
	"fmt"

	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/alg/nfqueue"
	"pptpalg/conntrack"
)

// Name is the name of a data path in flags and documents.
type Name string

// The data paths.
const (
	Auto   Name = "auto"   // Kernel, unless the kernel refuses the entries
	Kernel Name = "kernel" // by conntrack entries, which outlive the daemon
	Queue  Name = "queue"  // by the daemon, which every GRE packet visits
)

// MarshalText and UnmarshalText are for flags.
func (n Name) MarshalText() ([]byte, error) { return []byte(n), nil }

func (n *Name) UnmarshalText(b []byte) error {
	switch read := Name(b); read {
	case Auto, Kernel, Queue:
		*n = read
		return nil
	}
	return fmt.Errorf("%q is none of %s, %s and %s", b, Auto, Kernel, Queue)
}

// Path is a data path. One goroutine at a time may use it; any goroutine may call View.
type Path interface {
	Name() Name
	Traits() Traits

	// Apply carries out the events about flows, in order, and returns the errors of those
	// that failed, by their index.
	Apply(events []calls.Event) (failed map[int]error)
	// ApplyLate is for the flows of calls that ended some time ago, or under another daemon.
	ApplyLate(events []calls.Event) (failed map[int]error)
	// Carried returns what the flows have carried that Apply removed since the last call of
	// Carried, as far as that was counted. It is valid until Apply is called.
	Carried() Flows
	// Renew translates flows as this release does, if an earlier release did it differently
	// and mine reports true for them.
	Renew(mine func(calls.Flow) bool) (renewed int, err error)

	// Snapshot puts into have the flows that the data path translates: those that are
	// known, or all if known is nil. If known is nil, it also returns GRE that belongs to
	// no flow, as far as it is wanted and the data path knows of it.
	Snapshot(have Flows, known []calls.Flow, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error)
	// View is a Snapshot of all flows, for viewers. Any goroutine may call it.
	View(have Flows, wanted func(*conntrack.Stray) bool) ([]conntrack.Stray, error)

	// Close leaves to the next daemon what that can take over.
	Close() error
}

// Traits are what the gateway has to know about a data path.
type Traits struct {
	Outlives bool    // its flows are entries in the kernel, and work while no daemon runs
	Visits   *Visits // nil if GRE packets do not visit the daemon
	Ahead    *Ahead  // nil if no packets are forwarded ahead of the kernel's entries
	Former   *Former // what flows have carried where nothing counts any more; nil if none outlives the daemon
}

// Visits are for a data path that handles each GRE packet. Any goroutine may call them.
type Visits struct {
	Packet nfqueue.Handler
	Count  func(gre.Reason) uint64 // packets, by reason
	Flows  func() int
}

// Ahead is for a data path that has packets forwarded before they reach the entries that
// translate them: the fast path. Any goroutine may call Changed and Figures.
type Ahead struct {
	Begin   func()                      // loads it, or opens what is loaded; before the first Snapshot
	Run     func(context.Context) error // looks after it until the context is done
	Changed func()                      // firewall rules were loaded: the kernel may decide otherwise
	Figures func() Figures
	Counts  func() Counts // before Run, from Opened, and after Run
}

// Counts are what a fast path has counted.
type Counts struct {
	All        Flows // nil: none is there
	Ended      bool  // it was unloaded, so that these do not grow any more
	Unreadable bool  // there may be one
}

// Figures are what Ahead counts.
type Figures struct {
	Wanted  bool // somebody has asked for it
	Ports   Ports
	Flows   int               // that it knows
	InForce int               // of these, that it forwards for now
	Without int               // that found no place
	Packets map[string]uint64 // that it has forwarded, by path
	Passed  map[string]uint64 // that it has left to the kernel, by reason
	Learnt  uint64            // decisions of the kernel that it took over
	Refused map[string]uint64 // decisions that it could not take over, by reason
}

// Ports are numbers of interfaces.
type Ports struct {
	XDP, TC int // from which packets are taken so
	Missing int // from which none are taken although they could be
}

// Flows are the flows that a data path translates, unmarked, and what they have carried.
type Flows map[calls.Flow]calls.Traffic

// At returns what a flow has carried, and whether it is there.
func (f Flows) At(flow calls.Flow) (calls.Traffic, bool) {
	t, there := f[flow.Unmarked()]
	return t, there
}
