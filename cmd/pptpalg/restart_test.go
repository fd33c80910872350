package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

const (
	restarts = 5
	// between is how long the daemon runs between two restarts: longer than TCP
	// waits before it first sends again what was lost.
	between = 400 * time.Millisecond
	// packetEvery and echoEvery pace the traffic.
	packetEvery = time.Millisecond
	echoEvery   = 10 * time.Millisecond
)

// TestRestart restarts the daemon under traffic, by hand and as the unit does. Two
// calls with one Call ID carry a thousand packets a second each way, their control
// connections an echo every ten milliseconds: no packet is lost and no echo stuck. A
// third client sets up calls all the time; those that it begins while nobody edits
// may need another try, and the test tells how many did.
func TestRestart(t *testing.T) {
	t.Run("by hand", func(t *testing.T) {
		endQuickly(t)
		g := startGateway(t, masquerade(3))
		testRestart(t, g, func() { g.stop(); g.start() })
	})
	t.Run("unit", func(t *testing.T) {
		m := manageGateway(t, masquerade(3))
		m.start()
		testRestart(t, m.gateway, func() { m.stop(); m.start() })
	})
}

func testRestart(t *testing.T, g *gateway, restart func()) {
	s := g.server(lab.Behaviour{Refuse: true})
	streams := []*stream{startStream(t, g, 0), startStream(t, g, 1)}
	setter := startSetter(g.client(2))
	var gaps []span
	for range restarts {
		pass(between)
		gap := span{from: time.Now()}
		restart()
		gap.to = time.Now()
		t.Logf("restarted within %v", gap.to.Sub(gap.from))
		gaps = append(gaps, gap)
	}
	pass(between)
	for _, b := range streams {
		b.stop()
	}
	setter.stop()
	for i, b := range streams {
		b.check(t, i, s)
	}
	setter.check(t, gaps)
	exchange(t, callOn(t, g.client(2), 7))
}

// span is a time from its begin to its end.
type span struct{ from, to time.Time }

func (s span) overlaps(o span) bool { return s.from.Before(o.to) && o.from.Before(s.to) }

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
	echoes  int   // answered
	slowest time.Duration
	echoErr error
}

func startStream(t *testing.T, g *gateway, i int) *stream {
	t.Helper()
	b := &stream{loop: loop{end: make(chan struct{})}, client: g.client(i), began: time.Now()}
	b.call = callOn(t, b.client, 7)
	b.every(packetEvery, b.packet)
	b.every(echoEvery, b.echo)
	return b
}

func (b *stream) stop() {
	b.loop.stop()
	b.took = time.Since(b.began)
}

// packet sends the packets that are due, which the server sends back. On a busy
// machine that may be several at once.
func (b *stream) packet() bool {
	for due := time.Since(b.began); time.Duration(b.sent)*packetEvery < due; b.sent++ {
		if b.sendErr = b.call.Send(fmt.Append(nil, b.sent)); b.sendErr != nil {
			return false
		}
	}
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

// check wants every packet at the server, once, and every one of its own back.
func (b *stream) check(t *testing.T, i int, s *lab.Server) {
	t.Helper()
	if err := errors.Join(b.sendErr, b.echoErr); err != nil {
		t.Errorf("client %d: %v", i, err)
	}
	// Those on their way may still come; what does not is told below.
	_ = lab.Poll(lab.Patience, func() bool { return len(b.client.GRE.Waiting()) >= b.sent })
	back := b.client.GRE.Waiting()
	wantAll(t, fmt.Sprintf("client %d to server", i), b.sent, s.Calls()[i].Received)
	wantAll(t, fmt.Sprintf("server to client %d", i), b.sent, back)
	for _, p := range back {
		if p.CallID != b.call.Own {
			t.Errorf("client %d receives %v", i, p)
		}
	}
	t.Logf("client %d: %d packets each way, %.0f/s; %d echoes, the slowest after %v",
		i, b.sent, float64(b.sent)/b.took.Seconds(), b.echoes, b.slowest)
}

// wantAll wants each of the sequence numbers 0 to n-1 once.
func wantAll(t *testing.T, way string, n int, packets []lab.Packet) {
	t.Helper()
	got := make([]int, n)
	for _, p := range packets {
		if p.Seq == nil || int(*p.Seq) >= n {
			t.Errorf("%s: surplus %v", way, p)
			continue
		}
		got[*p.Seq]++
	}
	var lost, twice []int
	for seq, times := range got {
		if times == 0 {
			lost = append(lost, seq)
		}
		if times > 1 {
			twice = append(twice, seq)
		}
	}
	if lost != nil || twice != nil {
		t.Errorf("%s: of %d packets, %d are lost: %v, and came twice: %v", way, n, len(lost), lost, twice)
	}
}

// setter sets up calls and clears them, one after the other, on one control
// connection.
type setter struct {
	loop
	client *lab.Client

	// Owned by the loop until it has ended.
	calls   int           // that were tried
	broken  []broken      // of those
	slowest time.Duration // from a call's request to the answer to its clearing
	stuck   error         // the control connection itself
}

func startSetter(c *lab.Client) *setter {
	s := &setter{loop: loop{end: make(chan struct{})}, client: c}
	s.every(packetEvery, s.call)
	return s
}

// broken is a call that carried no GRE.
type broken struct {
	setUp span // from its request to its reply
	err   error
}

// patience is how long GRE of a new call may take. A call that was set up while
// nobody edited never carries any.
const patience = 200 * time.Millisecond

func (s *setter) call() bool {
	began := time.Now()
	own := pptp.CallID(1000 + s.calls)
	s.calls++
	call, err := s.client.Call(own)
	if err != nil {
		s.stuck = err
		return false
	}
	setUp := span{began, time.Now()}
	if err := call.Exchange(fmt.Append(nil, own), patience); err != nil {
		s.broken = append(s.broken, broken{setUp, err})
	}
	if err = call.Clear(); err == nil {
		_, err = s.client.Expect(lab.CallDisconnectNotify, lab.Patience)
	}
	s.stuck = err
	s.slowest = max(s.slowest, time.Since(began))
	return err == nil
}

// check wants the calls that carried nothing to have been set up during a restart.
func (s *setter) check(t *testing.T, gaps []span) {
	t.Helper()
	if s.stuck != nil {
		t.Errorf("call %d: %v", s.calls, s.stuck)
	}
	t.Logf("%d calls set up one after the other, the slowest took %v; %d carried nothing", s.calls, s.slowest, len(s.broken))
	for _, b := range s.broken {
		if !slices.ContainsFunc(gaps, b.setUp.overlaps) {
			t.Errorf("set up while the daemon ran: %v", b.err)
		}
	}
}
