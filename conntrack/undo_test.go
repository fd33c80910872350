package conntrack

import (
	"slices"
	"testing"
	"time"

	"pptpalg/alg/pptp"
)

// TestUndo has what a server writes, what its client sees of it, and the way back. The
// client's ID 0x0007 is public under another first byte, 0x0810 under another second.
func TestUndo(t *testing.T) {
	tab := New(testConfig(time.Minute))
	occupy(t, tab, 0x0001, 0x00ff, 0)
	occupy(t, tab, 0x0810, 0x0810, 0)
	occupy(t, tab, 0x08ff, 0x08ff, 0) // the first call's ID ends so
	c := tab.Open(masqueraded(inside(1), 1))
	const sid = pptp.CallID(0x5051)
	first := dial(t, c, 0x0007, sid)
	second := dial(t, c, 0x0810, sid+1)
	if first.High() != 1 || second.High() != 8 || second == 0x0810 {
		t.Fatalf("the client's IDs are public as %v and %v", first, second)
	}
	tests := []struct {
		name          string
		field         Field
		wrote, showed pptp.CallID
		known         bool
	}{
		{"Set-Link-Info", Peers, first, 0x0007, true},
		{"of the other call", Peers, second, 0x0810, true},
		{"of no call", Peers, 0x3333, 0x3333, false},
		{"Incoming-Call-Request's", Owns, sid, sid, true},
		{"of no call of the server's", Owns, 0x3333, 0x3333, false},
		{"notify with the server's ID", Notifies, sid, sid, true},
		{"notify with the client's ID", Notifies, first, 0x0007, true},
		{"of the other call, too", Notifies, second, 0x0810, true},
		{"notify with the client's ID swapped", Notifies, first.Swap(), 0x0700, true},
		{"of the other call, swapped", Notifies, second.Swap(), 0x1008, true},
		{"notify of no call", Notifies, 0x3333, 0x3333, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			there := func(id pptp.CallID, sent *byte) (pptp.CallID, bool) {
				return c.Translate(Responder, tt.field, id, sent)
			}
			back := func(id pptp.CallID, sent *byte) (pptp.CallID, bool) { return c.Undo(Responder, tt.field, id, sent) }
			wantWay(t, "there", there, c.TranslateHigh(Responder, tt.field, tt.wrote.High()), tt.wrote, tt.showed, tt.known)
			wantWay(t, "back", back, c.UndoHigh(Responder, tt.field, tt.showed.High()), tt.showed, tt.wrote, tt.known)
		})
	}
}

// wantWay checks a translation: in one piece, after its first byte, and after a first byte
// that was not its own. Then it is not to be had.
func wantWay(t *testing.T, way string, translate func(pptp.CallID, *byte) (pptp.CallID, bool), high byte, from, to pptp.CallID, known bool) {
	t.Helper()
	if got, ok := translate(from, nil); got != to || ok != known {
		t.Errorf("%s: %#04x becomes %#04x, %v, want %#04x, %v", way, int(from), int(got), ok, int(to), known)
	}
	if high != to.High() {
		t.Errorf("%s: the first byte of %#04x becomes %#02x, want %#02x", way, int(from), high, to.High())
	}
	if got, ok := translate(from, &high); got != to || ok != known {
		t.Errorf("%s: after the first byte, %#04x becomes %#04x, %v, want %#04x, %v", way, int(from), int(got), ok, int(to), known)
	}
	other := byte(0xee)
	want := pptp.CallID(other)<<8 | pptp.CallID(from.Low())
	if got, ok := translate(from, &other); got != want || ok {
		t.Errorf("%s: after 0xee, %#04x becomes %#04x, %v, want %#04x, false", way, int(from), int(got), ok, int(want))
	}
}

// TestFirstByteOfANotify has a first byte that fits several forms of a
// Call-Disconnect-Notify. The sender's own ID comes before the receiver's, that before the
// receiver's swapped, whichever call is older; of two calls alike, the older one's counts.
func TestFirstByteOfANotify(t *testing.T) {
	known := func(own, public pptp.CallID) leg { return leg{known: true, own: own, public: public} }
	unknown := func(own, public pptp.CallID) leg { return leg{own: own, public: public} } // of an end that has not answered
	client := func(own, public pptp.CallID) *Call { return &Call{legs: [2]leg{Initiator: known(own, public)}} }
	server := func(own, public pptp.CallID) *Call { return &Call{legs: [2]leg{Responder: known(own, public)}} }
	nobody := &Call{legs: [2]leg{unknown(0x50aa, 0x60aa), unknown(0x50aa, 0x60aa)}}
	tests := []struct {
		name  string
		calls []*Call
		want  byte // of 0x50, as the server's notify is shown to the client before it is undone
	}{
		{"no call fits", []*Call{client(0x0102, 0x0304), nobody}, 0x50},
		{"the client's ID swapped", []*Call{client(0x0150, 0x0211), nobody}, 0x11},
		{"of two such, the older", []*Call{client(0x0150, 0x0211), client(0x0250, 0x0212)}, 0x11},
		{"the client's ID", []*Call{client(0x0150, 0x0211), client(0x5001, 0x1201)}, 0x12},
		{"of two such, the older", []*Call{client(0x5001, 0x1201), client(0x5002, 0x1302)}, 0x12},
		{"the server's ID", []*Call{client(0x0150, 0x0211), client(0x5001, 0x1201), server(0x5001, 0x1401)}, 0x14},
		{"of two such, the older", []*Call{server(0x5001, 0x1401), server(0x5002, 0x1502)}, 0x14},
	}
	for _, tt := range tests {
		for _, newestFirst := range []bool{false, true} {
			calls := slices.Clone(tt.calls)
			if newestFirst && tt.name != "of two such, the older" {
				slices.Reverse(calls)
			}
			c := New(testConfig(time.Minute)).Open(masqueraded(inside(1), 1))
			c.calls = calls
			if got := c.UndoHigh(Responder, Notifies, 0x50); got != tt.want {
				t.Errorf("%s: %#02x, want %#02x", tt.name, got, tt.want)
			}
		}
	}
}
