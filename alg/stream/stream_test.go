package stream

import (
	"bytes"
	"testing"
	"time"

	"pptpalg/alg/packet"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestPlace(t *testing.T) {
	const isn = packet.Seq(0xfffffffa) // the stream's bytes begin at 0xfffffffb and wrap
	first := isn.Add(1)
	tests := []struct {
		name string
		at   int // of the segment, from the first byte; 20 bytes were seen
		n    int
		want Place
		old  int
	}{
		{"next", 20, 5, Follows, 0},
		{"next, empty", 20, 0, Follows, 0},
		{"again", 0, 20, Follows, 20},
		{"again, cut elsewhere", 3, 4, Follows, 4},
		{"again, and more", 10, 30, Follows, 10},
		{"keep-alive, one byte below the window", 19, 1, Follows, 1},
		{"keep-alive, empty", 19, 0, Follows, 0},
		{"ahead", 21, 5, Ahead, 0},
		{"ahead, empty (a FIN)", 21, 0, Ahead, 0},
		{"far ahead", 1 << 30, 5, Ahead, 0},
		{"before the stream began", -5, 5, Follows, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Stream
			s.Start(isn)
			if p, old := s.Place(first, 20, epoch); p != Follows || old != 0 {
				t.Fatalf("the first segment: %v, %d old", p, old)
			}
			s.Advance(20)
			if p, old := s.Place(first.Add(tt.at), tt.n, epoch); p != tt.want || old != tt.old {
				t.Errorf("got %v with %d old bytes, want %v with %d", p, old, tt.want, tt.old)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	var s Stream
	if s.Joined() {
		t.Error("a stream is joined before anything came")
	}
	if p, old := s.Place(900, 0, epoch); p != Blind || old != 0 || s.Joined() {
		t.Errorf("a segment without a byte: %v, %d, joined %v", p, old, s.Joined())
	}
	if p, old := s.Place(1000, 10, epoch); p != Joins || old != 0 {
		t.Errorf("the first segment: %v, %d", p, old)
	}
	s.Advance(10)
	if p, _ := s.Place(1010, 10, epoch); p != Follows {
		t.Errorf("the second: %v", p)
	}
}

func TestGapThatIsNone(t *testing.T) {
	var s Stream
	s.Start(0)
	behind := func(seq packet.Seq, after time.Duration) Place {
		p, _ := s.Place(seq, 10, epoch.Add(after))
		return p
	}
	for i := range 20 {
		if got := behind(100, time.Duration(i)); got != Ahead {
			t.Errorf("doubled by the network, time %d: %v", i+1, got)
		}
	}
	// Other segments between do not count; the same one again and again does.
	behind(200, time.Second)
	for i := range patience + 2 {
		want := Ahead
		if i >= patience {
			want = Blind
		}
		if got := behind(100, patienceTime*time.Duration(i+1)); got != want {
			t.Errorf("time %d behind the gap: %v, want %v", i+1, got, want)
		}
	}
	// The gap's own bytes are still what comes next.
	if got, _ := s.Place(1, 9, epoch); got != Follows {
		t.Errorf("the gap's first bytes: %v", got)
	}
	s.Advance(9)
	s.Acked(500) // nobody has sent that
	if s.Next() != 10 {
		t.Errorf("a wrong acknowledgement moved the stream to %d", s.Next())
	}
	s.Acked(110)
	if got, _ := s.Place(110, 5, epoch); got != Joins || s.Next() != 110 {
		t.Errorf("after the receiver has closed the gap: %v, next %d", got, s.Next())
	}
	s.Advance(5)
	if got, _ := s.Place(115, 5, epoch); got != Follows {
		t.Errorf("and then: %v", got)
	}
}

func TestForgottenEdits(t *testing.T) {
	var s Stream
	s.Start(0)
	for i := range MaxEdits + 1 {
		s.Place(packet.Seq(1+i), 1, epoch)
		s.Record(packet.Seq(1+i), 0xAA)
		s.Advance(1)
	}
	if p, _ := s.Place(1, 1, epoch); p != Forgotten {
		t.Errorf("a byte whose edit was pushed out: %v", p)
	}
	if p, _ := s.Place(2, 1, epoch); p != Follows {
		t.Errorf("the next one, which is remembered: %v", p)
	}
	s.Acked(100)
	if p, _ := s.Place(1, 1, epoch); p != Follows {
		t.Errorf("after its receiver has acknowledged it: %v", p)
	}
}

func TestAcknowledgedEditsMakeRoom(t *testing.T) {
	var s Stream
	s.Start(0)
	for i := range 100 * MaxEdits {
		at := packet.Seq(1 + i)
		s.Record(at, 0xAA)
		s.Advance(1)
		s.Acked(at) // all but the last byte
	}
	if p, _ := s.Place(packet.Seq(100*MaxEdits), 1, epoch); p != Follows {
		t.Errorf("the last byte again: %v", p)
	}
	if n := cap(s.edits); n > 2*MinEdits {
		t.Errorf("there is room for %d edits, of which one is needed", n)
	}
	s.Acked(1 << 30) // beyond what was sent: not believed
	if p, old := s.Place(s.Next(), 1, epoch); p != Follows || old != 0 {
		t.Errorf("after a wrong acknowledgement: %v, %d", p, old)
	}
}

// FuzzStream: a stream whose bytes are all edited is sent in the segments that the
// fuzzer likes. What was let go at first for a byte is let go each time, and fresh
// bytes come in order.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 5, 5, 5, 0, 10})
	f.Add([]byte{3, 1, 0, 1, 0, 200, 100, 30})
	f.Fuzz(func(t *testing.T, segments []byte) {
		const isn = packet.Seq(0xffffff80)
		var s Stream
		s.Start(isn)
		sent := map[int]byte{}
		fresh := 0
		for i := 0; i+1 < len(segments); i += 2 {
			at, n := int(segments[i]), int(segments[i+1]%40)
			seq := isn.Add(1 + at)
			p, old := s.Place(seq, n, epoch)
			if p != Follows {
				continue
			}
			if old < 0 || old > n {
				t.Fatalf("%d of %d bytes are old", old, n)
			}
			got := bytes.Repeat([]byte{0}, n)
			s.Replay(seq, old, func(at int, b byte) { got[at] = b })
			for j := old; j < n; j++ {
				if at+j != fresh {
					t.Fatalf("fresh byte %d, want %d", at+j, fresh)
				}
				got[j] = byte(len(sent)%255 + 1)
				s.Record(seq.Add(j), got[j])
				fresh++
			}
			s.Advance(n - old)
			for j, b := range got {
				if before, seen := sent[at+j]; seen && before != b && len(sent) <= MaxEdits {
					t.Fatalf("byte %d was %#x, is %#x", at+j, before, b)
				}
				sent[at+j] = b
			}
		}
	})
}
