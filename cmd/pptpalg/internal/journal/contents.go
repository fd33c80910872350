package journal

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"pptpalg/conntrack"
)

// Contents is what a journal remembers.
type Contents struct {
	Calls   []conntrack.Record // in the order of their numbers
	Gone    []Gone             // calls that are over, the oldest first
	Resting []conntrack.Resting
	// Stale are flows that calls no longer need. The kernel may still have their
	// entries, if the daemon died before it deleted them.
	Stale []conntrack.Flow
}

// Gone is a call that is over. Its public Call IDs may still rest.
type Gone struct {
	Record conntrack.Record
	At     time.Time
}

// read takes all whole records and returns how many bytes they and the head have. A
// file of another identity has none.
func read(head string, b []byte) (c Contents, whole int) {
	size := len(b)
	b, ours := bytes.CutPrefix(b, []byte(head))
	if !ours {
		return Contents{}, 0
	}
	calls := make(map[uint64]conntrack.Record)
	for len(b) > 0 {
		kind, payload, rest, err := next(b)
		if err != nil {
			break
		}
		b = rest
		c.add(kind, payload, calls)
	}
	byNumber := func(a, b conntrack.Record) int { return cmp.Compare(a.Number, b.Number) }
	c.Calls = slices.SortedFunc(maps.Values(calls), byNumber)
	return c, size - len(b)
}

// add takes in one record. One of a kind or a length that is unknown is left out.
func (c *Contents) add(kind byte, payload []byte, calls map[uint64]conntrack.Record) {
	switch kind {
	case kindKept:
		if r, err := decodeKept(payload); err == nil {
			c.outdate(calls[r.Number], r.Flows())
			calls[r.Number] = r
		}
	case kindGone:
		number, at, err := decodeGone(payload)
		if r, known := calls[number]; err == nil && known {
			c.outdate(r, nil)
			c.Gone = append(c.Gone, Gone{r, at})
			delete(calls, number)
		}
	case kindRest:
		if r, err := decodeRest(payload); err == nil {
			c.Resting = append(c.Resting, r)
		}
	}
}

// outdate takes note of those of a record's flows that are not needed any more.
func (c *Contents) outdate(r conntrack.Record, needed []conntrack.Flow) {
	for _, f := range r.AllFlows() {
		if !slices.Contains(needed, f) {
			c.Stale = append(c.Stale, f)
		}
	}
}
