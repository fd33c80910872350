package bugreport

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"regexp"
	"slices"
)

// address is one that was found in a text, and how it is written there.
type address struct {
	ip        netip.Addr
	mac       []byte // nil for an ip
	separator byte   // between groups; 0 for none
	group     int    // bytes of mac in each
}

// spellings are the ways in which an address is written, in the order in which they are tried.
// Each returns the address that begins at a place of a text, and where it ends; at its
// beginning if there is none.
var spellings = []func(text []byte, at int) (address, int){colons, dashes, cisco, named, ipv6, ipv4, hostName}

// Hardware addresses: 00:1a:2b:3c:4d:5e, 00-1a-2b-3c-4d-5e, 001a.2b3c.4d5e.
func colons(text []byte, at int) (address, int) { return pairs(text, at, ':') }
func dashes(text []byte, at int) (address, int) { return pairs(text, at, '-') }

// pairs takes six pairs of digits. Seven of them that begin with 01 are a DHCP client's
// identifier: the address begins at the second one.
func pairs(text []byte, at int, separator byte) (address, int) {
	if !isHex(text[at]) || at > 0 && (isDigit(text[at-1]) || separator == '-' && isHex(text[at-1])) {
		return address{}, at
	}
	switch n := count(text[at:], 2, separator); {
	case n < 6, n == 7 && bytes.HasPrefix(text[at:], []byte("01")):
		return address{}, at
	}
	return hardware(text[at:at+17], separator, 1), at + 17
}

func cisco(text []byte, at int) (address, int) {
	if !hexBegins(text, at) || count(text[at:], 4, '.') != 3 || letter(text, at-1) || letter(text, at+14) {
		return address{}, at
	}
	return hardware(text[at:at+14], '.', 2), at + 14
}

// namers are what such names begin with.
var namers = []string{"enx", "wlx", "wwx"}

// named takes the address in the name that systemd gives an interface: enx001a2b3c4d5e.
func named(text []byte, at int) (address, int) {
	if at < 3 || text[at-1] != 'x' || !slices.Contains(namers, string(text[at-3:at])) || span(text[at:], isHex) != 12 {
		return address{}, at
	}
	return hardware(text[at:at+12], 0, 6), at + 12
}

func hardware(text []byte, separator byte, group int) address {
	raw, _ := hex.DecodeString(string(bytes.ReplaceAll(text, []byte{separator}, nil))) // nothing else is in it
	return address{mac: raw, separator: separator, group: group}
}

// count returns how many groups of so many hexadecimal digits a text begins with, 8 for more.
func count(text []byte, digits int, separator byte) (n int) {
	for n < 8 && span(text, isHex) == digits {
		n++
		if text = text[digits:]; len(text) == 0 || text[0] != separator {
			break
		}
		text = text[1:]
	}
	return n
}

// longest6 is the longest text of an address of IPv6.
const longest6 = len("0000:0000:0000:0000:0000:ffff:255.255.255.255")

// ipv6 takes as much as can be an address.
func ipv6(text []byte, at int) (address, int) {
	colon := bytes.HasPrefix(text[at:], []byte("::"))
	if !hexBegins(text, at) && (!colon || at > 0 && isHex(text[at-1])) {
		return address{}, at
	}
	end := at + span(text[at:min(at+longest6, len(text))], func(c byte) bool { return isHex(c) || c == ':' || c == '.' })
	for ; end > at+2; end-- {
		if ends6(text, end) && bytes.Count(text[at:end], []byte(":")) > 1 {
			if a, err := netip.ParseAddr(string(text[at:end])); err == nil && plausible(text, at, end) {
				return address{ip: a}, end
			}
		}
	}
	return address{}, at
}

// ends6 reports whether no digit of an address stands at end.
func ends6(text []byte, end int) bool {
	if end == len(text) {
		return true
	}
	return !isHex(text[end]) && !(text[end] == '.' && end+1 < len(text) && isDigit(text[end+1]))
}

// plausible reports whether what can be an address of IPv6 is one rather than a name of C++:
// std::dec has d::dec in it.
func plausible(text []byte, at, end int) bool {
	some := text[at:end]
	if bytes.Count(some, []byte(":")) > 2 && slices.ContainsFunc(some, isDigit) {
		return true
	}
	return !letter(text, at-1) && !letter(text, end) && (at == 0 || text[at-1] != '.')
}

// ipv4 takes 198.51.100.77, and a prefix length behind it.
func ipv4(text []byte, at int) (address, int) {
	a, end := octets(text, at, '.')
	if end == at || isVersion(text, at, end) {
		return address{}, at
	}
	if end < len(text) && text[end] == '/' {
		if n := span(text[end+1:], isDigit); n > 0 {
			end += 1 + n
		}
	}
	return address{ip: a}, end
}

// hostName takes 198-51-100-77, as providers name their customers.
func hostName(text []byte, at int) (address, int) {
	a, end := octets(text, at, '-')
	if end == at || goesOn(text, end) || at > 1 && (text[at-1] == '-' || text[at-1] == '.') && isDigit(text[at-2]) {
		return address{}, at
	}
	return address{ip: a, separator: '-'}, end
}

// goesOn reports whether there are more than four groups.
func goesOn(text []byte, end int) bool {
	return end+1 < len(text) && text[end] == '-' && isDigit(text[end+1])
}

// octets takes four decimal numbers. Zeros before them are for all of them or none, as in
// 198.051.100.077: 5.22.04.3 is a version.
func octets(text []byte, at int, separator byte) (a netip.Addr, end int) {
	if at > 0 && isDigit(text[at-1]) {
		return a, at
	}
	var raw [4]byte
	padded, zeros := true, false
	end = at
	for i := range raw {
		if i > 0 && (end == len(text) || text[end] != separator) {
			return a, at
		}
		end += min(i, 1)
		n := span(text[end:], isDigit)
		value := number(text[end : end+n])
		if n == 0 || n > 3 || value > 255 {
			return a, at
		}
		padded, zeros = padded && n == 3, zeros || n > 1 && text[end] == '0'
		raw[i] = byte(value)
		end += n
	}
	if zeros && !padded {
		return a, at
	}
	return netip.AddrFrom4(raw), end
}

// Where letters stand next to what looks like an address of IPv4, these say that it is a
// version: v1.2.3.4, 1.2.3.4rc1, nft_1.0.6.1-2_amd64.
var (
	versionBefore = regexp.MustCompile(`(?i)(^|[^a-z])(v|r|ver|version|rev|rel|release|go|gcc|python|linux|ubuntu|debian|deb|el|fc|bpo|rc)$`)
	versionAfter  = regexp.MustCompile(`(?i)^([-+~.0-9a-z]*_(amd64|arm64|armhf|armel|armv7|aarch64|x86_64|i[3-6]86|mips[a-z0-9]*|riscv64|ppc64el|s390x|all|noarch)|(ubuntu|debian|deb|el|fc|bpo|rc|alpha|beta|pre|dev|git|p)([0-9]|[^a-z]|$))`)
)

// isVersion reports whether what looks like an address of IPv4 is a version.
func isVersion(text []byte, at, end int) bool {
	if !letter(text, at-1) && !letter(text, end) {
		return false
	}
	before, after := text[max(0, at-12):at], text[end:min(end+40, len(text))]
	return versionBefore.Match(before) || versionAfter.Match(after)
}

// hexBegins reports whether a hexadecimal number begins at a place.
func hexBegins(text []byte, at int) bool { return isHex(text[at]) && (at == 0 || !isHex(text[at-1])) }

// longestSpan is how far span looks: no address is longer, and a text may be anything.
const longestSpan = 64

// span returns how many bytes a text begins with that are so, 64 for more.
func span(text []byte, is func(byte) bool) int {
	text = text[:min(len(text), longestSpan)]
	if n := slices.IndexFunc(text, func(c byte) bool { return !is(c) }); n >= 0 {
		return n
	}
	return len(text)
}

// number returns the value of decimal digits; what is more than three of them is too large for
// an octet anyway.
func number(digits []byte) (n int) {
	for _, c := range digits[:min(len(digits), 4)] {
		n = 10*n + int(c-'0')
	}
	return n
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

// letter reports whether a letter, a digit or what joins them in a name stands at a place.
func letter(text []byte, at int) bool {
	if at < 0 || at >= len(text) {
		return false
	}
	c := text[at]
	return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_'
}
