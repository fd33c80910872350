package stream

import (
	"slices"
	"time"

	"pptpalg/alg/packet"
)

// MaxEdits is how many changed bytes a stream remembers for retransmissions: a window of 64
// KiB full of call requests. A byte that is forgotten before its receiver has acknowledged
// it cannot be edited again, so its retransmission is dropped.
const MaxEdits = 1024

// MinEdits is how many changed bytes a stream remembers at least, whether or not their
// receiver has them. Beyond that it first forgets those that the receiver has, before it
// takes more room.
const MinEdits = 32

// patience is how many times a segment behind a gap is dropped, and patienceTime for how
// long since it came first. A sender repeats the oldest segment that was not acknowledged.
// It sends a later segment once, perhaps again as a tail loss probe (RFC 8985 section 7),
// and a network may duplicate either, but all that ends soon. If the segment still comes
// after that, the gap is closed for its sender: what is missing here passed while no daemon
// was running.
const (
	patience     = 3
	patienceTime = time.Second
)

// Stream is one direction of a control connection. The zero value joins with the first
// segment that it sees.
//
//	zero ──── data ────▶ joined ──── its receiver acknowledges what was read ────▶ placed
//	  │                  ▲    │ data elsewhere: it was joined at the wrong place
//	  │                  └────┘                                                      ▲
//	  └────────────────────────── Start: its first byte is known ────────────────────┘
//
// Until the stream is placed, anybody may have sent a segment that lies in the receiver's
// window.
type Stream struct {
	next   packet.Seq // of the first byte not seen yet
	acked  packet.Seq // the receiver has all before this
	edits  []edit     // in the order of their sequence numbers
	gap    *gap       // nil where no byte is missing
	lost   packet.Seq // when forgot: edits before this are forgotten
	forgot bool
	joined bool
	placed bool
}

// Clone returns a copy that shares nothing.
func (s *Stream) Clone() Stream {
	c := *s
	c.edits = slices.Clone(s.edits)
	if s.gap != nil {
		c.gap = new(*s.gap)
	}
	return c
}

// gap describes what came behind missing bytes. It is allocated separately, because few
// streams ever have one.
type gap struct {
	began   packet.Seq // where the last segment began
	waiting int        // how many times it came
	since   time.Time  // when it came first
	unread  packet.Seq // when blind: the end of what passed unread
	blind   bool
	rejoin  bool // the receiver has closed the gap: what comes next joins
}

type edit struct {
	at packet.Seq
	b  byte
}

// Place is where a segment lies.
type Place uint8

// The places of a segment.
const (
	// Follows: its new bytes come next in the stream.
	Follows Place = iota
	// Joins: its bytes are the first that were seen, or the first after a gap that its
	// receiver has closed, or they lie elsewhere than the first ones in a stream that is
	// not placed. It is unknown where messages begin in them.
	Joins
	// Ahead: bytes before it are missing. They were lost on the way and will come again,
	// and so will this segment if it is dropped.
	Ahead
	// Blind: bytes before it are missing here, but not for its sender; or it has no bytes,
	// and the stream is not placed. It must not be read: anybody could have sent it, and
	// only its receiver's acknowledgement tells that it belongs to the stream.
	Blind
	// Forgotten: a retransmission of bytes whose edits are no longer known.
	Forgotten
)

// Start begins the stream after a SYN with the given initial sequence number.
func (s *Stream) Start(isn packet.Seq) {
	*s = Stream{joined: true, placed: true, next: isn.Add(1), acked: isn.Add(1)}
}

// Place tells where a segment of n bytes beginning at seq lies, and how many of its bytes
// were seen before. Replay edits those again; the caller reads the others and then calls
// Advance. A FIN counts as a byte if the stream is joined by it.
func (s *Stream) Place(seq packet.Seq, n int, now time.Time) (p Place, old int) {
	switch {
	case !s.placed && n == 0:
		return Blind, 0
	case !s.joined, !s.placed && (seq.Before(s.acked) || seq.After(s.next)):
		*s = Stream{joined: true, next: seq, acked: seq}
		return Joins, 0
	case seq.After(s.next):
		return s.ahead(seq, n, now), 0
	case s.forgot && seq.Before(s.lost) && s.lost.After(s.acked) && n > 0:
		return Forgotten, 0
	}
	old = min(n, s.next.Sub(seq))
	if s.gap != nil && s.rejoins(n > old) {
		return Joins, old
	}
	return Follows, old
}

// rejoins records a segment that follows, and reports whether it is the first with new
// bytes after the receiver has closed the gap.
func (s *Stream) rejoins(fresh bool) bool {
	g := s.gap
	g.waiting = 0
	joins := g.rejoin && fresh
	if g.rejoin = g.rejoin && !fresh; !g.rejoin && !g.blind {
		s.gap = nil
	}
	return joins
}

func (s *Stream) ahead(seq packet.Seq, n int, now time.Time) Place {
	g := s.missing()
	if seq != g.began || g.waiting == 0 {
		g.began, g.waiting, g.since = seq, 0, now
	}
	if g.waiting++; g.waiting <= patience || now.Sub(g.since) < patienceTime {
		return Ahead
	}
	if end := seq.Add(n); !g.blind || end.After(g.unread) {
		g.blind, g.unread = true, end
	}
	return Blind
}

// missing returns the gap.
func (s *Stream) missing() *gap {
	if s.gap == nil {
		s.gap = new(gap)
	}
	return s.gap
}

// Next returns the sequence number of the first byte not seen yet.
func (s *Stream) Next() packet.Seq { return s.next }

// Joined reports whether anything of the stream was seen.
func (s *Stream) Joined() bool { return s.joined }

// Placed reports whether it is certain where the stream goes on.
func (s *Stream) Placed() bool { return s.placed }

// Acknowledged returns the sequence number before which the receiver has all bytes, as
// far as that was seen.
func (s *Stream) Acknowledged() packet.Seq { return s.acked }

// Advance moves on over n new bytes.
func (s *Stream) Advance(n int) { s.next = s.next.Add(n) }

// Acked records that the receiver has all bytes before ack. If these include a gap and what
// passed unread behind it, the stream goes on from there.
func (s *Stream) Acked(ack packet.Seq) {
	switch {
	case !s.joined:
	case !ack.After(s.next):
		if ack.After(s.acked) {
			s.acked, s.placed = ack, true
		}
	case s.gap != nil && s.gap.blind && !ack.After(s.gap.unread):
		s.next, s.acked = ack, ack
		s.gap.blind, s.gap.rejoin = s.gap.unread != ack, true
	}
}

// Record remembers that the byte at a sequence number was sent as b.
func (s *Stream) Record(at packet.Seq, b byte) {
	if n := len(s.edits); n == cap(s.edits) && n >= MinEdits || n >= MaxEdits {
		s.trim()
	}
	s.edits = append(s.edits, edit{at, b})
}

// trim forgets the edits that the receiver has. If it has none of them and there are as
// many as may be, trim forgets the oldest edit.
func (s *Stream) trim() {
	n := 0
	for n < len(s.edits) && s.edits[n].at.Before(s.acked) {
		n++
	}
	if n == 0 && len(s.edits) >= MaxEdits {
		n = 1
		s.forgot, s.lost = true, s.edits[0].at.Add(1)
	}
	s.edits = append(s.edits[:0], s.edits[n:]...)
}

// Replay calls set for each of the n bytes from seq on that was changed at first, with its
// offset from seq and its value.
func (s *Stream) Replay(seq packet.Seq, n int, set func(at int, b byte)) {
	for _, e := range s.edits {
		if at := e.at.Sub(seq); at >= 0 && at < n {
			set(at, e.b)
		}
	}
}
