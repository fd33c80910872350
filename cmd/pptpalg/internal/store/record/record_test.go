package record

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/calls"
)

var at = time.Unix(1_800_000_000, 42)

func kept(number uint64) calls.Record {
	n := byte(number)
	return calls.Record{
		Number: number, PNS: calls.Responder, Asker: calls.Side(n & 1), Payer: calls.Side(n >> 1 & 1), Local: [2]bool{n&1 != 0, n&2 != 0}, State: calls.Established, Since: at,
		Connection: calls.Connection{
			Original: calls.Tuple{Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 4000), Dst: netip.MustParseAddrPort("203.0.113.9:1723")},
			Reply:    calls.Tuple{Src: netip.MustParseAddrPort("203.0.113.9:1723"), Dst: netip.MustParseAddrPort("198.51.100.1:65535")},
			Zone:     3, Way: calls.FromInitiator, Mark: 0xdeadbeef, Closing: n&2 != 0,
		},
		Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: 0xff07}, {Own: 0}},
	}
}

var resting = calls.Resting{Public: netip.MustParseAddr("198.51.100.1"), Peer: netip.MustParseAddr("203.0.113.9"), Zone: 3, ID: 7, Until: at}

// TestBytes: the bytes are those that earlier releases have written, and will read.
func TestBytes(t *testing.T) {
	r := kept(3)
	for name, tt := range map[string]struct{ got, want string }{
		"kept": {hex.EncodeToString(AppendKept(nil, &r)), "013a 0000000000000003 0a0000030fa0 cb00710906bb cb00710906bb c6336401ffff 0003 deadbeef 7f 12 18fae27693b4002a 01 0007 ff07 00 0000 0000 5e9ffac3"},
		"gone": {hex.EncodeToString(AppendGone(nil, 3, at)), "0210 0000000000000003 18fae27693b4002a 3d99f30d"},
		"rest": {hex.EncodeToString(AppendRest(nil, resting)), "0314 c6336401 cb007109 0003 0007 18fae27693b4002a bb94270b"},
	} {
		if want := strings.ReplaceAll(tt.want, " ", ""); tt.got != want {
			t.Errorf("%s:\n%s, want\n%s", name, tt.got, want)
		}
	}
}

// TestLonger: of a record that a later release has written longer, what is known is read.
func TestLonger(t *testing.T) {
	r := kept(3)
	b := AppendKept(nil, &r)
	b = append(b[:len(b)-sumLen], 1, 2, 3)
	b[1] += 3
	kind, payload, rest, err := Next(appendSum(b, 0))
	if err != nil || kind != Kept || len(rest) != 0 {
		t.Fatal(kind, rest, err)
	}
	if got, err := DecodeKept(payload); err != nil || got != kept(3) {
		t.Error(cmp.Diff(kept(3), got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })), err)
	}
}

// TestShort: a payload that is too short for its kind is refused.
func TestShort(t *testing.T) {
	long := bytes.Repeat([]byte{0}, 255)
	for n := range keptLen {
		if _, err := DecodeKept(long[:n]); err == nil {
			t.Errorf("kept of %d bytes is read", n)
		}
	}
	for n := range goneLen {
		if _, _, err := DecodeGone(long[:n]); err == nil {
			t.Errorf("gone of %d bytes is read", n)
		}
	}
	for n := range restLen {
		if _, err := DecodeRest(long[:n]); err == nil {
			t.Errorf("rest of %d bytes is read", n)
		}
	}
}

// TestLocalOfEarlierReleases: their records do not tell which ends are the gateway itself, but of
// what NAT does not touch they kept only the gateway's own calls.
func TestLocalOfEarlierReleases(t *testing.T) {
	translated, plain := kept(3), kept(3)
	plain.Connection.Reply = plain.Connection.Original.Reversed()
	for r, want := range map[*calls.Record]bool{&translated: false, &plain: true} {
		b := AppendKept(nil, r)
		_, payload, _, err := Next(b)
		if err != nil {
			t.Fatal(err)
		}
		payload[8+4*6+2+4] &^= localInitiatorBit | localResponderBit | toldBit
		got, err := DecodeKept(payload)
		if err != nil || got.Local != [2]bool{want, want} {
			t.Errorf("of %v > %v: %v, %v, want %v", r.Connection.Original, r.Connection.Reply, got.Local, err, want)
		}
	}
}
