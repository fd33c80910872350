package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	oracle "github.com/ti-mo/conntrack"

	"pptpalg/alg/calls"
)

var left = calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.2:1024"), Dst: netip.MustParseAddrPort("192.0.2.2:1723")}

// insertLeft puts in the entry of left.
func insertLeft(t testing.TB, ns *namespace, zone uint16, mark uint32) {
	t.Helper()
	ns.run(t, fmt.Sprintf("conntrack -I -p tcp -t 100 --state ESTABLISHED -s 10.0.0.2 -d 192.0.2.2 --sport 1024 --dport 1723 -w %d -m %d", zone, mark))
}

// wantLabels loads a rule about a label, from which on entries have room for them.
func wantLabels(t *testing.T, ns *namespace) {
	t.Helper()
	ns.run(t, "iptables -A INPUT -m connlabel --label 5")
}

func theOnly(t *testing.T, ns *namespace) oracle.Flow {
	t.Helper()
	all := dumpOracle(t, ns)
	if len(all) != 1 {
		t.Fatalf("%d entries, want 1", len(all))
	}
	return all[0]
}

func TestLeaveByMark(t *testing.T) {
	for _, tt := range []struct {
		name         string
		before, bits uint32
		want         uint32
	}{
		{"none set", 0, 0x20000000, 0x20000000},
		{"others set", 0x1234, 0x20000000, 0x20001234},
		{"set already", 0x20000001, 0x20000000, 0x20000001},
		{"several bits, one set", 0x10, 0x30, 0x30},
		{"all bits", 0x55555555, 0xffffffff, 0xffffffff},
		{"nothing to do", 7, 0, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := newNamespace(t)
			insertLeft(t, ns, 7, tt.before)
			if err := ns.dial(t).Leave(left, 7, Bypass{Mark: tt.bits}); err != nil {
				t.Fatal(err)
			}
			if got := theOnly(t, ns).Mark; got != tt.want {
				t.Errorf("mark %#x, want %#x", got, tt.want)
			}
		})
	}
}

func TestLeaveByLabel(t *testing.T) {
	ns := newNamespace(t)
	wantLabels(t, ns)
	insertLeft(t, ns, 0, 9)
	c := ns.dial(t)
	want := make([]byte, 16)
	for _, label := range []uint8{0, 31, 32, 63, 64, 118, 127, 118} {
		// By either direction's tuple.
		for _, tuple := range []calls.Tuple{left, left.Reversed()} {
			if err := c.Leave(tuple, 0, Bypass{Label: label, Labelled: true}); err != nil {
				t.Fatal(err)
			}
		}
		want[label/8] |= 1 << (label % 8) // as a little-endian machine has them
		got := theOnly(t, ns)
		if !slices.Equal(got.Labels, want) || got.Mark != 9 {
			t.Errorf("label %d: labels %x, mark %d; want %x, 9", label, got.Labels, got.Mark, want)
		}
	}
}

func TestLeaveErrors(t *testing.T) {
	ns := newNamespace(t)
	c := ns.dial(t)
	insertLeft(t, ns, 0, 0)
	byLabel, byMark := Bypass{Label: 118, Labelled: true}, Bypass{Mark: 1}
	wantErr := func(name string, want error, tuple calls.Tuple, zone uint16, b Bypass) {
		t.Helper()
		if err := c.Leave(tuple, zone, b); !errors.Is(err, want) || err == nil {
			t.Errorf("%s: Leave() = %v, want %v", name, err, want)
		}
	}
	wantErr("entry from before the first rule", ErrNoLabels, left, 0, byLabel)
	wantLabels(t, ns)
	wantErr("the same, and then a rule", ErrNoLabels, left, 0, byLabel)
	wantErr("another zone", ErrNotFound, left, 7, byLabel)
	wantErr("another zone, mark", ErrNotFound, left, 7, byMark)
	if err := c.Leave(left, 0, Bypass{Label: 128, Labelled: true}); err == nil {
		t.Error("label 128 taken")
	}
	if err := c.Leave(calls.Tuple{}, 0, byMark); err == nil {
		t.Error("no tuple taken")
	}
	if n := len(dumpOracle(t, ns)); n != 1 {
		t.Errorf("%d entries, want 1: none may be created", n)
	}
}
