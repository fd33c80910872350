package bugreport

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"regexp"
	"strconv"
)

// Disguise replaces addresses in text: each one always by the same other one, and two that
// share a prefix by two that share one as long, so that networks stay networks. Private
// addresses stay private ones of the same network of RFC 1918, and addresses that name no
// host stay as they are. Who does not have the key cannot tell what was replaced.
type Disguise struct {
	key   []byte
	host  *regexp.Regexp            // of the machine's name; nil for none
	known map[netip.Addr]netip.Addr // what was replaced so far
}

// NewDisguise returns a disguise by a secret key. The machine's name is replaced too. One
// goroutine may use it.
func NewDisguise(key []byte, host string) *Disguise {
	d := &Disguise{key: key, known: make(map[netip.Addr]netip.Addr)}
	if len(host) > 1 && host != "localhost" {
		d.host = regexp.MustCompile(`\b` + regexp.QuoteMeta(host) + `\b`)
	}
	return d
}

// Text returns a text without the addresses.
func (d *Disguise) Text(text []byte) []byte {
	if d.host != nil {
		text = d.host.ReplaceAll(text, []byte("GATEWAY"))
	}
	out := make([]byte, 0, len(text))
	for at := 0; at < len(text); {
		instead, end := d.at(text, at)
		if end == at {
			instead, end = text[at:at+1], at+1
		}
		out = append(out, instead...)
		at = end
	}
	return out
}

// at returns what stands for the address that begins at a place, and where it ends: at its
// beginning if there is none.
func (d *Disguise) at(text []byte, at int) (instead []byte, end int) {
	for _, s := range spellings {
		if address, end := s(text, at); end > at {
			return d.spelt(address, text[at:end]), end
		}
	}
	return nil, at
}

// spelt writes what stands for an address in the same spelling.
func (d *Disguise) spelt(a address, text []byte) []byte {
	switch {
	case a.mac != nil:
		return d.mac(a, text)
	case a.ip.Is6():
		return d.ipv6(a.ip, text)
	case a.separator == '-':
		return bytes.ReplaceAll([]byte(d.address(a.ip).String()), []byte("."), []byte("-"))
	}
	return d.ipv4(a.ip, text)
}

func (d *Disguise) mac(a address, text []byte) []byte {
	if a.mac[0]&1 != 0 || allZero(a.mac) {
		return text // a group, or nobody
	}
	other := append([]byte{2}, d.sum("mac", a.mac)[:5]...)
	var out []byte
	for i, b := range other {
		if i > 0 && a.separator != 0 && i%a.group == 0 {
			out = append(out, a.separator)
		}
		out = hex.AppendEncode(out, []byte{b})
	}
	return out
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// embedding are how addresses begin that have one of IPv4 in their last 32 bits: mapped and
// compatible ones (RFC 4291 section 2.5.5), and those of NAT64 (RFC 6052 section 2.1).
var embedding = []string{"::ffff:", "::", "64:ff9b::"}

// ipv6 writes what stands for an address of IPv6.
func (d *Disguise) ipv6(a netip.Addr, text []byte) []byte {
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
		return text
	}
	for _, head := range embedding {
		if netip.MustParseAddr(head+last(a).String()).As16() == a.As16() {
			return d.embedded(head, a, text)
		}
	}
	b := a.As16()
	sum := d.sum("ipv6", b[8:])
	copy(b[8:], sum[:8])
	if !a.IsLinkLocalUnicast() {
		network := d.sum("ipv6 network", b[:8])
		copy(b[:8], append([]byte{0x20, 0x01, 0x0d, 0xb8}, network[:4]...))
	}
	return []byte(netip.AddrFrom16(b).String())
}

// last returns what the last 32 bits are as an address.
func last(a netip.Addr) netip.Addr { return netip.AddrFrom4([4]byte(a.AsSlice()[12:])) }

// embedded writes what stands for an address of IPv6 that has one of IPv4 behind head.
func (d *Disguise) embedded(head string, a netip.Addr, text []byte) []byte {
	if other := d.address(last(a)); other != last(a) {
		return []byte(head + other.String())
	}
	return text
}

// kept are the addresses of IPv4 of which so many bits stay.
var kept = []struct {
	network netip.Prefix
	bits    int
}{
	{netip.MustParsePrefix("0.0.0.0/8"), 32},
	{netip.MustParsePrefix("127.0.0.0/8"), 32},
	{netip.MustParsePrefix("224.0.0.0/3"), 32}, // groups, netmasks, broadcast
	{netip.MustParsePrefix("10.0.0.0/8"), 8},
	{netip.MustParsePrefix("172.16.0.0/12"), 12},
	{netip.MustParsePrefix("192.168.0.0/16"), 16},
	{netip.MustParsePrefix("100.64.0.0/10"), 10},
	{netip.MustParsePrefix("169.254.0.0/16"), 16},
}

func bitsKept(a netip.Addr) int {
	for _, k := range kept {
		if k.network.Contains(a) {
			return k.bits
		}
	}
	return 0
}

// ipv4 writes what stands for an address of IPv4, or for a network.
func (d *Disguise) ipv4(a netip.Addr, text []byte) []byte {
	_, length, isNetwork := bytes.Cut(text, []byte("/"))
	other := d.address(a)
	if !isNetwork {
		return []byte(other.String())
	}
	// 10.0.0.0/8 is a network, 10.0.0.1/8 an address with a Call ID or of an interface.
	if bits, err := strconv.Atoi(string(length)); err == nil && bits <= 32 {
		if p := netip.PrefixFrom(a, bits); p.Masked() == p {
			other = netip.PrefixFrom(other, bits).Masked().Addr()
		}
	}
	return append(append([]byte(other.String()), '/'), length...)
}

// address returns the address that stands for another one.
func (d *Disguise) address(a netip.Addr) netip.Addr {
	keep := bitsKept(a)
	if keep == 32 {
		return a
	}
	if other, known := d.known[a]; known {
		return other
	}
	other := d.permute(a, keep)
	for bitsKept(other) != keep { // a public address stays one; going on keeps it unique
		other = d.permute(other, keep)
	}
	d.known[a] = other
	return other
}

// permute changes each bit behind the first ones by a secret function of the bits before it
// (J. Xu et al., "Prefix-preserving IP address anonymization", ICNP 2002).
func (d *Disguise) permute(a netip.Addr, keep int) netip.Addr {
	raw := a.As4()
	from := binary.BigEndian.Uint32(raw[:])
	to := from
	for i := keep; i < 32; i++ {
		bit := uint32(1) << (31 - i)
		before := from &^ (bit<<1 - 1)
		if sum := d.sum("ipv4", binary.BigEndian.AppendUint32([]byte{byte(i)}, before)); sum[0]&1 != 0 {
			to ^= bit
		}
	}
	binary.BigEndian.PutUint32(raw[:], to)
	return netip.AddrFrom4(raw)
}

func (d *Disguise) sum(what string, b []byte) []byte {
	h := hmac.New(sha256.New, d.key)
	h.Write([]byte(what))
	h.Write(b)
	return h.Sum(nil)
}
