package bugreport

import (
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
		"2026-01-02T03:04:05.000Z 999.1.1.1":                   "2026-01-02T03:04:05.000Z 999.1.1.1",
	} {
		if got := text(from); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", from, got, want)
		}
	}
}
