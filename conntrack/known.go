package conntrack

import (
	"errors"
	"fmt"

	"pptpalg/alg/calls"
)

// A question for one entry costs the kernel about two microseconds, however long its table
// is. A dump walks the whole table, which holds the entries of all network namespaces: 4 ms
// where it has 2^18 empty buckets. Meanwhile its processor handles no packet
// (ctnetlink_dump_table disables softirqs), and in all namespaces nobody can
// create or delete an entry by netlink (nfnl_lock). So who knows what to ask for, and it
// is not much, asks.

// StandingConnections returns those of the connections whose original tuple the table has,
// as the table has them.
func (c *Conn) StandingConnections(known []calls.Connection) (standing []calls.Connection, err error) {
	question := func(i int) request { return getRequest(tcp(known[i].Original), known[i].Zone) }
	err = c.ask(len(known), question, func(e *entry) { standing = append(standing, e.connection()) })
	if err != nil {
		return nil, fmt.Errorf("ask for %d TCP connections: %w", len(known), err)
	}
	return standing, nil
}

// StandingTraffic adds to into what the table has of the flows, as Traffic does.
func (c *Conn) StandingTraffic(into map[calls.Flow]calls.Traffic, flows []calls.Flow) error {
	question := func(i int) request { return getRequest(gre(enters(flows[i])), flows[i].Zone) }
	err := c.ask(len(flows), question, func(e *entry) { e.translated(into) })
	if err != nil {
		return fmt.Errorf("ask for %d GRE entries: %w", len(flows), err)
	}
	return nil
}

// ask asks n questions for one entry each, a batch in a datagram, and shows see the entries
// there are. Other requests get their turn between two batches.
func (c *Conn) ask(n int, question func(i int) request, see func(*entry)) error {
	for at := 0; at < n; at += batch {
		if err := c.askSome(at, min(at+batch, n), question, see); err != nil {
			return err
		}
	}
	return nil
}

// askSome asks the questions from one number to another. What a datagram that failed has
// left unanswered goes one by one, which is what a receive buffer that is too small wants.
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
