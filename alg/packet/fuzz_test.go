package packet_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/packet"
)

// within reports whether part is a part of whole's own bytes.
func within(part, whole []byte) bool {
	if len(part) == 0 {
		return true
	}
	for i := range whole {
		if &whole[i] == &part[0] {
			return i+len(part) <= len(whole)
		}
	}
	return false
}

func seedPackets(f *testing.F) {
	f.Add(plain)
	f.Add(plain[:30])
	f.Add(edited(func(b []byte) { b[9] = 47 }))
	f.Add(edited(func(b []byte) { b[6] = 0x20 }))
	f.Add(edited(func(b []byte) { b[0] = 0x4f }))
	f.Add(append(bytes.Clone(plain), 1, 2, 3))
}

// FuzzParse: whatever the bytes, no accessor panics, and what a view returns lies
// within them.
func FuzzParse(f *testing.F) {
	seedPackets(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := packet.ParseIPv4(b)
		_, _, _, _ = p.Src(), p.Dst(), p.Protocol(), p.Fragment()
		if p.Len() > len(b) || !within(p.Payload(), b) {
			t.Errorf("IPv4 packet of %d bytes in %d", p.Len(), len(b))
		}
		s, errTCP := packet.Parse(b)
		got := fieldsOf(s)
		if !within(s.Payload(), b) {
			t.Errorf("a payload of %d bytes is not within the packet's %d", len(s.Payload()), len(b))
		}
		if err != nil && errTCP != err {
			t.Errorf("ParseIPv4 said %v, Parse %v", err, errTCP)
		}
		if errTCP != nil && got != fieldsOf(packet.Segment{}) {
			t.Errorf("%v, and yet a segment", errTCP)
		}
	})
}

// FuzzSetByte: an edit changes its byte and the TCP checksum only, keeps the
// checksum as right or as wrong as it was, and writing the old byte back
// restores the packet.
func FuzzSetByte(f *testing.F) {
	f.Add(plain, 0, byte(0))
	f.Add(plain, 2, byte(0xff))
	f.Add(plain, -1, byte(1))
	f.Add(edited(func(b []byte) { b[36], b[37] = 0xff, 0xff }), 1, byte(7))
	f.Fuzz(func(t *testing.T, b []byte, at int, to byte) {
		s, err := packet.Parse(b)
		if err != nil {
			return
		}
		before := bytes.Clone(b)
		if !s.SetByte(at, to) {
			if at >= 0 && at < len(s.Payload()) || !bytes.Equal(before, b) {
				t.Errorf("edit at %d of %d refused, bytes equal: %v", at, len(s.Payload()), bytes.Equal(before, b))
			}
			return
		}
		checkEdit(t, edit{before: before, after: bytes.Clone(b), at: at, to: to})
		s.SetByte(at, mustParse(t, before).Payload()[at])
		checkUndone(t, before, b)
	})
}

// edit is one SetByte, as the bytes before and after it.
type edit struct {
	before, after []byte
	at            int
	to            byte
}

// checkEdit verifies one edit without the code under test: by the sum of all
// 16-bit words from the TCP header on, which an edit leaves as it is.
func checkEdit(t *testing.T, e edit) {
	t.Helper()
	tcp := int(e.before[0]&0x0f) * 4
	end := int(binary.BigEndian.Uint16(e.before[2:]))
	data := tcp + int(e.before[tcp+12]>>4)*4
	want := bytes.Clone(e.before)
	want[data+e.at] = e.to
	copy(want[tcp+16:tcp+18], e.after[tcp+16:])
	if diff := cmp.Diff(want, e.after); diff != "" {
		t.Errorf("other bytes changed (-want +got):\n%s", diff)
	}
	if old, now := sum(e.before[tcp:end]), sum(e.after[tcp:end]); old != now {
		t.Errorf("the sum went from %#x to %#x", old, now)
	}
}

// checkUndone allows for the one checksum that has an equal.
func checkUndone(t *testing.T, before, after []byte) {
	t.Helper()
	at := int(before[0]&0x0f)*4 + 16
	want := bytes.Clone(before)
	if binary.BigEndian.Uint16(after[at:]) == 0 && binary.BigEndian.Uint16(want[at:]) == 0xffff {
		binary.BigEndian.PutUint16(want[at:], 0)
	}
	if diff := cmp.Diff(want, after); diff != "" {
		t.Errorf("undone (-before +got):\n%s", diff)
	}
}

// sum is the value modulo 0xffff of b's 16-bit words, the last padded with zero:
// the plain definition of RFC 1071.
func sum(b []byte) uint64 {
	var n uint64
	for i, x := range b {
		n += uint64(x) << (8 * (1 - i&1))
	}
	return n % 0xffff
}

// FuzzRightStaysRight: a packet with right checksums has, after any edit, the
// checksums that a full computation gives.
func FuzzRightStaysRight(f *testing.F) {
	f.Add([]byte("abc"), 0, byte(0))
	f.Add([]byte{0, 0}, 1, byte(0xff))
	f.Fuzz(func(t *testing.T, payload []byte, at int, to byte) {
		if len(payload) > 2000 {
			return
		}
		b := build(t, layers.TCP{SrcPort: 50000, DstPort: 1723, ACK: true}, payload)
		mustParse(t, b).SetByte(at, to)
		if diff := cmp.Diff(recomputed(t, b), b); diff != "" {
			t.Errorf("(-recomputed +got):\n%s", diff)
		}
	})
}

// FuzzSetDst: an address goes in and out again; only it and the IP header's
// checksum ever differ, and that stays as right or as wrong as it was.
func FuzzSetDst(f *testing.F) {
	f.Add(plain, []byte{10, 0, 0, 1})
	f.Add(plain, []byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b, to []byte) {
		p, err := packet.ParseIPv4(b)
		dst, ok := netip.AddrFromSlice(to)
		if err != nil || !ok {
			return
		}
		before, old := bytes.Clone(b), p.Dst()
		if p.SetDst(dst) != dst.Is4() {
			t.Fatalf("SetDst(%v) reported %v", dst, !dst.Is4())
		}
		header := int(b[0]&0x0f) * 4
		if sum(before[:header]) != sum(b[:header]) {
			t.Errorf("the sum went from %#x to %#x", sum(before[:header]), sum(b[:header]))
		}
		want := bytes.Clone(before)
		if dst.Is4() {
			copy(want[ipChecksumAt:ipChecksumAt+2], b[ipChecksumAt:])
			copy(want[16:20], to)
		}
		if diff := cmp.Diff(want, b); diff != "" {
			t.Errorf("other bytes changed (-want +got):\n%s", diff)
		}
		p.SetDst(old)
		if binary.BigEndian.Uint16(before[ipChecksumAt:]) != 0xffff && !bytes.Equal(before, b) {
			t.Errorf("undone: % x, want % x", b[:header], before[:header])
		}
	})
}
