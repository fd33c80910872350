package ctnetlink

import (
	"errors"
	"slices"

	"github.com/mdlayher/netlink"

	"pptpalg/conntrack"
)

// batch is how many requests are sent in one datagram. Each may be answered by an
// entry or an error in a buffer of its own, and these must fit into the receive
// buffer: some 200 do into the one that a socket has unasked, 208 KiB
// (net.core.rmem_default). Where they do not, the kernel says so (ENOBUFS), and
// the flows of the batch go one by one.
const batch = 64

// CreateAll does as Create does with each flow, in batches, and returns the
// errors of those that could not be created; nil if there are none. Where flows
// get in each other's way, which of them stays is not said.
//
// Other requests get their turn between batches, so that this may go on for long
// on a Conn that others use.
func (c *Conn) CreateAll(flows []conntrack.Flow) (failed map[conntrack.Flow]error) {
	return inBatches(flows, c.createTogether, c.Create)
}

// DeleteAll does as Delete does with each flow, in batches, and returns the
// errors of those that could not be deleted; nil if there are none. Other
// requests get their turn between batches.
func (c *Conn) DeleteAll(flows []conntrack.Flow) (failed map[conntrack.Flow]error) {
	return inBatches(flows, c.deleteTogether, c.Delete)
}

// inBatches tries flows together, which returns those that it could not do, and
// these each alone. That is also how a flow gets its error.
func inBatches(flows []conntrack.Flow, together func([]conntrack.Flow) []conntrack.Flow, alone func(conntrack.Flow) error) map[conntrack.Flow]error {
	var failed map[conntrack.Flow]error
	for some := range slices.Chunk(flows, batch) {
		for _, f := range together(some) {
			err := alone(f)
			if err == nil {
				continue
			}
			if failed == nil {
				failed = make(map[conntrack.Flow]error)
			}
			failed[f] = err
		}
	}
	return failed
}

// createTogether creates the flows that nothing stands in the way of, and returns
// those of the rest that have no entry.
func (c *Conn) createTogether(flows []conntrack.Flow) (rest []conntrack.Flow) {
	flows, rest = encodable(flows)
	requests := make([]request, len(flows))
	for i, f := range flows {
		requests[i] = createRequest(flowEntry(f))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var refused []conntrack.Flow
	for i, err := range c.together(requests, nil) {
		if err != nil {
			refused = append(refused, flows[i])
		}
	}
	return append(rest, c.missing(refused)...)
}

// missing returns the flows that have no entry, or one with another mark.
func (c *Conn) missing(flows []conntrack.Flow) (rest []conntrack.Flow) {
	stand := make([]bool, len(flows))
	c.getTogether(flows, func(i int, e entry) {
		f := flows[i]
		stand[i] = e.carries(f) || e.translates(f) && e.mark == f.Mark
	})
	for i, f := range flows {
		if !stand[i] {
			rest = append(rest, f)
		}
	}
	return rest
}

// deleteTogether is delete of each flow: it asks for all entries, and takes out
// those that are the flows', by their IDs. It returns the flows with which that
// failed.
func (c *Conn) deleteTogether(flows []conntrack.Flow) (rest []conntrack.Flow) {
	flows, rest = encodable(flows)
	var deletes []request
	var found []conntrack.Flow
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := c.getTogether(flows, func(i int, e entry) {
		if f := flows[i]; e.translates(f) {
			deletes = append(deletes, deleteRequest(e.orig, f.Zone, e.id))
			found = append(found, f)
		}
	})
	rest = append(rest, lost(flows, errs)...)
	return append(rest, lost(found, c.together(deletes, nil))...)
}

// lost returns the flows whose error is another than ErrNotFound.
func lost(flows []conntrack.Flow, errs []error) (left []conntrack.Flow) {
	for i, err := range errs {
		if err != nil && !errors.Is(err, ErrNotFound) {
			left = append(left, flows[i])
		}
	}
	return left
}

// encodable parts the flows that a request can carry from the others.
func encodable(flows []conntrack.Flow) (good, bad []conntrack.Flow) {
	for _, f := range flows {
		if checkFlow(f) == nil {
			good = append(good, f)
		} else {
			bad = append(bad, f)
		}
	}
	return good, bad
}

// getTogether looks up the flows' original tuples.
func (c *Conn) getTogether(flows []conntrack.Flow, see func(int, entry)) []error {
	requests := make([]request, len(flows))
	for i, f := range flows {
		requests[i] = getRequest(gre(enters(f)), f.Zone)
	}
	return c.together(requests, see)
}

// together sends requests in one datagram, once, and returns what became of each.
// Like exchange, it is called with mu held.
func (c *Conn) together(requests []request, see func(int, entry)) []error {
	if len(requests) == 0 {
		return nil
	}
	ms := make([]netlink.Message, len(requests))
	for i, r := range requests {
		ms[i] = r.message()
		if i < len(requests)-1 {
			ms[i].Header.Flags &^= netlink.Acknowledge
		}
	}
	return c.try(ms, see)
}
