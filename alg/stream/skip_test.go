package stream

import (
	"testing"
	"time"

	"pptpalg/alg/packet"
)

func TestSkip(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s Stream
	s.Skip(7) // nothing has begun
	if s.Joined() {
		t.Fatal("a stream of which nothing was seen was joined")
	}
	start := packet.Seq(0xffffffff)
	s.Start(start)
	if p, _ := s.Place(start.Add(101), 10, now); p != Ahead {
		t.Fatalf("behind a gap: %v, want Ahead", p)
	}
	s.Skip(start.Add(101))
	s.Skip(start.Add(50)) // behind what is known
	if p, old := s.Place(start.Add(101), 10, now); p != Joins || old != 0 {
		t.Errorf("after the gap was given up: %v, %d old, want Joins", p, old)
	}
	s.Advance(10)
	if p, old := s.Place(start.Add(51), 60, now); p != Follows || old != 60 {
		t.Errorf("out of the gap, late: %v, %d old, want all old", p, old)
	}
}
