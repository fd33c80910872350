package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// lie is something that a peer says or sends against others' calls.
type lie struct {
	name string
	tell func(*liar) error // says it once; its error is that it could not be said, as in the middle of trouble

	calls   int           // how many calls of the liar may come of it
	after   int64         // how often it is told before it has an effect
	lasts   time.Duration // for how long
	restart bool          // it is told to a daemon that has just started, before anybody else speaks
	later   bool          // the daemon is replaced while it is told, after all that
	living  bool          // it is told to a daemon that does not die soon: what conntrack says after a death is believed (docs/SECURITY.md)
	quiet   bool          // the other call's control connection says nothing meanwhile
	heard   bool          // others may hear it, as long as all that is theirs arrives (docs/SECURITY.md)
}

// lies are all that a liar can say. TestLies tells each alone, the soak all at once.
var lies = []lie{
	{name: "a client answers others' calls", tell: (*liar).answersOthers},
	{name: "a client clears and disconnects others' calls", tell: (*liar).clearsOthers},
	{name: "a client asks for more calls than it may have", tell: (*liar).asksTooMuch, calls: liarsCalls},
	{name: "a client redials without end", tell: (*liar).redials, calls: liarsCalls, after: 2 * liarsSpace / redialled},
	{name: "a client stops without end", tell: (*liar).stops, calls: liarsCalls},
	{name: "a client has idle connections", tell: (*liar).idles},
	{name: "a client cuts messages anywhere and leaves one unfinished", tell: (*liar).cuts, calls: liarsCalls},
	{name: "a client sends data in the SYN", tell: (*liar).opensFast, calls: liarsCalls},
	{name: "a server answers calls that nobody asked for", tell: (*liar).answersUnasked},
	{name: "a server speaks first", tell: (*liar).speaksFirst},
	{name: "a server offers more calls than it may have", tell: (*liar).offersTooMuch, calls: liarsCalls},
	{name: "a server disconnects others' calls", tell: (*liar).disconnectsOthers},
	{name: "a server takes a public ID for its own", tell: (*liar).takesPublicID, calls: liarsCalls},
	{name: "both talk garbage", tell: (*liar).babbles, calls: liarsCalls},
	{name: "RST in the window of others", tell: (*liar).resets},
	{name: "RST in the window of others after a restart", tell: (*liar).resets, restart: true},
	{name: "FINs in the window of others", tell: (*liar).finishes, lasts: 5 * time.Second, living: true},
	{name: "FINs in the window of others after a restart", tell: (*liar).finishes, restart: true, lasts: 5 * time.Second, living: true},
	{name: "FINs in the window of others before a restart", tell: (*liar).finishes, lasts: 5 * time.Second, later: true, living: true},
	{name: "FINs in the window of others until they pass, and RST", tell: (*liar).finishesAndResets, lasts: 15 * time.Second, living: true, quiet: true},
	{name: "SYN+ACK in connections of others", tell: (*liar).synchronizes},
	{name: "SYN+ACK in connections of others after a restart", tell: (*liar).synchronizes, restart: true},
	{name: "GRE from outside under others' Call IDs", tell: (*liar).strays},
	{name: "GRE from inside under others' Call IDs", tell: (*liar).injects, heard: true},
	{name: "GRE version 0 to the same server", tell: (*liar).tunnels},
}

// Limits of the daemon in these tests: low enough to be reached in a moment.
const (
	liarsCalls       = 20   // --max-calls-per-client
	liarsConnections = 60   // --max-connections
	liarsSpace       = 1000 // --max-calls-per-space
)

var liarsLimits = []string{
	"--max-calls-per-client", fmt.Sprint(liarsCalls), "--max-connections", fmt.Sprint(liarsConnections),
	"--max-calls-per-space", fmt.Sprint(liarsSpace),
}

// TestLies tells each lie again and again beside a client that has a call, and others that
// come while it is told: none notices, and the liar has no more than it may have.
func TestLies(t *testing.T) { overDataPaths(t, testLies) }

func testLies(t *testing.T, path datapath.Name) {
	for _, lie := range lies {
		t.Run(lie.name, func(t *testing.T) { testLie(t, path, lie) })
	}
}

func testLie(t *testing.T, path datapath.Name, lie lie) {
	g := startGateway(t, path, lab.Options{Inside: 3, Outside: 2, Masquerade: true, Firewall: true}, liarsLimits...)
	must(t, g.Outside[0].SetSysctl("net.ipv4.tcp_fastopen", fastOpen))
	s := g.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(100)})
	l := newLiar(g, g.Inside[2], g.Outside[1], wiretapOn(t, g.Outside[0]))
	call := callOn(t, g.client(0), 7)
	carries(t, call)
	replace := func() { g.kill(); g.start(liarsLimits...) }
	if lie.restart {
		replace()
	}
	silent := l.telling(lie)
	defer silent()
	if err := lab.Poll(4*lab.Patience, func() bool { return l.told.Load() > lie.after }); err != nil {
		t.Fatalf("the lie was told %d times: %v", l.told.Load(), err)
	}
	began := time.Now()
	for i := 0; i < 8 || time.Since(began) < lie.lasts; i++ {
		if n := l.calls(); n > lie.calls {
			t.Fatalf("the liar has %d calls, and may have %d", n, lie.calls)
		}
		if lie.quiet {
			must(t, call.Carries(fmt.Appendf(nil, "packet %d", i), lab.Patience))
		} else {
			passes(t, call, g.Inside[1], pptp.CallID(7*(i%4)))
			// Under pressure an ID serves again at once, and the server knows late that a client has left.
			must(t, lab.Poll(lab.Patience, func() bool { return s.Living() == 1 }))
		}
		if lie.lasts > 0 {
			pass(20 * time.Millisecond) // or the stream comes to where a lie is, which is none then
		}
	}
	if lie.later {
		replace()
		pass(4 * time.Second) // it compares
		carries(t, call)
	}
	silent()
	g.wantCalls(1)
	carries(t, call)
	must(t, call.Clear())
	if m, err := call.Client().Expect(lab.CallDisconnectNotify, lab.Patience); err != nil || m.CallID != call.Peer {
		t.Errorf("clear the call: %v, %v", m, err)
	}
	g.wantCalls(0)
}

// telling tells a lie until what it returns is called.
func (l *liar) telling(lie lie) (silent func()) {
	stop := make(chan struct{})
	var teller sync.WaitGroup
	teller.Go(func() {
		for !closed(stop) {
			if err := lie.tell(l); err != nil {
				l.g.t.Logf("not told: %v", err)
			}
		}
	})
	return sync.OnceFunc(func() { close(stop); teller.Wait() })
}

// tellAll tells all lies in turn that nobody may hear, in an order of its own each time, until
// stop is closed. deaths says that daemons die meanwhile.
func (l *liar) tellAll(stop chan struct{}, deaths bool) {
	for !closed(stop) {
		for _, i := range rand.Perm(len(lies)) {
			if !closed(stop) && !lies[i].heard && !(lies[i].living && deaths) {
				_ = lies[i].tell(l) // in trouble not all can be said
			}
		}
	}
}

// passes has a client come, call beside a call that is there, and go.
func passes(t *testing.T, call *lab.Call, h *lab.Host, own pptp.CallID) {
	t.Helper()
	c, err := lab.StartClient(t.Context(), h, call.Client().Server)
	must(t, err)
	defer c.Close()
	carries(t, call, callOn(t, c, own))
}

// carries has each call exchange a packet, and its control connection an echo.
// What others have sent under its Call IDs may come as well.
func carries(t *testing.T, calls ...*lab.Call) {
	t.Helper()
	for i, c := range calls {
		if err := c.Carries(fmt.Appendf(nil, "call %d, %d", i, rand.Uint32()), lab.Patience); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		must(t, c.Client().Send(lab.NewEchoRequest(1)))
		if _, err := c.Client().Expect(lab.EchoReply, lab.Patience); err != nil {
			t.Fatalf("the control connection of call %d: %v", i, err)
		}
	}
}

// calls returns how many calls the daemon has of the liar.
func (l *liar) calls() (n int) {
	l.g.t.Helper()
	for _, c := range l.g.calls() {
		if c.PNS.Address == l.in.Addr.String() || c.PAC.Address == l.in.Addr.String() {
			n++
		}
	}
	return n
}

// calling has the liar's client say something to the honest server, and not listen.
func (l *liar) calling(say func(*lab.Client) error) error {
	c, err := l.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	eat(c.Control)
	return l.stay(say(c))
}

// between has the liar's client and server say something to each other.
func (l *liar) between(begin func() (client, server *lab.Control, err error), say func(client, server *lab.Control) error) error {
	a, b, err := begin()
	if err != nil {
		return err
	}
	defer part(a, b)
	return l.stay(say(a, b))
}

// answersOthers grants, refuses and connects calls that other clients have asked for.
func (l *liar) answersOthers() error {
	return l.calling(func(c *lab.Client) (err error) {
		for _, id := range l.ids() {
			own := pptp.CallID(rand.Uint32())
			err = errors.Join(err, c.Send(lab.NewOutgoingCallReply(own, id, lab.ResultOK), lab.NewIncomingCallReply(own, id, lab.ResultOK),
				lab.NewOutgoingCallReply(id, id, lab.ResultBusy), lab.NewIncomingCallConnected(id)))
		}
		return err
	})
}

// clearsOthers ends other clients' calls, in all ways that there are.
func (l *liar) clearsOthers() error {
	return l.calling(func(c *lab.Client) (err error) {
		for _, id := range l.ids() {
			err = errors.Join(err, c.Send(lab.NewCallClearRequest(id), lab.NewCallDisconnectNotify(id, 1),
				lab.NewWANErrorNotify(id), lab.NewSetLinkInfo(id)))
		}
		return err
	})
}

// asksTooMuch asks for more calls than a client may have, even if it had its server's too,
// and stays a moment.
func (l *liar) asksTooMuch() error {
	return l.between(l.started, func(a, b *lab.Control) error {
		for i := range 3 * liarsCalls {
			own := pptp.CallID(1000 + i)
			if err := a.Send(lab.NewOutgoingCallRequest(own)); err != nil {
				return err
			}
			m, err := b.Expect(lab.OutgoingCallRequest, lab.Patience)
			if err != nil {
				return err
			}
			if err := b.Send(lab.NewOutgoingCallReply(own, m.CallID, lab.ResultOK)); err != nil {
				return err
			}
		}
		eat(a, b)
		return nil
	})
}

// redials asks for calls and clears them at once, never having many. It is the honest
// server's IDs that it wears out.
func (l *liar) redials() error {
	return l.calling(func(c *lab.Client) (err error) {
		for range redialled {
			id := pptp.CallID(rand.Uint32())
			err = errors.Join(err, c.Send(lab.NewOutgoingCallRequest(id), lab.NewCallClearRequest(id)))
		}
		return err
	})
}

// redialled is how many calls are asked for and cleared at a time.
const redialled = 100

// stops sends Stop-Control-Connection-Requests without end, with calls on the connection.
func (l *liar) stops() error {
	return l.between(l.started, func(a, b *lab.Control) (err error) {
		eat(a, b)
		var flood []lab.Message
		for i := range liarsCalls {
			flood = append(flood, lab.NewOutgoingCallRequest(pptp.CallID(3000+i)))
		}
		for range 500 {
			flood = append(flood, lab.NewStopRequest())
		}
		for range 20 {
			err = errors.Join(err, a.Send(flood...))
		}
		return err
	})
}

// idles holds as many connections as the daemon has place for, in every state before a
// call.
func (l *liar) idles() error {
	for i := range liarsConnections {
		a, b, err := l.pair()
		if err != nil {
			return err
		}
		defer part(a, b)
		switch i % 4 {
		case 1:
			err = a.Send(lab.NewStartRequest())
		case 2:
			err = a.SendRaw([]byte{0})
		case 3:
			err = startPair(a, b)
		}
		if err != nil {
			return err
		}
	}
	return l.stay(nil)
}

// cuts sends calls' requests in pieces that end anywhere, and goes in the middle of one.
func (l *liar) cuts() error {
	return l.calling(func(c *lab.Client) (err error) {
		id := l.ids()
		for range 5 {
			b := lab.NewOutgoingCallRequest(id[rand.IntN(len(id))]).Bytes()
			err = errors.Join(err, c.SendCut(b, 1, 12, 13, 14, 15+rand.IntN(len(b)-15)))
		}
		b := lab.NewOutgoingCallRequest(id[0]).Bytes()
		return errors.Join(err, c.SendCut(b[:14+rand.IntN(len(b)-14)], 13))
	})
}

// opensFast asks the honest server for calls on a connection whose SYN has data.
func (l *liar) opensFast() error {
	var conn net.Conn
	err := l.in.Do(func() (err error) {
		d := net.Dialer{Timeout: lab.Patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
			}), err)
		}}
		d.SetMultipathTCP(false)
		conn, err = d.DialContext(context.Background(), "tcp4", netip.AddrPortFrom(l.honest().Addr, lab.Port).String())
		return err
	})
	if err != nil {
		return err
	}
	c := lab.NewControl(conn.(*net.TCPConn))
	defer part(c)
	if err := c.Send(lab.NewStartRequest()); err != nil { // this sends the SYN
		return err
	}
	if _, err := c.Expect(lab.StartReply, lab.Patience); err != nil {
		return err
	}
	for _, id := range []pptp.CallID{7, 14, 21} {
		if err := c.Send(lab.NewOutgoingCallRequest(id)); err != nil {
			return err
		}
		if _, err := c.Expect(lab.OutgoingCallReply, lab.Patience); err != nil {
			return err
		}
	}
	return l.stay(nil)
}

// answersUnasked has the liar's server answer calls that its client has not asked for.
func (l *liar) answersUnasked() error {
	return l.between(l.started, func(a, b *lab.Control) (err error) {
		eat(a, b)
		for i := range 2 * liarsCalls {
			err = errors.Join(err, b.Send(lab.NewOutgoingCallReply(pptp.CallID(0x1000+i), pptp.CallID(0x2000+i), lab.ResultOK)))
		}
		for i, id := range l.ids() {
			own := pptp.CallID(0x3000 + i)
			err = errors.Join(err, b.Send(lab.NewOutgoingCallReply(own, id, lab.ResultOK), lab.NewIncomingCallReply(id, own, lab.ResultOK)))
		}
		return err
	})
}

// speaksFirst has the liar's server begin with its answers, while its client is silent.
func (l *liar) speaksFirst() error {
	return l.between(l.pair, func(a, b *lab.Control) (err error) {
		eat(a, b)
		err = b.Send(lab.NewStartReply(lab.ResultOK))
		for i, id := range l.ids() {
			err = errors.Join(err, b.Send(lab.NewOutgoingCallReply(pptp.CallID(i), id, lab.ResultOK)))
		}
		return err
	})
}

// offersTooMuch has the liar's server offer calls, under others' IDs and more than it may
// have, and its client take them.
func (l *liar) offersTooMuch() error {
	return l.between(l.started, func(a, b *lab.Control) (err error) {
		eat(a, b)
		for _, id := range l.ids() {
			err = errors.Join(err, b.Send(lab.NewIncomingCallRequest(id)), a.Send(lab.NewIncomingCallReply(id, id, lab.ResultOK)))
		}
		for i := range pptp.CallID(3 * liarsCalls) {
			err = errors.Join(err, b.Send(lab.NewIncomingCallRequest(0x4000+i)), a.Send(lab.NewIncomingCallReply(0x4000+i, 0x4000+i, lab.ResultOK)))
		}
		return err
	})
}

// disconnectsOthers has the liar's server end other clients' calls.
func (l *liar) disconnectsOthers() error {
	return l.between(l.started, func(a, b *lab.Control) (err error) {
		eat(a, b)
		for _, id := range l.ids() {
			err = errors.Join(err, b.Send(lab.NewCallDisconnectNotify(id, 1), lab.NewCallClearRequest(id),
				lab.NewWANErrorNotify(id), lab.NewSetLinkInfo(id)))
		}
		return err
	})
}

// takesPublicID has the liar's server give a call the ID that is the public form of
// another one of the same connection, and then disconnect both.
func (l *liar) takesPublicID() error {
	return l.between(l.started, func(a, b *lab.Control) error {
		eat(a)
		var shown []pptp.CallID
		for _, own := range []pptp.CallID{7, 14} {
			if err := a.Send(lab.NewOutgoingCallRequest(own)); err != nil {
				return err
			}
			m, err := b.Expect(lab.OutgoingCallRequest, lab.Patience)
			if err != nil {
				return err
			}
			shown = append(shown, m.CallID)
		}
		return b.Send(lab.NewOutgoingCallReply(shown[1], shown[0], lab.ResultOK), lab.NewOutgoingCallReply(shown[0], shown[1], lab.ResultOK),
			lab.NewCallDisconnectNotify(shown[0], 1), lab.NewCallDisconnectNotify(shown[1].Swap(), 1))
	})
}

// babbles has both ends send what is no message, or only half of one.
func (l *liar) babbles() error {
	begin := l.pair
	if rand.IntN(2) == 0 {
		begin = l.started
	}
	return l.between(begin, func(a, b *lab.Control) (err error) {
		eat(a, b)
		for i := range 40 {
			m := lab.NewOutgoingCallRequest(7).Bytes()
			for range 1 + rand.IntN(8) {
				m[rand.IntN(len(m))] = byte(rand.Uint32())
			}
			from := rand.IntN(len(m))
			err = errors.Join(err, []*lab.Control{a, b}[i%2].SendRaw(m[from:from+1+rand.IntN(len(m)-from)]))
		}
		return err
	})
}

// strays sends GRE from the liar's server to other clients' public Call IDs.
func (l *liar) strays() error {
	var err error
	for _, id := range l.ids() {
		p := lab.Packet{Dst: lab.GatewayPublic, CallID: id, Seq: new(uint32(1)), Payload: []byte("a lie from outside")}
		err = errors.Join(err, l.gre[outsider].Send(p))
	}
	return l.stay(err)
}

// injects sends GRE from the liar's client to the honest server's Call IDs of others, and
// to those that it will give next.
func (l *liar) injects() error {
	var next pptp.CallID
	for _, c := range l.others() {
		if c.PAC.CallID != nil {
			next = max(next, *c.PAC.CallID)
		}
	}
	var err error
	for range 10 {
		for ahead := range pptp.CallID(16) {
			p := lab.Packet{Dst: l.honest().Addr, CallID: next + 8 - ahead, Seq: new(uint32(1)), Payload: []byte("a lie from inside")}
			err = errors.Join(err, l.gre[insider].Send(p))
		}
	}
	return l.stay(err)
}

// tunnels sends ordinary GRE to the honest server, and to the gateway in return.
func (l *liar) tunnels() error {
	var err error
	for _, header := range [][]byte{{0, 0, 8, 0}, {0x20, 0, 8, 0, 0, 0, 0, 7}, {0x20, 0, 0x88, 0x0b, 0, 0, 0, 0}} {
		packet := append(header, "a tunnel"...)
		err = errors.Join(err, l.gre[insider].SendBytes(l.honest().Addr, packet), l.gre[outsider].SendBytes(lab.GatewayPublic, packet))
	}
	return l.stay(err)
}

// resets, finishes and synchronizes forge what the stack of who receives it ignores, or
// answers by a challenge (RFC 5961): it does not fit exactly.
func (l *liar) resets() error { return l.forge(lab.RST|lab.ACK, 500) }

func (l *liar) finishes() error {
	const unreached = 20000 // by what control connections carry here, or the stack would take it in the end
	return l.forge(lab.FIN|lab.ACK, unreached)
}

// finishesAndResets repeats a FIN until the daemon takes what is before it for read by others.
func (l *liar) finishesAndResets() error {
	for range 6 {
		if err := l.finishes(); err != nil {
			return err
		}
	}
	return l.resets()
}

func (l *liar) synchronizes() error { return l.forge(lab.SYN|lab.ACK, rand.Uint32()) }
