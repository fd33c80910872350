package state

import (
	"errors"
	"hash/crc32"
	"maps"
	"net/netip"
	"slices"

	"pptpalg/alg/calls"
)

// ChangeKind is what a change in the shared store means for a gateway.
type ChangeKind uint8

// The kinds of changes.
const (
	Kept  ChangeKind = iota // a call of another gateway is as Call says
	Gone                    // it is over
	Owned                   // who owns Public
)

// Change is one thing that another gateway has done, or, if Mine, that this gateway owns
// Public from now on: all that the former owner has written came before.
type Change struct {
	Kind   ChangeKind
	Public netip.Addr
	Owner  string // the name of who owns Public, "" for nobody
	From   Owner  // of Owned: who owned it before
	To     Owner  // of Owned: who owns it now
	Mine   bool   // of Owned: this gateway owns it
	// Offered says that the call is below a public address that this gateway owns, and new, or newly over, or
	// another gateway gave its number: who had the address before has written it too late, unless it is this
	// gateway's own word.
	Offered bool
	// Call is the call of Kept and Gone. Of one that is gone, Record may have nothing but
	// its number, and At may be zero, if nobody has said more.
	Call Call
}

// Mirror knows what the shared store has, but for the values, and tells what is new. Begin,
// Load and End compare with all that the store has; Update follows what changes.
type Mirror struct {
	me       Owner
	slot     uint8 // of the calls that this gateway numbers; 0 if it is not known
	mark     Mark
	restored int64 // the revision with which the store came back after it had lost data
	owners   map[netip.Addr]Holding
	since    map[netip.Addr]Holding // as owners, with the first revision of each term that was seen
	members  map[int]Member
	calls    map[CallKey]mirrored
	round    uint8 // of Begin
	strange  uint64
	unknown  uint64
	loads    bool // Begin was, and End was not
	doubts   int
	taken    []Change // Owned and Mine: they are told at End, when the calls are known
}

type mirrored struct {
	sum   uint32 // of the value
	round uint8
	gone  bool
	doubt bool // the store has lost it; its owner may write it again
}

// NewMirror returns a mirror of nothing.
func NewMirror(me Owner) *Mirror {
	return &Mirror{me: me, owners: map[netip.Addr]Holding{}, since: map[netip.Addr]Holding{}, members: map[int]Member{}, calls: map[CallKey]mirrored{}}
}

// Number says which slot is in the numbers of this gateway's calls.
func (m *Mirror) Number(slot uint8) { m.slot = slot }

// Mark returns the revision that the mirror has reached.
func (m *Mirror) Mark() Mark { return m.mark }

// Strange returns how many items made no sense.
func (m *Mirror) Strange() uint64 { return m.strange }

// Unknown returns how many values were of a kind that this release does not know.
func (m *Mirror) Unknown() uint64 { return m.unknown }

// Followed returns how many calls there are, those that are over included.
func (m *Mirror) Followed() int { return len(m.calls) }

// Owner returns who owns a public address, and the revision since when.
func (m *Mirror) Owner(public netip.Addr) Holding { return m.owners[public] }

// Owners returns all public addresses that somebody owns.
func (m *Mirror) Owners() map[netip.Addr]Holding { return maps.Clone(m.owners) }

// Members returns the gateways that are up, by slot.
func (m *Mirror) Members() map[int]Member { return maps.Clone(m.members) }

// Member returns the gateway that is up in a slot.
func (m *Mirror) Member(slot int) (member Member, up bool) {
	member, up = m.members[slot]
	return member, up
}

// Has reports whether the store has a call as it is now.
func (m *Mirror) Has(key CallKey, value []byte) bool {
	had, known := m.calls[key]
	return known && had.sum == sum(value)
}

// Living returns the calls below a public address that are not over.
func (m *Mirror) Living(public netip.Addr) (all []CallKey) {
	for key, had := range m.calls {
		if key.Public == public && !had.gone {
			all = append(all, key)
		}
	}
	return all
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(value []byte) uint32 { return crc32.Checksum(value, castagnoli) }

// Begin says who owns what and who is up, as of a mark. The calls follow. Restored reports
// that the store has lost data: it was restored from a backup, or begun anew. Then nothing
// ends, and nobody loses a public address, just because it is not there: its owner will write
// it again.
func (m *Mirror) Begin(mark Mark, roster []Item) (changes []Change, restored bool) {
	was := m.owners
	if len(m.taken) > 0 { // the load before has not come to its end
		for _, c := range m.taken {
			was[c.Public] = Holding{Owner: c.From} // of another revision than any
		}
		m.taken = nil
	}
	m.round++
	m.loads = true
	m.owners, m.members = make(map[netip.Addr]Holding), make(map[int]Member)
	all := m.take(roster)
	restored = m.mark != Mark{} && m.mark.Lost(mark)
	for public, before := range was {
		restored = restored || m.owners[public].Revision < before.Revision
	}
	m.mark.Cluster = mark.Cluster
	if restored {
		m.restored = mark.Revision
		for public, before := range was {
			m.owners[public] = Holding{before.Owner, m.owners[public].Revision}
		}
		m.since = maps.Clone(m.owners)
	}
	for _, c := range all {
		now, before := m.owners[c.Public].Owner, was[c.Public]
		told := Change{Kind: Owned, Public: c.Public, Owner: now.Name, From: before.Owner, To: now, Mine: now.Is(m.me)}
		switch {
		case now == told.From && told.Mine && m.owners[c.Public].Revision != before.Revision:
			m.taken = append(m.taken, told) // it was taken anew, and nobody was in between
		case now == told.From:
		case told.Mine:
			if told.From.Is(m.me) { // it was without it for a time, and others may have had it
				changes = append(changes, Change{Kind: Owned, Public: c.Public, From: told.From})
				told.From = Owner{}
			}
			m.taken = append(m.taken, told)
		default:
			changes = append(changes, told)
		}
	}
	for public, before := range was {
		if _, there := m.owners[public]; !there {
			changes = append(changes, Change{Kind: Owned, Public: public, From: before.Owner})
		}
	}
	return changes, restored
}

// End says that these were all calls. Restored is what Begin has said. A call that is not there is not over if
// the store is yet to be told of it.
func (m *Mirror) End(mark Mark, restored bool, untold func(CallKey) bool) (changes []Change) {
	m.doubts = 0
	for key, had := range m.calls {
		switch {
		case had.round == m.round, untold(key):
		case !had.gone && (restored || had.doubt && m.owners[key.Public].Revision <= m.restored):
			m.calls[key] = mirrored{round: m.round, doubt: true}
			m.doubts++
		default:
			changes = append(changes, m.delete(key)...)
		}
	}
	changes = append(changes, m.taken...)
	m.mark, m.taken, m.loads = mark, nil, false
	return changes
}

// mine reports whether what is below a public address is this gateway's own. It is not while
// it is not told that it owns the address.
func (m *Mirror) mine(public netip.Addr) bool {
	taken := slices.ContainsFunc(m.taken, func(c Change) bool { return c.Public == public && c.From != c.To })
	return m.owners[public].Owner.Is(m.me) && !taken
}

// Doubts returns how many calls there were at the last End that the store has lost and that
// nobody has written again. When their owner has had the time, load again: the others are
// over.
func (m *Mirror) Doubts() int { return m.doubts }

// Doubt says that the gateway may have calls otherwise than the store has them: with the next
// Load, all of them are told, and what is not there is over.
func (m *Mirror) Doubt(keys ...CallKey) {
	for _, key := range keys {
		had, known := m.calls[key]
		if !known || had.round != m.round || !m.loads {
			had.round = m.round - 1 // it has not come in this round
		}
		m.calls[key] = mirrored{round: had.round}
	}
}

// Load takes in some of all calls.
func (m *Mirror) Load(items []Item) []Change { return m.take(items) }

// Update takes in what has changed since, in order.
func (m *Mirror) Update(items []Item) []Change {
	changes := m.take(items)
	for _, it := range items {
		m.mark.Revision = max(m.mark.Revision, it.Revision)
	}
	return changes
}

func (m *Mirror) take(items []Item) (changes []Change) {
	for _, it := range items {
		section, rest := cut(it.Key)
		ok := true
		switch section {
		case CallSection:
			changes, ok = m.call(changes, rest, it)
		case OwnerSection:
			changes, ok = m.owner(changes, rest, it)
		case MemberSection:
			ok = m.member(rest, it)
		case SlotSection, CheckSection: // they say nothing to those who are up
		default:
			ok = false
		}
		if !ok {
			m.strange++
		}
	}
	return changes
}

func (m *Mirror) owner(changes []Change, rest string, it Item) ([]Change, bool) {
	public, ok := parseAddr(rest)
	if !ok {
		return changes, false
	}
	if it.Value == nil {
		was := m.owners[public].Owner
		delete(m.owners, public)
		return append(changes, Change{Kind: Owned, Public: public, From: was}), true
	}
	owner, err := DecodeOwner(it.Value)
	if err != nil {
		return changes, false
	}
	was := m.owners[public].Owner
	m.owners[public] = Holding{owner, it.Revision}
	if m.since[public].Owner != owner { // else the fence was renewed
		m.since[public] = m.owners[public]
	}
	return append(changes, Change{Kind: Owned, Public: public, Owner: owner.Name, From: was, To: owner, Mine: owner.Is(m.me)}), true
}

func (m *Mirror) member(rest string, it Item) bool {
	slot, ok := parseSlot(rest)
	if !ok {
		return false
	}
	if it.Value == nil {
		delete(m.members, slot)
		return true
	}
	member, err := DecodeMember(slot, it.Value)
	if err == nil {
		m.members[slot] = member
	}
	return err == nil
}

func (m *Mirror) call(changes []Change, rest string, it Item) ([]Change, bool) {
	key, ok := parseCallKey(rest)
	if !ok {
		return changes, false
	}
	if it.Value == nil {
		return append(changes, m.delete(key)...), true
	}
	had, known := m.calls[key]
	is := mirrored{sum: sum(it.Value), round: m.round, gone: had.gone}
	if known && had.sum == is.sum {
		m.calls[key] = is
		return changes, true
	}
	c, err := DecodeCall(key, it.Value)
	if err == nil {
		is.gone = c.Gone
	}
	doubted := known && had.round != m.round && !m.loads
	if m.calls[key] = is; doubted && m.mine(key.Public) { // it was written before the gateway had another opinion
		m.calls[key] = mirrored{round: had.round, gone: is.gone}
	}
	switch {
	case errors.Is(err, ErrUnknown):
		m.unknown++
		return changes, true
	case err != nil:
		return changes, false
	case !m.mine(key.Public):
		changes = append(changes, m.told(key, c))
	case (c.Gone && !had.gone || !c.Gone && (!known || !m.numbers(key))) && m.late(key.Public, it.Revision) && key.Number>>56 != 0: // 0 is of before there was a cluster
		told := m.told(key, c)
		told.Offered = true
		changes = append(changes, told)
	}
	return changes, true
}

// numbers reports whether a call has a number of this gateway's.
func (m *Mirror) numbers(key CallKey) bool { return uint8(key.Number>>56) == m.slot }

// late reports whether what is below a public address of this gateway's may have been written since it has
// the address.
func (m *Mirror) late(public netip.Addr, revision int64) bool {
	return !m.loads || revision > m.since[public].Revision
}

// told returns the change that a call of another gateway is.
func (m *Mirror) told(key CallKey, c Call) Change {
	kind := Kept
	if c.Gone {
		kind = Gone
	}
	return Change{Kind: kind, Public: key.Public, Owner: m.owners[key.Public].Owner.Name, Call: c}
}

// delete takes note that a key is not there any more. What was over is forgotten; what was
// not is over now.
func (m *Mirror) delete(key CallKey) []Change {
	had, known := m.calls[key]
	delete(m.calls, key)
	if !known || had.gone || m.mine(key.Public) {
		return nil
	}
	return []Change{m.told(key, Call{Record: calls.Record{Number: key.Number}, Gone: true})}
}
