package bugreport

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var disguise = NewDisguise([]byte("a key"), "gw1")

func text(s string) string { return string(disguise.Text([]byte(s))) }

// common is how many bits two addresses share from the beginning.
func common(a, b netip.Addr) int {
	for n := 32; ; n-- {
		if p, _ := a.Prefix(n); p.Contains(b) {
			return n
		}
	}
}

// TestNetworksStay: two addresses share as long a prefix as those for which they stand,
// unless one of them is private.
func TestNetworksStay(t *testing.T) {
	some := rapid.Custom(func(t *rapid.T) netip.Addr {
		b := [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address"))
		if rapid.Bool().Draw(t, "private") {
			b[0] = 10
		}
		return netip.AddrFrom4(b)
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := some.Draw(t, "a"), some.Draw(t, "b")
		a2, b2 := netip.MustParseAddr(text(a.String())), netip.MustParseAddr(text(b.String()))
		if (a == b) != (a2 == b2) || bitsKept(a) != bitsKept(a2) {
			t.Errorf("%v and %v become %v and %v", a, b, a2, b2)
		}
		if bitsKept(a) == 8 && bitsKept(b) == 8 && common(a, b) != common(a2, b2) {
			t.Errorf("%v and %v become %v and %v", a, b, a2, b2)
		}
	})
}

func TestText(t *testing.T) {
	client, public := text("10.77.0.10"), text("203.0.113.1")
	network := text("10.77.0.0/24")
	if p, err := netip.ParsePrefix(network); err != nil || p.Masked() != p || !p.Contains(netip.MustParseAddr(client)) {
		t.Errorf("10.77.0.0/24 becomes %s, and 10.77.0.10 %s", network, client)
	}
	if client == "10.77.0.10" || public == "203.0.113.1" || !strings.HasPrefix(client, "10.") {
		t.Errorf("they become %s and %s", client, public)
	}
	link, router := text("52:54:00:12:34:56"), text("2001:db8:1::1")
	for from, want := range map[string]string{
		"client=10.77.0.10:4000/7 public=203.0.113.1:4000/255": fmt.Sprintf("client=%s:4000/7 public=%s:4000/255", client, public),
		`{"address":"10.77.0.10"}`:                             fmt.Sprintf(`{"address":%q}`, client),
		"-A FORWARD -s 10.77.0.0/24 -j ACCEPT":                 fmt.Sprintf("-A FORWARD -s %s -j ACCEPT", network),
		"0.0.0.0/0 127.0.0.1:9723 255.255.255.0 224.0.0.1":     "0.0.0.0/0 127.0.0.1:9723 255.255.255.0 224.0.0.1",
		"link/ether 52:54:00:12:34:56 brd ff:ff:ff:ff:ff:ff":   "link/ether " + link + " brd ff:ff:ff:ff:ff:ff",
		"inet6 2001:db8:1::1/64 ::1 [2001:db8:1::1]:53":        "inet6 " + router + "/64 ::1 [" + router + "]:53",
		"at 12:34:56 on gw1, not gw12: 1.2.3":                  "at 12:34:56 on GATEWAY, not gw12: 1.2.3",
	} {
		if got := text(from); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", from, got, want)
		}
	}
}

// TestSpellings: an address is replaced however it is written and whatever it stands next to,
// and by the same one. In each row A is an IPv4 address, D the same with dashes, M a hardware
// address, W, C and B the same with dashes, as Cisco writes it and without anything, and S an
// IPv6 address.
func TestSpellings(t *testing.T) {
	const plainA, plainM, plainS = "198.51.100.77", "00:1a:2b:3c:4d:5e", "2001:db8:1::1"
	spelt := func(a, m, s string) *strings.Replacer {
		bare := strings.ReplaceAll(m, ":", "")
		return strings.NewReplacer("A", a, "D", strings.ReplaceAll(a, ".", "-"), "M", m, "W", strings.ReplaceAll(m, ":", "-"),
			"C", bare[:4]+"."+bare[4:8]+"."+bare[8:], "B", bare, "S", s)
	}
	from, to := spelt(plainA, plainM, plainS), spelt(text(plainA), text(plainM), text(plainS))
	for _, row := range []string{
		"A", "::ffff:A", "64:ff9b::A", "::A", "[::ffff:A]:1723", "::ffff:A/128", "::ffff:A:1723", "x::A", "x::ffff:Ay", "at ::ffff:A: refused",
		"hostA", "faceA", "_A_", "hop_A", `comment "xAy"`, "A.1723 > 0.0.0.0.80", "key:A", "12:34:56:A", "A-A", "a:b:A", "/A/",
		"D.dsl.isp.example", "ip-D.ec2.internal", "dslD.isp.example", "D", "host-D",
		"M", "W", "C", "mac=M:M:08:00", "01:M", "01-W", "_M_", "macM", "ff:ff:ff:ff:ff:ff:M:08:06", "33:33:00:00:00:01:M:86:dd", "M.", "M:", "C,", "C.", "enxB: mtu", "wlxB",
		"S", "key:S", "from S: refused", "S.", "_S_", "xSy", "S%eth0", "S/64", "[S]:53", "S-S", "S,A,M",
	} {
		if got, want := text(from.Replace(row)), to.Replace(row); got != want {
			t.Errorf("%s: %s\nbecomes %s\nwant    %s", row, from.Replace(row), got, want)
		}
	}
	a := text(plainA)
	for from, want := range map[string]string{
		"198.051.100.077": a, "::ffff:c633:644d": "::ffff:" + a, "0:0:0:0:0:FFFF:198.51.100.77": "::ffff:" + a, "64:ff9b::c633:644d": "64:ff9b::" + a,
		"00:1A:2B:3C:4D:5E": text(plainM), "001A.2B3C.4D5E": to.Replace("C"), "2001:DB8:1:0::1": text(plainS), "2001:db8:1::0.0.0.1": text(plainS),
	} {
		if got := text(from); got != want {
			t.Errorf("%s becomes %s, want %s", from, got, want)
		}
	}
}

// TestNoAddress: what only looks like an address stays.
func TestNoAddress(t *testing.T) {
	for _, s := range []string{
		"2026-01-02T03:04:05.000Z 999.1.1.1", "at 23:16:42, 23:16:42.123: 1:02:03", "2026-01-02-03 20260102-150405", "handle 12 # handle 0x1a",
		"v1.2.3.4 V6.1.0.18", "iptables_1.8.9.1_amd64.deb", "nft_1.0.6.1-2+deb12u2_arm64", "11.4.0-1ubuntu5.22.04.3", "1.2.3.4ubuntu1 1.2.3.4rc1", "6.1.0-18-2-3-amd64",
		"5.22.04.3", "linux-image-6.1.0-18-amd64", "go1.26.8", "123e4567-e89b-12d3-a456-426614174000", "1-2-3 1-2-3-4-5",
		"std::dec std::abs(x) netip::Addr foo::bar::baz a.b::c", "x[a:b:c] case bad: fe:", "::1 :: ::/0 0.0.0.0/0 ::ffff:0.0.0.0 ::ffff:127.0.0.1", "ff02::1 64:ff9b::/96",
		"00:00:00:00:00:00 ff-ff-ff-ff-ff-ff 0100.5e00.00fb 01:00:5e:00:00:fb", "enx0 enp3s0 deadbeefcafe", "sha256:001a2b3c4d5e6f", "12345678.9abc.def0 1.234.567",
	} {
		if got := text(s); got != s {
			t.Errorf("%s\nbecomes %s", s, got)
		}
	}
}

// TestLongTexts: the time that a text takes grows with its length only.
func TestLongTexts(t *testing.T) {
	for _, part := range []string{"a", "1", "1-", "ab:"} {
		long := bytes.Repeat([]byte(part), 1<<19)
		if got := disguise.Text(long); len(got) != len(long) {
			t.Errorf("%d bytes become %d", len(long), len(got))
		}
	}
}

// TestNothingSurvives: of an address in any spelling, next to anything, no three octets are
// left, and two that are the same are the same afterwards.
func TestNothingSurvives(t *testing.T) {
	spellings := []string{"%[1]d.%[2]d.%[3]d.%[4]d", "%[1]d-%[2]d-%[3]d-%[4]d", "::ffff:%[1]d.%[2]d.%[3]d.%[4]d", "64:ff9b::%[1]d.%[2]d.%[3]d.%[4]d", "%03[1]d.%03[2]d.%03[3]d.%03[4]d"}
	beside := rapid.SampledFrom([]string{"", " ", "x", "host", "_", "/", "\"", "[", "(", "=", ",", "a", "é", "src=", "x:", "@"})
	after := rapid.SampledFrom([]string{"", " ", "y", "_", "/32", "\"", "]", ":1723", ",", ".", ".isp.example", ": refused", "é", "%eth0", "g"})
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.IntRange(100, 191), 4, 4).Draw(t, "address") // no octet is a part of another one
		how := rapid.SampledFrom(spellings).Draw(t, "spelling")
		spell := func(a [4]byte) string { return fmt.Sprintf(how, a[0], a[1], a[2], a[3]) }
		a := [4]byte{byte(b[0]), byte(b[1]), byte(b[2]), byte(b[3])}
		if bitsKept(netip.AddrFrom4(a)) != 0 {
			return
		}
		if strings.Contains(how, "::") {
			beside = beside.Filter(func(s string) bool { return s != "a" }) // it would be a part of the address
		}
		left, right := beside.Draw(t, "before"), after.Draw(t, "after")
		got := text(left + spell(a) + right)
		other := netip.MustParseAddr(text(netip.AddrFrom4(a).String())).As4()
		want := left + spell(other) + right
		if strings.HasPrefix(how, "%03") {
			want = left + netip.AddrFrom4(other).String() + right
		}
		if got != want {
			t.Errorf("%s becomes %s, want %s", left+spell(a)+right, got, want)
		}
	})
}

// FuzzText: a text with an address keeps none of it, whatever it is in.
func FuzzText(f *testing.F) {
	for _, seed := range []string{"", "::", "1.", "x", ":", "12:34:56:", "a::b", "00:1a:", "1-2-", "\xff"} {
		f.Add([]byte(seed), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, before, after []byte) {
		whole := append(append(append([]byte{}, before...), " 198.51.100.77 ::ffff:198.51.100.77 198-51-100-77.example 00:1a:2b:3c:4d:5e 2001:db8:7:8::9 "...), after...)
		if bytes.Contains(before, []byte("51")) || bytes.Contains(after, []byte("51")) || bytes.Contains(after, []byte("1a:2b")) || bytes.Contains(before, []byte("1a:2b")) {
			return // it may be no part of an address
		}
		got := disguise.Text(whole)
		for _, part := range []string{"51.100.77", "51-100-77", "1a:2b", "7:8::9"} {
			if bytes.Contains(got, []byte(part)) {
				t.Errorf("%q becomes %q", whole, got)
			}
		}
	})
}
