package calls

import "time"

// Config configures the table. DefaultConfig is for an ordinary site.
type Config struct {
	// Rest is how long a freed public ID rests. Servers refuse an ID that they still hold
	// for a call whose end they have not noticed. If no other ID is free, the one that has
	// rested longest is used early.
	Rest time.Duration
	// Random draws every public ID, instead of keeping an end's own ID if that is free. If
	// nobody outside can predict Random, a stranger who can forge the peer's address cannot
	// guess the ID. nil keeps the ends' own IDs.
	Random func() uint32
	// Slot is the first byte of the numbers of calls that are opened here. Share is the part
	// of the public IDs that is given out here. A gateway that shares its calls with others
	// has a slot of its own, and a share of its own if it shares a public address as well.
	Slot  uint8
	Share Share
	// The table's limits. A request beyond a limit passes unedited.
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

// clientKey is whom a limit is for: an address, in the zone of its packets.
type clientKey struct {
	address [4]byte
	zone    uint16
}

// client is one who requests calls.
type client struct {
	calls    int // with those that are admitted and not yet open
	clearing queue[*Call]
	tokens   float64 // requests that it may send now
	seen     time.Time
}

// client returns an end as one who requests calls.
func (c *Control) client(s Side) *client {
	t, k := c.table, clientKey{c.connection.address(s), c.connection.zoneOf(s)}
	cl := t.clients[k]
	if cl == nil {
		cl = &client{tokens: float64(t.cfg.Requests), seen: t.now}
		t.clients[k] = cl
	}
	return cl
}

// admit checks the limits for every call. It reports which limit a call that an end
// requests exceeds; if none, the call counts from now on, until it ends or dismiss gives it
// up.
func (c *Control) admit(s Side) Refusal {
	t := c.table
	cl := c.client(s)
	most := float64(t.cfg.Requests)
	cl.tokens = min(most, cl.tokens+t.now.Sub(cl.seen).Seconds()*most)
	cl.seen = t.now
	switch {
	case t.calls >= t.cfg.Calls:
		return TooManyCalls
	case c.full(s):
		return TooManyOfClient
	case cl.tokens < 1:
		return TooFast
	}
	cl.tokens--
	cl.calls++
	t.calls++
	t.admitted++
	return NoneRefused
}

// full reports whether an end is charged with as many calls as it may have.
func (c *Control) full(s Side) bool {
	return c.client(s).calls >= c.table.cfg.CallsPerClient
}

// dismiss gives up a call that was admitted and not opened.
func (c *Control) dismiss(s Side) {
	c.client(s).calls--
	c.table.calls--
	c.table.admitted--
}

// forgetClients forgets clients that have had no calls for so long that none of theirs
// is being cleared.
func (t *Table) forgetClients(now time.Time) {
	for k, cl := range t.clients {
		if cl.calls == 0 && now.Sub(cl.seen) > clearingTime {
			delete(t.clients, k)
		}
	}
}
