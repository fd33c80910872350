package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// ErrTaken says that another entry has one of the tuples that were asked for.
var ErrTaken = errors.New("taken by another conntrack entry")

// ReviveTimeout is the life of a revived connection's entry in seconds, until its
// next packet: from then on the kernel gives it that of any TCP connection
// (nf_conntrack_tcp_timeout_established, 5 days). A connection that is silent for
// so long is taken for dead. PPTP's echo requests come every 60 seconds (RFC 2637
// section 3.1.4).
const ReviveTimeout = 300

// Revive puts the entry of an established TCP connection into the table again,
// after somebody has emptied it: with its tuples, so with its translation, and
// its mark and zone. Without it the next segment of the initiator is translated
// anew, perhaps to another port, and one of the responder is answered with a RST
// by the gateway. Whether the connection was Opening or Closing does not count.
//
// An entry that has the connection's tuples is left alone: Revive returns nil if
// it is the connection's, and an error that is ErrTaken if it translates
// otherwise. One that translates alike but was opened by the other end gives way: the
// kernel makes it of a segment that came first. A translation that goes with the
// address of an interface (MASQUERADE) no longer ends with that address, and a
// zone is taken to be that of both directions. Helpers are not attached.
func (c *Conn) Revive(conn calls.Connection) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.revive(conn); err != nil {
		return fmt.Errorf("revive conntrack entry of TCP %v: %w", conn.Original, err)
	}
	return nil
}

// revive tries more than once, because what was in its way may have ended.
func (c *Conn) revive(conn calls.Connection) error {
	for _, t := range []calls.Tuple{conn.Original, conn.Reply} {
		if err := checkIPv4(t.Src.Addr(), t.Dst.Addr()); err != nil {
			return err
		}
	}
	var err error
	for range tries {
		err = c.exchange(createRequest(connectionEntry(conn)), nil, nil)
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

// stands looks at what is in the way of a connection's entry, and returns nil if
// it is the connection's own. gone says that nothing is in the way any more.
func (c *Conn) stands(conn calls.Connection) (gone bool, err error) {
	for _, t := range []calls.Tuple{conn.Original, conn.Reply} {
		e, err := c.get(tcp(t), conn.Zone)
		switch {
		case errors.Is(err, ErrNotFound):
			continue
		case err != nil:
			return false, fmt.Errorf("get the entry in the way: %w", err)
		case e.connection().Same(conn):
			return false, nil
		case e.orig.Tuple == conn.Reply && e.reply.Tuple == conn.Original:
			return true, c.remove(e.orig, conn.Zone, e.id)
		}
		return false, fmt.Errorf("%w: original %v, reply %v", ErrTaken, e.orig.Tuple, e.reply.Tuple)
	}
	return true, nil
}

// connectionEntry returns the entry of an established connection as it is sent,
// before NAT.
//
// Where one end is translated, the other end's address and port are named too.
// The kernel would else bind them by itself, and choose another port if it finds
// the present one in use.
func connectionEntry(conn calls.Connection) entry {
	e := entry{
		orig:    tcp(conn.Original),
		reply:   tcp(conn.Original.Reversed()),
		status:  statusConnected,
		timeout: ReviveTimeout,
		mark:    conn.Mark,
		both:    conn.Zone,
		tcp:     tcpEstablished,
	}
	if conn.Reply != conn.Original.Reversed() {
		e.natSrc, e.natDst = conn.Reply.Dst, conn.Reply.Src
	}
	return e
}
