package replay

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"pptpalg/alg/pptp"
	wire "pptpalg/cmd/internal/lab"
)

// builder builds a capture, packet by packet.
type builder struct {
	t      testing.TB
	frames []frame
	now    time.Time
	next   map[[2]netip.AddrPort]uint32 // sequence numbers, by sender and receiver
	wrap   func(ip []byte) []byte       // the frame around an IPv4 packet
	link   linkType
	snap   int
}

var (
	client   = netip.MustParseAddrPort("10.0.0.10:40000")
	server   = netip.MustParseAddrPort("203.0.113.10:1723")
	clientID = pptp.CallID(7)
	serverID = pptp.CallID(0x5001)
)

// natted is the NAT that the builder's clients are behind.
var natted = NAT{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("198.51.100.1")}

func newBuilder(t testing.TB) *builder {
	return &builder{
		t: t, now: time.Unix(1e9, 0), next: make(map[[2]netip.AddrPort]uint32), snap: largest,
		wrap: prefix(0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 8, 0), link: linkEthernet,
	}
}

// way is one direction of a connection.
func way(src, dst netip.AddrPort) [2]netip.AddrPort { return [2]netip.AddrPort{src, dst} }

// requested is a call request, as bytes.
func requested(id pptp.CallID) []byte { return wire.NewOutgoingCallRequest(id).Bytes() }

// prefix wraps packets by putting a header before them.
func prefix(header ...byte) func(ip []byte) []byte {
	return func(ip []byte) []byte { return slices.Concat(header, ip) }
}

// ip adds a packet to the capture.
func (b *builder) ip(src, dst netip.Addr, proto layers.IPProtocol, inner ...gopacket.SerializableLayer) {
	b.t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Id: uint16(len(b.frames)), Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	if tcp, ok := inner[0].(*layers.TCP); ok {
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			b.t.Fatal(err)
		}
	}
	b.add(b.wrap(serialize(b.t, append([]gopacket.SerializableLayer{ip}, inner...)...)))
}

func serialize(t testing.TB, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(buf.Bytes())
}

// add adds a frame, cut by the snap length.
func (b *builder) add(data []byte) {
	b.now = b.now.Add(time.Millisecond)
	there := min(len(data), b.snap)
	b.frames = append(b.frames, frame{
		CaptureInfo: gopacket.CaptureInfo{Timestamp: b.now, CaptureLength: there, Length: len(data)},
		link:        b.link, data: data[:there],
	})
}

// flags are TCP's, in words.
type flags struct{ syn, ack, fin, rst bool }

func (b *builder) tcp(src, dst netip.AddrPort, f flags, payload []byte) {
	b.t.Helper()
	seq := b.next[way(src, dst)]
	b.ip(src.Addr(), dst.Addr(), layers.IPProtocolTCP, &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), Seq: seq, Ack: b.next[way(dst, src)],
		SYN: f.syn, ACK: f.ack, FIN: f.fin, RST: f.rst, PSH: len(payload) > 0, Window: 64000,
	}, gopacket.Payload(payload))
	if f.syn || f.fin {
		seq++
	}
	b.next[way(src, dst)] = seq + uint32(len(payload))
}

// open has a client connect, and both ends start.
func (b *builder) open(from, to netip.AddrPort) {
	b.t.Helper()
	b.tcp(from, to, flags{syn: true}, nil)
	b.tcp(to, from, flags{syn: true, ack: true}, nil)
	b.say(from, to, wire.NewStartRequest())
	b.say(to, from, wire.NewStartReply(wire.ResultOK))
}

// say sends messages in a segment.
func (b *builder) say(src, dst netip.AddrPort, all ...wire.Message) {
	b.t.Helper()
	var payload []byte
	for _, m := range all {
		payload = append(payload, m.Bytes()...)
	}
	b.tcp(src, dst, flags{ack: true}, payload)
}

func (b *builder) gre(src, dst netip.Addr, id pptp.CallID, payload string) {
	b.t.Helper()
	b.ip(src, dst, layers.IPProtocolGRE, &layers.GRE{
		Version: 1, KeyPresent: true, SeqPresent: true, Protocol: layers.EthernetTypePPP,
		Key: uint32(len(payload))<<16 | uint32(id), Seq: uint32(len(b.frames)),
	}, gopacket.Payload(payload))
}

// call builds a call, from its request to the end of TCP.
func (b *builder) call() *builder {
	b.t.Helper()
	b.open(client, server)
	b.say(client, server, wire.NewOutgoingCallRequest(clientID))
	b.say(server, client, wire.NewOutgoingCallReply(serverID, clientID, wire.ResultOK))
	for range 3 {
		b.gre(client.Addr(), server.Addr(), serverID, "to the server")
		b.gre(server.Addr(), client.Addr(), clientID, "to the client")
	}
	b.say(client, server, wire.NewCallClearRequest(clientID))
	b.tcp(client, server, flags{fin: true, ack: true}, nil)
	b.tcp(server, client, flags{fin: true, ack: true}, nil)
	return b
}

func (b *builder) pcap() []byte {
	b.t.Helper()
	return pcap(b.t, b.link, b.frames)
}

// offloaded clears the total length of the IPv4 packet that b holds.
func offloaded(ip []byte) []byte {
	ip = slices.Clone(ip)
	binary.BigEndian.PutUint16(ip[2:], 0)
	return ip
}
