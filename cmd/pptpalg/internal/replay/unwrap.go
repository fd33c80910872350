package replay

import (
	"encoding/binary"
	"fmt"

	"github.com/google/gopacket/layers"
)

// linkType is a link-layer header type, as https://www.tcpdump.org/linktypes.html
// numbers them. gopacket's own type has eight bits, which SLL2 does not fit.
type linkType uint32

// The link types that can be read.
const (
	linkNull       linkType = 0
	linkEthernet   linkType = 1
	linkPPP        linkType = 9
	linkRawBSD     linkType = 12 // DLT_RAW of most systems
	linkRawOBSD    linkType = 14 // DLT_RAW of OpenBSD
	linkPPPHDLC    linkType = 50
	linkPPPEther   linkType = 51 // PPPoE without Ethernet
	linkRaw        linkType = 101
	linkCiscoHDLC  linkType = 104
	linkLoop       linkType = 108
	linkSLL        linkType = 113
	linkPPPD       linkType = 166 // pppd's: the direction in place of the address
	linkPPPWithDir linkType = 204 // the direction before PPP
	linkMPLS       linkType = 219
	linkIPv4       linkType = 228
	linkIPv6       linkType = 229
	linkSLL2       linkType = 276

	linkUnknown linkType = 1 << 31
)

func (l linkType) String() string {
	names := map[linkType]string{
		linkNull: "BSD null", linkEthernet: "Ethernet", linkRawBSD: "raw IP", linkRawOBSD: "raw IP", linkRaw: "raw IP",
		linkLoop: "BSD loop", linkSLL: "Linux cooked", linkIPv4: "raw IPv4", linkIPv6: "raw IPv6", linkSLL2: "Linux cooked v2",
		linkPPP: "PPP", linkPPPHDLC: "PPP in HDLC", linkPPPEther: "PPPoE", linkPPPD: "pppd's PPP", linkPPPWithDir: "PPP with direction",
		linkCiscoHDLC: "Cisco HDLC", linkMPLS: "MPLS",
	}
	if name, ok := names[l]; ok {
		return name
	}
	return fmt.Sprintf("unknown(%d)", uint32(l))
}

// kind is what a part of a frame is, by the number that the part before it gives.
type kind struct {
	space  space
	number uint32
}

// space is whose number a kind has.
type space uint8

const (
	links  space = iota // linkType
	ethers              // IEEE 802
	ppps                // PPP (RFC 1661)
	ip4s                // IPv4
	ip6s                // IPv6
	families
	others
)

// EtherTypes, and PPP's and IP's numbers for the same.
var (
	isIPv4  = kind{ethers, 0x0800}
	isIPv6  = kind{ethers, 0x86dd}
	isPPPoE = kind{ethers, 0x8864}
	isPPP   = kind{ethers, 0x880b}
	isMPLS  = kind{ethers, 0x8847}
	isFrame = kind{ethers, 0x6558} // Ethernet in something else

	overPPP = map[uint32]kind{0x21: isIPv4, 0x57: isIPv6, 0x281: isMPLS, 0x283: isMPLS}
	overIP  = map[uint32]kind{4: isIPv4, 41: isIPv6, 47: isGRE, 97: isEtherIP, 137: isMPLS}
)

// What has no number, or not one of those.
var (
	isGRE      = kind{others, 1} // not PPTP's
	isEtherIP  = kind{others, 2}
	isFragment = kind{others, 3} // of what may hold IPv4
	isShort    = kind{others, 4} // a header is not whole
	isNoIP     = kind{others, 5} // neither version of IP, where one must be
	isTooDeep  = kind{others, 6}
	isPorts    = kind{others, 7}
	isCut      = kind{others, 8}
	isMore     = kind{others, 9} // see mostKinds
)

var otherNames = map[kind]string{
	isGRE: "GRE", isEtherIP: "EtherIP", isFragment: "fragments of tunnels", isShort: "too short for their headers",
	isNoIP: "not IP", isTooDeep: "too many headers", isPorts: "TCP of other ports", isCut: "cut within their headers", isMore: "more kinds",
}

func (k kind) String() string {
	switch k.space {
	case links:
		return "link type " + linkType(k.number).String()
	case ethers:
		return etherName(k.number)
	case ppps:
		if name, ok := pppNames[k.number]; ok {
			return "PPP " + name
		}
		return fmt.Sprintf("PPP %#04x", k.number)
	case ip4s:
		return protocolName(k.number)
	case ip6s:
		return "IPv6 " + protocolName(k.number)
	case families:
		return fmt.Sprintf("address family %d", k.number)
	}
	return otherNames[k]
}

func etherName(n uint32) string {
	const least = 0x600 // below it is a length (IEEE 802.3)
	if n < least {
		return "802.3"
	}
	if known := layers.EthernetTypeMetadata[uint16(n)]; known.Name != "" && known.Name != "UnknownEthernetType" {
		return known.Name
	}
	return fmt.Sprintf("EtherType %#04x", n)
}

func protocolName(n uint32) string {
	if known := layers.IPProtocolMetadata[uint8(n)]; known.Name != "" && known.Name != "UnknownIPProtocol" {
		return known.Name
	}
	return fmt.Sprintf("IP protocol %d", n)
}

var pppNames = map[uint32]string{
	0x2d: "Van Jacobson", 0x2f: "Van Jacobson", 0x3d: "multilink", 0xfd: "compressed or encrypted",
	0x8021: "IPCP", 0x8057: "IPv6CP", 0x80fd: "CCP", 0xc021: "LCP", 0xc023: "PAP", 0xc025: "LQR", 0xc223: "CHAP",
}

// mostKinds is how many kinds are told apart.
const mostKinds = 64

// step reads the header at the start of b: how long it is, and what follows. ok is false
// if not all of it is there.
type step func(b []byte) (length int, next kind, ok bool)

var steps = map[kind]step{
	{links, uint32(linkNull)}:       null,
	{links, uint32(linkEthernet)}:   header(14, 12),
	{links, uint32(linkPPP)}:        ppp,
	{links, uint32(linkRawBSD)}:     raw,
	{links, uint32(linkRawOBSD)}:    raw,
	{links, uint32(linkPPPHDLC)}:    hdlc,
	{links, uint32(linkPPPEther)}:   pppoe,
	{links, uint32(linkRaw)}:        raw,
	{links, uint32(linkCiscoHDLC)}:  header(4, 2),
	{links, uint32(linkLoop)}:       null,
	{links, uint32(linkSLL)}:        header(16, 14),
	{links, uint32(linkPPPD)}:       pppd,
	{links, uint32(linkPPPWithDir)}: directed,
	{links, uint32(linkMPLS)}:       mpls,
	{links, uint32(linkIPv4)}:       raw,
	{links, uint32(linkIPv6)}:       raw,
	{links, uint32(linkSLL2)}:       header(20, 0),

	{ethers, 0x8100}: header(4, 2), // 802.1Q
	{ethers, 0x88a8}: header(4, 2), // 802.1ad
	{ethers, 0x9100}: header(4, 2), // QinQ before it had a number
	{ethers, 0x9200}: header(4, 2),
	{ethers, 0x8848}: mpls, // multicast
	isMPLS:           mpls,
	isPPPoE:          pppoe,
	isPPP:            ppp,
	isFrame:          header(14, 12),
	isIPv4:           ipv4,
	isIPv6:           ipv6,
	isGRE:            gre,
	isEtherIP:        func(b []byte) (int, kind, bool) { return 2, isFrame, len(b) >= 2 },
}

// mostSteps is how many headers a frame may have before the packet.
const mostSteps = 24

// find finds the IPv4 packet in a frame, and where it begins. Any other kind is what the
// frame holds in its place.
func find(b []byte, link linkType) (at int, k kind) {
	k = kind{links, uint32(link)}
	for range mostSteps {
		step, ok := steps[k]
		if !ok {
			return at, k
		}
		n, next, ok := step(b[at:])
		switch {
		case !ok:
			return at, isShort
		case next == k && n == 0:
			return at, k
		}
		at, k = at+n, next
	}
	return at, isTooDeep
}

// header is a header of a length, with an EtherType at an offset.
func header(length, etherType int) step {
	return func(b []byte) (int, kind, bool) {
		if len(b) < length {
			return 0, kind{}, false
		}
		return length, kind{ethers, uint32(binary.BigEndian.Uint16(b[etherType:]))}, true
	}
}

// raw has no header: IP's first half byte tells its version.
func raw(b []byte) (int, kind, bool) {
	if len(b) == 0 {
		return 0, kind{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return 0, isIPv4, true
	case 6:
		return 0, isIPv6, true
	}
	return 0, isNoIP, true
}

// null begins with the protocol family in the byte order of the machine that captured, loop
// in network byte order. AF_INET is 2 everywhere, and every system has its own AF_INET6.
func null(b []byte) (int, kind, bool) {
	if len(b) < 4 {
		return 0, kind{}, false
	}
	family := min(binary.BigEndian.Uint32(b), binary.LittleEndian.Uint32(b))
	switch family {
	case 2:
		return 4, isIPv4, true
	case 10, 24, 28, 30:
		return 4, isIPv6, true
	}
	return 4, kind{families, family}, true
}

// ppp has HDLC's address and control or not, and a protocol of two bytes, or of one if that
// is odd (RFC 1661 section 6.5).
func ppp(b []byte) (int, kind, bool) {
	if len(b) >= 2 && b[0] == 0xff && b[1] == 3 {
		return protocol(b, 2)
	}
	return protocol(b, 0)
}

func protocol(b []byte, at int) (int, kind, bool) {
	if len(b) <= at {
		return 0, kind{}, false
	}
	n, length := uint32(b[at]), at+1
	if n&1 == 0 {
		if length++; len(b) < length {
			return 0, kind{}, false
		}
		n = n<<8 | uint32(b[at+1])
	}
	if k, ok := overPPP[n]; ok {
		return length, k, true
	}
	return length, kind{ppps, n}, true
}

// hdlc is PPP's, or Cisco's, which begins with another address.
func hdlc(b []byte) (int, kind, bool) {
	if len(b) >= 2 && (b[0] == 0x0f || b[0] == 0x8f) && b[1] == 0 {
		return header(4, 2)(b)
	}
	return ppp(b)
}

func pppd(b []byte) (int, kind, bool) {
	if len(b) >= 2 && b[1] == 3 {
		return protocol(b, 2)
	}
	return protocol(b, 1)
}

func directed(b []byte) (int, kind, bool) { return 1, isPPP, len(b) >= 1 }

// pppoe is RFC 2516's: version and type, code (0 for data), session, length.
func pppoe(b []byte) (int, kind, bool) {
	if len(b) < 6 {
		return 0, kind{}, false
	}
	if b[1] != 0 {
		return 0, kind{ethers, uint32(layers.EthernetTypePPPoEDiscovery)}, true
	}
	return 6, isPPP, true
}

// mpls is a stack of labels. Nothing says what is below them; but it is IP, or Ethernet
// with a control word or without (RFC 4928).
func mpls(b []byte) (int, kind, bool) {
	at := 4
	for len(b) >= at && b[at-2]&1 == 0 {
		at += 4
	}
	if len(b) <= at {
		return 0, kind{}, false
	}
	switch b[at] >> 4 {
	case 4:
		return at, isIPv4, true
	case 6:
		return at, isIPv6, true
	case 0:
		return min(at+4, len(b)), isFrame, true
	}
	return at, isFrame, true
}

// ipv4 is where the search ends, unless there is a tunnel in it.
func ipv4(b []byte) (int, kind, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return 0, isIPv4, true // the packet's own view says what is wrong with it
	}
	length, fragment := int(b[0]&0x0f)*4, binary.BigEndian.Uint16(b[6:])&0x3fff != 0
	next, tunnel := overIP[uint32(b[9])]
	switch {
	case !tunnel, next == isGRE && !fragment && enhanced(b[min(length, len(b)):]):
		return 0, isIPv4, true
	case fragment:
		return 0, isFragment, true
	}
	return length, next, len(b) >= length && length >= 20
}

// ipv6 goes over the extension headers (RFC 8200 section 4).
func ipv6(b []byte) (int, kind, bool) {
	if len(b) < 40 {
		return 0, kind{}, false
	}
	if b[0]>>4 != 6 {
		return 0, isNoIP, true
	}
	const hops, routing, fragment, auth, destination = 0, 43, 44, 51, 60
	at, next := 40, b[6]
	for next == hops || next == routing || next == fragment || next == auth || next == destination {
		if len(b) < at+8 {
			return 0, kind{}, false
		}
		length := (int(b[at+1]) + 1) * 8
		switch {
		case next == fragment && binary.BigEndian.Uint16(b[at+2:])&0xfff9 != 0:
			return 0, isFragment, true
		case next == fragment:
			length = 8
		case next == auth:
			length = (int(b[at+1]) + 2) * 4
		}
		next = b[at]
		at += length
	}
	inner, tunnel := overIP[uint32(next)]
	if !tunnel || inner == isGRE && enhanced(b[min(at, len(b)):]) {
		return min(at, len(b)), kind{ip6s, uint32(next)}, true
	}
	return at, inner, len(b) >= at
}

// enhanced reports whether GRE is PPTP's, or cannot be told.
func enhanced(b []byte) bool { return len(b) < 2 || b[1]&7 != 0 }

// gre has its optional fields behind four bytes (RFC 2890).
func gre(b []byte) (int, kind, bool) {
	if len(b) < 4 {
		return 0, kind{}, false
	}
	const checksum, routing, key, sequence = 0x80, 0x40, 0x20, 0x10
	length := 4
	for _, flag := range []byte{checksum, key, sequence} {
		if b[0]&flag != 0 {
			length += 4
		}
	}
	if b[0]&routing != 0 || b[1]&7 != 0 {
		return 0, isGRE, true
	}
	return length, kind{ethers, uint32(binary.BigEndian.Uint16(b[2:]))}, len(b) >= length
}
