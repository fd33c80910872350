package lab

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/pptp"
)

func addrCmp() cmp.Option {
	return cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
}

// TestRawSegments opens a connection to a kernel's TCP by single segments.
func TestRawSegments(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	listener, err := n.Outside[0].Listen(netip.AddrPortFrom(n.Outside[0].Addr, Port))
	must(t, err)
	closeAfter(t, listener)
	raw, err := OpenTCP(ctx(t), n.Inside[0], n.Inside[0].Addr)
	must(t, err)
	closeAfter(t, raw)
	s := Segment{
		Src: netip.AddrPortFrom(n.Inside[0].Addr, 4000), Dst: netip.AddrPortFrom(n.Outside[0].Addr, Port),
		Seq: 0xffffffff, Flags: SYN, Window: 5000, Options: []byte{2, 4, 5, 180}, // MSS 1460
	}
	must(t, raw.Send(s))
	reply, err := raw.Recv(Patience)
	must(t, err)
	if reply.Flags != SYN|ACK || reply.Ack != 0 || reply.Dst != s.Src {
		t.Fatalf("SYN is answered by %v", reply)
	}
	s.Flags, s.Seq, s.Ack, s.Options, s.Payload = ACK|PSH, 0, reply.Seq+1, nil, []byte("odd")
	must(t, raw.Send(s))
	conn, err := listener.AcceptTCP()
	must(t, err)
	defer conn.Close()
	if got, err := NewControl(conn).ReadBytes(3, Patience); err != nil || string(got) != "odd" {
		t.Errorf("the kernel's TCP reads %q, %v", got, err)
	}
}

func TestSegmentBytes(t *testing.T) {
	want := Segment{
		Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:65535"),
		Seq: 0xfffffff0, Ack: 1, Flags: ACK | URG, Window: 7, Urgent: 3, Options: []byte{1, 1, 1, 0}, Payload: []byte("abc"),
	}
	b := want.datagram()
	got, err := parseSegment(b)
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	b[len(b)-1]++
	if got, err := parseSegment(b); err != nil || !got.Wrong {
		t.Errorf("after a change of one byte: %v, checksum wrong: %v", err, got.Wrong)
	}
}

func TestTooBig(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	in, out := n.Inside[0], n.Outside[0]
	from, err := OpenICMP(out, out.Addr)
	must(t, err)
	closeAfter(t, from)
	to, err := OpenICMP(in, in.Addr)
	must(t, err)
	closeAfter(t, to)
	want := TooBig{Src: out.Addr, Dst: in.Addr, MTU: 1300, QuotSrc: in.Addr, QuotDst: out.Addr, QuotCallID: 0x1234}
	must(t, from.Send(want))
	got, err := to.Recv(Patience)
	if diff := cmp.Diff(want, got, addrCmp()); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}

// TestBothEndsPlayed has the test play both ends: each places calls, of both
// kinds, and the other answers.
func TestBothEndsPlayed(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	l, err := Listen(n.Outside[0])
	must(t, err)
	closeAfter(t, l)
	accepted := make(chan *Client, 1)
	go func() {
		c, err := l.Accept(Patience)
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	a, err := Dialing{Server: netip.AddrPortFrom(n.Outside[0].Addr, Port), Write: (*Control).SendBytes}.Start(ctx(t), n.Inside[0])
	must(t, err)
	closeAfter(t, a)
	b := <-accepted
	closeAfter(t, b)
	for _, tt := range []struct{ caller, answerer *Client }{{a, b}, {b, a}} {
		for _, place := range []func(*Client, pptp.CallID) (*Call, error){(*Client).Call, (*Client).OfferCall} {
			answered := make(chan error, 1)
			go func() {
				_, err := tt.answerer.Answer(900)
				answered <- err
			}()
			call, err := place(tt.caller, 7)
			must(t, err)
			must(t, <-answered)
			if call.Peer != 900 {
				t.Errorf("the answerer's ID is %v", call.Peer)
			}
		}
	}
}
