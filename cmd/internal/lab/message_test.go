package lab

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/pptp"
)

func TestMessageBytes(t *testing.T) {
	head := func(size, kind byte) []byte {
		return []byte{
			0, size, // length
			0, 1, // control message
			0x1A, 0x2B, 0x3C, 0x4D, // magic cookie
			0, kind, 0, 0, // control message type, reserved
		}
	}
	tests := []struct {
		name    string
		message Message
		want    []byte // a prefix; the rest is zero
	}{
		{"start request", NewStartRequest(), append(head(156, 1),
			1, 0, 0, 0, // version 1.0, reserved
			0, 0, 0, 3, 0, 0, 0, 3, // framing, bearer capabilities
			0, 0, 0, 1)}, // maximum channels, firmware revision
		{"start reply", NewStartReply(2), append(head(156, 2),
			1, 0, 2, 0, // version, result, error
			0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1)},
		{"stop request", NewStopRequest(), append(head(16, 3), 1)}, // reason
		{"stop reply", NewStopReply(1), append(head(16, 4), 1)},
		{"echo request", NewEchoRequest(0x01020304), append(head(16, 5), 1, 2, 3, 4)},
		{"echo reply", NewEchoReply(0x01020304, 1), append(head(20, 6), 1, 2, 3, 4, 1)},
		{"outgoing call request", NewOutgoingCallRequest(0xABCD), append(head(168, 7),
			0xAB, 0xCD, 0, 1, // call ID, serial number
			0, 0, 0x09, 0x60, 0, 0x98, 0x96, 0x80, // minimum and maximum BPS
			0, 0, 0, 3, 0, 0, 0, 3, // bearer, framing type
			0, 64)}, // receive window
		{"outgoing call reply", NewOutgoingCallReply(0xABCD, 0x1234, 1), append(head(32, 8),
			0xAB, 0xCD, 0x12, 0x34, // call ID, peer's call ID
			1, 0, 0, 0, // result, error, cause
			0, 0x98, 0x96, 0x80, 0, 64)}, // speed, window
		{"incoming call request", NewIncomingCallRequest(0xABCD), append(head(220, 9),
			0xAB, 0xCD, 0, 1, // call ID, serial number
			0, 0, 0, 1)}, // bearer
		{"incoming call reply", NewIncomingCallReply(0xABCD, 0x1234, 1), append(head(24, 10),
			0xAB, 0xCD, 0x12, 0x34, // call ID, peer's call ID
			1, 0, 0, 64)}, // result, error, window
		{"incoming call connected", NewIncomingCallConnected(0x1234), append(head(28, 11),
			0x12, 0x34, 0, 0, // peer's call ID, reserved
			0, 0x98, 0x96, 0x80, 0, 64, 0, 0, // speed, window, delay
			0, 0, 0, 1)}, // framing
		{"call clear request", NewCallClearRequest(0xABCD), append(head(16, 12), 0xAB, 0xCD)},
		{"call disconnect notify", NewCallDisconnectNotify(0xABCD, 4), append(head(148, 13), 0xAB, 0xCD, 4)},
		{"WAN error notify", NewWANErrorNotify(0x1234), append(head(40, 14),
			0x12, 0x34, 0, 0, // peer's call ID, reserved
			0, 0, 0, 7)}, // CRC errors
		{"set link info", NewSetLinkInfo(0x1234), append(head(24, 15),
			0x12, 0x34, 0, 0, // peer's call ID, reserved
			0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF)}, // ACCMs
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.message.Bytes()
			if len(b) != int(tt.want[1]) {
				t.Errorf("%d bytes, want %d", len(b), tt.want[1])
			}
			want := append(tt.want, make([]byte, len(b)-len(tt.want))...)
			if diff := cmp.Diff(want, b); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			got, err := ParseMessage(b)
			if diff := cmp.Diff(tt.message, got); diff != "" || err != nil {
				t.Errorf("parsed: %v (-want +got)\n%s", err, diff)
			}
		})
	}
	if len(tests) != len(layouts) {
		t.Errorf("%d rows for %d messages", len(tests), len(layouts))
	}
}

func TestParseMessageIsStrict(t *testing.T) {
	good := NewCallClearRequest(1).Bytes()
	for i := range headerSize - 2 { // all but the reserved bytes
		b := bytes.Clone(good)
		b[i] ^= 0x40
		if m, err := ParseMessage(b); err == nil || m != (Message{}) {
			t.Errorf("byte %d wrong: %v, %v", i, m, err)
		}
	}
	for n := range good {
		if _, err := ParseMessage(good[:n]); err == nil {
			t.Errorf("%d bytes passed", n)
		}
	}
}

func TestStrings(t *testing.T) {
	rows := map[string]interface{ String() string }{
		"unknown(99)": Type(99),
		"unknown(9)":  Notify(9),
		"unknown(7)":  DNAT(7),
		"swapped":     NotifySwapped,
		"control":     DNATControl,
		"Outgoing-Call-Reply call 1 peer 2 result 4": NewOutgoingCallReply(1, 2, 4),
		"GRE 10.77.0.1 > 203.0.113.1 call 5 seq 6 \"x\"": Packet{Src: GatewayInside, Dst: GatewayPublic,
			CallID: 5, Seq: new(uint32(6)), Payload: []byte("x")},
	}
	for want, v := range rows {
		if got := v.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestNextIDs(t *testing.T) {
	fixed, counting := Fixed(7), Counting(0xFFFF)
	got := []pptp.CallID{fixed(), fixed(), counting(), counting()}
	if diff := cmp.Diff([]pptp.CallID{7, 7, 0xFFFF, 0}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
