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

// The texts that may be addresses. A prefix length may follow an IPv4 address.
var (
	ipv4 = regexp.MustCompile(`\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b(/\d+)?`)
	ipv6 = regexp.MustCompile(`(?i)[0-9a-f]{0,4}(:[0-9a-f]{0,4}){2,8}`)
	mac  = regexp.MustCompile(`(?i)\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)
)

// Text returns a text without the addresses.
func (d *Disguise) Text(text []byte) []byte {
	if d.host != nil {
		text = d.host.ReplaceAll(text, []byte("GATEWAY"))
	}
	text = mac.ReplaceAllFunc(text, d.mac)
	text = ipv6.ReplaceAllFunc(text, d.ipv6)
	return ipv4.ReplaceAllFunc(text, d.ipv4)
}

func (d *Disguise) mac(text []byte) []byte {
	raw, err := hex.DecodeString(string(bytes.ReplaceAll(text, []byte(":"), nil)))
	if err != nil || raw[0]&1 != 0 || allZero(raw) {
		return text // a group, or nobody
	}
	sum := d.sum("mac", raw)
	out := []byte("02")
	for _, b := range sum[:5] {
		out = append(out, ':')
		out = hex.AppendEncode(out, []byte{b})
	}
	return out
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func (d *Disguise) ipv6(text []byte) []byte {
	a, err := netip.ParseAddr(string(text))
	if err != nil || !a.Is6() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
		return text
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

func (d *Disguise) ipv4(text []byte) []byte {
	address, length, isNetwork := bytes.Cut(text, []byte("/"))
	a, err := netip.ParseAddr(string(address))
	if err != nil {
		return text
	}
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
