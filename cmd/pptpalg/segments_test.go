package main

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// The editor between two ends that speak no TCP: they send the single segments that
// a test wants, and see every bit of those that arrive.

// segments is a network whose hosts are such ends. Another client holds Call ID 7,
// so that everybody else's is translated.
type segments struct {
	*testGateway
	server *lab.TCP
	ports  uint16
}

func startSegments(t *testing.T, path datapath.Name) *segments {
	t.Helper()
	n := &segments{testGateway: startGateway(t, path, masquerade(2)), ports: 40000}
	n.server = n.tcp(n.Outside[0])
	w := n.connect(t, n.tcp(n.Inside[1]), n.Inside[1], nil)
	w.deliver(clientEnd, lab.NewOutgoingCallRequest(7).Bytes())
	return n
}

func (n *segments) tcp(h *lab.Host) *lab.TCP {
	n.t.Helper()
	end, err := lab.OpenTCP(n.t.Context(), h, h.Addr)
	must(n.t, err)
	closeAfter(n.t, end)
	return end
}

// side is an end of a connection.
type side int

const (
	clientEnd side = iota
	serverEnd
)

func (s side) other() side { return 1 - s }

// wire is a connection of two such ends.
type wire struct {
	t        *testing.T
	ends     [2]*lab.TCP
	self     [2]netip.AddrPort // as the end itself knows it
	peer     [2]netip.AddrPort // as the end knows the other
	first    [2]uint32         // sequence number of its first byte
	next     [2]uint32         // of the next byte it will send
	options  []byte            // of every segment
	window   [2]uint16         // that it offers
	received [2][]byte         // what it has received, in order
}

// connect opens a connection from an inside host to the server. Sequence numbers
// wrap within the ID of the first call request that follows the Start exchange.
func (n *segments) connect(t *testing.T, end *lab.TCP, h *lab.Host, options []byte) *wire {
	t.Helper()
	n.ports++
	w := &wire{t: t, ends: [2]*lab.TCP{end, n.server}, options: options, window: [2]uint16{5000, 5000}}
	w.self = [2]netip.AddrPort{netip.AddrPortFrom(h.Addr, n.ports), netip.AddrPortFrom(n.Outside[0].Addr, lab.Port)}
	w.peer[clientEnd] = w.self[serverEnd]
	start := lab.NewStartRequest().Bytes()
	const inCallID = 13
	w.next = [2]uint32{-uint32(1 + len(start) + inCallID), -uint32(1 + len(start) + inCallID)}
	w.handshake()
	w.deliver(clientEnd, start)
	w.deliver(serverEnd, lab.NewStartReply(lab.ResultOK).Bytes())
	w.received = [2][]byte{}
	w.first = w.next
	return w
}

func (w *wire) handshake() {
	w.t.Helper()
	must(w.t, w.ends[clientEnd].Send(w.segment(clientEnd, lab.SYN, nil)))
	syn, err := w.ends[serverEnd].Take(lab.Patience, func(s lab.Segment) bool {
		return s.Flags == lab.SYN && s.Src.Addr() == lab.GatewayPublic && s.Seq == w.next[clientEnd]
	})
	must(w.t, err)
	w.peer[serverEnd] = syn.Src
	w.next[clientEnd]++
	w.pass(serverEnd, w.segment(serverEnd, lab.SYN|lab.ACK, nil))
	w.next[serverEnd]++
	w.pass(clientEnd, w.segment(clientEnd, lab.ACK, nil))
}

// segment builds the segment that an end sends next.
func (w *wire) segment(from side, flags lab.Flags, payload []byte) lab.Segment {
	return lab.Segment{
		Src: w.self[from], Dst: w.peer[from], Seq: w.next[from], Ack: w.next[from.other()], Flags: flags,
		Window: w.window[from], Options: w.options, Payload: payload,
	}
}

// piece builds the segment of a part of what an end sends, at counted from its
// first byte after the Start exchange.
func (w *wire) piece(from side, at int, payload []byte) lab.Segment {
	s := w.segment(from, lab.ACK|lab.PSH, payload)
	s.Seq = w.first[from] + uint32(at)
	return s
}

// pass sends a segment, and returns it as the other end receives it. All but
// addresses and payload must be as it was sent.
func (w *wire) pass(from side, s lab.Segment) lab.Segment {
	w.t.Helper()
	must(w.t, w.ends[from].Send(s))
	return w.expect(from, s)
}

// expect receives the next segment of the connection, which must be s.
func (w *wire) expect(from side, s lab.Segment) lab.Segment {
	w.t.Helper()
	to := from.other()
	got, err := w.ends[to].Take(lab.Patience, func(s lab.Segment) bool { return s.Src == w.peer[to] && s.Dst == w.self[to] })
	must(w.t, err)
	want := s
	want.Src, want.Dst, want.Payload = got.Src, got.Dst, got.Payload
	if len(got.Payload) != len(s.Payload) || got.String() != want.String() || got.Wrong {
		w.t.Fatalf("received %v (checksum wrong: %v), want %v with its IDs edited", got, got.Wrong, s)
	}
	w.keep(to, got)
	return got
}

// keep puts what an end received where it belongs. What comes twice must be the same.
func (w *wire) keep(to side, s lab.Segment) {
	w.t.Helper()
	at := int(int32(s.Seq - w.first[to.other()]))
	for i, b := range s.Payload {
		switch have := w.received[to]; {
		case at+i < 0:
		case at+i < len(have) && have[at+i] != b:
			w.t.Errorf("byte %d of the stream came as %#x and again as %#x", at+i, have[at+i], b)
		case at+i == len(have):
			w.received[to] = append(have, b)
		}
	}
}

// deliver sends bytes in one segment.
func (w *wire) deliver(from side, b []byte) {
	w.t.Helper()
	w.pass(from, w.segment(from, lab.ACK|lab.PSH, b))
	w.next[from] += uint32(len(b))
}

// callID returns the ID that an end received at an offset of its stream.
func (w *wire) callID(to side, at int) pptp.CallID {
	w.t.Helper()
	if len(w.received[to]) < at+2 {
		w.t.Fatalf("only %d bytes have arrived", len(w.received[to]))
	}
	return pptp.CallID(binary.BigEndian.Uint16(w.received[to][at:]))
}

// clientsHalf is what the client says, and what the rows below cut and repeat: its
// Call IDs lie at offsets 12 and 168+12.
var clientsHalf = slices.Concat(lab.NewOutgoingCallRequest(7).Bytes(),
	lab.NewCallClearRequest(7).Bytes(), lab.NewEchoRequest(0x07070707).Bytes())

const secondID = 168 + 12

func TestSegments(t *testing.T) { overDataPaths(t, testSegments) }

func testSegments(t *testing.T, path datapath.Name) {
	n := startSegments(t, path)
	end := n.tcp(n.Inside[0])
	tests := []struct {
		name    string
		options []byte
		run     func(w *wire)
	}{
		{"as one", nil, func(w *wire) { w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf)) }},
		{"sent again", nil, func(w *wire) {
			for range 3 {
				w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf))
			}
		}},
		{"sent again one by one", nil, func(w *wire) {
			w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf))
			for at := range clientsHalf {
				w.pass(clientEnd, w.piece(clientEnd, at, clientsHalf[at:at+1]))
			}
		}},
		{"sent again as one", nil, func(w *wire) {
			for at := range clientsHalf {
				w.pass(clientEnd, w.piece(clientEnd, at, clientsHalf[at:at+1]))
			}
			w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf))
		}},
		{"sent again from every offset", nil, func(w *wire) {
			w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf))
			for at := range clientsHalf {
				w.pass(clientEnd, w.piece(clientEnd, at, clientsHalf[at:]))
			}
		}},
		{"overlapping", nil, func(w *wire) {
			for at := 0; at < len(clientsHalf); at += 7 {
				w.pass(clientEnd, w.piece(clientEnd, max(0, at-20), clientsHalf[max(0, at-20):min(at+7, len(clientsHalf))]))
			}
		}},
		{"twice each, a byte at a time", nil, func(w *wire) {
			for at := range clientsHalf {
				w.pass(clientEnd, w.piece(clientEnd, at, clientsHalf[at:at+1]))
				w.pass(clientEnd, w.piece(clientEnd, at, clientsHalf[at:at+1]))
			}
		}},
		{"out of order", nil, func(w *wire) {
			// Behind a gap they are dropped: what the server receives first is
			// what was sent last.
			must(w.t, w.ends[clientEnd].Send(w.piece(clientEnd, 13, clientsHalf[13:])))
			must(w.t, w.ends[clientEnd].Send(w.piece(clientEnd, 12, clientsHalf[12:40])))
			w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf[:12]))
			w.pass(clientEnd, w.piece(clientEnd, 12, clientsHalf[12:40]))
			w.pass(clientEnd, w.piece(clientEnd, 13, clientsHalf[13:]))
		}},
		{"keep-alive probes", nil, func(w *wire) {
			w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf[:13])) // its last byte is the ID's first
			w.pass(clientEnd, w.piece(clientEnd, 12, nil))
			w.pass(clientEnd, w.piece(clientEnd, 12, clientsHalf[12:13]))
			w.pass(clientEnd, w.piece(clientEnd, 13, clientsHalf[13:]))
			w.pass(clientEnd, w.piece(clientEnd, len(clientsHalf)-1, nil))
			w.pass(clientEnd, w.piece(clientEnd, len(clientsHalf)-1, clientsHalf[len(clientsHalf)-1:]))
		}},
		{"zero-window probes", nil, func(w *wire) {
			w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf[:12]))
			w.next[clientEnd] += 12
			w.window[serverEnd] = 0
			w.pass(serverEnd, w.segment(serverEnd, lab.ACK, nil))
			for range 3 { // the ID's first byte, which there is no room for
				w.pass(clientEnd, w.piece(clientEnd, 12, clientsHalf[12:13]))
				w.pass(serverEnd, w.segment(serverEnd, lab.ACK, nil))
			}
			w.window[serverEnd] = 5000
			w.pass(serverEnd, w.segment(serverEnd, lab.ACK, nil))
			w.pass(clientEnd, w.piece(clientEnd, 12, clientsHalf[12:]))
			w.next[clientEnd] -= 12
		}},
		{"urgent data", nil, func(w *wire) {
			s := w.piece(clientEnd, 0, clientsHalf)
			s.Flags, s.Urgent = s.Flags|lab.URG, 14 // the byte behind the ID
			w.pass(clientEnd, s)
		}},
		// Timestamps, and an option of RFC 4727's experiments.
		{"options", []byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 253, 4, 0xAA, 0xBB}, func(w *wire) {
			w.pass(clientEnd, w.piece(clientEnd, 0, clientsHalf))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := n.connect(t, end, n.Inside[0], tt.options)
			tt.run(w)
			public := w.callID(serverEnd, 12)
			want := bytes.Clone(clientsHalf)
			binary.BigEndian.PutUint16(want[12:], uint16(public))
			binary.BigEndian.PutUint16(want[secondID:], uint16(public))
			if public == 7 || public == 0 || !bytes.Equal(w.received[serverEnd], want) {
				t.Errorf("the server received\n% x, want\n% x", w.received[serverEnd], want)
			}
			w.answer(public)
		})
	}
}

// answer has the server say its part, and say it again a byte at a time: the call
// is over by then.
func (w *wire) answer(public pptp.CallID) {
	w.t.Helper()
	w.next[clientEnd] = w.first[clientEnd] + uint32(len(clientsHalf))
	theirs := slices.Concat(lab.NewOutgoingCallReply(900, public, lab.ResultOK).Bytes(),
		lab.NewCallDisconnectNotify(public, 1).Bytes(), lab.NewEchoReply(0x07070707, lab.ResultOK).Bytes())
	for _, cut := range []int{1, 13, 14, 15, 16, 32 + 13, len(theirs)} {
		from := len(w.received[clientEnd])
		w.pass(serverEnd, w.piece(serverEnd, from, theirs[from:cut]))
	}
	for at := range theirs {
		w.pass(serverEnd, w.piece(serverEnd, at, theirs[at:at+1]))
	}
	if reply, notify := w.callID(clientEnd, 14), w.callID(clientEnd, 32+12); reply != 7 || notify != 7 {
		w.t.Errorf("the client gets a reply to call %v and a notify of call %v, want 7", reply, notify)
	}
}
