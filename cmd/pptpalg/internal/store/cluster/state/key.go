package state

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"pptpalg/alg/calls"
)

// The keys, below the prefix of the cluster:
//
//	c/<public address, 8 hex digits>/<number, 16>   a call that NAT translates
//	gw/<slot, 1 hex digit>                          a gateway that is up; disappears with its lease
//	own/<public address, 8 hex digits>              who owns the address: who alone writes below c/<address>
//	slot/<slot, 1 hex digit>                        who had the slot last, and when: a gateway that is up writes it again and again
//	check/<name>                                    what "pptpalg check" writes and deletes; nobody reads it
//
// Of a public address that several gateways have, "." and the part follow its digits: see PartOf.
//
// Sections are the first parts of keys.
const (
	CallSection   = "c/"
	MemberSection = "gw/"
	OwnerSection  = "own/"
	SlotSection   = "slot/"
	CheckSection  = "check/"
)

// Slots is how many gateways a cluster has room for.
const Slots = 16

// Item is a key and its value as a revision of the store has them.
type Item struct {
	Key      string
	Value    []byte // nil: the key is deleted
	Revision int64  // that changed it last; 0 if the key is not known to have existed
}

// Guard is what a transaction demands: that no later revision has changed a key. With
// revision 0 the key must not exist.
type Guard struct {
	Key      string
	Revision int64
}

// Put is one change of a transaction.
type Put struct {
	Key   string
	Value []byte        // nil deletes the key
	Keep  time.Duration // at the least, until the key disappears by itself; 0 for ever
}

// Transaction is done whole, and only if all guards hold. No two Puts have the same key.
type Transaction struct {
	Guards []Guard
	Puts   []Put
}

// MaxPuts is how many Puts a transaction may have: etcd takes 128 operations by default.
const MaxPuts = 127

// Mark is a revision of a store. A store that was restored from a backup, or begun anew, is
// another one, or goes back.
type Mark struct {
	Cluster  uint64
	Revision int64
}

// Before reports whether a store that has been at the mark cannot be at another one
// afterwards, unless it has lost data.
func (m Mark) Lost(next Mark) bool {
	return m.Cluster != next.Cluster || next.Revision < m.Revision
}

// CallKey names a call in the store.
type CallKey struct {
	Public netip.Addr
	Number uint64
}

func (k CallKey) String() string {
	return fmt.Sprintf("%s%s/%016x", CallSection, hexOf(k.Public), k.Number)
}

// OwnerKey is the key of who owns a public address.
func OwnerKey(public netip.Addr) string { return OwnerSection + hexOf(public) }

// MemberKey is the key of the gateway that is up in a slot.
func MemberKey(slot int) string { return fmt.Sprintf("%s%x", MemberSection, slot) }

// SlotKey is the key of who had a slot last.
func SlotKey(slot int) string { return fmt.Sprintf("%s%x", SlotSection, slot) }

func hexOf(a netip.Addr) string {
	b := a.As4()
	return hex.EncodeToString(b[:]) + suffix(shareOf(a))
}

// parseCallKey reads what follows CallSection.
func parseCallKey(s string) (CallKey, bool) {
	place, digits, _ := strings.Cut(s, "/")
	public, ok := parseAddr(place)
	number, numbered := parseHex(digits)
	if !ok || !numbered || len(number) != 8 {
		return CallKey{}, false
	}
	return CallKey{public, binary.BigEndian.Uint64(number)}, true
}

func parseAddr(s string) (netip.Addr, bool) {
	b, ok := parseHex(s[:min(8, len(s))])
	if !ok || len(b) != 4 {
		return netip.Addr{}, false
	}
	share, ok := cutPart(s[8:])
	a := netip.AddrFrom4([4]byte(b))
	return PartOf(a, share), ok && unicast(a)
}

// parseHex takes small letters alone, so that a key has one spelling.
func parseHex(s string) ([]byte, bool) {
	b, err := hex.DecodeString(s)
	return b, err == nil && hex.EncodeToString(b) == s
}

func parseSlot(s string) (int, bool) {
	slot := strings.IndexByte(hexDigits, append([]byte(s), 0)[0])
	return slot, len(s) == 1 && slot >= 0
}

// unicast reports whether an address can be a host's.
func unicast(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// PublicOf returns the public address of a connection's calls: the translated end's, the
// initiator's if both are. Calls that NAT does not touch have none; they are their gateway's
// own affair.
func PublicOf(c *calls.Connection) (netip.Addr, bool) {
	for _, s := range []calls.Side{calls.Initiator, calls.Responder} {
		if e := c.Endpoint(s); e.Translated() {
			return e.Public, true
		}
	}
	return netip.Addr{}, false
}
