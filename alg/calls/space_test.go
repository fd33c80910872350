package calls

import (
	"math/rand/v2"
	"testing"

	"pptpalg/alg/pptp"
)

func anyID(pptp.CallID) bool { return true }

// filled returns a space in which some IDs are taken.
func filled(from, to pptp.CallID) *space {
	s := newSpace(new(crowd), Share{})
	for id := int(from); id <= int(to); id++ {
		s.take(pptp.CallID(id))
	}
	return s
}

func TestTake(t *testing.T) {
	s := filled(0x0500, 0x0501)
	s.take(0x0501) // again
	s.take(0)      // never anybody's
	s.release(0x0777)
	s.release(0)
	if s.taken != 2 || s.room(5) != pageSize-2 || s.room(0) != pageSize-1 {
		t.Errorf("%d taken, room for %d and %d", s.taken, s.room(5), s.room(0))
	}
	for id, free := range map[pptp.CallID]bool{0: false, 1: true, 0x0500: false, 0x0501: false, 0x0502: true, 0x0540: true, 0x0600: true} {
		if s.free(id) != free {
			t.Errorf("%v is free: %v", id, s.free(id))
		}
	}
	s.release(0x0500)
	if !s.free(0x0500) || s.free(0x0501) || s.taken != 1 {
		t.Errorf("one was released, and %d are taken", s.taken)
	}
	s.release(0x0501)
	if len(s.pages) != 0 {
		t.Errorf("all were released, and %d pages are left", len(s.pages))
	}
}

func TestHighest(t *testing.T) {
	tests := []struct {
		name  string
		taken [2]pptp.CallID // from, to
		high  byte
		fit   func(pptp.CallID) bool
		want  pptp.CallID
		ok    bool
	}{
		{"of an empty page", [2]pptp.CallID{0x0600, 0x0600}, 5, anyID, 0x05ff, true},
		{"below those that are taken", [2]pptp.CallID{0x0540, 0x05ff}, 5, anyID, 0x053f, true},
		{"that fits", [2]pptp.CallID{0x05f0, 0x05ff}, 5, func(id pptp.CallID) bool { return id < 0x0510 }, 0x050f, true},
		{"if none fits", [2]pptp.CallID{0x05f0, 0x05ff}, 5, func(pptp.CallID) bool { return false }, 0, false},
		{"of a full page", [2]pptp.CallID{0x0500, 0x05ff}, 5, anyID, 0, false},
		{"but never 0", [2]pptp.CallID{0x0001, 0x00ff}, 0, anyID, 0, false},
	}
	for _, tt := range tests {
		if got, ok := filled(tt.taken[0], tt.taken[1]).highest(tt.high, tt.fit); got != tt.want || ok != tt.ok {
			t.Errorf("the highest ID %s is %v, %v, want %v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

// TestDraw: IDs are drawn from all of a page that is free and fits, in no order.
func TestDraw(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)).Uint32
	s := filled(0x0500, 0x053f)
	odd := func(id pptp.CallID) bool { return id&1 == 1 }
	seen := map[pptp.CallID]bool{}
	for range 1000 {
		id, ok := s.draw(random, 5, odd)
		if !ok {
			continue // this is chance's right
		}
		if id.High() != 5 || !s.free(id) || !odd(id) {
			t.Fatalf("drew %v", id)
		}
		seen[id] = true
	}
	if len(seen) < 80 { // of 96
		t.Errorf("1000 draws gave %d different IDs", len(seen))
	}
	if id, ok := filled(0x0500, 0x05ff).draw(random, 5, anyID); ok || id != 0 {
		t.Errorf("drew %v from a full page", id)
	}
}
