package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/admin"
)

// liar is an inside host and an outside host that work together against everybody else:
// they end, steal and exhaust what they can. They know what the daemon knows, but
// change nothing of what others send.
type liar struct {
	g        *testGateway
	in, out  *lab.Host
	listener *net.TCPListener // of out, for the port of PPTP
	gre      [2]*lab.GRE      // of in and of out
	tcp      [2]*lab.TCP      // the same
	tap      *wiretap

	told atomic.Int64 // how often it was said to the end
}

// Indices of a liar's sockets.
const (
	insider = iota
	outsider
)

// newLiar opens a liar's sockets.
func newLiar(g *testGateway, in, out *lab.Host, tap *wiretap) *liar {
	g.t.Helper()
	l := &liar{g: g, in: in, out: out, tap: tap}
	for i, h := range []*lab.Host{in, out} {
		var err error
		l.gre[i], err = lab.OpenGRE(h, h.Addr)
		must(g.t, err)
		closeAfter(g.t, l.gre[i])
		l.tcp[i], err = lab.OpenTCPBeside(h, h.Addr)
		must(g.t, err)
		closeAfter(g.t, l.tcp[i])
		must(g.t, h.SetSysctl("net.ipv4.tcp_fastopen", fastOpen))
	}
	var err error
	l.listener, err = out.Listen(netip.AddrPortFrom(out.Addr, lab.Port))
	must(g.t, err)
	closeAfter(g.t, l.listener)
	return l
}

// fastOpen is net.ipv4.tcp_fastopen for clients that send data with any SYN and servers
// that take it, all without a cookie.
const fastOpen = "1543" // 0x607

// stay counts a lie that was said to the end, and leaves what it has opened as it is for
// a moment.
func (l *liar) stay(err error) error {
	if err == nil {
		l.told.Add(1)
		time.Sleep(silence)
	}
	return err
}

// honest is the server that all honest clients call.
func (l *liar) honest() *lab.Host { return l.g.Outside[0] }

// pair connects the liar's client to its server. Nothing has been said yet.
func (l *liar) pair() (client, server *lab.Control, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	l.forget()
	a, err := l.in.Dial(ctx, netip.AddrPort{}, netip.AddrPortFrom(l.out.Addr, lab.Port))
	if err != nil {
		return nil, nil, err
	}
	if err = l.listener.SetDeadline(time.Now().Add(lab.Patience)); err == nil {
		var b *net.TCPConn
		if b, err = l.listener.AcceptTCP(); err == nil {
			return lab.NewControl(a), lab.NewControl(b), nil
		}
	}
	return nil, nil, errors.Join(err, a.Close())
}

// forget closes connections that nobody has accepted: their clients have given up.
func (l *liar) forget() {
	for l.listener.SetDeadline(time.Now()) == nil {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// started connects the two, and has them exchange Start messages.
func (l *liar) started() (client, server *lab.Control, err error) {
	client, server, err = l.pair()
	if err != nil {
		return nil, nil, err
	}
	if err = startPair(client, server); err != nil {
		return nil, nil, errors.Join(err, client.Reset(), server.Reset())
	}
	return client, server, nil
}

func startPair(client, server *lab.Control) error {
	if err := client.Send(lab.NewStartRequest()); err != nil {
		return err
	}
	if _, err := server.Expect(lab.StartRequest, lab.Patience); err != nil {
		return err
	}
	if err := server.Send(lab.NewStartReply(lab.ResultOK)); err != nil {
		return err
	}
	_, err := client.Expect(lab.StartReply, lab.Patience)
	return err
}

// dial has the liar's client call the honest server.
func (l *liar) dial() (*lab.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	return lab.StartClient(ctx, l.in, l.honest().Addr)
}

// eat reads and forgets whatever comes on a connection, until it ends.
func eat(connections ...*lab.Control) {
	for _, c := range connections {
		if c.Conn().SetReadDeadline(time.Time{}) == nil {
			go io.Copy(io.Discard, c.Conn())
		}
	}
}

// part ends connections, by RST or by FIN.
func part(connections ...*lab.Control) {
	abrupt := rand.IntN(2) == 0
	for _, c := range connections {
		if abrupt {
			_ = c.Reset()
		} else {
			_ = c.Conn().Close()
		}
	}
}

// others returns the calls of all other clients, none while no daemon answers.
func (l *liar) others() []admin.Call {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	all, _ := admin.Client{StateDir: l.g.state}.Calls(ctx)
	var others []admin.Call
	for _, c := range all {
		if c.PNS.Address != l.in.Addr.String() && c.PAC.Address != l.in.Addr.String() {
			others = append(others, c)
		}
	}
	return others
}

// ids returns the Call IDs of all other clients' calls, of both ends, before and
// behind the NAT, as they are and with their bytes swapped, and those that the honest
// clients like.
func (l *liar) ids() []pptp.CallID {
	all := []pptp.CallID{0, 7, 14, 21}
	for _, c := range l.others() {
		for _, id := range []*pptp.CallID{c.PNS.CallID, c.PNS.PublicCallID, c.PAC.CallID, c.PAC.PublicCallID} {
			if id != nil {
				all = append(all, *id, id.Swap())
			}
		}
	}
	return all
}

// wiretap knows how far others' control connections have come, by the client's port as the
// honest server sees it.
type wiretap struct {
	mu   sync.Mutex // guards last
	last map[uint16]overheard
}

// overheard is a client's last segment, and what comes next of its stream. The segment may lie
// further on, behind bytes that were lost. Nobody may be told that the server has these: the
// client would never send them again.
type overheard struct {
	lab.Segment
	next uint32
}

// hear takes the client's next segment into account.
func (o overheard) hear(s lab.Segment) overheard {
	end := s.Seq + uint32(len(s.Payload))
	if behind := int32(s.Seq-o.next) > 0; behind || int32(end-o.next) < 0 {
		end = o.next
	}
	return overheard{s, end}
}

// wiretapOn listens to what arrives at a host.
func wiretapOn(t *testing.T, h *lab.Host) *wiretap {
	t.Helper()
	socket, err := lab.OpenTCPBeside(h, h.Addr)
	must(t, err)
	closeAfter(t, socket)
	p := &wiretap{last: make(map[uint16]overheard)}
	go p.run(socket)
	return p
}

func (p *wiretap) run(socket *lab.TCP) {
	for {
		s, err := socket.Recv(time.Minute)
		switch {
		case errors.Is(err, lab.ErrTimeout):
		case err != nil:
			return
		default:
			p.hear(s)
		}
	}
}

func (p *wiretap) hear(s lab.Segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.Flags&(lab.SYN|lab.ACK) == lab.SYN:
		p.last[s.Src.Port()] = overheard{s, s.Seq + 1}
	case s.Flags&(lab.RST|lab.SYN) == 0:
		last, known := p.last[s.Src.Port()]
		if !known {
			last.next = s.Seq
		}
		p.last[s.Src.Port()] = last.hear(s)
	}
}

func (p *wiretap) of(port uint16) (overheard, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.last[port]
	return s, ok
}

// forge sends a segment in the name of each end of each other client's connection, so many
// bytes beyond what comes next. It is an error if there is none.
func (l *liar) forge(flags lab.Flags, ahead uint32) error {
	done := 0
	for _, c := range l.others() {
		client, err := netip.ParseAddrPort(c.Control.Src)
		if err != nil {
			return err
		}
		last, ok := l.tap.of(client.Port())
		if !ok || c.Control.Dst != last.Dst.String() {
			continue
		}
		in := lab.Segment{Src: client, Dst: last.Dst, Seq: last.next + ahead, Ack: last.Ack, Flags: flags, Window: 500}
		out := lab.Segment{Src: last.Dst, Dst: last.Src, Seq: last.Ack + ahead, Ack: last.next, Flags: flags, Window: 500}
		if err := errors.Join(l.tcp[insider].Send(in), l.tcp[outsider].Send(out)); err != nil {
			return err
		}
		done++
	}
	if done == 0 {
		return fmt.Errorf("forge %#x: nobody has a connection", uint8(flags))
	}
	return l.stay(nil)
}
