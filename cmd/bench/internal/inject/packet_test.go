package inject

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

var sent = Packet{Src: netip.MustParseAddr("10.77.0.20"), Dst: netip.MustParseAddr("203.0.113.10"), Key: 0x1234}

func TestFrameParses(t *testing.T) {
	plain := sent
	plain.Plain = true
	for _, p := range []Packet{plain, sent} {
		got, err := parse(frame(p, MinSize))
		if err != nil {
			t.Fatal(err)
		}
		if want := (Arrived{Packet: p}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	f := frame(sent, MinSize)
	for name, damage := range map[string]func(b []byte){
		"a TTL without its checksum": func(b []byte) { b[offTTL]-- },
		"an address":                 func(b []byte) { b[offDst]++ },
		"a GRE flag":                 func(b []byte) { b[offGRE] ^= 0x80 },
		"the payload's length":       func(b []byte) { b[offGRE+5]++ },
	} {
		b := append([]byte(nil), f...)
		damage(b)
		if _, err := parse(b); err == nil {
			t.Errorf("with %s altered it is right", name)
		}
	}
}

// TestRows holds that what the program writes is what frame has.
func TestRows(t *testing.T) {
	back := Packet{Src: sent.Dst, Dst: sent.Src, Key: sent.Key + 1}
	again := sent
	again.Key += 2
	all := []Packet{sent, back, again}
	calls, pairs, err := newRows(Stream{Packets: all, Size: 1400})
	if err != nil {
		t.Fatal(err)
	}
	if len(pairs) != 2 {
		t.Errorf("%d pairs, want 2", len(pairs))
	}
	for i, p := range all {
		f, row := frame(p, 1400), calls[i*callSize:(i+1)*callSize]
		pair := pairs[binary.NativeEndian.Uint16(row)]
		got := slices.Concat(pair, pairRow(row[2:]))
		want := slices.Concat(f[offSrc:offSrc+8], f[offChecksum:offChecksum+2], f[offKey:offKey+2])
		if !slices.Equal(got, pairRow(want)) {
			t.Errorf("%v: got % x, want % x", p, got, want)
		}
	}
}
