package alg

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestCompare: a comparison in slices, with packets between them, ends the connections that
// conntrack does not have as they were, and no others.
func TestCompare(t *testing.T) {
	elsewhere := func(c calls.Connection) calls.Connection {
		c.Reply.Dst = netip.AddrPortFrom(gatewayAddr, 9)
		return c
	}
	closing := func(c calls.Connection) calls.Connection { c.Closing = true; return c }
	reset := func(c calls.Connection) calls.Connection { c.Closing, c.Reset = true, true; return c }
	same := func(c calls.Connection) calls.Connection { return c }
	tests := []struct {
		name    string
		live    []func(calls.Connection) calls.Connection // what conntrack has of its tuple
		missing bool
		ends    bool
	}{
		{"as it was", []func(calls.Connection) calls.Connection{same}, false, false},
		{"gone", nil, true, true},
		{"closing, and the editor has seen no FIN", []func(calls.Connection) calls.Connection{closing}, false, false},
		{"reset, and the editor has seen no RST", []func(calls.Connection) calls.Connection{reset}, false, false},
		{"translated in another way", []func(calls.Connection) calls.Connection{elsewhere}, false, true},
		{"in two zones", []func(calls.Connection) calls.Connection{same, elsewhere}, false, false},
		{"in two zones, the other first", []func(calls.Connection) calls.Connection{elsewhere, same}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			w := r.masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			asked := r.now.Add(time.Second)
			c := r.ed.Compare(asked)
			for _, as := range tt.live {
				c.Found([]calls.Connection{as(w.conn)})
			}
			if lost, more := c.Missing(10, nobody, asked); len(lost) == 1 != tt.missing || more {
				t.Errorf("missing: %v", lost)
			}
			changes, more := c.Sweep(10, asked)
			ended := slices.ContainsFunc(changes, func(c calls.Event) bool { return c.Kind == calls.Closed })
			if ended != tt.ends || more {
				t.Errorf("ended: %v, more %v", ended, more)
			}
			if records, _ := c.Records(10, nil); len(records) == 0 != tt.ends {
				t.Errorf("%d calls are left", len(records))
			}
		})
	}
}

// TestSlices: what a comparison does, it does to each connection once, a slice at a time.
func TestSlices(t *testing.T) {
	const many = 5
	r := newRig(t)
	for range many {
		r.masqueraded(insideHost(r.wires)).handshake().outgoing(7, 9)
	}
	later := r.now.Add(time.Hour)
	c := r.ed.Compare(later)
	var known []calls.Connection
	var records, kept []calls.Record
	ended := 0
	for _, tt := range []struct {
		name string
		step func() (more bool)
		did  func() int
	}{
		{"standing", func() (more bool) { known, records, more = c.Standing(2, known, records); return }, func() int { return min(len(known), len(records)) }},
		{"records", func() (more bool) { kept, more = c.Records(2, kept); return }, func() int { return len(kept) }},
		{"idle", func() bool {
			changes, more := c.EndIdle(2, later, func(calls.Record) bool { return true }, later)
			for _, change := range changes {
				if change.Kind == calls.Closed && change.Cause == calls.Idle {
					ended++
				}
			}
			return more
		}, func() int { return ended }},
	} {
		steps := 1
		for tt.step() && steps < many {
			steps++
		}
		if steps != 3 || tt.did() != many {
			t.Errorf("%s: %d slices of 2, with %d in all, want 3 with %d", tt.name, steps, tt.did(), many)
		}
	}
}

// TestMissingHasCalls: a connection that nobody needs to bring back is not missing.
func TestMissingHasCalls(t *testing.T) {
	r := newRig(t)
	r.masqueraded(insideAddr).handshake()
	w := r.masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	if lost := r.ed.Missing(nil, r.now.Add(1)); len(lost) != 1 || lost[0].Connection != w.conn || len(lost[0].Calls) != 1 {
		t.Errorf("missing: %+v", lost)
	}
	w.step('f')
	w.step('F')
	if lost := r.ed.Missing(nil, r.now.Add(1)); len(lost) != 0 {
		t.Errorf("missing after both FINs: %+v", lost)
	}
}

// TestCompareInSlices: whatever is opened, ended and forgotten between the slices, each
// connection that was there at the beginning is looked at.
func TestCompareInSlices(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		var kept []calls.Connection
		alive := map[calls.Tuple]bool{}
		open := func() *wire {
			w := r.masqueraded(insideHost(r.wires))
			alive[w.conn.Original] = true
			return w
		}
		var wires []*wire
		for range rapid.IntRange(0, 12).Draw(rt, "connections") {
			w := open()
			if wires = append(wires, w); rapid.Bool().Draw(rt, "kept") {
				kept = append(kept, w.conn)
			} else {
				delete(alive, w.conn.Original)
			}
		}
		r.now = r.now.Add(time.Second)
		c := r.ed.Compare(r.now)
		for some := range slices.Chunk(kept, 3) {
			c.Found(some)
		}
		for more := true; more; {
			switch rapid.IntRange(0, 3).Draw(rt, "meanwhile") {
			case 0:
				open()
			case 1: // a connection goes for good
				if len(wires) > 0 {
					w := rapid.SampledFrom(wires).Draw(rt, "which")
					if s, known := r.ed.senders[keyOf(w.conn.Original.Src, w.conn.Original.Dst)]; known {
						r.ed.end(s.dialogue, calls.Reset, r.now)
						r.ed.remove(s.dialogue)
						delete(alive, w.conn.Original)
					}
				}
			}
			_, more = c.Sweep(rapid.IntRange(1, 3).Draw(rt, "most"), r.now)
		}
		for i, d := range r.ed.all {
			if int(d.index) != i || d.over == alive[d.control.Connection().Original] {
				rt.Fatalf("connection %v at %d: over %v", d.control.Connection(), i, d.over)
			}
		}
	})
}

// TestOpenedMeanwhile: conntrack's list is no word about a connection that is as new.
func TestOpenedMeanwhile(t *testing.T) {
	for after, all := range map[time.Duration]int{0: 1, 1: 0} {
		w := newRig(t).masqueraded(insideAddr).handshake()
		w.outgoing(7, 9)
		w.ed.Sweep(nil, w.now.Add(after), w.now.Add(time.Second))
		if w.table.Calls() != all {
			t.Errorf("asked %v after it was opened: %d calls, want %d", after, w.table.Calls(), all)
		}
	}
}

// TestLook: it is about the connections that are asked for, among them those of which a FIN
// or RST was seen that was not believed.
func TestLook(t *testing.T) {
	r := newRig(t)
	var all []*wire
	for i := range 3 {
		w := r.masqueraded(netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + i)})).handshake()
		w.outgoing(7, pptp.CallID(9+i))
		all = append(all, w)
	}
	look := func(at ...calls.Connection) (records []calls.Record) {
		c := r.ed.Look(append(at, r.ed.Doubted(r.now)...), r.now.Add(time.Second))
		n := c.Len()
		known, records, more := c.Standing(10, nil, nil)
		if len(known) != n || more {
			t.Errorf("%d of %d connections, more: %v", len(known), n, more)
		}
		return records
	}
	wants := func(name string, got []calls.Record, want ...*wire) {
		t.Helper()
		ok := len(got) == len(want)
		for i := range got {
			ok = ok && slices.ContainsFunc(want, func(w *wire) bool { return got[i].Connection.Same(w.conn) })
		}
		if !ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
	strange := all[0].conn
	strange.Original.Src = netip.AddrPortFrom(insideAddr, 9)
	wants("nothing", look())
	wants("a stranger's", look(strange))
	wants("one, named twice", look(all[1].conn, all[1].conn), all[1])
	r.now = r.now.Add(time.Second)
	all[2].segment(client, packet.RST, all[2].seq[client]+1000, nil)
	wants("a RST that is not believed", look(), all[2])
	wants("a RST that is not believed, at the same time", look(), all[2])
	r.now = r.now.Add(time.Second)
	wants("a RST that is not believed, later", look(), all[2])
	wants("a RST that is not believed, once more", look())
	all[0].segment(client, packet.RST, all[0].seq[client], nil)
	r.now = r.now.Add(time.Second)
	wants("a RST that ends a connection", look(all[0].conn))
	all[1].segment(client, packet.RST, all[1].seq[client]+1000, nil)
	all[1].segment(client, packet.RST, all[1].seq[client], nil)
	if doubted := r.ed.Doubted(r.now); len(doubted) != 0 {
		t.Errorf("one that is not believed, then one that ends the connection: conntrack is asked about %v", doubted)
	}
}

// TestLookAtTheGone: an entry that was closed when it went tells of an end, and another
// one does not.
func TestLookAtTheGone(t *testing.T) {
	for _, closed := range []bool{true, false} {
		w := newRig(t).masqueraded(insideAddr).handshake()
		w.outgoing(7, 9)
		gone := w.conn
		gone.Closing = closed
		w.now = w.now.Add(time.Second)
		c := w.ed.Look([]calls.Connection{gone}, w.now)
		if lost, _ := c.Missing(10, nobody, w.now); len(lost) == 0 != closed {
			t.Errorf("closed: %v, lost: %+v", closed, lost)
		}
		if closed {
			changes, _ := c.Sweep(10, w.now)
			w.wantEnd(changes, calls.Expired)
		}
	}
}
