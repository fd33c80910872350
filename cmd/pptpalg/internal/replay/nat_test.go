package replay

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

func mustNAT(t testing.TB, s string) NAT {
	t.Helper()
	n, err := ParseNAT(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestParseNAT(t *testing.T) {
	tests := []struct{ in, want, err string }{
		{"10.0.0.0/24=203.0.113.1", "10.0.0.0/24=203.0.113.1", ""},
		{"10.0.0.9/24=203.0.113.1", "10.0.0.0/24=203.0.113.1", ""},
		{"10.0.0.5=203.0.113.1", "10.0.0.5/32=203.0.113.1", ""},
		{"0.0.0.0/0=203.0.113.1", "", "the public address is inside"},
		{"10.0.0.0/24", "", `"" is not an IPv4 address`},
		{"10.0.0.0/33=203.0.113.1", "", `"10.0.0.0/33" is not an IPv4 network`},
		{"fd00::/8=203.0.113.1", "", `"fd00::/8" is not an IPv4 network`},
		{"10.0.0.0/24=fd00::1", "", `"fd00::1" is not an IPv4 address`},
		{"", "", "want CLIENT-NET=PUBLIC"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			n, err := ParseNAT(tt.in)
			if tt.err == "" && (err != nil || fmt.Sprintf("%v=%v", n.Net, n.Public) != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%v, %v", n, err)
			}
		})
	}
}

// TestForwarded has a server inside, whom outside clients reach by its public
// address: the same capture, seen with the roles exchanged.
func TestForwarded(t *testing.T) {
	b := capture(t, "hangup-lan")
	r, out := written(t, b, mustNAT(t, "203.0.113.10=198.51.100.7"))
	if len(r.Calls) != 2 {
		t.Fatalf("%d calls", len(r.Calls))
	}
	for _, c := range r.Calls {
		if c.PAC.PublicAddress != netip.MustParseAddr("198.51.100.7") || c.PAC.Address != netip.MustParseAddr("203.0.113.10") || c.PNS.Address != c.PNS.PublicAddress {
			t.Errorf("call %+v", c)
		}
		if c.PAC.CallID == nil || *c.PAC.PublicCallID == 0 {
			t.Errorf("call %d: the server's Call ID 0 has the public form %v; 0 is never given out", c.Number, c.PAC.PublicCallID)
		}
	}
	for _, c := range play(t, out).Calls {
		if c.PAC.Address != netip.MustParseAddr("198.51.100.7") || c.Control.Dst.Addr() != c.PAC.Address {
			t.Errorf("outside, call %+v", c)
		}
		if c.ToPAC.Packets == 0 || c.ToPNS.Packets == 0 {
			t.Errorf("outside, call %d has no GRE: %+v", c.Number, c)
		}
	}
}

// TestNetworkOfServersIsNotForwarded: nobody could tell which of its hosts the
// public address leads to.
func TestNetworkOfServersIsNotForwarded(t *testing.T) {
	for _, c := range play(t, capture(t, "hangup-lan"), mustNAT(t, "203.0.113.0/24=198.51.100.7")).Calls {
		if c.PAC.Address != c.PAC.PublicAddress || c.PNS.Address != c.PNS.PublicAddress {
			t.Errorf("call %+v", c)
		}
	}
}

// TestLongestPrefixCounts gives one client an address of its own.
func TestLongestPrefixCounts(t *testing.T) {
	r := play(t, capture(t, "hangup-lan"), lab[0], mustNAT(t, "10.77.0.11=203.0.113.2"))
	for i, want := range []string{"203.0.113.1", "203.0.113.2"} {
		if c := r.Calls[i]; c.PNS.PublicAddress.String() != want || *c.PNS.PublicCallID != pptp.CallID(7) {
			t.Errorf("call %d: %v, %v", i+1, c.PNS.PublicAddress, *c.PNS.PublicCallID)
		}
	}
}

// TestBothInside: what does not cross the gateway is not translated.
func TestBothInside(t *testing.T) {
	r := play(t, capture(t, "hangup-lan"), lab[0], mustNAT(t, "203.0.113.10=198.51.100.7"))
	for _, c := range r.Calls {
		if c.PNS.Address != c.PNS.PublicAddress || c.PAC.Address != c.PAC.PublicAddress {
			t.Errorf("call %+v", c)
		}
	}
}

// TestPortTakenOutside has two clients that use one port.
func TestPortTakenOutside(t *testing.T) {
	all := frames(t, capture(t, "hangup-lan"))
	first := netip.AddrPort{}
	for _, p := range all {
		seg, err := packet.Parse(p.data[etherHeader:])
		if err != nil {
			continue // GRE
		}
		src, dst := seg.Src(), seg.Dst()
		if !first.IsValid() {
			first = src
		}
		switch { // the second client gets the first one's port
		case src.Addr() != first.Addr() && src.Port() != 1723:
			seg.SetSrc(netip.AddrPortFrom(src.Addr(), first.Port()))
		case dst.Addr() != first.Addr() && dst.Port() != 1723:
			seg.SetDst(netip.AddrPortFrom(dst.Addr(), first.Port()))
		}
	}
	r, out := written(t, pcap(t, linkEthernet, all), lab...)
	outside := play(t, out)
	if len(r.Calls) != 2 || len(outside.Calls) != 2 {
		t.Fatalf("%d calls inside, %d outside", len(r.Calls), len(outside.Calls))
	}
	a, b := outside.Calls[0].Control.Src, outside.Calls[1].Control.Src
	if a.Port() != first.Port() || b.Port() != first.Port()+1 {
		t.Errorf("outside the clients have %v and %v, inside both port %d", a, b, first.Port())
	}
	for i, p := range frames(t, out) {
		verify(t, i+1, p.data)
	}
}

func TestPortsRunOut(t *testing.T) {
	tr := newTranslator(nil)
	public, peer := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddrPort("203.0.113.10:1723")
	seen := make(map[uint16]bool)
	for range 65536 - 1024 {
		p := tr.take(public, 65535, peer).Port()
		if seen[p] || p < 1024 {
			t.Fatalf("port %d again, or too low", p)
		}
		seen[p] = true
	}
	if p := tr.take(public, 65535, peer); p.Addr() != public || !seen[p.Port()] {
		t.Errorf("with none free it is %v, want one shared", p)
	}
}
