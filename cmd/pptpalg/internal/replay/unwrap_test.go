package replay

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/packet"
)

var macs = []byte{0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1}

// ether is an Ethernet header with what follows it.
func ether(rest ...byte) []byte { return append(slices.Clone(macs), rest...) }

// layered wraps packets in layers that gopacket writes.
func layered(t testing.TB, outer ...gopacket.SerializableLayer) func(ip []byte) []byte {
	return func(ip []byte) []byte {
		for _, l := range outer {
			if p, ok := l.(*layers.PPPoE); ok {
				p.Length = uint16(len(ip) + 2)
			}
		}
		return serialize(t, append(slices.Clone(outer), gopacket.Payload(ip))...)
	}
}

func outerIPv4(next layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: next, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
}

func outerIPv6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2")}
}

// TestUnwrapped has one call in every wrapping that can be read.
func TestUnwrapped(t *testing.T) {
	eth := func(typ layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: macs[:6], DstMAC: macs[6:], EthernetType: typ}
	}
	session := &layers.PPPoE{Version: 1, Type: 1, SessionId: 7}
	ipv4 := &layers.PPP{PPPType: layers.PPPTypeIPv4}
	tests := []struct {
		name string
		link linkType
		wrap func(ip []byte) []byte
	}{
		{"Ethernet", linkEthernet, prefix(ether(8, 0)...)},
		{"VLAN", linkEthernet, layered(t, eth(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4})},
		{"QinQ", linkEthernet, prefix(ether(0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0)...)},
		{"old QinQ", linkEthernet, prefix(ether(0x91, 0, 0, 5, 0x81, 0, 0, 6, 8, 0)...)},
		{"padded", linkEthernet, func(ip []byte) []byte { return append(ether(8, 0), append(ip, make([]byte, 26)...)...) }},
		{"PPPoE", linkEthernet, layered(t, eth(layers.EthernetTypePPPoESession), session, ipv4)},
		{"PPPoE over VLAN", linkEthernet, layered(t, eth(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypePPPoESession}, session, ipv4)},
		{"PPPoE over QinQ", linkEthernet, prefix(ether(0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x88, 0x64, 0x11, 0, 0, 7, 0, 0, 0, 0x21)...)},
		{"PPPoE with a short protocol", linkEthernet, prefix(ether(0x88, 0x64, 0x11, 0, 0, 7, 0, 0, 0x21)...)},
		{"PPPoE with HDLC", linkEthernet, prefix(ether(0x88, 0x64, 0x11, 0, 0, 7, 0, 0, 0xff, 3, 0, 0x21)...)},
		{"PPPoE, padded", linkEthernet, func(ip []byte) []byte {
			return append(ether(0x88, 0x64, 0x11, 0, 0, 7, 0, 0, 0, 0x21), append(ip, make([]byte, 9)...)...)
		}},
		{"PPPoE without Ethernet", linkPPPEther, prefix(0x11, 0, 0, 7, 0, 0, 0, 0x21)},
		{"PPP", linkPPP, prefix(0, 0x21)},
		{"PPP with HDLC", linkPPP, prefix(0xff, 3, 0, 0x21)},
		{"PPP in HDLC", linkPPPHDLC, prefix(0xff, 3, 0, 0x21)},
		{"PPP in HDLC, short", linkPPPHDLC, prefix(0xff, 3, 0x21)},
		{"Cisco in HDLC", linkPPPHDLC, prefix(0x0f, 0, 8, 0)},
		{"Cisco HDLC", linkCiscoHDLC, prefix(0x0f, 0, 8, 0)},
		{"pppd, sent", linkPPPD, prefix(1, 3, 0, 0x21)},
		{"pppd, received", linkPPPD, prefix(0, 3, 0x21)},
		{"PPP with direction", linkPPPWithDir, prefix(0, 0xff, 3, 0, 0x21)},
		{"MPLS", linkEthernet, prefix(ether(0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64)...)},
		{"MPLS, multicast", linkEthernet, prefix(ether(0x88, 0x48, 0, 1, 1, 64)...)},
		{"MPLS, Ethernet with a control word", linkEthernet, prefix(slices.Concat(ether(0x88, 0x47, 0, 1, 1, 64, 0, 0, 0, 0), ether(8, 0))...)},
		{"MPLS alone", linkMPLS, prefix(0, 1, 1, 64)},
		{"MPLS over PPP", linkPPP, prefix(2, 0x81, 0, 1, 1, 64)},
		{"IPv4 in IPv6", linkEthernet, layered(t, eth(layers.EthernetTypeIPv6), outerIPv6(layers.IPProtocolIPv4))},
		{"IPv4 in IPv6 with options", linkRaw, layered(t, outerIPv6(layers.IPProtocolIPv6Destination), gopacket.Payload{4, 0, 4, 1, 4, 1, 1, 0})},
		{"IPv4 in IPv6 on PPPoE", linkEthernet, layered(t, eth(layers.EthernetTypePPPoESession), session, &layers.PPP{PPPType: layers.PPPTypeIPv6}, outerIPv6(layers.IPProtocolIPv4))},
		{"IPv4 in IPv4", linkRaw, layered(t, outerIPv4(layers.IPProtocolIPv4))},
		{"IPv4 in IPv6 in IPv4", linkRaw, layered(t, outerIPv4(layers.IPProtocolIPv6), outerIPv6(layers.IPProtocolIPv4))},
		{"GRE", linkRaw, layered(t, outerIPv4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4})},
		{"GRE with a key and numbers", linkRaw, layered(t, outerIPv4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4, KeyPresent: true, Key: 9, SeqPresent: true, Seq: 1})},
		{"GRE in IPv6", linkRaw, layered(t, outerIPv6(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4})},
		{"Ethernet in GRE", linkRaw, layered(t, outerIPv4(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeTransparentEthernetBridging}, eth(layers.EthernetTypeIPv4))},
		{"MPLS in IPv4", linkRaw, layered(t, outerIPv4(layers.IPProtocolMPLSInIP), gopacket.Payload{0, 1, 1, 64})},
		{"Ethernet in IPv4", linkRaw, layered(t, outerIPv4(layers.IPProtocolEtherIP), gopacket.Payload{0x30, 0}, eth(layers.EthernetTypeIPv4))},
		{"SLL", linkSLL, prefix(append(make([]byte, 14), 8, 0)...)},
		{"SLL with VLAN", linkSLL, prefix(append(make([]byte, 14), 0x81, 0, 0, 5, 8, 0)...)},
		{"SLL with PPPoE", linkSLL, prefix(append(make([]byte, 14), 0x88, 0x64, 0x11, 0, 0, 7, 0, 0, 0, 0x21)...)},
		{"SLL2", linkSLL2, prefix(append([]byte{8, 0}, make([]byte, 18)...)...)},
		{"SLL2 with PPPoE", linkSLL2, prefix(append(append([]byte{0x88, 0x64}, make([]byte, 18)...), 0x11, 0, 0, 7, 0, 0, 0, 0x21)...)},
		{"raw", linkRaw, prefix()},
		{"raw of BSD", linkRawBSD, prefix()},
		{"raw of OpenBSD", linkRawOBSD, prefix()},
		{"raw IPv4", linkIPv4, prefix()},
		{"raw IPv6", linkIPv6, layered(t, outerIPv6(layers.IPProtocolIPv4))},
		{"null, little-endian", linkNull, prefix(2, 0, 0, 0)},
		{"null, big-endian", linkNull, prefix(0, 0, 0, 2)},
		{"null, IPv6", linkNull, func(ip []byte) []byte {
			return append([]byte{30, 0, 0, 0}, layered(t, outerIPv6(layers.IPProtocolIPv4))(ip)...)
		}},
		{"loop", linkLoop, prefix(0, 0, 0, 2)},
		{"send offload", linkEthernet, func(ip []byte) []byte { return append(ether(8, 0), offloaded(ip)...) }},
		{"send offload on PPP", linkPPP, func(ip []byte) []byte { return append([]byte{0, 0x21}, offloaded(ip)...) }},
	}
	want := play(t, newBuilder(t).call().pcap(), natted)
	if len(want.Calls) != 1 || want.Calls[0].State != "established" || want.Calls[0].ToPAC.Packets != 3 || want.Totals.Other != 0 {
		t.Fatalf("plain:\n%s", text(t, want))
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBuilder(t)
			b.link, b.wrap = tt.link, tt.wrap
			got, out := written(t, b.call().pcap(), natted)
			if got.Totals.Written != len(b.frames) {
				t.Errorf("%d packets of %d are written", got.Totals.Written, len(b.frames))
			}
			got.Totals.Written = 0
			if diff := cmp.Diff(want, got, equal); diff != "" {
				t.Errorf("(-plain +wrapped):\n%s", diff)
			}
			outside := play(t, out)
			if c := outside.Calls[0]; c.PNS.Address != natted.Public || c.ToPNS.Packets != 3 || len(outside.Strays) != 0 {
				t.Errorf("outside:\n%s", text(t, outside))
			}
			for i, p := range frames(t, out) {
				was := b.frames[i]
				at, _ := find(was.data, was.link)
				if p.link != tt.link || !bytes.Equal(p.data[:at], was.data[:at]) {
					t.Fatalf("packet %d is written as %v % x", i+1, p.link, p.data[:at])
				}
			}
		})
	}
}

// TestCutAnywhere cuts every wrapping at every length: nothing is told of it that was not
// captured.
func TestCutAnywhere(t *testing.T) {
	whole := play(t, newBuilder(t).call().pcap(), natted)
	known := make(map[string]bool)
	for _, e := range listed(whole) {
		known[told(e)] = true
	}
	for snap := range 240 {
		for name, wrap := range map[string]func([]byte) []byte{
			"Ethernet": prefix(ether(8, 0)...),
			"PPPoE":    prefix(ether(0x88, 0x64, 0x11, 0, 0, 7, 0, 0, 0, 0x21)...),
			"offload":  func(ip []byte) []byte { return append(ether(8, 0), offloaded(ip)...) },
		} {
			b := newBuilder(t)
			b.snap, b.wrap = snap, wrap
			r, _ := written(t, b.call().pcap(), natted)
			if n := r.Totals.Control + r.Totals.GRE + r.Totals.Other; n != len(b.frames) || r.Totals.Malformed != 0 {
				t.Fatalf("%s cut at %d: %+v", name, snap, r.Totals)
			}
			for _, e := range listed(r) {
				if s := told(e); !known[s] && !strings.Contains(s, "not captured") && !(strings.Contains(s, notCaptured) && matches(whole, e)) {
					t.Errorf("%s cut at %d tells %q", name, snap, s)
				}
			}
		}
	}
}

// told is what is said of an event, without when and who.
func told(e *Event) string {
	var l row
	e.row(&l)
	return string(l.text[l.ends[2]:])
}

// matches reports whether the fields that are known of an event are those of the same
// message of a whole capture.
func matches(whole *Report, e *Event) bool {
	for _, w := range listed(whole) {
		if w.packet == e.packet && w.kind == e.kind {
			ids := func(a, b *ID) bool { return a == nil || a.Seen == nil || cmp.Equal(a, b) }
			return ids(e.CallID(), w.CallID()) && ids(e.Peer(), w.Peer()) && (e.Result() == nil || e.Result().Code == nil || e.result == w.result)
		}
	}
	return false
}

// TestKinds names what is not read.
func TestKinds(t *testing.T) {
	tests := []struct {
		name string
		link linkType
		data []byte
		want string
	}{
		{"ARP", linkEthernet, ether(8, 6), "ARP"},
		{"spanning tree", linkEthernet, ether(0, 38, 0x42, 0x42, 3), "802.3"},
		{"unknown EtherType", linkEthernet, ether(0x88, 0xb5), "EtherType 0x88b5"},
		{"PPPoE discovery", linkEthernet, ether(0x88, 0x63, 0x11, 9, 0, 0, 0, 0), "PPPoEDiscovery"},
		{"LCP", linkEthernet, ether(0x88, 0x64, 0x11, 0, 0, 7, 0, 4, 0xc0, 0x21, 1, 1), "PPP LCP"},
		{"compressed", linkPPP, []byte{0xfd, 1, 2, 3}, "PPP compressed or encrypted"},
		{"unknown PPP", linkPPP, []byte{0x10, 0x11}, "PPP 0x1011"},
		{"ICMPv6", linkRaw, serialize(t, outerIPv6(layers.IPProtocolICMPv6), gopacket.Payload("x")), "IPv6 ICMPv6"},
		{"TCP over IPv6", linkRaw, serialize(t, outerIPv6(layers.IPProtocolTCP), gopacket.Payload("x")), "IPv6 TCP"},
		{"PPTP's GRE over IPv6", linkRaw, serialize(t, outerIPv6(layers.IPProtocolGRE), gopacket.Payload{0x30, 1, 0x88, 0x0b, 0, 0, 0, 7}), "IPv6 GRE"},
		{"a fragment of IPv4 in IPv6", linkRaw, serialize(t, outerIPv6(layers.IPProtocolIPv6Fragment), gopacket.Payload{4, 0, 0, 1, 0, 0, 0, 9}), "fragments of tunnels"},
		{"UDP", linkRaw, serialize(t, outerIPv4(layers.IPProtocolUDP), gopacket.Payload("x")), "UDP"},
		{"unknown protocol", linkRaw, serialize(t, outerIPv4(253), gopacket.Payload("x")), "IP protocol 253"},
		{"GRE with routing", linkRaw, serialize(t, outerIPv4(layers.IPProtocolGRE), gopacket.Payload{0x40, 0, 8, 0}), "GRE"},
		{"neither IP", linkRaw, []byte{0x90}, "not IP"},
		{"address family", linkNull, []byte{7, 0, 0, 0}, "address family 7"},
		{"empty", linkEthernet, nil, "too short for their headers"},
		{"no Ethernet header", linkEthernet, make([]byte, 13), "too short for their headers"},
		{"VLAN tag at the end", linkEthernet, ether(0x81, 0), "too short for their headers"},
		{"MPLS without an end", linkMPLS, []byte{0, 1, 0, 64, 0, 1, 0, 64}, "too short for their headers"},
		{"VLAN in VLAN for ever", linkEthernet, ether(bytes.Repeat([]byte{0x81, 0, 0, 0}, 99)...), "too many headers"},
		{"another link type", 147, []byte{1}, "link type unknown(147)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBuilder(t)
			b.open(client, server)
			b.link = tt.link
			b.add(tt.data)
			got := play(t, pcapng(t, b.frames)).Totals
			if tt.want == "fragments of tunnels" {
				if got.Fragments != 1 {
					t.Errorf("%+v", got)
				}
				return
			}
			if diff := cmp.Diff(map[string]int{tt.want: 1}, got.Kinds); diff != "" || got.Other != 1 {
				t.Errorf("%d others (-want +got):\n%s", got.Other, diff)
			}
			if line := string(text(t, &Report{Totals: got})); !strings.Contains(line, "1 other (1 "+tt.want+")") {
				t.Errorf("%s", line)
			}
		})
	}
}

// TestOffloaded has a segment that is longer than any packet on a line, and then others.
func TestOffloaded(t *testing.T) {
	b := newBuilder(t)
	b.open(client, server)
	b.wrap = func(ip []byte) []byte { return append(ether(8, 0), offloaded(ip)...) }
	var many []byte
	for range 500 { // 84000 bytes of messages
		many = append(many, requested(1)...)
	}
	// gopacket refuses so long an IPv4 packet, and so the builder takes a short one apart.
	b.tcp(client, server, flags{ack: true}, nil)
	last := &b.frames[len(b.frames)-1]
	last.data = append(last.data, many...)
	last.Length, last.CaptureLength = len(last.data), len(last.data)
	b.next[way(client, server)] += uint32(len(many))
	b.wrap = prefix(ether(8, 0)...)
	b.tcp(client, server, flags{ack: true}, requested(9))
	r, out := written(t, b.pcap(), natted)
	if n := len(listed(r)); n != 4+501 {
		t.Errorf("%d events, want %d", n, 4+501)
	}
	if is, err := packet.ParseCaptured(frames(t, out)[len(b.frames)-2].data[etherHeader:]); err != nil || !is.Offloaded() {
		t.Errorf("written: %v, total length 0: %v", err, is.Offloaded())
	}
}

func FuzzFind(f *testing.F) {
	f.Add(uint32(linkEthernet), 0, ether(0x81, 0, 0, 5, 0x88, 0x64, 0x11, 0, 0, 7, 0, 0, 0, 0x21, 0x45))
	f.Add(uint32(linkRaw), 0, serialize(f, outerIPv6(layers.IPProtocolGRE), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, outerIPv4(layers.IPProtocolTCP), gopacket.Payload(make([]byte, 20))))
	f.Add(uint32(linkSLL2), 300, append([]byte{0x88, 0x47}, make([]byte, 60)...))
	f.Add(uint32(linkPPPHDLC), 9, []byte{0xff, 3, 0, 0x57, 0x60})
	f.Fuzz(func(t *testing.T, link uint32, cut int, b []byte) {
		at, k := find(b, linkType(link))
		if at < 0 || at > len(b) || k.String() == "" {
			t.Fatalf("%v at %d of %d", k, at, len(b))
		}
		if k != isIPv4 {
			return
		}
		p := frame{CaptureInfo: gopacket.CaptureInfo{CaptureLength: len(b), Length: len(b) + cut&0xfffff}, data: b}
		var memory []byte
		c, _, ok := view(p, at, &memory)
		if !ok {
			return
		}
		if c.missing > 0 && p.Length == len(b) || c.missing+len(c.payload()) != len(c.ip().Payload()) || len(memory) > mostIP+len(b) {
			t.Errorf("%d bytes are missing of %d", c.missing, len(c.ip().Payload()))
		}
	})
}
