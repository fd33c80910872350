package pptp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// golden reads a message that testdata holds as hex bytes with a comment per field.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for line := range strings.Lines(string(text)) {
		field, _, _ := strings.Cut(line, "#")
		bytes, err := hex.DecodeString(strings.Join(strings.Fields(field), ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b = append(b, bytes...)
	}
	return b
}

func TestGoldenMessages(t *testing.T) {
	tests := []struct {
		typ       Type
		own, peer CallID
		result    byte
	}{
		{StartControlConnectionRequest, 0, 0, 0},
		{StartControlConnectionReply, 0, 0, 1},
		{StopControlConnectionRequest, 0, 0, 0},
		{StopControlConnectionReply, 0, 0, 1},
		{EchoRequest, 0, 0, 0},
		{EchoReply, 0, 0, 1},
		{OutgoingCallRequest, 0x0007, 0, 0},
		{OutgoingCallReply, 0x1234, 0x0007, 1},
		{IncomingCallRequest, 0x1234, 0, 0},
		{IncomingCallReply, 0x0007, 0x1234, 1},
		{IncomingCallConnected, 0, 0x0007, 0},
		{CallClearRequest, 0x0007, 0, 0},
		{CallDisconnectNotify, 0x1234, 0, 4},
		{WANErrorNotify, 0, 0x0007, 0},
		{SetLinkInfo, 0, 0x1234, 0},
	}
	for _, tt := range tests {
		t.Run(tt.typ.String(), func(t *testing.T) {
			m := Message(golden(t, tt.typ.String()))
			l, ok := m.Type().Layout()
			if !ok || m.Type() != tt.typ || m.Classify() != Known || len(m) != l.Size {
				t.Fatalf("%d bytes read as %v, kind %d, size %d", len(m), m.Type(), m.Classify(), l.Size)
			}
			if l.Own != 0 && m.CallID(l.Own) != tt.own || l.Peer != 0 && m.CallID(l.Peer) != tt.peer {
				t.Errorf("Call ID %v, Peer's Call ID %v, want %v, %v", m.CallID(l.Own), m.CallID(l.Peer), tt.own, tt.peer)
			}
			if (l.Own == 0) != (tt.own == 0) || (l.Peer == 0) != (tt.peer == 0) {
				t.Error("the layout has another set of Call IDs")
			}
			if code, ok := m.Result(); ok != (l.Result != 0) || code != tt.result {
				t.Errorf("result code %d, %v, want %d", code, ok, tt.result)
			}
			if p := m.Type().Prefix(); p > PrefixLen || p < HeaderLen {
				t.Errorf("prefix of %d bytes", p)
			}
		})
	}
}

func TestClassify(t *testing.T) {
	good := func(edit func(b []byte)) []byte {
		b := make([]byte, 16)
		binary.BigEndian.PutUint16(b, 16)
		binary.BigEndian.PutUint16(b[2:], ControlMessage)
		binary.BigEndian.PutUint32(b[4:], MagicCookie)
		binary.BigEndian.PutUint16(b[8:], uint16(EchoRequest))
		edit(b)
		return b
	}
	tests := []struct {
		name string
		b    []byte
		want Kind
	}{
		{"Echo-Request", good(func([]byte) {}), Known},
		{"too short to tell", good(func([]byte) {})[:9], Foreign},
		{"empty", nil, Foreign},
		{"cookie", good(func(b []byte) { b[4] ^= 1 }), Foreign},
		{"management message", good(func(b []byte) { b[3] = 2 }), Foreign},
		{"length 0", good(func(b []byte) { b[1] = 0 }), Foreign},
		{"length 11", good(func(b []byte) { b[1] = 11 }), Foreign},
		{"length 12", good(func(b []byte) { b[1] = 12 }), Opaque},
		{"length 65535", good(func(b []byte) { b[0], b[1] = 0xff, 0xff }), Opaque},
		{"type 0", good(func(b []byte) { b[9] = 0 }), Opaque},
		{"type 16", good(func(b []byte) { b[9] = 16 }), Opaque},
		{"type 65535", good(func(b []byte) { b[8], b[9] = 0xff, 0xff }), Opaque},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Message(tt.b).Classify(); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	types := Types()
	for i, typ := range types {
		if int(typ) != i+1 || strings.HasPrefix(typ.String(), "unknown") {
			t.Errorf("type %d is %d, %v", i+1, typ, typ)
		}
	}
	if len(types) != 15 || cap(types) != 15 {
		t.Errorf("%d types, in room for %d", len(types), cap(types))
	}
	if got := Type(99).String(); got != "unknown(99)" {
		t.Errorf("type 99 is called %q", got)
	}
	if got := CallID(0x1234).Swap(); got != 0x3412 {
		t.Errorf("0x1234 swapped is %#x", int(got))
	}
}

// TestResultAtTheEdge: a result code is read when its last byte is there.
func TestResultAtTheEdge(t *testing.T) {
	m := Message(golden(t, "Start-Control-Connection-Reply"))
	for n, want := range map[int]bool{14: false, 15: true} {
		if code, ok := m[:n].Result(); ok != want || (code == ResultOK) != want {
			t.Errorf("of %d bytes: %d, %v", n, code, ok)
		}
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{OutgoingCallReply.Result(4), "busy"},
		{OutgoingCallReply.Result(99), ""},
		{CallDisconnectNotify.ResultWords(3), "3 (admin shutdown)"},
		{CallDisconnectNotify.ResultWords(99), "99 (unknown)"},
		{SetLinkInfo.ResultWords(1), ""},
		{Type(99).ResultWords(1), ""},
		{ErrorWords(0), ""},
		{ErrorWords(1), "1 (not connected: no control connection exists yet)"},
		{ErrorWords(6), "6 (PAC error: a vendor's own error)"},
		{ErrorWords(7), "7 (unknown)"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

// FuzzMessage: whatever the bytes, every accessor answers, and what is Known has
// all its fields within its own length.
func FuzzMessage(f *testing.F) {
	for _, typ := range Types() {
		f.Add(golden(f, typ.String()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, before := Message(b), bytes.Clone(b)
		kind := m.Classify()
		l, ok := m.Type().Layout()
		m.CallID(l.Own)
		m.CallID(l.Peer)
		m.CallID(len(b))
		if _, has := m.Result(); has && l.Result >= len(b) {
			t.Error("a result code beyond the bytes")
		}
		if kind == Known && (!ok || m.Length() != l.Size || m.Type().Prefix() > l.Size) {
			t.Errorf("%v is Known with length %d, prefix %d", m.Type(), m.Length(), m.Type().Prefix())
		}
		if kind != Foreign && m.Length() < minLength {
			t.Errorf("length %d would not move the stream on", m.Length())
		}
		if !bytes.Equal(before, b) {
			t.Error("reading changed the message")
		}
	})
}
