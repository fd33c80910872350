package calls

import "time"

// Reserve prevents the table from giving out a flow's public ID. It is for a flow that the
// kernel translates and that belongs to no call of the table, because its call may be up.
// It reports false if the ID is in use or resting already. The caller must Unreserve a
// reserved ID.
func (t *Table) Reserve(f Flow) bool {
	key, lies := f.space()
	if !lies {
		return true
	}
	s := t.space(key)
	if s.has(f.Key) {
		return false
	}
	s.take(f.Key)
	return true
}

// Unreserve lets the public ID of a reserved flow rest, once the flow is gone.
func (t *Table) Unreserve(f Flow, now time.Time) {
	if key, lies := f.space(); lies {
		t.layDown(&rest{key: key, owner: as4(f.NewDst), id: f.Key, until: now.Add(t.cfg.Rest)})
	}
}

// space returns where the flow's public ID lies, false if it is one that its end has chosen.
func (f Flow) space() (spaceKey, bool) {
	return spaceKey{as4(f.Dst), as4(f.Src), f.Zone}, f.Dst != f.NewDst && f.Key != 0
}
