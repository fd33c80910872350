package calls

// crowd knows how many IDs are taken in the fullest space, without a look at every
// space: a take or a release changes one of them by one.
type crowd struct {
	spaces []uint32 // how many spaces have so many IDs taken, by that number; that of 0 is not kept
	most   int
}

// moved records that a space which had so many IDs taken now has one more or less.
func (c *crowd) moved(from, to int) {
	for len(c.spaces) <= to {
		c.spaces = append(c.spaces, 0)
	}
	if from > 0 {
		c.spaces[from]--
	}
	if to > 0 {
		c.spaces[to]++
	}
	if c.most = max(c.most, to); c.most > 0 && c.spaces[c.most] == 0 {
		c.most--
	}
}

// idsOfSpace is how many public IDs a space has: 1…65535.
const idsOfSpace = 65535

// FullestSpace returns how many public IDs are in use, reserved or resting in the fullest
// space, and how many may be. A space belongs to one public address and one peer. Its cost
// does not depend on the number of spaces.
func (t *Table) FullestSpace() (taken, limit int) {
	return t.crowd.most, min(t.cfg.CallsPerSpace, idsOfSpace)
}
