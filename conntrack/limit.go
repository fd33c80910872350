package conntrack

import (
	"fmt"
	"time"
)

// Config says how the table behaves. DefaultConfig is what an honest site needs.
type Config struct {
	// Rest is how long a freed public Call ID stays unused. Servers refuse an ID
	// that they still hold for a call whose end they have not noticed.
	Rest time.Duration
	// Random draws every public ID at random instead of keeping an endpoint's own
	// where it is free: a stranger who can forge the peer's address cannot guess it.
	Random bool
	// What the table holds at most. A request beyond passes unedited.
	Calls          int // in all
	CallsPerClient int // requested by one address
	CallsPerSpace  int // public IDs in use or resting of one public address towards one peer
	Requests       int // calls that one address may request per second; as many may come at once
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{Rest: 2 * time.Minute, Calls: 131072, CallsPerClient: 16384, CallsPerSpace: 65535, Requests: 1000}
}

// Refusal is why a call gets no public ID.
type Refusal uint8

// The refusals.
const (
	NoneRefused     Refusal = iota
	SpaceFull               // no public ID is free that begins as it must
	IDTaken                 // the gateway's own end chose an ID that a host behind it has
	TooManyCalls            // Config.Calls
	TooManyOfClient         // Config.CallsPerClient
	TooManyOfSpace          // Config.CallsPerSpace
	TooFast                 // Config.Requests
)

var refusalNames = [...]string{"none", "space_full", "id_taken", "limit_calls", "limit_client", "limit_space", "limit_rate"}

func (r Refusal) String() string {
	if int(r) < len(refusalNames) {
		return refusalNames[r]
	}
	return fmt.Sprintf("unknown(%d)", uint8(r))
}

// client is an address that requests calls.
type client struct {
	calls  int
	tokens float64 // requests that it may make now
	seen   time.Time
}

func (t *Table) client(k [4]byte) *client {
	cl := t.clients[k]
	if cl == nil {
		cl = &client{tokens: float64(t.cfg.Requests), seen: t.now}
		t.clients[k] = cl
	}
	return cl
}

// admit takes note of a request and reports which limit it exceeds, if any does.
func (c *Control) admit(s Side) Refusal {
	t := c.table
	cl := t.client(c.connection.address(s))
	most := float64(t.cfg.Requests)
	cl.tokens = min(most, cl.tokens+t.now.Sub(cl.seen).Seconds()*most)
	cl.seen = t.now
	switch {
	case t.calls >= t.cfg.Calls:
		return TooManyCalls
	case cl.calls >= t.cfg.CallsPerClient:
		return TooManyOfClient
	case c.spaced(s) && t.space(c.connection.space(s)).taken >= t.cfg.CallsPerSpace:
		return TooManyOfSpace
	case cl.tokens < 1:
		return TooFast
	}
	cl.tokens--
	return NoneRefused
}

// dismiss forgets clients that have no calls and have not asked for a while.
func (t *Table) dismiss(now time.Time) {
	for k, cl := range t.clients {
		if cl.calls == 0 && now.Sub(cl.seen) > time.Second {
			delete(t.clients, k)
		}
	}
}
