package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// sumOf is the folded Internet sum over b: 0xffff if its checksum is right.
func sumOf(b []byte) uint16 {
	s := uint32(0)
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i%2)) // a missing last byte counts as 0
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// quoting returns an ICMP message of a type that quotes a packet of GRE, with as much of its
// payload as is given. IP options are zeros.
func quoting(icmpType byte, options int, payload ...byte) []byte {
	ip := make([]byte, ipMinimum+options)
	ip[0], ip[ipProtocol] = byte(0x40|len(ip)/4), 47
	binary.BigEndian.PutUint16(ip[ipTotalLen:], 1400)
	copy(ip[ipSrc:], []byte{192, 0, 2, 1, 203, 0, 113, 9})
	binary.BigEndian.PutUint16(ip[ipChecksum:], ^sumOf(ip))
	m := append([]byte{icmpType, 4, 0, 0, 0, 0, 5, 120}, append(ip, payload...)...)
	binary.BigEndian.PutUint16(m[icmpChecksum:], ^sumOf(m))
	return m
}

func TestParseQuote(t *testing.T) {
	good := quoting(icmpUnreachable, 0, 1, 2)
	tests := []struct {
		name string
		b    []byte
		want error
	}{
		{"unreachable", good, nil},
		{"time exceeded", quoting(icmpTimeout, 0), nil},
		{"parameter problem", quoting(icmpParameter, 40), nil},
		{"echo", quoting(8, 0), ErrNotQuote},
		{"redirect", quoting(5, 0), ErrNotQuote},
		{"cut in the IP header", good[:icmpQuoted+ipMinimum-1], ErrNotQuote},
		{"cut in its options", quoting(icmpTimeout, 8)[:icmpQuoted+ipMinimum+7], ErrNotQuote},
		{"header too short", func() []byte { b := bytes.Clone(good); b[icmpQuoted] = 0x44; return b }(), ErrNotQuote},
		{"IPv6", func() []byte { b := bytes.Clone(good); b[icmpQuoted] = 0x65; return b }(), ErrNotQuote},
		{"nothing", nil, ErrNotQuote},
	}
	for _, tt := range tests {
		q, err := ParseQuote(tt.b)
		if err != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err == nil && (q.Src() != netip.MustParseAddr("192.0.2.1") || q.Dst() != netip.MustParseAddr("203.0.113.9") || q.Protocol() != 47) {
			t.Errorf("%s: %v > %v, protocol %d", tt.name, q.Src(), q.Dst(), q.Protocol())
		}
	}
}

// TestQuoteEdits: what is edited in a quoted packet has both checksums right, wherever the
// quote ends.
func TestQuoteEdits(t *testing.T) {
	for n := 2; n < 12; n++ {
		for _, options := range []int{0, 8} {
			b := quoting(icmpUnreachable, options, bytes.Repeat([]byte{0xab}, n)...)
			before := bytes.Clone(b)
			q, err := ParseQuote(b)
			if err != nil {
				t.Fatal(err)
			}
			src, dst := q.Src(), q.Dst()
			to := netip.MustParseAddr("10.255.0.7")
			if !q.SetSrc(to) || !q.SetDst(to) || !q.SetWord(0, 0x1234) {
				t.Fatal("an edit is refused")
			}
			if q.Src() != to || q.Dst() != to || q.Payload()[0] != 0x12 || q.Payload()[1] != 0x34 {
				t.Errorf("%v > %v, % x", q.Src(), q.Dst(), q.Payload())
			}
			if sumOf(b) != 0xffff || sumOf(b[icmpQuoted:icmpQuoted+ipMinimum+options]) != 0xffff {
				t.Errorf("%d bytes quoted: a checksum is wrong: % x", n, b)
			}
			q.SetSrc(src)
			q.SetDst(dst)
			q.SetWord(0, 0xabab)
			if !bytes.Equal(b, before) {
				t.Errorf("edited back: % x, was % x", b, before)
			}
		}
	}
}

func TestQuoteRefuses(t *testing.T) {
	b := quoting(icmpUnreachable, 0, 1, 2, 3)
	before := bytes.Clone(b)
	q, err := ParseQuote(b)
	if err != nil {
		t.Fatal(err)
	}
	six := netip.MustParseAddr("2001:db8::1")
	if q.SetSrc(six) || q.SetDst(six) || q.SetWord(2, 1) || q.SetWord(1, 1) || q.SetWord(-2, 1) || !bytes.Equal(b, before) {
		t.Errorf("edited: % x", b)
	}
	var none Quote
	if none.SetSrc(q.Src()) || none.SetDst(q.Dst()) || none.SetWord(0, 1) || none.Src() != netip.IPv4Unspecified() || len(none.Payload()) != 0 || none.Protocol() != 0 {
		t.Error("the zero value is something")
	}
}
