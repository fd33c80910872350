package gateway

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/explain"
)

// wrong is an ICMP error of a router about a packet.
func wrong(t *testing.T, router netip.Addr, typ, code uint8, mtu uint16, about []byte) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: router.AsSlice(), DstIP: about[12:16]}
	icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Seq: mtu}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, icmp, gopacket.Payload(about[:28])); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestTooBig: errors about a flow's packets are its own, whether they quote these as they come or as
// they leave; other errors are not heard, and there is an end to what is kept.
func TestTooBig(t *testing.T) {
	var (
		client, public = netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("198.51.100.1")
		server, router = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.77")
		flow           = calls.Flow{Src: client, Dst: server, Key: 7, NewSrc: public, NewDst: server, NewKey: 7}
		back           = calls.Flow{Src: server, Dst: public, Key: 9, NewSrc: server, NewDst: client, NewKey: 8}
		noon           = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
		leaving        = datagram(t, public, server, 7)
		heard          tooBigs
	)
	for _, b := range [][]byte{
		nil, leaving,
		wrong(t, router, 3, 1, 0, leaving), wrong(t, router, 11, 4, 0, leaving),
		wrong(t, router, 3, 4, 1400, leaving)[:40],
	} {
		if heard.hear(b, noon) {
			t.Errorf("heard % x", b)
		}
	}
	for i, about := range [][]byte{leaving, leaving, datagram(t, client, server, 7), datagram(t, server, client, 8)} {
		if !heard.hear(wrong(t, router, 3, 4, 1400+uint16(i), about), noon.Add(time.Duration(i)*time.Second)) {
			t.Errorf("error %d is not heard", i)
		}
	}
	size := len(leaving)
	want := explain.TooBig{Errors: 3, Last: noon.Add(2 * time.Second), Router: router, Size: size, MTU: 1402}
	if got := heard.about(flow); got != want {
		t.Errorf("about the flow %+v, want %+v", got, want)
	}
	if got := heard.about(back); got.Errors != 1 || got.MTU != 1403 {
		t.Errorf("about the way back %+v", got)
	}
	for i := range mostTooBig {
		heard.hear(wrong(t, router, 3, 4, 0, datagram(t, public, server, pptp.CallID(100+i))), noon.Add(time.Minute))
	}
	if len(heard.of) != mostTooBig || heard.about(flow).Errors != 0 || heard.total() != 4+mostTooBig {
		t.Errorf("%d are kept, of them %+v, and %v were heard", len(heard.of), heard.about(flow), heard.total())
	}
}
