package sockets

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestReset: the packet is the one that another implementation makes.
func TestReset(t *testing.T) {
	src, dst := netip.MustParseAddrPort("10.77.0.10:40001"), netip.MustParseAddrPort("203.0.113.9:1723")
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	tcp := &layers.TCP{SrcPort: 40001, DstPort: 1723, Seq: 0xfffffffe, RST: true}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	want := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(want, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Bytes(), reset(src, dst, 0xfffffffe)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
