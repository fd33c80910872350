package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"pptpalg/alg/pptp"
)

// Port is the TCP port of PPTP control connections.
const Port = 1723

// Client is an ordinary PPTP client that does as it is told: it has whatever
// Call IDs the test wants, and as many calls. It can place calls and answer them,
// and so be the other end of another Client too: see Listener.
type Client struct {
	*Control
	GRE    *GRE
	Host   *Host
	Server netip.Addr // as the client sees it
}

// StartClient dials a server from a host and exchanges Start messages.
func StartClient(ctx context.Context, h *Host, server netip.Addr) (*Client, error) {
	return Dialing{Server: netip.AddrPortFrom(server, Port)}.Start(ctx, h)
}

// Dialing says how a client dials that is not quite ordinary.
type Dialing struct {
	Server netip.AddrPort
	Write  Write // how it writes, from its first message on; nil is SendRaw
}

// Start dials from a host and exchanges Start messages.
func (d Dialing) Start(ctx context.Context, h *Host) (*Client, error) {
	g, err := OpenGRE(h, h.Addr)
	if err != nil {
		return nil, fmt.Errorf("start client: %w", err)
	}
	conn, err := h.Dial(ctx, netip.AddrPort{}, d.Server)
	if err != nil {
		return nil, fmt.Errorf("start client: %w", errors.Join(err, g.Close()))
	}
	c := &Client{Control: NewControl(conn), GRE: g, Host: h, Server: d.Server.Addr()}
	c.Write = d.Write
	if err := c.hello(); err != nil {
		return nil, fmt.Errorf("start client: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

func (c *Client) hello() error {
	if err := c.Send(NewStartRequest()); err != nil {
		return err
	}
	m, err := c.Expect(StartReply, Patience)
	if err == nil && m.Result != ResultOK {
		err = &Refusal{m}
	}
	return err
}

// Refusal is the error that a peer's reply stands for.
type Refusal struct{ Reply Message }

func (r *Refusal) Error() string { return fmt.Sprintf("refused: %v", r.Reply) }

// Call places a call as PNS, with an Outgoing-Call-Request. The error wraps a
// *Refusal where the server does not want it.
func (c *Client) Call(own pptp.CallID) (*Call, error) {
	return c.place(NewOutgoingCallRequest(own), OutgoingCallReply)
}

// OfferCall places a call as PAC: Incoming-Call-Request, Reply, Connected.
func (c *Client) OfferCall(own pptp.CallID) (*Call, error) {
	call, err := c.place(NewIncomingCallRequest(own), IncomingCallReply)
	if err != nil {
		return nil, err
	}
	return call, c.Send(NewIncomingCallConnected(call.Peer))
}

func (c *Client) place(request Message, reply Type) (*Call, error) {
	if err := c.Send(request); err != nil {
		return nil, fmt.Errorf("place call %v: %w", request.CallID, err)
	}
	m, err := c.Expect(reply, Patience)
	if err != nil {
		return nil, fmt.Errorf("place call %v: %w", request.CallID, err)
	}
	if m.PeerCallID != request.CallID {
		return nil, fmt.Errorf("place call %v: reply is for call %v", request.CallID, m.PeerCallID)
	}
	if m.Result != ResultOK && m.Result != 0 {
		return nil, fmt.Errorf("place call %v: %w", request.CallID, &Refusal{m})
	}
	return c.Placed(m), nil
}

// Placed returns the call that a reply has granted, to a request that was sent as a
// message of its own.
func (c *Client) Placed(reply Message) *Call {
	return &Call{Own: reply.PeerCallID, Peer: reply.CallID, client: c}
}

// Answer waits for a request of the peer and grants it: an outgoing call as PAC,
// an incoming one as PNS, of which it waits until it is connected.
func (c *Client) Answer(own pptp.CallID) (*Call, error) {
	m, err := c.Read(Patience)
	if err != nil {
		return nil, fmt.Errorf("answer as call %v: %w", own, err)
	}
	call := &Call{Own: own, Peer: m.CallID, client: c}
	switch m.Type {
	case OutgoingCallRequest:
		return call, c.Send(NewOutgoingCallReply(own, m.CallID, ResultOK))
	case IncomingCallRequest:
		return call, c.connect(call)
	}
	return nil, fmt.Errorf("answer as call %v: got %v", own, m)
}

// connect grants an incoming call and waits for its Incoming-Call-Connected.
func (c *Client) connect(call *Call) error {
	if err := c.Send(NewIncomingCallReply(call.Own, call.Peer, ResultOK)); err != nil {
		return err
	}
	m, err := c.Expect(IncomingCallConnect, Patience)
	if err == nil && m.PeerCallID != call.Own {
		err = fmt.Errorf("answer as call %v: call %v is connected", call.Own, m.PeerCallID)
	}
	return err
}

// Close ends the control connection by FIN, without a word, and the GRE socket.
func (c *Client) Close() error {
	return errors.Join(c.Control.Close(), c.GRE.Close())
}

// Call is a call as its client sees it. It is for one goroutine.
type Call struct {
	Own  pptp.CallID // what the client chose
	Peer pptp.CallID // what the reply gave for the server's
	seq  uint32      // of the next packet

	client *Client
}

// Client returns the end that the call is seen from.
func (c *Call) Client() *Client { return c.client }

// Send sends a payload with the next sequence number.
func (c *Call) Send(payload []byte) error {
	p := Packet{Dst: c.client.Server, CallID: c.Peer, Seq: new(c.seq), Payload: payload}
	c.seq++
	return c.client.GRE.Send(p)
}

// Recv takes the next payload that arrives for the call, from its server. What
// else arrives stays in the client's GRE.
func (c *Call) Recv(within time.Duration) ([]byte, error) {
	p, err := c.client.GRE.Take(within, func(p Packet) bool {
		return p.CallID == c.Own && p.Src == c.client.Server && p.Seq != nil
	})
	return p.Payload, err
}

// Exchange sends a payload and wants the very same back.
func (c *Call) Exchange(payload []byte, within time.Duration) error {
	if err := c.Send(payload); err != nil {
		return err
	}
	got, err := c.Recv(within)
	if err != nil {
		return fmt.Errorf("exchange %q in call %v: %w", payload, c.Own, err)
	}
	if !bytes.Equal(got, payload) {
		return fmt.Errorf("exchange %q in call %v: got %q", payload, c.Own, got)
	}
	return nil
}

// Carries sends a payload and waits for the very same to come back. What else arrives for
// the call is somebody else's.
func (c *Call) Carries(payload []byte, within time.Duration) error {
	if err := c.Send(payload); err != nil {
		return err
	}
	_, err := c.client.GRE.Take(within, func(p Packet) bool {
		return p.CallID == c.Own && p.Src == c.client.Server && p.Seq != nil && bytes.Equal(p.Payload, payload)
	})
	if err != nil {
		return fmt.Errorf("exchange %q in call %v: %w", payload, c.Own, err)
	}
	return nil
}

// Clear asks the server to end the call; what it answers is left to read.
func (c *Call) Clear() error { return c.client.Send(NewCallClearRequest(c.Own)) }
