package alg

import (
	"bytes"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// optioned returns a segment with MPTCP's option.
func optioned(t testing.TB, tu calls.Tuple, flags packet.Flags, seq, ack packet.Seq, payload []byte) []byte {
	t.Helper()
	b := tcp(t, tu, flags, seq, ack, payload)
	ip, h := new(layers.IPv4), new(layers.TCP)
	p := gopacket.NewPacket(b, layers.LayerTypeIPv4, gopacket.Default)
	*ip = *p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	*h = *p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	h.Options = append([]layers.TCPOption{{OptionType: packet.MPTCP, OptionLength: 4, OptionData: []byte{1, 1}}}, h.Options...)
	if err := h.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, h, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestOnePath: a handshake loses Multipath TCP, whether or not its connection is known and
// translated; other segments are not touched for it.
func TestOnePath(t *testing.T) {
	client, server := calls.Initiator, calls.Responder
	start := message(pptp.StartControlConnectionRequest, 0, 0, 0)
	masqueraded := func(r *rig) *wire { return r.masqueraded(insideAddr) }
	unknown := func(r *rig) *wire { return &wire{rig: newRig(r.t), conn: masqueraded(r).conn} }
	for _, tt := range []struct {
		name    string
		wire    func(*rig) *wire
		from    calls.Side
		flags   packet.Flags
		payload []byte
		verdict Verdict
		reason  Reason
	}{
		{"SYN", unknown, client, packet.SYN, nil, Edited, Multipath},
		{"SYN with data", unknown, client, packet.SYN, start, Edited, Multipath},
		{"SYN+ACK", masqueraded, server, packet.SYN | packet.ACK, nil, Edited, Multipath},
		{"SYN+ACK, unknown", unknown, server, packet.SYN | packet.ACK, nil, Edited, Multipath},
		{"SYN+ACK, untranslated", (*rig).untouched, server, packet.SYN | packet.ACK, nil, Edited, Multipath},
		{"data", masqueraded, client, packet.ACK, start, Accept, Read},
		{"FIN", masqueraded, client, packet.ACK | packet.FIN, nil, Accept, NoData},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.wire(newRig(t))
			tu := w.conn.Original
			if tt.from == server {
				tu = w.conn.Reply
			}
			b := optioned(t, tu, tt.flags, 1000, 2000, tt.payload)
			seg, err := packet.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			out := w.ed.Edit(seg, false, w.now)
			if out.Verdict != tt.verdict || out.Reason != tt.reason {
				t.Errorf("%v, %v; want %v, %v", out.Verdict, out.Reason, tt.verdict, tt.reason)
			}
			verifyChecksum(t, b)
			if there := seg.BlankOption(packet.MPTCP); there != (tt.verdict == Accept) {
				t.Errorf("the option is left: %v", there)
			}
			if !bytes.Equal(seg.Payload(), tt.payload) {
				t.Errorf("payload % x", seg.Payload())
			}
		})
	}
}

// TestNoPath: a SYN without the option passes as it came.
func TestNoPath(t *testing.T) {
	w := newRig(t).masqueraded(insideAddr)
	w.segment(calls.Initiator, packet.SYN, 1000, nil)
	if w.last.Verdict != Accept || w.last.Reason != NoData {
		t.Errorf("%v, %v", w.last.Verdict, w.last.Reason)
	}
}
