package conntrack

import (
	"errors"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// batch is how many changes are sent in one datagram. The kernel may answer each of their
// requests (two for a delete that counts) with an entry or an error in a buffer of its own,
// and these must fit into the receive buffer. Some 200 fit into a socket's default buffer
// of 208 KiB (net.core.rmem_default). If they do not fit, the kernel says so (ENOBUFS), and
// the changes of the batch are sent one by one.
const batch = 64

// Apply carries out changes in their order. It does an Install as Create does, and for a
// Remove it deletes at once whatever has the flow's original tuple. So a Remove must follow
// directly from the end of its flow, when no other flow can have the tuple, and no other
// entry has a right to it. Other kinds are skipped. Apply returns the errors of the changes
// that failed, by their index in changes; nil if none failed. A failure does not stop the
// rest.
//
// Changes that do not conflict share a datagram. ApplyLate takes two if something has to be
// removed. Other requests get their turn between two batches, so this may take long on a
// Conn that others use.
func (c *Conn) Apply(changes []calls.Event) (failed map[int]error) {
	return c.applyAll(changes, manner{})
}

// ApplyCounting is Apply that also calls counted with what the flows of Removes have
// carried, if their entries count (net.netfilter.nf_conntrack_acct). The query for an entry
// is in one datagram with its delete, right before it: it misses only what comes in the
// microsecond between the two. If counted is not called for a flow, its entry was not
// there, or did not count. counted may not use the Conn.
func (c *Conn) ApplyCounting(changes []calls.Event, counted func(calls.Flow, calls.Traffic)) (failed map[int]error) {
	return c.applyAll(changes, manner{counted: counted})
}

// ApplyLate is Apply for flows that ended some time ago: like Delete, it does not touch an
// entry that is not the flow's own.
func (c *Conn) ApplyLate(changes []calls.Event) (failed map[int]error) {
	return c.applyAll(changes, manner{late: true})
}

// manner is how changes are applied.
type manner struct {
	late    bool                            // as by ApplyLate
	counted func(calls.Flow, calls.Traffic) // as by ApplyCounting; may be nil
}

func (c *Conn) applyAll(changes []calls.Event, how manner) (failed map[int]error) {
	for at := 0; at < len(changes); {
		n := together(changes[at:])
		failed = c.apply(changes[at:at+n], how, at, failed)
		at += n
	}
	return failed
}

// together returns how many of the changes, at least one, can share datagrams. A change
// cannot if it has a tuple in common with an Install before it, because it must find that
// one's entry.
func together(changes []calls.Event) int {
	n := min(len(changes), batch)
	for i := 1; i < n; i++ {
		for j := range i {
			if changes[j].Kind == calls.Install && touches(&changes[i]) && clash(&changes[i].Flow, &changes[j].Flow) {
				return i
			}
		}
	}
	return n
}

// touches reports whether a change is one of the table's.
func touches(c *calls.Event) bool {
	return c.Kind == calls.Install || c.Kind == calls.Remove
}

// clash reports whether the entries of two flows have a tuple in common.
func clash(f, g *calls.Flow) bool {
	return (f.Zone == g.Zone || f.OneWay || g.OneWay) &&
		(f.Key == g.Key && f.Src == g.Src && f.Dst == g.Dst ||
			f.NewKey == g.NewKey && f.NewSrc == g.NewSrc && f.NewDst == g.NewDst ||
			f.Key|g.NewKey == 0 && f.Src == g.NewDst && f.Dst == g.NewSrc ||
			f.NewKey|g.Key == 0 && f.NewDst == g.Src && f.NewSrc == g.Dst)
}

// step is what remains to be done for a change.
type step struct {
	do  deed
	id  uint32 // of the entry to be taken out
	err error  // of the datagram that it went with
}

type deed uint8

const (
	nothing deed = iota
	ask          // for the entry that is to be taken out
	send         // in the datagram of the batch
	alone        // in a datagram of its own, as Create and Delete do
)

// apply carries out changes that can go together, the first of them with the index first,
// and adds to failed.
func (c *Conn) apply(changes []calls.Event, how manner, first int, failed map[int]error) map[int]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plan(changes, how.late)
	c.identify(changes)
	c.sendSteps(changes, how.counted)
	for i := range changes {
		err := c.rest(&changes[i], c.steps[i])
		if err == nil {
			continue
		}
		if failed == nil {
			failed = make(map[int]error)
		}
		failed[first+i] = err
	}
	return failed
}

// plan chooses the first step of each change. A flow that cannot be encoded goes alone to
// get its error. An entry with the original tuple of a flow to Call ID 0 may be a tunnel's,
// which a delete would hit: so it asks for the flow's own entry first.
func (c *Conn) plan(changes []calls.Event, late bool) {
	c.steps = c.steps[:0]
	for i := range changes {
		var s step
		switch {
		case !touches(&changes[i]):
		case checkFlow(changes[i].Flow) != nil:
			s.do = alone
		case changes[i].Kind == calls.Remove && (late || changes[i].Flow.Key == 0):
			s.do = ask
		default:
			s.do = send
		}
		c.steps = append(c.steps, s)
	}
}

// identify looks for the entries that are to be taken out, as take does.
func (c *Conn) identify(changes []calls.Event) {
	c.write(ask, func(i int) {
		f := &changes[i].Flow
		c.out.add(getRequest(gre(enters(*f)), f.Zone))
	})
	errs := c.send(func(k int, e *entry) {
		if s := &c.steps[c.order[k]]; e.translates(changes[c.order[k]].Flow) {
			s.do, s.id = send, e.id
		} else {
			s.do = nothing
		}
	})
	c.settle(errs)
}

// sendSteps creates and deletes entries, and before a delete queries what the entry has
// counted, if that is wanted.
func (c *Conn) sendSteps(changes []calls.Event, counted func(calls.Flow, calls.Traffic)) {
	c.write(send, func(i int) {
		f := &changes[i].Flow
		if changes[i].Kind == calls.Install {
			c.out.add(createRequest(c.entryOf(*f)))
			return
		}
		if counted != nil {
			c.out.add(getRequest(gre(enters(*f)), f.Zone))
			c.order = append(c.order, i)
		}
		c.out.add(deleteRequest(gre(enters(*f)), f.Zone, c.steps[i].id))
	})
	errs := c.send(func(k int, e *entry) {
		if f := changes[c.order[k]].Flow; counted != nil && e.translates(f) && e.counts[0].Counted {
			counted(f, e.counts[0])
		}
	})
	for _, i := range c.order {
		c.steps[i].do = nothing
	}
	c.settle(errs)
}

// write fills the outbox with the requests of those changes whose step is d. The last
// one that add adds for a change is entered in the order here, those before it by add.
func (c *Conn) write(d deed, add func(i int)) {
	c.out.reset()
	c.order = c.order[:0]
	for i := range c.steps {
		if c.steps[i].do == d {
			add(i)
			c.order = append(c.order, i)
		}
	}
}

// settle records which changes have to go alone. For a Remove, an entry that is gone is
// success; an Install never gets this answer.
func (c *Conn) settle(errs []error) {
	for k, err := range errs {
		s := &c.steps[c.order[k]]
		switch {
		case err == nil:
		case errors.Is(err, ErrNotFound):
			s.do = nothing
		default:
			s.do, s.err = alone, err
		}
	}
}

// rest does what the datagrams of the batch have not done. If they found something in the
// way of an entry, it continues as Create does; after other errors it tries again.
func (c *Conn) rest(change *calls.Event, s step) error {
	switch {
	case s.do != alone:
		return nil
	case change.Kind == calls.Remove:
		return c.delete(change.Flow)
	case errors.Is(s.err, unix.EEXIST):
		return c.create(change.Flow, s.err)
	}
	return c.create(change.Flow, nil)
}
