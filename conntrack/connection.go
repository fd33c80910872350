package conntrack

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// Connection returns the TCP connection that has t as one of its two tuples, or
// an error that is ErrNotFound. A connection is found once its first packet has
// left the gateway: until then the kernel has not put its entry into the table.
//
// The kernel looks up a tuple in one zone, and a packet does not say which. Connection asks
// for the default zone first, then for the zones seen before, the latest first, then for
// all of them by a dump. If several zones use the same tuple, the first one asked for wins.
// Dumps walk the whole table, so their number is bounded: beyond searchBurst at once and
// one in searchPause, the answer is ErrNotFound.
func (c *Conn) Connection(t calls.Tuple) (calls.Connection, error) {
	e, err := c.find(t)
	if err != nil {
		return calls.Connection{}, fmt.Errorf("get conntrack entry of TCP %v: %w", t, err)
	}
	return e.connection(), nil
}

// ConnectionIn is Connection for a tuple of a packet that is in a zone.
func (c *Conn) ConnectionIn(t calls.Tuple, zone uint16) (calls.Connection, error) {
	err := checkIPv4(t.Src.Addr(), t.Dst.Addr())
	var e entry
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		e, err = c.get(tcp(t), zone)
	}
	if err != nil {
		return calls.Connection{}, fmt.Errorf("get conntrack entry of TCP %v in zone %d: %w", t, zone, err)
	}
	return e.connection(), nil
}

func (c *Conn) find(t calls.Tuple) (entry, error) {
	if err := checkIPv4(t.Src.Addr(), t.Dst.Addr()); err != nil {
		return entry{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := -1; i < len(c.zones); i++ {
		zone := c.zones.at(i)
		e, err := c.get(tcp(t), zone)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err == nil {
			c.zones.remember(zone)
		}
		return e, err
	}
	if !c.searches.take(time.Now()) {
		return entry{}, fmt.Errorf("%w in the zones known", ErrNotFound)
	}
	return c.search(t)
}

// search looks for a TCP tuple in every zone.
func (c *Conn) search(t calls.Tuple) (entry, error) {
	for _, f := range byTuple(t) {
		es, err := list(c, f, func(e *entry) (entry, bool) { return *e, true })
		if err != nil {
			return entry{}, err
		}
		if len(es) > 0 {
			c.zones.remember(es[0].zone())
			return es[0], nil
		}
	}
	return entry{}, ErrNotFound
}

// Connections returns every TCP connection whose original destination port is
// one of ports, in all zones, in no order.
func (c *Conn) Connections(ports []uint16) ([]calls.Connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []calls.Connection
	for _, port := range unique(ports) {
		found, err := list(c, byPort(port), func(e *entry) (calls.Connection, bool) {
			c.zones.remember(e.zone())
			return e.connection(), true
		})
		if err != nil {
			return nil, fmt.Errorf("list TCP connections to port %d: %w", port, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func unique(ports []uint16) []uint16 {
	return slices.Compact(slices.Sorted(slices.Values(ports)))
}

func tcp(t calls.Tuple) tuple { return tuple{Tuple: t, proto: unix.IPPROTO_TCP} }

func gre(t calls.Tuple) tuple { return tuple{Tuple: t, proto: unix.IPPROTO_GRE} }

// The bounds of searches. A search walks the table twice, which takes some 10 ms with 2^18
// buckets, and any stray packet may cause one.
const (
	searchBurst = 10
	searchPause = 200 * time.Millisecond
)

// budget grants searches. The zero value grants searchBurst of them.
type budget struct {
	left  int
	since time.Time // when left was last added to
}

func (b *budget) take(now time.Time) bool {
	if gained := now.Sub(b.since) / searchPause; gained > 0 {
		b.left = min(b.left+int(min(gained, searchBurst)), searchBurst)
		b.since = now
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

// maxZones bounds the number of remembered zones, and so the number of queries for a tuple
// before the table is walked.
const maxZones = 16

// zones are the zones seen other than the default one, the latest first.
type zones []uint16

// at returns the zone to ask for in turn i, from -1 on: the default zone first.
func (z zones) at(i int) uint16 {
	if i < 0 {
		return 0
	}
	return z[i]
}

// remember moves a zone to the head of the list. If the list is full, the zone seen longest
// ago is dropped.
func (z *zones) remember(zone uint16) {
	if zone == 0 || len(*z) > 0 && (*z)[0] == zone {
		return
	}
	rest := slices.DeleteFunc(*z, func(other uint16) bool { return other == zone })
	rest = rest[:min(len(rest), maxZones-1)]
	*z = append(zones{zone}, rest...)
}
