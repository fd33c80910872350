package alg

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// untouched connects two hosts that NAT does not translate.
func (r *rig) untouched() *wire {
	t := tuple(insideAddr, 40000, serverAddr, 1723)
	return r.connect(calls.Connection{Original: t, Reply: t.Reversed()})
}

func (r *rig) helped() *wire {
	t := tuple(insideAddr, 40000, serverAddr, 1723)
	return r.connect(calls.Connection{
		Original: t, Reply: tuple(serverAddr, 1723, gatewayAddr, 40000), Helper: "pptp",
	})
}

// put passes a segment that an end sends, local or not, and reports whether the
// connection is left with it.
func (w *wire) put(from calls.Side, flags packet.Flags, payload []byte, local bool) bool {
	w.t.Helper()
	tu := w.conn.Original
	if from == server {
		tu = w.conn.Reply
	}
	raw := tcp(w.t, tu, flags, w.seq[from], w.seq[from.Other()], payload)
	seg, err := packet.Parse(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.ed.Asks(seg) {
		c := w.conn
		c.Opening = flags.Has(packet.SYN)
		w.ed.Open(c, w.now)
	}
	w.last = w.ed.Edit(seg, local, w.now)
	w.seq[from] = w.seq[from].Add(len(payload))
	return w.last.Leave
}

// The steps of a dialogue in which a connection may be left. Letters are of the client;
// capitals are of the server.
//
//	S SYN/ACK   d D data   o O data that the gateway itself sends
//	x data that is not PPTP   f F FIN   R RST   r the record is as a restart finds it
//	. half a second passes    A another connection opens on the tuple: its SYN/ACK
func (w *wire) step(what rune) bool {
	start := [2][]byte{
		message(pptp.StartControlConnectionRequest, 0, 0, 0), message(pptp.StartControlConnectionReply, 0, 0, 1),
	}
	switch what {
	case 'A':
		w.seq = [2]packet.Seq{w.seq[0].Add(1 << 20), w.seq[1].Add(1 << 20)}
		fallthrough
	case 'S':
		w.seq[client] = w.seq[client].Add(1)
		leave := w.put(server, packet.SYN|packet.ACK, nil, false)
		w.seq[server] = w.seq[server].Add(1)
		return leave
	case 'd', 'o':
		return w.put(client, packet.ACK, start[client], what == 'o')
	case 'D', 'O':
		return w.put(server, packet.ACK, start[server], what == 'O')
	case 'x':
		return w.put(client, packet.ACK, []byte("GET / HTTP/1.1\r\n"), false)
	case 'f':
		return w.put(client, packet.FIN|packet.ACK, nil, false)
	case 'F':
		return w.put(server, packet.FIN|packet.ACK, nil, false)
	case 'R':
		return w.put(server, packet.RST, nil, false)
	case 'r':
		records := w.ed.Records()
		w.table = calls.New(calls.DefaultConfig())
		w.ed = NewEditor(w.table, DefaultConnections)
		w.ed.Restore(records, w.now)
	case '.':
		w.now = w.now.Add(patience / 2)
	}
	return false
}

func TestLeave(t *testing.T) {
	tests := []struct {
		name    string
		connect func(*rig) *wire
		steps   string
		leaves  string // ! below the step with which the connection is left
	}{
		{"untranslated: both have spoken", (*rig).untouched, "SdDdD", "  ! "},
		{"untranslated: the server first", (*rig).untouched, "SDd", "  !"},
		{"untranslated: one end alone", (*rig).untouched, "Sddddd..d", ""},
		{"untranslated: seen from the middle", (*rig).untouched, "dD", " !"},
		{"untranslated: ends are no data", (*rig).untouched, "dfF", ""},
		{"untranslated: it has ended", (*rig).untouched, "dR", ""},
		{"untranslated: queued before the kernel knew", (*rig).untouched, "dDdD.dD", " !"},
		{"untranslated: the kernel has forgotten", (*rig).untouched, "dD..d.D.D", " !  !   !"},
		{"untranslated: its end is not left", (*rig).untouched, "dD..fF", " !"},
		{"untranslated: a restart", (*rig).untouched, "dDrdD", " !  !"},
		{"untranslated: the tuple again", (*rig).untouched, "SdDAdD", "  !  !"},
		{"untranslated: the tuple again, the end was seen", (*rig).untouched, "SdDfFAdD", "  !    !"},
		{"own client", (*rig).untouched, "SoDoD", ""},
		{"own client: its server first", (*rig).untouched, "SDoDo", ""},
		{"own client: in the middle, its server first", (*rig).untouched, "DDDoD", ""},
		{"own server", (*rig).untouched, "dOdO", ""},
		{"own server: its client first", (*rig).untouched, "dddO", ""},
		{"own client: after a stranger's connection", (*rig).untouched, "SdDAoD", "  !"},
		{"helper: the first segment", (*rig).helped, "SdD", "!"},
		{"helper: in the middle", (*rig).helped, "Dd", "!"},
		{"helper: forgotten", (*rig).helped, "S.d.d", "!   !"},
		{"helper: the tuple again", (*rig).helped, "SdDAd", "!  !"},
		{"masqueraded", func(r *rig) *wire { return r.masqueraded(insideAddr) }, "SdDdDfF", ""},
		{"masqueraded: in the middle", func(r *rig) *wire { return r.masqueraded(insideAddr) }, "dD..dD", ""},
		{"not PPTP", func(r *rig) *wire { return r.masqueraded(insideAddr) }, "Sxxx", " !"},
		{"not PPTP: forgotten", func(r *rig) *wire { return r.masqueraded(insideAddr) }, "Sx..x.D", " !  !"},
		{"not PPTP: the tuple again, and PPTP", func(r *rig) *wire { return r.masqueraded(insideAddr) }, "SxAdDdD", " !"},
		{"not PPTP: the tuple again, and not PPTP", func(r *rig) *wire { return r.masqueraded(insideAddr) }, "SxAx", " ! !"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.connect(newRig(t))
			for i, what := range tt.steps {
				want := i < len(tt.leaves) && tt.leaves[i] == '!'
				if got := w.step(what); got != want {
					t.Fatalf("step %d of %q: left %v, want %v", i, tt.steps, got, want)
				}
			}
		})
	}
}

// TestForsakenIsNotLeft: the calls of a connection that was given up end with it, as
// conntrack sees its end.
func TestForsakenIsNotLeft(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr).handshake()
	w.outgoing(7, 9)
	raw := tcp(t, w.conn.Original, packet.ACK, w.seq[client], w.seq[server], []byte{0})
	seg, _ := packet.Parse(raw)
	w.ed.Forsake(seg)
	if w.step('d') || w.step('D') || w.step('.') || w.step('.') || w.step('d') {
		t.Error("it is left")
	}
	if w.step('f') || w.step('F') {
		t.Error("it is left with its end")
	}
	w.conn.Closing = true
	if w.ed.Sweep([]calls.Connection{w.conn}, w.now.Add(time.Second), w.now); w.table.Calls() != 0 {
		t.Errorf("%d calls outlive their connection", w.table.Calls())
	}
}

// TestLeftIsSweptAway: the record of a connection that is left, whose end is not seen,
// goes when conntrack has it no longer.
func TestLeftIsSweptAway(t *testing.T) {
	w := newRig(t).untouched()
	if w.step('d'); !w.step('D') {
		t.Fatal("it is not left")
	}
	now := w.now.Add(time.Hour)
	w.ed.Sweep([]calls.Connection{w.conn}, now, now)
	if n := w.ed.Connections()[Untranslated]; n != 1 {
		t.Fatalf("%d on record while it lives", n)
	}
	w.ed.Sweep(nil, now, now)
	w.ed.Sweep(nil, now.Add(linger), now.Add(linger))
	if len(w.ed.senders) != 0 {
		t.Errorf("%d on record after its end", len(w.ed.senders))
	}
}

// TestWhatIsLeftIsNeverEdited: whatever comes in whatever order, what is said to be left
// is neither edited nor dropped nor read, until another connection has the tuple.
func TestWhatIsLeftIsNeverEdited(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		kinds := map[string]func(*rig) *wire{
			"untouched": (*rig).untouched, "helped": (*rig).helped,
			"masqueraded": func(r *rig) *wire { return r.masqueraded(insideAddr) },
			"forwarded":   func(r *rig) *wire { return r.forwarded(serverAddr, insideAddr) },
		}
		kind := rapid.SampledFrom([]string{"untouched", "helped", "masqueraded", "forwarded"}).Draw(rt, "kind")
		alphabet := []rune("dDxA.")
		if kind == "untouched" { // an end is the gateway's own or not, all the time
			alphabet = slices.Concat([]rune("A."), []rune(rapid.SampledFrom([]string{"d", "o"}).Draw(rt, "client")),
				[]rune(rapid.SampledFrom([]string{"D", "O"}).Draw(rt, "server")))
		}
		own := slices.Contains(alphabet, 'o') || slices.Contains(alphabet, 'O')
		w, left := kinds[kind](r), false
		w.step('S')
		for _, what := range rapid.SliceOfN(rapid.SampledFrom(alphabet), 1, 30).Draw(rt, "steps") {
			if what == 'A' {
				left = false
			}
			leave := w.step(what)
			if leave && own {
				rt.Fatal("a connection of the gateway itself is left")
			}
			left = left || leave
			if left && (w.last.Verdict != Accept || len(w.last.Events) > 0 || w.last.Reason == Read) {
				rt.Fatalf("after it was left: %v, %v", w.last.Verdict, w.last.Reason)
			}
		}
	})
}
