package nfqueue

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// attr appends an attribute.
func attr(b []byte, typ uint16, data ...byte) []byte {
	b = native.AppendUint16(b, uint16(attrLen+len(data)))
	b = append(native.AppendUint16(b, typ), data...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// packetMessage is what the kernel sends for a packet (nfqnl_build_packet_message),
// the payload last and not padded.
func packetMessage(id uint32, payload string, attrs ...[]byte) []byte {
	b := native.AppendUint32(nil, 0)       // length, below
	b = native.AppendUint16(b, typePacket) // type
	b = append(b, make([]byte, 10)...)     // flags, sequence number, port
	b = append(b, 2, 0, 0x06, 0xbb)        // AF_INET, version 0, queue 1723
	hdr := binary.BigEndian.AppendUint32(nil, id)
	b = attr(b, attrPacketHdr, append(hdr, 8, 0, byte(Output))...) // ID, ETH_P_IP, hook
	b = attr(b, 5, 0, 0, 0, 2)                                     // NFQA_IFINDEX_OUTDEV
	b = append(b, bytes.Join(attrs, nil)...)
	b = native.AppendUint16(b, uint16(attrLen+len(payload)))
	b = append(native.AppendUint16(b, attrPayload), payload...)
	native.PutUint32(b, uint32(len(b)))
	return b
}

var (
	markAttr   = attr(nil, attrMark, 0, 0, 0, 3)
	capLenAttr = attr(nil, attrCapLen, 0, 1, 0x11, 0x70)
)

func TestParsePacket(t *testing.T) {
	whole := packetMessage(7, "abc", markAttr)
	tests := []struct {
		name string
		b    []byte
		cut  bool
		want queued
		ok   bool
	}{
		{"whole", whole, false, queued{id: 7, at: 52, Packet: Packet{Payload: []byte("abc"), Hook: Output, Mark: 3}}, true},
		{"truncated", packetMessage(7, "abc", capLenAttr), false, queued{id: 7, at: 52, Packet: Packet{Payload: []byte("abc"), Hook: Output, Truncated: true}}, true},
		{"larger than the slot", whole, true, queued{id: 7, at: 52, Packet: Packet{Payload: []byte("abc"), Hook: Output, Mark: 3, Truncated: true}}, true},
		{"payload cut", whole[:len(whole)-1], false, queued{id: 7, at: 52, Packet: Packet{Payload: []byte("ab"), Hook: Output, Mark: 3, Truncated: true}}, true},
		{"no payload", packetMessage(7, "")[:40], false, queued{id: 7, Packet: Packet{Hook: Output}}, true},
		{"ID cut", whole[:30], false, queued{Packet: Packet{Truncated: true}}, false},
		{"no attributes", whole[:20], false, queued{}, false},
		{"attribute of length 0", append(bytes.Clone(whole[:20]), make([]byte, 8)...), false, queued{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parsePacket(tt.b, tt.cut)
			if ok != tt.ok {
				t.Errorf("ok %v, want %v", ok, tt.ok)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(queued{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestPacketZones reads in which conntrack zone a packet is, as the kernel attaches its entry
// (__ctnetlink_glue_build).
func TestPacketZones(t *testing.T) {
	nest := func(typ uint16, inside ...[]byte) []byte { return attr(nil, typ|0x8000, bytes.Join(inside, nil)...) }
	tuple := func(typ uint16, zone ...byte) []byte {
		inside := [][]byte{nest(1, attr(nil, 1, 10, 0, 0, 2), attr(nil, 2, 192, 0, 2, 2)), nest(2, attr(nil, 1, 6))}
		if zone != nil {
			inside = append(inside, attr(nil, ctaTupleZone, zone...))
		}
		return nest(typ, inside...)
	}
	original, reply := attr(nil, attrCTInfo, 0, 0, 0, 0), attr(nil, attrCTInfo, 0, 0, 0, 3)
	plain := nest(attrCT, tuple(ctaTupleOrig), tuple(ctaTupleReply), attr(nil, 3, 0, 0, 1, 0x8e))
	both := nest(attrCT, tuple(ctaTupleOrig), tuple(ctaTupleReply), attr(nil, ctaZone, 1, 7))
	there := nest(attrCT, tuple(ctaTupleOrig, 1, 7), tuple(ctaTupleReply))
	back := nest(attrCT, tuple(ctaTupleOrig), tuple(ctaTupleReply, 1, 7))
	for _, tt := range []struct {
		name    string
		ct      []byte
		zones   [2]uint16 // of a packet of the original direction, and of the reply direction
		unknown bool
	}{
		{"not told", nil, [2]uint16{}, true},
		{"default", plain, [2]uint16{}, false},
		{"both directions", both, [2]uint16{0x107, 0x107}, false},
		{"original direction", there, [2]uint16{0x107, 0}, false},
		{"reply direction", back, [2]uint16{0, 0x107}, false},
		{"empty", nest(attrCT), [2]uint16{}, false},
		{"cut", nest(attrCT, both[:len(both)-5]), [2]uint16{}, false},
	} {
		for i, info := range [][]byte{original, reply} {
			q, ok := parsePacket(packetMessage(7, "abc", tt.ct, info), false)
			if !ok || q.Zone != tt.zones[i] || q.Zoned == tt.unknown || string(q.Payload) != "abc" {
				t.Errorf("%s, direction %d: zone %d, known %v", tt.name, i, q.Zone, q.Zoned)
			}
		}
	}
}

func TestTellZonesBytes(t *testing.T) {
	want := native.AppendUint32(nil, 36)
	want = native.AppendUint16(want, 3<<8|2) // NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG
	want = native.AppendUint16(want, 1)      // NLM_F_REQUEST
	want = append(want, make([]byte, 8)...)  // sequence number, port
	want = append(want, 0, 0, 0x06, 0xbb)    // AF_UNSPEC, version 0, queue 1723
	want = append(want, attr(nil, 4, 0, 0, 0, 2)...)
	want = append(want, attr(nil, 5, 0, 0, 0, 2)...)
	if got := tellZones(1723); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}

func TestRulingBytes(t *testing.T) {
	head := func(length byte, typ byte) []byte {
		b := native.AppendUint32(nil, uint32(length))
		b = native.AppendUint16(b, 3<<8|uint16(typ)) // NFNL_SUBSYS_QUEUE
		b = native.AppendUint16(b, 1)                // NLM_F_REQUEST
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)        // sequence number, port
		b = append(b, 2, 0, 0x06, 0xbb)              // AF_INET, version 0, queue 1723
		return b
	}
	hdr := func(b []byte, verdict byte) []byte { return attr(b, 2, 0, 0, 0, verdict, 0, 0, 1, 2) }
	marked := ruling{verdict: nfAccept, id: 258, mark: 0x8003, marks: true}
	tests := []struct {
		name string
		got  []byte
		want []byte
	}{
		{"drop", written(ruling{verdict: nfDrop, id: 258}, typeVerdict), hdr(head(32, 1), 0)},
		{"accept up to", written(ruling{verdict: nfAccept, id: 258}, typeBatch), hdr(head(32, 3), 1)},
		{"mark up to", written(marked, typeBatch), attr(hdr(head(40, 3), 1), 3, 0, 0, 0x80, 3)},
		{"modify", writtenBefore(ruling{verdict: nfAccept, id: 258}), attr(hdr(head(39, 1), 1), 10, 'a', 'b', 'c')},
		{"modify and mark", writtenBefore(marked), attr(attr(hdr(head(47, 1), 1), 3, 0, 0, 0x80, 3), 10, 'a', 'b', 'c')},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, tt.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func written(r ruling, typ uint16) []byte {
	b := make([]byte, 100)
	return b[:r.write(b, typ, testQueue)]
}

func writtenBefore(r ruling) []byte {
	b := make([]byte, 100)
	copy(b[60:], "abc")
	start, end := r.writeBefore(b, 60, 3, testQueue)
	return b[start:end]
}

// FuzzParsePacket: no bytes make it panic, and a payload is a part of them that ends
// where its capacity does.
func FuzzParsePacket(f *testing.F) {
	f.Add(packetMessage(7, "abc", markAttr, capLenAttr), false)
	f.Add(packetMessage(7, "")[:33], true)
	f.Fuzz(func(t *testing.T, b []byte, cut bool) {
		if messageType(b) == 0 {
			return
		}
		q, _ := parsePacket(b, cut)
		if len(q.Payload) == 0 {
			return
		}
		if !bytes.Equal(q.Payload, b[q.at:q.at+len(q.Payload)]) || cap(q.Payload) != len(q.Payload) {
			t.Errorf("payload of %d bytes, capacity %d, at %d of %d", len(q.Payload), cap(q.Payload), q.at, len(b))
		}
	})
}
