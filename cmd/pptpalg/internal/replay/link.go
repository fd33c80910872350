package replay

import (
	"encoding/binary"
	"fmt"
)

// linkType is a link-layer header type, as https://www.tcpdump.org/linktypes.html
// numbers them. gopacket's own type has eight bits, which SLL2 does not fit.
type linkType uint32

// The link types that can be read.
const (
	linkNull     linkType = 0
	linkEthernet linkType = 1
	linkRawBSD   linkType = 12 // DLT_RAW of most systems
	linkRawOBSD  linkType = 14 // DLT_RAW of OpenBSD
	linkRaw      linkType = 101
	linkLoop     linkType = 108
	linkSLL      linkType = 113
	linkIPv4     linkType = 228
	linkSLL2     linkType = 276

	linkUnknown linkType = 1 << 31
)

// network finds the packet in a frame: where it begins, and its EtherType. ok is
// false for a frame that is too short for its header.
type network func(data []byte) (at int, etherType uint16, ok bool)

var networks = map[linkType]network{
	linkNull:     null,
	linkEthernet: ethernet,
	linkRawBSD:   raw,
	linkRawOBSD:  raw,
	linkRaw:      raw,
	linkLoop:     null,
	linkSLL:      cooked(16, 14),
	linkIPv4:     raw,
	linkSLL2:     cooked(20, 0),
}

func (l linkType) String() string {
	names := map[linkType]string{
		linkNull: "BSD null", linkEthernet: "Ethernet", linkRawBSD: "raw IP", linkRawOBSD: "raw IP", linkRaw: "raw IP",
		linkLoop: "BSD loop", linkSLL: "Linux cooked", linkIPv4: "raw IPv4", linkSLL2: "Linux cooked v2",
	}
	if name, ok := names[l]; ok {
		return name
	}
	return fmt.Sprintf("unknown(%d)", uint32(l))
}

// EtherTypes (IEEE 802).
const (
	etherIPv4 = 0x0800
	etherVLAN = 0x8100 // 802.1Q
	etherQinQ = 0x88a8 // 802.1ad
	etherOld  = 0x9100 // QinQ before it had a number
)

const (
	etherHeader = 14
	vlanTag     = 4
	nullHeader  = 4
)

func ethernet(data []byte) (int, uint16, bool) {
	return untag(data, etherHeader, etherHeader-2)
}

// cooked is Linux's cooked header of a length, with the EtherType at an offset.
func cooked(length, protocol int) network {
	return func(data []byte) (int, uint16, bool) { return untag(data, length, protocol) }
}

// untag steps over VLAN tags behind a header of a length, whose EtherType is at an
// offset.
func untag(data []byte, length, at int) (int, uint16, bool) {
	for {
		if len(data) < length {
			return 0, 0, false
		}
		switch typ := binary.BigEndian.Uint16(data[at:]); typ {
		case etherVLAN, etherQinQ, etherOld:
			length, at = length+vlanTag, length+2
		default:
			return length, typ, true
		}
	}
}

// raw has no header.
func raw(data []byte) (int, uint16, bool) {
	if len(data) == 0 {
		return 0, 0, false
	}
	if data[0]>>4 != 4 {
		return 0, 0, true
	}
	return 0, etherIPv4, true
}

// null begins with the protocol family in the byte order of the machine that
// captured, loop in network byte order: AF_INET is 2 everywhere.
func null(data []byte) (int, uint16, bool) {
	const inet = 2
	if len(data) < nullHeader {
		return 0, 0, false
	}
	if binary.BigEndian.Uint32(data) != inet && binary.LittleEndian.Uint32(data) != inet {
		return nullHeader, 0, true
	}
	return nullHeader, etherIPv4, true
}
