package calls

import "testing"

// TestZoneOf: the packets of each end, and the GRE that it sends, are in the connection's zone
// if that holds for them, else in the default zone.
func TestZoneOf(t *testing.T) {
	for _, tt := range []struct {
		name   string
		way    Way
		zone   [2]uint16 // of the packets that each end sends
		oneWay [2]bool
	}{
		{"CT --zone", BothWays, [2]uint16{12, 12}, [2]bool{}},
		{"CT --zone-orig", FromInitiator, [2]uint16{12, 0}, [2]bool{true, false}},
		{"CT --zone-reply", FromResponder, [2]uint16{0, 12}, [2]bool{false, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := masqueraded(inside(1), 1)
			c.Zone, c.Way = 12, tt.way
			kept := pack(c)
			for _, s := range []Side{Initiator, Responder} {
				f := c.flow(s.Other(), 7, 7)
				if c.ZoneOf(s) != tt.zone[s] || kept.zoneOf(s) != tt.zone[s] || f.Zone != tt.zone[s] {
					t.Errorf("zone of the %v's packets: %d, as the table keeps it %d, of its GRE %d, want %d", s, c.ZoneOf(s), kept.zoneOf(s), f.Zone, tt.zone[s])
				}
				if f.OneWay != tt.oneWay[s] {
					t.Errorf("the %v's GRE alone is in the zone: %v, want %v", s, f.OneWay, tt.oneWay[s])
				}
			}
		})
	}
}

// TestWays: a number that stands for none of the ways is not valid.
func TestWays(t *testing.T) {
	for w := range ways {
		if !w.Valid() {
			t.Errorf("way %d is not valid", w)
		}
	}
	if ways.Valid() {
		t.Errorf("way %d is valid", ways)
	}
}

func TestTupleNamesItsEnds(t *testing.T) {
	const want = "10.0.0.1:5 > 203.0.113.9:1723"
	if got := masqueraded(inside(1), 5).Original.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
