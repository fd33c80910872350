package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// ErrTaken says that another entry has one of the tuples.
var ErrTaken = errors.New("taken by another conntrack entry")

// ReviveTimeout is the life of a revived connection's entry in seconds, until its next
// packet. From then on the kernel uses the timeout of any TCP connection
// (nf_conntrack_tcp_timeout_established, 5 days). A connection that is silent for so long
// counts as dead. PPTP's echo requests come every 60 seconds (RFC 2637 section 3.1.4).
const ReviveTimeout = 300

// Revive creates the entry of an established TCP connection again, after somebody has
// flushed the table: with its tuples, and so its translation, and with its mark and zone.
// Without it the kernel gives the initiator's next segment a new translation, perhaps to
// another port, and the gateway answers the responder's next segment with a RST. Revive
// ignores whether the connection was Opening or Closing.
//
// If an entry has the connection's tuples, it stays: Revive returns nil if it is the
// connection's, and an error that is ErrTaken if it translates differently. If it
// translates alike but was opened by the other end, Revive replaces it: the kernel created
// it for a segment that came first. A translation to the address of an interface
// (MASQUERADE) no longer ends with that address. Helpers are not attached.
func (c *Conn) Revive(conn calls.Connection) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.revive(conn, ReviveTimeout); err != nil {
		return fmt.Errorf("revive conntrack entry of TCP %v: %w", conn.Original, err)
	}
	return nil
}

func checkConnection(conn *calls.Connection) error {
	for _, t := range []calls.Tuple{conn.Original, conn.Reply} {
		if err := checkIPv4(t.Src.Addr(), t.Dst.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// revive creates an entry with a life in seconds. It tries more than once, because what was
// in its way may have ended.
func (c *Conn) revive(conn calls.Connection, life uint32) error {
	if err := checkConnection(&conn); err != nil {
		return err
	}
	var err error
	for range tries {
		err = c.exchange(createRequest(connectionEntry(conn, life)), nil, nil)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		gone, standErr := c.stands(conn)
		if !gone || standErr != nil {
			return standErr
		}
	}
	return err
}

// stands checks what is in the way of a connection's entry, and returns nil if it is the
// connection's own. gone says that nothing is in the way any more.
func (c *Conn) stands(conn calls.Connection) (gone bool, err error) {
	for s, t := range []calls.Tuple{conn.Original, conn.Reply} {
		zone := conn.ZoneOf(calls.Side(s))
		e, err := c.get(tcp(t), zone)
		switch {
		case errors.Is(err, ErrNotFound):
			continue
		case err != nil:
			return false, fmt.Errorf("get the entry in the way: %w", err)
		case e.connection().Same(conn):
			return false, nil
		case e.turned(&conn):
			return true, c.remove(tcp(t), zone, e.id)
		}
		return false, e.taken()
	}
	return true, nil
}

// turned reports whether the entry is a connection's, opened by the other end.
func (e *entry) turned(conn *calls.Connection) bool {
	return e.orig.Tuple == conn.Reply && e.reply.Tuple == conn.Original
}

// taken is the error of a connection whose tuple the entry has.
func (e *entry) taken() error {
	return fmt.Errorf("%w: original %v, reply %v", ErrTaken, e.orig.Tuple, e.reply.Tuple)
}

// connectionEntry returns the entry of an established connection as it is sent, before NAT,
// with a life in seconds.
//
// If one end is translated, the other end's address and port are named too. Otherwise the
// kernel would choose them, and take another port if it finds the present one in use.
func connectionEntry(conn calls.Connection, life uint32) entry {
	e := entry{
		orig:    tcp(conn.Original),
		reply:   tcp(conn.Original.Reversed()),
		status:  statusConnected,
		timeout: life,
		mark:    conn.Mark,
		tcp:     tcpEstablished,
	}
	e.setZone(conn.Zone, conn.Way)
	if conn.Reply != conn.Original.Reversed() {
		e.natSrc, e.natDst = conn.Reply.Dst, conn.Reply.Src
	}
	return e
}
