package calls

import (
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
// Call-Disconnect-Notify on its way back. The server's own ID comes before the client's,
// that before the client's swapped, whichever call is older.
func TestFirstByteOfANotify(t *testing.T) {
	const high = 0x07 // of the ID in question
	tab := New(testConfig(time.Minute))
	occupy(t, tab, 0x0700, 0x07ff, 0)
	occupy(t, tab, 0x5507, 0x5507, 0)
	c := tab.Open(masqueraded(inside(1), 1))
	for _, tt := range []struct {
		name     string
		own, sid pptp.CallID // of the next call
		want     byte
	}{
		{"no call's", 0x1234, 0x5001, high},
		{"the client's swapped", 0x5507, 0x5002, 0xff},
		{"the client's", 0x0701, 0x5003, 0x08},
		{"the server's", 0x1235, 0x0709, 0x07},
		{"of another call, too", 0x0702, 0x5004, 0x07},
	} {
		dial(t, c, tt.own, tt.sid)
		if got := c.UndoHigh(Responder, Notifies, high); got != tt.want {
			t.Errorf("%s: %#02x, want %#02x", tt.name, got, tt.want)
		}
	}
}
