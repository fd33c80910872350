package gateway

import (
	"hash/maphash"
	"slices"

	"pptpalg/alg/calls"
)

// older are the control connections that the kernel had when the daemon started: it may have seen no packet of them,
// and nothing is wrong with that. It keeps hashes, as there may be a hundred thousand.
type older struct {
	seed   maphash.Seed
	hashes []uint64 // sorted
}

func newOlder(live []calls.Connection) *older {
	o := &older{maphash.MakeSeed(), make([]uint64, 0, len(live))}
	for _, c := range live {
		o.hashes = append(o.hashes, maphash.Comparable(o.seed, c.Original))
	}
	slices.Sort(o.hashes)
	return o
}

// of returns the original tuples of those of connections that are among them.
func (o *older) of(connections []calls.Connection) (some []calls.Tuple) {
	if o == nil {
		return nil
	}
	for _, c := range connections {
		if _, found := slices.BinarySearch(o.hashes, maphash.Comparable(o.seed, c.Original)); found {
			some = append(some, c.Original)
		}
	}
	return some
}
