package calls

import "pptpalg/alg/pptp"

// Several gateways may share their calls. Then each has a slot, a number that no other one
// has, so that no two calls have one number.

// slotShift is where a call's number has the slot of the gateway that opened it. The rest
// counts the calls of this slot.
const slotShift = 56

// nextNumber returns the number for a call that is opened here.
func (t *Table) nextNumber() uint64 {
	slot := t.cfg.Slot
	t.opened[slot]++
	return uint64(slot)<<slotShift | t.opened[slot]
}

// LastNumber returns the number of the call that was opened here last.
func (t *Table) LastNumber() uint64 {
	return uint64(t.cfg.Slot)<<slotShift | t.opened[t.cfg.Slot]
}

// Opens reports whether a number is one that this table gives, or that was given before there were
// slots.
func (t *Table) Opens(n uint64) bool {
	slot := uint8(n >> slotShift)
	return slot == 0 || slot == t.cfg.Slot
}

// numbered takes note of a number that a call has, or had.
func (t *Table) numbered(n uint64) {
	slot := uint8(n >> slotShift)
	t.opened[slot] = max(t.opened[slot], n&(1<<slotShift-1))
}

// SetSlot changes Config.Slot and Config.Share. Calls keep their numbers and IDs.
func (t *Table) SetSlot(slot uint8, s Share) {
	t.cfg.Slot, t.cfg.Share = slot, s
	for _, sp := range t.spaces {
		sp.share = s
	}
}

// Share is a part of the public IDs: of each Of that follow each other one, in each page
// the same. Gateways that have one public address at the same time give no ID twice if
// each has a share of its own. The zero value is all IDs.
type Share struct {
	Of   uint8 // how many shares there are: 0 or 1 for one, or 2, 4, 8 or 16
	Mine uint8 // below Of
}

// mostShares is the maximum of Share.Of.
const mostShares = 16

// Valid reports whether there is such a share.
func (s Share) Valid() bool {
	return s.Of <= mostShares && s.Of&(s.Of-1) == 0 && s.Mine < s.of()
}

func (s Share) of() uint8 { return max(s.Of, 1) }

// has reports whether an ID is in the share.
func (s Share) has(id pptp.CallID) bool { return s.low(id.Low()) == id.Low() }

// low returns the second byte of the ID in the share that has the same place among the shares'.
func (s Share) low(b byte) byte { return b&^(s.of()-1) | s.Mine }

// mask has the bits of a page's word that are in the share. Of divides the word's length, so
// all words have the same.
func (s Share) mask() uint64 {
	all := ^uint64(0)
	return all / (1<<s.of() - 1) << s.Mine
}
