package stream

import (
	"testing"
	"time"

	"pptpalg/alg/packet"
)

// step is one thing that happens to a stream whose bytes 1…9 were seen. Sequence numbers
// are those of a stream that begins at 1.
type step struct {
	seq, n int           // a segment comes
	after  time.Duration // at this time
	acked  int           // or, if not 0, the receiver has all before this

	want Place
	old  int
}

// behind is a segment of ten bytes behind a gap that its sender holds to be closed.
var behind = []step{
	{seq: 100, n: 10, want: Ahead}, {seq: 100, n: 10, want: Ahead}, {seq: 100, n: 10, want: Ahead},
	{seq: 100, n: 10, after: patienceTime, want: Blind},
}

// TestGap has what a gap remembers of the segments behind it.
func TestGap(t *testing.T) {
	tests := []struct {
		name  string
		steps []step
		next  int // first byte not seen yet, in the end
	}{
		{"patience ends at its very time", []step{
			{seq: 100, n: 10, want: Ahead}, {seq: 100, n: 10, want: Ahead}, {seq: 100, n: 10, want: Ahead},
			{seq: 100, n: 10, after: patienceTime - 1, want: Ahead}, {seq: 100, n: 10, after: patienceTime, want: Blind},
		}, 10},
		{"patience begins anew when the stream goes on", []step{
			{seq: 100, n: 10, want: Ahead}, {seq: 100, n: 10, want: Ahead}, {seq: 100, n: 10, want: Ahead},
			{seq: 10, n: 5, after: patienceTime, want: Follows},
			{seq: 100, n: 10, after: patienceTime, want: Ahead},
		}, 15},
		{"it begins anew where some was let go blind, too", append(behind[:4:4],
			step{seq: 10, n: 5, after: patienceTime, want: Follows}, step{seq: 100, n: 10, after: patienceTime, want: Ahead}), 15},
		{"its bytes come after all, and nothing is left of it", []step{
			{seq: 20, n: 10, want: Ahead}, {seq: 10, n: 10, want: Follows}, {seq: 20, n: 10, want: Follows},
		}, 30},
		{"what was let go blind ends where its last byte does", append(behind[:4:4],
			step{seq: 110, n: 20, after: patienceTime, want: Ahead},
			step{seq: 110, n: 20, after: patienceTime, want: Ahead},
			step{seq: 110, n: 20, after: patienceTime, want: Ahead},
			step{seq: 110, n: 20, after: 2 * patienceTime, want: Blind},
			step{acked: 131}, // nobody has sent that
			step{acked: 130},
		), 130},
		{"a shorter one of it takes nothing back", append(behind[:4:4],
			step{seq: 100, n: 5, after: patienceTime, want: Blind}, step{acked: 110}), 110},
		{"the receiver has a part of it, then all", append(behind[:4:4], step{acked: 105}, step{acked: 110}), 110},
		{"the receiver has all of it, and nothing is believed any more", append(behind[:4:4], step{acked: 110}, step{acked: 120}), 110},
		{"old bytes do not join, fresh ones do", append(behind[:4:4], step{acked: 110},
			step{seq: 100, n: 10, after: patienceTime, want: Follows, old: 10},
			step{seq: 105, n: 15, after: patienceTime, want: Joins, old: 5},
			step{seq: 120, n: 5, after: patienceTime, want: Follows}), 125},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Stream
			s.Start(0)
			s.Advance(9)
			for i, st := range tt.steps {
				if st.acked != 0 {
					s.Acked(packet.Seq(st.acked))
					continue
				}
				p, old := s.Place(packet.Seq(st.seq), st.n, epoch.Add(st.after))
				if p != st.want || old != st.old {
					t.Fatalf("step %d, bytes %d to %d: %v with %d old, want %v with %d", i, st.seq, st.seq+st.n-1, p, old, st.want, st.old)
				}
				if p == Follows || p == Joins {
					s.Advance(st.n - old)
				}
			}
			if s.Next() != packet.Seq(tt.next) {
				t.Errorf("next is %d, want %d", s.Next(), tt.next)
			}
		})
	}
}

// TestClosedGapCostsNothing: few streams have a gap, and they give its memory back.
func TestClosedGapCostsNothing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		close func(*Stream)
	}{
		{"its bytes came", func(*Stream) {}},
		{"it was given up, and the stream was joined behind it", func(s *Stream) { s.Skip(5); s.Place(5, 5, epoch); s.Advance(5) }},
	} {
		var s Stream
		s.Start(0)
		s.Place(9, 1, epoch)
		tt.close(&s)
		if s.Place(s.Next(), 5, epoch); s.gap != nil {
			t.Errorf("%s: the gap is still there", tt.name)
		}
	}
}

// TestRecord has how many edits are remembered: those that the receiver may not have, and
// of the others no more than cost nothing.
func TestRecord(t *testing.T) {
	tests := []struct {
		name     string
		edits    int
		acked    int // edits that the receiver has
		kept     int // the last ones
		capacity int
	}{
		{"few, that the receiver has", MinEdits, MinEdits, MinEdits, MinEdits},
		{"one more", MinEdits + 1, MinEdits, 1, MinEdits},
		{"many, that it has not", 3 * MinEdits, 0, 3 * MinEdits, 4 * MinEdits},
		{"as many as may be", MaxEdits, 0, MaxEdits, 2 * MaxEdits},
		{"more than may be", 3 * MaxEdits, 0, MaxEdits, 2 * MaxEdits},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Stream
			s.Start(0)
			for i := range tt.edits {
				s.Record(packet.Seq(1+i), byte(i))
				s.Advance(1)
				s.Acked(packet.Seq(1 + min(i+1, tt.acked)))
			}
			s.Acked(1) // late: it has come again
			replayed := map[int]byte{}
			s.Replay(1, tt.edits, func(at int, b byte) { replayed[at] = b })
			if len(replayed) != tt.kept {
				t.Fatalf("%d edits are remembered, want %d", len(replayed), tt.kept)
			}
			for at := tt.edits - tt.kept; at < tt.edits; at++ {
				if replayed[at] != byte(at) {
					t.Errorf("byte %d is sent as %#x, want %#x", at, replayed[at], byte(at))
				}
			}
			if cap(s.edits) > tt.capacity {
				t.Errorf("there is room for %d edits, want %d", cap(s.edits), tt.capacity)
			}
		})
	}
}

// TestForgottenUntilAcknowledged: a segment of bytes whose edits are forgotten waits for
// their receiver, who has them or has not; nothing else does.
func TestForgottenUntilAcknowledged(t *testing.T) {
	var s Stream
	s.Start(0)
	for i := range MaxEdits + 10 { // the first ten are forgotten
		s.Record(packet.Seq(1+i), 0xAA)
		s.Advance(1)
	}
	s.Acked(6)
	s.Acked(3) // late
	for _, tt := range []struct {
		name string
		seq  packet.Seq
		n    int
		want Place
	}{
		{"a forgotten byte", 10, 1, Forgotten},
		{"one that the receiver has, with some that it may not have", 2, 9, Forgotten},
		{"no byte, before the forgotten ones: a keep-alive", 5, 0, Follows},
		{"the first that is remembered", 11, 1, Follows},
	} {
		if p, _ := s.Place(tt.seq, tt.n, epoch); p != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, p, tt.want)
		}
	}
	s.Acked(11)
	s.Acked(6) // late
	if p, old := s.Place(10, 1, epoch); p != Follows || old != 1 {
		t.Errorf("when the receiver has them all: %v, %d old", p, old)
	}
}
