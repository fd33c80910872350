package alg

import (
	"bytes"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/alg/stream"
)

// line is a connection with what is under way on it.
type line struct {
	*wire
	world *world
	first [2]packet.Seq // by sender: of its first byte after the Start exchange
	ways  [2]*way       // by sender
}

// way is one direction. Its offsets count from the first byte after the Start
// exchange.
type way struct {
	said    []byte       // all that the sender wants to be sent
	sent    int          // what is before this was sent, or skipped
	watched int          // the editor has let go all before this
	letGo   map[int]byte // what the editor first let go for each byte
	edited  int          // how many of these differ from what was said
	waits   map[int]int  // how often a segment behind a gap came that begins there
	flight  []piece      // behind the editor, and not yet arrived
	early   map[int]byte // arrived out of order
	got     []byte       // arrived in order
	read    int          // messages of got before this are read
}

type piece struct {
	at int
	b  []byte
}

func newLine(w *world, wire *wire) *line {
	l := &line{wire: wire, world: w, first: wire.seq}
	for s := range l.ways {
		l.ways[s] = &way{letGo: map[int]byte{}, waits: map[int]int{}, early: map[int]byte{}}
	}
	return l
}

func (l *line) at(from calls.Side, offset int) packet.Seq { return l.first[from].Add(offset) }

// sendNew sends bytes that were never sent before.
func (l *line) sendNew(from calls.Side) {
	w := l.ways[from]
	n := l.size(len(w.said) - w.sent)
	l.send(from, w.sent, n)
	w.sent += n
}

// skip has the network lose bytes before they reach the gateway.
func (l *line) skip(from calls.Side) {
	w := l.ways[from]
	w.sent += l.size(len(w.said) - w.sent)
}

// sendAgain repeats bytes that have not arrived, or have just done so, cut where
// the sender likes, and perhaps new ones behind them.
func (l *line) sendAgain(from calls.Side) {
	w := l.ways[from]
	oldest := max(0, len(w.got)-30)
	if w.sent <= oldest {
		return
	}
	at := rapid.IntRange(oldest, w.sent-1).Draw(l.world.rt, "from")
	n := l.size(len(w.said) - at)
	l.send(from, at, n)
	w.sent = max(w.sent, at+n)
}

// size draws how many bytes of those at hand a segment has.
func (l *line) size(most int) int {
	if most <= 0 {
		return 0
	}
	n := rapid.SampledFrom([]int{1, 2, 5, 14, 50, 500}).Draw(l.world.rt, "size")
	return min(n, most)
}

// maxWaits is how often a sender repeats a segment behind a gap at most.
const maxWaits = 2

// send passes a segment through the editor.
func (l *line) send(from calls.Side, at, n int) {
	w := l.ways[from]
	if n == 0 {
		return
	}
	if at > w.watched {
		if w.waits[at]++; w.waits[at] > maxWaits {
			return
		}
	}
	l.seq[from.Other()] = l.at(from.Other(), len(l.ways[from.Other()].got)) // what it acknowledges
	b := l.segment(from, packet.ACK, l.at(from, at), bytes.Clone(w.said[at:at+n]))
	l.world.kernel.apply(l.last.Events)
	if l.last.Leave {
		l.world.rt.Fatalf("%v, which is edited, is left", l.conn.Original)
	}
	if gap := at > w.watched; gap != (l.last.Verdict == Drop) {
		l.world.rt.Fatalf("%v: %v segment at %d, which has seen %d: %v, %v", l.conn.Original, from, at, w.watched, l.last.Verdict, l.last.Reason)
	}
	if l.last.Verdict != Drop {
		l.letGo(from, piece{at, bytes.Clone(b)})
	}
}

// letGo puts a piece on its way. Bytes that were let go before must be the same,
// those excepted that the receiver has if too many were edited since.
func (l *line) letGo(from calls.Side, p piece) {
	w := l.ways[from]
	for i, b := range p.b {
		before, again := w.letGo[p.at+i]
		switch {
		case !again:
			w.letGo[p.at+i] = b
			if b != w.said[p.at+i] {
				w.edited++
			}
		case before != b && (w.edited < stream.MinEdits || p.at+i >= len(w.got)):
			l.world.rt.Fatalf("%v: %v's byte %d was %#x, and sent again is %#x", l.conn.Original, from, p.at+i, before, b)
		}
	}
	w.watched = max(w.watched, p.at+len(p.b))
	w.flight = append(w.flight, p)
}

// arrive has one of the pieces under way arrive, or get lost, or come twice.
func (l *line) arrive(from calls.Side) {
	w := l.ways[from]
	if len(w.flight) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.flight)-1).Draw(l.world.rt, "piece")
	p := w.flight[i]
	fate := rapid.SampledFrom([]string{"arrives", "arrives", "arrives and stays", "is lost"}).Draw(l.world.rt, "fate")
	if fate != "arrives and stays" {
		w.flight = append(w.flight[:i], w.flight[i+1:]...)
	}
	if fate != "is lost" {
		l.receive(from, p)
	}
}

// receive puts a piece where it belongs, and has the receiver read what is whole. As
// in TCP, the bytes that came first count.
func (l *line) receive(from calls.Side, p piece) {
	w := l.ways[from]
	for i, b := range p.b {
		if _, have := w.early[p.at+i]; !have && p.at+i >= len(w.got) {
			w.early[p.at+i] = b
		}
	}
	for b, next := w.early[len(w.got)]; next; b, next = w.early[len(w.got)] {
		delete(w.early, len(w.got))
		w.got = append(w.got, b)
	}
	l.hear(from)
}

// settle has all arrive that was said.
func (l *line) settle(from calls.Side) {
	w := l.ways[from]
	for len(w.got) < len(w.said) {
		l.send(from, len(w.got), len(w.said)-len(w.got))
		for _, p := range w.flight {
			l.receive(from, p)
		}
		w.flight = nil
	}
	w.sent = len(w.said)
}

// hear has the receiver read the messages that are whole.
func (l *line) hear(from calls.Side) {
	w := l.ways[from]
	for {
		m := pptp.Message(w.got[w.read:])
		if len(m) < pptp.HeaderLen || len(m) < m.Length() {
			return
		}
		n := m.Length()
		l.take(from.Other(), m[:n], w.said[w.read:w.read+n])
		w.read += n
	}
}
