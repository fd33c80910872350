package journal

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/record"
)

// contents are store.Contents in the making.
type contents struct{ store.Contents }

// read takes all whole records and returns how many bytes they and the head have. A
// file of another identity has none.
func read(head string, b []byte) (_ store.Contents, whole int) {
	size := len(b)
	b, ours := bytes.CutPrefix(b, []byte(head))
	if !ours {
		return store.Contents{}, 0
	}
	var c contents
	all := make(map[uint64]calls.Record)
	for len(b) > 0 {
		kind, payload, rest, err := record.Next(b)
		if err != nil {
			break
		}
		b = rest
		c.add(kind, payload, all)
	}
	byNumber := func(a, b calls.Record) int { return cmp.Compare(a.Number, b.Number) }
	c.Calls = slices.SortedFunc(maps.Values(all), byNumber)
	return c.Contents, size - len(b)
}

// add takes in one record. One of a kind or a length that is unknown is left out.
func (c *contents) add(kind byte, payload []byte, all map[uint64]calls.Record) {
	switch kind {
	case record.Kept:
		if r, err := record.DecodeKept(payload); err == nil {
			c.outdate(all[r.Number], r.Flows())
			all[r.Number] = r
		}
	case record.Gone:
		number, at, err := record.DecodeGone(payload)
		if r, known := all[number]; err == nil && known {
			c.outdate(r, nil)
			c.Gone = append(c.Gone, store.Gone{Record: r, At: at})
			delete(all, number)
		}
	case record.Rest:
		if r, err := record.DecodeRest(payload); err == nil {
			c.Resting = append(c.Resting, r)
		}
	}
}

// outdate takes note of those of a record's flows that are not needed any more.
func (c *contents) outdate(r calls.Record, needed []calls.Flow) {
	for _, f := range r.AllFlows() {
		if !slices.Contains(needed, f) {
			c.Stale = append(c.Stale, f)
		}
	}
}
