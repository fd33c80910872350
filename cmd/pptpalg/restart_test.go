package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

const (
	restarts = 5
	// between is how long the daemon runs between two restarts: longer than TCP
	// waits before it first sends again what was lost.
	between = 400 * time.Millisecond
	// packetEvery and echoEvery pace the traffic.
	packetEvery = time.Millisecond
	echoEvery   = 10 * time.Millisecond
	// window is how many of a call's packets may be on their way: on a busy machine
	// the lab's own sockets would overflow.
	window = 64
)

// TestRestart restarts the daemon under traffic, by hand and as the unit does. Two
// calls with one Call ID carry a thousand packets a second each way, their control
// connections an echo every ten milliseconds: no packet is lost and no echo stuck. A
// third client sets up calls all the time; those that it sets up while nobody edits
// carry nothing, and the test tells how many did. Packets that visit the daemon are
// lost while there is none; the calls go on after it.
func TestRestart(t *testing.T) { overDataPathsInTurn(t, testRestart) }

func testRestart(t *testing.T, path datapath.Name) {
	t.Run("by hand", func(t *testing.T) {
		endQuickly(t)
		g := startGateway(t, path, masquerade(3))
		restartUnderTraffic(t, g, func() { g.stop(); g.start() })
	})
	t.Run("unit", func(t *testing.T) {
		m := manageGateway(t, path, masquerade(3))
		m.start()
		restartUnderTraffic(t, m.testGateway, func() { m.stop(); m.start() })
	})
}

func restartUnderTraffic(t *testing.T, g *testGateway, restart func()) {
	s := g.server(lab.Behaviour{Refuse: true})
	streams := []*stream{startStream(t, g, 0), startStream(t, g, 1)}
	var p phase
	setter := startSetter(g, g.client(2), &p)
	for range restarts {
		pass(between)
		began := time.Now()
		p.during(restart)
		t.Logf("restarted within %v", time.Since(began))
	}
	pass(between)
	var stopping sync.WaitGroup // where packets were lost, each waits for them
	for _, b := range streams {
		stopping.Go(b.stop)
	}
	stopping.Wait()
	setter.stop()
	for i, b := range streams {
		b.check(t, i, s.Calls()[i], g.path == datapath.Queue)
	}
	setter.check(t)
	exchange(t, callOn(t, g.client(2), 7))
}

// phase counts beginnings and ends of restarts: it is odd during one.
type phase struct{ atomic.Int64 }

func (p *phase) during(restart func()) {
	p.Add(1)
	restart()
	p.Add(1)
}

// pass lets time pass in which traffic flows: nothing is waited for.
func pass(d time.Duration) { <-time.After(d) }

// loop is work that is repeated until it is stopped.
type loop struct {
	end  chan struct{}
	done sync.WaitGroup
}

// every starts it, once in each interval or as often as it can.
func (l *loop) every(interval time.Duration, work func() (goOn bool)) {
	l.done.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-l.end:
				return
			case <-tick.C:
			}
			if !work() {
				return
			}
		}
	})
}

func (l *loop) stop() {
	close(l.end)
	l.done.Wait()
}

// stream is one call's traffic.
type stream struct {
	loop
	client *lab.Client
	call   *lab.Call
	began  time.Time
	took   time.Duration // written by stop

	// Owned by the loops until they have ended.
	sent    int   // packets
	sendErr error // of the packets
	back    []lab.Packet
	echoes  int // answered
	slowest time.Duration
	echoErr error

	returned atomic.Int64 // packets that came back
}

func startStream(t *testing.T, g *testGateway, i int) *stream {
	t.Helper()
	b := &stream{loop: loop{end: make(chan struct{})}, client: g.client(i), began: time.Now()}
	b.call = callOn(t, b.client, 7)
	b.every(packetEvery, b.packet)
	b.every(packetEvery, b.receive)
	b.every(echoEvery, b.echo)
	return b
}

// stop ends the traffic and takes what is still on its way.
func (b *stream) stop() {
	b.loop.stop()
	b.took = time.Since(b.began)
	for len(b.back) < b.sent && b.take(lab.Patience) {
	}
}

// packet sends the packets that are due, which the server sends back. On a busy
// machine that may be several at once.
func (b *stream) packet() bool {
	due := int(time.Since(b.began) / packetEvery)
	for ; b.sent < due && b.sent-int(b.returned.Load()) < window; b.sent++ {
		if b.sendErr = b.call.Send(fmt.Append(nil, b.sent)); b.sendErr != nil {
			return false
		}
	}
	return true
}

func (b *stream) receive() bool {
	for b.take(packetEvery) {
	}
	return true
}

// take takes a packet that came back.
func (b *stream) take(within time.Duration) bool {
	p, err := b.client.GRE.Recv(within)
	if err != nil {
		return false
	}
	b.back = append(b.back, p)
	b.returned.Add(1)
	return true
}

func (b *stream) echo() bool {
	began := time.Now()
	m := lab.Message{}
	err := b.client.Send(lab.NewEchoRequest(uint32(b.echoes)))
	if err == nil {
		m, err = b.client.Expect(lab.EchoReply, lab.Patience)
	}
	if err == nil && m.Identifier != uint32(b.echoes) {
		err = fmt.Errorf("reply %d", m.Identifier)
	}
	if err != nil {
		b.echoErr = fmt.Errorf("echo %d: %w", b.echoes, err)
		return false
	}
	b.echoes++
	b.slowest = max(b.slowest, time.Since(began))
	return true
}

// check wants every packet at the server, once, and every one of them back. Where it is
// lossy some may be lost, and none may come twice.
func (b *stream) check(t *testing.T, i int, seen lab.CallRecord, lossy bool) {
	t.Helper()
	if err := errors.Join(b.sendErr, b.echoErr); err != nil {
		t.Errorf("client %d: %v", i, err)
	}
	wantAll(t, fmt.Sprintf("client %d to server", i), b.sent, seen.Received, lossy)
	wantAll(t, fmt.Sprintf("client %d to server and back", i), b.sent, b.back, lossy)
	for _, p := range b.back {
		if p.CallID != b.call.Own {
			t.Errorf("client %d receives %v", i, p)
		}
	}
	t.Logf("client %d: %d packets each way, %.0f/s; %d echoes, the slowest after %v",
		i, b.sent, float64(b.sent)/b.took.Seconds(), b.echoes, b.slowest)
}

// wantAll wants each of n packets once. Their payload is their number.
func wantAll(t *testing.T, way string, n int, packets []lab.Packet, lossy bool) {
	t.Helper()
	got := make([]int, n)
	for _, p := range packets {
		i, err := strconv.Atoi(string(p.Payload))
		if err != nil || i < 0 || i >= n {
			t.Errorf("%s: surplus %v", way, p)
			continue
		}
		got[i]++
	}
	var lost, twice []int
	for i, times := range got {
		if times == 0 {
			lost = append(lost, i)
		}
		if times > 1 {
			twice = append(twice, i)
		}
	}
	if lost != nil && !lossy || twice != nil {
		t.Errorf("%s: of %d packets, %d are lost: %v, and came twice: %v", way, n, len(lost), lost, twice)
	}
}

// setter sets up calls and clears them, one after the other, on one control
// connection.
type setter struct {
	loop
	client    *lab.Client
	phase     *phase
	certainly func(*lab.Call, []byte) error // of a call that was set up while the daemon ran

	// Owned by the loop until it has ended.
	calls   int           // that were tried
	broken  int           // of those, set up during a restart and without GRE
	slowest time.Duration // from a call's request to the answer to its clearing
	err     error         // of the control connection, or of a call that was not disturbed
}

func startSetter(g *testGateway, c *lab.Client, p *phase) *setter {
	s := &setter{loop: loop{end: make(chan struct{})}, client: c, phase: p, certainly: certain}
	if g.path == datapath.Queue {
		s.certainly = persistent
	}
	s.every(packetEvery, s.call)
	return s
}

func (s *setter) call() bool {
	began, before := time.Now(), s.phase.Load()
	s.calls++
	if s.err = s.carry(); s.err == nil {
		_, s.err = s.client.Expect(lab.CallDisconnectNotify, lab.Patience)
	}
	if disturbed := before%2 == 1 || s.phase.Load() != before; disturbed && errors.Is(s.err, os.ErrDeadlineExceeded) {
		// The clearing passed unedited, under an ID that the server does not know.
		s.broken++
		s.err = nil
	}
	s.slowest = max(s.slowest, time.Since(began))
	return s.err == nil
}

// carry sets up a call, has it carry a packet both ways, and clears it.
func (s *setter) carry() error {
	own := pptp.CallID(1000 + s.calls)
	before := s.phase.Load()
	call, err := s.client.Call(own)
	if err != nil {
		return err
	}
	packet := fmt.Append(nil, own)
	if disturbed := before%2 == 1 || s.phase.Load() != before; !disturbed {
		if err := s.certainly(call, packet); err != nil {
			return fmt.Errorf("set up while the daemon ran: %w", err)
		}
	} else if call.Exchange(packet, silence) != nil {
		s.broken++
	}
	return call.Clear()
}

func (s *setter) check(t *testing.T) {
	t.Helper()
	if s.err != nil {
		t.Errorf("call %d: %v", s.calls, s.err)
	}
	t.Logf("%d calls set up one after the other, the slowest took %v; %d carried nothing", s.calls, s.slowest, s.broken)
}
