package journal

import (
	"bytes"
	"cmp"
	"slices"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/record"
)

// contents are store.Contents in the making.
type contents struct {
	store.Contents                // Calls in the order in which they were first kept, also those that are gone
	at             map[uint64]int // where in Calls a call is that is not gone, by number
}

// read takes all whole records and returns how many bytes they and the head have. A
// file of another identity has none.
func read(head string, b []byte) (_ store.Contents, whole int) {
	size := len(b)
	b, ours := bytes.CutPrefix(b, []byte(head))
	if !ours {
		return store.Contents{}, 0
	}
	c := contents{at: make(map[uint64]int)}
	for len(b) > 0 {
		kind, payload, rest, err := record.Next(b)
		if err != nil {
			break
		}
		b = rest
		c.add(kind, payload)
	}
	c.settle()
	return c.Contents, size - len(b)
}

// settle leaves the calls that are not gone, by number.
func (c *contents) settle() {
	if len(c.at) == 0 {
		c.Calls = nil
		return
	}
	left := c.Calls[:0]
	for i := range c.Calls {
		if at, known := c.at[c.Calls[i].Number]; known && at == i {
			left = append(left, c.Calls[i])
		}
	}
	c.Calls = left
	slices.SortFunc(c.Calls, func(a, b calls.Record) int { return cmp.Compare(a.Number, b.Number) })
}

// add takes in one record. One of a kind or a length that is unknown is left out.
func (c *contents) add(kind byte, payload []byte) {
	switch kind {
	case record.Kept:
		if r, err := record.DecodeKept(payload); err == nil {
			c.keep(&r)
		}
	case record.Gone:
		number, at, err := record.DecodeGone(payload)
		if i, known := c.at[number]; err == nil && known {
			c.outdate(&c.Calls[i], nil)
			c.Gone = append(c.Gone, store.Gone{Record: c.Calls[i], At: at})
			delete(c.at, number)
		}
	case record.Rest:
		if r, err := record.DecodeRest(payload); err == nil {
			c.Resting = append(c.Resting, r)
		}
	}
}

// keep takes in a call as it is.
func (c *contents) keep(r *calls.Record) {
	i, known := c.at[r.Number]
	if !known {
		c.at[r.Number] = len(c.Calls)
		c.Calls = append(c.Calls, *r)
		return
	}
	c.outdate(&c.Calls[i], r.Flows())
	c.Calls[i] = *r
}

// outdate takes note of those of a record's flows that are not needed any more.
func (c *contents) outdate(r *calls.Record, needed []calls.Flow) {
	for _, f := range r.AllFlows() {
		if !slices.Contains(needed, f) {
			c.Stale = append(c.Stale, f)
		}
	}
}
