package alg

import (
	"net/netip"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

const fin = packet.FIN | packet.ACK

// TestFIN: the call ends with a FIN of each end where its stream ends, and no other.
func TestFIN(t *testing.T) {
	echo := message(pptp.EchoRequest, 0, 0, 0)
	tests := []struct {
		name string
		step func(w *wire)
		over bool
	}{
		{"of both", func(w *wire) { w.segment(client, fin, w.seq[0], nil); w.segment(server, fin, w.seq[1], nil) }, true},
		{"of one, twice", func(w *wire) { w.segment(client, fin, w.seq[0], nil); w.segment(client, fin, w.seq[0], nil) }, false},
		{"of one, twice, the second behind the first", func(w *wire) {
			w.segment(client, fin, w.seq[0], nil)
			w.segment(client, fin, w.seq[0].Add(1), nil)
		}, false},
		{"with the last data", func(w *wire) {
			w.segment(client, fin, w.seq[0], echo)
			w.segment(server, fin, w.seq[1], nil)
		}, true},
		{"with the last data, sent again", func(w *wire) {
			w.segment(client, packet.ACK, w.seq[0], echo)
			w.segment(client, fin, w.seq[0], echo)
			w.segment(server, fin, w.seq[1], nil)
		}, true},
		{"amid old data", func(w *wire) {
			w.segment(client, fin, w.seq[0].Add(-16), echo[:8])
			w.segment(server, fin, w.seq[1].Add(-16), echo[:8])
		}, false},
		{"before the end", func(w *wire) {
			w.segment(client, fin, w.seq[0].Add(-1), nil)
			w.segment(server, fin, w.seq[1].Add(-1), nil)
		}, false},
		{"behind the end", func(w *wire) {
			w.segment(client, fin, w.seq[0].Add(1), nil)
			w.segment(server, fin, w.seq[1].Add(1), nil)
		}, false},
		{"one of the two amid old data", func(w *wire) {
			w.segment(client, fin, w.seq[0], nil)
			w.segment(server, fin, w.seq[1].Add(-16), echo[:8])
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newRig(t).masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			if tt.step(w); (w.table.Calls() == 0) != tt.over {
				t.Errorf("%d calls are left", w.table.Calls())
			}
		})
	}
}

// restored is a connection with a call as a restart finds it.
func restored(t *testing.T) *wire {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	return w.restart()
}

// TestFINAfterARestart: where its stream ends is not known, and anybody could have sent it.
// It counts when its receiver acknowledges it.
func TestFINAfterARestart(t *testing.T) {
	echo := message(pptp.EchoRequest, 0, 0, 0)
	type step struct {
		from  calls.Side
		flags packet.Flags
		seq   int // from where its stream goes on, and whence on it is acknowledged
		ack   int
		data  []byte
	}
	tests := []struct {
		name  string
		steps []step
		over  bool
	}{
		{"of both, twice", []step{{client, fin, 0, 0, nil}, {server, fin, 0, 0, nil}, {client, fin, 0, 0, nil}, {server, fin, 0, 0, nil}}, false},
		{"acknowledged", []step{{client, fin, 0, 0, nil}, {server, packet.ACK, 0, 1, nil}, {server, fin, 0, 1, nil}, {client, packet.ACK, 1, 1, nil}}, true},
		{"acknowledged by the other's", []step{{client, fin, 0, 0, nil}, {server, fin, 0, 1, nil}, {client, packet.ACK, 1, 1, nil}}, true},
		{"with data", []step{{client, fin, 0, 0, echo}, {server, fin, 0, 17, nil}, {client, packet.ACK, 17, 1, nil}}, true},
		{"sent again", []step{{client, fin, 0, 0, nil}, {client, fin, 0, 0, nil}, {server, fin, 0, 1, nil}, {client, packet.ACK, 1, 1, nil}}, true},
		{"behind data", []step{{client, packet.ACK, 0, 0, echo}, {client, fin, 16, 0, nil}, {server, fin, 0, 17, nil}, {client, packet.ACK, 17, 1, nil}}, true},
		{"the data before it acknowledged", []step{{client, packet.ACK, 0, 0, echo}, {client, fin, 16, 0, nil}, {server, fin, 0, 16, nil}, {client, packet.ACK, 17, 1, nil}}, false},
		{"and data behind it", []step{{client, fin, 0, 0, nil}, {client, packet.ACK, 1, 0, echo}, {server, fin, 0, 17, nil}, {client, packet.ACK, 17, 1, nil}}, false},
		{"and data elsewhere", []step{{client, fin, 900, 0, nil}, {client, packet.ACK, 0, 0, echo}, {server, fin, 0, 16, nil}, {client, packet.ACK, 16, 1, nil}}, false},
		{"first elsewhere", []step{{client, fin, 900, 0, nil}, {client, fin, 0, 0, nil}, {server, fin, 0, 1, nil}, {client, packet.ACK, 1, 1, nil}}, true},
		{"acknowledged too far", []step{{client, fin, 0, 0, nil}, {server, fin, 0, 2, nil}, {client, packet.ACK, 1, 2, nil}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := restored(t)
			begin := w.seq
			for _, s := range tt.steps {
				w.seq[s.from.Other()] = begin[s.from.Other()].Add(s.ack)
				w.segment(s.from, s.flags, begin[s.from].Add(s.seq), s.data)
			}
			if (w.table.Calls() == 0) != tt.over {
				t.Errorf("%d calls are left", w.table.Calls())
			}
		})
	}
}

// TestClosedInConntrack: what the editor has seen outranks conntrack, which believes any FIN
// in its window; but not its word of a RST where the streams are not known, nor of what ended
// before a restart, unless it said so to the editor before as well.
func TestClosedInConntrack(t *testing.T) {
	closed := func(w *wire) calls.Connection {
		c := w.conn
		c.Closing = true
		return c
	}
	half := func(t *testing.T) *wire {
		w := newRig(t).masqueraded(insideAddr).handshake()
		w.outgoing(7, 9)
		w.segment(client, fin, w.seq[0], nil)
		return w
	}
	unread := func(t *testing.T) *wire {
		w := half(t)
		for range 5 {
			w.segment(server, packet.ACK, w.seq[1].Add(100), []byte{0})
			w.now = w.now.Add(time.Second)
		}
		return w
	}
	heard := func(t *testing.T) *wire {
		w := restored(t)
		w.segment(server, packet.ACK, w.seq[1], nil)
		return w
	}
	tests := []struct {
		name  string
		wire  func(t *testing.T) *wire
		reset bool
		stays bool
	}{
		{"a FIN of one end", half, false, true},
		{"a FIN of one end, and a RST", half, true, true},
		{"after a restart", restored, false, false},
		{"after a restart, when something of it was seen", heard, false, true},
		{"after a restart, when something of it was seen, and a RST", heard, true, false},
		{"after a restart, and before as well", func(t *testing.T) *wire {
			w := newRig(t).masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			w.ed.Sweep([]calls.Connection{closed(w)}, w.now.Add(1), w.now.Add(1))
			return w.restart()
		}, false, true},
		{"after a restart, and before, and in between not", func(t *testing.T) *wire {
			w := newRig(t).masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			w.ed.Sweep([]calls.Connection{closed(w)}, w.now.Add(1), w.now.Add(1))
			w.ed.Sweep([]calls.Connection{w.conn}, w.now.Add(1), w.now.Add(1))
			return w.restart()
		}, false, false},
		{"after a restart, FINs of both", func(t *testing.T) *wire {
			w := restored(t)
			w.segment(client, fin, w.seq[0], nil)
			w.segment(server, fin, w.seq[1], nil)
			return w
		}, false, true},
		{"after a restart, FINs of both, and one is acknowledged", func(t *testing.T) *wire {
			w := restored(t)
			w.segment(client, fin, w.seq[0], nil)
			w.seq[0] = w.seq[0].Add(1)
			w.segment(server, fin, w.seq[1], nil)
			return w
		}, false, false},
		{"with a gap, which anybody can pretend", func(t *testing.T) *wire {
			w := half(t)
			w.segment(server, fin, w.seq[1].Add(100), nil)
			w.segment(server, packet.ACK, w.seq[1].Add(100), []byte{0})
			return w
		}, false, true},
		{"with bytes that were let go unread", unread, false, true},
		{"with bytes that were let go unread, which anybody can send, and a RST", unread, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.wire(t)
			closed := closed(w)
			closed.Reset = tt.reset
			w.now = w.now.Add(time.Second)
			w.ed.Sweep([]calls.Connection{closed}, w.now, w.now)
			if (w.table.Calls() == 1) != tt.stays {
				t.Fatalf("%d calls are left", w.table.Calls())
			}
			if !tt.stays {
				return
			}
			if id, _ := ids(w.say(server, message(pptp.CallDisconnectNotify, 9, 0, 1))); id != 9 {
				t.Errorf("the notify says %v", id)
			}
		})
	}
}

// TestClosedThenGone: an entry that conntrack had as closed, and that is gone, is an end,
// unless no FIN fits and the call's GRE flows.
func TestClosedThenGone(t *testing.T) {
	for _, tt := range []struct {
		name  string
		moved time.Duration // GRE, after it was first seen closed; 0 where nobody counts
		began bool          // nothing has flowed since counting began, which was then
		fin   bool
		lost  bool
	}{
		{"nobody counts GRE", 0, false, false, false},
		{"GRE flows", stopping + 1, false, false, true},
		{"GRE flows, and one end has sent its FIN", stopping + 1, false, true, false},
		{"GRE flowed", stopping, false, false, false},
		{"GRE is counted anew, and does not flow", stopping + 1, true, false, false},
	} {
		w := newRig(t).masqueraded(insideAddr).handshake()
		w.outgoing(7, 9)
		if tt.fin {
			w.segment(client, fin, w.seq[0], nil)
		}
		closed := w.conn
		closed.Closing = true
		w.now = w.now.Add(time.Minute)
		seen := w.now
		for range 2 { // the first time counts
			w.ed.Sweep([]calls.Connection{closed}, w.now, w.now)
			w.now = w.now.Add(time.Second)
		}
		witness := nobody
		if tt.moved > 0 {
			witness.Moved = func(calls.Record) time.Time { return seen.Add(tt.moved) }
			if !tt.began {
				witness.Flowed = witness.Moved
			}
		}
		c := w.ed.Compare(w.now)
		if lost, _ := c.Missing(10, witness, w.now); len(lost) == 1 != tt.lost {
			t.Errorf("%s: lost %+v", tt.name, lost)
		}
		if !tt.lost {
			changes, _ := c.Sweep(10, w.now)
			w.wantEnd(changes, calls.Expired)
		}
	}
}

func (w *wire) wantEnd(changes []calls.Event, cause calls.Cause) {
	w.t.Helper()
	for _, c := range changes {
		if c.Kind == calls.Closed {
			if c.Cause != cause {
				w.t.Errorf("ended as %v, want %v", c.Cause, cause)
			}
			return
		}
	}
	w.t.Errorf("nothing ended, want %v", cause)
}

// TestMissing: what the caller says of a lost connection, and what becomes of it.
func TestMissing(t *testing.T) {
	tests := []struct {
		name string
		say  func(c *Audit, l *Lost)
		ends bool
	}{
		{"nothing", func(*Audit, *Lost) {}, true},
		{"it has its entry again", (*Audit).Revived, false},
		{"it is kept", (*Audit).Keep, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newRig(t).masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			w.now = w.now.Add(time.Second)
			c := w.ed.Compare(w.now)
			lost, _ := c.Missing(10, nobody, w.now)
			if len(lost) != 1 || lost[0].Unseen || lost[0].Again {
				t.Fatalf("lost: %+v", lost)
			}
			tt.say(c, &lost[0])
			changes, _ := c.Sweep(10, w.now)
			if tt.ends {
				w.wantEnd(changes, calls.Lost)
			} else if len(changes) != 0 {
				t.Errorf("changes: %v", changes)
			}
		})
	}
}

// TestMissingAfterARestart tells what may have ended while nobody watched, until a segment
// or an entry shows that it had not.
func TestMissingAfterARestart(t *testing.T) {
	tests := []struct {
		name   string
		step   func(w *wire)
		unseen bool
	}{
		{"nothing of it was seen", func(*wire) {}, true},
		{"a segment", func(w *wire) { w.segment(client, packet.ACK, w.seq[0], message(pptp.EchoRequest, 0, 0, 0)) }, false},
		{"an entry", func(w *wire) { w.ed.Sweep([]calls.Connection{w.conn}, w.now, w.now) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := restored(t)
			w.now = w.now.Add(time.Second)
			tt.step(w)
			for i := range 2 {
				w.now = w.now.Add(time.Second)
				lost := w.ed.Missing(nil, w.now)
				if len(lost) != 1 || lost[0].Unseen != tt.unseen || lost[0].Again != (i == 1) {
					t.Errorf("comparison %d: %+v", i, lost)
				}
			}
		})
	}
}

// TestSilentIsNotRevived: an end that has been silent for a day is gone, and so is one
// that has not answered a FIN for as long as conntrack waits, or has not spoken for so long
// since a RST.
func TestSilentIsNotRevived(t *testing.T) {
	tests := []struct {
		name  string
		after time.Duration
		end   packet.Flags  // of a segment of the client's: FIN, or a RST behind lost bytes
		moved time.Duration // GRE, before the comparison; 0 where nobody counts
		again bool          // the entry was made again before
		lost  bool
	}{
		{"for hours", 23 * time.Hour, 0, 0, false, true},
		{"for a day", 24 * time.Hour, 0, 0, false, false},
		{"for a week, but GRE flows", 7 * 24 * time.Hour, 0, time.Minute, false, true},
		{"for a week, and GRE for a day", 7 * 24 * time.Hour, 0, 24 * time.Hour, false, false},
		{"for minutes, and GRE as well", 10 * time.Minute, 0, 10 * time.Minute, false, true},
		{"for minutes, and GRE as well, again", 10 * time.Minute, 0, 10 * time.Minute, true, false},
		{"for minutes, again, and GRE flows", 10 * time.Minute, 0, 9 * time.Minute, true, true},
		{"for minutes, again, and nobody counts", 10 * time.Minute, 0, 0, true, true},
		{"for a minute after a FIN", time.Minute, fin, 0, false, true},
		{"for two minutes after a FIN", 2 * time.Minute, fin, 0, false, false},
		{"for a minute after a RST", time.Minute, packet.RST, time.Minute, false, true},
		{"for two minutes after a RST", 2 * time.Minute, packet.RST, 2 * time.Minute, false, false},
		{"for two minutes after a RST, and GRE flows", 2 * time.Minute, packet.RST, time.Minute, false, true},
		{"for two minutes after a RST, and nobody counts", 2 * time.Minute, packet.RST, 0, false, true},
		{"for two minutes after a RST that was none", 2 * time.Minute, packet.RST | packet.PSH, 2 * time.Minute, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newRig(t).masqueraded(insideAddr).handshake()
			w.outgoing(7, 9)
			w.ed.find0(w).revived = tt.again
			switch {
			case tt.end&packet.RST != 0:
				w.segment(client, packet.RST, w.seq[0].Add(100), nil)
			case tt.end != 0:
				w.segment(client, tt.end, w.seq[0], nil)
			}
			if tt.end&packet.PSH != 0 { // it goes on
				w.say(client, message(pptp.EchoRequest, 0, 0, 0))
			}
			w.now = w.now.Add(tt.after)
			witness := nobody
			if tt.moved != 0 {
				witness.Moved = func(calls.Record) time.Time { return w.now.Add(-tt.moved) }
			}
			c := w.ed.Compare(w.now)
			lost, _ := c.Missing(10, witness, w.now)
			if (len(lost) == 1) != tt.lost || tt.lost && lost[0].Shot != (tt.end == packet.RST) {
				t.Errorf("lost: %+v", lost)
			}
			changes, _ := c.Sweep(10, w.now)
			w.wantEnd(changes, map[bool]calls.Cause{true: calls.Lost, false: calls.Expired}[tt.lost])
		})
	}
}

// TestRevivedLosesItsAddress: the kernel does not take the entry along, so that the caller
// has to tell.
func TestRevivedLosesItsAddress(t *testing.T) {
	for _, revived := range []bool{true, false} {
		w := newRig(t).masqueraded(insideAddr).handshake()
		w.outgoing(7, 9)
		if revived {
			w.now = w.now.Add(time.Second)
			c := w.ed.Compare(w.now)
			lost, _ := c.Missing(10, nobody, w.now)
			c.Revived(&lost[0])
			c.Sweep(10, w.now)
		}
		w.now = w.now.Add(time.Second)
		c := w.ed.Compare(w.now)
		c.Found([]calls.Connection{w.conn})
		c.Missing(10, Witness{Flowed: nobody.Flowed, Moved: nobody.Moved, Homeless: func(calls.Connection) bool { return true }}, w.now)
		changes, _ := c.Sweep(10, w.now)
		if ended := len(changes) > 0; ended != revived {
			t.Errorf("revived: %v; changes %v", revived, changes)
		}
	}
}

// lost is a connection whose call was lost a second ago.
func (r *rig) lost(w *wire) *wire {
	w.handshake()
	w.outgoing(7, 9)
	r.now = r.now.Add(time.Second)
	w.wantEnd(r.ed.Sweep(nil, r.now, r.now), calls.Lost)
	return w
}

// asked passes a segment with a byte of data, or none with a SYN, through an editor whose
// caller has conntrack answer with c.
func (w *wire) asked(from calls.Side, flags packet.Flags, seq packet.Seq, c calls.Connection) {
	w.t.Helper()
	data := []byte{0}
	if flags.Has(packet.SYN) {
		data = nil
	}
	tu := map[calls.Side]calls.Tuple{client: w.conn.Original, server: w.conn.Reply}[from]
	seg, err := packet.Parse(tcp(w.t, tu, flags, seq, w.seq[from.Other()], data))
	if err != nil {
		w.t.Fatal(err)
	}
	if w.ed.Asks(seg) {
		w.ed.Open(c, w.now)
	}
	w.last = w.ed.Edit(seg, false, w.now)
}

func TestResetLost(t *testing.T) {
	echo := message(pptp.EchoRequest, 0, 0, 0)
	tests := []struct {
		name  string
		step  func(w *wire)
		reset bool
	}{
		{"data", func(w *wire) { w.segment(client, packet.ACK, w.seq[0], echo) }, true},
		{"data sent again", func(w *wire) { w.segment(client, packet.ACK, w.seq[0].Add(-16), echo) }, true},
		{"data after some that nobody saw", func(w *wire) { w.segment(client, packet.ACK, w.seq[0].Add(160), echo) }, true},
		{"FIN", func(w *wire) { w.segment(client, fin, w.seq[0], nil) }, true},
		{"after an hour's silence", func(w *wire) {
			w.now = w.now.Add(lostLinger - time.Second)
			w.ed.Sweep(nil, w.now, w.now)
			w.segment(client, packet.ACK, w.seq[0], echo)
		}, true},
		{"though conntrack has made an entry", func(w *wire) { w.asked(client, packet.ACK, w.seq[0], w.conn) }, true},
		{"though conntrack has made an entry, translated otherwise", func(w *wire) {
			other := w.conn
			other.Reply.Dst = netip.AddrPortFrom(gatewayAddr, 9)
			w.asked(client, packet.ACK, w.seq[0], other)
		}, true},
		{"though conntrack has made an entry, and the other end speaks", func(w *wire) {
			w.asked(server, packet.ACK, w.seq[1], w.conn)
			w.asked(client, packet.ACK, w.seq[0], w.conn)
		}, true},
		{"RST", func(w *wire) { w.segment(client, packet.RST, w.seq[0], nil) }, false},
		{"from outside", func(w *wire) { w.segment(server, packet.ACK, w.seq[1], echo) }, false},
		{"far from its stream", func(w *wire) { w.asked(client, packet.ACK, w.seq[0].Add(1<<20), w.conn) }, false},
		{"of a connection that followed it", func(w *wire) {
			next := w.conn
			next.Opening = true
			w.asked(server, packet.SYN|packet.ACK, w.seq[1], next)
			w.asked(client, packet.ACK, w.seq[0], w.conn)
		}, false},
		{"of a connection that followed it, and conntrack had not answered", func(w *wire) {
			raw := tcp(w.t, w.conn.Reply, packet.SYN|packet.ACK, w.seq[1], w.seq[0], nil)
			seg, _ := packet.Parse(raw)
			w.ed.Asks(seg)
			w.asked(client, packet.ACK, w.seq[0], w.conn)
		}, false},
		{"too often", func(w *wire) {
			for range mostResets + 1 {
				w.asked(client, packet.ACK, w.seq[0], w.conn)
			}
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.ed.ResetLost(true)
			w := r.lost(r.masqueraded(insideAddr))
			if tt.step(w); w.last.Reset != tt.reset || w.last.Verdict != Accept {
				t.Errorf("reset %v; %v, %v", w.last.Reset, w.last.Verdict, w.last.Reason)
			}
		})
	}
}

// TestResetLostSides: the end inside is told, whichever opened TCP.
func TestResetLostSides(t *testing.T) {
	r := newRig(t)
	r.ed.ResetLost(true)
	w := r.lost(r.forwarded(serverAddr, insideAddr))
	for from, want := range map[calls.Side]bool{client: false, server: true} {
		if w.segment(from, packet.ACK, w.seq[from], []byte{0}); w.last.Reset != want {
			t.Errorf("%v: reset %v", from, w.last.Reset)
		}
	}
}

// TestOtherEndsAreNotReset: calls that ended in any other way.
func TestOtherEndsAreNotReset(t *testing.T) {
	for name, end := range map[string]func(w *wire){
		"RST": func(w *wire) { w.segment(server, packet.RST, w.seq[1], nil) },
		"closed in conntrack": func(w *wire) {
			closed := w.conn
			closed.Closing, closed.Reset = true, true
			w.ed.Sweep([]calls.Connection{closed}, w.now.Add(1), w.now.Add(1))
		},
		"lost without a call": func(w *wire) {
			w.say(client, message(pptp.CallClearRequest, 7, 0, 0))
			w.say(server, message(pptp.CallDisconnectNotify, 9, 0, 1))
			w.ed.Sweep(nil, w.now.Add(1), w.now.Add(1))
		},
	} {
		r := newRig(t)
		r.ed.ResetLost(true)
		w := r.masqueraded(insideAddr).handshake()
		w.outgoing(7, 9)
		end(w)
		if w.segment(client, packet.ACK, w.seq[0], []byte{0}); w.last.Reset {
			t.Errorf("%s: it is reset", name)
		}
	}
}

// TestLostIsReadAgain where nobody wants it reset.
func TestLostIsReadAgain(t *testing.T) {
	r := newRig(t)
	w := r.lost(r.masqueraded(insideAddr))
	raw := tcp(t, w.conn.Original, packet.ACK, w.seq[0], w.seq[1], []byte{0})
	seg, _ := packet.Parse(raw)
	if !r.ed.Asks(seg) || !r.ed.Open(w.conn, r.now) {
		t.Fatal("it is not asked for")
	}
	if w.outgoing(7, 9); r.table.Calls() != 1 {
		t.Error("no call on it is read")
	}
}

// TestLostMakesRoom: records that wait for a segment to be reset give way to connections.
func TestLostIsForgotten(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.ed.ResetLost(true)
	w.outgoing(7, 9)
	w.ed.Sweep(nil, w.now.Add(1), w.now)
	for _, tt := range []struct {
		after time.Duration
		known int
	}{{lostLinger - 1, 1}, {lostLinger, 0}} {
		now := w.now.Add(tt.after)
		if w.ed.Sweep(nil, now, now); len(w.ed.all) != tt.known {
			t.Errorf("after %v %d connections are on record, want %d", tt.after, len(w.ed.all), tt.known)
		}
	}
}

func TestLostMakesRoom(t *testing.T) {
	r := newRig(t)
	r.ed.most = 1
	r.ed.ResetLost(true)
	r.lost(r.masqueraded(insideAddr))
	if !r.ed.Open(newRig(t).masqueraded(insideHost(2)).conn, r.now) || len(r.ed.all) != 1 {
		t.Errorf("%d are on record", len(r.ed.all))
	}
}
