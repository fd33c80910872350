package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// A gateway that stands by for another one has the entries of that one's connections, though
// no packet of theirs passes it. They are made as by Revive, but many in a datagram. Each of
// these methods returns the errors of the connections that failed, by their index; nil if
// none failed.

// Follow creates the entries of connections, with a life in seconds until their next packet.
// An entry that is there, and is the connection's, gets this life; but one that packets have made,
// before they went by another gateway, is made anew, as by Remake. Anything else in the way is
// handled as by Revive.
func (c *Conn) Follow(conns []calls.Connection, life uint32) (failed map[int]error) {
	return c.inGroups(conns, life, func(g *group) {
		g.send(unasked, blocked, g.create)
		g.identify(blocked)
		g.send(identified, single, func(m *member) {
			if m.own && m.kept {
				g.out.add(lifeRequest(m.conn, life))
			} else {
				g.replace(m)
			}
		})
		g.finish(func(m *member) error {
			if err := c.revive(m.conn, life); err != nil {
				return err
			}
			return c.exchange(lifeRequest(m.conn, life), nil, nil)
		})
	})
}

// Remake deletes the entries of connections and creates them again. It is for connections
// whose packets pass another gateway from now on, or did until now: what this kernel knows of
// their streams is outdated, and it would take their next packets for invalid. The entry is
// missing only between two requests of one datagram. A connection without an entry gets one.
// Anything else in the way is handled as by Revive.
func (c *Conn) Remake(conns []calls.Connection, life uint32) (failed map[int]error) {
	return c.inGroups(conns, life, func(g *group) {
		g.identify(unasked)
		g.send(identified, single, g.replace)
		g.finish(func(m *member) error { return c.revive(m.conn, life) })
	})
}

// Loosen has the entries of connections take no packet for invalid, and sets their life. It is Follow and Remake
// for connections whose packets pass another gateway, and still pass this one, too: there is no moment without
// an entry that is there, in which the kernel would answer a packet with a RST. But the kernel does not track
// what lies beyond the windows that it knows: when no more packets pass here, Remake does the rest.
func (c *Conn) Loosen(conns []calls.Connection, life uint32) (failed map[int]error) {
	return c.inGroups(conns, life, func(g *group) {
		g.identify(unasked)
		g.send(identified, single, func(m *member) {
			if m.own {
				g.out.add(looseRequest(m.conn, life))
			} else {
				g.replace(m)
			}
		})
		g.finish(func(m *member) error { return c.revive(m.conn, life) })
	})
}

// SetTimeout sets the life of the connections' entries in seconds, until their next packet.
// The error of a connection without an entry is ErrNotFound.
func (c *Conn) SetTimeout(conns []calls.Connection, life uint32) (failed map[int]error) {
	return c.inGroups(conns, life, func(g *group) {
		g.send(unasked, single, func(m *member) { g.out.add(lifeRequest(m.conn, life)) })
		g.finish(func(m *member) error { return c.exchange(lifeRequest(m.conn, life), nil, nil) })
	})
}

// group is connections whose requests share datagrams.
type group struct {
	*Conn
	life    uint32
	members []member
}

// member is how far a connection of a group has come.
type member struct {
	conn calls.Connection
	is   progress
	met  bool       // an entry was found that is the connection's own, or that the other end has opened
	own  bool       // it is the connection's own
	kept bool       // it is one that this package has made, and goes on well with any packet
	by   calls.Side // by whose tuple it was found
	id   uint32     // the entry's
	err  error
}

type progress uint8

const (
	unasked    progress = iota // nothing was asked
	blocked                    // something has one of its tuples
	identified                 // what has one is known, and can be replaced
	single                     // the rest is done for it alone
	done                       // err says how
)

// inGroups has do take its steps for groups of connections. Other requests get their turn
// between two groups.
func (c *Conn) inGroups(conns []calls.Connection, life uint32, do func(*group)) (failed map[int]error) {
	g := group{Conn: c, life: life}
	for from := 0; from < len(conns); from += batch {
		g.take(conns[from:min(from+batch, len(conns))], do)
		for i := range g.members {
			m := &g.members[i]
			if m.err == nil {
				continue
			}
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[from+i] = fmt.Errorf("set conntrack entry of TCP %v: %w", m.conn.Original, m.err)
		}
	}
	return failed
}

func (g *group) take(conns []calls.Connection, do func(*group)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = g.members[:0]
	for i := range conns {
		m := member{conn: conns[i]}
		if m.err = checkConnection(&conns[i]); m.err != nil {
			m.is = done
		}
		g.members = append(g.members, m)
	}
	do(g)
}

// write fills the outbox with the requests that add adds for the members in a state. These
// are done then.
func (g *group) write(in progress, add func(*member)) {
	g.out.reset()
	g.order = g.order[:0]
	for i := range g.members {
		m := &g.members[i]
		if m.is != in {
			continue
		}
		m.is = done
		add(m)
		for len(g.order) < len(g.out.at) {
			g.order = append(g.order, i)
		}
	}
}

// send sends the requests that add adds for the members in a state, in one datagram. Those
// for which something is in the way are in the state taken then. If anything else fails, a
// member goes on alone.
func (g *group) send(in, taken progress, add func(*member)) {
	g.write(in, add)
	for k, err := range g.Conn.send(nil) {
		switch m := &g.members[g.order[k]]; {
		case err == nil:
		case errors.Is(err, unix.EEXIST):
			m.is = taken
		default:
			m.is = single
		}
	}
}

// identify asks what has the tuples of the members in a state, first the initiators'. A
// member is identified if that can be replaced, as stands has it, or if nothing has them.
func (g *group) identify(in progress) {
	for s := range calls.Side(sides) {
		g.write(in, func(m *member) { g.out.add(getRequest(tcp(m.tuple(s)), m.conn.ZoneOf(s))) })
		errs := g.Conn.send(func(k int, e *entry) { g.members[g.order[k]].meet(s, e) })
		for k, err := range errs {
			switch m := &g.members[g.order[k]]; {
			case err == nil:
			case !errors.Is(err, ErrNotFound):
				m.is = single
			case s == calls.Initiator:
				m.is = in
			default:
				m.is = identified
			}
		}
	}
}

// sides is how many tuples a connection has, one for each calls.Side.
const sides = 2

func (m *member) tuple(s calls.Side) calls.Tuple {
	if s == calls.Initiator {
		return m.conn.Original
	}
	return m.conn.Reply
}

// meet records the entry that has the tuple of an end.
func (m *member) meet(s calls.Side, e *entry) {
	m.own, m.kept = e.connection().Same(m.conn), e.liberal && e.tcp == tcpEstablished
	if !m.own && !e.turned(&m.conn) {
		m.err = e.taken()
		return
	}
	m.is, m.met, m.by, m.id = identified, true, s, e.id
}

func (g *group) create(m *member) { g.out.add(createRequest(connectionEntry(m.conn, g.life))) }

// replace deletes the entry that was met, if any, and creates the connection's.
func (g *group) replace(m *member) {
	if m.met {
		g.out.add(deleteRequest(tcp(m.tuple(m.by)), m.conn.ZoneOf(m.by), m.id))
	}
	g.create(m)
}

// finish does the rest for each member that goes on alone.
func (g *group) finish(do func(*member) error) {
	for i := range g.members {
		if m := &g.members[i]; m.is == single {
			m.is, m.err = done, do(m)
		}
	}
}
