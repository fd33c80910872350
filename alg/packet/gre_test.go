package packet_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/packet"
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

// changed returns a copy of b after f.
func changed(b []byte, f func(b []byte)) []byte {
	b = bytes.Clone(b)
	f(b)
	return b
}

func greFieldsOf(h packet.GRE) packet.GREFields {
	return packet.GREFields{
		CallID: h.CallID(),
		HasSeq: h.HasSeq(), Seq: h.Seq(),
		HasAck: h.HasAck(), Ack: h.Ack(),
		Payload: h.Payload(),
	}
}

func TestGREFields(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		want packet.GREFields
	}{
		{"data and acknowledgment", data, packet.GREFields{
			CallID: 0x1234, HasSeq: true, Seq: 5, HasAck: true, Ack: 4294967295, Payload: []byte{0xff, 0x03, 0xc0}}},
		{"acknowledgment only", ackOnly, packet.GREFields{HasAck: true, Ack: 9, Payload: []byte{}}},
		{"data only", seqOnly, packet.GREFields{CallID: 65535, HasSeq: true, Payload: []byte{0x21}}},
		{"neither number", bare, packet.GREFields{CallID: 7, Payload: []byte{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := packet.ParseGRE(tt.b)
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if diff := cmp.Diff(tt.want, greFieldsOf(h)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if got := h.PayloadLength(); got != len(tt.want.Payload) {
				t.Errorf("payload length %d, want %d", got, len(tt.want.Payload))
			}
			if diff := cmp.Diff(tt.b, packet.AppendGRE(nil, tt.want)); diff != "" {
				t.Errorf("appended (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseGREErrors(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		want error
	}{
		{"whole", data, nil},
		{"padded", append(bytes.Clone(ackOnly), 0, 0, 0, 0), nil},
		{"Recur and Flags set", changed(data, func(b []byte) { b[0] |= 0x07; b[1] |= 0x78 }), nil},
		{"payload length shorter than the payload", changed(data, func(b []byte) { b[5] = 2 }), nil},
		{"nothing", nil, packet.ErrShortGRE},
		{"fixed header cut", data[:7], packet.ErrShortGRE},
		{"sequence number missing", seqOnly[:8], packet.ErrShortGRE},
		{"acknowledgment number cut", data[:15], packet.ErrShortGRE},
		{"payload cut", data[:18], packet.ErrLengthGRE},
		{"version 0", changed(data, func(b []byte) { b[1] = 0x80 }), packet.ErrVersion},
		{"version 2", changed(data, func(b []byte) { b[1] = 0x82 }), packet.ErrVersion},
		{"version 5", changed(data, func(b []byte) { b[1] = 0x85 }), packet.ErrVersion},
		{"IPv4 over GRE", changed(data, func(b []byte) { b[2], b[3] = 0x08, 0x00 }), packet.ErrNotPPP},
		{"no key", changed(data, func(b []byte) { b[0] &^= 0x20 }), packet.ErrFlags},
		{"checksum", changed(data, func(b []byte) { b[0] |= 0x80 }), packet.ErrFlags},
		{"routing", changed(data, func(b []byte) { b[0] |= 0x40 }), packet.ErrFlags},
		{"strict source route", changed(data, func(b []byte) { b[0] |= 0x08 }), packet.ErrFlags},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := packet.ParseGRE(tt.b)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil && !cmp.Equal(greFieldsOf(h), packet.GREFields{}) {
				t.Errorf("a refused packet gave %+v", greFieldsOf(h))
			}
		})
	}
}

func TestQuotedCallID(t *testing.T) {
	for n := range len(data) + 1 {
		id, err := packet.QuotedCallID(data[:n])
		if (err == nil) != (n >= 8) || err == nil && id != 0x1234 {
			t.Errorf("%d bytes: %v, %v", n, id, err)
		}
	}
	if _, err := packet.QuotedCallID(changed(data, func(b []byte) { b[1] = 0x80 })); !errors.Is(err, packet.ErrVersion) {
		t.Errorf("version 0: %v", err)
	}
}

func TestSetCallID(t *testing.T) {
	b := bytes.Clone(data)
	h, err := packet.ParseGRE(b)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	if !h.SetCallID(0xfedc) || h.CallID() != 0xfedc {
		t.Errorf("Call ID %v, want 65244", h.CallID())
	}
	want := changed(data, func(b []byte) { b[6], b[7] = 0xfe, 0xdc })
	if diff := cmp.Diff(want, b); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestZeroGRE(t *testing.T) {
	var h packet.GRE
	if diff := cmp.Diff(packet.GREFields{}, greFieldsOf(h)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if h.SetCallID(1) || h.CallID() != 0 {
		t.Error("the zero header took an edit")
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	got := packet.AppendGRE([]byte{1, 2}, packet.GREFields{CallID: 7})
	if diff := cmp.Diff(append([]byte{1, 2}, bare...), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAppendIgnoresAbsentNumbers(t *testing.T) {
	got := packet.AppendGRE(nil, packet.GREFields{CallID: 7, Seq: 3, Ack: 4})
	if diff := cmp.Diff(bare, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGREAllocatesNothing(t *testing.T) {
	b := bytes.Clone(data)
	var n int
	allocs := testing.AllocsPerRun(100, func() {
		h, _ := packet.ParseGRE(b)
		n += int(h.Seq()) + int(h.Ack()) + len(h.Payload()) + int(h.CallID())
		h.SetCallID(0x1234)
		if _, err := packet.ParseGRE(b[:9]); err != nil {
			n++
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none (%d)", allocs, n)
	}
}

// oracle is what gopacket reads from a packet that ParseGRE has found sound.
func oracle(t *testing.T, b []byte) packet.GREFields {
	t.Helper()
	var g layers.GRE
	if err := g.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		t.Fatalf("gopacket: %v", err)
	}
	length := int(g.Key >> 16)
	return packet.GREFields{
		CallID: pptp.CallID(g.Key),
		HasSeq: g.SeqPresent, Seq: g.Seq,
		HasAck: g.AckPresent, Ack: g.Ack,
		Payload: g.LayerPayload()[:length],
	}
}

// FuzzParseGRE: no bytes make it panic, what it accepts reads as gopacket reads it,
// and a Call ID set and set back leaves every byte as it was.
func FuzzParseGRE(f *testing.F) {
	for _, b := range [][]byte{data, ackOnly, seqOnly, bare, data[:15], nil} {
		f.Add(b, uint16(0xfedc))
	}
	f.Fuzz(func(t *testing.T, b []byte, id uint16) {
		h, err := packet.ParseGRE(b)
		got := greFieldsOf(h)
		if err != nil {
			if diff := cmp.Diff(packet.GREFields{}, got); diff != "" {
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

// FuzzAppendGRE: what AppendGRE writes, ParseGRE reads back.
func FuzzAppendGRE(f *testing.F) {
	f.Add(uint16(0), true, uint32(1), true, uint32(2), []byte("ppp"))
	f.Add(uint16(1), false, uint32(1), false, uint32(2), []byte(nil))
	f.Fuzz(func(t *testing.T, id uint16, hasSeq bool, seq uint32, hasAck bool, ack uint32, payload []byte) {
		if len(payload) > 0xffff {
			return
		}
		want := packet.GREFields{CallID: pptp.CallID(id), HasSeq: hasSeq, HasAck: hasAck, Payload: bytes.Clone(payload)}
		if hasSeq {
			want.Seq = seq
		}
		if hasAck {
			want.Ack = ack
		}
		h, err := packet.ParseGRE(packet.AppendGRE(nil, want))
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		got := greFieldsOf(h)
		if !bytes.Equal(got.Payload, want.Payload) {
			t.Errorf("payload % x, want % x", got.Payload, want.Payload)
		}
		got.Payload, want.Payload = nil, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func BenchmarkParseGRE(b *testing.B) {
	raw := bytes.Clone(data)
	for b.Loop() {
		h, err := packet.ParseGRE(raw)
		if err != nil {
			b.Fatal(err)
		}
		h.SetCallID(h.CallID())
	}
}
