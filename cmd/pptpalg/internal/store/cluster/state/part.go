package state

import (
	"fmt"
	"net/netip"
	"strings"

	"pptpalg/alg/calls"
)

// Several gateways may have one public address at the same time. Then each owns a part of it: the
// connections to whose clients NAT gives certain ports, by which all gateways tell alike whose a
// connection is. A part is written as the address, mapped to IPv6, with the part as its zone:
// ::ffff:198.51.100.1%1/2. What has no such port, as the connections of servers behind the address, is of
// the address as a whole.

// PartOf returns a part of a public address; of one part, the address.
func PartOf(public netip.Addr, s calls.Share) netip.Addr {
	if s.Of <= 1 {
		return public
	}
	return netip.AddrFrom16(public.As16()).WithZone(fmt.Sprintf("%d/%d", s.Mine+1, s.Of))
}

// ParseShare reads which part of how many: "1/2". "" is the whole.
func ParseShare(s string) (share calls.Share, ok bool) {
	if s == "" {
		return calls.Share{}, true
	}
	var mine, of uint8
	n, err := fmt.Sscanf(s, "%d/%d", &mine, &of)
	share = calls.Share{Of: of, Mine: mine - 1}
	return share, err == nil && n == 2 && of > 1 && mine > 0 && share.Valid() && s == fmt.Sprintf("%d/%d", mine, of)
}

// shareOf returns which part an address is.
func shareOf(part netip.Addr) calls.Share {
	share, _ := ParseShare(part.Zone())
	return share
}

// NameOf returns how people read a public address, or a part of one.
func NameOf(part netip.Addr) string {
	if part.Zone() == "" {
		return part.String()
	}
	return part.Unmap().String() + " part " + part.Zone()
}

// PlaceOf returns the part of its public address that a connection is of, if the address has so many.
func PlaceOf(c *calls.Connection, of uint8) (netip.Addr, bool) {
	public, translated := PublicOf(c)
	if of <= 1 || !translated || !c.Endpoint(calls.Initiator).Translated() {
		return public, translated
	}
	return PartOf(public, calls.Share{Of: of, Mine: uint8(int(c.Reply.Dst.Port()) * int(of) >> 16)}), true
}

const hexDigits = "0123456789abcdef"

// cutPart splits what follows the digits of an address: "." and the part's number, from 0, and how many
// more there are, in a hex digit each.
func cutPart(s string) (share calls.Share, ok bool) {
	if s == "" {
		return calls.Share{}, true
	}
	if len(s) != 3 || s[0] != '.' {
		return calls.Share{}, false
	}
	mine, more := strings.IndexByte(hexDigits, s[1]), strings.IndexByte(hexDigits, s[2])
	if mine < 0 || more < 1 {
		return calls.Share{}, false
	}
	share = calls.Share{Of: uint8(more) + 1, Mine: uint8(mine)}
	return share, share.Valid()
}

// suffix is the opposite of cutPart.
func suffix(s calls.Share) string {
	if s.Of <= 1 {
		return ""
	}
	return fmt.Sprintf(".%x%x", s.Mine, s.Of-1)
}
