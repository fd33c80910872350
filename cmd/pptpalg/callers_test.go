package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

// endurance is how long a caller waits for anything: for gateways that die, and TCP that then waits
// ever longer between two retransmissions.
const endurance = 90 * time.Second

// callers are clients of one server, each with a control connection of its own. Each places calls,
// holds them for a while, and clears them when they have carried a packet there and back. Every call
// that was established must live until then, and so must every connection that has one.
type callers struct {
	server *lab.Server
	addr   netip.Addr    // of the server
	held   int           // calls that each of them holds at most
	pause  time.Duration // between two steps of one, at most
	excuse excuses

	placed, cleared, packets, again atomic.Int64

	steps   sync.RWMutex // held for reading during each step
	quit    chan struct{}
	aborted chan struct{}
	failed  chan error
	running sync.WaitGroup
	posts   []*post
	lines   []*caller

	mu    sync.Mutex // guards what follows
	conns map[*lab.Control]bool
	whose map[pptp.CallID]origin  // calls that clients have not cleared, by the server's IDs
	lost  map[netip.AddrPort]bool // ends of connections that clients have given up
}

// origin says whose a call is.
type origin struct {
	host        string
	own         pptp.CallID
	asked, came time.Time // when it was set up
	lost        bool      // the client has given its connection up
}

func (p origin) String() string {
	if p.host == "" {
		return "nobody's"
	}
	return fmt.Sprintf("call %v of %s, lost: %v", p.own, p.host, p.lost)
}

// startCallers starts so many on each host.
func startCallers(t *testing.T, hosts []*lab.Host, each int, s *lab.Server, held int, pause time.Duration) *callers {
	t.Helper()
	c := &callers{server: s, addr: s.Host.Addr, held: held, pause: pause, quit: make(chan struct{}), aborted: make(chan struct{}), failed: make(chan error, 1), conns: make(map[*lab.Control]bool), whose: make(map[pptp.CallID]origin), lost: make(map[netip.AddrPort]bool)}
	for _, h := range hosts {
		g, err := lab.OpenGRE(h, h.Addr)
		must(t, err)
		p := &post{host: h, gre: g, waiting: make(map[pptp.CallID]chan string)}
		c.posts = append(c.posts, p)
		c.running.Go(func() { c.note(p.deliver(c)) })
		for i := range each {
			c.lines = append(c.lines, &caller{callers: c, post: p, first: pptp.CallID(i*idsOfLine + 1), ended: make(chan struct{})})
		}
	}
	for _, l := range c.lines {
		c.running.Go(func() { c.note(l.run()) })
	}
	t.Cleanup(c.abort)
	return c
}

// separate is where the server's Call IDs begin: no client has one so high.
const separate = 0x8000

// apart returns a NextID of Call IDs that no client has.
func apart() func() pptp.CallID {
	next := pptp.CallID(separate)
	return func() pptp.CallID {
		next++
		return next | separate
	}
}

func (c *callers) note(err error) {
	if err == nil {
		return
	}
	select {
	case c.failed <- err:
	default: // it is the consequence of another one, as a rule
	}
}

// failure returns why a caller has given up, nil if none has.
func (c *callers) failure() error {
	select {
	case err := <-c.failed:
		return err
	default:
		return nil
	}
}

// stop has all of them clear what they hold, and waits for that.
func (c *callers) stop() {
	if !closed(c.quit) {
		close(c.quit)
	}
	for _, l := range c.lines {
		<-l.ended
	}
	for _, p := range c.posts {
		_ = p.gre.Close() // a second time, perhaps
	}
	c.running.Wait()
}

// abort is stop for callers that may wait for what will not come.
func (c *callers) abort() {
	if !closed(c.quit) {
		close(c.quit)
	}
	close(c.aborted)
	c.mu.Lock()
	for control := range c.conns {
		_ = control.Conn().Close()
	}
	c.mu.Unlock()
	c.stop()
}

func (c *callers) dialled(conn *net.TCPConn) *lab.Control {
	control := lab.NewControl(conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[control] = true
	delete(c.lost, localAddr(conn))
	return control
}

// hangUp closes a connection, which may be lost.
func (c *callers) hangUp(control *lab.Control) {
	if control == nil {
		return
	}
	c.mu.Lock()
	delete(c.conns, control)
	c.mu.Unlock()
	_ = control.Close()
}

// belongs says whose a call is, by the server's ID.
func (c *callers) belongs(call pptp.CallID, to origin) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whose[call] = to; to == (origin{}) {
		delete(c.whose, call)
	}
}

func (c *callers) owner(call pptp.CallID) origin {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whose[call]
}

// excused reports whether a client's call, by its own ID, was set up in a time that is excused.
func (c *callers) excused(host string, own pptp.CallID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := false
	for _, p := range c.whose {
		if p.host == host && p.own == own {
			if known = true; c.excuse.cover(p.asked, p.came) {
				return true
			}
		}
	}
	return !known && c.excuse.cover(time.Now(), time.Now()) // it is being set up
}

// strangers returns the living calls of the server that no client has set up and not cleared.
func (c *callers) strangers() string {
	var b strings.Builder
	for _, call := range c.server.LivingCalls() {
		if p := c.owner(call.Own); p == (origin{}) || p.lost {
			fmt.Fprintf(&b, "%v, public ID %v, since %v, %v; ", call.Own, call.Peer, call.Since.Format("15:04:05.000"), p)
		}
	}
	return b.String()
}

// gaveUp takes note of a connection that a client has given up.
func (c *callers) gaveUp(control *lab.Control) {
	if control == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost[localAddr(control.Conn())] = true
}

func localAddr(conn *net.TCPConn) netip.AddrPort {
	a := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// isLost reports whether a connection is one that its client has given up. A gateway that does not see its end
// has it for as long as its entry lives.
func (c *callers) isLost(client netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost[client]
}

// holding returns how many calls are established. One that need not live, and that the server has no longer,
// is none, though its client does not know yet. The caller holds steps.
func (c *callers) holding() (n int) {
	for _, l := range c.lines {
		for _, h := range l.calls {
			if _, lives := c.server.Holder(h.peer); lives || !c.excuse.cover(h.asked, h.came) {
				n++
			}
		}
	}
	return n
}

// excuses are times in which calls were set up that need not live.
type excuses struct {
	mu   sync.Mutex
	from []time.Time
	to   []time.Time // zero: it goes on
}

// begin begins such a time, which may lie in the past already; the function that it returns ends it.
func (e *excuses) begin(from time.Time) (end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := len(e.from)
	e.from, e.to = append(e.from, from), append(e.to, time.Time{})
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.to[i] = time.Now()
	}
}

func (e *excuses) cover(from, to time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.from {
		if !to.Before(e.from[i]) && (e.to[i].IsZero() || !from.After(e.to[i])) {
			return true
		}
	}
	return false
}

// post takes in the GRE of a host, for all lines of it.
type post struct {
	host *lab.Host
	gre  *lab.GRE

	mu      sync.Mutex
	waiting map[pptp.CallID]chan string
}

// deliver hands payloads over until the socket is closed. One that names another host or call
// than it has arrived at was led astray.
func (p *post) deliver(c *callers) error {
	for {
		packet, err := p.gre.Recv(endurance)
		switch {
		case errors.Is(err, lab.ErrTimeout):
			continue
		case err != nil:
			return nil // closed
		case packet.Seq == nil:
			continue
		}
		if want := p.address(packet.CallID); !strings.HasPrefix(string(packet.Payload), want) {
			if from, own := sender(string(packet.Payload)); c.excused(p.host.Name, packet.CallID) || c.excused(from, own) {
				continue // both have one public ID
			}
			return fmt.Errorf("call %v of %s received %q", packet.CallID, p.host.Name, packet.Payload)
		}
		p.mu.Lock()
		to := p.waiting[packet.CallID]
		p.mu.Unlock()
		select {
		case to <- string(packet.Payload):
		default: // nobody waits any more
		}
	}
}

func (p *post) address(own pptp.CallID) string { return fmt.Sprintf("%s call %v: ", p.host.Name, own) }

// sender returns whose call a payload is of.
func sender(payload string) (host string, own pptp.CallID) {
	_, _ = fmt.Sscanf(payload, "%s call %d:", &host, &own)
	return host, own
}

func (p *post) await(own pptp.CallID) chan string {
	came := make(chan string, 16)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[own] = came
	return came
}

// idsOfLine is how many Call IDs a line has. Every host has the same.
const idsOfLine = 64

// caller is a control connection with its calls.
type caller struct {
	*callers
	post  *post
	first pptp.CallID

	ended   chan struct{} // closed when the caller has ended
	control *lab.Control
	opened  time.Time // when that was dialled
	calls   []*held
	next    int
	echoes  uint32
}

// held is a call that was established.
type held struct {
	own, peer   pptp.CallID
	asked, came time.Time // when it was set up
	seq         uint32
}

// run goes on until the callers stop, and clears all then. A connection that was lost with an excuse
// is replaced.
func (l *caller) run() error {
	defer close(l.ended)
	for !closed(l.quit) {
		err := l.live()
		for _, h := range l.calls {
			if err == nil {
				err = l.clear(h)
			}
		}
		l.hangUp(l.control)
		if err != nil && !l.mayFail(err) {
			return fmt.Errorf("a caller on %s with %d calls, on a connection of %v: %w", l.post.host.Name, len(l.calls), l.opened.Format(clock), err)
		}
		if err != nil {
			l.again.Add(1)
			l.gaveUp(l.control)
			for _, h := range l.calls {
				l.belongs(h.peer, origin{l.post.host.Name, h.own, h.asked, h.came, true})
			}
		}
		_ = l.step(func() error { l.calls, l.control = nil, nil; return nil })
	}
	return nil
}

// failure says what a caller could not do, and when the call in question was set up.
type failure struct {
	what        string
	err         error
	asked, came time.Time
}

func (f *failure) Error() string { return f.what + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// mayFail reports whether a failure is none: no call was established yet, or whatever was
// concerned was set up in a time that is excused.
func (l *caller) mayFail(err error) bool {
	if len(l.calls) == 0 {
		return true
	}
	var f *failure
	if !errors.As(err, &f) {
		return false
	}
	if lost(err) { // the connection, with all calls
		for _, h := range l.calls {
			if !l.excuse.cover(h.asked, h.came) {
				return false
			}
		}
		return true
	}
	var t *twice
	if errors.As(err, &t) && l.excuse.cover(t.since, t.since) { // it was given to one that need not live, and of which the gateways need not know
		return true
	}
	return l.excuse.cover(f.asked, f.came)
}

// lost reports whether a connection has ended.
func lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ETIMEDOUT)
}

// live dials, places calls and clears them.
func (l *caller) live() error {
	if err := l.step(l.dial); err != nil {
		time.Sleep(100 * time.Millisecond)
		return err
	}
	for !closed(l.quit) {
		if err := l.step(l.some); err != nil {
			return err
		}
		if l.pause > 0 {
			time.Sleep(rand.N(l.pause))
		}
	}
	return nil
}

// step does something that is not interrupted when the callers are to hold still.
func (l *caller) step(do func() error) error {
	l.steps.RLock()
	defer l.steps.RUnlock()
	return do()
}

func (l *caller) dial() error {
	ctx, cancel := context.WithTimeout(context.Background(), endurance)
	defer cancel()
	conn, err := l.post.host.Dial(ctx, netip.AddrPort{}, netip.AddrPortFrom(l.addr, lab.Port))
	if err != nil {
		return err
	}
	l.control, l.opened = l.dialled(conn), time.Now()
	if err := l.control.Send(lab.NewStartRequest()); err != nil {
		return err
	}
	if _, err := l.control.Expect(lab.StartReply, endurance); err != nil {
		return err
	}
	return l.place()
}

// some does one of the things that a client does.
func (l *caller) some() error {
	switch n := rand.IntN(8); {
	case n == 0:
		return l.echo()
	case n == 1:
		return l.carry(l.calls[rand.IntN(len(l.calls))])
	case len(l.calls) < l.held && n < 5 || len(l.calls) < 2:
		return l.place()
	}
	i := rand.IntN(len(l.calls))
	if err := l.clear(l.calls[i]); err != nil {
		return err
	}
	l.calls = append(l.calls[:i], l.calls[i+1:]...)
	return nil
}

// place sets a call up. It is established when it has carried a packet.
func (l *caller) place() error {
	own := l.free()
	asked := time.Now()
	fail := func(err error) error {
		return &failure{fmt.Sprintf("place call %v", own), err, asked, time.Now()}
	}
	if err := l.control.Send(lab.NewOutgoingCallRequest(own)); err != nil {
		return fail(err)
	}
	m, err := l.control.Expect(lab.OutgoingCallReply, l.patience(asked, asked))
	switch {
	case err != nil:
		return fail(err)
	case m.PeerCallID != own:
		return fail(fmt.Errorf("the reply is %v", m))
	case m.Result != lab.ResultOK:
		return fail(l.twice(m))
	}
	h := &held{own: own, peer: m.CallID, asked: asked, came: time.Now()}
	l.placed.Add(1)
	l.calls = append(l.calls, h)
	l.belongs(h.peer, origin{host: l.post.host.Name, own: own, asked: h.asked, came: h.came})
	return l.carry(h)
}

// twice is what a server's refusal says: it has a living call of this public address with
// this public Call ID.
type twice struct {
	call  pptp.CallID // the server's ID of that call
	id    pptp.CallID // that was given twice
	since time.Time
	whose origin
}

func (t *twice) Error() string {
	return fmt.Sprintf("its public Call ID %v was given to another call, which lives: %v, since %v, %v", t.id, t.call, t.since.Format("15:04:05.000"), t.whose)
}

func (l *caller) twice(refusal lab.Message) error {
	call, lives := l.server.Holder(pptp.CallID(refusal.Cause))
	if !lives {
		return fmt.Errorf("the refusal is %v", refusal)
	}
	return &twice{call.Own, call.Peer, call.Since, l.owner(call.Own)}
}

// free returns a Call ID that the line does not use.
func (l *caller) free() pptp.CallID {
	for {
		l.next = (l.next + 1) % idsOfLine
		own := l.first + pptp.CallID(l.next)
		if !l.has(own) {
			return own
		}
	}
}

func (l *caller) has(own pptp.CallID) bool {
	for _, h := range l.calls {
		if h.own == own {
			return true
		}
	}
	return false
}

// patience is how long a caller waits for what a call that was set up at a time needs. One that need not
// live is given up soon.
func (l *caller) patience(asked, came time.Time) time.Duration {
	if l.excuse.cover(asked, came) {
		return 5 * time.Second
	}
	return endurance
}

// carry sends a packet in a call until it comes back.
func (l *caller) carry(h *held) error {
	payload := fmt.Sprintf("%spacket %d", l.post.address(h.own), l.packets.Add(1))
	came := l.post.await(h.own)
	for end := time.Now().Add(l.patience(h.asked, h.came)); time.Now().Before(end) && !closed(l.aborted); {
		packet := lab.Packet{Dst: l.addr, CallID: h.peer, Seq: new(h.seq), Payload: []byte(payload)}
		h.seq++
		if err := l.post.gre.Send(packet); err != nil {
			return &failure{fmt.Sprintf("send in call %v", h.own), err, h.asked, h.came}
		}
		if l.comes(came, payload) {
			return nil
		}
	}
	return &failure{fmt.Sprintf("call %v, which the server has as %v", h.own, h.peer), errors.New("no packet comes back"), h.asked, h.came}
}

func (l *caller) comes(came chan string, payload string) bool {
	again := time.After(250 * time.Millisecond)
	for {
		select {
		case got := <-came:
			if got == payload {
				return true
			}
		case <-again:
			return false
		}
	}
}

// clear ends a call, which must still carry packets, and wants the server's word that it was this one.
func (l *caller) clear(h *held) error {
	if err := l.carry(h); err != nil {
		return err
	}
	m, err := lab.Message{}, l.control.Send(lab.NewCallClearRequest(h.own))
	if err == nil {
		m, err = l.control.Expect(lab.CallDisconnectNotify, l.patience(h.asked, h.came))
	}
	if err == nil && m.CallID != h.peer {
		err = fmt.Errorf("the server has ended %v", m)
	}
	if err != nil {
		return &failure{fmt.Sprintf("clear call %v, which the server has as %v", h.own, h.peer), err, h.asked, h.came}
	}
	l.cleared.Add(1)
	l.belongs(h.peer, origin{})
	return nil
}

// echo asks whether the server lives.
func (l *caller) echo() error {
	l.echoes++
	m, err := lab.Message{}, l.control.Send(lab.NewEchoRequest(l.echoes))
	if err == nil {
		m, err = l.control.Expect(lab.EchoReply, endurance)
	}
	if err == nil && m.Identifier != l.echoes {
		err = fmt.Errorf("the reply is %v", m)
	}
	if err != nil {
		return &failure{what: "echo", err: err}
	}
	return nil
}
