package lab

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEncodeFrame(t *testing.T) {
	tests := []struct {
		name   string
		packet []byte
		want   []byte
	}{
		// The check value of CRC-16/X-25, which is RFC 1662's FCS-16, is 0x906E.
		{"check value", []byte("123456789"), append(append([]byte{0x7E}, "123456789"...),
			0x6E, 0x90, // FCS, low byte first
			0x7E)},
		{"escapes", []byte{0x7E, 0x7D, 0x03, 0x20}, []byte{0x7E,
			0x7D, 0x5E, // flag
			0x7D, 0x5D, // escape
			0x7D, 0x23, // control character
			0x20,
			0x7D, 0x34, 0x7C, // FCS 0x7C14, its low byte escaped
			0x7E}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, EncodeFrame(tt.packet)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFrameReader(t *testing.T) {
	good := EncodeFrame([]byte("good"))
	bad := bytes.Clone(good)
	bad[2] ^= 1
	stream := bytes.Join([][]byte{
		[]byte("noise"), good,
		bad,                                    // wrong FCS
		{0x7E, 'x', 0x7E},                      // too short
		{0x7E, 'g', 'o', 'n', 'e', 0x7D, 0x7E}, // aborted
		good[:len(good)-1], good,               // one flag between two frames
	}, nil)
	r := NewFrameReader(iotest.OneByteReader(bytes.NewReader(stream)))
	for i := range 3 {
		if got, err := r.Next(); err != nil || string(got) != "good" {
			t.Fatalf("frame %d: %q, %v", i, got, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
}

func TestFrameReaderSurvivesTimeouts(t *testing.T) {
	frame := EncodeFrame([]byte("whole"))
	r := NewFrameReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(frame))))
	if _, err := r.Next(); !errors.Is(err, iotest.ErrTimeout) {
		t.Fatalf("first: %v", err)
	}
	if got, err := r.Next(); err != nil || string(got) != "whole" {
		t.Errorf("then: %q, %v", got, err)
	}
}

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packets := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 2, 100)).Draw(t, "packets")
		var stream []byte
		for _, p := range packets {
			stream = append(stream, EncodeFrame(p)...)
		}
		r := NewFrameReader(bytes.NewReader(stream))
		for _, want := range packets {
			if got, err := r.Next(); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got % x, %v, want % x", got, err, want)
			}
		}
	})
}

func TestProofRoundTrip(t *testing.T) {
	want := Proof{Kind: Echo, Server: "out0", PID: 42, Remote: GatewayPublic, Payload: []byte("with spaces in it")}
	got, err := ParseProof(want.Bytes())
	if err != nil || want.String() != got.String() {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "echo out0 42 ", "echo out0 x 203.0.113.1 ", "echo out0 42 nowhere "} {
		if p, err := ParseProof([]byte(bad)); err == nil {
			t.Errorf("%q parsed as %v", bad, p)
		}
	}
}

func TestPacketRoundTrip(t *testing.T) {
	number := rapid.Custom(func(t *rapid.T) *uint32 {
		if rapid.Bool().Draw(t, "absent") {
			return nil
		}
		return new(rapid.Uint32().Draw(t, "number"))
	})
	rapid.Check(t, func(t *rapid.T) {
		want := Packet{Src: GatewayInside, Dst: GatewayPublic,
			CallID: 0x1234, Seq: number.Draw(t, "seq"), Ack: number.Draw(t, "ack"),
			Payload: rapid.SliceOf(rapid.Byte()).Draw(t, "payload")}
		b := want.datagram()
		got, err := parseDatagram(b)
		if err != nil || got.String() != want.String() {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
		for n := range b {
			if p, err := parseDatagram(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes parsed as %v", n, len(b), p)
			}
		}
	})
}

func TestPacketBytes(t *testing.T) {
	p := Packet{CallID: 0xABCD, Seq: new(uint32(1)), Ack: new(uint32(2)), Payload: []byte("pp")}
	want := []byte{
		0x30, 0x81, // K and S; A and version 1
		0x88, 0x0B, // PPP
		0, 2, // payload length
		0xAB, 0xCD, // Call ID
		0, 0, 0, 1, // sequence number
		0, 0, 0, 2, // acknowledgement number
		'p', 'p',
	}
	if diff := cmp.Diff(want, p.gre()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
