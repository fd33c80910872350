package alg

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// The network of these tests:
//
//	inside 10.0.0.x ── gateway 198.51.100.1 ── outside 203.0.113.x
var (
	gatewayAddr = netip.MustParseAddr("198.51.100.1")
	serverAddr  = netip.MustParseAddr("203.0.113.9")
	insideAddr  = netip.MustParseAddr("10.0.0.10")
	epoch       = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// rig feeds an editor with scripted packets.
type rig struct {
	t     testing.TB
	table *calls.Table
	ed    *Editor
	now   time.Time
	wires int
}

func newRig(t testing.TB) *rig {
	table := calls.New(calls.DefaultConfig())
	return &rig{t: t, table: table, ed: NewEditor(table, DefaultConnections), now: epoch}
}

// wire is one control connection of a rig, and what its ends have received.
type wire struct {
	*rig
	conn     calls.Connection
	seq      [2]packet.Seq // next byte to send
	received [2][]byte     // by the side that receives
	last     Outcome
	changes  []calls.Event
	noted    []Anomaly
}

// masqueraded connects an inside client to the outside server.
func (r *rig) masqueraded(client netip.Addr) *wire {
	r.wires++
	port := uint16(40000 + r.wires)
	return r.connect(calls.Connection{
		Original: tuple(client, port, serverAddr, 1723),
		Reply:    tuple(serverAddr, 1723, gatewayAddr, port),
	})
}

// forwarded connects an outside client to an inside server by DNAT.
func (r *rig) forwarded(client, server netip.Addr) *wire {
	r.wires++
	port := uint16(40000 + r.wires)
	return r.connect(calls.Connection{
		Original: tuple(client, port, gatewayAddr, 1723),
		Reply:    tuple(server, 1723, client, port),
	})
}

func (r *rig) connect(c calls.Connection) *wire {
	c.Opening = true
	r.ed.Open(c, r.now)
	isn := packet.Seq(0xfffffff0) // sequence numbers wrap in every test
	return &wire{rig: r, conn: c, seq: [2]packet.Seq{isn, isn.Add(7)}}
}

// handshake lets the SYN/ACK and the Start exchange pass.
func (w *wire) handshake() *wire {
	w.synAck()
	return w.handshakeAfterSYN()
}

func (w *wire) handshakeAfterSYN() *wire {
	w.say(calls.Initiator, message(pptp.StartControlConnectionRequest, 0, 0, 0))
	w.say(calls.Responder, message(pptp.StartControlConnectionReply, 0, 0, 1))
	w.received = [2][]byte{}
	return w
}

func (w *wire) synAck() {
	w.seq[0] = w.seq[0].Add(1)
	w.segment(calls.Responder, packet.SYN|packet.ACK, w.seq[1], nil)
	w.seq[1] = w.seq[1].Add(1)
}

// say sends bytes in one segment and returns what the other end receives.
func (w *wire) say(from calls.Side, b []byte) []byte {
	w.t.Helper()
	got := w.segment(from, packet.ACK|packet.PSH, w.seq[from], b)
	if w.last.Verdict == Drop {
		w.t.Fatalf("%v segment was dropped: %v", from, w.last.Reason)
	}
	w.seq[from] = w.seq[from].Add(len(b))
	w.received[from.Other()] = append(w.received[from.Other()], got...)
	return got
}

// segment passes one TCP segment through the editor and returns its payload after.
func (w *wire) segment(from calls.Side, flags packet.Flags, seq packet.Seq, payload []byte) []byte {
	w.t.Helper()
	tu := w.conn.Original
	if from == calls.Responder {
		tu = w.conn.Reply
	}
	raw := tcp(w.t, tu, flags, seq, w.seq[from.Other()], payload)
	seg, err := packet.Parse(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	w.ed.InZone(w.zone(from))
	w.last = w.ed.Edit(seg, false, w.now)
	w.changes = append(w.changes, brief(w.last.Events)...)
	w.noted = append(w.noted, w.last.Anomalies...)
	verifyChecksum(w.t, raw)
	return seg.Payload()
}

// zone is where the kernel says that the packets of an end are.
func (w *wire) zone(from calls.Side) uint16 {
	if way := w.conn.Way; way == calls.FromInitiator && from == server || way == calls.FromResponder && from == client {
		return 0
	}
	return w.conn.Zone
}

// brief leaves of events the flows, which calls began and ended, and their numbers.
func brief(events []calls.Event) (left []calls.Event) {
	for _, e := range events {
		if e.Kind <= calls.Opened || e.Kind == calls.Closed {
			e.Call = calls.Record{Number: e.Call.Number}
			left = append(left, e)
		}
	}
	return left
}

func (w *wire) anomalies() []Anomaly {
	a := w.noted
	w.noted = nil
	return a
}

func tuple(src netip.Addr, sport uint16, dst netip.Addr, dport uint16) calls.Tuple {
	return calls.Tuple{Src: netip.AddrPortFrom(src, sport), Dst: netip.AddrPortFrom(dst, dport)}
}

func tcp(t testing.TB, tu calls.Tuple, flags packet.Flags, seq, ack packet.Seq, payload []byte) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: tu.Src.Addr().AsSlice(), DstIP: tu.Dst.Addr().AsSlice()}
	h := &layers.TCP{
		SrcPort: layers.TCPPort(tu.Src.Port()), DstPort: layers.TCPPort(tu.Dst.Port()), Seq: uint32(seq), Ack: uint32(ack), Window: 1000,
		SYN: flags.Has(packet.SYN), ACK: flags.Has(packet.ACK), FIN: flags.Has(packet.FIN), RST: flags.Has(packet.RST),
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}},
	}
	if err := h.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, h, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// verifyChecksum recomputes the TCP checksum over the whole packet.
func verifyChecksum(t testing.TB, b []byte) {
	t.Helper()
	sum := uint32(6) + uint32(len(b)-20)
	for i := 12; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for i := 20; i < len(b); i++ {
		sum += uint32(b[i]) << (8 * (1 - i&1))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if sum != 0xffff {
		t.Fatalf("TCP checksum is wrong after the edit: the sum is %#x", sum)
	}
}

// message builds a control message whose bytes behind the header are all 0xEE but
// for the Call IDs and the result code.
func message(typ pptp.Type, own, peer pptp.CallID, result byte) []byte {
	l, _ := typ.Layout()
	b := make([]byte, l.Size)
	for i := range b {
		b[i] = 0xEE
	}
	binary.BigEndian.PutUint16(b, uint16(l.Size))
	binary.BigEndian.PutUint16(b[2:], pptp.ControlMessage)
	binary.BigEndian.PutUint32(b[4:], pptp.MagicCookie)
	binary.BigEndian.PutUint16(b[8:], uint16(typ))
	if l.Result != 0 {
		b[l.Result] = result
	}
	if l.Own != 0 {
		binary.BigEndian.PutUint16(b[l.Own:], uint16(own))
	}
	if l.Peer != 0 {
		binary.BigEndian.PutUint16(b[l.Peer:], uint16(peer))
	}
	return b
}

func ids(b []byte) (first, second pptp.CallID) {
	return pptp.Message(b).CallID(12), pptp.Message(b).CallID(14)
}

// outgoing opens an outgoing call of the initiator and returns the public form of
// its ID, as the server saw it.
func (w *wire) outgoing(own, servers pptp.CallID) pptp.CallID {
	w.t.Helper()
	public, _ := ids(w.say(calls.Initiator, message(pptp.OutgoingCallRequest, own, 0, 0)))
	_, back := ids(w.say(calls.Responder, message(pptp.OutgoingCallReply, servers, public, pptp.ResultOK)))
	if back != own {
		w.t.Fatalf("Outgoing-Call-Reply tells the client its ID is %v, want %v", back, own)
	}
	return public
}
