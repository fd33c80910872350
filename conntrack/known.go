package conntrack

import (
	"errors"
	"fmt"

	"pptpalg/alg/calls"
)

// A query for one entry costs the kernel about two microseconds, whatever the size of its
// table. A dump walks the whole table, which holds the entries of all network namespaces: 4
// ms for 2^18 empty buckets. Meanwhile that processor handles no packet
// (ctnetlink_dump_table disables softirqs), and nobody in any namespace can create or
// delete an entry by netlink (nfnl_lock). So with few known entries, query each one instead
// of dumping the table.

// StandingConnections returns the connections whose original tuple is in the table, as the
// table has them.
func (c *Conn) StandingConnections(known []calls.Connection) (standing []calls.Connection, err error) {
	question := func(i int) request { return getRequest(tcp(known[i].Original), known[i].ZoneOf(calls.Initiator)) }
	err = c.ask(len(known), question, func(e *entry) { standing = append(standing, e.connection()) })
	if err != nil {
		return nil, fmt.Errorf("ask for %d TCP connections: %w", len(known), err)
	}
	return standing, nil
}

// StandingTraffic is Traffic for the given flows only.
func (c *Conn) StandingTraffic(into map[calls.Flow]calls.Traffic, flows []calls.Flow) error {
	question := func(i int) request { return getRequest(gre(enters(flows[i])), flows[i].Zone) }
	err := c.ask(len(flows), question, func(e *entry) { e.translated(into) })
	if err != nil {
		return fmt.Errorf("ask for %d GRE entries: %w", len(flows), err)
	}
	return nil
}

// ask sends n queries for one entry each, a batch in a datagram, and calls see with the
// entries found. Other requests get their turn between two batches.
func (c *Conn) ask(n int, question func(i int) request, see func(*entry)) error {
	for at := 0; at < n; at += batch {
		if err := c.askSome(at, min(at+batch, n), question, see); err != nil {
			return err
		}
	}
	return nil
}

// askSome sends the queries from one number to another. If a datagram fails, it sends the
// unanswered queries one by one, which also helps if the receive buffer is too small.
func (c *Conn) askSome(from, to int, question func(i int) request, see func(*entry)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.reset()
	for i := from; i < to; i++ {
		c.out.add(question(i))
	}
	var left []int
	for k, err := range c.send(func(_ int, e *entry) { see(e) }) {
		switch {
		case err == nil, errors.Is(err, ErrNotFound):
		case passing(err):
			left = append(left, from+k)
		default:
			return err
		}
	}
	for _, i := range left {
		err := c.exchange(question(i), nil, func(_ int, e *entry) { see(e) })
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}
