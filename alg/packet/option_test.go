package packet_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/packet"
)

const kind = packet.MPTCP

// withOptions returns a SYN whose options are these bytes, with right checksums. Their number
// is brought up to a whole word by ends of the list.
func withOptions(t testing.TB, payload []byte, options ...byte) []byte {
	t.Helper()
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	nops := make([]layers.TCPOption, len(options))
	for i := range nops {
		nops[i].OptionType = layers.TCPOptionKindNop
	}
	b := build(t, layers.TCP{SrcPort: 50000, DstPort: 1723, SYN: true, Options: nops}, payload)
	copy(b[40:], options)
	return checksummed(b)
}

// checksummed writes the right TCP checksum into a packet whose IP header has no options. It
// takes no interest in options of TCP, malformed as they may be.
func checksummed(b []byte) []byte {
	b[36], b[37] = 0, 0
	n := sum(b[12:20]) + 6 + uint64(len(b)-20) + sum(b[20:]) // with the pseudo header
	binary.BigEndian.PutUint16(b[36:], ^uint16((n-1)%0xffff+1))
	return b
}

func TestBlankOption(t *testing.T) {
	for _, tt := range []struct {
		name          string
		options, want []byte
		found         bool
	}{
		{"none", nil, nil, false},
		{"alone", []byte{30, 4, 0x01, 0x81}, []byte{1, 1, 1, 1}, true},
		{"as Linux sends it", []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 9, 8, 7, 6, 0, 0, 0, 0, 1, 3, 3, 7, 30, 4, 1, 1},
			[]byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 9, 8, 7, 6, 0, 0, 0, 0, 1, 3, 3, 7, 1, 1, 1, 1}, true},
		{"at an odd place", []byte{1, 30, 12, 0x10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1}, []byte{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, true},
		{"of odd length", []byte{30, 3, 9, 2, 4, 5, 0xb4, 1}, []byte{1, 1, 1, 2, 4, 5, 0xb4, 1}, true},
		{"twice", []byte{30, 3, 9, 1, 30, 4, 5, 6}, []byte{1, 1, 1, 1, 1, 1, 1, 1}, true},
		{"without content", []byte{30, 2, 30, 2}, []byte{1, 1, 1, 1}, true},
		{"other kinds", []byte{2, 4, 5, 0xb4, 4, 2, 1, 1}, []byte{2, 4, 5, 0xb4, 4, 2, 1, 1}, false},
		{"in another option's content", []byte{8, 10, 30, 4, 1, 1, 30, 4, 1, 1, 1, 1}, []byte{8, 10, 30, 4, 1, 1, 30, 4, 1, 1, 1, 1}, false},
		{"after the list's end", []byte{1, 0, 30, 2}, []byte{1, 0, 30, 2}, false},
		{"its length is missing", []byte{1, 1, 1, 30}, []byte{1, 1, 1, 30}, false},
		{"its length is 1", []byte{30, 1, 1, 1}, []byte{30, 1, 1, 1}, false},
		{"it is beyond the header", []byte{30, 5, 1, 1}, []byte{30, 5, 1, 1}, false},
		{"what follows is malformed", []byte{30, 4, 1, 1, 2, 9, 1, 1}, []byte{30, 4, 1, 1, 2, 9, 1, 1}, false},
	} {
		for _, payload := range [][]byte{nil, []byte("data")} {
			t.Run(tt.name, func(t *testing.T) {
				got, want := withOptions(t, payload, tt.options...), withOptions(t, payload, tt.want...)
				if found := mustParse(t, got).BlankOption(kind); found != tt.found {
					t.Errorf("BlankOption = %v, want %v", found, tt.found)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("packet (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestBlankOptionOfNothing(t *testing.T) {
	if (packet.Segment{}).BlankOption(kind) {
		t.Error("the zero value has an option")
	}
	b := withOptions(t, nil, 1, 1, 0, 0)
	for _, none := range []byte{0, 1} {
		if mustParse(t, b).BlankOption(none) {
			t.Errorf("kind %d was blanked", none)
		}
	}
}

// FuzzBlankOption: only bytes of the options and the checksum change, to no-operations; the
// checksum stays as right or as wrong as it was; there is none left; and malformed
// options change nothing.
func FuzzBlankOption(f *testing.F) {
	f.Add([]byte{30, 4, 1, 0x81}, byte(kind))
	f.Add([]byte{1, 30, 3, 9, 2, 4, 5, 0xb4}, byte(kind))
	f.Add([]byte{30, 4, 1, 1, 2, 9, 1, 1}, byte(kind))
	f.Add([]byte{8, 10, 30, 4, 1, 1, 30, 4, 1, 1, 1, 1}, byte(8))
	f.Fuzz(func(t *testing.T, options []byte, kind byte) {
		if len(options) > 40 {
			return
		}
		b := withOptions(t, []byte("abc"), options...)
		before := bytes.Clone(b)
		s := mustParse(t, b)
		blanked, wellFormed := blank(before, kind)
		if found := s.BlankOption(kind); found != (wellFormed && !bytes.Equal(blanked, before) && kind > 1) {
			t.Errorf("BlankOption = %v", found)
		}
		want := before
		if wellFormed && kind > 1 {
			want = checksummed(blanked)
		}
		if diff := cmp.Diff(want, b); diff != "" {
			t.Errorf("packet (-want +got):\n%s", diff)
		}
		if s.BlankOption(kind) {
			t.Error("there is one left")
		}
	})
}

// blank is BlankOption, written another way and without the checksum.
func blank(b []byte, kind byte) (blanked []byte, ok bool) {
	blanked = bytes.Clone(b)
	for rest := blanked[40 : 20+int(b[32]>>4)*4]; len(rest) > 0 && rest[0] != 0; {
		option := rest[:1]
		if rest[0] != 1 {
			if len(rest) < 2 || rest[1] < 2 || int(rest[1]) > len(rest) {
				return nil, false
			}
			option = rest[:rest[1]]
		}
		rest = rest[len(option):]
		if option[0] == kind {
			copy(option, bytes.Repeat([]byte{1}, len(option)))
		}
	}
	return blanked, true
}
