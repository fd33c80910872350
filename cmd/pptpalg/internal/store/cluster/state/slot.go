package state

import (
	"cmp"
	"slices"
)

// Roster is who is up, and who owns what.
type Roster struct {
	Members map[int]Seat // by slot
	Slots   map[int]Seat // who had a slot last
	Beats   map[int]Beat // what is known of that
	Owners  map[string]Holding
	Strange int // items that cannot be read
}

// Seat is a slot and who has it.
type Seat struct {
	Member   Member
	Revision int64
}

// Holding is a public address and who owns it.
type Holding struct {
	Owner    Owner
	Revision int64
}

// ReadRoster reads what the store has below MemberSection, OwnerSection and SlotSection.
func ReadRoster(items []Item) Roster {
	r := Roster{Members: map[int]Seat{}, Slots: map[int]Seat{}, Beats: map[int]Beat{}, Owners: map[string]Holding{}}
	for _, it := range items {
		if !r.add(it) {
			r.Strange++
		}
	}
	return r
}

func (r *Roster) add(it Item) (ok bool) {
	section, rest := cut(it.Key)
	switch section {
	case OwnerSection:
		public, ok := parseAddr(rest)
		owner, err := DecodeOwner(it.Value)
		if ok = ok && err == nil; ok {
			r.Owners[public.String()] = Holding{owner, it.Revision}
		}
		return ok
	case MemberSection:
		slot, ok := parseSlot(rest)
		m, err := DecodeMember(slot, it.Value)
		if ok = ok && err == nil; ok {
			r.Members[slot] = Seat{m, it.Revision}
		}
		return ok
	case SlotSection:
		slot, ok := parseSlot(rest)
		beat, err := DecodeBeat(it.Value)
		if ok = ok && err == nil; ok {
			r.Slots[slot] = Seat{Member{Slot: slot, Name: beat.Name}, it.Revision}
			r.Beats[slot] = beat
		}
		return ok
	}
	return false
}

// cut splits a key behind its section.
func cut(key string) (section, rest string) {
	i := slices.Index([]byte(key), '/')
	return key[:i+1], key[i+1:]
}

// Seat chooses a slot for a gateway and returns the guard under which it may have it: the one
// it has, which its calls are numbered by, else the one it had last, else one that nobody
// has had, else the one that somebody had longest ago. It reports false if all are taken. A
// gateway that has none yet says -1.
func (r *Roster) Seat(name string, has int) (slot int, guard Guard, ok bool) {
	for s, seat := range r.Members {
		if seat.Member.Name == name {
			return s, Guard{MemberKey(s), seat.Revision}, true
		}
	}
	var free []int
	for s := range Slots {
		if _, taken := r.Members[s]; !taken {
			free = append(free, s)
		}
	}
	if len(free) == 0 {
		return 0, Guard{}, false
	}
	wish := func(s int) int {
		switch {
		case s == has:
			return 0
		case r.Slots[s].Member.Name == name:
			return 1
		}
		return 2
	}
	slot = slices.MinFunc(free, func(a, b int) int {
		return cmp.Or(cmp.Compare(wish(a), wish(b)), cmp.Compare(r.Slots[a].Revision, r.Slots[b].Revision), cmp.Compare(a, b))
	})
	return slot, Guard{MemberKey(slot), 0}, true
}
