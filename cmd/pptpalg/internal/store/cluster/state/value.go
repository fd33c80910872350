package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store/record"
)

// What may be wrong with a value. Whoever can write to the store can write anything.
var (
	ErrUnknown = errors.New("value of a kind that this release does not know")
	errStrange = errors.New("value does not belong to its key, or is damaged")
)

// Call is what the store says of a call: as it is now, or that it is over. What is over keeps
// the call as it was last, because its public IDs rest: a gateway that comes new must not
// give them out.
type Call struct {
	Record calls.Record
	Gone   bool
	At     time.Time // of Gone
	// Rests is an ID of a call that is over and of which nobody knows more, instead of Record: see
	// Rested.
	Rests calls.Resting
	// Place is the part of the public address that the call is of, if it has parts.
	Place netip.Addr
}

// restSlot begins the numbers of calls of which nobody knows more than that an ID rests. No gateway
// has such a slot.
const restSlot = 0x7f

// Rested is what the store is told of an ID that rests when it has lost the call that had it. The
// number is the ID's alone, but for zones that are 256 apart.
func Rested(r calls.Resting) *Call {
	peer := r.Peer.As4()
	number := uint64(restSlot)<<56 | uint64(r.Zone&0xff)<<48 | uint64(binary.BigEndian.Uint32(peer[:]))<<16 | uint64(r.ID)
	return &Call{Record: calls.Record{Number: number}, Gone: true, Rests: r}
}

// Key returns where the store has the call. A call that NAT does not touch is nowhere.
func (c *Call) Key() (CallKey, bool) {
	public, translated := c.Rests.Public, c.Rests.ID != 0
	if !translated {
		public, translated = PublicOf(&c.Record.Connection)
	}
	if c.Place.IsValid() {
		public = c.Place
	}
	return CallKey{public, c.Record.Number}, translated
}

// Encode returns the value of a call: a record Kept, behind a record Gone if it is over; or a record
// Rest.
func (c *Call) Encode() []byte {
	if c.Rests.ID != 0 {
		return record.AppendRest(nil, c.Rests)
	}
	var b []byte
	if c.Gone {
		b = record.AppendGone(b, c.Record.Number, c.At)
	}
	return record.AppendKept(b, &c.Record)
}

// DecodeCall reads the value of a call and holds it against its key. What later releases
// write behind the records that are known is left out.
func DecodeCall(key CallKey, value []byte) (Call, error) {
	kind, payload, rest, err := record.Next(value)
	if err != nil {
		return Call{}, err
	}
	var c Call
	switch kind {
	case record.Rest:
		return decodeRests(key, payload)
	case record.Gone:
		number, at, err := record.DecodeGone(payload)
		if err != nil || number != key.Number {
			return Call{}, errStrange
		}
		c.Gone, c.At = true, at
		if kind, payload, _, err = record.Next(rest); err != nil {
			return Call{}, err
		}
	}
	if kind != record.Kept {
		return Call{}, ErrUnknown
	}
	if c.Record, err = record.DecodeKept(payload); err != nil {
		return Call{}, err
	}
	if !sound(key, &c.Record) || !c.Gone && !legged(&c.Record) {
		return Call{}, errStrange
	}
	c.Place = placed(key)
	return c, nil
}

// placed returns Call.Place of what stands at a key.
func placed(key CallKey) netip.Addr {
	if shareOf(key.Public).Of > 1 {
		return key.Public
	}
	return netip.Addr{}
}

func decodeRests(key CallKey, payload []byte) (Call, error) {
	r, err := record.DecodeRest(payload)
	if err != nil {
		return Call{}, err
	}
	c := Rested(r)
	c.Place = placed(key)
	if is, _ := c.Key(); r.ID == 0 || is != key || r.Public != key.Public.Unmap() || !unicast(r.Peer) {
		return Call{}, errStrange
	}
	return *c, nil
}

// sound reports whether a call can be what stands at the key: the kernel is to translate by
// it.
func sound(key CallKey, r *calls.Record) bool {
	public, translated := PlaceOf(&r.Connection, shareOf(key.Public).Of)
	if !translated || public != key.Public || r.Number != key.Number {
		return false
	}
	for _, t := range []calls.Tuple{r.Connection.Original, r.Connection.Reply} {
		if !unicast(t.Src.Addr()) || !unicast(t.Dst.Addr()) || t.Src.Port() == 0 || t.Dst.Port() == 0 {
			return false
		}
	}
	for s, l := range r.Legs {
		if l.Known && l.Public == 0 && r.Connection.Endpoint(calls.Side(s)).Translated() {
			return false // 0 is never given out
		}
	}
	return true
}

// legged reports whether a call has a leg. One will do: what was taken up of the kernel's entries may be half a
// call. A call that is over may have none: another one has its IDs.
func legged(r *calls.Record) bool { return r.Legs[0].Known || r.Legs[1].Known }

// Owner is who owns a public address: a gateway, in one life of its daemon.
type Owner struct {
	Name string
	Life uint64 // when the daemon started, in nanoseconds since 1970
	Term uint32 // counts how often it has taken an address that it did not hold
}

// Is reports whether both are the same gateway in the same life.
func (o Owner) Is(other Owner) bool { return o.Name == other.Name && o.Life == other.Life }

// longestName is how long the name of a gateway may be, in bytes, as a host name.
const longestName = 253

// ValidName reports whether a gateway can have the name: letters, digits, '.', '-' and '_'.
func ValidName(name string) bool {
	strange := strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_", r))
	})
	return name != "" && len(name) <= longestName && !strange
}

// Encode returns the value of an owner: its life in 16 hex digits, its term in 8, its name.
func (o Owner) Encode() []byte { return fmt.Appendf(nil, "%016x %08x %s", o.Life, o.Term, o.Name) }

// DecodeOwner reads the value of an owner.
func DecodeOwner(value []byte) (Owner, error) {
	part := strings.Split(string(value), " ")
	if len(part) != 3 || len(part[0]) != 16 || len(part[1]) != 8 || !ValidName(part[2]) {
		return Owner{}, errStrange
	}
	life, err := strconv.ParseUint(part[0], 16, 64)
	term, err2 := strconv.ParseUint(part[1], 16, 32)
	if err != nil || err2 != nil {
		return Owner{}, errStrange
	}
	return Owner{part[2], life, uint32(term)}, nil
}

// Beat says that a gateway is up, or was.
type Beat struct {
	Name string
	At   time.Time // by its own clock; zero if it does not say
}

// Encode returns the value of a beat: the name, and the time in nanoseconds since 1970.
func (b Beat) Encode() []byte { return fmt.Appendf(nil, "%s %d", b.Name, b.At.UnixNano()) }

// DecodeBeat reads the value of a beat.
func DecodeBeat(value []byte) (Beat, error) {
	name, at, timed := strings.Cut(string(value), " ")
	if !ValidName(name) {
		return Beat{}, errStrange
	}
	if !timed {
		return Beat{Name: name}, nil
	}
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return Beat{}, errStrange
	}
	return Beat{name, time.Unix(0, n)}, nil
}

// Member is a gateway that is up. What all gateways must have alike is in it, so that one can
// tell.
type Member struct {
	Slot      int           `json:"-"`
	Name      string        `json:"name"`
	Life      uint64        `json:"life"`
	Version   string        `json:"version"`
	Formats   []int         `json:"formats"` // kinds of records that it reads
	Ports     string        `json:"ports,omitempty"`
	Rest      time.Duration `json:"rest,omitempty"`
	RandomIDs bool          `json:"random_ids,omitempty"`
	Share     string        `json:"share,omitempty"` // of public addresses that several gateways have: see ParseShare
}

// Formats are the kinds of records that this release reads as the value of a call.
func Formats() []int { return []int{int(record.Kept), int(record.Gone), int(record.Rest)} }

// longestMember is how long the value of a member may be, in bytes.
const longestMember = 4096

// Encode returns the value of a member.
func (m *Member) Encode() ([]byte, error) { return json.Marshal(m) }

// DecodeMember reads the value of the member in a slot.
func DecodeMember(slot int, value []byte) (Member, error) {
	m := Member{}
	if len(value) > longestMember {
		return Member{}, errStrange
	}
	if err := json.Unmarshal(value, &m); err != nil {
		return Member{}, fmt.Errorf("read member: %w", err)
	}
	if m.Slot = slot; !ValidName(m.Name) {
		return Member{}, errStrange
	}
	return m, nil
}
