package inject

import (
	"net/netip"
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

// TestRow holds that what the program writes is what frame has.
func TestRow(t *testing.T) {
	f := frame(sent, 1400)
	r := newRow(sent, 1400)
	want := append(append(append([]byte(nil), f[offSrc:offSrc+8]...), f[offChecksum:offChecksum+2]...), f[offKey:offKey+2]...)
	if string(r[:]) != string(want) {
		t.Errorf("got % x, want % x", r, want)
	}
}
