package calls

import "time"

// Reserve keeps a flow's public ID from being given to anybody. It is for a flow that the
// kernel translates and that belongs to no call of the table: its call may live. It reports
// false if the ID is in use or resting already. Who has reserved an ID must Unreserve it.
func (t *Table) Reserve(f Flow) bool {
	key, lies := f.space()
	if !lies {
		return true
	}
	s := t.space(key)
	if !s.free(f.Key) {
		return false
	}
	s.take(f.Key)
	return true
}

// Unreserve has the public ID rest of a flow that was reserved, and is gone.
func (t *Table) Unreserve(f Flow, now time.Time) {
	if key, lies := f.space(); lies {
		t.layDown(&rest{key: key, owner: as4(f.NewDst), id: f.Key, until: now.Add(t.cfg.Rest)})
	}
}

// space returns where the flow's public ID lies, false if it is one that its end has chosen.
func (f Flow) space() (spaceKey, bool) {
	return spaceKey{as4(f.Dst), as4(f.Src), f.Zone}, f.Dst != f.NewDst && f.Key != 0
}
