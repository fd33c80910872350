package gre_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/gre"
	"pptpalg/alg/pptp"
)

var (
	// data carries a payload and acknowledges.
	data = []byte{
		0x30, 0x81, 0x88, 0x0b, // K S, A version 1, PPP
		0x00, 0x03, 0x12, 0x34, // payload length 3, Call ID 0x1234
		0x00, 0x00, 0x00, 0x05, // sequence number 5
		0xff, 0xff, 0xff, 0xff, // acknowledgment number 4294967295
		0xff, 0x03, 0xc0, // payload
	}
	// ackOnly acknowledges and carries nothing.
	ackOnly = []byte{
		0x20, 0x81, 0x88, 0x0b, // K, A version 1, PPP
		0x00, 0x00, 0x00, 0x00, // payload length 0, Call ID 0
		0x00, 0x00, 0x00, 0x09, // acknowledgment number 9
	}
	// seqOnly carries a payload and does not acknowledge.
	seqOnly = []byte{
		0x30, 0x01, 0x88, 0x0b, // K S, version 1, PPP
		0x00, 0x01, 0xff, 0xff, // payload length 1, Call ID 65535
		0x00, 0x00, 0x00, 0x00, // sequence number 0
		0x21, // payload
	}
	// bare has neither number.
	bare = []byte{
		0x20, 0x01, 0x88, 0x0b, // K, version 1, PPP
		0x00, 0x00, 0x00, 0x07, // payload length 0, Call ID 7
	}
)

// edited returns a copy of b after f.
func edited(b []byte, f func(b []byte)) []byte {
	b = bytes.Clone(b)
	f(b)
	return b
}

func fieldsOf(h gre.Header) gre.Fields {
	return gre.Fields{
		CallID: h.CallID(),
		HasSeq: h.HasSeq(), Seq: h.Seq(),
		HasAck: h.HasAck(), Ack: h.Ack(),
		Payload: h.Payload(),
	}
}

func TestFields(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		want gre.Fields
	}{
		{"data and acknowledgment", data, gre.Fields{
			CallID: 0x1234, HasSeq: true, Seq: 5, HasAck: true, Ack: 4294967295, Payload: []byte{0xff, 0x03, 0xc0}}},
		{"acknowledgment only", ackOnly, gre.Fields{HasAck: true, Ack: 9, Payload: []byte{}}},
		{"data only", seqOnly, gre.Fields{CallID: 65535, HasSeq: true, Payload: []byte{0x21}}},
		{"neither number", bare, gre.Fields{CallID: 7, Payload: []byte{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := gre.Parse(tt.b)
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if diff := cmp.Diff(tt.want, fieldsOf(h)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if got := h.PayloadLength(); got != len(tt.want.Payload) {
				t.Errorf("payload length %d, want %d", got, len(tt.want.Payload))
			}
			if diff := cmp.Diff(tt.b, gre.Append(nil, tt.want)); diff != "" {
				t.Errorf("appended (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		want error
	}{
		{"whole", data, nil},
		{"padded", append(bytes.Clone(ackOnly), 0, 0, 0, 0), nil},
		{"Recur and Flags set", edited(data, func(b []byte) { b[0] |= 0x07; b[1] |= 0x78 }), nil},
		{"payload length shorter than the payload", edited(data, func(b []byte) { b[5] = 2 }), nil},
		{"nothing", nil, gre.ErrShort},
		{"fixed header cut", data[:7], gre.ErrShort},
		{"sequence number missing", seqOnly[:8], gre.ErrShort},
		{"acknowledgment number cut", data[:15], gre.ErrShort},
		{"payload cut", data[:18], gre.ErrLength},
		{"version 0", edited(data, func(b []byte) { b[1] = 0x80 }), gre.ErrVersion},
		{"version 2", edited(data, func(b []byte) { b[1] = 0x82 }), gre.ErrVersion},
		{"version 5", edited(data, func(b []byte) { b[1] = 0x85 }), gre.ErrVersion},
		{"IPv4 over GRE", edited(data, func(b []byte) { b[2], b[3] = 0x08, 0x00 }), gre.ErrProtocol},
		{"no key", edited(data, func(b []byte) { b[0] &^= 0x20 }), gre.ErrFlags},
		{"checksum", edited(data, func(b []byte) { b[0] |= 0x80 }), gre.ErrFlags},
		{"routing", edited(data, func(b []byte) { b[0] |= 0x40 }), gre.ErrFlags},
		{"strict source route", edited(data, func(b []byte) { b[0] |= 0x08 }), gre.ErrFlags},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := gre.Parse(tt.b)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil && !cmp.Equal(fieldsOf(h), gre.Fields{}) {
				t.Errorf("a refused packet gave %+v", fieldsOf(h))
			}
		})
	}
}

func TestQuotedCallID(t *testing.T) {
	for n := range len(data) + 1 {
		id, err := gre.QuotedCallID(data[:n])
		if (err == nil) != (n >= 8) || err == nil && id != 0x1234 {
			t.Errorf("%d bytes: %v, %v", n, id, err)
		}
	}
	if _, err := gre.QuotedCallID(edited(data, func(b []byte) { b[1] = 0x80 })); !errors.Is(err, gre.ErrVersion) {
		t.Errorf("version 0: %v", err)
	}
}

func TestSetCallID(t *testing.T) {
	b := bytes.Clone(data)
	h, err := gre.Parse(b)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	if !h.SetCallID(0xfedc) || h.CallID() != 0xfedc {
		t.Errorf("Call ID %v, want 65244", h.CallID())
	}
	want := edited(data, func(b []byte) { b[6], b[7] = 0xfe, 0xdc })
	if diff := cmp.Diff(want, b); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestZeroHeader(t *testing.T) {
	var h gre.Header
	if diff := cmp.Diff(gre.Fields{}, fieldsOf(h)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if h.SetCallID(1) || h.CallID() != 0 {
		t.Error("the zero header took an edit")
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	got := gre.Append([]byte{1, 2}, gre.Fields{CallID: 7})
	if diff := cmp.Diff(append([]byte{1, 2}, bare...), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAppendIgnoresAbsentNumbers(t *testing.T) {
	got := gre.Append(nil, gre.Fields{CallID: 7, Seq: 3, Ack: 4})
	if diff := cmp.Diff(bare, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestErrorText(t *testing.T) {
	seen := make(map[string]bool)
	for e := gre.ErrShort; e <= gre.ErrLength; e++ {
		if text := e.Error(); text != "" && !strings.HasPrefix(text, "unknown") {
			seen[text] = true
		}
	}
	if len(seen) != 5 {
		t.Errorf("the errors' texts are not five words: %v", seen)
	}
	if got := gre.Error(99).Error(); got != "unknown(99)" {
		t.Errorf("an unknown error prints as %q", got)
	}
}

func TestAllocatesNothing(t *testing.T) {
	b := bytes.Clone(data)
	var n int
	allocs := testing.AllocsPerRun(100, func() {
		h, _ := gre.Parse(b)
		n += int(h.Seq()) + int(h.Ack()) + len(h.Payload()) + int(h.CallID())
		h.SetCallID(0x1234)
		if _, err := gre.Parse(b[:9]); err != nil {
			n++
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none (%d)", allocs, n)
	}
}

// oracle is what gopacket reads from a packet that Parse has found sound.
func oracle(t *testing.T, b []byte) gre.Fields {
	t.Helper()
	var g layers.GRE
	if err := g.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		t.Fatalf("gopacket: %v", err)
	}
	length := int(g.Key >> 16)
	return gre.Fields{
		CallID: pptp.CallID(g.Key),
		HasSeq: g.SeqPresent, Seq: g.Seq,
		HasAck: g.AckPresent, Ack: g.Ack,
		Payload: g.LayerPayload()[:length],
	}
}

// FuzzParse: no bytes make it panic, what it accepts reads as gopacket reads it,
// and a Call ID set and set back leaves every byte as it was.
func FuzzParse(f *testing.F) {
	for _, b := range [][]byte{data, ackOnly, seqOnly, bare, data[:15], nil} {
		f.Add(b, uint16(0xfedc))
	}
	f.Fuzz(func(t *testing.T, b []byte, id uint16) {
		h, err := gre.Parse(b)
		got := fieldsOf(h)
		if err != nil {
			if diff := cmp.Diff(gre.Fields{}, got); diff != "" {
				t.Errorf("%v, and yet (-want +got):\n%s", err, diff)
			}
			return
		}
		if diff := cmp.Diff(oracle(t, b), got); diff != "" {
			t.Errorf("(-gopacket +got):\n%s", diff)
		}
		before := bytes.Clone(b)
		h.SetCallID(pptp.CallID(id))
		if !bytes.Equal(b[:6], before[:6]) || !bytes.Equal(b[8:], before[8:]) {
			t.Errorf("more than the Call ID changed: % x, was % x", b, before)
		}
		h.SetCallID(got.CallID)
		if diff := cmp.Diff(before, b); diff != "" {
			t.Errorf("set back (-before +got):\n%s", diff)
		}
	})
}

// FuzzAppend: what Append writes, Parse reads back.
func FuzzAppend(f *testing.F) {
	f.Add(uint16(0), true, uint32(1), true, uint32(2), []byte("ppp"))
	f.Add(uint16(1), false, uint32(1), false, uint32(2), []byte(nil))
	f.Fuzz(func(t *testing.T, id uint16, hasSeq bool, seq uint32, hasAck bool, ack uint32, payload []byte) {
		if len(payload) > 0xffff {
			return
		}
		want := gre.Fields{CallID: pptp.CallID(id), HasSeq: hasSeq, HasAck: hasAck, Payload: bytes.Clone(payload)}
		if hasSeq {
			want.Seq = seq
		}
		if hasAck {
			want.Ack = ack
		}
		h, err := gre.Parse(gre.Append(nil, want))
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		got := fieldsOf(h)
		if !bytes.Equal(got.Payload, want.Payload) {
			t.Errorf("payload % x, want % x", got.Payload, want.Payload)
		}
		got.Payload, want.Payload = nil, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := bytes.Clone(data)
	for b.Loop() {
		h, err := gre.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		h.SetCallID(h.CallID())
	}
}
