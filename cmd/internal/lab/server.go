package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"pptpalg/alg/pptp"
)

// Notify says how a server ends a call after a Call-Clear-Request.
type Notify uint8

// What peers in the wild do.
const (
	NotifyOwn     Notify = iota // Call-Disconnect-Notify with the PAC's own ID: RFC 2637, mpd
	NotifyPeer                  // with the PNS's ID: accel-ppp
	NotifySwapped               // with the PNS's ID, its bytes swapped: accel-ppp up to 1.14
	NotifyNever                 // silence
	NotifyHangUp                // the TCP connection is closed: poptop
)

func (n Notify) String() string {
	names := []string{"own", "peer", "swapped", "never", "hang-up"}
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprintf("unknown(%d)", uint8(n))
}

// ResultBusy is the Outgoing-Call-Reply's result code 4.
const ResultBusy = 4

// Behaviour is what a server does out of the ordinary. Its functions are called
// by the server's goroutines.
type Behaviour struct {
	NextID  func() pptp.CallID // the server's ID for the next call; nil counts from 1
	Refuse  bool               // answer ResultBusy where (peer address, Call ID) is in use, as Linux servers do; the cause is the call's ID
	Early   [][]byte           // payloads sent to the peer in the instant before its Outgoing-Call-Reply
	Silent  []Type             // requests that are not answered
	Notify  Notify
	Answer  func(call CallRecord, payload []byte) []byte // the payload sent back; nil result: none; nil function: the same
	Message func(s *Session, m Message) (handled bool)   // sees a message first; true takes it from the server
	Write   Write                                        // how its sessions write; nil is SendRaw
	Forget  bool                                         // ended calls and what was received are not remembered
}

// Fixed returns a NextID that gives the same ID to every call.
func Fixed(id pptp.CallID) func() pptp.CallID { return func() pptp.CallID { return id } }

// Counting returns a NextID that counts up.
func Counting(from pptp.CallID) func() pptp.CallID {
	return func() pptp.CallID { from++; return from - 1 }
}

// Server is an ordinary PPTP server, PAC and PNS, that echoes GRE payloads to the
// call's peer and remembers what it saw.
type Server struct {
	Host *Host
	GRE  *GRE

	behaviour Behaviour
	listener  *net.TCPListener
	running   sync.WaitGroup

	mu        sync.Mutex // guards what follows, and calls NextID
	closed    bool
	sessions  []*Session
	calls     []*CallRecord
	living    []*CallRecord // those of calls that have not ended
	unmatched []Packet
}

// Session is a control connection of a Server.
type Session struct {
	*Control
	Remote netip.AddrPort

	received []Message // guarded by Server.mu
}

// CallRecord is what a server knows of a call.
type CallRecord struct {
	Own, Peer pptp.CallID
	Remote    netip.Addr // the peer as the server sees it
	Since     time.Time
	Ended     bool
	Received  []Packet // all GRE of the call, acknowledgements too

	session *Session
	seq     uint32 // of the next packet to the peer
}

// StartServer listens on the host's address.
func StartServer(h *Host, b Behaviour) (*Server, error) {
	if b.NextID == nil {
		b.NextID = Counting(1)
	}
	g, err := OpenGRE(h, h.Addr)
	if err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	l, err := h.Listen(netip.AddrPortFrom(h.Addr, Port))
	if err != nil {
		return nil, fmt.Errorf("start server: %w", errors.Join(err, g.Close()))
	}
	s := &Server{Host: h, GRE: g, behaviour: b, listener: l}
	s.running.Go(s.echo)
	s.running.Go(s.accept)
	return s, nil
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.AcceptTCP()
		if err != nil {
			return
		}
		se := &Session{Control: NewControl(conn), Remote: remote(conn)}
		se.Control.Write = s.behaviour.Write
		s.open(se)
	}
}

func remote(conn *net.TCPConn) netip.AddrPort {
	a := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func (s *Server) open(se *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		se.conn.Close()
		return
	}
	s.sessions = append(s.sessions, se)
	s.running.Go(func() { s.serve(se) })
}

// serve answers a session's messages until it ends.
func (s *Server) serve(se *Session) {
	defer s.end(se)
	for {
		m, err := se.Read(forever)
		if err != nil {
			return
		}
		if !s.answer(se, m) {
			return
		}
	}
}

func (s *Server) end(se *Session) {
	se.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.living = slices.DeleteFunc(s.living, func(c *CallRecord) bool {
		c.Ended = c.session == se
		return c.Ended
	})
	if s.behaviour.Forget {
		s.sessions = slices.DeleteFunc(s.sessions, func(other *Session) bool { return other == se })
	}
}

// answers says for each request what an ordinary server does; false ends the
// session.
var answers = map[Type]func(s *Server, se *Session, m Message) bool{
	StartRequest: func(_ *Server, se *Session, _ Message) bool {
		return se.Send(NewStartReply(ResultOK)) == nil
	},
	EchoRequest: func(_ *Server, se *Session, m Message) bool {
		return se.Send(NewEchoReply(m.Identifier, ResultOK)) == nil
	},
	OutgoingCallRequest: (*Server).outgoing,
	IncomingCallRequest: (*Server).incoming,
	CallClearRequest:    (*Server).clear,
	StopRequest: func(_ *Server, se *Session, _ Message) bool {
		return se.Send(NewStopReply(ResultOK)) != nil // answered: then the server closes
	},
}

func (s *Server) answer(se *Session, m Message) bool {
	s.mu.Lock()
	if !s.behaviour.Forget {
		se.received = append(se.received, m)
	}
	s.mu.Unlock()
	if f := s.behaviour.Message; f != nil && f(se, m) {
		return true
	}
	f, ok := answers[m.Type]
	if !ok || slices.Contains(s.behaviour.Silent, m.Type) {
		return true
	}
	return f(s, se, m)
}

func (s *Server) outgoing(se *Session, m Message) bool {
	call, fresh := s.add(se, m.CallID)
	if !fresh {
		busy := NewOutgoingCallReply(0, m.CallID, ResultBusy)
		busy.Cause = uint16(call.Own)
		return se.Send(busy) == nil
	}
	for _, payload := range s.behaviour.Early {
		if s.send(call, payload) != nil {
			return false
		}
	}
	return se.Send(NewOutgoingCallReply(call.Own, m.CallID, ResultOK)) == nil
}

func (s *Server) incoming(se *Session, m Message) bool {
	call, fresh := s.add(se, m.CallID)
	if !fresh {
		return se.Send(NewIncomingCallReply(0, m.CallID, ResultBusy)) == nil
	}
	return se.Send(NewIncomingCallReply(call.Own, m.CallID, ResultOK)) == nil
}

// add enters a call, or returns the one for which it is to be refused.
func (s *Server) add(se *Session, peer pptp.CallID) (call *CallRecord, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	remote := se.Remote.Addr()
	if living := s.find(func(c *CallRecord) bool { return c.Peer == peer && c.Remote == remote }); s.behaviour.Refuse && living != nil {
		return living, false
	}
	call = &CallRecord{Own: s.behaviour.NextID(), Peer: peer, Remote: remote, Since: time.Now(), session: se}
	s.living = append(s.living, call)
	if !s.behaviour.Forget {
		s.calls = append(s.calls, call)
	}
	return call, true
}

// find returns the oldest living call that matches; the caller holds s.mu.
func (s *Server) find(match func(*CallRecord) bool) *CallRecord {
	for _, c := range s.living {
		if match(c) {
			return c
		}
	}
	return nil
}

func (s *Server) clear(se *Session, m Message) bool {
	s.mu.Lock()
	call := s.find(func(c *CallRecord) bool { return c.session == se && c.Peer == m.CallID })
	if call != nil {
		call.Ended = true
		s.living = slices.DeleteFunc(s.living, func(c *CallRecord) bool { return c == call })
	}
	s.mu.Unlock()
	if call == nil {
		return true // a real server may do anything here; this one waits for the test to see
	}
	return s.notify(se, call)
}

func (s *Server) notify(se *Session, call *CallRecord) bool {
	ids := map[Notify]pptp.CallID{NotifyOwn: call.Own, NotifyPeer: call.Peer, NotifySwapped: call.Peer.Swap()}
	const byRequest = 4 // RFC 2637 section 2.13: the PNS asked for it
	if id, ok := ids[s.behaviour.Notify]; ok {
		return se.Send(NewCallDisconnectNotify(id, byRequest)) == nil
	}
	return s.behaviour.Notify != NotifyHangUp
}

// echo hands packets to the oldest living call that has their Call ID and comes
// from their address: where a NAT gave two calls the same, one starves.
func (s *Server) echo() {
	for {
		p, err := s.GRE.Recv(Patience)
		if errors.Is(err, ErrTimeout) {
			continue
		}
		if err != nil {
			return
		}
		if call := s.record(p); call != nil && p.Seq != nil {
			s.reply(call, p.Payload)
		}
	}
}

// record returns the packet's call, nil if it has none.
func (s *Server) record(p Packet) *CallRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	call := s.find(func(c *CallRecord) bool { return c.Own == p.CallID && c.Remote == p.Src })
	if call == nil {
		if !s.behaviour.Forget {
			s.unmatched = append(s.unmatched, p)
		}
		return nil
	}
	if !s.behaviour.Forget {
		call.Received = append(call.Received, p)
	}
	return call
}

func (s *Server) reply(call *CallRecord, payload []byte) {
	if f := s.behaviour.Answer; f != nil {
		s.mu.Lock()
		snapshot := call.copy()
		s.mu.Unlock()
		if payload = f(snapshot, payload); payload == nil {
			return
		}
	}
	s.send(call, payload) // lost, as packets may be: the test misses it
}

func (s *Server) send(call *CallRecord, payload []byte) error {
	s.mu.Lock()
	p := Packet{Dst: call.Remote, CallID: call.Peer, Seq: new(call.seq), Payload: payload}
	call.seq++
	s.mu.Unlock()
	return s.GRE.Send(p)
}

// Send sends an unsolicited payload to the peer of the i-th call that the server
// ever had.
func (s *Server) Send(i int, payload []byte) error {
	s.mu.Lock()
	if i >= len(s.calls) {
		s.mu.Unlock()
		return fmt.Errorf("send to call %d: there are %d", i, len(s.calls))
	}
	call := s.calls[i]
	s.mu.Unlock()
	return s.send(call, payload)
}

func (c *CallRecord) copy() CallRecord {
	d := *c
	d.Received = slices.Clone(c.Received)
	return d
}

func copies(of []*CallRecord) (all []CallRecord) {
	for _, c := range of {
		all = append(all, c.copy())
	}
	return all
}

// Calls returns all calls, ended ones too, in the order they were placed.
func (s *Server) Calls() []CallRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return copies(s.calls)
}

// Living returns the number of calls that have not ended.
func (s *Server) Living() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.living)
}

// LivingCalls returns the calls that have not ended, in the order they were placed.
func (s *Server) LivingCalls() []CallRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return copies(s.living)
}

// Holder returns the living call that has an ID of the server's, as its refusals name it.
func (s *Server) Holder(own pptp.CallID) (_ CallRecord, lives bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if call := s.find(func(c *CallRecord) bool { return c.Own == own }); call != nil {
		return call.copy(), true
	}
	return CallRecord{}, false
}

// Sessions returns all control connections in the order they were opened.
func (s *Server) Sessions() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sessions)
}

// Received returns what came over the i-th control connection.
func (s *Server) Received(i int) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i >= len(s.sessions) {
		return nil
	}
	return slices.Clone(s.sessions[i].received)
}

// Unmatched returns the GRE packets that belonged to no living call.
func (s *Server) Unmatched() []Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.unmatched)
}

// Close closes all sockets and waits for the server's goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, se := range s.sessions {
		se.conn.Close() // most are closed already
	}
	s.mu.Unlock()
	err := errors.Join(s.listener.Close(), s.GRE.Close())
	s.running.Wait()
	return err
}
