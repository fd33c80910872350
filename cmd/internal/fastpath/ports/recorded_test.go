package ports

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
)

// recorded reads what Debian's kernel 6.1 answered in a namespace with interfaces that other
// kernels may not have:
//
//	lan     veth, VLAN vlan10 on it, no address     e2    veth, in bond0
//	wan     veth, VLAN vlan20 on it, an address     e3    veth, in vrf7
//	server  veth, ipv0 (ipvlan) on it               ppp0  pppd
//	wg0     wireguard                               gre1, dummy7
func recorded(t *testing.T) *facts {
	t.Helper()
	read := func(name string) []netlink.Message {
		b, err := os.ReadFile(filepath.Join("testdata", "debian-6.1", name+".hex"))
		if err != nil {
			t.Fatal(err)
		}
		var all []netlink.Message
		for line := range strings.FieldsSeq(string(b)) {
			data, err := hex.DecodeString(line)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, netlink.Message{Data: data})
		}
		return all
	}
	f := &facts{untags: make(map[int]bool), filters: make(map[int]filters), ours: func(uint32) bool { return false }}
	var err error
	if f.links, err = decodeLinks(read("link")); err != nil {
		t.Fatal(err)
	}
	if f.qdiscs, err = decodeQdiscs(read("qdisc")); err != nil {
		t.Fatal(err)
	}
	f.addressed = decodeAddresses(read("address"))
	return f
}

func byName(ports []Port) map[string]Port {
	all := make(map[string]Port)
	for _, p := range ports {
		all[p.Name] = p
	}
	return all
}

// TestRecorded: this kernel has no family netdev, so nobody knows about XDP.
func TestRecorded(t *testing.T) {
	f := recorded(t)
	const unknown = "kernels before 6.3 cannot tell"
	got := byName(f.decide(Auto, nil))
	want(t, got, "lan", "", "addresses are on vlan10")
	want(t, got, "wan", "tc", unknown)
	want(t, got, "vlan10", "tc", "frames do not arrive on a vlan itself")
	want(t, got, "vlan20", "tc", "frames do not arrive on a vlan itself")
	want(t, got, "server", "", "addresses are on ipv0")
	want(t, got, "ipv0", "", "kind ipvlan are left")
	want(t, got, "bond0", "tc", "on a bond itself")
	want(t, got, "e2", "", "a port of bond bond0")
	want(t, got, "e3", "", "in vrf vrf7")
	want(t, got, "vrf7", "", "VRF")
	want(t, got, "wg0", "", "kind wireguard are left")
	want(t, got, "gre1", "", "kind gre are left")
	want(t, got, "gre0", "", "down")
	want(t, got, "ppp0", "tc", "no link header")
	want(t, got, "dummy7", "tc", "on a dummy itself")
	want(t, got, "client", "tc", unknown)
	if got["ppp0"].MAC != nil || got["vlan10"].MAC == nil {
		t.Errorf("MACs: %v of ppp0, %v of vlan10", got["ppp0"].MAC, got["vlan10"].MAC)
	}

	// XDP is tried where it is asked for.
	got = byName(f.decide(XDP, nil))
	want(t, got, "client", "xdp", unknown)
	want(t, got, "ppp0", "", "no link header")
	got = byName(f.decide(TC, nil))
	want(t, got, "ppp0", "tc", "requested")
	want(t, got, "lan", "", "addresses are on vlan10")
}

// TestRecordedVLAN: a card with a VLAN on it and the drivers' features.
func TestRecordedVLAN(t *testing.T) {
	f := recorded(t)
	wan, client := index(t, f, "wan"), index(t, f, "client")
	f.features = map[int]uint64{wan: 0x67, client: 0x67}
	want(t, byName(f.decide(XDP, nil)), "wan", "xdp", "takes and sends")
	f.untags[wan] = true
	want(t, byName(f.decide(XDP, nil)), "wan", "", "VLAN vlan20 is on it, and the card strips tags")
	want(t, byName(f.decide(Auto, []string{"wan", "client"})), "wan", "tc", "VLAN vlan20")
}

// TestCards: most cards say that they send only when a program is attached.
func TestCards(t *testing.T) {
	card := func(program uint32) link {
		return link{index: 5, name: "eth0", typ: 1, flags: mattering &^ 8, mac: "\x02\x00\x00\x00\x00\x05", xdp: [3]uint32{program}}
	}
	tests := []struct {
		name     string
		link     link
		features uint64
		how, why string
	}{
		{"cannot", card(0), 0, "tc", "cannot do it"},
		{"takes only", card(0), xdpBasic, "tc", "cannot do it"},
		{"sends", card(0), xdpBasic | xdpRedirect | xdpSends, "xdp", "takes and sends"},
		{"not yet", card(0), xdpBasic | xdpRedirect, "xdp", "whether it can send is known once the program is attached"},
		{"not even with our program", card(7), xdpBasic | xdpRedirect, "tc", "does not send"},
		{"with our program", card(7), xdpBasic | xdpRedirect | xdpSends, "xdp", "takes and sends"},
		{"with another's program", card(8), xdpBasic | xdpRedirect | xdpSends, "tc", "another program (8)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &facts{links: []link{tt.link}, features: map[int]uint64{5: tt.features}, ours: func(id uint32) bool { return id == 7 }}
			want(t, byName(f.decide(Auto, nil)), "eth0", tt.how, tt.why)
		})
	}
}

func index(t *testing.T, f *facts, name string) int {
	t.Helper()
	for _, l := range f.links {
		if l.name == name {
			return l.index
		}
	}
	t.Fatalf("no interface %s", name)
	return 0
}
