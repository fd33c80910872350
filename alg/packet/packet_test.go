package packet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/packet"
)

// Where build puts the fields: a 20-byte IPv4 header, then a 20-byte TCP header.
const (
	tcpChecksumAt = 20 + 16
	ipChecksumAt  = 10
	payloadAt     = 40
)

// plain is one segment, byte by byte. Both checksums are right.
var plain = []byte{
	0x45, 0x00, 0x00, 0x2b, // version 4, header 5 words, TOS 0, total length 43
	0x12, 0x34, 0x40, 0x00, // ID, Don't Fragment, offset 0
	0x40, 0x06, 0x3c, 0x62, // TTL 64, TCP, header checksum
	0xc0, 0x00, 0x02, 0x01, // source 192.0.2.1
	0xc6, 0x33, 0x64, 0x02, // destination 198.51.100.2
	0xc3, 0x50, 0x06, 0xbb, // ports 50000, 1723
	0xff, 0xff, 0xff, 0xfe, // sequence number
	0x00, 0x00, 0x00, 0x07, // acknowledgement number
	0x50, 0x18, 0x20, 0x00, // header 5 words, ACK PSH, window
	0x15, 0x1e, 0x00, 0x00, // checksum, urgent pointer
	0x61, 0x62, 0x63, // payload "abc"
}

// edited returns a copy of plain after f.
func edited(f func(b []byte)) []byte {
	b := bytes.Clone(plain)
	f(b)
	return b
}

// build lets gopacket make a segment with right checksums.
func build(t testing.TB, tcp layers.TCP, payload []byte) []byte {
	t.Helper()
	ip := layers.IPv4{
		Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: []byte{192, 0, 2, 1}, DstIP: []byte{198, 51, 100, 2},
	}
	if err := tcp.SetNetworkLayerForChecksum(&ip); err != nil {
		t.Fatalf("set network layer: %v", err)
	}
	return serialize(t, &ip, &tcp, gopacket.Payload(payload))
}

func serialize(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, l...); err != nil {
		t.Fatalf("build packet: %v", err)
	}
	return bytes.Clone(buf.Bytes())
}

// recomputed is b with both its checksums computed in full by gopacket.
func recomputed(t testing.TB, b []byte) []byte {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeIPv4, gopacket.Default)
	ip, tcp := p.Layer(layers.LayerTypeIPv4), p.Layer(layers.LayerTypeTCP)
	if ip == nil || tcp == nil {
		t.Fatalf("gopacket cannot decode % x", b)
	}
	l4 := tcp.(*layers.TCP)
	if err := l4.SetNetworkLayerForChecksum(ip.(*layers.IPv4)); err != nil {
		t.Fatalf("set network layer: %v", err)
	}
	return serialize(t, ip.(*layers.IPv4), l4, gopacket.Payload(l4.LayerPayload()))
}

func mustParse(t testing.TB, b []byte) packet.Segment {
	t.Helper()
	s, err := packet.Parse(b)
	if err != nil {
		t.Fatalf("parse % x: %v", b, err)
	}
	return s
}

func TestSampleIsRight(t *testing.T) {
	if diff := cmp.Diff(recomputed(t, plain), plain); diff != "" {
		t.Errorf("(-recomputed +got):\n%s", diff)
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		want error
	}{
		{"whole", plain, nil},
		{"padded", append(bytes.Clone(plain), 0, 0, 0), nil},
		{"Don't Fragment and the reserved bit", edited(func(b []byte) { b[6] = 0xc0 }), nil},
		{"payload empty", edited(func(b []byte) { b[3] = 40 })[:40], nil},
		{"nothing", nil, packet.ErrShort},
		{"IP header cut", plain[:19], packet.ErrShort},
		{"IPv6", edited(func(b []byte) { b[0] = 0x65 }), packet.ErrNotIPv4},
		{"IP header of 4 words", edited(func(b []byte) { b[0] = 0x44 }), packet.ErrLength},
		{"IP header beyond total length", edited(func(b []byte) { b[0] = 0x4f }), packet.ErrLength},
		{"total length below IP header", edited(func(b []byte) { b[3] = 19 }), packet.ErrLength},
		{"total length 0, as in big TCP", edited(func(b []byte) { b[3] = 0 }), packet.ErrLength},
		{"total length beyond the bytes", plain[:42], packet.ErrLength},
		{"TCP header cut by total length", edited(func(b []byte) { b[3] = 39 }), packet.ErrLength},
		{"TCP header of 4 words", edited(func(b []byte) { b[32] = 0x40 }), packet.ErrLength},
		{"TCP header beyond total length", edited(func(b []byte) { b[32] = 0x60 }), packet.ErrLength},
		{"GRE", edited(func(b []byte) { b[9] = 47 }), packet.ErrNotTCP},
		{"first fragment", edited(func(b []byte) { b[6] = 0x20 }), packet.ErrFragment},
		{"later fragment", edited(func(b []byte) { b[7] = 1 }), packet.ErrFragment},
		{"fragment of GRE", edited(func(b []byte) { b[7], b[9] = 1, 47 }), packet.ErrNotTCP},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := packet.Parse(tt.b)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if got := fieldsOf(s); err != nil && got != fieldsOf(packet.Segment{}) {
				t.Errorf("a refused packet gave a segment: %+v", got)
			}
		})
	}
}

// fields is what the accessors say.
type fields struct {
	Src, Dst string
	Seq, Ack packet.Seq
	Flags    string
	Payload  string
}

func fieldsOf(s packet.Segment) fields {
	return fields{
		Src: s.Src().String(), Dst: s.Dst().String(),
		Seq: s.Seq(), Ack: s.Ack(), Flags: s.Flags().String(),
		Payload: string(s.Payload()),
	}
}

func TestSegmentFields(t *testing.T) {
	padded := append(bytes.Clone(plain), 0xee, 0xee)
	options := []byte{
		0x46, 0x00, 0x00, 0x34, // header 6 words, total length 52
		0x00, 0x00, 0x00, 0x00, // no fragment
		0x40, 0x06, 0x00, 0x00, // TCP
		0xc0, 0x00, 0x02, 0x01, // source
		0xc6, 0x33, 0x64, 0x02, // destination
		0x94, 0x04, 0x00, 0x00, // IP option: router alert
		0x06, 0xbb, 0xc3, 0x50, // ports 1723, 50000
		0x00, 0x00, 0x00, 0x01, // sequence number
		0x00, 0x00, 0x00, 0x02, // acknowledgement number
		0x60, 0xd2, 0x20, 0x00, // header 6 words, CWR ECE ACK SYN, window
		0x00, 0x00, 0x00, 0x00, // checksum, urgent pointer
		0x02, 0x04, 0x05, 0xb4, // TCP option: MSS 1460
		0x68, 0x69, 0x21, 0x21, // payload "hi!!"
	}
	tests := []struct {
		name string
		b    []byte
		want fields
	}{
		{"plain", padded, fields{"192.0.2.1:50000", "198.51.100.2:1723", 0xfffffffe, 7, "PSH|ACK", "abc"}},
		{"options in both headers", options, fields{"192.0.2.1:1723", "198.51.100.2:50000", 1, 2, "SYN|ACK|ECE|CWR", "hi!!"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := fieldsOf(mustParse(t, tt.b))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPayloadKeepsToItsPacket(t *testing.T) {
	b := append(bytes.Clone(plain), 0xee)
	payload := mustParse(t, b).Payload()
	if cap(payload) != 3 {
		t.Errorf("an append to the payload would write to the padding: capacity %d, want 3", cap(payload))
	}
	if &payload[0] != &b[payloadAt] {
		t.Error("the payload is a copy")
	}
}

func TestZeroViews(t *testing.T) {
	var s packet.Segment
	want := fields{Src: "0.0.0.0:0", Dst: "0.0.0.0:0"}
	if diff := cmp.Diff(want, fieldsOf(s)); diff != "" {
		t.Errorf("segment (-want +got):\n%s", diff)
	}
	s.Sum()
	if here := netip.MustParseAddrPort("192.0.2.9:9"); s.SetByte(0, 1) || s.SetSrc(here) || s.SetDst(here) {
		t.Error("the zero segment took an edit")
	}
	var p packet.IPv4
	if p.Src() != netip.IPv4Unspecified() || p.Protocol() != 0 || p.Fragment() || p.Len() != 0 || p.Payload() != nil {
		t.Error("the zero IPv4 view reads as something")
	}
	p.Sum()
	if p.SetDst(netip.MustParseAddr("192.0.2.9")) || p.Dst() != netip.IPv4Unspecified() {
		t.Error("the zero IPv4 view took an edit")
	}
}

func TestSetEnds(t *testing.T) {
	src, dst := netip.MustParseAddrPort("10.255.0.9:65535"), netip.MustParseAddrPort("203.0.113.250:0")
	for _, payload := range []string{"", "abc", "abcd"} {
		b := build(t, layers.TCP{SrcPort: 50000, DstPort: 1723, ACK: true}, []byte(payload))
		before := bytes.Clone(b)
		s := mustParse(t, b)
		was := fieldsOf(s)
		if !s.SetSrc(src) || !s.SetDst(dst) || s.Src() != src || s.Dst() != dst {
			t.Errorf("%q: from %v to %v", payload, s.Src(), s.Dst())
		}
		if diff := cmp.Diff(recomputed(t, b), b); diff != "" {
			t.Errorf("%q (-recomputed +got):\n%s", payload, diff)
		}
		if s.SetSrc(netip.MustParseAddrPort("[::1]:1")) || s.SetDst(netip.AddrPort{}) || s.Src() != src || s.Dst() != dst {
			t.Errorf("%q: it took an address that is not IPv4", payload)
		}
		s.SetSrc(netip.MustParseAddrPort(was.Src))
		s.SetDst(netip.MustParseAddrPort(was.Dst))
		if diff := cmp.Diff(before, b); diff != "" {
			t.Errorf("%q set back (-before +got):\n%s", payload, diff)
		}
	}
}

// TestSum: checksums are what a full computation gives, whatever they were.
func TestSum(t *testing.T) {
	for _, payload := range []string{"", "abc", "abcd", strings.Repeat("\xff", 65535-40)} {
		want := build(t, layers.TCP{SrcPort: 50000, DstPort: 1723, ACK: true}, []byte(payload))
		b := bytes.Clone(want)
		b[ipChecksumAt], b[tcpChecksumAt+1] = ^b[ipChecksumAt], ^b[tcpChecksumAt+1]
		s, err := packet.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		s.Sum()
		ip, _ := packet.ParseIPv4(b)
		ip.Sum()
		if !bytes.Equal(want, b) {
			t.Errorf("%d bytes of payload: checksums % x and % x, want % x and % x", len(payload),
				b[ipChecksumAt:][:2], b[tcpChecksumAt:][:2], want[ipChecksumAt:][:2], want[tcpChecksumAt:][:2])
		}
	}
}

func TestSetByte(t *testing.T) {
	tests := []struct {
		name    string
		payload string
		at      int
		to      byte
	}{
		{"even offset", "abcd", 0, 'z'},
		{"odd offset", "abcd", 1, 'z'},
		{"last of an odd payload", "abc", 2, 'z'},
		{"last of an even payload", "abcd", 3, 'z'},
		{"the same byte", "abcd", 1, 'b'},
		{"to 0", "abcd", 2, 0},
		{"from 0", "\x00\x00", 0, 0xff},
		{"from 0, odd", "\x00\x00", 1, 0xff},
		{"0xff to 0", "\xff\xff", 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := build(t, layers.TCP{SrcPort: 50000, DstPort: 1723, ACK: true}, []byte(tt.payload))
			before := bytes.Clone(b)
			s := mustParse(t, b)
			if !s.SetByte(tt.at, tt.to) {
				t.Fatal("the edit was refused")
			}
			if diff := cmp.Diff(recomputed(t, b), b); diff != "" {
				t.Errorf("edited (-recomputed +got):\n%s", diff)
			}
			s.SetByte(tt.at, tt.payload[tt.at])
			if diff := cmp.Diff(before, b); diff != "" {
				t.Errorf("undone (-before +got):\n%s", diff)
			}
		})
	}
}

// TestSameBytes: writing what is there leaves a packet as it is, even if its checksums are of
// the form that is never computed.
func TestSameBytes(t *testing.T) {
	b := edited(func(b []byte) {
		b[10], b[11] = 0xff, 0xff // IPv4's checksum
		b[36], b[37] = 0xff, 0xff // TCP's
	})
	before := bytes.Clone(b)
	s := mustParse(t, b)
	p, err := packet.ParseIPv4(b)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	if !s.SetByte(0, s.Payload()[0]) || !p.SetDst(p.Dst()) {
		t.Error("an edit was refused")
	}
	if diff := cmp.Diff(before, b); diff != "" {
		t.Errorf("bytes changed (-before +got):\n%s", diff)
	}
}

// TestBareHeader: a packet may be nothing but its header.
func TestBareHeader(t *testing.T) {
	p, err := packet.ParseIPv4(edited(func(b []byte) { b[3] = 20 })[:20])
	if err != nil || p.Len() != 20 || len(p.Payload()) != 0 {
		t.Errorf("%d bytes, %d of payload, %v", p.Len(), len(p.Payload()), err)
	}
}

func TestSetByteOutsidePayload(t *testing.T) {
	b := bytes.Clone(append(bytes.Clone(plain), 0xee))
	before := bytes.Clone(b)
	s := mustParse(t, b)
	for _, at := range []int{-1, 3, math.MaxInt} {
		if s.SetByte(at, 0x55) {
			t.Errorf("the edit at %d was taken", at)
		}
	}
	if diff := cmp.Diff(before, b); diff != "" {
		t.Errorf("bytes changed (-before +got):\n%s", diff)
	}
}

// correctChecksum is b's right TCP checksum.
func correctChecksum(t testing.TB, b []byte) uint16 {
	return binary.BigEndian.Uint16(recomputed(t, b)[tcpChecksumAt:])
}

// wrongBy is how far a checksum is from the right one, as one's complement
// numbers are apart: 0 for a right one.
func wrongBy(got, want uint16) uint32 { return (uint32(got) + 0xffff - uint32(want)) % 0xffff }

// TestEveryChecksum edits and un-edits one packet under each checksum there is.
func TestEveryChecksum(t *testing.T) {
	b := build(t, layers.TCP{SrcPort: 50000, DstPort: 1723, ACK: true}, []byte("abc"))
	s := mustParse(t, b)
	checksum := b[tcpChecksumAt : tcpChecksumAt+2]
	right := correctChecksum(t, b)
	s.SetByte(1, 0x17)
	rightEdited := correctChecksum(t, b)
	s.SetByte(1, 'b')
	for c := range 0x10000 {
		c := uint16(c)
		binary.BigEndian.PutUint16(checksum, c)
		s.SetByte(1, 0x17)
		got := binary.BigEndian.Uint16(checksum)
		if wrongBy(c, right) != wrongBy(got, rightEdited) {
			t.Fatalf("checksum %#04x, wrong by %#x, became %#04x, wrong by %#x",
				c, wrongBy(c, right), got, wrongBy(got, rightEdited))
		}
		s.SetByte(1, 'b')
		want := c
		if c == 0xffff { // its equal
			want = 0
		}
		if got := binary.BigEndian.Uint16(checksum); got != want {
			t.Fatalf("checksum %#04x came back as %#04x", c, got)
		}
	}
}

// TestChecksumZero edits a payload such that the sum passes through the value
// where RFC 1141's older equation goes wrong (RFC 1624 section 4): every value
// of one 16-bit word, so the right checksum takes every value as well.
func TestChecksumZero(t *testing.T) {
	b := build(t, layers.TCP{SrcPort: 50000, DstPort: 1723, ACK: true}, []byte{0, 0})
	s := mustParse(t, b)
	base := uint32(^binary.BigEndian.Uint16(b[tcpChecksumAt:]))
	seen := make(map[uint16]bool)
	for w := range uint32(0x10000) {
		s.SetByte(0, byte(w>>8))
		s.SetByte(1, byte(w))
		sum := base + w
		want := ^uint16(sum>>16 + sum)
		got := binary.BigEndian.Uint16(b[tcpChecksumAt:])
		if got != want {
			t.Fatalf("payload %#04x: checksum %#04x, want %#04x", w, got, want)
		}
		seen[got] = true
	}
	if !seen[0] || seen[0xffff] || len(seen) != 0xffff {
		t.Errorf("%d checksums, with 0: %v, with 0xffff: %v", len(seen), seen[0], seen[0xffff])
	}
}

// TestParseCaptured views what was captured before a network card cut it.
func TestParseCaptured(t *testing.T) {
	whole := edited(func(b []byte) { b[2], b[3] = 0, 0 })
	tests := []struct {
		name string
		b    []byte
		want error
		len  int
	}{
		{"total length 0", whole, nil, len(whole)},
		{"longer than a total length tells", append(bytes.Clone(whole), make([]byte, 70000)...), nil, len(whole) + 70000},
		{"total length stated", append(bytes.Clone(plain), 0, 0), nil, len(plain)},
		{"header beyond the bytes", append([]byte{0x4f}, whole[1:30]...), packet.ErrLength, 0},
		{"nothing", nil, packet.ErrShort, 0},
		{"IPv6", append([]byte{0x60}, whole[1:]...), packet.ErrNotIPv4, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ip, err := packet.ParseCaptured(tt.b)
			if err != tt.want || ip.Len() != tt.len {
				t.Errorf("%d bytes, %v, want %d, %v", ip.Len(), err, tt.len, tt.want)
			}
			if ip.Offloaded() != (err == nil && tt.b[2] == 0 && tt.b[3] == 0) {
				t.Errorf("offloaded: %v", ip.Offloaded())
			}
			if seg, err := ip.Segment(); (err == nil) != (tt.want == nil) || err == nil && len(seg.Payload()) != tt.len-payloadAt {
				t.Errorf("segment with %d bytes, %v", len(seg.Payload()), err)
			}
		})
	}
}

func TestIPv4Fields(t *testing.T) {
	b := edited(func(b []byte) { b[9] = 47 })
	p, err := packet.ParseIPv4(append(b, 0xee))
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	if got := p.Src().String() + " " + p.Dst().String(); got != "192.0.2.1 198.51.100.2" {
		t.Errorf("addresses %s", got)
	}
	if p.Protocol() != 47 || p.Fragment() || p.Len() != 43 || len(p.Payload()) != 23 {
		t.Errorf("protocol %d, fragment %v, length %d, payload %d", p.Protocol(), p.Fragment(), p.Len(), len(p.Payload()))
	}
}

func TestIPv4Fragment(t *testing.T) {
	tests := []struct {
		name string
		high byte // flags and the offset's high bits
		low  byte // the offset's low bits
		want bool
	}{
		{"whole", 0x00, 0x00, false},
		{"Don't Fragment", 0x40, 0x00, false},
		{"first", 0x20, 0x00, true},
		{"middle", 0x20, 0xb9, true},
		{"last", 0x00, 0xb9, true},
		{"last, far", 0x1f, 0x00, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := packet.ParseIPv4(edited(func(b []byte) { b[6], b[7] = tt.high, tt.low }))
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if got := p.Fragment(); got != tt.want {
				t.Errorf("fragment %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSetDst(t *testing.T) {
	for _, to := range []string{"198.51.100.3", "0.0.0.0", "255.255.255.255", "198.51.100.2", "10.0.0.1"} {
		t.Run(to, func(t *testing.T) {
			b := build(t, layers.TCP{SrcPort: 1, DstPort: 2}, []byte("x"))
			before := bytes.Clone(b)
			p, err := packet.ParseIPv4(b)
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if !p.SetDst(netip.MustParseAddr(to)) {
				t.Fatal("the edit was refused")
			}
			want := recomputed(t, b)
			copy(want[20:], before[20:]) // what TCP says of it is not SetDst's to change
			if diff := cmp.Diff(want, b); diff != "" {
				t.Errorf("(-recomputed +got):\n%s", diff)
			}
			p.SetDst(netip.MustParseAddr("198.51.100.2"))
			if diff := cmp.Diff(before, b); diff != "" {
				t.Errorf("undone (-before +got):\n%s", diff)
			}
		})
	}
}

func TestSetDstRefuses(t *testing.T) {
	b := bytes.Clone(plain)
	p, err := packet.ParseIPv4(b)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	for _, to := range []netip.Addr{{}, netip.MustParseAddr("::1"), netip.MustParseAddr("::ffff:192.0.2.1")} {
		if p.SetDst(to) {
			t.Errorf("%v was taken", to)
		}
	}
	if diff := cmp.Diff(plain, b); diff != "" {
		t.Errorf("bytes changed (-before +got):\n%s", diff)
	}
}

func TestSeq(t *testing.T) {
	tests := []struct {
		name   string
		a, b   packet.Seq
		before bool
		sub    int
	}{
		{"equal", 5, 5, false, 0},
		{"less", 5, 6, true, -1},
		{"more", 6, 5, false, 1},
		{"over the wrap", 0xffffffff, 0, true, -1},
		{"over the wrap, back", 0, 0xffffffff, false, 1},
		{"nearly half the space", 0, 0x7fffffff, true, -0x7fffffff},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.a.Before(tt.b); got != tt.before {
				t.Errorf("before: %v, want %v", got, tt.before)
			}
			if got := tt.b.After(tt.a); got != tt.before {
				t.Errorf("after, exchanged: %v, want %v", got, tt.before)
			}
			if got := tt.a.Sub(tt.b); got != tt.sub {
				t.Errorf("distance %d, want %d", got, tt.sub)
			}
			if got := tt.b.Add(tt.sub); got != tt.a {
				t.Errorf("b plus distance is %d, want %d", got, tt.a)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	f := packet.SYN | packet.ACK
	if !f.Has(packet.SYN) || !f.Has(packet.SYN|packet.ACK) || f.Has(packet.FIN) || f.Has(packet.SYN|packet.FIN) {
		t.Errorf("%v: Has is wrong", f)
	}
	if got := packet.Flags(0xff).String(); got != "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR" {
		t.Errorf("all flags print as %q", got)
	}
}

func TestErrorText(t *testing.T) {
	seen := make(map[string]bool)
	for e := packet.ErrShort; e <= packet.ErrLengthGRE; e++ {
		if text := e.Error(); text != "" && !strings.HasPrefix(text, "unknown") {
			seen[text] = true
		}
	}
	if len(seen) != int(packet.ErrLengthGRE) {
		t.Errorf("two errors have one text, or one has none: %v", seen)
	}
	if got := packet.Error(99).Error(); got != "unknown(99)" {
		t.Errorf("an unknown error prints as %q", got)
	}
}

func TestAllocatesNothing(t *testing.T) {
	b := bytes.Clone(plain)
	to := netip.MustParseAddr("10.0.0.1")
	back := netip.MustParseAddr("198.51.100.2")
	var sum int
	allocs := testing.AllocsPerRun(100, func() {
		s, _ := packet.Parse(b)
		sum += int(s.Src().Port()) + int(s.Dst().Port()) + int(s.Seq()) + int(s.Ack()) + int(s.Flags()) + len(s.Payload())
		s.SetByte(1, 'x')
		s.SetByte(1, 'b')
		p, _ := packet.ParseIPv4(b)
		p.SetDst(to)
		p.SetDst(back)
		if _, err := packet.Parse(b[:30]); err != nil {
			sum++
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none (%d)", allocs, sum)
	}
}

func BenchmarkParse(b *testing.B) {
	raw := bytes.Clone(plain)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := packet.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseAndEdit(b *testing.B) {
	raw := bytes.Clone(plain)
	for i := 0; b.Loop(); i++ {
		s, err := packet.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		s.SetByte(1, byte(i))
	}
}
