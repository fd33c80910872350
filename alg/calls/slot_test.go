package calls

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pptpalg/alg/pptp"
)

// numbers returns the numbers of a connection's calls, in order.
func numbers(c *Control) (all []uint64) {
	for _, r := range c.Records(nil) {
		all = append(all, r.Number)
	}
	slices.Sort(all)
	return all
}

// TestSlots: a number begins with the slot of the gateway that opened the call, and goes on
// from the highest one that is known with this slot.
func TestSlots(t *testing.T) {
	for _, tt := range []struct {
		name  string
		slot  uint8
		known []uint64
		want  uint64
	}{
		{"a gateway alone", 0, nil, 1},
		{"a gateway alone, after a restart", 0, []uint64{77}, 78},
		{"slot 3", 3, nil, 3<<56 | 1},
		{"slot 3, and a call of slot 2", 3, []uint64{2<<56 | 77}, 3<<56 | 1},
		{"slot 3, and calls of both", 3, []uint64{3<<56 | 9, 2<<56 | 77}, 3<<56 | 10},
		{"slot 0, and a call of slot 2", 0, []uint64{2<<56 | 77}, 1},
		{"slot 15", 15, []uint64{15<<56 | 4}, 15<<56 | 5},
	} {
		cfg := testConfig(time.Minute)
		cfg.Slot = tt.slot
		tab := New(cfg)
		for i, n := range tt.known {
			c := tab.Open(masqueraded(inside(i+2), uint16(i+2)))
			r := Record{Number: n, Connection: c.Connection(), Legs: [2]LegRecord{{Known: true, Own: pptp.CallID(i + 20), Public: pptp.CallID(i + 20)}}}
			if !c.Resume(r, epoch) {
				t.Fatalf("%s: %#x is refused", tt.name, n)
			}
		}
		c := tab.Open(masqueraded(inside(1), 1))
		if request(t, c, 7); !slices.Equal(numbers(c), []uint64{tt.want}) {
			t.Errorf("%s: number %#x, want %#x", tt.name, numbers(c), tt.want)
		}
	}
}

// TestEndedNumbers: a call that ended while nobody watched leaves its number to nobody.
func TestEndedNumbers(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	tab.RestCall(Record{Number: 40, Connection: c.Connection(), Legs: [2]LegRecord{{Known: true, Own: 7, Public: 7}}}, epoch, epoch)
	if request(t, c, 8); !slices.Equal(numbers(c), []uint64{41}) {
		t.Errorf("numbers %v, want 41", numbers(c))
	}
}

// TestSlotLater: the slot and the share may be known only after calls were opened, and a
// configuration that is read again does not change them.
func TestSlotLater(t *testing.T) {
	tab := New(testConfig(time.Minute))
	c := tab.Open(masqueraded(inside(1), 1))
	request(t, c, 0x0501)
	tab.SetSlot(2, Share{Of: 2, Mine: 1})
	request(t, c, 0x0502)
	tab.SetConfig(testConfig(time.Hour))
	request(t, c, 0x0504)
	if want := []uint64{1, 2<<56 | 1, 2<<56 | 2}; !slices.Equal(numbers(c), want) {
		t.Errorf("numbers %#x, want %#x", numbers(c), want)
	}
	for _, r := range c.Records(nil) {
		if public := r.Legs[Initiator].Public; public&1 == 0 {
			t.Errorf("the call %#x has the public ID %v, which is another gateway's", r.Number, public)
		}
	}
}

// TestShare: an ID is in the share of one gateway, and each page has as many of each.
func TestShare(t *testing.T) {
	for _, of := range []uint8{0, 1, 2, 4, 8, 16} {
		var count [256][16]int
		for id := range 1 << 16 {
			for mine := range max(of, 1) {
				if (Share{of, mine}).has(pptp.CallID(id)) {
					count[id>>8][mine]++
				}
			}
		}
		for high := range count {
			for mine := range max(of, 1) {
				if got, want := count[high][mine], pageSize/int(max(of, 1)); got != want {
					t.Fatalf("of %d, page %d has %d IDs of share %d, want %d", of, high, got, mine, want)
				}
			}
		}
	}
}

func TestShareValid(t *testing.T) {
	for s, valid := range map[Share]bool{
		{}: true, {1, 0}: true, {2, 1}: true, {16, 15}: true,
		{0, 1}: false, {1, 1}: false, {2, 2}: false, {3, 0}: false, {32, 0}: false, {16, 16}: false,
	} {
		if s.Valid() != valid {
			t.Errorf("%+v is valid: %v", s, !valid)
		}
	}
}

// TestSharedSpace: of a space that is shared a gateway sees its part only, and what others
// have taken there is taken.
func TestSharedSpace(t *testing.T) {
	s := newSpace(new(crowd), Share{Of: 4, Mine: 3})
	if s.room(5) != 64 || s.room(0) != 64 || newSpace(new(crowd), Share{Of: 4}).room(0) != 63 {
		t.Errorf("room for %d, and %d beside ID 0", s.room(5), newSpace(new(crowd), Share{Of: 4}).room(0))
	}
	for _, id := range []pptp.CallID{0x05ff, 0x05fe, 0x05fd} { // the first one is of this share
		s.take(id)
		if s.free(id) || !s.has(id) {
			t.Errorf("%v is free after it was taken", id)
		}
	}
	if s.free(0x0501) || s.has(0x0501) || !s.free(0x0503) {
		t.Errorf("0x0501 of another share is free: %v, taken: %v; 0x0503 is free: %v", s.free(0x0501), s.has(0x0501), s.free(0x0503))
	}
	if id, ok := s.highest(5, anyID); !ok || id != 0x05fb || s.room(5) != 63 {
		t.Errorf("the highest is %v, %v, of %d", id, ok, s.room(5))
	}
	for _, id := range []pptp.CallID{0x05ff, 0x05fe, 0x05fd} {
		if s.release(id); s.has(id) {
			t.Errorf("%v is taken after it was released", id)
		}
	}
	if s.taken != 0 || len(s.pages) != 0 {
		t.Errorf("%d are taken, on %d pages", s.taken, len(s.pages))
	}
	random := rand.New(rand.NewPCG(1, 2)).Uint32
	seen := map[pptp.CallID]bool{}
	for range 1000 {
		id, ok := s.draw(random, 5, anyID)
		if !ok || !s.share.has(id) || id.High() != 5 {
			t.Fatalf("drew %v, %v", id, ok)
		}
		seen[id] = true
	}
	if len(seen) != 64 {
		t.Errorf("1000 draws gave %d different IDs of 64", len(seen))
	}
}

// TestSharesNeverMeet: gateways with the same public address, which know nothing of each
// other, give no ID twice, until each has given all of its own; and the first byte that was
// promised holds.
func TestSharesNeverMeet(t *testing.T) {
	for _, of := range []uint8{2, 16} {
		for name, random := range map[string]func() uint32{"own IDs": nil, "at random": rand.New(rand.NewPCG(1, 2)).Uint32} {
			given := map[pptp.CallID]uint8{}
			for mine := range of {
				cfg := testConfig(time.Hour)
				cfg.Slot, cfg.Share, cfg.Random = mine, Share{of, mine}, random
				cfg.CallsPerClient, cfg.Requests = 1<<17, 1<<17
				tab := New(cfg)
				n := 0
				for i := range 1 << 16 / int(of) {
					c := tab.Open(masqueraded(inside(i), uint16(i)))
					high := c.TranslateHigh(Initiator, Requests, byte(i))
					id, ok := c.Assign(Initiator, pptp.CallID(byte(i))<<8|pptp.CallID(byte(i>>8)), &high)
					if !ok {
						continue
					}
					if n++; id == 0 || id.High() != high {
						t.Fatalf("of %d, %s: the ID %v, and %#x was promised", of, name, id, high)
					}
					if other, taken := given[id]; taken {
						t.Fatalf("of %d, %s: gateway %d gives %v, and so does gateway %d", of, name, mine, id, other)
					}
					given[id] = mine
				}
				want := 1 << 16 / int(of)
				if mine == 0 {
					want--
				}
				if n != want {
					t.Errorf("of %d, %s: gateway %d gave %d IDs, want %d", of, name, mine, n, want)
				}
			}
		}
	}
}

// TestOwnIDInTheShare: an end keeps its own ID if that is in the share, and gets one with
// the same first byte otherwise. The gateway's own end keeps any.
func TestOwnIDInTheShare(t *testing.T) {
	cfg := testConfig(time.Minute)
	cfg.Share = Share{Of: 8, Mine: 5}
	tab := New(cfg)
	for _, own := range []pptp.CallID{0x0705, 0x0706, 0x070d} {
		id := request(t, tab.Open(masqueraded(inside(int(own)), 1)), own)
		if keeps := own&7 == 5; (id == own) != keeps || id&7 != 5 || id.High() != 7 {
			t.Errorf("%v becomes %v", own, id)
		}
	}
	c := tab.Open(masqueraded(public, 9))
	c.SetLocal(Initiator)
	if id := request(t, c, 0x0702); id != 0x0702 {
		t.Errorf("of the gateway's own end, 0x0702 becomes %v", id)
	}
}

// TestRecycledInTheShare: if its share is used up, a gateway takes a resting ID of its share.
func TestRecycledInTheShare(t *testing.T) {
	cfg := testConfig(time.Hour)
	cfg.Share, cfg.CallsPerSpace = Share{Of: 2, Mine: 1}, 1<<20
	tab := New(cfg)
	occupy(t, tab, 1, 0xffff, 0)
	sp := tab.space(tab.Open(masqueraded(inside(9), 9)).connection.space(Initiator))
	for _, id := range []pptp.CallID{0x0102, 0x0104, 0x0107, 0x0106} {
		sp.release(id)
		tab.Rest(Resting{Public: public, Peer: outside, ID: id, Until: epoch.Add(time.Hour)}, epoch)
	}
	if id := request(t, tab.Open(masqueraded(inside(1), 1)), 7); id != 0x0107 {
		t.Errorf("the ID %v, want the one of the share that rests", id)
	}
	c := tab.Open(masqueraded(inside(2), 2))
	if id, ok := c.Assign(Initiator, 7, nil); ok || c.Refusal(Initiator) != SpaceFull {
		t.Errorf("the ID %v, though none of the share is left: %v", id, c.Refusal(Initiator))
	}
}
