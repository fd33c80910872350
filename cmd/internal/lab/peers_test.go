package lab

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
)

// silence is how long nothing must arrive where nothing should.
const silence = 200 * time.Millisecond

func server(t *testing.T, h *Host, b Behaviour) *Server {
	t.Helper()
	s, err := StartServer(h, b)
	must(t, err)
	closeAfter(t, s)
	return s
}

func client(t *testing.T, h *Host, to netip.Addr) *Client {
	t.Helper()
	c, err := StartClient(ctx(t), h, to)
	must(t, err)
	closeAfter(t, c)
	return c
}

func call(t *testing.T, c *Client, id pptp.CallID) *Call {
	t.Helper()
	call, err := c.Call(id)
	must(t, err)
	return call
}

func TestOrdinaryCall(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	s := server(t, n.Outside[0], Behaviour{NextID: Fixed(900)})
	c := client(t, n.Inside[0], s.Host.Addr)
	a, b := call(t, c, 0), call(t, c, 500) // two calls on one connection, as npppd allows
	if a.Peer != 900 {
		t.Errorf("server's ID is %v", a.Peer)
	}
	must(t, a.Exchange([]byte("zero"), Patience))
	must(t, s.Send(1, []byte("unsolicited")))
	if got, err := b.Recv(Patience); err != nil || string(got) != "unsolicited" {
		t.Errorf("got %q, %v", got, err)
	}
	must(t, c.Send(NewEchoRequest(77)))
	if m, err := c.Expect(EchoReply, Patience); err != nil || m != NewEchoReply(77, ResultOK) {
		t.Errorf("got %v, %v", m, err)
	}
	must(t, c.Send(NewStopRequest()))
	before, err := c.ExpectEnd(Patience)
	if diff := cmp.Diff([]Message{NewStopReply(ResultOK)}, before); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	want := []Message{NewStartRequest(), NewOutgoingCallRequest(0), NewOutgoingCallRequest(500), NewEchoRequest(77), NewStopRequest()}
	if diff := cmp.Diff(want, s.Received(0)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	must(t, Poll(Patience, func() bool { return s.Calls()[0].Ended && s.Calls()[1].Ended }))
}

func TestOfferedCall(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	s := server(t, n.Outside[0], Behaviour{})
	c := client(t, n.Inside[0], s.Host.Addr)
	offered, err := c.OfferCall(0xBEEF)
	must(t, err)
	must(t, offered.Exchange([]byte("from the PAC"), Patience))
	must(t, Poll(Patience, func() bool { return len(s.Received(0)) == 3 }))
	if m := s.Received(0)[2]; m != NewIncomingCallConnected(offered.Peer) {
		t.Errorf("got %v", m)
	}
}

func TestHowCallsEnd(t *testing.T) {
	tests := []struct {
		notify Notify
		want   []Message
	}{
		{NotifyOwn, []Message{NewCallDisconnectNotify(900, 4)}},
		{NotifyPeer, []Message{NewCallDisconnectNotify(0x1234, 4)}},
		{NotifySwapped, []Message{NewCallDisconnectNotify(0x3412, 4)}},
		{NotifyNever, nil},
		{NotifyHangUp, nil},
	}
	n := build(t, Options{Inside: 1, Outside: 1})
	for _, tt := range tests {
		t.Run(tt.notify.String(), func(t *testing.T) {
			s, err := StartServer(n.Outside[0], Behaviour{NextID: Fixed(900), Notify: tt.notify})
			must(t, err)
			defer s.Close()
			c := client(t, n.Inside[0], s.Host.Addr)
			must(t, call(t, c, 0x1234).Clear())
			if tt.notify != NotifyHangUp {
				must(t, c.Send(NewStopRequest()))
				tt.want = append(tt.want, NewStopReply(ResultOK))
			}
			got, err := c.ExpectEnd(Patience)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got)\n%s", err, diff)
			}
			if !s.Calls()[0].Ended {
				t.Error("call goes on")
			}
		})
	}
}

func TestOddServers(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 4})
	t.Run("early GRE", func(t *testing.T) {
		s := server(t, n.Outside[0], Behaviour{Early: [][]byte{[]byte("first"), []byte("second")}})
		c := client(t, n.Inside[0], s.Host.Addr)
		must(t, c.Send(NewOutgoingCallRequest(5)))
		for _, want := range []string{"first", "second"} {
			if p, err := c.GRE.RecvCall(5, Patience); err != nil || string(p.Payload) != want {
				t.Errorf("got %v, %v", p, err)
			}
		}
	})
	t.Run("silent", func(t *testing.T) {
		s := server(t, n.Outside[1], Behaviour{Silent: []Type{OutgoingCallRequest}})
		c := client(t, n.Inside[0], s.Host.Addr)
		must(t, c.Send(NewOutgoingCallRequest(5)))
		if m, err := c.Read(silence); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, %v", m, err)
		}
	})
	t.Run("refusing", func(t *testing.T) {
		s := server(t, n.Outside[2], Behaviour{Refuse: true})
		c := client(t, n.Inside[0], s.Host.Addr)
		call(t, c, 5)
		_, err := c.Call(5)
		if r := (*Refusal)(nil); !errors.As(err, &r) || r.Reply.Result != ResultBusy {
			t.Errorf("got %v", err)
		}
		call(t, c, 6)
	})
	t.Run("own ways", func(t *testing.T) {
		s := server(t, n.Outside[3], Behaviour{
			Answer: func(call CallRecord, payload []byte) []byte {
				return append([]byte(call.Own.String()+":"), payload...)
			},
			Message: func(s *Session, m Message) bool {
				return m.Type == EchoRequest && s.SendRaw([]byte("not PPTP")) == nil
			}})
		c := client(t, n.Inside[0], s.Host.Addr)
		a := call(t, c, 5)
		must(t, a.Send([]byte("x")))
		if got, err := a.Recv(Patience); err != nil || string(got) != "1:x" {
			t.Errorf("got %q, %v", got, err)
		}
		must(t, c.Send(NewEchoRequest(1)))
		if got, err := c.ReadBytes(8, Patience); err != nil || string(got) != "not PPTP" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestGREOddities(t *testing.T) {
	n := build(t, Options{Outside: 2})
	from, err := OpenGRE(n.Outside[0], n.Outside[0].Addr)
	must(t, err)
	closeAfter(t, from)
	to, err := OpenGRE(n.Outside[1], n.Outside[1].Addr)
	must(t, err)
	closeAfter(t, to)
	must(t, to.Quiet(silence/4))
	spoofed := Packet{Src: nth(WAN, 99), Dst: n.Outside[1].Addr, CallID: 7, Seq: new(uint32(0xFFFFFFFF)), Payload: []byte("spoofed")}
	ack := Packet{Dst: n.Outside[1].Addr, CallID: 8, Ack: new(uint32(3))}
	must(t, from.Send(spoofed))
	must(t, from.Send(ack))
	before := time.Now()
	got, err := to.RecvCall(8, Patience) // out of order
	if ack.Src = n.Outside[0].Addr; err != nil || got.String() != ack.String() {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err = to.Recv(Patience); err != nil || got.String() != spoofed.String() {
		t.Errorf("got %v, %v", got, err)
	}
	if age := time.Since(got.Arrival); age < 0 || age > time.Since(before)+time.Second {
		t.Errorf("arrived %v ago", age)
	}
	must(t, from.Send(ack))
	if err := to.Quiet(Patience); err == nil {
		t.Error("quiet in spite of a packet")
	}
	if _, err := to.Recv(time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

// pair returns both ends of a connection between two hosts.
func pair(t *testing.T, from, to *Host) (near, far *Control) {
	t.Helper()
	l, err := to.Listen(netip.AddrPortFrom(to.Addr, Port))
	must(t, err)
	defer l.Close()
	conn, err := from.Dial(ctx(t), netip.AddrPort{}, netip.AddrPortFrom(to.Addr, Port))
	must(t, err)
	peer, err := l.AcceptTCP()
	must(t, err)
	t.Cleanup(func() { conn.Close(); peer.Close() })
	return NewControl(conn), NewControl(peer)
}

// TestSegmentation looks at the wire: how long are the segments that carry data?
func TestSegmentation(t *testing.T) {
	request := NewOutgoingCallRequest(5).Bytes()
	ones := make([]int, len(request))
	for i := range ones {
		ones[i] = 1
	}
	tests := []struct {
		name  string
		send  func(c *Control) error
		sizes []int
	}{
		{"whole", func(c *Control) error { return c.SendRaw(request) }, []int{168}},
		{"two messages", func(c *Control) error { return c.Send(NewCallClearRequest(5), NewStopRequest()) }, []int{32}},
		{"cut in the Call ID", func(c *Control) error { return c.SendCut(request, 1, 13) }, []int{1, 12, 155}},
		{"every byte", func(c *Control) error { return c.SendBytes(request) }, ones},
		{"Nagle", func(c *Control) error { return c.SendNagle(request) }, []int{1, 167}},
	}
	n := build(t, Options{Outside: 2})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := pair(t, n.Outside[0], n.Outside[1])
			sizes := watch(t, n.Outside[1], near.Conn().LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port())
			must(t, tt.send(near))
			must(t, near.CloseWrite())
			got, err := io.ReadAll(far.Conn())
			must(t, err)
			seen := sizes()
			if tt.name == "Nagle" { // the writer may be slower than the first ACK
				seen = merged(seen)
			}
			if diff := cmp.Diff(tt.sizes, seen); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(got) == len(request) && string(got) != string(request) {
				t.Errorf("got % x", got)
			}
		})
	}
}

// merged keeps the first size and adds up the others.
func merged(sizes []int) []int {
	if len(sizes) < 2 {
		return sizes
	}
	total := 0
	for _, n := range sizes[1:] {
		total += n
	}
	return []int{sizes[0], total}
}

// watch captures what a host receives from a TCP port; the function it returns
// gives the lengths of the segments with data, up to FIN.
func watch(t *testing.T, h *Host, port uint16) func() []int {
	t.Helper()
	const ethIP = 0x0800 // ETH_P_IP, in network byte order below
	f, err := h.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, ethIP>>8|ethIP&0xFF<<8)
	must(t, err)
	return func() (sizes []int) {
		defer f.Close()
		must(t, f.SetReadDeadline(time.Now().Add(Patience)))
		b := make([]byte, maxDatagram)
		for {
			n, err := f.Read(b)
			must(t, err)
			ip := b[:n]
			tcp := ip[int(ip[0]&15)*4 : int(ip[2])<<8|int(ip[3])]
			if ip[9] != unix.IPPROTO_TCP || uint16(tcp[0])<<8|uint16(tcp[1]) != port {
				continue
			}
			if data := len(tcp) - int(tcp[12]>>4)*4; data > 0 {
				sizes = append(sizes, data)
			}
			if tcp[13]&1 != 0 { // FIN
				return sizes
			}
		}
	}
}

func TestHowConnectionsEnd(t *testing.T) {
	tests := []struct {
		name string
		end  func(c *Control) error
		want error
	}{
		{"FIN", (*Control).Close, io.EOF},
		{"RST", (*Control).Reset, unix.ECONNRESET},
	}
	n := build(t, Options{Outside: 2})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := pair(t, n.Outside[0], n.Outside[1])
			must(t, far.Send(NewEchoRequest(1))) // unread data must not make a FIN an RST
			_, err := near.Expect(EchoRequest, Patience)
			must(t, err)
			must(t, far.Send(NewEchoRequest(2)))
			must(t, tt.end(near))
			if _, err := far.Read(Patience); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestExpectSaysWhatCame(t *testing.T) {
	n := build(t, Options{Outside: 2})
	near, far := pair(t, n.Outside[0], n.Outside[1])
	must(t, near.Send(NewSetLinkInfo(9)))
	_, err := far.Expect(EchoRequest, Patience)
	if want := "expect Echo-Request: got Set-Link-Info peer 9"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
